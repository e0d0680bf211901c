//! Labels. None of these calls has an event.

use libvirt_qubes::qubes::Host;
use libvirt_qubes::qubes::ids::{Colour, LabelName, LabelRef};

use super::OrFail;
use crate::cx::Cx;
use crate::failure::Failure;
use crate::reply::Reply;
use crate::row;
use crate::table::Row;

pub(super) const ROWS: &[Row<Host>] = &[
    row!(Both("label.List"), Dom0, Global Read, (Empty, Empty) => list),
    row!(Both("label.Get"), Dom0, Global Read, (Required<LabelRef>, Empty) => get),
    row!(Both("label.Index"), Dom0, Global Read, (Required<LabelRef>, Empty) => index),
    row!(Both("label.Create"), Dom0, Global Write, (Required<LabelName>, Required<Colour>) => create),
    row!(Both("label.Remove"), Dom0, Global Write, (Required<LabelRef>, Empty) => remove),
];

async fn list(cx: &Cx<Host>) -> Result<Reply, Failure> {
    let seen = cx.host.snapshot();
    Ok(Reply::lines(seen.model.labels().map(|label| &label.name)))
}

async fn get(cx: &Cx<Host>, label: LabelRef) -> Result<Reply, Failure> {
    let seen = cx.host.snapshot();
    let label = seen.model.find_label(label.as_str()).or_fail(cx)?;
    Ok(Reply::value(label.colour.as_str()))
}

async fn index(cx: &Cx<Host>, label: LabelRef) -> Result<Reply, Failure> {
    let seen = cx.host.snapshot();
    let label = seen.model.find_label(label.as_str()).or_fail(cx)?;
    Ok(Reply::value(label.index.to_string()))
}

async fn create(cx: &Cx<Host>, label: LabelName, colour: Colour) -> Result<Reply, Failure> {
    cx.host.create_label(label, colour).await.or_fail(cx)?;
    Ok(Reply::empty())
}

async fn remove(cx: &Cx<Host>, label: LabelRef) -> Result<Reply, Failure> {
    cx.host.remove_label(label.as_str()).await.or_fail(cx)?;
    Ok(Reply::empty())
}
