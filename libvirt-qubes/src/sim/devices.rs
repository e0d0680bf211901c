//! Disks of simulated domains.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::connection::{SimHypervisor, begun};
use super::disk::OpenDisk;
use super::domains::plan_acts;
use super::record::Record;
use super::rules::Effects;
use super::state::State;
use crate::config::DiskSpec;
use crate::error::{Kind, Op, Result};
use crate::hypervisor::{BoxFuture, Devices, DiskInfo, DomainState};
use crate::ids::Vdev;

/// How long libxl waits for a guest to let go of a device.
const DETACH_PATIENCE: Duration = Duration::from_secs(10);

impl Devices for SimHypervisor {
    fn disks(&self, uuid: Uuid) -> BoxFuture<'_, Result<Vec<DiskInfo>>> {
        let link = self.link.clone();
        let op = Op::ListDevices;
        begun(op, uuid, async move {
            let served = move |state: &State, record: &Record| state.services(op, &record.spec.name);
            let disks = |_: &mut State, record: Record, _| Ok(record.disks.values().map(info).collect());
            link.on_domain(op, uuid, served, &CancellationToken::new(), disks).await
        })
    }

    fn attach_disk(
        &self,
        uuid: Uuid,
        disk: DiskSpec,
        cancel: CancellationToken,
    ) -> BoxFuture<'_, Result<()>> {
        let link = self.link.clone();
        let op = Op::AttachDisk;
        begun(op, uuid, async move {
            let vdev = disk.vdev;
            let free = move |state: &State, record: &Record| {
                state.services(op, &record.spec.name)?;
                alive(record, op)?;
                match record.disks.contains_key(&vdev) {
                    true => {
                        Err(record.error(Kind::AlreadyExists, op).because(format!("it has a disk {vdev}")))
                    }
                    false => Ok(()),
                }
            };
            let attach = move |state: &mut State, mut record: Record, effects: Effects| {
                let open =
                    OpenDisk::open(&disk).map_err(|words| record.error(Kind::Backend, op).because(words))?;
                if let Some(user) = state.conflict(&open) {
                    let words = format!("{}: {user}", disk.path.display());
                    return Err(record.error(Kind::Busy, op).because(words));
                }
                let domid = record.domid;
                record.disks.insert(vdev, disk);
                plan_acts(state, &mut record, &effects);
                state.change(op, record, None)?;
                state.hold(domid, vdev, open);
                Ok(())
            };
            link.on_domain(op, uuid, free, &cancel, attach).await
        })
    }

    fn detach_disk(&self, uuid: Uuid, vdev: Vdev, cancel: CancellationToken) -> BoxFuture<'_, Result<()>> {
        let link = self.link.clone();
        let op = Op::DetachDisk;
        begun(op, uuid, async move {
            let has = move |state: &State, record: &Record| {
                state.services(op, &record.spec.name)?;
                match record.disks.contains_key(&vdev) {
                    true => Ok(()),
                    false => Err(record.error(Kind::NotFound, op).because(format!("it has no disk {vdev}"))),
                }
            };
            let answers = move |state: &State| {
                state.find(op, uuid).map_or(true, |record| lets_go(record) || has(state, record).is_err())
            };
            // A guest that runs lets go at once, and one that is paused as soon as it runs again.
            tokio::select! {
                waited = link.world.until(op, uuid, answers) => waited?,
                () = tokio::time::sleep(DETACH_PATIENCE) => {}
                () = cancel.cancelled() => {}
            }
            let detach = move |state: &mut State, mut record: Record, effects: Effects| {
                if !lets_go(&record) {
                    let words = format!("the guest does not let go of {vdev}");
                    return Err(record.error(Kind::TimedOut, op).because(words));
                }
                let domid = record.domid;
                record.disks.remove(&vdev);
                plan_acts(state, &mut record, &effects);
                state.change(op, record, None)?;
                state.release(domid, vdev);
                Ok(())
            };
            link.on_domain(op, uuid, has, &cancel, detach).await
        })
    }
}

/// Whether the guest can give a device back: it runs, or it never did and has no frontend.
fn lets_go(record: &Record) -> bool {
    record.runs() || !record.has_run
}

fn alive(record: &Record, op: Op) -> Result<()> {
    match record.state() {
        DomainState::Running | DomainState::Paused => Ok(()),
        DomainState::Shutdown(_) | DomainState::Dying => {
            Err(record.error(Kind::Busy, op).because("it has shut down"))
        }
    }
}

fn info(disk: &DiskSpec) -> DiskInfo {
    DiskInfo { vdev: disk.vdev, path: Some(disk.path.clone()), access: disk.access }
}
