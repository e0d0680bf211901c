//! Properties of VMs: which there are, what they are by default, what may be set, and which events tell of it.

use super::value::{Type, Value, default_word, line, text, unknown};
use super::{Answer, Class, Oracle};
use crate::call::Dialect;

fn dom0() -> Value {
    Value::Vm(Some("dom0".into()))
}

/// How a property comes by its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// It can be set.
    Set,
    /// It was given when the VM was made.
    Once,
    /// It follows from others.
    Computed,
}
use How::{Computed, Once, Set};
use Type::{Bool, Int, Label, Str, Vm};

pub struct Property {
    pub name: &'static str,
    pub(super) kind: Type,
    /// A(dmin) T(emplate) P (app) S(tandalone) D(isp) R(emote).
    classes: &'static str,
    pub(super) how: How,
}

const fn p(name: &'static str, kind: Type, classes: &'static str, how: How) -> Property {
    Property { name, kind, classes, how }
}

const fn late(name: &'static str, kind: Type, classes: &'static str) -> Property {
    Property { name, kind, classes, how: Set }
}

/// In the order of GetAll.
const PROPERTIES: &[Property] = &[
    p("auto_cleanup", Bool, "D", Set),
    p("autostart", Bool, "TPSD", Set),
    p("backup_timestamp", Int, "TPSD", Set),
    p("debug", Bool, "TPSD", Set),
    p("default_user", Str, "TPSD", Set),
    p("devices_denied", Str, "ATPSD", Set),
    p("dispid", Int, "D", Once),
    p("dns", Str, "TPSD", Computed),
    p("gateway", Str, "TPSD", Computed),
    p("gateway6", Str, "TPSD", Computed),
    p("icon", Str, "ATPSDR", Computed),
    p("include_in_backups", Bool, "ATPSDR", Set),
    p("installed_by_rpm", Bool, "TPSD", Set),
    p("ip", Str, "TPSD", Set),
    p("ip6", Str, "TPSD", Set),
    p("is_preload", Bool, "D", Computed),
    p("kernel", Str, "TPSD", Set),
    p("keyboard_layout", Str, "ATPSD", Set),
    p("klass", Str, "ATPSDR", Computed),
    p("label", Label, "ATPSDR", Set),
    p("mac", Str, "TPSD", Set),
    p("maxmem", Int, "ATPSD", Set),
    p("memory", Int, "TPSD", Set),
    p("name", Str, "ATPSDR", Once),
    p("provides_network", Bool, "TPSD", Set),
    p("qid", Int, "ATPSDR", Once),
    p("qrexec_timeout", Int, "TPSD", Set),
    p("remote_name", Str, "R", Set),
    p("shutdown_timeout", Int, "TPSD", Set),
    p("start_time", Str, "TPSD", Computed),
    p("stubdom_mem", Int, "TPSD", Set),
    p("stubdom_uuid", Str, "TPSD", Computed),
    p("stubdom_xid", Int, "TPSD", Computed),
    p("template_for_dispvms", Bool, "PS", Set),
    p("transport_rpc", Str, "R", Set),
    p("updateable", Bool, "ATPSD", Computed),
    p("uuid", Str, "ATPSDR", Once),
    p("vcpus", Int, "TPSD", Set),
    p("virt_mode", Str, "TPSD", Set),
    p("visible_gateway", Str, "TPSD", Computed),
    p("visible_gateway6", Str, "TPSD", Computed),
    p("visible_ip", Str, "TPSD", Computed),
    p("visible_ip6", Str, "TPSD", Computed),
    p("visible_netmask", Str, "TPSD", Computed),
    p("xid", Int, "TPSD", Computed),
    late("appvm_default_bootmode", Str, "T"),
    late("audiovm", Vm, "TPSD"),
    late("bootmode", Str, "TPSD"),
    late("default_dispvm", Vm, "ATPSD"),
    late("guivm", Vm, "TPSD"),
    late("kernelopts", Str, "TPSD"),
    late("management_dispvm", Vm, "TPSD"),
    late("netvm", Vm, "TPSD"),
    late("relayvm", Vm, "R"),
    late("template", Vm, "PD"),
];

/// What VMs that are based on a template show, unless they set their own.
const INHERITED: &[&str] = &[
    "default_user",
    "kernel",
    "kernelopts",
    "management_dispvm",
    "maxmem",
    "memory",
    "qrexec_timeout",
    "shutdown_timeout",
    "vcpus",
    "virt_mode",
];

/// The properties of a class, in order.
pub fn of(class: Class) -> impl Iterator<Item = &'static Property> {
    PROPERTIES.iter().filter(move |property| property.classes.contains(class.letter()))
}

/// All names, for the generator.
pub fn names() -> Vec<&'static str> {
    PROPERTIES.iter().map(|property| property.name).collect()
}

impl Oracle {
    pub(super) fn template(&self, vm: &str) -> Option<String> {
        match self.vms[vm].set.get("template") {
            Some(Value::Vm(template)) => template.clone(),
            _ => None,
        }
    }

    pub(super) fn with_templates(&self, vm: &str) -> Vec<String> {
        let mut chain = vec![vm.to_owned()];
        while let Some(template) = self.template(&chain[chain.len() - 1]) {
            chain.push(template);
        }
        chain
    }

    pub(super) fn reference(&self, vm: &str, property: &str) -> Option<String> {
        match self.value(vm, property) {
            Some(Value::Vm(target)) => target,
            _ => None,
        }
    }

    pub(super) fn netvm(&self, vm: &str) -> Option<String> {
        if !self.vms[vm].class.is_local_guest() { None } else { self.reference(vm, "netvm") }
    }

    pub(super) fn flag(&self, vm: &str, property: &str) -> bool {
        self.value(vm, property) == Some(Value::Bool(true))
    }

    /// Who is connected to it directly.
    pub(super) fn clients(&self, netvm: &str) -> Vec<String> {
        self.vms.keys().filter(|vm| self.netvm(vm).as_deref() == Some(netvm)).cloned().collect()
    }

    /// The value that holds; `None` where there is neither one nor a default.
    pub(super) fn value(&self, name: &str, property: &str) -> Option<Value> {
        let vm = &self.vms[name];
        match property {
            "name" => Some(text(name)),
            "uuid" => Some(text(&vm.uuid)),
            "qid" => Some(Value::Int(vm.qid.into())),
            "label" => Some(Value::Label(vm.label)),
            _ => vm.set.get(property).cloned().or_else(|| self.default(name, property)),
        }
    }

    pub(super) fn default(&self, name: &str, property: &str) -> Option<Value> {
        let vm = &self.vms[name];
        if INHERITED.contains(&property)
            && let Some(template) = self.template(name)
            && (property != "maxmem" || self.balanced(name))
            && (property != "kernelopts" || self.value(name, "kernel") != Some(text("")))
        {
            return self.value(&template, property);
        }
        let global = |property: &str| self.globals.get(property).cloned();
        Some(match property {
            "klass" => text(vm.class.name()),
            "icon" => text(self.icon(name)),
            "updateable" => {
                Value::Bool(matches!(vm.class, Class::Admin | Class::Standalone | Class::Template))
            }
            "xid" | "stubdom_xid" => Value::Int(-1),
            "stubdom_uuid" => text(""),
            "auto_cleanup"
            | "autostart"
            | "debug"
            | "installed_by_rpm"
            | "provides_network"
            | "template_for_dispvms" => Value::Bool(false),
            "include_in_backups" => Value::Bool(match vm.class {
                Class::Remote => false,
                Class::Disp => !self.flag(name, "auto_cleanup"),
                _ => true,
            }),
            "memory" => Value::Int(400),
            "vcpus" => Value::Int(2),
            "maxmem" if vm.class == Class::Admin => Value::Int(4096),
            "maxmem" => Value::Int(self.maxmem(name)),
            "virt_mode" => text("pvh"),
            "mac" => text("00:16:3e:5e:6c:00"),
            "default_user" => text("user"),
            "qrexec_timeout" => return global("default_qrexec_timeout").or(Some(Value::Int(60))),
            "shutdown_timeout" => return global("default_shutdown_timeout").or(Some(Value::Int(60))),
            "kernel" => return global("default_kernel").or_else(|| Some(text(""))),
            "kernelopts" if self.value(name, "kernel") == Some(text("")) => text(""),
            "kernelopts" => text("swiotlb=2048"),
            "is_preload" => Value::Bool(false),
            "devices_denied" => text(""),
            "bootmode" => text("default"),
            "appvm_default_bootmode" => {
                text(self.feature_of(name, "boot-mode.appvm-default").unwrap_or("default"))
            }
            "guivm" | "audiovm" => return global(&format!("default_{property}")).or(Some(dom0())),
            "keyboard_layout" => self.layout(name),
            "relayvm" | "stubdom_mem" | "backup_timestamp" | "transport_rpc" | "remote_name" => {
                Value::Vm(None)
            }
            "dns" if self.networked(name) => text("10.139.1.1 10.139.1.2"),
            "ip" if self.networked(name) => {
                let (second, number) = self.number(name);
                let (third, last) = match number {
                    ..255 => (number >> 8, number & 255),
                    _ => ((number - 1) / 254, (number - 1) % 254 + 1),
                };
                text(format!("10.{second}.{third}.{last}"))
            }
            "ip6" if self.networked(name) && self.ipv6(name) => {
                let (second, number) = self.number(name);
                let second = if second == 138 { "a8a" } else { "a89" };
                text(format!("fd09:24ef:4179::{second}:{number:x}"))
            }
            "visible_ip" => return self.value(name, "ip"),
            "visible_ip6" => return self.value(name, "ip6"),
            "gateway" if self.flag(name, "provides_network") => return self.value(name, "ip"),
            "gateway6" if self.flag(name, "provides_network") && self.ipv6(name) => {
                return self.value(name, "ip6");
            }
            "visible_gateway" => return self.netvm(name).and_then(|netvm| self.value(&netvm, "gateway")),
            "visible_gateway6" if self.ipv6(name) => {
                return self.netvm(name).and_then(|netvm| self.value(&netvm, "gateway6"));
            }
            "visible_netmask" => {
                let netvm = self.netvm(name).filter(|netvm| self.networked(netvm));
                return netvm.map(|_| text("255.255.255.255"));
            }
            "dns" | "ip" | "ip6" | "gateway" | "gateway6" | "visible_gateway6" => Value::Vm(None),
            "netvm" if vm.class == Class::Template => Value::Vm(None),
            "netvm" => return global("default_netvm").or(Some(Value::Vm(None))),
            "default_dispvm" if vm.class == Class::Disp => Value::Vm(self.template(name)),
            "default_dispvm" | "management_dispvm" => return global(property).or(Some(Value::Vm(None))),
            _ => return None,
        })
    }

    fn networked(&self, name: &str) -> bool {
        self.flag(name, "provides_network") || self.netvm(name).is_some()
    }

    /// What addresses are made of: their second byte and the number in it.
    fn number(&self, name: &str) -> (u32, i64) {
        let vm = &self.vms[name];
        match vm.set.get("dispid") {
            Some(Value::Int(dispid)) => (138, *dispid),
            _ => (137, vm.qid.into()),
        }
    }

    fn ipv6(&self, name: &str) -> bool {
        self.feature_with_netvm(name, "ipv6").is_some_and(|value| !value.is_empty())
    }

    /// The layout of the nearest guivm that has one set.
    fn layout(&self, name: &str) -> Value {
        let mut seen = vec![name.to_owned()];
        loop {
            let at = &seen[seen.len() - 1];
            let shown = self.vms[at].class.is_local_guest();
            let next = if shown { self.reference(at, "guivm") } else { None };
            let Some(next) = next.filter(|next| !seen.contains(next)) else { return text("us++") };
            if let Some(layout) = self.vms[&next].set.get("keyboard_layout") {
                return layout.clone();
            }
            seen.push(next);
        }
    }

    fn icon(&self, name: &str) -> String {
        let vm = &self.vms[name];
        let service = self.feature_of(name, "servicevm").is_some_and(|value| !value.is_empty());
        let kind = match vm.class {
            Class::Admin => return "adminvm-black".into(),
            Class::Template => "templatevm",
            Class::Remote => "remotevm",
            _ if service => "servicevm",
            Class::Disp => "dispvm",
            Class::Standalone => "standalonevm",
            Class::App if self.flag(name, "template_for_dispvms") => "templatevm",
            Class::App => "appvm",
        };
        format!("{kind}-{}", self.labels[&vm.label].0)
    }

    /// Whether its memory can be balanced: an HVM guest must announce that it takes part.
    fn balanced(&self, name: &str) -> bool {
        if self.value(name, "virt_mode") != Some(text("hvm")) {
            return true;
        }
        self.feature_with_template(name, "qrexec").is_some_and(|value| !value.is_empty())
    }

    /// Of a VM without a template: half of the simulator's 16 GiB bounds it.
    fn maxmem(&self, name: &str) -> i64 {
        if !self.balanced(name) {
            return 0;
        }
        match self.value(name, "memory") {
            Some(Value::Int(memory)) if self.feature_of(name, "os") == Some("Linux") => {
                (memory * 10).min(8192)
            }
            _ => 4000,
        }
    }

    pub(super) fn vm_property(
        &mut self,
        dialect: Dialect,
        verb: &str,
        vm: &str,
        name: &str,
        payload: &str,
        events: &mut Vec<String>,
    ) -> Answer {
        let class = self.vms[vm].class;
        match verb {
            "List" => return Ok(of(class).map(|property| format!("{}\n", property.name)).collect()),
            "GetAll" => {
                return Ok(of(class)
                    .map(|property| {
                        line(property.name, &self.get(Dialect::Admin, Dialect::Admin, vm, property))
                    })
                    .collect());
            }
            _ => {}
        }
        let Some(property) = of(class).find(|property| property.name == name) else {
            return unknown(name, vm);
        };
        match verb {
            "Get" => Ok(self.get(dialect, dialect, vm, property)),
            "GetDefault" => Ok(match property.how {
                _ if self.is_fixed(vm, property) => self.typed(property.kind, self.value(vm, name).as_ref()),
                Once => String::new(),
                Set if ["label", "template"].contains(&name) => String::new(),
                Computed => self.typed(property.kind, self.value(vm, name).as_ref()),
                Set => self.typed(property.kind, self.default(vm, name).as_ref()),
            }),
            "Set" => self.set_property(vm, property, payload, events),
            "Reset" => self.reset_property(vm, property, events),
            verb => panic!("vm.property.{verb}"),
        }
    }

    /// What of dom0 is as it is, though it can be chosen for others.
    pub(super) fn is_fixed(&self, vm: &str, property: &Property) -> bool {
        let fixed = ["name", "qid", "uuid", "updateable", "maxmem", "icon"];
        self.vms[vm].class == Class::Admin && fixed.contains(&property.name)
    }

    fn get(&self, typed: Dialect, words: Dialect, vm: &str, property: &Property) -> String {
        let explicit = match property.how {
            _ if self.is_fixed(vm, property) => false,
            Once => true,
            Computed => false,
            Set => property.name == "label" || self.vms[vm].set.contains_key(property.name),
        };
        let value = self.value(vm, property.name);
        let content = match typed {
            Dialect::Admin => self.typed(property.kind, value.as_ref()),
            Dialect::Mgmt => self.shown(value.as_ref()),
        };
        format!("{} {content}", default_word(words, explicit))
    }
}
