//! The contract with a hypervisor: four small traits, implemented by libxl (`xen`) and by `sim`.
//!
//! A domain's identity is its UUID: domids and names lie. All methods are `async` through boxed futures, so
//! that the traits are dyn-safe; no implementation blocks the thread that polls. Dropping a future gives up
//! the answer, not the operation: what was begun runs to its end (cancel is explicit, by token). Types are
//! plain owned data with `serde`, so that a backend can move into a process of its own.

mod devices;
mod domains;
mod event_source;
mod host_info;

use std::pin::Pin;

pub use devices::{Devices, DiskInfo};
pub use domains::{DeviceModelUsage, DomainInfo, DomainState, DomainUsage, Domains, ShutdownReason};
pub use event_source::{DomainChange, DomainEvent, EventSource, HypervisorEvent};
pub use host_info::{HostFacts, HostInfo};

/// A boxed future, as the traits return them.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A whole hypervisor.
pub trait Hypervisor: Domains + Devices + HostInfo + EventSource {}

impl<T: Domains + Devices + HostInfo + EventSource> Hypervisor for T {}
