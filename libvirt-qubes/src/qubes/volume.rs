//! What the model keeps of a volume. Size and use as they are on disk are storage's to tell.

use std::sync::Arc;

use super::class::VolumeKind;
use crate::config::Access;
use crate::ids::{ByteSize, PoolName, VolumeName};

/// A volume of a VM, as configured.
///
/// Where a volume is a snapshot, of which VM's volume follows from the template: see
/// [`Model::volume_source`](super::model::Model::volume_source).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeConfig {
    /// Its name, unique in the VM.
    pub name: VolumeName,
    /// The pool that it lies in.
    pub pool: PoolName,
    /// The name that the pool's driver gave it, unique in the pool; `None` for a kernel, whose name follows
    /// from the property `kernel`.
    pub vid: Option<Arc<str>>,
    /// What it is.
    pub kind: VolumeKind,
    /// Its size; `None` where it follows from the source or the kernel.
    pub size: Option<ByteSize>,
    /// Whether the guest may write.
    pub access: Access,
    /// How many revisions are kept when it is committed (-1: none can be made); `None`: the pool's rule.
    pub revisions_to_keep: Option<i32>,
    /// Whether it is encrypted with a key that nobody keeps; `None`: the pool's rule.
    pub ephemeral: Option<bool>,
    /// The number of the last explicit snapshot that was made of it; 0: none was. Numbers are never used again.
    pub last_snapshot: u64,
}
