//! A subscriber's queue of events: bounded, filled by the sequencer, emptied by the subscriber.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::event::{ModelEvent, Numbered};

type Wanted = Box<dyn Fn(&ModelEvent) -> bool + Send + Sync>;

/// What a subscriber receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// An event.
    Event(Arc<Numbered>),
    /// The subscriber was too slow: events are missing here, and it must read the state anew.
    Lost {
        /// The number of the first event that is missing.
        first: u64,
        /// The number of the last one.
        last: u64,
    },
}

pub(super) struct Inbox {
    limit: usize,
    wanted: Wanted,
    queue: Mutex<VecDeque<Delivery>>,
    filled: Notify,
    open: AtomicBool,
}

impl Inbox {
    pub(super) fn new(limit: usize, wanted: Wanted) -> Self {
        Self {
            limit,
            wanted,
            queue: Mutex::new(VecDeque::new()),
            filled: Notify::new(),
            open: AtomicBool::new(true),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Adds events; `false` when nobody reads any more.
    pub(super) fn deliver(&self, events: &[Arc<Numbered>]) -> bool {
        if !self.is_open() {
            return false;
        }
        let mut any = false;
        for event in events.iter().filter(|event| (self.wanted)(&event.event)) {
            self.push(event);
            any = true;
        }
        if any {
            self.filled.notify_one();
        }
        true
    }

    fn push(&self, event: &Arc<Numbered>) {
        let mut queue = self.queue();
        if queue.len() < self.limit {
            queue.push_back(Delivery::Event(event.clone()));
        } else if let Some(Delivery::Lost { last, .. }) = queue.back_mut() {
            *last = event.number;
        } else {
            queue.push_back(Delivery::Lost { first: event.number, last: event.number });
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Delivery>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("waiting", &self.queue().len()).finish_non_exhaustive()
    }
}

/// The reader's end. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    inbox: Arc<Inbox>,
    missed: imbl::Vector<Arc<Numbered>>,
}

impl Subscription {
    pub(super) fn new(inbox: Arc<Inbox>, missed: imbl::Vector<Arc<Numbered>>) -> Self {
        Self { inbox, missed }
    }

    /// The next event. Cancel-safe: dropping the future loses nothing.
    pub async fn next(&mut self) -> Delivery {
        loop {
            if let Some(delivery) = self.try_next() {
                return delivery;
            }
            self.inbox.filled.notified().await;
        }
    }

    /// The next event if one waits.
    pub fn try_next(&mut self) -> Option<Delivery> {
        while let Some(event) = self.missed.pop_front() {
            if (self.inbox.wanted)(&event.event) {
                return Some(Delivery::Event(event));
            }
        }
        self.inbox.queue().pop_front()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.inbox.open.store(false, Ordering::Release);
        self.inbox.queue().clear();
    }
}
