//! The locks of volumes. Each volume has two: that of its *work*, for whoever does something to it, and that of its
//! *state*, for whoever changes which state is committed, or has to find that unchanged for a moment.
//!
//! What is short holds both. A copy of data holds the first alone, and the second only for its commit, so that what
//! starts from the volume, or copies it, does not wait for that. Two locks of states are taken in the order of their keys,
//! and a lock of work before all locks of states: nobody waits for a lock of work while he holds one of a state, so that
//! waits end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

use super::VolumeId;
use crate::ids::PoolName;

pub(super) type Key = (PoolName, VolumeId);

/// Locks that are held until this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    state: Option<OwnedMutexGuard<()>>,
    _work: Option<OwnedMutexGuard<()>>,
    /// As long as somebody holds one of them, others find the same ones.
    _volume: Arc<Volume>,
}

impl Held {
    /// Gives the state to others, and keeps the work.
    pub(super) fn release_state(&mut self) {
        self.state = None;
    }
}

/// The locks of one volume.
#[derive(Debug, Default)]
pub(super) struct Volume {
    work: Arc<tokio::sync::Mutex<()>>,
    state: Arc<tokio::sync::Mutex<()>>,
}

impl Volume {
    pub(super) async fn whole(self: Arc<Self>) -> Held {
        let work = Arc::clone(&self.work).lock_owned().await;
        let state = Arc::clone(&self.state).lock_owned().await;
        Held { state: Some(state), _work: Some(work), _volume: self }
    }

    pub(super) async fn work(self: Arc<Self>) -> Held {
        let work = Arc::clone(&self.work).lock_owned().await;
        Held { state: None, _work: Some(work), _volume: self }
    }

    pub(super) async fn state(self: Arc<Self>) -> Held {
        let state = Arc::clone(&self.state).lock_owned().await;
        Held { state: Some(state), _work: None, _volume: self }
    }

    /// The same, on a thread that may block.
    pub(super) fn state_blocking(self: Arc<Self>) -> Held {
        let state = Arc::clone(&self.state).blocking_lock_owned();
        Held { state: Some(state), _work: None, _volume: self }
    }
}

#[derive(Debug, Default)]
pub(super) struct Locks {
    table: Mutex<HashMap<Key, Weak<Volume>>>,
}

impl Locks {
    pub(super) fn of(&self, key: &Key) -> Arc<Volume> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(volume) = table.get(key).and_then(Weak::upgrade) {
            return volume;
        }
        // Those that nobody holds or waits for any more go whenever the table is about to grow.
        if table.len() == table.capacity() {
            table.retain(|_, volume| volume.strong_count() > 0);
        }
        let volume = Arc::new(Volume::default());
        table.insert(key.clone(), Arc::downgrade(&volume));
        volume
    }

    /// Both locks of a volume, and that of its source's state.
    pub(super) async fn with_source(&self, key: &Key, source: &Key) -> (Held, Option<Held>) {
        let own = self.of(key);
        match key.cmp(source) {
            std::cmp::Ordering::Less => {
                let own = own.whole().await;
                (own, Some(self.of(source).state().await))
            }
            std::cmp::Ordering::Greater => {
                let mut work = Arc::clone(&own).work().await;
                let source = self.of(source).state().await;
                work.state = own.state().await.state.take();
                (work, Some(source))
            }
            // A volume that is its own source is the driver's to refuse.
            std::cmp::Ordering::Equal => (own.whole().await, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> Key {
        ("pool".parse().unwrap(), format!("appvms/vm{n}/root").parse().unwrap())
    }

    #[tokio::test]
    async fn two_that_are_sources_of_each_other_do_not_wait_for_ever() {
        let locks = Arc::new(Locks::default());
        let tasks: Vec<_> = (0..100)
            .map(|n| {
                let locks = Arc::clone(&locks);
                tokio::spawn(async move {
                    let (a, b) = if n % 2 == 0 { (key(1), key(2)) } else { (key(2), key(1)) };
                    let held = locks.with_source(&a, &b).await;
                    tokio::task::yield_now().await;
                    drop(held);
                })
            })
            .collect();
        let all = async {
            for task in tasks {
                task.await.unwrap();
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), all).await.unwrap();
    }

    #[tokio::test]
    async fn whoeverworks_leaves_thestate_to_others_until_he_changes_it() {
        let locks = Locks::default();
        let working = locks.of(&key(1)).work().await;
        let (own, source) = locks.with_source(&key(2), &key(1)).await;
        let volume = locks.of(&key(1));
        assert!(volume.work.try_lock().is_err() && volume.state.try_lock().is_err());
        drop(source);
        assert!(volume.state.try_lock().is_ok());
        assert!(volume.work.try_lock().is_err(), "it was another's");
        drop((working, own));
        assert!(volume.work.try_lock().is_ok());
    }

    #[tokio::test]
    async fn locks_that_nobody_holds_are_forgotten() {
        let locks = Locks::default();
        let kept = locks.of(&key(0)).state().await;
        for n in 1..10_000 {
            drop(locks.of(&key(n)).whole().await);
        }
        assert!(locks.table.lock().unwrap().len() < 100);
        assert!(locks.of(&key(0)).state.try_lock().is_err(), "a lock that is held was forgotten");
        drop(kept);
    }
}
