//! Virtual devices of live domains. Only disks so far; nics, PCI and USB get their methods here.

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::BoxFuture;
use crate::config::{Access, DiskSpec};
use crate::error::Result;
use crate::ids::Vdev;

/// A virtual disk that a live domain has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskInfo {
    /// The name that the guest sees.
    pub vdev: Vdev,
    /// The file or block device behind it; `None` where the backend does not say.
    pub path: Option<std::path::PathBuf>,
    /// Whether the guest may write.
    pub access: Access,
}

/// Devices of live domains. `Kind::NotFound` when the domain, or the device, does not exist.
pub trait Devices: Send + Sync {
    /// The disks of a domain, in the order of their names.
    fn disks(&self, uuid: Uuid) -> BoxFuture<'_, Result<Vec<DiskInfo>>>;

    /// Attaches a disk to a live domain and returns when its backend is connected. `Kind::AlreadyExists`
    /// when the domain has a disk of that name. On failure nothing is left of it.
    fn attach_disk(&self, uuid: Uuid, disk: DiskSpec, cancel: CancellationToken)
    -> BoxFuture<'_, Result<()>>;

    /// Detaches a disk and frees what it held. `Kind::TimedOut` when the guest does not let go of it; it is
    /// attached still.
    fn detach_disk(&self, uuid: Uuid, vdev: Vdev, cancel: CancellationToken) -> BoxFuture<'_, Result<()>>;
}
