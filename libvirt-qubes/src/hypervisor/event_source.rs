//! What happens to domains without our doing.

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use uuid::Uuid;

use super::{BoxFuture, ShutdownReason};
use crate::error::Result;
use crate::ids::DomId;

/// What happened to a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DomainChange {
    /// It shut down; it exists still and must be destroyed (but for `Suspend`). Once for each run.
    Shutdown(ShutdownReason),
    /// It is gone or being torn down. Once, and last.
    Died,
    /// Its virtual CPUs were stopped, by whomever.
    Paused,
    /// Its virtual CPUs run again.
    Unpaused,
}

/// A change of one domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainEvent {
    /// The domain's identity.
    pub uuid: Uuid,
    /// Its number; tells two runs of one UUID apart.
    pub domid: DomId,
    /// What happened.
    pub change: DomainChange,
}

/// What the hypervisor tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HypervisorEvent {
    /// A domain changed.
    Domain(DomainEvent),
    /// Events were lost, or may have been: read the state of every domain again.
    Lost,
    /// The hypervisor's services are gone (xenstored died): nothing but lists works until the host is
    /// started anew.
    Unavailable,
}

/// The source of events.
pub trait EventSource: Send + Sync {
    /// All events from now on. The queue is bounded; a receiver that lags (`RecvError::Lagged`) treats it as
    /// [`HypervisorEvent::Lost`].
    fn subscribe(&self) -> broadcast::Receiver<HypervisorEvent>;

    /// Watches a domain that another process, or an earlier run of this one, created. What has happened to
    /// it before is reported as an event too (a domain found shut down, or gone). Idempotent.
    fn watch(&self, uuid: Uuid) -> BoxFuture<'_, Result<()>>;
}
