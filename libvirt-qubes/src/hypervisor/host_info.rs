//! Figures about the host.

use serde::{Deserialize, Serialize};

use super::BoxFuture;
use crate::error::Result;

/// What a host is and has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Memory of the machine, in KiB.
    pub total_memory_kib: u64,
    /// Memory that no domain has, in KiB.
    pub free_memory_kib: u64,
    /// Processors that are online.
    pub cpus: u32,
    /// The hypervisor's release, as it names itself (`4.17.7`).
    pub release: String,
}

/// The host.
pub trait HostInfo: Send + Sync {
    /// The backend's name: `libxl` or `sim`.
    fn name(&self) -> &'static str;

    /// Whether this backend can start a domain without a kernel in any mode, as `sim` can.
    fn boots_without_kernel(&self) -> bool;

    /// Figures as of now.
    fn facts(&self) -> BoxFuture<'_, Result<HostFacts>>;
}
