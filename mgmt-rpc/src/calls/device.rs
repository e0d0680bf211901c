//! Devices of every class.

use libvirt_qubes::qubes::{DeviceClass, Host};

use crate::cx::Cx;
use crate::failure::Failure;
use crate::reply::Reply;
use crate::row;
use crate::table::Row;

pub(super) const ROWS: &[Row<Host>] =
    &[row!(Both("deviceclass.List"), Dom0, Global Read, (Empty, Empty) => classes)];

async fn classes(_cx: &Cx<Host>) -> Result<Reply, Failure> {
    Ok(Reply::lines(DeviceClass::ALL))
}
