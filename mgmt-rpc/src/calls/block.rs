//! Disks of running VMs: files and block devices of dom0.

use libvirt_qubes::config::Access;
use libvirt_qubes::ids::VmName;
use libvirt_qubes::qubes::Host;

use super::{OrFail, host};
use crate::args::device::{Device, DevicePath, Port};
use crate::cx::Cx;
use crate::failure::Failure;
use crate::reply::Reply;
use crate::row;
use crate::table::Row;
use crate::wire::{Class, Exception};

pub(super) const ROWS: &[Row<Host>] = &[
    row!(Both("vm.device.block.Attach"), Any, Local Write, (Required<Device>, Empty) => attach),
    row!(Both("vm.device.block.Detach"), Any, Local Write, (Required<Device>, Empty) => detach),
    row!(Both("vm.device.block.List"), Any, Local Read, (Empty, Empty) => list),
];

async fn attach(cx: &Cx<Host>, device: Device) -> Result<Reply, Failure> {
    let path = path_of(cx, &device)?;
    host(cx).attach_disk(&cx.destination, path.as_path(), Access::ReadWrite).await.or_fail(cx)?;
    Ok(Reply::empty())
}

async fn detach(cx: &Cx<Host>, device: Device) -> Result<Reply, Failure> {
    let path = path_of(cx, &device)?;
    host(cx).detach_disk(&cx.destination, path.as_path()).await.or_fail(cx)?;
    Ok(Reply::empty())
}

async fn list(cx: &Cx<Host>) -> Result<Reply, Failure> {
    let disks = cx.host.attached_disks(&cx.destination).or_fail(cx)?;
    Ok(Reply::lines(disks.into_iter().filter_map(|disk| {
        let path = DevicePath::new(disk.path).ok()?;
        Some(Device { backend: VmName::DOM0.to_owned(), port: Port::Path(path) })
    })))
}

/// The file or block device that a device of dom0 is. Only dom0 may name files of dom0.
fn path_of<'a>(cx: &Cx<Host>, device: &'a Device) -> Result<&'a DevicePath, Failure> {
    let backend = cx.vm(&device.backend)?;
    match &device.port {
        Port::Path(path) if backend.is_dom0() && cx.source.is_dom0() => Ok(path),
        Port::Path(_) | Port::Name(_) => {
            Err(Exception::plain(Class::ProtocolError, "Cannot attach ambiguous block device.").into())
        }
    }
}
