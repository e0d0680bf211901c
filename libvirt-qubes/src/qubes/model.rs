//! The model: an immutable snapshot of everything that is stored.
//!
//! Maps share their structure, so that a change makes a new model at the cost of what it changes. Indexes
//! (who uses a VM, a label, a pool; who waits in `pending`) are kept by the same few functions that put rows
//! in and take them out. Nothing here writes to the store: see [`super::write`].

use std::sync::Arc;
use std::time::SystemTime;

use uuid::Uuid;

use super::assignment::AssignedDevice;
use super::global::Global;
use super::ids::{Dispid, LabelIndex, PendingId, Qid};
use super::index::{Indexes, Occupant, Referrer};
use super::label::Label;
use super::pending::{Pending, PendingKind};
use super::pool::Pool;
use super::property::Property;
use super::refusal::Refusal;
use super::value::Value;
use super::vm::Vm;
use crate::ids::{PoolName, VmName};

/// Everything that is stored, at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Model {
    vms: imbl::HashMap<Uuid, Arc<Vm>>,
    names: imbl::OrdMap<VmName, Uuid>,
    qids: imbl::OrdMap<Qid, Uuid>,
    labels: imbl::OrdMap<LabelIndex, Arc<Label>>,
    pools: imbl::OrdMap<u32, Arc<Pool>>,
    globals: imbl::OrdMap<Global, Value>,
    pending: imbl::OrdMap<PendingId, Arc<Pending>>,
    folders: imbl::OrdSet<Arc<str>>,
    set_aside: imbl::Vector<Arc<SetAside>>,
    indexes: Indexes,
}

/// A row of the store that was bad when it was loaded. What it takes stays taken, and what it uses stays in
/// use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// The table.
    pub table: &'static str,
    /// Its name, as stored.
    pub name: String,
    /// The identity that it keeps from others, where it has a valid one.
    pub uuid: Option<Uuid>,
    /// The number that it keeps from others.
    pub qid: Option<i64>,
    /// The number of a disposable that it keeps from others.
    pub dispid: Option<i64>,
    /// The place among the pools that it keeps from others.
    pub position: Option<u32>,
    /// The label that it uses, or is.
    pub label: Option<LabelIndex>,
    /// The volumes that it keeps from others, by pool and name there.
    pub volumes: Vec<(PoolName, Arc<str>)>,
    /// The pools that it uses, one of kernels too.
    pub pools: Vec<PoolName>,
    /// The VMs that it refers to, and as what.
    pub references: Vec<(Uuid, Reference)>,
    /// What is wrong with it.
    pub reason: String,
}

/// As what a row refers to a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// As the value of a property, of that name as stored.
    Property(String),
    /// As the backend of an assigned device, with its port as stored.
    Device(String),
}

impl SetAside {
    /// Whether it keeps a VM's name from others: it is a VM, or an operation that makes or removes one.
    pub(super) fn is_of_vm(&self) -> bool {
        matches!(self.table, "vm" | "pending")
    }
}

/// A row that contradicts the model: a bug, or a store that was changed behind the model's back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Inconsistent(pub(crate) String);

impl Model {
    /// All VMs: dom0 first, the others by name.
    pub fn vms(&self) -> impl Iterator<Item = &Arc<Vm>> {
        let others = self.names.values().filter(|uuid| **uuid != Vm::DOM0);
        std::iter::once(&Vm::DOM0).chain(others).filter_map(|uuid| self.vms.get(uuid))
    }

    /// How many VMs there are, dom0 included.
    pub fn vm_count(&self) -> usize {
        self.vms.len()
    }

    /// A VM by its identity.
    pub fn vm(&self, uuid: Uuid) -> Option<&Arc<Vm>> {
        self.vms.get(&uuid)
    }

    /// A VM by its name.
    pub fn vm_named(&self, name: &str) -> Option<&Arc<Vm>> {
        self.names.get(name).and_then(|uuid| self.vms.get(uuid))
    }

    /// A VM by its number.
    pub fn vm_with_qid(&self, qid: Qid) -> Option<&Arc<Vm>> {
        self.qids.get(&qid).and_then(|uuid| self.vms.get(uuid))
    }

    /// A VM by its name, or why not.
    ///
    /// # Errors
    /// [`Refusal::NoSuchVm`]; [`Refusal::SetAside`] when its row is bad.
    pub fn find_vm(&self, name: &VmName) -> Result<&Arc<Vm>, Refusal> {
        self.vm_named(name.as_str()).ok_or_else(|| {
            let bad = self.bad_vms().find(|row| row.name == name.as_str());
            match bad {
                Some(row) => Refusal::SetAside { name: row.name.clone(), reason: row.reason.clone() },
                None => Refusal::NoSuchVm { name: name.clone() },
            }
        })
    }

    /// A VM by its identity, or why not.
    ///
    /// # Errors
    /// [`Refusal::NoSuchUuid`]; [`Refusal::SetAside`] when its row is bad.
    pub fn find_uuid(&self, uuid: Uuid) -> Result<&Arc<Vm>, Refusal> {
        self.vm(uuid).ok_or_else(|| match self.set_aside.iter().find(|row| row.uuid == Some(uuid)) {
            Some(row) => Refusal::SetAside { name: row.name.clone(), reason: row.reason.clone() },
            None => Refusal::NoSuchUuid { uuid },
        })
    }

    /// Whether the store has a row of a VM with this identity, good or bad.
    pub(super) fn has_row(&self, uuid: Uuid) -> bool {
        self.vms.contains_key(&uuid)
            || self.set_aside.iter().any(|row| row.table == "vm" && row.uuid == Some(uuid))
    }

    /// The name of a VM; also of one whose row is bad, if its name is not.
    pub fn name_of(&self, uuid: Uuid) -> Option<VmName> {
        self.vm(uuid).map(|vm| vm.name.clone()).or_else(|| {
            self.set_aside.iter().find(|row| row.uuid == Some(uuid)).and_then(|row| row.name.parse().ok())
        })
    }

    /// The labels in the order of their indexes.
    pub fn labels(&self) -> impl Iterator<Item = &Arc<Label>> {
        self.labels.values()
    }

    /// A label by its index.
    pub fn label(&self, index: LabelIndex) -> Option<&Arc<Label>> {
        self.labels.get(&index)
    }

    /// A label by its name.
    pub fn label_named(&self, name: &str) -> Option<&Arc<Label>> {
        self.labels.values().find(|label| label.name.as_str() == name)
    }

    /// The pools in the order of their definition.
    pub fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.values()
    }

    /// A pool by its name.
    pub fn pool(&self, name: &str) -> Option<&Arc<Pool>> {
        self.indexes.pool_position(name).and_then(|position| self.pools.get(&position))
    }

    /// A pool that a client names.
    ///
    /// # Errors
    /// [`Refusal::PoolNotFound`].
    pub fn find_pool(&self, name: &str) -> Result<&Arc<Pool>, Refusal> {
        self.pool(name).ok_or_else(|| Refusal::PoolNotFound { pool: name.to_owned() })
    }

    /// The stored value of a global property; `None` where its default holds.
    pub fn global(&self, global: Global) -> Option<&Value> {
        self.globals.get(&global)
    }

    /// The global properties that are set.
    pub fn globals(&self) -> impl Iterator<Item = (Global, &Value)> {
        self.globals.iter().map(|(global, value)| (*global, value))
    }

    /// What is under way, oldest first.
    pub fn pending(&self) -> impl Iterator<Item = &Arc<Pending>> {
        self.pending.values()
    }

    /// A row of `pending`.
    pub fn pending_row(&self, id: PendingId) -> Option<&Arc<Pending>> {
        self.pending.get(&id)
    }

    /// The row of the Start of a VM that is under way.
    pub fn pending_start_of(&self, vm: Uuid) -> Option<&Arc<Pending>> {
        self.indexes.start_of(vm).and_then(|id| self.pending.get(&id))
    }

    /// The row of a disposable that runs, or whose end is not dealt with.
    pub fn pending_run_of(&self, vm: Uuid) -> Option<&Arc<Pending>> {
        self.indexes.run_of(vm).and_then(|id| self.pending.get(&id))
    }

    /// Whether a Start of the VM is under way.
    pub fn start_pending(&self, vm: Uuid) -> bool {
        self.indexes.start_of(vm).is_some()
    }

    /// The folders that are being made for a pool which is not there yet; the outer ones first.
    pub fn folders(&self) -> impl Iterator<Item = &Arc<str>> {
        self.folders.iter()
    }

    /// A number for a new row of `pending`, not used by any row of this model.
    pub fn next_pending_id(&self) -> PendingId {
        PendingId::new(self.indexes.last_pending() + 1)
    }

    /// The rows that were bad when they were loaded.
    pub fn set_aside(&self) -> impl Iterator<Item = &Arc<SetAside>> {
        self.set_aside.iter()
    }

    /// The VMs whose bad rows name this one in a property, and in which, as stored.
    pub(super) fn bad_rows_naming(&self, vm: Uuid) -> impl Iterator<Item = (VmName, &str)> {
        self.set_aside.iter().filter(|row| row.table == "vm").flat_map(move |row| {
            row.references.iter().filter_map(move |(target, reference)| match reference {
                Reference::Property(name) if *target == vm => Some((row.name.parse().ok()?, name.as_str())),
                Reference::Property(_) | Reference::Device(_) => None,
            })
        })
    }

    /// Bad rows of VMs, and of operations that make or remove one.
    fn bad_vms(&self) -> impl Iterator<Item = &Arc<SetAside>> {
        self.set_aside.iter().filter(|row| row.is_of_vm())
    }

    /// Whether a new VM may have this name: no VM has it, none that is being made or removed, and no bad
    /// row.
    pub fn name_is_free(&self, name: &VmName) -> bool {
        !self.names.contains_key(name) && !self.indexes.name_is_reserved(name.as_str())
    }

    /// The lowest number that no VM has, nor one that is being made or removed, nor a bad row.
    ///
    /// # Errors
    /// [`Refusal::NoFreeQid`].
    pub fn free_qid(&self) -> Result<Qid, Refusal> {
        self.indexes.free_qid().ok_or(Refusal::NoFreeQid)
    }

    /// Whether a new disposable may have this number.
    pub fn dispid_is_free(&self, dispid: Dispid) -> bool {
        self.indexes.dispid_is_free(dispid)
    }

    /// The next number from this one on that a new disposable may have, the first after the last.
    pub fn free_dispid_from(&self, dispid: Dispid) -> Option<Dispid> {
        self.indexes.free_dispid_from(dispid)
    }

    /// Whether a new VM may have this identity.
    pub fn uuid_is_free(&self, uuid: Uuid) -> bool {
        !self.vms.contains_key(&uuid) && !self.indexes.uuid_is_reserved(uuid)
    }

    /// Who names a VM explicitly, in the order of VMs' identities; global properties last.
    pub fn referrers(&self, vm: Uuid) -> impl Iterator<Item = Referrer> {
        self.indexes.referrers(vm)
    }

    /// The VMs that name this one explicitly in a property.
    pub fn vms_naming(&self, vm: Uuid, property: Property) -> impl Iterator<Item = &Arc<Vm>> {
        self.referrers(vm).filter_map(move |referrer| match referrer {
            Referrer::Vm(uuid, by) if by == property => self.vm(uuid),
            Referrer::Vm(..) | Referrer::System(_) => None,
        })
    }

    /// The devices of a VM that are assigned, each with the VM that it is assigned to; itself included.
    pub fn devices_of(&self, backend: Uuid) -> impl Iterator<Item = (AssignedDevice, Uuid)> {
        self.indexes.devices_of(backend)
    }

    /// The VMs with this label.
    pub fn vms_labelled(&self, label: LabelIndex) -> impl Iterator<Item = &Arc<Vm>> {
        self.indexes.labelled(label).filter_map(|uuid| self.vm(uuid))
    }

    /// The volumes in a pool, by their names there; those that are being made or removed included, kernels
    /// not.
    pub fn volumes_in(&self, pool: &str) -> impl Iterator<Item = (&Arc<str>, &Occupant)> {
        self.indexes.volumes_in(pool)
    }

    /// Who has a volume of that name in a pool.
    pub fn occupant(&self, pool: &str, vid: &str) -> Option<&Occupant> {
        self.indexes.occupant(pool, vid)
    }

    /// The VMs with a volume in a pool, kernels included.
    pub fn vms_in_pool(&self, pool: &str) -> impl Iterator<Item = &Arc<Vm>> {
        self.indexes.vms_in_pool(pool).filter_map(|uuid| self.vm(uuid))
    }

    /// The VMs that have not set a property whose default is a global property's value: `netvm`, `guivm`,
    /// `audiovm`, `default_dispvm`. Templates do not follow `default_netvm`. Empty for all other properties.
    pub fn following(&self, property: Property) -> impl Iterator<Item = &Arc<Vm>> {
        self.indexes.following(property).filter_map(|uuid| self.vm(uuid))
    }

    /// Whether a VM is one of [`Model::following`].
    pub fn follows(&self, vm: Uuid, property: Property) -> bool {
        self.indexes.follows(vm, property)
    }

    /// The VMs with a firewall rule that has expired and is still there.
    pub fn firewalls_due(&self, now: SystemTime) -> impl Iterator<Item = &Arc<Vm>> {
        self.indexes.expired(now).filter_map(|uuid| self.vm(uuid))
    }

    // --- what writes do -------------------------------------------------------------------------------

    /// Puts a VM in, or a new version of it in place of the old one.
    pub(super) fn put_vm(&mut self, vm: Arc<Vm>) {
        if let Some(old) = self.vms.get(&vm.uuid) {
            self.indexes.forget_vm(old);
            self.names.remove(&old.name);
            self.qids.remove(&old.qid);
        }
        self.indexes.note_vm(&vm);
        self.names.insert(vm.name.clone(), vm.uuid);
        self.qids.insert(vm.qid, vm.uuid);
        self.vms.insert(vm.uuid, vm);
    }

    /// Changes a VM that is there.
    pub(super) fn change_vm(
        &mut self,
        uuid: Uuid,
        change: impl FnOnce(&mut Vm) -> Result<(), Inconsistent>,
    ) -> Result<(), Inconsistent> {
        let old = self.vms.get(&uuid).ok_or_else(|| Inconsistent(format!("no VM {uuid}")))?;
        let mut vm = Vm::clone(old);
        change(&mut vm)?;
        self.put_vm(Arc::new(vm));
        Ok(())
    }

    pub(super) fn take_vm(&mut self, uuid: Uuid) -> Result<Arc<Vm>, Inconsistent> {
        let vm = self.vms.remove(&uuid).ok_or_else(|| Inconsistent(format!("no VM {uuid}")))?;
        self.indexes.forget_vm(&vm);
        self.names.remove(&vm.name);
        self.qids.remove(&vm.qid);
        Ok(vm)
    }

    pub(super) fn put_label(&mut self, label: Arc<Label>) {
        self.labels.insert(label.index, label);
    }

    pub(super) fn take_label(&mut self, index: LabelIndex) -> Result<(), Inconsistent> {
        self.labels.remove(&index).map(drop).ok_or_else(|| Inconsistent(format!("no label {index}")))
    }

    pub(super) fn put_pool(&mut self, pool: Arc<Pool>) {
        self.indexes.note_pool(&pool);
        self.pools.insert(pool.position, pool);
    }

    pub(super) fn take_pool(&mut self, name: &PoolName) -> Result<(), Inconsistent> {
        let position = self.indexes.forget_pool(name.as_str());
        position
            .and_then(|position| self.pools.remove(&position))
            .map(drop)
            .ok_or_else(|| Inconsistent(format!("no pool {name}")))
    }

    pub(super) fn put_global(&mut self, global: Global, value: Option<Value>) {
        if let Some(old) = self.globals.remove(&global) {
            self.indexes.forget_global(global, &old);
        }
        if let Some(value) = value {
            self.indexes.note_global(global, &value);
            self.globals.insert(global, value);
        }
    }

    pub(super) fn put_pending(&mut self, row: Arc<Pending>) {
        if let Some(old) = self.pending.get(&row.id) {
            self.indexes.forget_pending(old);
        }
        self.indexes.note_pending(&row);
        self.pending.insert(row.id, row);
    }

    pub(super) fn change_pending(
        &mut self,
        id: PendingId,
        change: impl FnOnce(&mut Pending) -> Result<(), Inconsistent>,
    ) -> Result<(), Inconsistent> {
        let old = self.pending.get(&id).ok_or_else(|| Inconsistent(format!("no pending row {id}")))?;
        let mut row = Pending::clone(old);
        change(&mut row)?;
        self.put_pending(Arc::new(row));
        Ok(())
    }

    pub(super) fn take_pending(&mut self, id: PendingId) -> Result<(), Inconsistent> {
        let row = self.pending.remove(&id).ok_or_else(|| Inconsistent(format!("no pending row {id}")))?;
        self.indexes.forget_pending(&row);
        Ok(())
    }

    pub(super) fn put_folder(&mut self, folder: Arc<str>) {
        self.folders.insert(folder);
    }

    pub(super) fn take_folder(&mut self, folder: &Arc<str>) -> Result<(), Inconsistent> {
        self.folders.remove(folder).map(drop).ok_or_else(|| Inconsistent(format!("no folder {folder}")))
    }

    pub(super) fn put_set_aside(&mut self, row: SetAside) {
        let row = Arc::new(row);
        self.indexes.note_set_aside(&row);
        self.set_aside.push_back(row);
    }

    /// Takes out what was set aside of a table under that name: it was replaced.
    pub(super) fn forget_set_aside(&mut self, table: &str, name: &str) {
        for row in self.set_aside.iter().filter(|row| row.table == table && row.name == name) {
            self.indexes.forget_set_aside(row);
        }
        self.set_aside.retain(|row| row.table != table || row.name != name);
    }

    /// Whether both hold the same rows. (They may have seen other numbers of operations that are over.)
    #[cfg(test)]
    pub(super) fn same_rows(&self, other: &Self) -> bool {
        let (mut ours, mut theirs) = (self.clone(), other.clone());
        let last = self.indexes.last_pending().max(other.indexes.last_pending());
        ours.indexes.seen_pending(last);
        theirs.indexes.seen_pending(last);
        ours == theirs
    }

    /// The same rows with indexes made anew, to compare.
    #[cfg(test)]
    pub(super) fn reindexed(&self) -> Self {
        let mut fresh = Self::default();
        self.set_aside.iter().for_each(|row| fresh.put_set_aside(SetAside::clone(row)));
        self.labels.values().for_each(|label| fresh.put_label(label.clone()));
        self.pools.values().for_each(|pool| fresh.put_pool(pool.clone()));
        self.vms.values().for_each(|vm| fresh.put_vm(vm.clone()));
        self.globals.iter().for_each(|(global, value)| fresh.put_global(*global, Some(value.clone())));
        self.pending.values().for_each(|row| fresh.put_pending(row.clone()));
        self.folders.iter().for_each(|folder| fresh.put_folder(folder.clone()));
        fresh.indexes.seen_pending(self.indexes.last_pending());
        fresh
    }
}

impl PendingKind {
    pub(super) const fn is_start(self) -> bool {
        matches!(self, Self::Start(_))
    }
}
