//! What belongs to one domain.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::super::at_start::Started;
use super::super::super::class::VmClass;
use super::super::super::firewall::Firewall;
use super::super::super::ids::LabelIndex;
use super::super::super::notes::Notes;
use super::super::super::property::{Property, parse};
use super::super::super::value::{Type, Value};
use super::super::super::vm::{Feature, Vm};
use super::super::finding::Weight;
use super::super::{Domain, Entry};
use super::identity::Identity;
use super::{Kept, Resolving, words};

/// Properties that are read with the identity, or follow from it.
const IDENTITY: [&str; 5] = ["name", "qid", "uuid", "klass", "label"];

/// The yes and no of old properties.
fn is_yes(text: &str) -> bool {
    parse::boolean(text) == Some(true)
}

/// The properties of a domain under the names of today.
fn renamed(domain: &Domain) -> impl Iterator<Item = (Entry, Option<&'static str>)> {
    let has = |name: &str| domain.property(name).is_some();
    let (virt_mode, for_dispvms) = (has("virt_mode"), has("template_for_dispvms"));
    let last = |at: usize, name: &str| !domain.properties.iter().skip(at + 1).any(|later| later.name == name);
    domain.properties.iter().enumerate().filter(move |(at, entry)| last(*at, &entry.name)).filter_map(
        move |(_, entry)| {
            let new = |name: &str, value: &str, note| {
                let (name, value) = (name.to_owned(), value.to_owned());
                Some((Entry { name, value, ..entry.clone() }, Some(note)))
            };
            match entry.name.as_str() {
                "hvm" | "dispvm_allowed" if virt_mode && entry.name == "hvm" => None,
                "dispvm_allowed" if for_dispvms => None,
                "hvm" if is_yes(&entry.value) => {
                    new("virt_mode", "hvm", "hvm of older releases: virt_mode hvm")
                }
                "hvm" => new("virt_mode", "pv", "hvm of older releases: virt_mode pv"),
                "dispvm_allowed" => new(
                    "template_for_dispvms",
                    &entry.value,
                    "dispvm_allowed of older releases: template_for_dispvms",
                ),
                name if IDENTITY.contains(&name) => None,
                _ => Some((entry.clone(), None)),
            }
        },
    )
}

impl Resolving<'_> {
    /// Takes a domain in, or keeps it if it breaks a rule.
    pub(super) fn domain(&mut self, identity: &Identity<'_>) {
        let before = self.findings.0.len();
        let vm = self.vm(identity);
        let problems = self.findings.0.get(before..).unwrap_or_default();
        let problems: Vec<&str> =
            problems.iter().filter(|f| f.weight == Weight::Problem).map(|f| f.text.as_str()).collect();
        if problems.is_empty() {
            self.model.put_vm(Arc::new(vm));
        } else {
            let kept = self.kept(identity, vm, problems.join("; "));
            self.kept.push(kept);
        }
    }

    fn vm(&mut self, identity: &Identity<'_>) -> Vm {
        let Identity { domain, about, .. } = identity;
        let class = identity.class.unwrap_or_else(|| {
            self.findings.problem(domain.line, about, format!("there is no class {:?}", domain.class));
            VmClass::RemoteVm
        });
        let mut vm = Vm {
            uuid: identity.uuid,
            qid: identity.qid,
            name: identity.name.clone(),
            class,
            label: self.label(identity),
            properties: BTreeMap::new(),
            volumes: Vec::new(),
            tags: BTreeSet::new(),
            features: BTreeMap::new(),
            assignments: Arc::default(),
            firewall: Firewall::default(),
            notes: Notes::default(),
            started: Started::new(),
        };
        if identity.class.is_none() {
            return vm;
        }
        for (entry, note) in renamed(domain) {
            if let Some(note) = note {
                self.findings.note(entry.line, about, note);
            }
            self.property(&mut vm, &entry, about);
        }
        self.tags(&mut vm, domain, about);
        self.features(&mut vm, domain, about);
        self.devices(&mut vm, domain, about);
        self.volumes(&mut vm, domain, about);
        vm
    }

    fn label(&mut self, identity: &Identity<'_>) -> LabelIndex {
        let entry = identity.domain.property("label");
        let found = match entry {
            None if identity.class == Some(VmClass::AdminVm) => return self.any_label(),
            None => Err("it has no label".to_owned()),
            Some(entry) => self.value(Property::Label, &entry.value),
        };
        match found {
            Ok(Value::Label(index)) => index,
            Ok(_) => self.any_label(),
            Err(reason) => {
                let line = entry.map_or(identity.domain.line, |entry| entry.line);
                self.findings.problem(line, &identity.about, reason);
                self.any_label()
            }
        }
    }

    fn property(&mut self, vm: &mut Vm, entry: &Entry, about: &str) {
        let name = &entry.name;
        let Some(property) = Property::named(name) else {
            self.findings.note(entry.line, about, format!("property {name} is unknown, left out"));
            return;
        };
        if !property.is_stored() {
            self.findings.note(entry.line, about, format!("property {name} is computed, left out"));
            return;
        }
        let computed = property.row().on_dom0.is_some() && vm.class == VmClass::AdminVm;
        if !property.applies_to(vm.class) || computed {
            let text = format!("property {name} is none of a {}'s, left out", vm.class);
            self.findings.note(entry.line, about, text);
            return;
        }
        match self.value(property, &entry.value) {
            Ok(value) => {
                vm.properties.insert(property, value);
            }
            Err(reason) => self.findings.problem(entry.line, about, format!("property {name}: {reason}")),
        }
    }

    /// A text as a value of a property, by the rules that need no other VM's.
    fn value(&self, property: Property, text: &str) -> Result<Value, String> {
        let value = match property.row().kind {
            Type::Vm => Value::Vm(self.named(text)?),
            Type::Str | Type::Int | Type::Bool | Type::Label => {
                parse::parse(&self.model, property.name(), property.row().kind, text.as_bytes())
                    .map_err(|refusal| words(&refusal))?
            }
        };
        property.canonical(value).map_err(|refusal| words(&refusal))
    }

    /// The domain of that name; empty is none.
    pub(super) fn named(&self, name: &str) -> Result<Option<uuid::Uuid>, String> {
        if name.is_empty() {
            return Ok(None);
        }
        let found = self.names.get(name).copied();
        found.map(Some).ok_or_else(|| format!("there is no domain '{name}'"))
    }

    fn tags(&mut self, vm: &mut Vm, domain: &Domain, about: &str) {
        for entry in &domain.tags {
            match entry.name.parse() {
                Ok(tag) => {
                    vm.tags.insert(tag);
                }
                Err(error) => {
                    self.findings.problem(entry.line, about, format!("tag {:?}: {error}", entry.name));
                }
            }
        }
    }

    fn features(&mut self, vm: &mut Vm, domain: &Domain, about: &str) {
        for (position, entry) in (1..).zip(&domain.features) {
            let feature = (entry.name.parse(), entry.value.parse());
            let (name, value) = match feature {
                (Ok(name), Ok(value)) => (name, value),
                (Err(error), _) | (_, Err(error)) => {
                    self.findings.problem(entry.line, about, format!("feature {:?}: {error}", entry.name));
                    continue;
                }
            };
            // One that comes twice keeps its place and takes the later value.
            let position = vm.features.get(&name).map_or(position, |before| before.position);
            vm.features.insert(name, Feature { value, position });
        }
    }

    fn kept(&self, identity: &Identity<'_>, vm: Vm, reason: String) -> Kept {
        let domain = identity.domain;
        let (mut properties, mut references) = (Vec::new(), Vec::new());
        for (entry, _) in renamed(domain) {
            let of_vm = Property::named(&entry.name).is_some_and(|property| property.row().kind == Type::Vm);
            match self.named(&entry.value) {
                Ok(target) if of_vm => references.push((entry.name, target)),
                Ok(_) | Err(_) => properties.push((entry.name, entry.value)),
            }
        }
        let mut features: Vec<(String, String)> = Vec::new();
        for entry in &domain.features {
            if !features.iter().any(|(name, _)| *name == entry.name) {
                features.push((entry.name.clone(), entry.value.clone()));
            }
        }
        let tags: BTreeSet<&str> = domain.tags.iter().map(|entry| entry.name.as_str()).collect();
        Kept {
            uuid: identity.uuid,
            qid: identity.qid.get(),
            name: identity.name.to_string(),
            class: domain.class.clone(),
            label: vm.label,
            properties,
            references,
            volumes: vm.volumes,
            tags: tags.into_iter().map(str::to_owned).collect(),
            features,
            reason,
        }
    }
}
