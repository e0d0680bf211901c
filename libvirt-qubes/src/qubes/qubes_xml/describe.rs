//! From the model to a document.

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;

use super::super::assignment::{ANY, AssignedDevice, Assignment};
use super::super::class::{VmClass, VolumeKind};
use super::super::label::Label;
use super::super::model::Model;
use super::super::pool::Pool;
use super::super::property::Property;
use super::super::snapshot::Snapshot;
use super::super::value::Value;
use super::super::vm::Vm;
use super::super::volume::VolumeConfig;
use super::finding::{Finding, Findings};
use super::{DeviceEntry, Document, Domain, Entry, Form, LabelEntry, PoolEntry, VolumeEntry};
use crate::config::Access;

/// Describes a model, and names what the format cannot hold.
pub fn describe(snapshot: &Snapshot) -> (Document, Vec<Finding>) {
    let mut describing = Describing { snapshot, findings: Findings::default(), left_out: BTreeSet::new() };
    let model = &snapshot.model;
    let mut vms: Vec<&Arc<Vm>> = model.vms().collect();
    vms.sort_by_key(|vm| vm.qid);
    let vms = describing.those_with_templates(vms);
    let document = Document {
        labels: Some(model.labels().map(|label| label_entry(label)).collect()),
        pools: Some(model.pools().map(|pool| describing.pool(pool)).collect()),
        properties: model
            .globals()
            .filter_map(|(global, value)| describing.valued(global.name(), value, "the system"))
            .collect(),
        domains: vms.into_iter().map(|vm| describing.domain(vm)).collect(),
    };
    for row in model.set_aside() {
        let about = format!("{} {:?}", row.table, row.name);
        describing.findings.problem(0, &about, format!("set aside in the store, left out: {}", row.reason));
    }
    for row in model.pending().filter(|row| row.kind.reserves()) {
        let about = format!("domain '{}'", row.vm.name);
        describing.findings.note(0, &about, "being made or removed, left out");
    }
    (document, describing.findings.0)
}

/// A value as text.
fn text(model: &Model, value: &Value) -> String {
    match value {
        Value::Str(text) => text.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Vm(vm) => vm.and_then(|vm| model.name_of(vm)).map(|name| name.to_string()).unwrap_or_default(),
        Value::Label(index) => format!("label-{index}"),
        Value::Pool(pool) => pool.to_string(),
    }
}

fn label_entry(label: &Label) -> LabelEntry {
    LabelEntry {
        line: 0,
        id: format!("label-{}", label.index),
        color: label.colour.to_string(),
        name: label.name.to_string(),
    }
}

fn plain(name: impl Into<String>, value: impl Into<String>) -> Entry {
    Entry { line: 0, name: name.into(), value: value.into(), form: Form::Text }
}

/// Whether XML can hold a text: of the control characters only these three.
fn is_xml(text: &str) -> bool {
    text.chars().all(|c| !c.is_control() || matches!(c, '\t' | '\n' | '\r' | '\u{7f}'..='\u{9f}'))
        && !text.contains(['\u{fffe}', '\u{ffff}'])
}

fn is_attribute_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_') && name.bytes().all(good)
}

struct Describing<'a> {
    snapshot: &'a Snapshot,
    findings: Findings,
    /// VMs that others refer to and that are not in the document.
    left_out: BTreeSet<Uuid>,
}

impl Describing<'_> {
    /// Leaves out VMs without the template that they cannot be without: it is set aside, or left out itself.
    fn those_with_templates<'v>(&mut self, mut vms: Vec<&'v Arc<Vm>>) -> Vec<&'v Arc<Vm>> {
        let model = &self.snapshot.model;
        let bad = model.set_aside().filter(|row| row.table == "vm").filter_map(|row| row.uuid);
        self.left_out = bad.collect();
        loop {
            let (kept, out): (Vec<_>, Vec<_>) = vms.into_iter().partition(|vm| {
                let template = vm.properties.get(&Property::Template).and_then(Value::as_vm);
                template.is_none_or(|template| !self.left_out.contains(&template))
            });
            vms = kept;
            if out.is_empty() {
                return vms;
            }
            for vm in out {
                self.findings.problem(
                    0,
                    &format!("domain '{}'", vm.name),
                    "its template is left out, and so is it",
                );
                self.left_out.insert(vm.uuid);
            }
        }
    }

    /// A property. What names a VM that is not in the document names none.
    fn valued(&mut self, name: &str, value: &Value, about: &str) -> Option<Entry> {
        let model = &self.snapshot.model;
        if value.as_vm().is_some_and(|vm| self.left_out.contains(&vm)) {
            let vm = text(model, value);
            self.findings.problem(
                0,
                about,
                format!("{name} is '{vm}', which is left out: none in its place"),
            );
            return Some(plain(name, ""));
        }
        self.entry(name, &text(model, value), about)
    }

    fn entry(&mut self, name: &str, value: &str, about: &str) -> Option<Entry> {
        if is_xml(value) {
            return Some(plain(name, value));
        }
        self.findings.problem(0, about, format!("{name} has a character that XML cannot hold, left out"));
        None
    }

    fn pool(&mut self, pool: &Pool) -> PoolEntry {
        let about = format!("pool {:?}", pool.name.as_str());
        // The deployed driver does not start with an option that it does not know.
        let options = pool.options.iter().filter(|(key, _)| &***key != "cow").filter_map(|(key, value)| {
            if is_attribute_name(key) && is_xml(value) && !matches!(&**key, "name" | "driver") {
                return Some((key.to_string(), value.to_string()));
            }
            self.findings.problem(0, &about, format!("option {key:?} cannot be an attribute, left out"));
            None
        });
        let options = options.collect();
        PoolEntry { line: 0, name: pool.name.to_string(), driver: pool.driver.to_string(), options }
    }

    fn domain(&mut self, vm: &Vm) -> Domain {
        let about = format!("domain '{}'", vm.name);
        let mut features: Vec<_> = vm.features.iter().collect();
        features.sort_by_key(|(_, feature)| feature.position);
        Domain {
            line: 0,
            id: format!("domain-{}", vm.qid),
            class: vm.class.to_string(),
            properties: self.properties(vm, &about),
            features: features.iter().map(|(n, f)| plain(n.as_str(), f.value.as_str())).collect(),
            tags: vm.tags.iter().map(|tag| plain(tag.as_str(), "")).collect(),
            devices: self.devices(vm, &about),
            volumes: vm.volumes.iter().map(|volume| self.volume(vm, volume)).collect(),
        }
    }

    fn properties(&mut self, vm: &Vm, about: &str) -> Vec<Entry> {
        let mut entries = vec![Entry {
            line: 0,
            name: "label".to_owned(),
            value: format!("label-{}", vm.label),
            form: Form::Ref,
        }];
        if vm.class != VmClass::AdminVm {
            entries.push(plain("name", vm.name.as_str()));
            entries.push(plain("qid", vm.qid.to_string()));
            entries.push(plain("uuid", vm.uuid.to_string()));
        }
        for (property, value) in &vm.properties {
            entries.extend(self.valued(property.name(), value, about));
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }

    fn devices(&mut self, vm: &Vm, about: &str) -> Vec<DeviceEntry> {
        let mut devices = Vec::new();
        for (device, how) in vm.assignments.iter() {
            if device.backend.is_some_and(|backend| self.left_out.contains(&backend)) {
                let port = AssignedDevice::written(device.port.as_ref());
                self.findings.problem(
                    0,
                    about,
                    format!("the backend of device '{port}' is left out, and so is it"),
                );
            } else {
                devices.push(self.device(device, how));
            }
        }
        devices
    }

    fn device(&self, device: &AssignedDevice, how: &Assignment) -> DeviceEntry {
        let backend = device.backend.and_then(|vm| self.snapshot.model.name_of(vm));
        DeviceEntry {
            line: 0,
            class: device.class.to_string(),
            backend: Some(backend.map_or_else(|| ANY.to_owned(), |name| name.to_string())),
            port: Some(AssignedDevice::written(device.port.as_ref()).to_owned()),
            identity: Some(AssignedDevice::written(device.id.as_ref()).to_owned()),
            mode: Some(how.mode.to_string()),
            required: None,
            options: how.options.iter().map(|(name, value)| plain(name.as_str(), value.as_str())).collect(),
        }
    }

    /// As the deployed system writes it: the size also where it is the source's, the kernel's version as vid.
    fn volume(&self, vm: &Vm, volume: &VolumeConfig) -> VolumeEntry {
        let model = &self.snapshot.model;
        let vid = match volume.kind {
            VolumeKind::Kernel => Property::Kernel.text(self.snapshot, vm).unwrap_or_default(),
            VolumeKind::Origin | VolumeKind::Snapshot | VolumeKind::Volatile => {
                volume.vid.as_deref().unwrap_or_default().to_owned()
            }
        };
        let word = |flag: bool| if flag { "True" } else { "False" }.to_owned();
        let mut attributes = vec![("pool".to_owned(), volume.pool.to_string()), ("vid".to_owned(), vid)];
        let mut more = |name: &str, value: String| attributes.push((name.to_owned(), value));
        if let Some(revisions) = volume.revisions_to_keep {
            more("revisions_to_keep", revisions.to_string());
        }
        more("rw", word(volume.access == Access::ReadWrite));
        more("save_on_stop", word(volume.kind.save_on_stop()));
        more("snap_on_start", word(volume.kind.snap_on_start()));
        if let Some(ephemeral) = volume.ephemeral {
            more("ephemeral", word(ephemeral));
        }
        let size = volume.size.or_else(|| model.volume_size(vm, volume.name.as_str()));
        if let Some(size) = size.filter(|_| volume.kind != VolumeKind::Kernel) {
            more("size", size.to_string());
        }
        let source = model.volume_source(vm, volume.name.as_str());
        if let Some(vid) = source.and_then(|(_, source)| source.vid.as_deref()) {
            more("source", vid.to_owned());
        }
        VolumeEntry { line: 0, name: volume.name.to_string(), attributes }
    }
}
