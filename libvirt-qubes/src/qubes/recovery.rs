//! Start-up: what runs is taken over, what a crash left half done is undone or finished.
//!
//! Domains are matched by UUID, never by name. A VM whose domain runs is adopted; a domain whose Start had not
//! come to its unpause is destroyed. Volumes of VMs without a domain are put to rest by what the drivers'
//! names on disk say. Rows of `pending` that no operation owns any more are dealt with here alone. What a pool that is
//! away holds [waits](super::waiting) for it.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::at_start;
use super::class::VmClass;
use super::diff::Diff;
use super::host::Host;
use super::operation::OperationKind;
use super::pending::{Pending, PendingKind, PendingVolume, StartPhase, VolumeProgress};
use super::pools;
use super::refusal::HostError;
use super::remove;
use super::snapshot::{Run, RunState, Snapshot};
use super::start::note_run;
use super::vm::Vm;
use super::volumes;
use super::waiting::Again;
use super::write::Write;
use crate::config::DiskSpec;
use crate::error::{Kind, Result};
use crate::hypervisor::{DomainInfo, DomainState, ShutdownReason};
use crate::storage::{Recovered, Volume, VolumeGroup, VolumeId};

/// As many VMs recover at a time.
const AT_A_TIME: usize = 4;

/// Takes over and puts right. Returns when the state of every VM is known; the volumes of halted VMs come to rest
/// afterwards, each under its VM's lock.
pub(super) async fn recover(host: &Arc<Host>) -> Result<()> {
    pools::settle_folders(host).await;
    let domains = host.hypervisor.list().await?;
    let seen = host.snapshot();
    let pending: Vec<Arc<Pending>> = seen.model.pending().cloned().collect();
    for row in &pending {
        if let PendingKind::Start(phase) = row.kind {
            interrupted_start(host, row, phase, &domains).await;
        }
    }
    let domains = host.hypervisor.list().await?;
    for domain in &domains {
        if let Some(vm) = seen.model.vm(domain.uuid) {
            adopt(host, vm, domain).await;
            note_start_of_adopted(host, vm).await;
            note_run_of_adopted(host, vm).await;
        }
    }
    for row in pending {
        let seen = host.snapshot();
        if row.kind == PendingKind::Import && seen.model.vm(row.vm.uuid).is_none_or(|vm| !seen.is_halted(vm))
        {
            // Its last commit had failed, and the VM went on; or it was resized while it ran.
            if let Some(vm) = seen.model.vm(row.vm.uuid) {
                for volume in &vm.volumes {
                    if let Ok(placed) = volumes::place(&seen, vm, volume) {
                        host.note_size(vm, volume, &placed).await;
                    }
                }
            }
            finish(host, &row).await;
        }
        if row.kind.reserves() {
            let host = Arc::clone(host);
            let tasks = host.tasks.clone();
            tasks.spawn(async move {
                // A pool that waits for its first use is not woken by this.
                let is_there = host.has_pools_of(&row).await;
                let again = if is_there { settle_volumes(&host, &row).await } else { Again::Soon };
                host.waiting.add_row(row.id, again);
            });
        }
    }
    let few = Arc::new(Semaphore::new(AT_A_TIME));
    for vm in seen.model.vms().filter(|vm| vm.class.has_lifecycle()) {
        if host.snapshot().run(vm.uuid).is_none() {
            let (host, vm, few) = (Arc::clone(host), Arc::clone(vm), Arc::clone(&few));
            // Held before anybody else can ask: whoever works on this VM waits for its volumes.
            let Ok(registered) = host.operations.register(vm.uuid, OperationKind::Volume) else { continue };
            let Ok(held) = registered.lock().await else { continue };
            let unsettled = host.settling.begin(vm.uuid);
            let tasks = host.tasks.clone();
            tasks.spawn(async move {
                let Ok(_one) = few.acquire().await else { return };
                if settle(&host, &vm).await {
                    host.waiting.add_vm(vm.uuid);
                }
                drop(unsettled);
                if host.snapshot().model.pending_run_of(vm.uuid).is_some() {
                    host.after_run(vm.uuid, &held).await;
                }
                drop((held, registered));
            });
        }
    }
    Ok(())
}

/// A Start that the last daemon did not finish. Before the unpause it is undone; after it, the guest may have run:
/// it is let run, and adopted with the others.
async fn interrupted_start(host: &Arc<Host>, row: &Arc<Pending>, phase: StartPhase, domains: &[DomainInfo]) {
    let exists = domains.iter().any(|domain| domain.uuid == row.vm.uuid);
    let settled = match phase {
        _ if !exists => Ok(()),
        StartPhase::Building => host.hypervisor.destroy(row.vm.uuid).await,
        StartPhase::Unpausing => host.hypervisor.unpause(row.vm.uuid).await,
    };
    match settled {
        Err(error) if error.kind() != Kind::NotFound => {
            tracing::error!(vm = %row.vm.name, error = error.report(), "an interrupted start is not settled");
        }
        _ => {
            tracing::info!(vm = %row.vm.name, ?phase, "an interrupted start was settled");
            finish(host, row).await;
        }
    }
}

/// What held for the volumes of a VM that an older release started is not known: what holds now does.
async fn note_start_of_adopted(host: &Arc<Host>, vm: &Arc<Vm>) {
    if !vm.class.has_lifecycle() || !vm.started.is_empty() {
        return;
    }
    let uuid = vm.uuid;
    let noted = move |seen: &Snapshot| {
        let vm = seen.model.find_uuid(uuid)?;
        let started = at_start::with(&vm.started, &at_start::to_end(seen, vm));
        Ok(Diff::new(()).write(Write::SetStarted(uuid, started)))
    };
    if let Err(error) = host.committer.commit(noted).await {
        tracing::error!(vm = %vm.name, error = error.report(), "it is not noted how its volumes are to be ended");
    }
}

/// The store knows of each disposable that runs; of one that an older release started, it does not yet.
async fn note_run_of_adopted(host: &Arc<Host>, vm: &Arc<Vm>) {
    let uuid = vm.uuid;
    if vm.class != VmClass::DispVm || host.snapshot().model.pending_run_of(uuid).is_some() {
        return;
    }
    if let Err(error) = host.committer.commit(move |seen| Ok(note_run(Diff::new(()), seen, uuid))).await {
        tracing::error!(vm = %vm.name, ?error, "its end will not be noticed while no daemon runs");
    }
}

/// Takes over a domain that runs, with what it has.
async fn adopt(host: &Arc<Host>, vm: &Arc<Vm>, domain: &DomainInfo) {
    let state = match domain.state {
        DomainState::Running => RunState::Running,
        DomainState::Paused => RunState::Paused,
        DomainState::Shutdown(ShutdownReason::Suspend) => RunState::Suspended,
        DomainState::Shutdown(ShutdownReason::Crash | ShutdownReason::Watchdog) => RunState::Crashed,
        DomainState::Shutdown(
            ShutdownReason::Poweroff
            | ShutdownReason::Reboot
            | ShutdownReason::SoftReset
            | ShutdownReason::Unknown,
        )
        | DomainState::Dying => RunState::Dying,
    };
    let run = Run { domid: Some(domain.domid), stubdom: None, state, started_at: None };
    host.sequencer.publish_run(vm.uuid, Some(run), Vec::new());
    match host.hypervisor.disks(vm.uuid).await {
        Ok(disks) => {
            for disk in &disks {
                let Some(path) = disk.path.clone() else { continue };
                let spec = DiskSpec { vdev: disk.vdev, path, access: disk.access };
                if let Err(error) = host.claim(vm.uuid, &spec).await {
                    tracing::warn!(vm = %vm.name, error = error.report(), "a disk of an adopted domain");
                }
            }
            host.attached.adopt(vm.uuid, &disks);
        }
        Err(error) => tracing::warn!(vm = %vm.name, error = error.report(), "its disks are not known"),
    }
    tracing::info!(vm = %vm.name, domid = %domain.domid, ?state, "adopted");
    // What happened to it before is reported as an event: a domain that has shut down comes to its end by that.
    if let Err(error) = host.hypervisor.watch(vm.uuid).await {
        tracing::error!(vm = %vm.name, error = error.report(), "its end will not be noticed");
    }
}

/// A VM that was being made, or removed: its volumes go. Whether it is to be tried again.
pub(super) async fn settle_volumes(host: &Arc<Host>, row: &Arc<Pending>) -> Again {
    let seen = host.snapshot();
    // Volumes that were only planned may be somebody else's under that name: they are not touched.
    let made: Vec<PendingVolume> =
        row.volumes.iter().rev().filter(|volume| volume.progress == VolumeProgress::Made).cloned().collect();
    for volume in made {
        let Some(id) = id_of(&seen, row, &volume) else {
            tracing::error!(vm = %row.vm.name, vid = %volume.vid, "a volume of an interrupted operation stays");
            return if host.storage.driver(&volume.pool).is_err() { Again::Soon } else { Again::Never };
        };
        let volume = Volume { pool: volume.pool.clone(), id, spec: volumes::any_spec() };
        if let Err(error) = host.storage.remove(&volume).await {
            if !host.waiting.has_row(row.id) {
                tracing::error!(vm = %row.vm.name, error = error.report(), "a volume of an interrupted operation stays");
            }
            return Again::after(&error);
        }
    }
    tracing::info!(vm = %row.vm.name, kind = ?row.kind, "an interrupted operation was settled");
    if finish(host, row).await { Again::Never } else { Again::Later }
}

/// Which volume a row names: that which its pool's driver names so.
fn id_of(seen: &Snapshot, row: &Pending, volume: &PendingVolume) -> Option<VolumeId> {
    let (pool, owner) = (seen.model.pool(volume.pool.as_str())?, &row.vm.name);
    let naming = &seen.cells.host.naming;
    let is_it = |group: &VolumeGroup| naming.vid(pool, *group, owner, &volume.volume) == *volume.vid;
    let group = VolumeGroup::ALL.into_iter().find(is_it)?;
    Some(VolumeId::new(group, owner.clone(), volume.volume.clone()))
}

/// Ends a row. A disposable that was being started, or ran, goes when nothing of it runs: that is noted.
async fn finish(host: &Arc<Host>, row: &Arc<Pending>) -> bool {
    let (id, vm, start) = (row.id, row.vm.uuid, matches!(row.kind, PendingKind::Start(_)));
    let removed = (row.kind == PendingKind::Remove).then(|| Arc::clone(row));
    let finished: Result<(), HostError> = host
        .committer
        .commit(move |seen| {
            if let Some(removed) = &removed {
                return Ok(remove::finish(removed));
            }
            let diff = Diff::new(()).write(Write::FinishPending(id)).frees_space();
            Ok(if start { note_run(diff, seen, vm) } else { diff })
        })
        .await;
    if let Err(error) = &finished {
        tracing::error!(vm = %row.vm.name, ?error, "the row of an interrupted operation stays");
    }
    finished.is_ok()
}

fn is_import_of(row: &Pending, vm: uuid::Uuid) -> bool {
    row.kind == PendingKind::Import && row.vm.uuid == vm
}

/// Puts the volumes of a halted VM to rest, under its lock, and ends the rows of imports into them. Whether it is to be
/// tried again.
pub(super) async fn settle(host: &Arc<Host>, vm: &Arc<Vm>) -> bool {
    let again = rest(host, vm).await;
    if !again {
        for row in host.snapshot().model.pending().filter(|row| is_import_of(row, vm.uuid)) {
            finish(host, row).await;
        }
    }
    again
}

async fn rest(host: &Arc<Host>, vm: &Arc<Vm>) -> bool {
    let mut again = false;
    let seen: Arc<Snapshot> = host.snapshot();
    // A crash may have come between a change of a size on disk and in the model: that leaves a row.
    let was_changed = seen.model.pending().any(|row| is_import_of(row, vm.uuid));
    let mut ended = Vec::new();
    for placed in at_start::to_end(&seen, vm) {
        let volume = &placed.id.volume;
        match host.storage.recover(&placed).await {
            Ok(found) => {
                if found != Recovered::Clean {
                    tracing::info!(vm = %vm.name, %volume, ?found, "volume recovered");
                }
                if let Some(config) = vm.volume(volume.as_str())
                    && (found != Recovered::Clean || was_changed)
                {
                    host.note_size(vm, config, &placed).await;
                }
                ended.push(placed);
            }
            Err(error) => {
                if !host.waiting.has_vm(vm.uuid) {
                    tracing::error!(vm = %vm.name, %volume, error = error.report(), "volume not recovered");
                }
                again |= Again::after(&error) == Again::Soon;
            }
        }
    }
    host.note_ended(vm, ended).await;
    again
}

#[cfg(test)]
mod tests {
    use super::super::ids::PendingId;
    use super::super::pending::Reserved;
    use super::super::snapshot::{HostView, VolumeNaming};
    use super::super::testing::{small_model, vm};
    use super::*;

    #[test]
    fn a_volume_of_a_row_is_found_by_the_name_that_its_driver_gives_it() {
        let mut snapshot = small_model();
        let work = vm(&snapshot, "work");
        let named = |vid: &str| PendingVolume {
            volume: "root".parse().unwrap(),
            pool: "varlibqubes".parse().unwrap(),
            vid: vid.into(),
            progress: VolumeProgress::Made,
        };
        let row = Pending {
            id: PendingId::new(1),
            kind: PendingKind::Remove,
            vm: Reserved::of(&work),
            volumes: Vec::new(),
        };
        let found = |snapshot: &Snapshot, vid: &str| {
            id_of(snapshot, &row, &named(vid))
                .map(|id| (id.group, id.owner.to_string(), id.volume.to_string()))
        };
        let root = |group| Some((group, "work".to_owned(), "root".to_owned()));
        assert_eq!(found(&snapshot, "appvms/work/root"), root(VolumeGroup::AppVms));
        assert_eq!(found(&snapshot, "vm-templates/work/root"), root(VolumeGroup::VmTemplates));
        assert_eq!(found(&snapshot, "appvms/other/root"), None);
        let naming = VolumeNaming::new(|_, _, owner, volume| format!("vg/vm-{owner}-{volume}"));
        snapshot.cells.host = Arc::new(HostView::unknown(naming));
        assert_eq!(found(&snapshot, "vg/vm-work-root"), root(VolumeGroup::AppVms));
        assert_eq!(found(&snapshot, "appvms/work/root"), None);
    }
}
