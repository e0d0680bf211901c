//! Features and tags.

use super::{Answer, Oracle, Refused, refused};

const PROTECTED: [&str; 4] =
    ["preload-dispvm", "preload-dispvm-completed", "preload-dispvm-in-progress", "deferred-netvm-original"];

impl Oracle {
    pub(super) fn feature_of(&self, vm: &str, feature: &str) -> Option<&str> {
        let features = &self.vms[vm].features;
        features.iter().find(|(name, _)| name == feature).map(|(_, value)| value.as_str())
    }

    /// Its own, else its template's, and so on.
    pub(super) fn feature_with_template(&self, vm: &str, feature: &str) -> Option<&str> {
        self.with_templates(vm).iter().find_map(|vm| self.feature_of(vm, feature))
    }

    pub(super) fn feature_with_netvm(&self, vm: &str, feature: &str) -> Option<&str> {
        let mut at = Some(vm.to_owned());
        let mut seen = Vec::new();
        while let Some(vm) = at {
            if self.feature_of(&vm, feature).is_some() {
                seen.push(vm);
                break;
            }
            at = self.netvm(&vm);
            seen.push(vm);
        }
        let last = self.vms.get_key_value(seen.last()?)?.0;
        self.feature_of(last, feature)
    }

    pub(super) fn feature(
        &mut self,
        verb: &str,
        vm: &str,
        feature: &str,
        payload: &str,
        events: &mut Vec<String>,
    ) -> Answer {
        let found = match verb {
            "List" => return Ok(self.vms[vm].features.iter().map(|(name, _)| format!("{name}\n")).collect()),
            "Set" => return self.set_feature_for(vm, feature, payload, events),
            "Remove" => {
                if PROTECTED.contains(&feature) {
                    return refused("PermissionDenied", format!("Feature is protected: {feature}"));
                }
                events.push(format!("{vm} domain-feature-pre-delete:{feature} feature={feature}"));
                if self.feature_of(vm, feature).is_some() {
                    self.vm_mut(vm).features.retain(|(name, _)| name != feature);
                    events.push(format!("{vm} domain-feature-delete:{feature} feature={feature}"));
                    return Ok(String::new());
                }
                None
            }
            "Get" => self.feature_of(vm, feature),
            "CheckWithTemplate" => self.feature_with_template(vm, feature),
            "CheckWithNetvm" => self.feature_with_netvm(vm, feature),
            "CheckWithAdminVM" => self.feature_of(vm, feature).or_else(|| self.feature_of("dom0", feature)),
            "CheckWithTemplateAndAdminVM" => {
                self.feature_with_template(vm, feature).or_else(|| self.feature_of("dom0", feature))
            }
            verb => panic!("vm.feature.{verb}"),
        };
        match found {
            Some(value) => Ok(value.to_owned()),
            None => {
                refused("QubesFeatureNotFoundError", format!("Feature not set for domain {vm}: {feature}"))
            }
        }
    }

    fn set_feature_for(&mut self, vm: &str, feature: &str, value: &str, events: &mut Vec<String>) -> Answer {
        if !feature.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) {
            return refused("ProtocolError", "feature name contains illegal characters");
        }
        if !value.bytes().all(|b| (0x20..=0x7e).contains(&b)) {
            return refused("ProtocolError", format!("{feature} value contains illegal characters"));
        }
        if PROTECTED.contains(&feature) {
            return refused("PermissionDenied", format!("Feature is protected: {feature}"));
        }
        // What rules of single features refuse was announced.
        if feature == "service." {
            events.push(format!("{vm} domain-feature-pre-set:{feature} feature={feature} value={value}"));
            return refused("QubesValueError", "Service name cannot be empty");
        }
        self.set_feature(vm, feature, value, events);
        Ok(String::new())
    }

    /// Sets it, with its events.
    pub(super) fn set_feature(&mut self, vm: &str, feature: &str, value: &str, events: &mut Vec<String>) {
        let old = self.feature_of(vm, feature).map_or_else(String::new, |old| format!(" oldvalue={old}"));
        for event in ["domain-feature-pre-set", "domain-feature-set"] {
            events.push(format!("{vm} {event}:{feature} feature={feature} value={value}{old}"));
        }
        let features = &mut self.vm_mut(vm).features;
        match features.iter_mut().find(|(name, _)| name == feature) {
            Some((_, old)) => value.clone_into(old),
            None => features.push((feature.into(), value.into())),
        }
    }

    pub(super) fn remove_feature(&mut self, vm: &str, feature: &str, events: &mut Vec<String>) {
        if self.feature_of(vm, feature).is_some() {
            for event in ["domain-feature-pre-delete", "domain-feature-delete"] {
                events.push(format!("{vm} {event}:{feature} feature={feature}"));
            }
            self.vm_mut(vm).features.retain(|(name, _)| name != feature);
        }
    }

    pub(super) fn tag(&mut self, verb: &str, vm: &str, tag: &str, events: &mut Vec<String>) -> Answer {
        match verb {
            "List" => Ok(self.vms[vm].tags.iter().map(|tag| format!("{tag}\n")).collect()),
            "Get" => {
                good_tag(tag)?;
                Ok(u8::from(self.vms[vm].tags.contains(tag)).to_string())
            }
            "Set" => {
                good_tag(tag)?;
                self.add_tag(vm, tag, events);
                Ok(String::new())
            }
            "Remove" => {
                good_tag(tag)?;
                if !self.remove_tag(vm, tag, events) {
                    return refused("QubesTagNotFoundError", format!("Tag not set for domain {vm}: {tag}"));
                }
                Ok(String::new())
            }
            verb => panic!("vm.tag.{verb}"),
        }
    }

    pub(super) fn add_tag(&mut self, vm: &str, tag: &str, events: &mut Vec<String>) {
        if self.vm_mut(vm).tags.insert(tag.into()) {
            events.push(format!("{vm} domain-tag-add:{tag} tag={tag}"));
        }
    }

    pub(super) fn remove_tag(&mut self, vm: &str, tag: &str, events: &mut Vec<String>) -> bool {
        let was_there = self.vm_mut(vm).tags.remove(tag);
        if was_there {
            events.push(format!("{vm} domain-tag-delete:{tag} tag={tag}"));
        }
        was_there
    }
}

fn good_tag(tag: &str) -> Result<(), Refused> {
    if tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)) {
        return Ok(());
    }
    refused("QubesInvalidTagError", "disallowed characters")
}
