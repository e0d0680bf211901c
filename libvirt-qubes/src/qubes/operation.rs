//! The order of slow work: one operation at a time for a VM, and Kill before all of them.
//!
//! An operation first *registers* (from then on it can be cancelled, and counts against the limit), then
//! waits for the VM's *lock*. Nobody holds one VM's lock while taking another's. Kill never queues: it
//! cancels the holder and whoever waits, waits until they have undone what they did, and while it is under
//! way nobody else gets the lock. The end of a domain cancels them likewise.
//!
//! The registry knows nothing of what an operation does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What an operation is, for the log and for those who look at what is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OperationKind {
    /// A start, until the VM runs.
    Start,
    /// A pause or unpause.
    Pause,
    /// An attach or detach of a device.
    Device,
    /// Work on the VM's volumes while it is halted.
    Volume,
    /// The same, where data is copied: the daemon's end cancels it.
    Copy,
    /// The creation of the VM.
    Create,
    /// The removal of the VM.
    Remove,
    /// The clean-up after the domain's end.
    Stop,
}

/// Why an operation did not get its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoTurn {
    /// Too many operations wait for this VM.
    #[error("too many operations wait for this VM (limit operations_per_vm = {limit})")]
    Full {
        /// The limit that was reached.
        limit: usize,
    },
    /// It was cancelled while it waited.
    #[error("cancelled while waiting for another operation on this VM")]
    Cancelled,
}

/// All operations that are registered, of all VMs.
#[derive(Debug)]
pub struct Operations {
    vms: Mutex<HashMap<Uuid, Arc<Queue>>>,
    limit: usize,
}

/// The operations of one VM.
#[derive(Debug)]
struct Queue {
    lock: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<State>,
    /// Told whenever an entry or an override leaves.
    left: Notify,
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<Entry>,
    /// How many kills and ends of the domain are under way; while it is not 0, they alone take the lock.
    overrides: usize,
    next_id: u64,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    kind: OperationKind,
    cancel: CancellationToken,
}

/// A panic while a state is locked cannot leave it half changed: each change is one push, removal or count.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Operations {
    /// No operations yet. At most `limit` may wait for one VM besides the one that works.
    pub fn new(limit: usize) -> Self {
        Self { vms: Mutex::new(HashMap::new()), limit }
    }

    /// Registers an operation. It does not wait.
    pub fn register(self: &Arc<Self>, vm: Uuid, kind: OperationKind) -> Result<Registered, NoTurn> {
        let mut vms = lock(&self.vms);
        let queue = vms.entry(vm).or_insert_with(Queue::new).clone();
        let mut state = lock(&queue.state);
        if state.entries.len() > self.limit {
            return Err(NoTurn::Full { limit: self.limit });
        }
        let id = state.next_id;
        state.next_id = state.next_id.wrapping_add(1);
        let cancel = CancellationToken::new();
        state.entries.push(Entry { id, kind, cancel: cancel.clone() });
        drop(state);
        Ok(Registered { place: Place { all: Arc::clone(self), vm, queue }, id, cancel })
    }

    /// Begins what goes before everything else: a Kill, or the clean-up after a domain's end. Whatever is
    /// registered for the VM is cancelled; what registers later waits until this is over.
    pub fn override_all(self: &Arc<Self>, vm: Uuid) -> Override {
        let mut vms = lock(&self.vms);
        let queue = vms.entry(vm).or_insert_with(Queue::new).clone();
        let mut state = lock(&queue.state);
        state.overrides = state.overrides.saturating_add(1);
        for entry in &state.entries {
            entry.cancel.cancel();
        }
        drop(state);
        Override { place: Place { all: Arc::clone(self), vm, queue } }
    }

    /// The operations of a VM that are registered now, oldest first.
    pub fn under_way(&self, vm: Uuid) -> Vec<OperationKind> {
        let queue = lock(&self.vms).get(&vm).cloned();
        queue.map_or_else(Vec::new, |queue| {
            lock(&queue.state).entries.iter().map(|entry| entry.kind).collect()
        })
    }

    /// Cancels everything of every VM, for the end of the daemon.
    pub fn cancel_all(&self, kinds: &[OperationKind]) {
        for queue in lock(&self.vms).values() {
            for entry in &lock(&queue.state).entries {
                if kinds.contains(&entry.kind) {
                    entry.cancel.cancel();
                }
            }
        }
    }

    /// How many operations are registered, of all VMs.
    pub fn count(&self) -> usize {
        lock(&self.vms).values().map(|queue| lock(&queue.state).entries.len()).sum()
    }
}

impl Queue {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            lock: Arc::new(tokio::sync::Mutex::new(())),
            state: Mutex::new(State::default()),
            left: Notify::new(),
        })
    }
}

/// One VM's queue, which leaves the registry when nothing is registered any more.
#[derive(Debug)]
struct Place {
    all: Arc<Operations>,
    vm: Uuid,
    queue: Arc<Queue>,
}

impl Place {
    /// Changes the state, tells those who wait, and forgets the queue if it is empty.
    fn leave(&self, change: impl FnOnce(&mut State)) {
        let mut vms = lock(&self.all.vms);
        let mut state = lock(&self.queue.state);
        change(&mut state);
        if state.entries.is_empty() && state.overrides == 0 {
            vms.remove(&self.vm);
        }
        drop(state);
        drop(vms);
        self.queue.left.notify_waiters();
    }
}

/// An operation that is registered. Dropping it takes it out.
#[derive(Debug)]
pub struct Registered {
    place: Place,
    id: u64,
    cancel: CancellationToken,
}

impl Registered {
    /// Cancelled by a Kill or by the domain's end.
    pub fn cancel_token(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Whether no operation of a kind that is still there was registered before this one.
    pub fn is_before_any(&self, kind: OperationKind) -> bool {
        let state = lock(&self.place.queue.state);
        state.entries.iter().take_while(|entry| entry.id != self.id).all(|entry| entry.kind != kind)
    }

    /// Waits for the VM's lock, in the order of asking. Cancelled while waiting is `NoTurn::Cancelled`.
    pub async fn lock(&self) -> Result<Held, NoTurn> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(NoTurn::Cancelled),
            held = self.place.lock_when_free() => Ok(held),
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let id = self.id;
        self.place.leave(|state| state.entries.retain(|entry| entry.id != id));
    }
}

impl Place {
    async fn lock_when_free(&self) -> Held {
        loop {
            let left = self.queue.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if lock(&self.queue.state).overrides > 0 {
                left.await;
                continue;
            }
            let guard = Arc::clone(&self.queue.lock).lock_owned().await;
            // An override that came while we waited for the lock goes first.
            if lock(&self.queue.state).overrides == 0 {
                return Held { _guard: guard };
            }
        }
    }
}

/// The right to work on a VM, and to be alone in that. Dropping it gives it back.
#[derive(Debug)]
pub struct Held {
    _guard: OwnedMutexGuard<()>,
}

/// A Kill, or the clean-up after a domain's end, under way. Dropping it lets others have their turn.
#[derive(Debug)]
pub struct Override {
    place: Place,
}

impl Override {
    /// Waits until whatever was cancelled has undone its work and left, then takes the lock. Two overrides take
    /// turns.
    pub async fn lock(&self) -> Held {
        let queue = &self.place.queue;
        loop {
            let left = queue.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if lock(&queue.state).entries.iter().all(|entry| !entry.cancel.is_cancelled()) {
                return Held { _guard: Arc::clone(&queue.lock).lock_owned().await };
            }
            left.await;
        }
    }
}

impl Drop for Override {
    fn drop(&mut self) {
        self.place.leave(|state| state.overrides = state.overrides.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const VM: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);

    async fn is_pending<T>(future: impl Future<Output = T>) -> bool {
        tokio::time::timeout(Duration::from_millis(20), future).await.is_err()
    }

    #[tokio::test]
    async fn one_operation_works_on_a_vm_at_a_time_and_other_vms_do_not_wait() {
        let all = Arc::new(Operations::new(16));
        let first = all.register(VM, OperationKind::Start).unwrap();
        let held = first.lock().await.unwrap();
        let second = all.register(VM, OperationKind::Device).unwrap();
        assert!(is_pending(second.lock()).await);
        let other = all.register(OTHER, OperationKind::Start).unwrap();
        other.lock().await.unwrap();
        drop(held);
        second.lock().await.unwrap();
    }

    #[tokio::test]
    async fn an_override_cancels_the_holder_and_the_waiting_and_goes_before_those_who_come_later() {
        let all = Arc::new(Operations::new(16));
        let holder = all.register(VM, OperationKind::Start).unwrap();
        let held = holder.lock().await.unwrap();
        let waiting = all.register(VM, OperationKind::Device).unwrap();
        let waits = tokio::spawn(async move { waiting.lock().await.map(|_| ()) });
        tokio::task::yield_now().await;

        let kill = all.override_all(VM);
        assert!(holder.cancel_token().is_cancelled());
        assert_eq!(waits.await.unwrap(), Err(NoTurn::Cancelled));
        let late = all.register(VM, OperationKind::Start).unwrap();
        assert!(!late.cancel_token().is_cancelled());
        assert!(is_pending(late.lock()).await);
        assert!(is_pending(kill.lock()).await, "the holder has not undone its work yet");

        drop(held);
        assert!(is_pending(kill.lock()).await, "the holder has not left yet");
        drop(holder);
        let killing = kill.lock().await;
        assert!(is_pending(late.lock()).await);
        drop(killing);
        assert!(is_pending(late.lock()).await, "the override is not over");
        drop(kill);
        late.lock().await.unwrap();
    }

    #[tokio::test]
    async fn more_than_the_limit_are_refused_and_a_dropped_one_makes_room() {
        let all = Arc::new(Operations::new(1));
        let works = all.register(VM, OperationKind::Device).unwrap();
        let waits = all.register(VM, OperationKind::Device).unwrap();
        assert_eq!(all.register(VM, OperationKind::Device).unwrap_err(), NoTurn::Full { limit: 1 });
        drop(waits);
        drop(all.register(VM, OperationKind::Device).unwrap());
        drop(works);
        assert_eq!(all.count(), 0);
        assert!(lock(&all.vms).is_empty(), "an idle VM costs nothing");
    }
}
