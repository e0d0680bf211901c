//! What the daemon should answer, from the documents: a plain model that shares no code with the daemon's.

mod change;
mod feature;
mod firewall;
mod global;
mod label;
mod life;
mod name;
mod notes;
mod pool;
mod property;
mod value;
mod volume;
mod volume_call;

use std::collections::{BTreeMap, BTreeSet};

use crate::call::{Call, Dialect};
pub use value::Value;

pub use firewall::RULES;
pub use notes::NOTES;
pub use pool::{Ground, Pool};
pub use volume::{State, Volume};

/// Names of properties of VMs, and of the system.
pub fn property_names() -> Vec<&'static str> {
    property::names()
}

pub fn global_names() -> Vec<&'static str> {
    global::names().collect()
}

/// Why not: the class, and the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub class: &'static str,
    pub text: String,
}

pub fn refused<T>(class: &'static str, text: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { class, text: text.into() })
}

/// The content of an OK message, or why not.
pub type Answer = Result<String, Refused>;

/// In an answer: the name, or the UUID, that the daemon chooses.
pub const CHOSEN: &str = "\u{1}";

/// In an answer: anything, to the end of the line.
pub const ANY: char = '\u{3}';

/// At the end of a refusal's text: more may follow.
pub const REST: char = '\u{2026}';

/// At the beginning of an answer: its lines come in any order.
pub const UNORDERED: char = '\u{4}';

/// What a call answers, and the events that everybody sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub answer: Answer,
    pub events: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Admin,
    App,
    Disp,
    Remote,
    Standalone,
    Template,
}

pub const CLASSES: [(Class, &str); 6] = [
    (Class::Admin, "AdminVM"),
    (Class::App, "AppVM"),
    (Class::Disp, "DispVM"),
    (Class::Remote, "RemoteVM"),
    (Class::Standalone, "StandaloneVM"),
    (Class::Template, "TemplateVM"),
];

impl Class {
    pub fn name(self) -> &'static str {
        CLASSES.iter().find(|(class, _)| *class == self).map(|(_, name)| *name).unwrap()
    }

    /// The letter that the table of properties knows it by.
    fn letter(self) -> char {
        self.name().chars().next().filter(|_| self != Self::App).unwrap_or('P')
    }

    /// All but dom0 and what is elsewhere.
    fn is_local_guest(self) -> bool {
        !matches!(self, Self::Admin | Self::Remote)
    }
}

#[derive(Debug, Clone)]
pub struct Vm {
    pub class: Class,
    /// The daemon chooses it; empty until it was asked.
    pub uuid: String,
    pub qid: u32,
    label: u32,
    /// Properties that were set.
    set: BTreeMap<&'static str, Value>,
    features: Vec<(String, String)>,
    tags: BTreeSet<String>,
    rules: Vec<(u64, String)>,
    next_rule: u64,
    notes: String,
    /// In the order of List.
    pub volumes: Vec<Volume>,
}

impl Vm {
    fn new(class: Class, qid: u32, label: u32) -> Self {
        Self {
            class,
            uuid: String::new(),
            qid,
            label,
            set: BTreeMap::new(),
            features: Vec::new(),
            tags: BTreeSet::new(),
            rules: vec![(1, "action=accept".into())],
            next_rule: 2,
            notes: String::new(),
            volumes: Vec::new(),
        }
    }

    /// Its number as a disposable, which the daemon draws.
    pub fn set_dispid(&mut self, dispid: i64) {
        self.set.insert("dispid", Value::Int(dispid));
    }
}

/// The whole state.
#[derive(Debug, Clone)]
pub struct Oracle {
    pub vms: BTreeMap<String, Vm>,
    labels: BTreeMap<u32, (String, String)>,
    globals: BTreeMap<&'static str, Value>,
    ground: Ground,
    /// In the order of their definition.
    pub pools: Vec<Pool>,
    /// Those that were ever made for pools: removing one leaves its data.
    folders: BTreeSet<String>,
    /// Tokens for copies, with the identity of the VM and the volume that each stands for.
    tokens: BTreeMap<String, (String, String)>,
}

impl Oracle {
    /// A daemon's first start.
    pub fn first_start(ground: Ground) -> Self {
        let mut dom0 = Vm::new(Class::Admin, 0, 8);
        dom0.uuid = "00000000-0000-0000-0000-000000000000".into();
        Self {
            vms: BTreeMap::from([("dom0".to_owned(), dom0)]),
            labels: label::built_in(),
            globals: global::first_start(),
            pools: pool::first_start(&ground),
            folders: BTreeSet::new(),
            tokens: BTreeMap::new(),
            ground,
        }
    }

    /// Carries out a call.
    pub fn call(&mut self, call: &Call) -> Outcome {
        let before = self.clone();
        let mut events = Vec::new();
        let answer = self.answer(call, &mut events);
        if answer.is_err() {
            *self = before;
        }
        Outcome { answer, events }
    }

    fn answer(&mut self, call: &Call, events: &mut Vec<String>) -> Answer {
        let Call { vm, argument, payload, .. } = call;
        if !self.vms.contains_key(vm) {
            return refused("QubesVMNotFoundError", format!("No such domain: '{vm}'"));
        }
        if call.method.ends_with("volume.RemoveSnapshot") && call.dialect == Dialect::Admin {
            return refused("ProtocolError", format!("no such method: '{}'", call.full_name()));
        }
        let family = |prefix: &str| call.method.starts_with(prefix);
        if (family("vm.firewall.") || family("vm.notes.") || call.method == "vm.Clone") && vm == "dom0" {
            return refused("ProtocolError", "expected destination to not be AdminVM");
        }
        // The grammar of a payload is looked at before anything else that a call looks at.
        if call.method.ends_with("property.Set") && !payload.is_ascii() {
            return refused("QubesValueError", "Non-ASCII bytes in property value");
        }
        if let Some(verb) = call.method.strip_prefix("property.") {
            return self.global_property(call.dialect, verb, argument, payload, events);
        }
        if let Some(verb) = call.method.strip_prefix("vm.property.") {
            return self.vm_property(call.dialect, verb, vm, argument, payload, events);
        }
        if let Some(verb) = call.method.strip_prefix("vm.feature.") {
            return self.feature(verb, vm, argument, payload, events);
        }
        if let Some(verb) = call.method.strip_prefix("vm.tag.") {
            return self.tag(verb, vm, argument, events);
        }
        if let Some(verb) = call.method.strip_prefix("label.") {
            return self.label(verb, argument, payload);
        }
        if let Some(verb) = call.method.strip_prefix("vm.firewall.") {
            return self.firewall(verb, vm, argument, payload, events);
        }
        if let Some(verb) = call.method.strip_prefix("vm.notes.") {
            return self.notes(verb, vm, payload);
        }
        if let Some(verb) = call.method.strip_prefix("vm.volume.") {
            return self.vm_volume(call.dialect, verb, vm, argument, payload, events);
        }
        if let Some(verb) = call.method.strip_prefix("pool.volume.") {
            return self.pool_volume(verb, argument, payload, events);
        }
        if let Some(verb) = call.method.strip_prefix("pool.") {
            return self.pool_call(call.dialect, verb, argument, payload, events);
        }
        match call.method.as_str() {
            "vm.List" => Ok(self.list(call.dialect, vm)),
            "vm.Remove" => self.remove(vm, events),
            "vm.Clone" => self.clone_vm(vm, payload, events),
            "vm.CreateDisposable" => self.create_disposable(vm, events),
            method => {
                match method.strip_prefix("vm.Create.").or_else(|| method.strip_prefix("vm.CreateInPool.")) {
                    Some(class) => self.create(class, argument, payload, events),
                    None => panic!("the oracle does not know {method}"),
                }
            }
        }
    }

    fn vm_mut(&mut self, vm: &str) -> &mut Vm {
        self.vms.get_mut(vm).unwrap()
    }

    fn list(&self, dialect: Dialect, vm: &str) -> String {
        let line = |(name, vm): (&String, &Vm)| {
            let state = if vm.class.is_local_guest() { "Halted" } else { "Running" };
            let uuid = match dialect {
                Dialect::Mgmt => String::new(),
                Dialect::Admin => format!(" uuid={}", vm.uuid),
            };
            format!("{name} class={} state={state}{uuid}\n", vm.class.name())
        };
        if vm != "dom0" {
            return self.vms.get_key_value(vm).map(line).unwrap();
        }
        let (dom0, others): (Vec<_>, Vec<_>) = self.vms.iter().partition(|(name, _)| *name == "dom0");
        dom0.into_iter().chain(others).map(line).collect()
    }

    /// Puts what the daemon chose in the place of what it was left to choose.
    pub fn chosen(&mut self, chosen: &str) {
        let vm = self.vms.remove(CHOSEN).unwrap();
        self.vms.insert(chosen.to_owned(), vm);
    }

    /// The first disposable by name.
    pub fn a_disposable(&self) -> Option<&str> {
        self.vms.iter().find(|(_, vm)| vm.class == Class::Disp).map(|(name, _)| name.as_str())
    }

    /// A daemon's end: what it did not store is gone.
    pub fn restarted(&mut self) {
        self.tokens.clear();
    }

    /// The calls that together show everything that there is.
    pub fn everything(&self, served: impl Fn(&str) -> bool) -> Vec<Call> {
        let mut calls = vec![Call::new("vm.List", "dom0", "", "")];
        let mut add = |method: &str, vm: &str, argument: &str| {
            calls.push(Call::new(method, vm, argument, ""));
        };
        add("label.List", "dom0", "");
        for (name, _) in self.labels.values() {
            add("label.Get", "dom0", name);
            add("label.Index", "dom0", name);
        }
        add("property.GetAll", "dom0", "");
        add("pool.List", "dom0", "");
        for pool in &self.pools {
            add("pool.Info", "dom0", &pool.name);
            add("pool.volume.List", "dom0", &pool.name);
        }
        for (name, vm) in &self.vms {
            if served("vm.property.GetAll") {
                add("vm.property.GetAll", name, "");
            } else {
                add("vm.property.List", name, "");
                property::of(vm.class).for_each(|property| add("vm.property.Get", name, property.name));
            }
            add("vm.feature.List", name, "");
            vm.features.iter().for_each(|(feature, _)| add("vm.feature.Get", name, feature));
            add("vm.tag.List", name, "");
            if name != "dom0" && vm.class != Class::Remote {
                add("vm.firewall.List", name, "");
                add("vm.firewall.Get", name, "");
            }
            if name != "dom0" {
                add("vm.notes.Get", name, "");
            }
            add("vm.volume.List", name, "");
            for volume in &vm.volumes {
                add("vm.volume.Info", name, volume.name);
                add("vm.volume.ListSnapshots", name, volume.name);
            }
        }
        calls.retain(|call| served(&call.method));
        calls
    }
}
