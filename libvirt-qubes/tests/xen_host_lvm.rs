//! The driver `lvm_thin` on a real thin pool. Needs root, device-mapper and `/dev/vdb`, an empty disk; run by
//! `cargo xtask test` in the testbed's dom0.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends at the first surprise"
)]

#[path = "xen_host_lvm/contract.rs"]
mod contract;
#[path = "xen_host_lvm/full.rs"]
mod full;
#[path = "xen_host_lvm/kill.rs"]
mod kill;
#[path = "xen_host_lvm/shell.rs"]
mod shell;
#[path = "thin_pool/mod.rs"]
mod thin_pool;
#[path = "xen_host_lvm/whole.rs"]
mod whole;

use std::path::Path;

use libvirt_qubes::config::Access;
use libvirt_qubes::ids::ByteSize;
use libvirt_qubes::storage::lvm::LvName;
use libvirt_qubes::storage::{RevisionsToKeep, Sharing, VolumeId, VolumeKind, VolumeSpec};

use crate::thin_pool::ThinPool;

const MIB: u64 = 1 << 20;

/// The testbed's second disk.
fn disk() -> ThinPool {
    ThinPool::on_disk(Path::new("/dev/vdb")).unwrap()
}

fn lv(pool: &LvName, name: &str) -> LvName {
    LvName::new(pool.vg().clone(), name).unwrap()
}

fn id(text: &str) -> VolumeId {
    text.parse().unwrap()
}

fn spec(keep: i64) -> VolumeSpec {
    VolumeSpec {
        kind: VolumeKind::Origin,
        size: ByteSize::bytes(4 * MIB),
        revisions_to_keep: RevisionsToKeep::try_from(keep).unwrap(),
        access: Access::ReadWrite,
        sharing: Sharing::Source,
        ephemeral: false,
    }
}
