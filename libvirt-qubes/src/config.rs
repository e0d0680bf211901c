//! What a domain is made of, as plain data: the hypervisor's input.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::{MemoryMib, Vdev, VmName};

/// How a guest is virtualised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VirtMode {
    /// Paravirtualised.
    Pv,
    /// Hardware virtualisation without a device model.
    Pvh,
    /// Hardware virtualisation with a device model in a stub domain.
    Hvm,
}

/// Whether a disk may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Reading only.
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
}

/// A virtual disk whose backend is dom0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// The name that the guest sees.
    pub vdev: Vdev,
    /// A regular file or a block device of dom0; absolute.
    pub path: PathBuf,
    /// Whether the guest may write.
    pub access: Access,
}

/// The kernel that a domain boots, from files of dom0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// The kernel image; absolute.
    pub kernel: PathBuf,
    /// The initial RAM file system, if any; absolute.
    pub ramdisk: Option<PathBuf>,
    /// The kernel's command line.
    pub cmdline: String,
}

/// Everything that `Domains::create` needs. Two domains with one UUID cannot be told apart by Xen's tools:
/// the backend refuses a UUID, and a name, that a live domain has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainSpec {
    /// The domain's name, unique among live domains.
    pub name: VmName,
    /// The domain's identity, for as long as it exists and over restarts of the caller.
    pub uuid: Uuid,
    /// How it is virtualised.
    pub virt_mode: VirtMode,
    /// Memory at start.
    pub memory: MemoryMib,
    /// The most that it can be given while it runs; at least `memory`.
    pub max_memory: MemoryMib,
    /// Number of virtual CPUs, all online; at least 1.
    pub vcpus: u32,
    /// What it boots; without it only `sim` (any mode) and HVM (its firmware) can start.
    pub boot: Option<Boot>,
    /// Its disks at start.
    pub disks: Vec<DiskSpec>,
}
