//! From a document to rows of the model, with the rules that guard Set and loading, and with what the
//! deployed system does for files of older releases.
//!
//! A domain that breaks a rule does not become a VM; it can be kept as [`Kept`], rows that loading sets
//! aside. Whether a file with problems is taken at all, the caller decides.

mod devices;
mod domain;
mod fit;
mod globals;
mod identity;
mod places;
#[cfg(test)]
mod tests;
mod volumes;

use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;

use super::super::class::VmClass;
use super::super::ids::LabelIndex;
use super::super::model::Model;
use super::super::pool::Pool;
use super::super::refusal::Refusal;
use super::super::snapshot::VolumeNaming;
use super::super::vm::Vm;
use super::super::volume::VolumeConfig;
use super::super::write::Write;
use super::Document;
use super::finding::{Finding, Findings};

/// What the file does not say.
pub struct Surroundings<'a> {
    /// The pools, where the file has none.
    pub pools: Vec<Arc<Pool>>,
    /// The port of the PCI device at an address (`BB_DD.F`), where this machine has it.
    pub pci_port: &'a dyn Fn(&str) -> Option<String>,
    /// How drivers name volumes.
    pub naming: VolumeNaming,
}

/// What a document amounts to.
#[derive(Debug)]
pub struct Resolved {
    /// The rows, for an empty store. VMs may refer to later ones.
    pub writes: Vec<Write>,
    /// What is kept of domains that break rules.
    pub kept: Vec<Kept>,
    /// Global properties that break rules, as text.
    pub kept_globals: Vec<(String, String)>,
    /// What there is to say.
    pub findings: Vec<Finding>,
    /// The line of every domain that is taken or kept.
    pub lines: HashMap<Uuid, u32>,
}

/// A domain that breaks a rule, as it is kept so that its name, number, identity and volumes stay reserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its identity.
    pub uuid: Uuid,
    /// Its number.
    pub qid: u16,
    /// Its name.
    pub name: String,
    /// Its class, which may be none.
    pub class: String,
    /// A label that exists: its own, if that does.
    pub label: LabelIndex,
    /// Its properties as text.
    pub properties: Vec<(String, String)>,
    /// Its properties that name a VM, and which.
    pub references: Vec<(String, Option<Uuid>)>,
    /// Its volumes, but for bad ones.
    pub volumes: Vec<Arc<VolumeConfig>>,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its features.
    pub features: Vec<(String, String)>,
    /// What is wrong with it.
    pub reason: String,
}

/// Turns a document into rows.
pub fn resolve(document: &Document, place: &Surroundings<'_>) -> Resolved {
    let mut resolving = Resolving {
        place,
        findings: Findings::default(),
        model: Model::default(),
        names: HashMap::new(),
        kept: Vec::new(),
        kept_globals: Vec::new(),
    };
    resolving.labels(document.labels.as_deref());
    resolving.pools(document.pools.as_deref());
    resolving.pools_of_new_volumes(&document.properties);
    let mut identities = resolving.identities(&document.domains);
    // A volume that is a snapshot lies where its template's does: templates first.
    identities.sort_by_key(|identity| match identity.class {
        Some(VmClass::AppVm) => 1,
        Some(VmClass::DispVm) => 2,
        Some(VmClass::AdminVm | VmClass::RemoteVm | VmClass::StandaloneVm | VmClass::TemplateVm) | None => 0,
    });
    for identity in &identities {
        resolving.domain(identity);
    }
    resolving.dom0();
    resolving.globals(&document.properties);
    resolving.fit(&identities);
    let lines = identities.iter().map(|identity| (identity.uuid, identity.domain.line)).collect();
    resolving.rows(lines)
}

struct Resolving<'a> {
    place: &'a Surroundings<'a>,
    findings: Findings,
    model: Model,
    /// Every domain with an identity, by its name.
    names: HashMap<String, Uuid>,
    kept: Vec<Kept>,
    kept_globals: Vec<(String, String)>,
}

impl Resolving<'_> {
    fn rows(self, lines: HashMap<Uuid, u32>) -> Resolved {
        let model = &self.model;
        let writes = model.labels().cloned().map(Write::AddLabel);
        let writes = writes.chain(model.pools().cloned().map(Write::SetPool));
        let writes = writes.chain(model.vms().cloned().map(Write::AddVm));
        let globals = model.globals().map(|(global, value)| Write::SetGlobal(global, Some(value.clone())));
        Resolved {
            writes: writes.chain(globals).collect(),
            kept: self.kept,
            kept_globals: self.kept_globals,
            findings: self.findings.0,
            lines,
        }
    }

    /// A file may leave dom0 out.
    fn dom0(&mut self) {
        let kept = self.kept.iter().any(|kept| kept.uuid == Vm::DOM0);
        if self.model.vm(Vm::DOM0).is_none() && !kept {
            self.findings.note(0, "domain 'dom0'", "not in the file, added with nothing set");
            let label = self.any_label();
            self.model.put_vm(Arc::new(super::super::store::dom0(label)));
        }
    }

    /// Black, or the first that there is. There always is one: missing built-in ones were added.
    fn any_label(&self) -> LabelIndex {
        let black = LabelIndex::built_in(8);
        let first = || self.model.labels().next().map(|label| label.index);
        self.model.label(black).map(|label| label.index).or_else(first).unwrap_or(black)
    }
}

/// A refusal as a line about a value.
#[expect(clippy::wildcard_enum_match_arm, reason = "few concern values; the others show as what they are")]
fn words(refusal: &Refusal) -> String {
    match refusal {
        Refusal::PropertyValue { text, .. } => text.clone().into_owned(),
        Refusal::ReferenceNotFound { name, .. } => format!("there is no domain '{name}'"),
        Refusal::LabelNotFound { label } => format!("there is no label {label:?}"),
        Refusal::WrongClass { vm, class, expected } => {
            format!("domain '{vm}' is a {class}, and a {expected} is needed")
        }
        Refusal::TemplateNotDisposable { template } => {
            format!("domain '{template}' is no template of disposables (template_for_dispvms)")
        }
        Refusal::NotForDisposables { target, .. } => {
            format!("domain '{target}' is no template of disposables (template_for_dispvms)")
        }
        Refusal::NetworkLoop => "a loop of netvms".to_owned(),
        Refusal::ProvidesNoNetwork { netvm } => format!("domain '{netvm}' does not provide network"),
        other => format!("{other:?}"),
    }
}
