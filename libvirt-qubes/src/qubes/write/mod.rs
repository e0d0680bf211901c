//! The kinds of change of a row: what each does to the model, and, next to it, what it does to the store.
//!
//! A write checks nothing that a rule should have refused; what contradicts the model or a foreign key
//! fails the change that it belongs to, as the bug that it is.

mod assignment;
mod firewall;
mod label;
mod notes;
mod pending;
mod pool;
mod property;
mod started;
mod vm;

use std::sync::Arc;

use rusqlite::Connection;
use uuid::Uuid;

use super::assignment::{AssignedDevice, Assignment};
use super::at_start::Started;
use super::firewall::{Entry, Firewall, RuleId};
use super::global::Global;
use super::ids::{FeatureName, FeatureValue, LabelIndex, PendingId, Tag};
use super::label::Label;
use super::model::{Inconsistent, Model};
use super::notes::NotesText;
use super::pending::{Pending, PendingKind, VolumeProgress};
use super::pool::Pool;
use super::property::Property;
use super::value::Value;
use super::vm::Vm;
use super::volume::VolumeConfig;
use crate::ids::{PoolName, VolumeName};

pub(super) use self::firewall::TABLE as FIREWALL;
pub(super) use self::notes::TABLE as NOTES;

/// A change of one row, or of the rows of one object.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Adds a VM with all that belongs to it.
    AddVm(Arc<Vm>),
    /// Removes a VM with all that belongs to it. Nobody may refer to it any more.
    RemoveVm(Uuid),
    /// Sets a property of a VM (`None`: back to the default), the label included.
    SetProperty(Uuid, Property, Option<Value>),
    /// Adds a volume to a VM, as its last, or replaces its configuration.
    SetVolume(Uuid, Arc<VolumeConfig>),
    /// Takes a volume out of a VM.
    RemoveVolume(Uuid, VolumeName),
    /// Adds a tag.
    AddTag(Uuid, Tag),
    /// Removes a tag.
    RemoveTag(Uuid, Tag),
    /// Sets a feature; a new one comes last (`None`: removes it).
    SetFeature(Uuid, FeatureName, Option<FeatureValue>),
    /// Assigns a device to a VM, or replaces how it is assigned.
    SetAssignment(Uuid, AssignedDevice, Assignment),
    /// Takes an assignment back.
    RemoveAssignment(Uuid, AssignedDevice),
    /// Gives a VM another list of firewall rules.
    SetFirewall(Uuid, Firewall),
    /// Puts a firewall rule into a list that is not the default one.
    InsertRule(Uuid, Entry),
    /// Takes firewall rules out of a list that is not the default one.
    RemoveRules(Uuid, Vec<RuleId>),
    /// Gives a VM other notes (empty: none).
    SetNotes(Uuid, NotesText),
    /// Notes other volumes of a VM as started.
    SetStarted(Uuid, Started),
    /// Sets a global property (`None`: back to the default).
    SetGlobal(Global, Option<Value>),
    /// Adds a label.
    AddLabel(Arc<Label>),
    /// Removes a label.
    RemoveLabel(LabelIndex),
    /// Adds a pool, or replaces the options of one in its place.
    SetPool(Arc<Pool>),
    /// Removes a pool.
    RemovePool(PoolName),
    /// Notes a folder that will be made for a pool; one that is noted stays so.
    BeginFolder(Arc<str>),
    /// Ends that: the folder is a pool's, or gone.
    EndFolder(Arc<str>),
    /// Begins an operation.
    BeginPending(Arc<Pending>),
    /// Says how far an operation has come.
    AdvancePending(PendingId, PendingKind),
    /// Records what became of a volume of an operation.
    RecordVolume(PendingId, VolumeName, VolumeProgress),
    /// Forgets a volume of an operation: it is gone from disk, or not this operation's any more.
    ForgetVolume(PendingId, VolumeName),
    /// Ends an operation.
    FinishPending(PendingId),
}

impl Write {
    /// Does the change to the model.
    pub(super) fn apply(&self, model: &mut Model) -> Result<(), Inconsistent> {
        match self {
            Self::AddVm(vm) => vm::add(model, vm),
            Self::RemoveVm(uuid) => vm::remove(model, *uuid),
            Self::SetProperty(vm, property, value) => property::set(model, *vm, *property, value.as_ref()),
            Self::SetVolume(vm, volume) => vm::set_volume(model, *vm, volume),
            Self::RemoveVolume(vm, name) => vm::remove_volume(model, *vm, name),
            Self::AddTag(vm, tag) => vm::add_tag(model, *vm, tag),
            Self::RemoveTag(vm, tag) => vm::remove_tag(model, *vm, tag),
            Self::SetFeature(vm, name, value) => vm::set_feature(model, *vm, name, value.as_ref()),
            Self::SetAssignment(vm, device, how) => assignment::set(model, *vm, device, how),
            Self::RemoveAssignment(vm, device) => assignment::remove(model, *vm, device),
            Self::SetFirewall(vm, list) => firewall::set(model, *vm, list),
            Self::InsertRule(vm, entry) => firewall::insert(model, *vm, entry),
            Self::RemoveRules(vm, ids) => firewall::remove(model, *vm, ids),
            Self::SetNotes(vm, text) => notes::set(model, *vm, text),
            Self::SetStarted(vm, volumes) => started::set(model, *vm, volumes),
            Self::SetGlobal(global, value) => property::set_global(model, *global, value.as_ref()),
            Self::AddLabel(label) => label::add(model, label),
            Self::RemoveLabel(index) => label::remove(model, *index),
            Self::SetPool(pool) => pool::set(model, pool),
            Self::RemovePool(name) => pool::remove(model, name),
            Self::BeginFolder(path) => pool::begin_folder(model, path),
            Self::EndFolder(path) => model.take_folder(path),
            Self::BeginPending(row) => pending::begin(model, row),
            Self::AdvancePending(id, kind) => pending::advance(model, *id, *kind),
            Self::RecordVolume(id, volume, progress) => pending::record(model, *id, volume, *progress),
            Self::ForgetVolume(id, volume) => pending::forget(model, *id, volume),
            Self::FinishPending(id) => pending::finish(model, *id),
        }
    }

    /// Does the change to the store, inside the caller's transaction.
    pub(super) fn execute(&self, db: &Connection) -> rusqlite::Result<()> {
        match self {
            Self::AddVm(vm) => vm::insert(db, vm),
            Self::RemoveVm(uuid) => vm::delete(db, *uuid),
            Self::SetProperty(vm, property, value) => property::store(db, *vm, *property, value.as_ref()),
            Self::SetVolume(vm, volume) => vm::store_volume(db, *vm, volume),
            Self::RemoveVolume(vm, name) => vm::delete_volume(db, *vm, name),
            Self::AddTag(vm, tag) => vm::insert_tag(db, *vm, tag),
            Self::RemoveTag(vm, tag) => vm::delete_tag(db, *vm, tag),
            Self::SetFeature(vm, name, value) => vm::store_feature(db, *vm, name, value.as_ref()),
            Self::SetAssignment(vm, device, how) => assignment::store(db, *vm, device, how),
            Self::RemoveAssignment(vm, device) => assignment::delete(db, *vm, device),
            Self::SetFirewall(vm, list) => firewall::store(db, *vm, list),
            Self::InsertRule(vm, entry) => firewall::store_rule(db, *vm, entry),
            Self::RemoveRules(vm, ids) => firewall::delete(db, *vm, ids),
            Self::SetNotes(vm, text) => notes::store(db, *vm, text),
            Self::SetStarted(vm, volumes) => started::store(db, *vm, volumes),
            Self::SetGlobal(global, value) => property::store_global(db, *global, value.as_ref()),
            Self::AddLabel(label) => label::insert(db, label),
            Self::RemoveLabel(index) => label::delete(db, *index),
            Self::SetPool(pool) => pool::store(db, pool),
            Self::RemovePool(name) => pool::delete(db, name),
            Self::BeginFolder(path) => pool::insert_folder(db, path),
            Self::EndFolder(path) => pool::delete_folder(db, path),
            Self::BeginPending(row) => pending::insert(db, row),
            Self::AdvancePending(id, kind) => pending::store_kind(db, *id, *kind),
            Self::RecordVolume(id, volume, progress) => pending::store_volume(db, *id, volume, *progress),
            Self::ForgetVolume(id, volume) => pending::delete_volume(db, *id, volume),
            Self::FinishPending(id) => pending::delete(db, *id),
        }
    }
}

pub(super) use vm::store_volume as volume;

/// Fails unless a statement changed exactly one row: the row that the model says is there.
fn one(changed: usize) -> rusqlite::Result<()> {
    if changed == 1 { Ok(()) } else { Err(rusqlite::Error::StatementChangedRows(changed)) }
}

fn unless(wrong: bool, what: impl FnOnce() -> String) -> Result<(), Inconsistent> {
    if wrong { Err(Inconsistent(what())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::assignment::AssignmentMode;
    use super::super::at_start::AtStart;
    use super::super::class::{VmClass, VolumeKind};
    use super::super::create;
    use super::super::ids::{Dispid, Qid};
    use super::super::pending::{PendingVolume, Reserved, StartPhase};
    use super::super::store::Store;
    use super::super::testing::{self, new_vm};
    use super::*;
    use crate::config::Access;
    use crate::ids::ByteSize;
    use crate::storage::Sharing;

    fn vm(
        state: &super::super::snapshot::Snapshot,
        name: &str,
        class: VmClass,
        template: Option<&str>,
    ) -> Arc<Vm> {
        create::begin(state, &new_vm(name, class, template)).unwrap().answer.vm
    }

    /// Does a write to both, and compares the model with what the store then holds.
    fn both(store: &Store, model: &mut Model, write: &Write) {
        write.apply(model).unwrap_or_else(|error| panic!("{write:?}: {error}"));
        write.execute(&store.db).unwrap_or_else(|error| panic!("{write:?}: {error}"));
        let read = store.read().unwrap();
        assert_eq!(read.set_aside().count(), 0, "{write:?}");
        assert!(read.same_rows(model), "{write:?}");
        assert_eq!(*model, model.reindexed(), "{write:?}");
    }

    #[test]
    fn every_write_does_the_same_to_the_store_as_to_the_model() {
        let dir = tempfile::tempdir().unwrap();
        let opened = testing::open(dir.path());
        let (store, mut model) = (opened.store, opened.model);
        store.db.execute_batch("BEGIN").unwrap();
        let name = |name: &str| name.parse::<VolumeName>().unwrap();
        let pool = |name: &str, options: &[(&str, &str)]| {
            let options = options.iter().map(|(key, value)| ((*key).into(), (*value).into()));
            let options: BTreeMap<_, _> = options.collect();
            Arc::new(Pool { name: name.parse().unwrap(), driver: "file".into(), options, position: 7 })
        };
        let volume = |pool: &str, vid: Option<&str>, kind| {
            Arc::new(VolumeConfig {
                name: name("extra"),
                pool: pool.parse().unwrap(),
                vid: vid.map(Into::into),
                kind,
                size: vid.map(|_| ByteSize::bytes(513)),
                access: Access::ReadOnly,
                revisions_to_keep: Some(-1),
                ephemeral: Some(false),
                last_snapshot: 3,
            })
        };
        let debian = vm(&testing::snapshot_of(model.clone()), "debian", VmClass::TemplateVm, None);
        both(&store, &mut model, &Write::AddVm(debian.clone()));
        let work = vm(&testing::snapshot_of(model.clone()), "work", VmClass::AppVm, Some("debian"));
        let (a, d) = (work.uuid, debian.uuid);
        let label = Label {
            index: LabelIndex::new(9).unwrap(),
            name: "pink".parse().unwrap(),
            colour: "0xFFc0cb".parse().unwrap(),
        };
        let start = Pending {
            id: PendingId::new(5),
            kind: PendingKind::Start(StartPhase::Building),
            vm: Reserved::of(&work),
            volumes: Vec::new(),
        };
        let run = Pending { id: PendingId::new(7), kind: PendingKind::Run, ..start.clone() };
        let import = Pending { id: PendingId::new(8), kind: PendingKind::Import, ..start.clone() };
        let planned = |volume: &str| PendingVolume {
            volume: name(volume),
            pool: "fast".parse().unwrap(),
            vid: format!("appvms/new/{volume}").into(),
            progress: VolumeProgress::Planned,
        };
        let create = Pending {
            id: PendingId::new(6),
            kind: PendingKind::Create,
            vm: Reserved {
                uuid: Uuid::from_u128(77),
                qid: Qid::new(50).unwrap(),
                name: "new".parse().unwrap(),
                dispid: Dispid::new(9999),
            },
            volumes: vec![planned("root"), planned("private")],
        };
        let set = |vm, property, value| Write::SetProperty(vm, property, Some(value));
        let unset = |vm, property| Write::SetProperty(vm, property, None);
        let feature = |name: &str, value: Option<&str>| {
            Write::SetFeature(a, name.parse().unwrap(), value.map(|value| value.parse().unwrap()))
        };
        let firewall = |last_id, rules: &[(i64, &str)]| {
            let rules = (7..).zip(rules).map(|(position, (id, rule))| (*id, position, (*rule).to_owned()));
            let list = Firewall::stored(Some(last_id), &rules.collect::<Vec<_>>());
            assert_eq!(list.damage(), None);
            Write::SetFirewall(a, list)
        };
        let insert = |id, position, line: &str| {
            let rule = Arc::new(line.parse().unwrap());
            Write::InsertRule(a, Entry { id: RuleId::new(id).unwrap(), rule, position })
        };
        let notes = |text: &str| Write::SetNotes(a, NotesText::sanitised(text.as_bytes()).unwrap());
        let started = |volumes: &[(&str, &str, i64)]| {
            let volumes = volumes.iter().map(|(volume, pool, keep)| {
                let at_start = AtStart {
                    revisions_to_keep: (*keep).try_into().unwrap(),
                    access: Access::ReadOnly,
                    sharing: Sharing::Source,
                    ephemeral: *keep == 2,
                };
                ((name(volume), pool.parse().unwrap()), at_start)
            });
            Write::SetStarted(a, volumes.collect())
        };
        let tag = |tag: &str| tag.parse::<Tag>().unwrap();
        let device = |backend, port: &str| AssignedDevice {
            class: "block".parse().unwrap(),
            backend,
            port: AssignedDevice::part(port).unwrap(),
            id: Some("0951:1666".parse().unwrap()),
        };
        let assignment = |mode, options: &[(&str, &str)]| {
            let options = options.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            Assignment { mode, options: options.collect() }
        };
        let (auto, ask) = (AssignmentMode::AutoAttach, AssignmentMode::AskToAttach);
        let with_options = assignment(auto, &[("read-only", "yes"), ("frontend-dev", "")]);
        for write in [
            Write::AddVm(work),
            set(a, Property::Memory, Value::Int(500)),
            set(a, Property::Memory, Value::Int(501)),
            set(a, Property::Debug, Value::Bool(true)),
            set(a, Property::Kernelopts, Value::text("a\nb 'c' \"d\"")),
            unset(a, Property::Memory),
            unset(a, Property::Vcpus),
            set(a, Property::TemplateForDispvms, Value::Bool(true)),
            set(d, Property::DefaultDispvm, Value::Vm(Some(a))),
            set(d, Property::DefaultDispvm, Value::Vm(None)),
            unset(d, Property::DefaultDispvm),
            Write::AddLabel(Arc::new(label)),
            set(a, Property::Label, Value::Label(LabelIndex::new(9).unwrap())),
            set(a, Property::Label, Value::Label(LabelIndex::new(1).unwrap())),
            Write::RemoveLabel(LabelIndex::new(9).unwrap()),
            Write::SetPool(pool("fast", &[("dir_path", "/x"), ("revisions_to_keep", "1")])),
            Write::SetPool(pool("fast", &[("dir_path", "/y")])),
            Write::SetVolume(a, volume("fast", Some("appvms/work/extra"), VolumeKind::Origin)),
            Write::SetVolume(a, volume("varlibqubes", Some("elsewhere"), VolumeKind::Volatile)),
            Write::SetVolume(a, volume("linux-kernel", None, VolumeKind::Kernel)),
            Write::RemoveVolume(a, name("extra")),
            Write::AddTag(a, tag("two")),
            Write::AddTag(a, tag("one")),
            Write::RemoveTag(a, tag("two")),
            feature("b", Some("1")),
            feature("a", Some("")),
            feature("b", Some("2")),
            feature("a", None),
            feature("c", Some("3")),
            Write::SetAssignment(a, device(Some(d), "sda"), with_options.clone()),
            Write::SetAssignment(a, device(None, "*"), assignment(ask, &[])),
            Write::SetAssignment(a, device(None, "*"), assignment(auto, &[("read-only", "no")])),
            Write::SetAssignment(a, device(Some(a), "sda"), with_options.clone()),
            Write::SetAssignment(a, device(Some(d), "sda"), assignment(ask, &[("read-only", "no")])),
            Write::RemoveAssignment(a, device(Some(d), "sda")),
            Write::SetAssignment(d, device(Some(d), "sda"), with_options),
            firewall(2, &[(2, "action=accept proto=tcp dstports=80-80 comment=web"), (1, "action=accept")]),
            insert(3, 1, "action=drop dst6=::1/128 expire=5"),
            insert(4, i64::MAX, "action=drop dst4=1.2.3.4/32"),
            Write::RemoveRules(a, vec![RuleId::new(3).unwrap(), RuleId::new(1).unwrap()]),
            firewall(4, &[]),
            firewall(7, &[(4, "action=drop proto=icmp"), (3, "action=drop proto=icmp")]),
            Write::SetFirewall(d, Firewall::closed()),
            Write::SetFirewall(d, Firewall::default()),
            notes("line\n\tand 'more' \"text\""),
            notes("other"),
            notes(""),
            notes("again"),
            started(&[("root", "varlibqubes", -1), ("root", "fast", 3)]),
            started(&[("root", "fast", 2), ("private", "fast", 2)]),
            started(&[]),
            Write::SetGlobal(Global::DefaultTemplate, Some(Value::Vm(Some(d)))),
            Write::SetGlobal(Global::DefaultTemplate, Some(Value::Vm(None))),
            Write::SetGlobal(Global::DefaultPoolRoot, Some(Value::Pool("fast".parse().unwrap()))),
            Write::SetGlobal(Global::DefaultPoolRoot, None),
            Write::SetGlobal(Global::StatsInterval, Some(Value::Int(9))),
            Write::SetGlobal(Global::CheckUpdatesVm, Some(Value::Bool(false))),
            Write::SetGlobal(Global::DefaultKernel, Some(Value::text("6.1"))),
            Write::SetGlobal(Global::StatsInterval, None),
            Write::BeginPending(Arc::new(start)),
            Write::AdvancePending(PendingId::new(5), PendingKind::Start(StartPhase::Unpausing)),
            Write::FinishPending(PendingId::new(5)),
            Write::BeginPending(Arc::new(create)),
            Write::RecordVolume(PendingId::new(6), name("private"), VolumeProgress::Made),
            Write::ForgetVolume(PendingId::new(6), name("root")),
            Write::FinishPending(PendingId::new(6)),
            Write::BeginPending(Arc::new(run)),
            Write::FinishPending(PendingId::new(7)),
            Write::BeginPending(Arc::new(import)),
            Write::FinishPending(PendingId::new(8)),
            Write::RemovePool("fast".parse().unwrap()),
            Write::BeginFolder("/srv/fast".into()),
            Write::BeginFolder("/srv/fast".into()),
            Write::BeginFolder("/srv/fast/appvms".into()),
            Write::EndFolder("/srv/fast".into()),
            Write::RemoveVm(a),
            Write::RemoveVm(d),
        ] {
            both(&store, &mut model, &write);
        }
        assert_eq!(model.vm_count(), 1);
    }

    #[test]
    fn what_is_still_used_cannot_be_taken_out_of_model_or_store() {
        let dir = tempfile::tempdir().unwrap();
        let opened = testing::open(dir.path());
        let (store, mut model) = (opened.store, opened.model);
        store.db.execute_batch("BEGIN").unwrap();
        let debian = vm(&testing::snapshot_of(model.clone()), "debian", VmClass::TemplateVm, None);
        both(&store, &mut model, &Write::AddVm(debian.clone()));
        let work = vm(&testing::snapshot_of(model.clone()), "work", VmClass::AppVm, Some("debian"));
        let device = AssignedDevice {
            class: "usb".parse().unwrap(),
            backend: Some(debian.uuid),
            port: None,
            id: None,
        };
        let how = Assignment { mode: AssignmentMode::AutoAttach, options: BTreeMap::new() };
        let nobodys = AssignedDevice { backend: Some(Uuid::from_u128(9)), ..device.clone() };
        both(&store, &mut model, &Write::AddVm(work.clone()));
        let netvm = vm(&testing::snapshot_of(model.clone()), "net", VmClass::StandaloneVm, None);
        both(&store, &mut model, &Write::AddVm(netvm.clone()));
        let of_netvm = AssignedDevice { backend: Some(netvm.uuid), ..device.clone() };
        both(&store, &mut model, &Write::SetAssignment(work.uuid, of_netvm, how.clone()));
        for write in [
            Write::RemoveVm(netvm.uuid),
            Write::SetAssignment(work.uuid, nobodys, how),
            Write::RemoveAssignment(work.uuid, device),
            Write::RemoveVm(debian.uuid),
            Write::RemovePool("varlibqubes".parse().unwrap()),
            Write::RemovePool("linux-kernel".parse().unwrap()),
            Write::RemoveLabel(debian.label),
            Write::AddVm(debian.clone()),
        ] {
            assert!(write.apply(&mut model.clone()).is_err(), "{write:?}");
            assert!(write.execute(&store.db).is_err(), "{write:?}");
        }
    }
}
