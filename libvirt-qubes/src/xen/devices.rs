//! `Devices` on libxl.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::ctx::Ctx;
use super::domains::find;
use super::operation::{Lane, What};
use super::{LibxlHypervisor, owned, spec, xenstore};
use crate::config::{Access, DiskSpec};
use crate::error::{Kind, Op, Result};
use crate::hypervisor::{BoxFuture, Devices, DiskInfo, DomainState};
use crate::ids::Vdev;

impl Devices for LibxlHypervisor {
    fn disks(&self, uuid: Uuid) -> BoxFuture<'_, Result<Vec<DiskInfo>>> {
        let what = What::new("disks", Op::ListDevices, uuid);
        Box::pin(self.inner.short(what, move |inner, what| {
            let domid = find(&inner.main, what, uuid)?.domid.get();
            let mut store = xenstore::Store::open()?;
            let mut disks = Vec::new();
            for (vdev, access) in named_disks(&inner.main, domid) {
                disks.push(DiskInfo { vdev, path: store.disk_path(domid, spec::devid(vdev))?, access });
            }
            disks.sort_by_key(|disk| disk.vdev);
            Ok(disks)
        }))
    }

    fn attach_disk(
        &self,
        uuid: Uuid,
        disk: DiskSpec,
        cancel: CancellationToken,
    ) -> BoxFuture<'_, Result<()>> {
        let what = What::new("attach", Op::AttachDisk, disk.vdev);
        let script = self.inner.block_script.clone();
        let begun = Arc::new(AtomicBool::new(false));
        let work = {
            let (what, disk, script, begun) =
                (what.clone(), disk.clone(), script.clone(), Arc::clone(&begun));
            move |ctx: &Ctx| {
                xenstore::check()?;
                spec::check_disk(&disk)?;
                let domid = find(ctx, &what, uuid)?.domid.get();
                if named_disks(ctx, domid).iter().any(|(vdev, _)| *vdev == disk.vdev) {
                    return Err(what.error(Kind::AlreadyExists));
                }
                let mut device = spec::device_disk(&disk, &script)?;
                begun.store(true, Ordering::Release);
                ctx.add_disk(domid, &mut device).map_err(|error| what.failed(error))
            }
        };
        let settle = {
            let (what, token) = (what.clone(), cancel.clone());
            move |attached: Result<()>| {
                let result = match attached {
                    Ok(()) if token.is_cancelled() => Err(what.error(Kind::Cancelled)),
                    other => other,
                };
                match result {
                    // Another attach of the same name was faster: it is not ours to remove.
                    Err(error) if error.kind() == Kind::AlreadyExists => Err(error),
                    Err(error) if begun.load(Ordering::Acquire) => {
                        remove_left_over(&what, uuid, &disk, &script);
                        Err(gone_or(&what, uuid, error))
                    }
                    other => other,
                }
            }
        };
        Box::pin(self.inner.lanes.operate(Lane::Long, what, cancel, work, settle))
    }

    fn detach_disk(&self, uuid: Uuid, vdev: Vdev, cancel: CancellationToken) -> BoxFuture<'_, Result<()>> {
        let what = What::new("detach", Op::DetachDisk, vdev);
        let work = {
            let what = what.clone();
            move |ctx: &Ctx| {
                xenstore::check()?;
                let info = find(ctx, &what, uuid)?;
                let domid = info.domid.get();
                let mut list = ctx.disks(domid).ok_or_else(|| what.error(Kind::NotFound))?;
                let disk = list.iter_mut().find(|disk| owned::vdev(disk) == Some(vdev));
                let disk = disk.ok_or_else(|| what.error(Kind::NotFound))?;
                // A guest that is paused cannot answer; if it has never touched the disk it need not.
                let unheld = info.state == DomainState::Paused
                    && xenstore::Store::open()?.disk_is_untouched(domid, spec::devid(vdev))?;
                let removed =
                    if unheld { ctx.destroy_disk(domid, disk) } else { ctx.remove_disk(domid, disk) };
                removed.map_err(|error| what.failed(error))
            }
        };
        let settle = {
            let what = what.clone();
            move |detached: Result<()>| detached.map_err(|error| gone_or(&what, uuid, error))
        };
        Box::pin(self.inner.lanes.operate(Lane::Long, what, cancel, work, settle))
    }
}

/// The disks of a domain whose names are ours to give; `xl` can give others (`hda`).
fn named_disks(ctx: &Ctx, domid: u32) -> Vec<(Vdev, Access)> {
    let list = ctx.disks(domid);
    let disks = list.iter().flat_map(|list| list.iter());
    disks
        .filter_map(|disk| {
            let access = if disk.readwrite == 0 { Access::ReadOnly } else { Access::ReadWrite };
            owned::vdev(disk).map(|vdev| (vdev, access))
        })
        .collect()
}

/// A failed hot plug leaves its nodes in xenstore, and its name taken, until the disk is removed.
fn remove_left_over(what: &What, uuid: Uuid, disk: &DiskSpec, script: &std::path::Path) {
    let removed = Ctx::open(what.label()).map_err(|error| what.failed(error)).and_then(|ctx| {
        let domid = find(&ctx, what, uuid)?.domid.get();
        if !named_disks(&ctx, domid).iter().any(|(vdev, _)| *vdev == disk.vdev) {
            return Ok(());
        }
        let mut device = spec::device_disk(disk, script)?;
        ctx.destroy_disk(domid, &mut device).map_err(|error| what.failed(error))
    });
    match removed {
        Err(error) if error.kind() != Kind::NotFound => {
            tracing::error!(%uuid, error = error.report(), "what a failed attach left is still there");
        }
        Ok(()) | Err(_) => {}
    }
}

/// The error that a device call gave, unless the domain went away under it.
fn gone_or(what: &What, uuid: Uuid, error: crate::Error) -> crate::Error {
    if error.kind() == Kind::Cancelled {
        return error;
    }
    let looked =
        Ctx::open(what.label()).map_err(|error| what.failed(error)).and_then(|ctx| find(&ctx, what, uuid));
    match looked {
        Err(gone) if gone.kind() == Kind::NotFound => gone.because(error),
        Ok(_) | Err(_) => error,
    }
}
