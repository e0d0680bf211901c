//! The daemon about itself.

use libvirt_qubes::qubes::Host;

use crate::cx::Cx;
use crate::failure::Failure;
use crate::reply::{Content, Reply};
use crate::row;
use crate::table::Row;

pub(super) const ROWS: &[Row<Host>] = &[row!(Mgmt("Info"), Dom0, Global Read, (Empty, Empty) => info)];

/// What it runs on, and which release it is.
async fn info(cx: &Cx<Host>) -> Result<Reply, Failure> {
    let pairs = [("hypervisor", cx.host.hypervisor().name()), ("version", env!("CARGO_PKG_VERSION"))];
    let pairs = pairs.into_iter().map(|(key, value)| (key.into(), value.to_string())).collect();
    Ok(Content::Pairs(pairs).into())
}
