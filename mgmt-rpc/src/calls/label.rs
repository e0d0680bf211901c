//! Labels.

use libvirt_qubes::qubes::Host;

use super::OrFail;
use crate::cx::Cx;
use crate::failure::Failure;
use crate::reply::Reply;
use crate::row;
use crate::table::Row;
use crate::untrusted::Text;

pub(super) const ROWS: &[Row<Host>] = &[
    row!(Both("label.List"), Dom0, Global Read, (Empty, Empty) => list),
    row!(Both("label.Get"), Dom0, Global Read, (Required<Text>, Empty) => get),
    row!(Both("label.Index"), Dom0, Global Read, (Required<Text>, Empty) => index),
];

async fn list(cx: &Cx<Host>) -> Result<Reply, Failure> {
    let seen = cx.host.snapshot();
    Ok(Reply::lines(seen.model.labels().map(|label| &label.name)))
}

async fn get(cx: &Cx<Host>, Text(label): Text) -> Result<Reply, Failure> {
    let seen = cx.host.snapshot();
    let label = seen.model.find_label(&label).or_fail(cx)?;
    Ok(Reply::value(label.colour.as_str()))
}

async fn index(cx: &Cx<Host>, Text(label): Text) -> Result<Reply, Failure> {
    let seen = cx.host.snapshot();
    let label = seen.model.find_label(&label).or_fail(cx)?;
    Ok(Reply::value(label.index.to_string()))
}
