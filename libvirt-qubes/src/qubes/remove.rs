//! Removing a VM: why not, and its way out of the model. Its volumes go after it.

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;

use super::class::VmClass;
use super::create::pending_volumes;
use super::diff::{Diff, Refused};
use super::event::{EventKind, ModelEvent, Subject};
use super::index::Referrer;
use super::pending::{Pending, PendingKind, Reserved, VolumeProgress};
use super::property::Property;
use super::refusal::{Owner, Refusal, User};
use super::snapshot::Snapshot;
use super::vm::Vm;
use super::write::Write;

/// Takes a VM out of the model. Its name, number, identity and volumes stay reserved by the row of `pending`
/// in the answer until [`finish`].
///
/// # Errors
/// Every reason why not; those found after the removal was announced say so in `pre_events`.
pub fn begin(snapshot: &Snapshot, vm: Uuid) -> Result<Diff<Arc<Pending>>, Refused> {
    let model = &snapshot.model;
    let vm = model.find_uuid(vm)?;
    if vm.class == VmClass::AdminVm {
        return Err(Refusal::RemoveDom0.into());
    }
    if vm.flag(Property::InstalledByRpm) == Some(true) {
        return Err(Refusal::InstalledByPackageManager { vm: vm.name.clone() }.into());
    }
    if vm.class.has_lifecycle() && !snapshot.is_halted(vm) {
        return Err(Refusal::NotHalted { vm: vm.name.clone() }.into());
    }
    let announced = ModelEvent::system(EventKind::DomainPreDelete { vm: vm.name.clone(), uuid: vm.uuid });
    let by = users(snapshot, vm);
    if !by.is_empty() {
        let refusal = Refusal::InUse { vm: vm.name.clone(), by };
        return Err(Refused { pre_events: vec![announced], refusal });
    }
    let row = Arc::new(Pending {
        id: model.next_pending_id(),
        kind: PendingKind::Remove,
        vm: Reserved { uuid: vm.uuid, qid: vm.qid, name: vm.name.clone() },
        volumes: pending_volumes(vm, VolumeProgress::Made),
    });
    let deleted = ModelEvent::system(EventKind::DomainDelete { vm: vm.name.clone(), uuid: vm.uuid });
    Ok(Diff::new(row.clone())
        .pre_event(announced)
        .write(Write::BeginPending(row))
        .write(Write::RemoveVm(vm.uuid))
        .event(deleted)
        .frees_space())
}

/// Ends a removal when the last volume is gone: name, number and identity are free again.
pub fn finish(row: &Pending) -> Diff<()> {
    let subject = Subject::Vm { uuid: row.vm.uuid, name: row.vm.name.clone() };
    Diff::new(())
        .write(Write::FinishPending(row.id))
        .event(ModelEvent { subject, kind: EventKind::DomainRemoveFromDisk })
        .frees_space()
}

/// Who names the VM explicitly.
fn users(snapshot: &Snapshot, vm: &Vm) -> BTreeSet<User> {
    let model = &snapshot.model;
    let user = |referrer| match referrer {
        Referrer::Vm(user, _) if user == vm.uuid => None,
        Referrer::Vm(user, property) => {
            let owner = Owner::Vm(model.name_of(user)?);
            Some(User { owner, property: property.name() })
        }
        Referrer::System(global) => Some(User { owner: Owner::System, property: global.name() }),
    };
    // A bad row of the store holds on to what it refers to, as a good one does.
    let bad = model.set_aside().flat_map(|row| {
        let to_it = row.references.iter().filter(|(target, _)| *target == vm.uuid);
        to_it.filter_map(|(_, property)| {
            let owner = if row.table == "vm" { Owner::Vm(row.name.parse().ok()?) } else { Owner::System };
            Some(User { owner, property: property.map_or("unknown", Property::name) })
        })
    });
    model.referrers(vm.uuid).filter_map(user).chain(bad).collect()
}
