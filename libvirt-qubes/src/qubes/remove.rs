//! Removing a VM: why not, and its way out of the model. Its volumes go after it.

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;

use super::assignment::AssignedDevice;
use super::at_start;
use super::class::VmClass;
use super::create::pending_volumes;
use super::diff::{Diff, Refused};
use super::event::{EventKind, ModelEvent, Subject};
use super::global::Global;
use super::index::Referrer;
use super::model::Reference;
use super::pending::{Pending, PendingKind, PendingVolume, Reserved, VolumeProgress};
use super::property::Property;
use super::refusal::{Owner, Refusal, User};
use super::snapshot::Snapshot;
use super::vm::Vm;
use super::write::Write;
use crate::storage::{Volume, VolumeKind};

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
    let ports = assigned(snapshot, vm);
    if !ports.is_empty() {
        let refusal = Refusal::DevicesAssigned { vm: vm.name.clone(), ports };
        return Err(Refused { pre_events: vec![announced], refusal });
    }
    let row = Arc::new(Pending {
        id: model.next_pending_id(),
        kind: PendingKind::Remove,
        vm: Reserved::of(vm),
        volumes: volumes(snapshot, vm),
    });
    // Of a disposable, what follows from its end is done with this.
    let ended = model.pending_run_of(vm.uuid).map(|run| Write::FinishPending(run.id));
    let deleted = ModelEvent::system(EventKind::DomainDelete { vm: vm.name.clone(), uuid: vm.uuid });
    let mut diff = Diff::new(row.clone()).pre_event(announced).write(Write::BeginPending(row));
    diff.writes.extend(ended);
    Ok(diff.write(Write::RemoveVm(vm.uuid)).event(deleted).frees_space())
}

/// Ends a removal when the last volume is gone: name, number and identity are free again.
pub fn finish(row: &Pending) -> Diff<()> {
    let subject = Subject::Vm { uuid: row.vm.uuid, name: row.vm.name.clone() };
    Diff::new(())
        .write(Write::FinishPending(row.id))
        .event(ModelEvent { subject, kind: EventKind::DomainRemoveFromDisk })
        .frees_space()
}

/// All that may lie anywhere of a VM's volumes: what a run has left where they lay then, too.
fn volumes(snapshot: &Snapshot, vm: &Vm) -> Vec<PendingVolume> {
    let mut all = pending_volumes(vm, VolumeProgress::Made);
    for Volume { id, pool, spec } in at_start::to_end(snapshot, vm) {
        let is_known = all.iter().any(|known| known.volume == id.volume && known.pool == pool);
        if is_known || matches!(spec.kind, VolumeKind::Kernel { .. }) {
            continue;
        }
        let Some(lies_in) = snapshot.model.pool(pool.as_str()) else { continue };
        let vid = snapshot.cells.host.naming.vid(lies_in, id.group, &id.owner, &id.volume).into();
        all.push(PendingVolume { volume: id.volume, pool, vid, progress: VolumeProgress::Made });
    }
    all
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
        to_it.filter_map(|(_, reference)| {
            let Reference::Property(name) = reference else { return None };
            let owner = row.name.parse().ok().filter(|_| row.table == "vm").map_or(Owner::System, Owner::Vm);
            let of_vm = Property::named(name).map(Property::name);
            let property = of_vm.or_else(|| Global::named(name).map(Global::name)).unwrap_or("unknown");
            Some(User { owner, property })
        })
    });
    model.referrers(vm.uuid).filter_map(user).chain(bad).collect()
}

/// The ports of its devices that are assigned to others, each once, sorted.
fn assigned(snapshot: &Snapshot, vm: &Vm) -> Vec<String> {
    let model = &snapshot.model;
    let others = model.devices_of(vm.uuid).filter(|(_, user)| *user != vm.uuid);
    let ports = others.map(|(device, _)| AssignedDevice::written(device.port.as_ref()).to_owned());
    let bad = model.set_aside().flat_map(|row| {
        row.references.iter().filter_map(|(backend, reference)| match reference {
            Reference::Device(port) if *backend == vm.uuid => Some(port.clone()),
            Reference::Device(_) | Reference::Property(_) => None,
        })
    });
    ports.chain(bad).collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::super::assignment::{Assignment, AssignmentMode};
    use super::super::refusal::Refusal as R;
    use super::super::snapshot::Run;
    use super::super::testing::{apply, make, new_vm, set, set_global, small_model, vm};
    use super::super::value::Value;
    use super::*;

    fn refused(snapshot: &Snapshot, name: &str) -> Refused {
        begin(snapshot, vm(snapshot, name).uuid).unwrap_err()
    }

    #[test]
    fn every_reason_why_not_is_named_in_the_order_of_the_checks() {
        let mut snapshot = small_model();
        let work = vm(&snapshot, "work");
        assert_eq!(refused(&snapshot, "dom0").refusal, R::RemoveDom0);

        set(&mut snapshot, "debian", "netvm", "sys-net").unwrap();
        let debian = vm(&snapshot, "debian").uuid;
        set_global(&mut snapshot, Global::DefaultTemplate, Value::Vm(Some(debian)));
        let template = |name: &str| User { owner: Owner::Vm(name.parse().unwrap()), property: "template" };
        let system = User { owner: Owner::System, property: "default_template" };
        let refused_debian = refused(&snapshot, "debian");
        let by = BTreeSet::from([system, template("work"), template("sys-net")]);
        assert_eq!(refused_debian.refusal, R::InUse { vm: "debian".parse().unwrap(), by });
        assert_eq!(refused_debian.pre_events.len(), 1);

        snapshot.cells.runs.insert(work.uuid, Run::registered());
        let not_halted = refused(&snapshot, "work");
        assert_eq!(not_halted, R::NotHalted { vm: work.name.clone() }.into());
        set(&mut snapshot, "work", "installed_by_rpm", "True").unwrap();
        let packaged = refused(&snapshot, "work");
        assert_eq!(packaged, R::InstalledByPackageManager { vm: work.name.clone() }.into());
    }

    #[test]
    fn a_vm_that_is_used_by_default_alone_can_go() {
        let mut snapshot = small_model();
        assert!(begin(&snapshot, vm(&snapshot, "sys-net").uuid).is_ok());
        set(&mut snapshot, "work", "netvm", "sys-net").unwrap();
        assert!(matches!(refused(&snapshot, "sys-net").refusal, R::InUse { .. }));
        set(&mut snapshot, "work", "netvm", "").unwrap();
        assert!(begin(&snapshot, vm(&snapshot, "sys-net").uuid).is_ok());
    }

    #[test]
    fn a_vm_whose_devices_are_assigned_to_others_stays() {
        let mut snapshot = small_model();
        let (work, net) = (vm(&snapshot, "work"), vm(&snapshot, "sys-net"));
        let assign = |snapshot: &mut Snapshot, to: Uuid, port: &str| {
            let device = AssignedDevice {
                class: "usb".parse().unwrap(),
                backend: Some(net.uuid),
                port: AssignedDevice::part(port).unwrap(),
                id: None,
            };
            let how = Assignment { mode: AssignmentMode::AskToAttach, options: Default::default() };
            Write::SetAssignment(to, device, how).apply(&mut snapshot.model).unwrap();
        };
        assign(&mut snapshot, net.uuid, "1-1");
        assert!(begin(&snapshot, net.uuid).is_ok(), "its own devices do not hold it");
        assign(&mut snapshot, work.uuid, "2-1");
        assign(&mut snapshot, work.uuid, "*");
        assign(&mut snapshot, Vm::DOM0, "2-1");
        let refused = refused(&snapshot, "sys-net");
        let ports = vec!["*".to_owned(), "2-1".to_owned()];
        assert_eq!(refused.refusal, R::DevicesAssigned { vm: net.name.clone(), ports });
        assert_eq!(refused.pre_events.len(), 1);
        assert_eq!(snapshot.model, snapshot.model.reindexed());
        assert!(begin(&snapshot, work.uuid).is_ok());
    }

    #[test]
    fn a_removed_vm_is_gone_at_once_and_its_name_is_free_when_its_volumes_are_gone() {
        let mut snapshot = small_model();
        let work = vm(&snapshot, "work");
        let diff = begin(&snapshot, work.uuid).unwrap();
        assert_eq!(diff.space, super::super::diff::Space::Frees);
        let (row, events) = apply(&mut snapshot, diff);
        let kinds: Vec<_> = events.iter().map(|event| event.kind.clone()).collect();
        let (name, uuid) = (work.name.clone(), work.uuid);
        assert_eq!(
            kinds,
            [
                EventKind::DomainPreDelete { vm: name.clone(), uuid },
                EventKind::DomainDelete { vm: name.clone(), uuid }
            ]
        );
        assert!(snapshot.model.vm(work.uuid).is_none());
        assert!(!snapshot.model.name_is_free(&work.name) && !snapshot.model.uuid_is_free(work.uuid));
        let made: Vec<_> = row.volumes.iter().map(|v| (&*v.vid, v.progress)).collect();
        assert_eq!(made[0], ("appvms/work/root", VolumeProgress::Made));
        assert_eq!(made.len(), 3);
        let diff = finish(&row);
        let (_, events) = apply(&mut snapshot, diff);
        assert_eq!(events[0].kind, EventKind::DomainRemoveFromDisk);
        assert!(snapshot.model.name_is_free(&work.name) && snapshot.model.uuid_is_free(work.uuid));
        assert_eq!(snapshot.model, snapshot.model.reindexed());
        assert_eq!(make(&mut snapshot, &new_vm("work", VmClass::AppVm, Some("debian"))).qid, work.qid);
    }

    #[test]
    fn a_remote_vm_can_be_removed_though_it_always_runs() {
        let mut snapshot = small_model();
        let remote = make(&mut snapshot, &new_vm("far", VmClass::RemoteVm, None));
        assert!(begin(&snapshot, remote.uuid).is_ok());
    }
}
