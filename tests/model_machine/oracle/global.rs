//! Properties of the system.

use std::collections::BTreeMap;

use super::value::{Type, Value, default_word, line, text, unknown};
use super::{Answer, Class, Oracle, Refused, refused};
use crate::call::Dialect;
use Type::{Bool, Int, Str, Vm};

/// The one kernel that is installed.
pub const KERNEL: &str = "6.1";

/// In the order of GetAll.
const GLOBALS: &[(&str, Type)] = &[
    ("check_updates_vm", Bool),
    ("clockvm", Vm),
    ("default_audiovm", Vm),
    ("default_dispvm", Vm),
    ("default_guivm", Vm),
    ("default_kernel", Str),
    ("default_netvm", Vm),
    ("default_pool", Str),
    ("default_pool_kernel", Str),
    ("default_pool_private", Str),
    ("default_pool_root", Str),
    ("default_pool_volatile", Str),
    ("default_qrexec_timeout", Int),
    ("default_shutdown_timeout", Int),
    ("default_template", Vm),
    ("management_dispvm", Vm),
    ("maxmem", Int),
    ("no_cpus", Int),
    ("stats_interval", Int),
    ("updatevm", Vm),
];

pub fn first_start() -> BTreeMap<&'static str, Value> {
    BTreeMap::from([
        ("default_kernel", text("")),
        ("default_pool", text("varlibqubes")),
        ("default_pool_kernel", text("linux-kernel")),
    ])
}

pub fn names() -> impl Iterator<Item = &'static str> {
    GLOBALS.iter().map(|(name, _)| *name)
}

impl Oracle {
    fn global_default(&self, name: &str) -> Option<Value> {
        Some(match name {
            "check_updates_vm" => Value::Bool(true),
            "default_audiovm" | "default_guivm" => Value::Vm(Some("dom0".into())),
            "clockvm" | "default_dispvm" | "default_netvm" | "management_dispvm" | "updatevm" => {
                Value::Vm(None)
            }
            "default_pool" => text("varlibqubes"),
            "default_pool_private"
            | "default_pool_root"
            | "default_pool_volatile"
            | "default_pool_kernel" => {
                return self.global_value("default_pool");
            }
            "default_qrexec_timeout" | "default_shutdown_timeout" => Value::Int(60),
            // The simulator's.
            "maxmem" => Value::Int(16384),
            "no_cpus" => Value::Int(8),
            "stats_interval" => Value::Int(3),
            _ => return None,
        })
    }

    pub(super) fn global_value(&self, name: &str) -> Option<Value> {
        self.globals.get(name).cloned().or_else(|| self.global_default(name))
    }

    pub(super) fn global_property(
        &mut self,
        dialect: Dialect,
        verb: &str,
        name: &str,
        payload: &str,
        events: &mut Vec<String>,
    ) -> Answer {
        // The draft has no GetAll: both prefixes speak as deployed.
        let dialect = if verb == "GetAll" { Dialect::Admin } else { dialect };
        let get = |name: &'static str, kind: Type| {
            let explicit = self.globals.contains_key(name);
            let value = self.global_value(name);
            format!("{} {}", default_word(dialect, explicit), self.typed(kind, value.as_ref()))
        };
        match verb {
            "List" => return Ok(names().map(|name| format!("{name}\n")).collect()),
            "GetAll" => {
                return Ok(GLOBALS.iter().map(|(name, kind)| line(name, &get(name, *kind))).collect());
            }
            _ => {}
        }
        let Some((name, kind)) = GLOBALS.iter().find(|(known, _)| *known == name) else {
            return unknown(name, "Qubes");
        };
        match verb {
            "Get" => Ok(get(name, *kind)),
            "GetDefault" => Ok(match self.global_default(name) {
                Some(value) => self.typed(*kind, Some(&value)),
                None => String::new(),
            }),
            "Set" => {
                let new = self.parse(name, *kind, payload)?;
                self.check_global(name, &new)?;
                self.set_global(name, new, events)
            }
            "Reset" => {
                self.check_global(name, &Value::Vm(None))?;
                self.reset_global(name, events)
            }
            verb => panic!("property.{verb}"),
        }
    }

    fn check_global(&self, name: &str, new: &Value) -> Result<(), Refused> {
        let bad = |text: String| refused("QubesPropertyValueError", text);
        match (name, new) {
            ("default_qrexec_timeout" | "default_shutdown_timeout" | "stats_interval", Value::Int(..=0)) => {
                bad(format!("{name} must be positive"))
            }
            ("default_kernel", Value::Text(kernel)) if kernel.contains('/') => {
                bad("Kernel name cannot contain '/'".into())
            }
            ("default_netvm", Value::Vm(Some(netvm))) => {
                let mut at = Some(netvm.clone());
                while let Some(vm) = at {
                    if self.follows(&vm, "netvm") {
                        return bad(format!("Network loop on '{vm}'"));
                    }
                    at = self.netvm(&vm);
                }
                Ok(())
            }
            ("maxmem" | "no_cpus", _) => bad(format!("property '{name}' on Qubes instance cannot be set")),
            ("default_pool" | "default_pool_kernel", Value::Text(pool))
            | ("default_pool_private" | "default_pool_root" | "default_pool_volatile", Value::Text(pool))
                if self.pool(pool).is_err() =>
            {
                bad("No such storage pool".into())
            }
            (
                "default_pool" | "default_pool_private" | "default_pool_root" | "default_pool_volatile",
                Value::Text(pool),
            ) if self.pool(pool).is_ok_and(|pool| pool.holds_kernels()) => {
                bad(format!("Storage pool '{pool}' holds kernels, not volumes of qubes"))
            }
            ("default_pool_kernel", Value::Text(pool))
                if self.pool(pool).is_ok_and(|pool| !pool.holds_kernels()) =>
            {
                bad(format!("Storage pool '{pool}' holds volumes of qubes, not kernels"))
            }
            ("default_template", Value::Vm(Some(target))) if self.vms[target].class != Class::Template => {
                bad(format!(
                    "wrong VM class: domains['{target}'] is of type {} and not TemplateVM",
                    self.vms[target].class.name()
                ))
            }
            ("default_dispvm" | "management_dispvm", Value::Vm(Some(target)))
                if !self.flag(target, "template_for_dispvms") =>
            {
                bad(format!(
                    "Cannot set invalid property to system, {name} '{target}' has template_for_dispvms set to \
                     False"
                ))
            }
            _ => Ok(()),
        }
    }

    /// Whether a VM shows a global property in the place of its own.
    fn follows(&self, vm: &str, property: &str) -> bool {
        let vm = &self.vms[vm];
        let class = match property {
            "netvm" => vm.class.is_local_guest() && vm.class != Class::Template,
            "default_dispvm" => vm.class != Class::Remote && vm.class != Class::Disp,
            _ => vm.class.is_local_guest(),
        };
        class && !vm.set.contains_key(property)
    }

    fn followers(&self, property: &str) -> Vec<String> {
        self.vms.keys().filter(|vm| self.follows(vm, property)).cloned().collect()
    }

    fn set_global(&mut self, name: &'static str, new: Value, events: &mut Vec<String>) -> Answer {
        let old = self.global_value(name);
        let old_told = self.old(old.as_ref());
        let change = format!("name={name} newvalue={}{old_told}", self.told(&new));
        events.push(format!("- property-pre-set:{name} {change}"));
        self.announce(name, old.as_ref(), &new, events)?;
        self.side_events_of_global(name, old.as_ref(), Some(&new), events);
        self.globals.insert(name, new);
        events.push(format!("- property-set:{name} {change}"));
        Ok(String::new())
    }

    fn reset_global(&mut self, name: &'static str, events: &mut Vec<String>) -> Answer {
        let (old, new) = (self.global_value(name), self.global_default(name));
        let change = format!("name={name}{}", self.old(old.as_ref()));
        events.push(format!("- property-pre-reset:{name} {change}"));
        if old != new
            && let Some(new) = &new
        {
            self.announce(name, old.as_ref(), new, events)?;
        }
        events.push(format!("- property-pre-del:{name} {change}"));
        if old != new {
            self.side_events_of_global(name, old.as_ref(), new.as_ref(), events);
        }
        self.globals.remove(name);
        events.push(format!("- property-reset:{name} {change}"));
        events.push(format!("- property-del:{name} {change}"));
        Ok(String::new())
    }

    fn old(&self, old: Option<&Value>) -> String {
        old.map_or_else(String::new, |old| format!(" oldvalue={}", self.told(old)))
    }

    /// What is said before a change, and what refuses then.
    fn announce(
        &self,
        name: &str,
        old: Option<&Value>,
        new: &Value,
        events: &mut Vec<String>,
    ) -> Result<(), Refused> {
        match (name, new) {
            ("default_kernel", Value::Text(kernel)) if !["", KERNEL].contains(&kernel.as_str()) => {
                return refused("QubesPropertyValueError", format!("Kernel '{kernel}' not installed"));
            }
            ("default_netvm", new) => {
                let change = format!("name=netvm newvalue={}{}", self.told(new), self.old(old));
                let followers = self.followers("netvm").into_iter();
                events.extend(followers.map(|vm| format!("{vm} property-pre-set:netvm {change}")));
            }
            _ => {}
        }
        Ok(())
    }

    fn side_events_of_global(
        &mut self,
        name: &str,
        old: Option<&Value>,
        new: Option<&Value>,
        events: &mut Vec<String>,
    ) {
        let old_told = self.old(old);
        let new_told = new.map_or_else(String::new, |new| self.told(new));
        match name {
            "default_netvm" => {
                for vm in self.followers("netvm") {
                    if old != new {
                        events.push(format!(
                            "{vm} property-set:netvm name=netvm newvalue={new_told}{old_told}"
                        ));
                    }
                    events.push(format!("{vm} property-reset:netvm name=netvm{old_told}"));
                }
            }
            "default_dispvm" => {
                let reset = format!("property-reset:{name} name={name}{old_told}");
                events.extend(self.followers(name).into_iter().map(|vm| format!("{vm} {reset}")));
            }
            "default_guivm" | "default_audiovm" => {
                let property = name.trim_start_matches("default_");
                let tag = |value: Option<&Value>| match value {
                    Some(Value::Vm(Some(target))) => Some(format!("{property}-{target}")),
                    _ => None,
                };
                for vm in self.followers(property) {
                    if tag(old) != tag(new) {
                        if let Some(tag) = tag(old) {
                            self.remove_tag(&vm, &tag, events);
                        }
                        if let Some(tag) = tag(new) {
                            self.add_tag(&vm, &tag, events);
                        }
                    }
                    events.push(format!(
                        "{vm} property-set:{property} name={property} newvalue={new_told}{old_told}"
                    ));
                }
            }
            "clockvm" => {
                if let Some(Value::Vm(Some(vm))) = new
                    && self.feature_of(vm, "service.clocksync").is_none()
                {
                    self.set_feature(vm, "service.clocksync", "1", events);
                }
                if let Some(Value::Vm(Some(vm))) = old
                    && old != new
                {
                    self.remove_feature(vm, "service.clocksync", events);
                }
            }
            _ => {}
        }
    }
}
