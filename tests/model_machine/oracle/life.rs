//! Making VMs and removing them.

use super::value::Value;
use super::volume::Pools;
use super::{Answer, CHOSEN, CLASSES, Class, Oracle, Refused, Vm, refused};

impl Oracle {
    fn free_qid(&self) -> u32 {
        (1..).find(|qid| self.vms.values().all(|vm| vm.qid != *qid)).unwrap()
    }

    pub(super) fn create(
        &mut self,
        class: &str,
        template: &str,
        payload: &str,
        events: &mut Vec<String>,
    ) -> Answer {
        let class = CLASSES.iter().find(|(_, name)| *name == class).map(|(class, _)| *class).unwrap();
        let mut words = payload.split(' ').map(|word| word.split_once('=').unwrap());
        let (name, label) = (words.next().unwrap().1, words.next().unwrap().1);
        let pools = match words.next() {
            None => Pools::Default,
            Some(("pool", pool)) => Pools::All(pool),
            Some((key, pool)) => Pools::One(key.strip_prefix("pool:").unwrap(), pool),
        };
        super::name::check(name)?;
        let has_template = matches!(class, Class::App | Class::Disp);
        if !template.is_empty() && has_template && !self.vms.contains_key(template) {
            return refused("QubesVMNotFoundError", format!("No such domain: '{template}'"));
        }
        if class == Class::Admin {
            return refused("QubesPropertyValueError", "…");
        }
        if !template.is_empty() && !has_template {
            return refused("ProtocolError", format!("{} cannot be based on template", class.name()));
        }
        let base = if has_template { Some(self.base(class, template)?) } else { None };
        if self.vms.contains_key(name) {
            return refused("QubesVMAlreadyExistsError", format!("Qube already exists: {name}"));
        }
        let label = match self.labels.iter().find(|(_, (known, _))| known == label) {
            Some((index, _)) => *index,
            None => return refused("QubesLabelNotFoundError", format!("Label does not exist: {label}")),
        };
        let mut vm = Vm::new(class, self.free_qid(), label);
        vm.volumes = self.new_volumes(class, base.as_deref(), &pools)?;
        if let Some(base) = base {
            if class == Class::Disp {
                self.take_over(&mut vm, &base);
            }
            vm.set.insert("template", Value::Vm(Some(base)));
        }
        self.no_update_checks(&mut vm);
        self.vms.insert(name.to_owned(), vm);
        self.tags_of_properties(name);
        events.push(format!("- domain-add vm={name}"));
        self.add_tag(name, "created-by-dom0", events);
        if class != Class::Remote {
            events.push(format!("{name} domain-create-on-disk"));
        }
        Ok(String::new())
    }

    /// What a new VM is based on.
    fn base(&self, class: Class, template: &str) -> Result<String, Refused> {
        let default = if class == Class::App { "default_template" } else { "default_dispvm" };
        let base = match (template, self.global_value(default)) {
            ("", Some(Value::Vm(Some(base)))) => base,
            ("", _) => {
                let text = "Template for the qube not specified, nor default template set.";
                return refused("QubesValueError", text);
            }
            (base, _) => base.to_owned(),
        };
        if class == Class::Disp && !self.flag(&base, "template_for_dispvms") {
            let text = format!(
                "template for disposable ({base}) needs to be an AppVM with template_for_dispvms=True"
            );
            return refused("QubesValueError", text);
        }
        self.check_template(class, &base)?;
        Ok(base)
    }

    /// What a disposable has from its base.
    fn take_over(&self, vm: &mut Vm, base: &str) {
        let own = ["template", "installed_by_rpm", "template_for_dispvms"];
        let base = &self.vms[base];
        let copied = base.set.iter().filter(|(name, _)| !own.contains(name));
        vm.set = copied.map(|(name, value)| (*name, value.clone())).collect();
        vm.features.clone_from(&base.features);
        let follow = ["guivm-", "audiovm-", "relayvm-"];
        let tags = base.tags.iter().filter(|tag| !follow.iter().any(|prefix| tag.starts_with(prefix)));
        vm.tags = tags.cloned().collect();
        // Rules keep their ids, and ids that are not used again are not used here either.
        vm.rules.clone_from(&base.rules);
        vm.next_rule = base.next_rule;
    }

    pub(super) fn remove(&mut self, name: &str, events: &mut Vec<String>) -> Answer {
        if name == "dom0" {
            return refused("QubesVMInUseError", "'dom0' cannot be removed");
        }
        if self.vms[name].class.is_local_guest() && self.flag(name, "installed_by_rpm") {
            return refused("QubesVMInUseError", format!("VM installed by package manager: {name}"));
        }
        events.push(format!("- domain-pre-delete vm={name}"));
        let names = |value: &Value| *value == Value::Vm(Some(name.to_owned()));
        let of_others = self.vms.iter().filter(|(other, _)| *other != name);
        if self.globals.values().any(names) || of_others.into_iter().any(|(_, vm)| vm.set.values().any(names))
        {
            let text =
                format!("Domain is in use: '{name}';  see 'journalctl -u qubesd -e' in dom0 for details…");
            return refused("QubesVMInUseError", text);
        }
        self.vms.remove(name);
        events.push(format!("- domain-delete vm={name}"));
        Ok(String::new())
    }

    pub(super) fn clone_vm(&mut self, source: &str, payload: &str, events: &mut Vec<String>) -> Answer {
        let Some(name) = payload.strip_prefix("name=") else {
            return refused("ProtocolError", "…");
        };
        super::name::check(name)?;
        if self.vms.contains_key(name) {
            return refused("QubesVMAlreadyExistsError", format!("Qube already exists: {name}"));
        }
        let original = &self.vms[source];
        let mut vm = original.clone();
        vm.uuid.clear();
        vm.qid = self.free_qid();
        vm.set.retain(|property, _| !["installed_by_rpm", "dispid"].contains(property));
        vm.tags.retain(|tag| !tag.starts_with("created-by-"));
        vm.features.retain(|(feature, _)| !feature.starts_with("preload-dispvm"));
        vm.volumes = vm.volumes.iter().map(super::Volume::copy).collect();
        let class = vm.class;
        self.vms.insert(name.to_owned(), vm);
        events.push(format!("- domain-add vm={name}"));
        self.add_tag(name, "created-by-dom0", events);
        if class != Class::Remote {
            events.push(format!("{name} domain-clone-files src={source}"));
            events.push(format!("{name} domain-create-on-disk"));
        }
        Ok(String::new())
    }

    pub(super) fn create_disposable(&mut self, base: &str, events: &mut Vec<String>) -> Answer {
        let base = match base {
            "dom0" => self.reference("dom0", "default_dispvm"),
            base => Some(base.to_owned()),
        };
        let Some(base) = base.filter(|base| self.flag(base, "template_for_dispvms")) else {
            let text = "Refusing to create disposable out of app qube which has template_for_dispvms=False";
            return refused("QubesException", text);
        };
        let mut vm = Vm::new(Class::Disp, self.free_qid(), self.vms[&base].label);
        self.take_over(&mut vm, &base);
        vm.volumes = self.new_volumes(Class::Disp, Some(&base), &Pools::Default)?;
        vm.set.insert("template", Value::Vm(Some(base)));
        vm.set.insert("auto_cleanup", Value::Bool(true));
        self.no_update_checks(&mut vm);
        self.vms.insert(CHOSEN.to_owned(), vm);
        self.tags_of_properties(CHOSEN);
        events.push(format!("- domain-add vm={CHOSEN}"));
        events.push(format!("{CHOSEN} domain-create-on-disk"));
        for tag in ["created-by-dom0", "disp-created-by-dom0"] {
            self.add_tag(CHOSEN, tag, events);
        }
        Ok(CHOSEN.to_owned())
    }

    /// New VMs do not look for updates where the system says so.
    fn no_update_checks(&self, vm: &mut Vm) {
        let off = self.global_value("check_updates_vm") == Some(Value::Bool(false));
        if off && vm.class.is_local_guest() && vm.features.iter().all(|(name, _)| name != "check-updates") {
            vm.features.push(("check-updates".into(), String::new()));
        }
    }

    /// The tags that tell of properties are there before a VM is announced.
    fn tags_of_properties(&mut self, name: &str) {
        for property in ["audiovm", "guivm"] {
            let local = self.vms[name].class.is_local_guest();
            if let Some(target) = local.then(|| self.reference(name, property)).flatten() {
                self.add_tag(name, &format!("{property}-{target}"), &mut Vec::new());
            }
        }
    }
}
