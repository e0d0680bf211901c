//! Follows the hypervisor's events: gives back what dead domains held, then passes the event on.

use std::sync::{PoisonError, Weak};

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::{Inner, Toolstack};
use crate::event::Event;
use crate::hypervisor::{DomainChange, DomainEvent, HypervisorEvent};

/// Runs until the hypervisor or the toolstack is gone.
pub(super) async fn follow(mut events: broadcast::Receiver<HypervisorEvent>, toolstack: Weak<Inner>) {
    loop {
        let event = match events.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(_)) => HypervisorEvent::Lost,
            Err(RecvError::Closed) => return,
        };
        let Some(inner) = toolstack.upgrade() else { return };
        let toolstack = Toolstack { inner };
        toolstack.tell(match event {
            HypervisorEvent::Domain(event) => {
                toolstack.note(event);
                Event::Changed(event)
            }
            HypervisorEvent::Lost => {
                toolstack.look_again().await;
                Event::Lost
            }
            HypervisorEvent::Unavailable => Event::Unavailable,
        });
    }
}

impl Toolstack {
    fn note(&self, event: DomainEvent) {
        // A later run of the same UUID keeps what it has.
        let of_this_run = self
            .inner
            .holders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&event.uuid)
            .is_some_and(|domid| *domid == event.domid);
        if event.change == DomainChange::Died && of_this_run {
            self.forget(event.uuid);
        }
    }

    /// Gives back what belongs to domains whose end was not told.
    async fn look_again(&self) {
        let list = match self.hypervisor().list().await {
            Ok(list) => list,
            Err(error) => {
                tracing::warn!(error = error.report(), "disks of domains that are gone may stay claimed");
                return;
            }
        };
        let held = self.inner.holders.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (uuid, domid) in held {
            if !list.iter().any(|info| info.uuid == uuid && info.domid == domid) {
                self.forget(uuid);
            }
        }
    }
}
