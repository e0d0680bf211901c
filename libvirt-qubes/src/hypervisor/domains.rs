//! Domains: create, pause, shut down, destroy, look at.

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::BoxFuture;
use crate::config::DomainSpec;
use crate::error::Result;
use crate::ids::DomId;

/// Why a domain shut itself down, in Xen's words (xen/include/public/sched.h, `SHUTDOWN_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShutdownReason {
    /// It powered off.
    Poweroff,
    /// It wants to be started again.
    Reboot,
    /// It suspended itself; it is not at its end.
    Suspend,
    /// It crashed.
    Crash,
    /// Its watchdog fired.
    Watchdog,
    /// It asked for a soft reset.
    SoftReset,
    /// A reason that this library does not know.
    Unknown,
}

/// What a domain is doing, as Xen tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DomainState {
    /// It exists and nothing holds it: running, or waiting for an interrupt.
    Running,
    /// Paused by a toolstack (also: just created).
    Paused,
    /// It has shut down and waits to be destroyed; `Suspend` can be resumed.
    Shutdown(ShutdownReason),
    /// It is being torn down.
    Dying,
}

/// A domain as Xen lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainInfo {
    /// Its identity.
    pub uuid: Uuid,
    /// Its number, for as long as it exists.
    pub domid: DomId,
    /// Its name; `None` while it is being built or torn down.
    pub name: Option<String>,
    /// What it is doing.
    pub state: DomainState,
    /// Memory that it has now, in KiB.
    pub memory_kib: u64,
    /// The most memory that it may have, in KiB.
    pub max_memory_kib: u64,
    /// Processor time used by all its virtual CPUs, in nanoseconds.
    pub cpu_time_ns: u64,
    /// Virtual CPUs that are online.
    pub vcpus: u32,
}

/// What a domain uses at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainUsage {
    /// Its identity; dom0's is zero.
    pub uuid: Uuid,
    /// Its number.
    pub domid: DomId,
    /// Memory that it has now, in KiB.
    pub memory_kib: u64,
    /// The most memory that it may have, in KiB.
    pub max_memory_kib: u64,
    /// Processor time used by all its virtual CPUs, in nanoseconds.
    pub cpu_time_ns: u64,
    /// Virtual CPUs that are online.
    pub vcpus: u32,
    /// Memory and swap that the guest says it uses, in KiB. It can say what it likes.
    pub told_memory_kib: Option<u64>,
    /// The part of that which is swap.
    pub told_swap_kib: Option<u64>,
    /// The domain that runs its device model, where it has one.
    pub device_model: Option<DeviceModelUsage>,
}

/// As far as a list tells: nothing of the guest's own words, nor of a device model.
impl From<DomainInfo> for DomainUsage {
    fn from(info: DomainInfo) -> Self {
        Self {
            uuid: info.uuid,
            domid: info.domid,
            memory_kib: info.memory_kib,
            max_memory_kib: info.max_memory_kib,
            cpu_time_ns: info.cpu_time_ns,
            vcpus: info.vcpus,
            told_memory_kib: None,
            told_swap_kib: None,
            device_model: None,
        }
    }
}

/// What the domain of a device model uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceModelUsage {
    /// The most memory that it may have, in KiB.
    pub max_memory_kib: u64,
    /// Processor time used by all its virtual CPUs, in nanoseconds.
    pub cpu_time_ns: u64,
    /// Virtual CPUs that are online.
    pub vcpus: u32,
}

/// The life of domains.
///
/// Every method that takes a UUID answers `Kind::NotFound` when no such domain exists.
pub trait Domains: Send + Sync {
    /// All domains but dom0, those being built and torn down included.
    fn list(&self) -> BoxFuture<'_, Result<Vec<DomainInfo>>>;

    /// One domain.
    fn info(&self, uuid: Uuid) -> BoxFuture<'_, Result<DomainInfo>>;

    /// What every domain uses, in the order of their numbers: dom0 too, and the domain of a device model as part of
    /// the one that it serves.
    fn usage(&self) -> BoxFuture<'_, Result<Vec<DomainUsage>>>;

    /// Builds a domain with its disks and leaves it paused; it is watched from then on, as by
    /// [`EventSource::watch`](super::EventSource::watch).
    ///
    /// Before: no live domain has this name or UUID (`Kind::AlreadyExists`). On failure, and after `cancel`
    /// (`Kind::Cancelled`), nothing is left: no domain, no loop device, no xenstore node. `Kind::NoMemory`
    /// when the host has not enough memory; `Kind::Unsupported` or `Kind::Invalid` for a configuration that
    /// cannot be built.
    fn create(&self, spec: DomainSpec, cancel: CancellationToken) -> BoxFuture<'_, Result<DomId>>;

    /// Stops a domain's virtual CPUs. Idempotent: a paused domain stays paused by one pause.
    fn pause(&self, uuid: Uuid) -> BoxFuture<'_, Result<()>>;

    /// Lets a domain run, however often it was paused. Idempotent.
    fn unpause(&self, uuid: Uuid) -> BoxFuture<'_, Result<()>>;

    /// Hands the guest a request to power off and returns when it is handed over; it does not wait for the
    /// guest, and a guest that never answers holds nothing. `Kind::Busy` when the domain is paused or has
    /// shut down already; `Kind::Unsupported` when the guest says that it cannot be asked.
    fn request_shutdown(&self, uuid: Uuid) -> BoxFuture<'_, Result<()>>;

    /// Ends a domain in whatever state it is and frees all it held: devices, loop devices, xenstore nodes.
    /// Returns when it is gone. A domain that is already gone is `Kind::NotFound`.
    fn destroy(&self, uuid: Uuid) -> BoxFuture<'_, Result<()>>;
}
