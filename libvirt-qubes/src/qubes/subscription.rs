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
    bytes: usize,
    wanted: Wanted,
    queue: Mutex<Queue>,
    filled: Notify,
    open: AtomicBool,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Delivery>,
    /// What it takes.
    weight: usize,
}

impl Queue {
    fn pop(&mut self) -> Option<Delivery> {
        let first = self.waiting.pop_front();
        if let Some(Delivery::Event(event)) = &first {
            self.weight = self.weight.saturating_sub(event.weight());
        }
        first
    }
}

impl Inbox {
    /// A queue of at most so many events, of so many bytes on the average.
    pub(super) fn new(limit: usize, bytes_each: usize, wanted: Wanted) -> Self {
        Self {
            limit,
            bytes: limit.saturating_mul(bytes_each),
            wanted,
            queue: Mutex::new(Queue::default()),
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
        let weight = queue.weight + event.weight();
        // One event fits whatever it takes.
        let fits = queue.waiting.is_empty() || (queue.waiting.len() < self.limit && weight <= self.bytes);
        if fits {
            queue.weight = weight;
            queue.waiting.push_back(Delivery::Event(event.clone()));
        } else if let Some(Delivery::Lost { last, .. }) = queue.waiting.back_mut() {
            *last = event.number;
        } else {
            queue.waiting.push_back(Delivery::Lost { first: event.number, last: event.number });
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("waiting", &self.queue().waiting.len()).finish_non_exhaustive()
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
        self.inbox.queue().pop()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.inbox.open.store(false, Ordering::Release);
        *self.inbox.queue() = Queue::default();
    }
}
