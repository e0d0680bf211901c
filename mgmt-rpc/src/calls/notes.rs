//! Notes on VMs.

use libvirt_qubes::qubes::Host;
use libvirt_qubes::qubes::notes::NotesText;

use super::OrFail;
use crate::cx::Cx;
use crate::failure::Failure;
use crate::reply::Reply;
use crate::row;
use crate::table::Row;

pub(super) const ROWS: &[Row<Host>] = &[
    row!(Both("vm.notes.Get"), Vm, Local Read, (Empty, Empty) => get),
    row!(Both("vm.notes.Set"), Vm, Local Write, (Empty, Optional<NotesText>) => set),
];

async fn get(cx: &Cx<Host>) -> Result<Reply, Failure> {
    Ok(Reply::value(cx.host.notes(&cx.destination).or_fail(cx)?.as_str()))
}

async fn set(cx: &Cx<Host>, text: NotesText) -> Result<Reply, Failure> {
    cx.host.set_notes(&cx.destination, text).await.or_fail(cx)?;
    Ok(Reply::empty())
}
