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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::config::{Access, DiskSpec};
    use crate::error::Kind;
    use crate::ids::DomId;
    use crate::sim::{SimConfig, SimHypervisor, World};

    #[tokio::test]
    async fn the_late_news_of_an_earlier_run_takes_nothing_from_the_next() {
        let sim = SimHypervisor::open(World::memory(), SimConfig::default()).await.unwrap();
        let toolstack = Toolstack::open(Arc::new(sim)).await.unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let vdev = "xvda".parse().unwrap();
        let disk = [DiskSpec { vdev, path: file.path().into(), access: Access::ReadWrite }];
        let (ours, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let run = |number| DomId::new(number).unwrap();
        toolstack.claim_disks(ours, &disk).await.unwrap();
        toolstack.inner.holders.lock().unwrap().insert(ours, run(5));
        for change in [DomainChange::Paused, DomainChange::Died] {
            toolstack.note(DomainEvent { uuid: ours, domid: run(4), change });
            let taken = toolstack.claim_disks(other, &disk).await;
            assert_eq!(taken.unwrap_err().kind(), Kind::Busy);
        }
        toolstack.note(DomainEvent { uuid: ours, domid: run(5), change: DomainChange::Died });
        toolstack.claim_disks(other, &disk).await.unwrap();
    }
}
