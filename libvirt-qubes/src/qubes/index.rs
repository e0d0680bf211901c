//! Reverse indexes of the model: who uses what. Kept by [`Model`](super::model::Model) alone.

use std::sync::Arc;
use std::time::SystemTime;

use uuid::Uuid;

use super::assignment::AssignedDevice;
use super::class::VmClass;
use super::firewall::Expire;
use super::global::Global;
use super::ids::{Dispid, LabelIndex, PendingId, Qid};
use super::model::SetAside;
use super::numbers::{Held, Numbers};
use super::pending::{Pending, PendingKind};
use super::pool::Pool;
use super::property::Property;
use super::value::Value;
use super::vm::Vm;
use crate::ids::{PoolName, VolumeName};

/// Who names a VM explicitly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Referrer {
    /// A VM, in a property.
    Vm(Uuid, Property),
    /// A global property.
    System(Global),
}

/// Whose a volume is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Occupant {
    /// A VM's.
    Volume(Uuid, VolumeName),
    /// It is being made or removed.
    Pending(PendingId),
    /// A bad row's, with its name as stored.
    SetAside(String),
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Indexes {
    referrers: imbl::HashMap<Uuid, imbl::OrdSet<Referrer>>,
    labelled: imbl::HashMap<LabelIndex, imbl::OrdSet<Uuid>>,
    pool_positions: imbl::HashMap<PoolName, u32>,
    /// Every volume of a VM by its pool, kernels too, and those that were started in it.
    pool_users: imbl::HashMap<PoolName, imbl::OrdSet<(Uuid, VolumeName)>>,
    /// What lies in a pool under which name.
    vids: imbl::HashMap<PoolName, imbl::OrdMap<Arc<str>, Occupant>>,
    /// The devices of a VM that are assigned, and to whom.
    devices: imbl::HashMap<Uuid, imbl::OrdSet<(AssignedDevice, Uuid)>>,
    /// When the next firewall rule of a VM expires, for those that have one that does.
    expiring: imbl::OrdSet<(Expire, Uuid)>,
    /// The VMs whose property is whatever the system's default is.
    following: imbl::HashMap<Property, imbl::OrdSet<Uuid>>,
    starts: imbl::HashMap<Uuid, PendingId>,
    runs: imbl::HashMap<Uuid, PendingId>,
    last_pending: u64,
    /// The numbers of VMs, of those that are being made or removed, and of bad rows.
    qids: Numbers<1, { Qid::LAST.get() }>,
    /// The same of disposables.
    dispids: Numbers<0, { Dispid::LAST.get() }>,
    /// The names and identities of what is no VM: of those that are being made or removed, and of bad rows.
    names: Held<String>,
    uuids: Held<Uuid>,
}

fn add<K, V>(map: &mut imbl::HashMap<K, imbl::OrdSet<V>>, key: K, value: V)
where
    K: Clone + Eq + std::hash::Hash,
    V: Clone + Ord,
{
    map.entry(key).or_default().insert(value);
}

fn drop_from<K, V>(map: &mut imbl::HashMap<K, imbl::OrdSet<V>>, key: &K, value: &V)
where
    K: Clone + Eq + std::hash::Hash,
    V: Clone + Ord,
{
    if let Some(set) = map.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}

fn references(vm: &Vm) -> impl Iterator<Item = (Uuid, Property)> + '_ {
    vm.properties.iter().filter_map(|(property, value)| Some((value.as_vm()?, *property)))
}

/// The assigned devices that one VM in particular has to offer.
fn devices(vm: &Vm) -> impl Iterator<Item = (Uuid, (AssignedDevice, Uuid))> + '_ {
    vm.assignments.keys().filter_map(|device| Some((device.backend?, (device.clone(), vm.uuid))))
}

/// The properties whose value is, where it is not set, a global property's that events are sent about.
pub(super) const FOLLOWING: [Property; 4] =
    [Property::Netvm, Property::Guivm, Property::Audiovm, Property::DefaultDispvm];

/// Those of a VM that are not set. A template's default netvm is none, and a disposable's default base its own,
/// whatever the system's are.
fn follows(vm: &Vm) -> impl Iterator<Item = Property> + '_ {
    FOLLOWING.into_iter().filter(|property| {
        property.applies_to(vm.class)
            && !matches!(
                (vm.class, property),
                (VmClass::TemplateVm, Property::Netvm) | (VmClass::DispVm, Property::DefaultDispvm)
            )
            && !vm.properties.contains_key(property)
    })
}

/// A number of a bad row, if anybody else could have it.
fn number(stored: Option<i64>) -> Option<u16> {
    stored.and_then(|number| u16::try_from(number).ok())
}

impl Indexes {
    pub(super) fn note_vm(&mut self, vm: &Vm) {
        self.qids.hold(vm.qid.get());
        if let Some(dispid) = vm.dispid() {
            self.dispids.hold(dispid.get());
        }
        for (target, property) in references(vm) {
            add(&mut self.referrers, target, Referrer::Vm(vm.uuid, property));
        }
        for (backend, device) in devices(vm) {
            add(&mut self.devices, backend, device);
        }
        add(&mut self.labelled, vm.label, vm.uuid);
        for property in follows(vm) {
            add(&mut self.following, property, vm.uuid);
        }
        if let Some(expire) = vm.firewall.next_expiry() {
            self.expiring.insert((expire, vm.uuid));
        }
        for (volume, pool) in vm.started.keys() {
            add(&mut self.pool_users, pool.clone(), (vm.uuid, volume.clone()));
        }
        for volume in &vm.volumes {
            add(&mut self.pool_users, volume.pool.clone(), (vm.uuid, volume.name.clone()));
            if let Some(vid) = &volume.vid {
                let occupant = Occupant::Volume(vm.uuid, volume.name.clone());
                self.occupy(&volume.pool, vid, occupant);
            }
        }
    }

    pub(super) fn forget_vm(&mut self, vm: &Vm) {
        self.qids.release(vm.qid.get());
        if let Some(dispid) = vm.dispid() {
            self.dispids.release(dispid.get());
        }
        for (target, property) in references(vm) {
            drop_from(&mut self.referrers, &target, &Referrer::Vm(vm.uuid, property));
        }
        for (backend, device) in devices(vm) {
            drop_from(&mut self.devices, &backend, &device);
        }
        drop_from(&mut self.labelled, &vm.label, &vm.uuid);
        if let Some(expire) = vm.firewall.next_expiry() {
            self.expiring.remove(&(expire, vm.uuid));
        }
        for property in follows(vm) {
            drop_from(&mut self.following, &property, &vm.uuid);
        }
        for (volume, pool) in vm.started.keys() {
            drop_from(&mut self.pool_users, pool, &(vm.uuid, volume.clone()));
        }
        for volume in &vm.volumes {
            drop_from(&mut self.pool_users, &volume.pool, &(vm.uuid, volume.name.clone()));
            if let Some(vid) = &volume.vid {
                let occupant = Occupant::Volume(vm.uuid, volume.name.clone());
                self.leave(&volume.pool, vid, &occupant);
            }
        }
    }

    fn occupy(&mut self, pool: &PoolName, vid: &Arc<str>, occupant: Occupant) {
        self.vids.entry(pool.clone()).or_default().insert(vid.clone(), occupant);
    }

    /// Frees a name, unless somebody else has taken it over: Create's last commit puts the VM in and takes
    /// the pending row out, in either order.
    fn leave(&mut self, pool: &PoolName, vid: &Arc<str>, occupant: &Occupant) {
        if let Some(vids) = self.vids.get_mut(pool) {
            if vids.get(vid) == Some(occupant) {
                vids.remove(vid);
            }
            if vids.is_empty() {
                self.vids.remove(pool);
            }
        }
    }

    pub(super) fn note_set_aside(&mut self, row: &SetAside) {
        for (pool, vid) in &row.volumes {
            self.occupy(pool, vid, Occupant::SetAside(row.name.clone()));
        }
        if let Some(qid) = number(row.qid) {
            self.qids.hold(qid);
        }
        if let Some(dispid) = number(row.dispid) {
            self.dispids.hold(dispid);
        }
        if let Some(uuid) = row.uuid {
            self.uuids.add(uuid);
        }
        if row.is_of_vm() {
            self.names.add(row.name.clone());
        }
    }

    pub(super) fn forget_set_aside(&mut self, row: &SetAside) {
        for (pool, vid) in &row.volumes {
            self.leave(pool, vid, &Occupant::SetAside(row.name.clone()));
        }
        if let Some(qid) = number(row.qid) {
            self.qids.release(qid);
        }
        if let Some(dispid) = number(row.dispid) {
            self.dispids.release(dispid);
        }
        if let Some(uuid) = row.uuid {
            self.uuids.drop(&uuid);
        }
        if row.is_of_vm() {
            self.names.drop(row.name.as_str());
        }
    }

    pub(super) fn note_global(&mut self, global: Global, value: &Value) {
        if let Value::Vm(Some(target)) = value {
            add(&mut self.referrers, *target, Referrer::System(global));
        }
    }

    pub(super) fn forget_global(&mut self, global: Global, value: &Value) {
        if let Value::Vm(Some(target)) = value {
            drop_from(&mut self.referrers, target, &Referrer::System(global));
        }
    }

    pub(super) fn note_pool(&mut self, pool: &Pool) {
        self.pool_positions.insert(pool.name.clone(), pool.position);
    }

    pub(super) fn forget_pool(&mut self, name: &str) -> Option<u32> {
        self.pool_positions.remove(name)
    }

    pub(super) fn note_pending(&mut self, row: &Pending) {
        self.seen_pending(row.id.get());
        if row.kind.is_start() {
            self.starts.insert(row.vm.uuid, row.id);
        }
        if row.kind == PendingKind::Run {
            self.runs.insert(row.vm.uuid, row.id);
        }
        if row.kind.reserves() {
            self.qids.hold(row.vm.qid.get());
            self.names.add(row.vm.name.to_string());
            self.uuids.add(row.vm.uuid);
            if let Some(dispid) = row.vm.dispid {
                self.dispids.hold(dispid.get());
            }
        }
        for volume in &row.volumes {
            self.occupy(&volume.pool, &volume.vid, Occupant::Pending(row.id));
        }
    }

    pub(super) fn forget_pending(&mut self, row: &Pending) {
        if self.starts.get(&row.vm.uuid) == Some(&row.id) {
            self.starts.remove(&row.vm.uuid);
        }
        if self.runs.get(&row.vm.uuid) == Some(&row.id) {
            self.runs.remove(&row.vm.uuid);
        }
        if row.kind.reserves() {
            self.qids.release(row.vm.qid.get());
            self.names.drop(row.vm.name.as_str());
            self.uuids.drop(&row.vm.uuid);
            if let Some(dispid) = row.vm.dispid {
                self.dispids.release(dispid.get());
            }
        }
        for volume in &row.volumes {
            self.leave(&volume.pool, &volume.vid, &Occupant::Pending(row.id));
        }
    }

    pub(super) fn free_qid(&self) -> Option<Qid> {
        self.qids.lowest_free().and_then(Qid::new)
    }

    pub(super) fn dispid_is_free(&self, dispid: Dispid) -> bool {
        self.dispids.is_free(dispid.get())
    }

    pub(super) fn free_dispid_from(&self, dispid: Dispid) -> Option<Dispid> {
        self.dispids.free_from(dispid.get()).and_then(Dispid::new)
    }

    pub(super) fn name_is_reserved(&self, name: &str) -> bool {
        self.names.has(name)
    }

    pub(super) fn uuid_is_reserved(&self, uuid: Uuid) -> bool {
        self.uuids.has(&uuid)
    }

    pub(super) fn seen_pending(&mut self, id: u64) {
        self.last_pending = self.last_pending.max(id);
    }

    pub(super) fn last_pending(&self) -> u64 {
        self.last_pending
    }

    pub(super) fn start_of(&self, vm: Uuid) -> Option<PendingId> {
        self.starts.get(&vm).copied()
    }

    pub(super) fn run_of(&self, vm: Uuid) -> Option<PendingId> {
        self.runs.get(&vm).copied()
    }

    pub(super) fn referrers(&self, vm: Uuid) -> impl Iterator<Item = Referrer> {
        self.referrers.get(&vm).cloned().unwrap_or_default().into_iter()
    }

    pub(super) fn devices_of(&self, backend: Uuid) -> impl Iterator<Item = (AssignedDevice, Uuid)> {
        self.devices.get(&backend).cloned().unwrap_or_default().into_iter()
    }

    pub(super) fn labelled(&self, label: LabelIndex) -> impl Iterator<Item = Uuid> {
        self.labelled.get(&label).cloned().unwrap_or_default().into_iter()
    }

    pub(super) fn pool_position(&self, name: &str) -> Option<u32> {
        self.pool_positions.get(name).copied()
    }

    pub(super) fn volumes_in(&self, pool: &str) -> impl Iterator<Item = (&Arc<str>, &Occupant)> {
        self.vids.get(pool).into_iter().flat_map(imbl::OrdMap::iter)
    }

    pub(super) fn occupant(&self, pool: &str, vid: &str) -> Option<&Occupant> {
        self.vids.get(pool).and_then(|vids| vids.get(vid))
    }

    pub(super) fn vms_in_pool(&self, pool: &str) -> impl Iterator<Item = Uuid> {
        let mut last = None;
        let users = self.pool_users.get(pool).cloned().unwrap_or_default();
        users.into_iter().map(|(uuid, _)| uuid).filter(move |uuid| last.replace(*uuid) != Some(*uuid))
    }

    /// The VMs with a firewall rule that has expired, the longest overdue first.
    pub(super) fn expired(&self, now: SystemTime) -> impl Iterator<Item = Uuid> {
        self.expiring.iter().take_while(move |(expire, _)| expire.is_over(now)).map(|(_, uuid)| *uuid)
    }

    pub(super) fn following(&self, property: Property) -> impl Iterator<Item = Uuid> {
        self.following.get(&property).into_iter().flat_map(|vms| vms.iter().copied())
    }

    pub(super) fn follows(&self, vm: Uuid, property: Property) -> bool {
        self.following.get(&property).is_some_and(|vms| vms.contains(&vm))
    }
}
