//! Set and Reset of properties of VMs: what refuses them, what else they do, and which events tell of it.

use super::property::{How, Property};
use super::value::{Value, text};
use super::{Answer, Class, Oracle, Refused, refused};
use How::{Once, Set};

/// What a template tells of to what is based on it. (The mode of virtualisation is shown there, and not told of.)
const TOLD: &[&str] = &[
    "default_user",
    "kernel",
    "kernelopts",
    "management_dispvm",
    "maxmem",
    "memory",
    "qrexec_timeout",
    "shutdown_timeout",
    "vcpus",
];

impl Oracle {
    /// Whether it may be set at all.
    fn settable(&self, vm: &str, property: &Property) -> Result<(), Refused> {
        let class = self.vms[vm].class;
        let fixed = self.is_fixed(vm, property);
        match property.how {
            Set if !fixed => Ok(()),
            Once if !fixed => {
                refused("QubesPropertyValueError", format!("Property '{}' cannot be changed", property.name))
            }
            _ => {
                let text = format!("property '{}' on {} instance cannot be set", property.name, class.name());
                refused("QubesPropertyValueError", text)
            }
        }
    }

    pub(super) fn set_property(
        &mut self,
        vm: &str,
        property: &'static Property,
        payload: &str,
        events: &mut Vec<String>,
    ) -> Answer {
        let name = property.name;
        let new = self.parse(name, property.kind, payload)?;
        self.settable(vm, property)?;
        let new = self.check_value(vm, name, new)?;
        let old = self.value(vm, name);
        let change = format!(
            "name={name} newvalue={}{}",
            self.told(&new),
            old.as_ref().map_or_else(String::new, |old| format!(" oldvalue={}", self.told(old)))
        );
        events.push(format!("{vm} property-pre-set:{name} {change}"));
        self.veto_set(vm, name, &new)?;
        self.side_events(vm, name, old.as_ref(), Some(&new), events);
        match new {
            Value::Label(index) => self.vm_mut(vm).label = index,
            new => drop(self.vm_mut(vm).set.insert(name, new)),
        }
        events.push(format!("{vm} property-set:{name} {change}"));
        Ok(String::new())
    }

    pub(super) fn reset_property(
        &mut self,
        vm: &str,
        property: &'static Property,
        events: &mut Vec<String>,
    ) -> Answer {
        let name = property.name;
        self.settable(vm, property)?;
        if name == "label" {
            return refused("QubesPropertyValueError", "Property 'label' has no default to go back to: …");
        }
        let old = self.value(vm, name);
        let new = self.default(vm, name);
        let old_told = old.as_ref().map_or_else(String::new, |old| format!(" oldvalue={}", self.told(old)));
        let change = format!("name={name}{old_told}");
        let moved = name == "netvm" && old != new;
        let set = new
            .as_ref()
            .map_or_else(String::new, |new| format!("name={name} newvalue={}{old_told}", self.told(new)));
        events.push(format!("{vm} property-pre-reset:{name} {change}"));
        if moved {
            events.push(format!("{vm} property-pre-set:{name} {set}"));
        }
        self.veto_reset(vm, name, new.as_ref())?;
        events.push(format!("{vm} property-pre-del:{name} {change}"));
        self.side_events(vm, name, old.as_ref(), new.as_ref(), events);
        if moved {
            events.push(format!("{vm} property-set:{name} {set}"));
        }
        self.vm_mut(vm).set.remove(name);
        events.push(format!("{vm} property-reset:{name} {change}"));
        events.push(format!("{vm} property-del:{name} {change}"));
        Ok(String::new())
    }

    /// The rules of single properties that refuse before anything is announced.
    fn check_value(&self, vm: &str, name: &str, new: Value) -> Result<Value, Refused> {
        let bad = |text: &str| refused("QubesPropertyValueError", text);
        match (name, &new) {
            (
                "memory" | "vcpus" | "stubdom_mem" | "qrexec_timeout" | "shutdown_timeout",
                Value::Int(..=0),
            ) => bad(&format!("{name} must be positive")),
            ("maxmem", Value::Int(..0)) => bad("maxmem must be positive or zero"),
            ("virt_mode", Value::Text(mode)) => match mode.to_ascii_lowercase() {
                mode if ["hvm", "pv", "pvh"].contains(&mode.as_str()) => Ok(text(mode)),
                _ => bad("Invalid virtualization mode, supported values: hvm, pv, pvh"),
            },
            ("kernel", Value::Text(kernel)) if kernel.contains('/') => bad("Kernel name cannot contain '/'"),
            ("kernelopts", Value::Text(options)) if options.len() > 512 => {
                bad("Kernelopts value too long (512 chars max)")
            }
            ("default_user", Value::Text(user))
                if !user.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-+,.".contains(&b)) =>
            {
                bad("Username can contain only those characters: …")
            }
            ("mac", Value::Text(mac)) => {
                let pair = |pair: &str| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit());
                if mac.split(':').count() == 6 && mac.split(':').all(pair) {
                    return Ok(text(mac.to_ascii_lowercase()));
                }
                bad(&format!("Invalid MAC address: '{mac}'"))
            }
            ("ip", Value::Text(ip)) => match ip.parse::<std::net::Ipv4Addr>() {
                Ok(ip) => Ok(text(ip.to_string())),
                Err(_) => refused("QubesValueError", "Failed to parse property value as IPv4Address"),
            },
            ("ip6", Value::Text(ip)) => match ip.parse::<std::net::Ipv6Addr>() {
                Ok(ip) => Ok(text(ip.to_string())),
                Err(_) => refused("QubesValueError", "Failed to parse property value as IPv6Address"),
            },
            ("keyboard_layout", Value::Text(layout)) => match layout.as_str() {
                "de++" | "cz+qwerty+a:b" => Ok(new),
                layout if layout.split('+').count() == 3 => bad("Invalid keyboard layout provided"),
                _ => bad("invalid number of keyboard layout parameters"),
            },
            ("devices_denied", Value::Text(codes)) => match codes.as_str() {
                "" => Ok(new),
                "u******b******u******" => Ok(text("b******u******")),
                codes if codes.len() % 7 == 0 => bad("Interface code list should be in the form …"),
                codes => {
                    let length = codes.len();
                    let text = format!(
                        "Invalid length of interfaces='{codes}' (is {length}, expected multiple of 7)"
                    );
                    refused("QubesValueError", text)
                }
            },
            ("netvm", Value::Vm(Some(netvm))) => self.check_netvm(vm, netvm).map(|()| new),
            ("provides_network", Value::Bool(false)) => self.check_no_clients(vm).map(|()| new),
            ("default_dispvm" | "management_dispvm", Value::Vm(Some(target)))
                if !self.flag(target, "template_for_dispvms") =>
            {
                bad(&format!(
                    "Cannot set invalid property to qube '{vm}', {name} '{target}' has template_for_dispvms set \
                     to False"
                ))
            }
            ("template", Value::Vm(None)) => bad("…"),
            ("template", Value::Vm(Some(target))) => {
                self.check_template(self.vms[vm].class, target).map(|()| new)
            }
            _ => Ok(new),
        }
    }

    pub(super) fn check_template(&self, class: Class, target: &str) -> Result<(), Refused> {
        let target_class = self.vms[target].class;
        if class == Class::App && target_class != Class::Template {
            let text = format!(
                "wrong VM class: domains['{target}'] is of type {} and not TemplateVM",
                target_class.name()
            );
            return refused("QubesPropertyValueError", text);
        }
        if class == Class::Disp && !self.flag(target, "template_for_dispvms") {
            return refused(
                "QubesPropertyValueError",
                "template for disposable must have template_for_dispvms=True",
            );
        }
        Ok(())
    }

    fn check_netvm(&self, vm: &str, netvm: &str) -> Result<(), Refused> {
        if !self.vms[netvm].class.is_local_guest() || !self.flag(netvm, "provides_network") {
            return refused("QubesValueError", format!("The {netvm} qube does not provide network"));
        }
        let mut above = Some(netvm.to_owned());
        while let Some(at) = above {
            if at == vm {
                return refused("QubesValueError", "Loops in network are unsupported");
            }
            above = self.netvm(&at);
        }
        Ok(())
    }

    fn check_no_clients(&self, vm: &str) -> Result<(), Refused> {
        if self.clients(vm).is_empty() {
            return Ok(());
        }
        let text = "The qube is still used by other qubes, change theirs 'netvm' first…";
        refused("QubesValueError", text)
    }

    /// The rules that refuse after the change was announced.
    fn veto_set(&self, vm: &str, name: &str, new: &Value) -> Result<(), Refused> {
        match (name, new) {
            ("kernel", Value::Text(kernel)) if !["", super::global::KERNEL].contains(&kernel.as_str()) => {
                refused("QubesPropertyValueError", format!("Kernel '{kernel}' not installed"))
            }
            ("template_for_dispvms", Value::Bool(false)) => self.check_no_disposables(vm),
            _ => Ok(()),
        }
    }

    fn veto_reset(&self, vm: &str, name: &str, new: Option<&Value>) -> Result<(), Refused> {
        match (name, new) {
            ("template", _) => refused("QubesValueError", "Cannot unset template…"),
            ("netvm", Some(Value::Vm(Some(netvm)))) => self.check_netvm(vm, netvm),
            ("provides_network", _) => self.check_no_clients(vm),
            ("template_for_dispvms", _) => self.check_no_disposables(vm),
            _ => Ok(()),
        }
    }

    fn check_no_disposables(&self, base: &str) -> Result<(), Refused> {
        let names = |value: Option<&Value>| value == Some(&Value::Vm(Some(base.to_owned())));
        let of_system: Vec<&str> = ["default_dispvm", "management_dispvm"]
            .into_iter()
            .filter(|property| names(self.globals.get(property)))
            .collect();
        if !of_system.is_empty() {
            let text = format!(
                "Cannot change template_for_dispvms to False while it is in use by the system by any of these \
                 properties: {}…",
                of_system.join(", ")
            );
            return refused("QubesVMInUseError", text);
        }
        let users = ["default_dispvm", "management_dispvm", "template"];
        if self.vms.values().any(|vm| users.iter().any(|property| names(vm.set.get(property)))) {
            let text = "Cannot change template_for_dispvms to False while it is the disposable template of a \
                        qube by any of these properties: …";
            return refused("QubesVMInUseError", text);
        }
        Ok(())
    }

    /// What else a change does, with its events.
    fn side_events(
        &mut self,
        vm: &str,
        name: &str,
        old: Option<&Value>,
        new: Option<&Value>,
        events: &mut Vec<String>,
    ) {
        let recomputed = |name: &str| format!("{vm} property-reset:{name} name={name}");
        match name {
            "label" | "template_for_dispvms" => events.push(recomputed("icon")),
            "provides_network" => {
                if new == Some(&Value::Bool(true)) {
                    self.set_feature(vm, "servicevm", "1", events);
                } else {
                    self.remove_feature(vm, "servicevm", events);
                }
                events.extend(["icon", "gateway", "gateway6"].map(recomputed));
            }
            "ip" | "ip6" if old != new => {
                let six = if name == "ip6" { "6" } else { "" };
                if self.flag(vm, "provides_network") {
                    events.push(recomputed(&format!("gateway{six}")));
                }
                events.push(recomputed(&format!("visible_{name}")));
                let gateway = format!("visible_gateway{six}");
                let clients = self.clients(vm).into_iter();
                events.extend(clients.map(|vm| format!("{vm} property-reset:{gateway} name={gateway}")));
            }
            "guivm" | "audiovm" | "relayvm" => {
                let tag = |value: Option<&Value>| match value {
                    Some(Value::Vm(Some(target))) => Some(format!("{name}-{target}")),
                    _ => None,
                };
                if tag(old) != tag(new) {
                    if let Some(tag) = tag(old) {
                        self.remove_tag(vm, &tag, events);
                    }
                    if let Some(tag) = tag(new) {
                        self.add_tag(vm, &tag, events);
                    }
                }
            }
            "keyboard_layout" if old != new => {
                let old = old.map_or_else(String::new, |old| format!(" oldvalue={}", self.told(old)));
                let shown = self.vms.iter().filter(|(other, shown)| {
                    shown.class.is_local_guest()
                        && *other != vm
                        && self.reference(other, "guivm").as_deref() == Some(vm)
                        && !shown.set.contains_key(name)
                });
                let told: Vec<String> =
                    shown.map(|(vm, _)| format!("{vm} property-reset:{name} name={name}{old}")).collect();
                events.extend(told);
            }
            "appvm_default_bootmode" if old != new => self.tell_based(vm, "bootmode", events),
            _ => {}
        }
        if TOLD.contains(&name) && self.vms[vm].class == Class::Template && old != new {
            self.tell_based(vm, name, events);
        }
    }

    /// What is based on a template, and has no value of its own, shows another now.
    fn tell_based(&self, template: &str, name: &str, events: &mut Vec<String>) {
        let based = self.vms.iter().filter(|(based, vm)| {
            self.template(based).as_deref() == Some(template) && !vm.set.contains_key(name)
        });
        events.extend(based.map(|(based, _)| format!("{based} property-reset:{name} name={name}")));
    }
}
