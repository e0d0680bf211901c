//! The toolstack's events: domains and devices. The Qubes model has its own.

use tokio::sync::broadcast;
use uuid::Uuid;

use crate::hypervisor::DomainEvent;
use crate::ids::{DomId, Vdev};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// This toolstack made a domain.
    Created {
        /// Its identity.
        uuid: Uuid,
        /// Its number.
        domid: DomId,
    },
    /// A domain changed, by whose doing ever. After its `Died` its disks are free.
    Changed(DomainEvent),
    /// This toolstack attached a disk.
    DiskAttached {
        /// The domain.
        uuid: Uuid,
        /// The disk.
        vdev: Vdev,
    },
    /// This toolstack detached a disk.
    DiskDetached {
        /// The domain.
        uuid: Uuid,
        /// The disk.
        vdev: Vdev,
    },
    /// Events were lost: what is known of every domain must be read again.
    Lost,
    /// The hypervisor's services are gone: nothing but lists works until the host is started anew.
    Unavailable,
}

/// All events from the subscription on, in their order. The queue is bounded: who reads too slowly gets
/// [`Event::Lost`] in the place of those that were dropped.
#[derive(Debug)]
pub struct Subscription {
    events: broadcast::Receiver<Event>,
}

impl Subscription {
    pub(crate) fn new(events: broadcast::Receiver<Event>) -> Self {
        Self { events }
    }

    /// The next event; `None` when the toolstack is gone. Dropping the future loses no event.
    pub async fn next(&mut self) -> Option<Event> {
        match self.events.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Event::Lost),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_reader_is_told_that_it_lost_events_and_gets_those_after() {
        let (sender, receiver) = broadcast::channel(2);
        let mut events = Subscription::new(receiver);
        let event = |n| Event::Created { uuid: Uuid::nil(), domid: DomId::new(n).unwrap() };
        for n in 0..5 {
            sender.send(event(n)).unwrap();
        }
        drop(sender);
        let mut seen = Vec::new();
        while let Some(event) = events.next().await {
            seen.push(event);
        }
        assert_eq!(seen, [Event::Lost, event(3), event(4)]);
    }
}
