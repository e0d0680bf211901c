//! Tags of VMs.

use libvirt_qubes::qubes::Host;
use libvirt_qubes::qubes::ids::Tag;

use super::OrFail;
use crate::cx::{Cx, Dialect};
use crate::failure::Failure;
use crate::reply::Reply;
use crate::row;
use crate::table::Row;

pub(super) const ROWS: &[Row<Host>] = &[
    row!(Both("vm.tag.List"), Any, Local Read, (Empty, Empty) => list),
    row!(Both("vm.tag.Get"), Any, Local Read, (Required<Tag>, Empty) => get),
    row!(Both("vm.tag.Set"), Any, Local Write, (Required<Tag>, Empty) => set),
    row!(Both("vm.tag.Remove"), Any, Local Write, (Required<Tag>, Empty) => remove),
];

async fn list(cx: &Cx<Host>) -> Result<Reply, Failure> {
    let seen = cx.host.snapshot();
    Ok(Reply::lines(&seen.model.find_vm(&cx.destination).or_fail(cx)?.tags))
}

async fn get(cx: &Cx<Host>, tag: Tag) -> Result<Reply, Failure> {
    let seen = cx.host.snapshot();
    let vm = seen.model.find_vm(&cx.destination).or_fail(cx)?;
    Ok(Reply::value(if vm.tags.contains(&tag) { "1" } else { "0" }))
}

async fn set(cx: &Cx<Host>, tag: Tag) -> Result<Reply, Failure> {
    may_change(cx, &tag)?;
    cx.host.add_tag(&cx.destination, tag).await.or_fail(cx)?;
    Ok(Reply::empty())
}

async fn remove(cx: &Cx<Host>, tag: Tag) -> Result<Reply, Failure> {
    may_change(cx, &tag)?;
    cx.host.remove_tag(&cx.destination, tag).await.or_fail(cx)?;
    Ok(Reply::empty())
}

/// Tags that policy relies on are dom0's alone: who made a VM, and, in the draft, who manages it.
fn may_change(cx: &Cx<Host>, tag: &Tag) -> Result<(), Failure> {
    let prefixes: &[&str] = match cx.dialect {
        Dialect::Mgmt => &["created-by-", "managed-by-"],
        Dialect::Admin => &["created-by-"],
    };
    let kept = prefixes.iter().any(|prefix| tag.as_str().starts_with(prefix));
    if kept && !cx.source.is_dom0() { Err(Failure::Denied) } else { Ok(()) }
}
