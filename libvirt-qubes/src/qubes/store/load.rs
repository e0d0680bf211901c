//! From rows to a model, through the same checks as a Set.
//!
//! A row that breaks a rule is set aside and reported, and keeps what it takes: the rest loads. First each
//! row by itself, then what refers to others, against the whole model.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use uuid::Uuid;

use super::super::assignment::{AssignedDevice, Assignment, AssignmentMode};
use super::super::at_start::{AtStart, Started};
use super::super::class::{VmClass, VolumeKind};
use super::super::firewall::Firewall;
use super::super::global::{Global, GlobalKind};
use super::super::ids::{Dispid, FeatureName, LabelIndex, PendingId, Qid};
use super::super::label::Label;
use super::super::model::{Model, Reference, SetAside};
use super::super::notes::Notes;
use super::super::pending::{Pending, PendingKind, PendingVolume, Reserved};
use super::super::pool::Pool;
use super::super::property::{Property, parse};
use super::super::value::{Type, Value};
use super::super::vm::{Feature, Vm};
use super::super::volume::VolumeConfig;
use super::super::write;
use super::columns::{access_of_word, progress_of_word, sharing_of_word, value_of_text};
use super::error::AtStore;
use super::rows::{
    AssignmentRow, GlobalRow, PendingRow, PendingVolumeRow, Rows, StartedRow, VmRow, VolumeRow,
};
use super::{fit, orphans};
use crate::error::Result;
use crate::ids::{ByteSize, PoolName, VolumeName};
use crate::storage::RevisionsToKeep;

/// A row of `vm_property` with this name is no property: it says why the VM was set aside when it was imported.
pub(super) const SET_ASIDE: &str = "!";

/// Why a row is bad.
type Bad = String;

/// Reads the whole store. Fails only when it cannot be read.
pub(super) fn model(db: &Connection, name: &str) -> Result<Model> {
    let mut rows = Rows::read(db).at_store(name)?;
    let mut loading = Loading { model: Model::default(), known: Known::of(&rows) };
    orphans::find(&rows).into_iter().for_each(|row| loading.set_aside(row));
    loading.labels(&rows);
    loading.pools(&rows);
    for row in std::mem::take(&mut rows.vms) {
        loading.vm(&mut rows, &row);
    }
    for row in &rows.globals {
        loading.global(row);
    }
    for row in &rows.pending {
        loading.pending(row, &rows);
    }
    for path in &rows.pending_folders {
        loading.folder(path);
    }
    Ok(fit::fitting(loading.model))
}

/// What rows may refer to: whatever has a row, good or bad.
struct Known {
    vms: HashSet<String>,
    pools: HashSet<String>,
}

impl Known {
    fn of(rows: &Rows) -> Self {
        Self {
            vms: rows.vms.iter().map(|row| row.uuid.clone()).collect(),
            pools: rows.pools.iter().map(|(name, ..)| name.clone()).collect(),
        }
    }

    fn vm(&self, uuid: &str) -> std::result::Result<Uuid, Bad> {
        if !self.vms.contains(uuid) {
            return Err(format!("refers to VM {uuid}, which does not exist"));
        }
        canonical_uuid(uuid)
    }

    fn pool(&self, name: &str) -> std::result::Result<PoolName, Bad> {
        if !self.pools.contains(name) {
            return Err(format!("refers to pool {name:?}, which does not exist"));
        }
        name.parse().map_err(|error| format!("pool name {name:?}: {error}"))
    }
}

struct Loading {
    model: Model,
    known: Known,
}

pub(super) fn canonical_uuid(text: &str) -> std::result::Result<Uuid, Bad> {
    let uuid = Uuid::try_parse(text).map_err(|error| format!("identity {text:?}: {error}"))?;
    if uuid.to_string() == text {
        Ok(uuid)
    } else {
        Err(format!("identity {text:?} is not in its canonical form"))
    }
}

pub(super) fn aside(table: &'static str, name: &str, reason: Bad) -> SetAside {
    SetAside {
        table,
        name: name.to_owned(),
        uuid: None,
        qid: None,
        dispid: None,
        position: None,
        label: None,
        volumes: Vec::new(),
        pools: Vec::new(),
        references: Vec::new(),
        reason,
    }
}

impl Loading {
    fn set_aside(&mut self, row: SetAside) {
        report(&row);
        self.model.put_set_aside(row);
    }

    fn labels(&mut self, rows: &Rows) {
        for (index, name, colour) in &rows.labels {
            match label(*index, name, colour) {
                Ok(label) if self.model.label_named(name).is_some() => {
                    let reason = "another label has this name".to_owned();
                    self.set_aside(SetAside { label: Some(label.index), ..aside("label", name, reason) });
                }
                Ok(label) => self.model.put_label(Arc::new(label)),
                Err(reason) => {
                    let index = u32::try_from(*index).ok().and_then(LabelIndex::new);
                    self.set_aside(SetAside { label: index, ..aside("label", name, reason) });
                }
            }
        }
    }

    fn pools(&mut self, rows: &Rows) {
        for (name, driver, position) in &rows.pools {
            let options = rows.pool_options.iter().filter(|(pool, ..)| pool == name);
            let options = options.map(|(_, key, value)| (key.as_str().into(), value.as_str().into()));
            let kept = u32::try_from(*position).ok();
            match pool(name, driver, *position, options.collect()) {
                Ok(pool)
                    if self.model.pools().any(|p| p.name == pool.name || p.position == pool.position) =>
                {
                    let reason = "another pool has this name or place".to_owned();
                    self.set_aside(SetAside { position: kept, ..aside("pool", name, reason) });
                }
                Ok(pool) => self.model.put_pool(Arc::new(pool)),
                Err(reason) => self.set_aside(SetAside { position: kept, ..aside("pool", name, reason) }),
            }
        }
    }

    fn vm(&mut self, rows: &mut Rows, row: &VmRow) {
        let reserved = self.reserved(rows, row);
        let mut loose = Vec::new();
        match self.judge_vm(rows, row, &mut loose).and_then(|vm| self.unlike_others(vm)) {
            Ok(vm) => {
                for (table, reason) in loose {
                    let references = reserved.references.clone();
                    self.set_aside(SetAside { references, ..aside(table, &row.name, reason) });
                }
                // Bad rules and notes do no harm to the rest of a VM: no rule holds then, and everything is dropped.
                if let Some(reason) = vm.firewall.damage() {
                    self.set_aside(aside(write::FIREWALL, &row.name, reason.to_owned()));
                }
                if let Notes::Damaged(reason) = &vm.notes {
                    self.set_aside(aside(write::NOTES, &row.name, reason.to_string()));
                }
                self.model.put_vm(Arc::new(vm));
            }
            Err(reason) => self.set_aside(SetAside { reason, ..reserved }),
        }
    }

    /// Nothing of a VM may be another's.
    fn unlike_others(&self, vm: Vm) -> std::result::Result<Vm, Bad> {
        let model = &self.model;
        if model.vm(vm.uuid).is_some() || model.vm_named(vm.name.as_str()).is_some() {
            return Err("another VM has its name or identity".to_owned());
        }
        if model.vm_with_qid(vm.qid).is_some() {
            return Err(format!("another VM has its number {}", vm.qid));
        }
        let taken = |volume: &&Arc<VolumeConfig>| {
            volume.vid.as_deref().is_some_and(|vid| model.occupant(volume.pool.as_str(), vid).is_some())
        };
        match vm.volumes.iter().find(taken) {
            Some(volume) => Err(format!("volume {} is another VM's too", volume.name)),
            None => Ok(vm),
        }
    }

    /// What a VM's row keeps from others, should it be bad.
    fn reserved(&self, rows: &Rows, row: &VmRow) -> SetAside {
        let volumes = rows.volumes.get(&row.uuid).into_iter().flatten();
        let started = rows.started.get(&row.uuid).into_iter().flatten();
        let pools = volumes.clone().map(|volume| &volume.pool).chain(started.map(|started| &started.pool));
        let pools = pools.filter_map(|pool| pool.parse().ok()).collect();
        let references = rows.references.get(&row.uuid).into_iter().flatten();
        let references = references.filter_map(|(name, target)| {
            Some((canonical_uuid(target.as_deref()?).ok()?, Reference::Property(name.clone())))
        });
        let devices = rows.assignments.get(&row.uuid).into_iter().flatten();
        let devices = devices.filter_map(|device| {
            Some((canonical_uuid(device.backend.as_deref()?).ok()?, Reference::Device(device.port.clone())))
        });
        let mut properties = rows.properties.get(&row.uuid).into_iter().flatten();
        let dispid = properties.find(|(name, _)| name == Property::Dispid.name());
        SetAside {
            uuid: canonical_uuid(&row.uuid).ok(),
            qid: Some(row.qid),
            dispid: dispid.and_then(|(_, number)| number.parse().ok()),
            label: u32::try_from(row.label).ok().and_then(LabelIndex::new),
            volumes: volumes
                .filter_map(|volume| Some((volume.pool.parse().ok()?, volume.vid.as_deref()?.into())))
                .collect(),
            pools,
            references: references.chain(devices).collect(),
            ..aside("vm", &row.name, Bad::new())
        }
    }

    /// The VM of a row. There is no model without dom0: what is bad of its row, or belongs to it and is bad, is `loose`,
    /// by table, and it loads without.
    fn judge_vm(
        &self,
        rows: &mut Rows,
        row: &VmRow,
        loose: &mut Vec<(&'static str, Bad)>,
    ) -> std::result::Result<Vm, Bad> {
        let uuid = canonical_uuid(&row.uuid)?;
        let mut bad = |table, reason| {
            if uuid != Vm::DOM0 {
                return Err(reason);
            }
            loose.push((table, reason));
            Ok(())
        };
        let fixed = |row: &VmRow| (row.qid, row.name.as_str(), row.class.as_str()) == (0, "dom0", "AdminVM");
        let anew;
        let row = if uuid == Vm::DOM0 && !fixed(row) {
            bad("vm", "dom0 has class AdminVM and number 0".to_owned())?;
            anew = VmRow { qid: 0, name: "dom0".to_owned(), class: "AdminVM".to_owned(), ..row.clone() };
            &anew
        } else {
            row
        };
        let qid = u16::try_from(row.qid).ok().and_then(Qid::new);
        let class = row.class.parse::<VmClass>().map_err(|error| format!("{error}: {:?}", row.class))?;
        let label = u32::try_from(row.label).ok().and_then(LabelIndex::new);
        let label = label.filter(|index| self.label_exists(*index));
        let label = match label.ok_or_else(|| format!("label {} does not exist", row.label)) {
            Ok(label) => label,
            Err(reason) => {
                bad("label", reason.clone())?;
                self.model.labels().next().map(|label| label.index).ok_or(reason)?
            }
        };
        let mut vm = Vm {
            uuid,
            qid: qid.ok_or_else(|| format!("number {} is out of range", row.qid))?,
            name: row.name.parse().map_err(|error| format!("name {:?}: {error}", row.name))?,
            class,
            label,
            properties: BTreeMap::new(),
            volumes: Vec::new(),
            tags: BTreeSet::new(),
            features: BTreeMap::new(),
            assignments: Arc::default(),
            firewall: Firewall::default(),
            notes: Notes::default(),
            started: Started::new(),
        };
        let admin = (uuid == Vm::DOM0, vm.qid == Qid::DOM0, vm.name.is_dom0(), class == VmClass::AdminVm);
        if !matches!(admin, (true, true, true, true) | (false, false, false, false)) {
            return Err("dom0 alone has class AdminVM, number 0 and the identity of zeros".to_owned());
        }
        for (name, text) in rows.properties.remove(&row.uuid).unwrap_or_default() {
            if name == SET_ASIDE {
                return Err(text);
            }
            match plain_value(class, &name, &text) {
                Ok((property, value)) => drop(vm.properties.insert(property, value)),
                Err(reason) => bad("vm_property", reason)?,
            }
        }
        for (name, target) in rows.references.remove(&row.uuid).unwrap_or_default() {
            match self.reference(class, &name, target) {
                Ok((property, value)) => drop(vm.properties.insert(property, value)),
                Err(reason) => bad("vm_reference", reason)?,
            }
        }
        if vm.properties.contains_key(&Property::Dispid) {
            let dispid = vm.dispid().ok_or("property dispid is out of range")?;
            if !self.model.dispid_is_free(dispid) {
                return Err(format!("property dispid is {dispid}, which is another VM's"));
            }
        }
        for volume in rows.volumes.remove(&row.uuid).unwrap_or_default() {
            let name = volume.name.clone();
            let volume = self.volume(volume).map_err(|bad| format!("volume {name:?}: {bad}"))?;
            vm.volumes.push(Arc::new(volume));
        }
        for tag in rows.tags.remove(&row.uuid).unwrap_or_default() {
            match tag.parse() {
                Ok(tag) => drop(vm.tags.insert(tag)),
                Err(error) => bad("tag", format!("tag {tag:?}: {error}"))?,
            }
        }
        for (name, value, position) in rows.features.remove(&row.uuid).unwrap_or_default() {
            match feature(&name, &value, position) {
                Ok((name, feature)) => drop(vm.features.insert(name, feature)),
                Err(reason) => bad("feature", reason)?,
            }
        }
        let assignments = rows.assignments.remove(&row.uuid).unwrap_or_default();
        let mut assigned = BTreeMap::new();
        for assignment in assignments {
            let options = rows.assignment_options.remove(&assignment.id).unwrap_or_default();
            let port = assignment.port.clone();
            match self.assignment(assignment, options) {
                Ok((device, how)) => drop(assigned.insert(device, how)),
                Err(reason) => bad("assignment", format!("device {port:?}: {reason}"))?,
            }
        }
        if !assigned.is_empty() {
            vm.assignments = Arc::new(assigned);
        }
        vm.firewall = firewall(rows, row, class);
        if let Some(text) = rows.notes.remove(&row.uuid).and_then(|mut texts| texts.pop()) {
            vm.notes = Notes::stored(&text);
        }
        for started in rows.started.remove(&row.uuid).unwrap_or_default() {
            match self.started(&started) {
                Ok((place, at_start)) => drop(vm.started.insert(place, at_start)),
                Err(reason) => {
                    bad("started_volume", format!("started volume {:?}: {reason}", started.volume))?
                }
            }
        }
        Ok(vm)
    }

    fn reference(
        &self,
        class: VmClass,
        name: &str,
        target: Option<String>,
    ) -> std::result::Result<(Property, Value), Bad> {
        let property = applicable(class, name)?;
        if property.row().kind != Type::Vm {
            return Err(format!("property {name} refers to no VM"));
        }
        let target = target.map(|target| self.known.vm(&target)).transpose();
        let target = target.map_err(|bad| format!("property {name} {bad}"))?;
        Ok((property, judge(property, Value::Vm(target))?))
    }

    fn assignment(
        &self,
        row: AssignmentRow,
        options: Vec<(String, String)>,
    ) -> std::result::Result<(AssignedDevice, Assignment), Bad> {
        let part = |text: &str| AssignedDevice::part(text).map_err(|error| format!("{error}: {text:?}"));
        let device = AssignedDevice {
            class: row.class.parse().map_err(|error| format!("class {:?}: {error}", row.class))?,
            backend: row.backend.map(|backend| self.known.vm(&backend)).transpose()?,
            port: part(&row.port)?,
            id: part(&row.device)?,
        };
        let mode = AssignmentMode::named(&row.mode).ok_or_else(|| format!("mode {:?}", row.mode))?;
        let option = |(name, value): (String, String)| -> std::result::Result<_, Bad> {
            let value = value.parse().map_err(|error| format!("option {name:?}: {error}"))?;
            Ok((name.parse().map_err(|error| format!("option {name:?}: {error}"))?, value))
        };
        let options = options.into_iter().map(option).collect::<std::result::Result<_, Bad>>()?;
        Ok((device, Assignment { mode, options }))
    }

    fn label_exists(&self, index: LabelIndex) -> bool {
        self.model.label(index).is_some()
            || self.model.set_aside().any(|row| row.table == "label" && row.label == Some(index))
    }

    fn volume(&self, row: VolumeRow) -> std::result::Result<VolumeConfig, Bad> {
        let kind = VolumeKind::parse(&row.kind).ok_or_else(|| format!("kind {:?}", row.kind))?;
        if row.vid.is_none() != (kind == VolumeKind::Kernel) {
            return Err("its name in the pool is missing, or it is a kernel with one".to_owned());
        }
        let size = row.size.map(|size| u64::try_from(size).map(ByteSize::bytes)).transpose();
        let revisions = row.revisions_to_keep.map(i32::try_from).transpose();
        Ok(VolumeConfig {
            name: row.name.parse().map_err(|error| format!("{error}"))?,
            pool: self.known.pool(&row.pool)?,
            vid: row.vid.map(Into::into),
            kind,
            size: size.map_err(|_| "negative size")?,
            access: access_of_word(&row.access).ok_or_else(|| format!("access {:?}", row.access))?,
            revisions_to_keep: revisions
                .ok()
                .filter(|n| n.is_none_or(|n| n >= -1))
                .ok_or("revisions_to_keep")?,
            ephemeral: row.ephemeral.map(|flag| flag != 0),
            last_snapshot: u64::try_from(row.last_snapshot)
                .map_err(|_| "negative number of its snapshots")?,
        })
    }

    fn started(&self, row: &StartedRow) -> std::result::Result<((VolumeName, PoolName), AtStart), Bad> {
        let at_start = AtStart {
            revisions_to_keep: RevisionsToKeep::try_from(row.revisions_to_keep)
                .map_err(|error| error.to_string())?,
            access: access_of_word(&row.access).ok_or_else(|| format!("access {:?}", row.access))?,
            sharing: sharing_of_word(&row.sharing).ok_or_else(|| format!("sharing {:?}", row.sharing))?,
            ephemeral: row.ephemeral != 0,
        };
        let volume = row.volume.parse().map_err(|error| format!("{error}"))?;
        Ok(((volume, self.known.pool(&row.pool)?), at_start))
    }

    fn global(&mut self, row: &GlobalRow) {
        match self.judge_global(row) {
            Ok((global, value)) => self.model.put_global(global, Some(value)),
            Err(reason) => {
                let vm = row.vm.as_deref().and_then(|uuid| canonical_uuid(uuid).ok());
                let as_value = |vm| (vm, Reference::Property(row.name.clone()));
                let references = vm.into_iter().map(as_value).collect();
                let pools = row.pool.as_deref().and_then(|pool| pool.parse().ok()).into_iter().collect();
                self.set_aside(SetAside { references, pools, ..aside("global", &row.name, reason) });
            }
        }
    }

    fn judge_global(&self, row: &GlobalRow) -> std::result::Result<(Global, Value), Bad> {
        let global = Global::named(&row.name).ok_or("no such property")?;
        let rules = global.rules().ok_or("it is computed")?;
        let text = |kind| {
            let text = row.value.as_deref().ok_or("it has no value")?;
            value_of_text(kind, text).ok_or_else(|| format!("it has the value {text:?}"))
        };
        let value = match global.kind() {
            GlobalKind::Str => printable(text(Type::Str)?)?,
            GlobalKind::Int => text(Type::Int)?,
            GlobalKind::Bool => text(Type::Bool)?,
            GlobalKind::Vm | GlobalKind::Pool if row.value.is_some() => {
                return Err("it has the value of another type".to_owned());
            }
            GlobalKind::Vm => Value::Vm(row.vm.as_deref().map(|vm| self.known.vm(vm)).transpose()?),
            GlobalKind::Pool => Value::Pool(self.known.pool(row.pool.as_deref().ok_or("it names no pool")?)?),
        };
        let canonical = (rules.canonical)(value.clone()).map_err(|refusal| refusal.of_stored())?;
        if canonical == value {
            Ok((global, value))
        } else {
            Err(format!("it has the value {}", value.quoted()))
        }
    }

    fn pending(&mut self, row: &PendingRow, rows: &Rows) {
        let volumes = rows.pending_volumes.iter().filter(|(id, _)| *id == row.id).map(|(_, volume)| volume);
        match self.judge_pending(row, volumes.clone()).and_then(|row| self.alone(row)) {
            Ok(row) => self.model.put_pending(Arc::new(row)),
            Err(reason) => {
                let pools = volumes.clone().filter_map(|v| v.pool.parse().ok()).collect();
                let volumes = volumes.filter_map(|v| Some((v.pool.parse().ok()?, v.vid.as_str().into())));
                self.set_aside(SetAside {
                    uuid: canonical_uuid(&row.uuid).ok(),
                    qid: Some(row.qid),
                    dispid: row.dispid,
                    volumes: volumes.collect(),
                    pools,
                    ..aside("pending", &row.name, reason)
                });
            }
        }
    }

    /// What an operation makes or removes is no VM's: settling it must not take anything from one.
    fn alone(&self, row: Pending) -> std::result::Result<Pending, Bad> {
        let (model, vm) = (&self.model, &row.vm);
        if model.pending_row(row.id).is_some() {
            return Err(format!("another operation has its number {}", row.id));
        }
        if !row.kind.reserves() {
            return match row.kind.is_start() && (!model.has_row(vm.uuid) || model.start_pending(vm.uuid)) {
                true => Err("its VM does not exist, or is being started by another operation".to_owned()),
                false => Ok(row),
            };
        }
        if model.has_row(vm.uuid)
            || model.vm_named(vm.name.as_str()).is_some()
            || model.vm_with_qid(vm.qid).is_some()
        {
            return Err("a VM has the name, number or identity that it reserves".to_owned());
        }
        let taken = |volume: &&PendingVolume| model.occupant(volume.pool.as_str(), &volume.vid).is_some();
        match row.volumes.iter().find(taken) {
            Some(volume) => Err(format!("its volume {} is another's", volume.vid)),
            None => Ok(row),
        }
    }

    fn folder(&mut self, path: &str) {
        if Path::new(path).is_absolute() {
            self.model.put_folder(path.into());
        } else {
            self.set_aside(aside("pending_folder", path, "it is no absolute path".to_owned()));
        }
    }

    fn judge_pending<'a>(
        &self,
        row: &PendingRow,
        volumes: impl Iterator<Item = &'a PendingVolumeRow>,
    ) -> std::result::Result<Pending, Bad> {
        let kind = PendingKind::from_words(&row.kind, row.phase.as_deref());
        let qid = u16::try_from(row.qid).ok().and_then(Qid::new);
        let volume = |row: &PendingVolumeRow| -> std::result::Result<PendingVolume, Bad> {
            Ok(PendingVolume {
                volume: row.volume.parse().map_err(|error| format!("volume {:?}: {error}", row.volume))?,
                pool: self.known.pool(&row.pool)?,
                vid: row.vid.as_str().into(),
                progress: progress_of_word(&row.progress)
                    .ok_or_else(|| format!("progress {:?}", row.progress))?,
            })
        };
        let dispid = row.dispid.map(|number| {
            let dispid = u16::try_from(number).ok().and_then(Dispid::new);
            dispid.ok_or_else(|| format!("number {number} of a disposable is out of range"))
        });
        Ok(Pending {
            id: PendingId::new(u64::try_from(row.id).map_err(|_| "negative id")?),
            kind: kind.ok_or_else(|| {
                let phase = row.phase.as_deref().unwrap_or("none");
                format!("operation {:?}, phase {phase:?}", row.kind)
            })?,
            vm: Reserved {
                uuid: canonical_uuid(&row.uuid)?,
                qid: qid.ok_or_else(|| format!("number {} is out of range", row.qid))?,
                name: row.name.parse().map_err(|error| format!("name {:?}: {error}", row.name))?,
                dispid: dispid.transpose()?,
            },
            volumes: volumes.map(volume).collect::<std::result::Result<_, Bad>>()?,
        })
    }
}

fn firewall(rows: &mut Rows, row: &VmRow, class: VmClass) -> Firewall {
    let last_id = rows.firewalls.remove(&row.uuid).and_then(|mut ids| ids.pop());
    let rules = rows.rules.remove(&row.uuid).unwrap_or_default();
    match class {
        _ if last_id.is_none() && rules.is_empty() => Firewall::default(),
        VmClass::AppVm | VmClass::DispVm | VmClass::StandaloneVm | VmClass::TemplateVm => {
            Firewall::stored(last_id, &rules)
        }
        VmClass::AdminVm | VmClass::RemoteVm => {
            let last_id = Firewall::stored(last_id, &rules).last_id();
            Firewall::damaged(last_id, format!("a VM of class {class} has no firewall"))
        }
    }
}

pub(super) fn report(row: &SetAside) {
    tracing::error!(
        table = row.table,
        name = row.name,
        reason = row.reason,
        "bad row in the store set aside"
    );
}

fn label(index: i64, name: &str, colour: &str) -> std::result::Result<Label, Bad> {
    let index = u32::try_from(index).ok().and_then(LabelIndex::new);
    Ok(Label {
        index: index.ok_or("index is out of range")?,
        name: name.parse().map_err(|error| format!("{error}"))?,
        colour: colour.parse().map_err(|error| format!("{error}"))?,
    })
}

fn pool(
    name: &str,
    driver: &str,
    position: i64,
    options: BTreeMap<Arc<str>, Arc<str>>,
) -> std::result::Result<Pool, Bad> {
    Ok(Pool {
        name: name.parse().map_err(|error| format!("{error}"))?,
        driver: driver.into(),
        options,
        position: u32::try_from(position).map_err(|_| "position is out of range")?,
    })
}

fn applicable(class: VmClass, name: &str) -> std::result::Result<Property, Bad> {
    Property::named(name)
        .filter(|property| property.applies_to(class) && property.is_stored())
        .ok_or_else(|| format!("a VM of class {class} has no property {name:?} to set"))
}

/// A stored value that refers to nothing.
fn plain_value(class: VmClass, name: &str, text: &str) -> std::result::Result<(Property, Value), Bad> {
    let property = applicable(class, name)?;
    let value = value_of_text(property.row().kind, text);
    let value = value.ok_or_else(|| format!("property {name} has the value {text:?}"))?;
    Ok((property, judge(property, value)?))
}

fn feature(name: &str, value: &str, position: i64) -> std::result::Result<(FeatureName, Feature), Bad> {
    let value = value.parse().map_err(|error| format!("feature {name:?}: {error}"))?;
    let position = u64::try_from(position).map_err(|_| format!("feature {name:?} has no place"))?;
    Ok((name.parse().map_err(|error| format!("feature {name:?}: {error}"))?, Feature { value, position }))
}

/// Text holds no characters that a Set would refuse.
fn printable(value: Value) -> std::result::Result<Value, Bad> {
    match value.as_str() {
        Some(text) if !text.bytes().all(parse::printable) => Err(format!("invalid characters in {text:?}")),
        Some(_) | None => Ok(value),
    }
}

/// The rules of a value by itself.
fn judge(property: Property, value: Value) -> std::result::Result<Value, Bad> {
    let value = printable(value).map_err(|bad| format!("property {property}: {bad}"))?;
    let canonical = property
        .canonical(value.clone())
        .map_err(|bad| format!("property {property}: {}", bad.of_stored()))?;
    if canonical == value {
        Ok(value)
    } else {
        Err(format!("property {property} has the value {}", value.quoted()))
    }
}
