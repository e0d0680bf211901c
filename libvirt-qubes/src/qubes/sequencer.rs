//! The one place where state becomes visible: snapshot, number and events in one step.
//!
//! The committer publishes models, operations publish run states and what is known of the host; a
//! subscriber's snapshot and the number of its first event always agree. Readers take the latest snapshot
//! without a lock. Nothing here waits: a subscriber that does not read fills its own queue, and then is told
//! that events were lost.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use uuid::Uuid;

use super::event::{ModelEvent, Numbered};
use super::model::Model;
use super::snapshot::{Cells, HostView, Run, Snapshot};
use super::subscription::{Inbox, Subscription};

/// Bytes that an event may take on the average where many are kept: those of ordinary ones are a few hundred, of one
/// with the longest value a client can set a hundred thousand.
const BYTES_AN_EVENT: usize = 1024;

/// Bounds of what is kept for subscribers. Long events count for several: each bound is also one of 1 KiB an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventLimits {
    /// Events that wait for one subscriber; past it, events are lost to it.
    pub queue: usize,
    /// Events that are kept for those who come back.
    pub history: usize,
}

impl Default for EventLimits {
    fn default() -> Self {
        Self { queue: 4096, history: 65536 }
    }
}

/// Publishes state and events.
#[derive(Debug)]
pub struct Sequencer {
    latest: ArcSwap<Snapshot>,
    limits: EventLimits,
    order: Mutex<Order>,
}

#[derive(Debug)]
struct Order {
    /// Number of the last event that the history does not hold.
    before_history: u64,
    history: imbl::Vector<Arc<Numbered>>,
    /// What the history takes.
    weight: usize,
    subscribers: Vec<Arc<Inbox>>,
}

impl Order {
    /// Adds to the history, and forgets the oldest where it gets too long.
    fn remember(&mut self, events: Vec<Arc<Numbered>>, limit: usize) {
        self.weight += events.iter().map(|event| event.weight()).sum::<usize>();
        self.history.extend(events);
        while self.history.len() > limit || self.weight > limit.saturating_mul(BYTES_AN_EVENT) {
            let Some(oldest) = self.history.pop_front() else { break };
            self.weight = self.weight.saturating_sub(oldest.weight());
            self.before_history = oldest.number;
        }
    }
}

impl Sequencer {
    /// Begins with this model, nothing running; events get numbers above `number`.
    pub fn new(model: Model, number: u64, host: HostView, limits: EventLimits) -> Self {
        let cells = Cells { runs: imbl::HashMap::new(), host: Arc::new(host) };
        Self {
            latest: ArcSwap::from_pointee(Snapshot { number, model, cells }),
            limits,
            order: Mutex::new(Order {
                before_history: number,
                history: imbl::Vector::new(),
                weight: 0,
                subscribers: Vec::new(),
            }),
        }
    }

    /// The latest state. Never waits.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.latest.load_full()
    }

    /// Publishes a run state (`None`: halted) and the events that belong to it.
    pub fn publish_run(&self, vm: Uuid, run: Option<Run>, events: Vec<ModelEvent>) {
        self.update(|_, cells| {
            match run {
                Some(run) => cells.runs.insert(vm, run),
                None => cells.runs.remove(&vm),
            };
            (events, ())
        });
    }

    /// Publishes events without a change of state.
    pub fn announce(&self, events: Vec<ModelEvent>) {
        self.update(|_, _| (events, ()));
    }

    /// Changes run states or what is known of the host, and publishes that with the events that `change`
    /// gives. It sees the latest state and is alone with it: it must be short and must not block.
    pub fn update<R>(&self, change: impl FnOnce(&Model, &mut Cells) -> (Vec<ModelEvent>, R)) -> R {
        let mut order = self.order();
        let latest = self.latest.load();
        let mut cells = latest.cells.clone();
        let (events, answer) = change(&latest.model, &mut cells);
        self.publish(&mut order, latest.model.clone(), cells, events);
        answer
    }

    /// Publishes a committed model with the events of its changes.
    pub(super) fn publish_model(&self, model: Model, events: Vec<ModelEvent>) {
        let mut order = self.order();
        let cells = self.latest.load().cells.clone();
        self.publish(&mut order, model, cells, events);
    }

    fn publish(&self, order: &mut Order, model: Model, cells: Cells, events: Vec<ModelEvent>) {
        let first = self.latest.load().number;
        let events: Vec<Arc<Numbered>> = events
            .into_iter()
            .zip(first + 1..)
            .map(|(event, number)| Arc::new(Numbered { number, event: Arc::new(event) }))
            .collect();
        let number = events.last().map_or(first, |last| last.number);
        self.latest.store(Arc::new(Snapshot { number, model, cells }));
        if events.is_empty() {
            return;
        }
        order.subscribers.retain(|inbox| inbox.deliver(&events));
        order.remember(events, self.limits.history);
    }

    /// Subscribes to the events that `wanted` lets pass, and gives the state before the first of them.
    ///
    /// `wanted` is asked at each publication, while everybody waits: it must be quick, must not block and
    /// must not panic. What takes longer (a policy) is asked by the reader.
    pub fn subscribe(
        &self,
        wanted: impl Fn(&ModelEvent) -> bool + Send + Sync + 'static,
    ) -> (Subscription, Arc<Snapshot>) {
        let mut order = self.order();
        let inbox = Arc::new(Inbox::new(self.limits.queue, BYTES_AN_EVENT, Box::new(wanted)));
        order.subscribers.push(inbox.clone());
        (Subscription::new(inbox, imbl::Vector::new()), self.latest.load_full())
    }

    /// Subscribes to the events after `number`, those that have happened since first.
    ///
    /// `None` when the history does not reach back that far, or the number is not yet given out: the caller
    /// must read the state anew.
    pub fn subscribe_since(
        &self,
        number: u64,
        wanted: impl Fn(&ModelEvent) -> bool + Send + Sync + 'static,
    ) -> Option<(Subscription, Arc<Snapshot>)> {
        let mut order = self.order();
        let latest = self.latest.load_full();
        if number < order.before_history || number > latest.number {
            return None;
        }
        let skip = usize::try_from(number - order.before_history).unwrap_or(usize::MAX);
        let missed = order.history.clone().split_off(skip.min(order.history.len()));
        let inbox = Arc::new(Inbox::new(self.limits.queue, BYTES_AN_EVENT, Box::new(wanted)));
        order.subscribers.push(inbox.clone());
        Some((Subscription::new(inbox, missed), latest))
    }

    /// How many subscriptions are open.
    pub fn subscribers(&self) -> usize {
        let mut order = self.order();
        order.subscribers.retain(|inbox| inbox.is_open());
        order.subscribers.len()
    }

    /// The lock is held for pure code alone; if that panicked, the last published state still stands.
    fn order(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::EventKind;
    use super::super::snapshot::VolumeNaming;
    use super::super::subscription::Delivery;
    use super::*;
    use crate::ids::PoolName;

    fn event(name: &str) -> ModelEvent {
        ModelEvent::system(EventKind::PoolAdd { pool: name.parse::<PoolName>().unwrap() })
    }

    fn sequencer(limits: EventLimits) -> Sequencer {
        let naming = VolumeNaming::new(|_, _, _, volume| volume.to_string());
        Sequencer::new(Model::default(), 100, HostView::unknown(naming), limits)
    }

    fn numbers(subscription: &mut Subscription) -> Vec<u64> {
        std::iter::from_fn(|| subscription.try_next())
            .map(|delivery| match delivery {
                Delivery::Event(event) => event.number,
                Delivery::Lost { .. } => 0,
            })
            .collect()
    }

    #[test]
    fn a_subscribers_first_event_has_the_number_after_its_snapshots() {
        let sequencer = sequencer(EventLimits::default());
        sequencer.announce(vec![event("a")]);
        let (mut subscription, snapshot) = sequencer.subscribe(|_| true);
        sequencer.announce(vec![event("b"), event("c")]);
        assert_eq!(snapshot.number, 101);
        assert_eq!(numbers(&mut subscription), [102, 103]);
        assert_eq!(sequencer.snapshot().number, 103);
    }

    #[test]
    fn a_subscriber_gets_what_its_predicate_lets_pass() {
        let sequencer = sequencer(EventLimits::default());
        let (mut subscription, _) = sequencer.subscribe(|e| *e == event("b"));
        sequencer.announce(vec![event("a"), event("b"), event("a"), event("b")]);
        assert_eq!(numbers(&mut subscription), [102, 104]);
    }

    #[test]
    fn a_full_queue_ends_in_one_mark_that_names_the_last_lost_event_and_fills_again_after_it() {
        let sequencer = sequencer(EventLimits { queue: 2, history: 8 });
        let (mut subscription, _) = sequencer.subscribe(|_| true);
        sequencer.announce((0..5).map(|_| event("a")).collect());
        let mut got = Vec::new();
        while let Some(delivery) = subscription.try_next() {
            got.push(delivery);
        }
        assert_eq!(got.len(), 3);
        assert!(matches!(got.last(), Some(Delivery::Lost { first: 103, last: 105 })), "{got:?}");
        sequencer.announce(vec![event("b")]);
        assert_eq!(numbers(&mut subscription), [106]);
    }

    #[test]
    fn events_since_a_number_come_before_new_ones_and_only_as_far_back_as_the_history() {
        let sequencer = sequencer(EventLimits { queue: 8, history: 3 });
        sequencer.announce((0..5).map(|_| event("a")).collect());
        assert!(sequencer.subscribe_since(101, |_| true).is_none());
        assert!(sequencer.subscribe_since(106, |_| true).is_none());
        let (mut subscription, _) = sequencer.subscribe_since(103, |_| true).unwrap();
        let (mut all, _) = sequencer.subscribe_since(102, |_| true).unwrap();
        let (mut none, _) = sequencer.subscribe_since(105, |_| true).unwrap();
        sequencer.announce(vec![event("b")]);
        assert_eq!(numbers(&mut subscription), [104, 105, 106]);
        assert_eq!(numbers(&mut all), [103, 104, 105, 106]);
        assert_eq!(numbers(&mut none), [106]);
    }

    #[test]
    fn long_events_count_for_several_in_queues_and_in_the_history() {
        let long = || {
            let feature = "a".repeat(4 * BYTES_AN_EVENT);
            ModelEvent::system(EventKind::DomainFeaturePreDelete { feature })
        };
        let sequencer = sequencer(EventLimits { queue: 10, history: 10 });
        let (mut subscription, _) = sequencer.subscribe(|_| true);
        sequencer.announce((0..5).map(|_| long()).collect());
        assert_eq!(numbers(&mut subscription), [101, 102, 0]);
        assert!(sequencer.subscribe_since(102, |_| true).is_none());
        let (mut missed, _) = sequencer.subscribe_since(103, |_| true).unwrap();
        assert_eq!(numbers(&mut missed), [104, 105]);
        sequencer.announce((0..3).map(|_| event("a")).collect());
        assert_eq!(numbers(&mut subscription), [106, 107, 108]);
    }

    #[test]
    fn a_dropped_subscription_is_forgotten() {
        let sequencer = sequencer(EventLimits::default());
        let (subscription, _) = sequencer.subscribe(|_| true);
        let (_kept, _) = sequencer.subscribe(|_| true);
        assert_eq!(sequencer.subscribers(), 2);
        drop(subscription);
        assert_eq!(sequencer.subscribers(), 1);
    }
}
