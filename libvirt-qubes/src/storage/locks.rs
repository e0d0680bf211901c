//! The locks of volumes: whoever holds one is the only one who works on that volume.
//!
//! Two locks are taken in the order of their keys. Nobody waits for a third, and nobody waits for a thread while
//! he holds none, so that waits end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

use super::VolumeId;
use crate::ids::PoolName;

pub(super) type Key = (PoolName, VolumeId);
pub(super) type Held = OwnedMutexGuard<()>;

type Lock = tokio::sync::Mutex<()>;

#[derive(Debug, Default)]
pub(super) struct Locks {
    table: Mutex<HashMap<Key, Weak<Lock>>>,
}

impl Locks {
    fn get(&self, key: &Key) -> Arc<Lock> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = table.get(key).and_then(Weak::upgrade) {
            return lock;
        }
        // Those that nobody holds or waits for any more go whenever the table is about to grow.
        if table.len() == table.capacity() {
            table.retain(|_, lock| lock.strong_count() > 0);
        }
        let lock = Arc::new(Lock::default());
        table.insert(key.clone(), Arc::downgrade(&lock));
        lock
    }

    pub(super) async fn one(&self, key: &Key) -> Held {
        self.get(key).lock_owned().await
    }

    /// The lock of a volume and that of its source.
    pub(super) async fn with_source(&self, key: &Key, source: &Key) -> (Held, Option<Held>) {
        match key.cmp(source) {
            std::cmp::Ordering::Less => {
                let own = self.one(key).await;
                (own, Some(self.one(source).await))
            }
            std::cmp::Ordering::Greater => {
                let source = self.one(source).await;
                (self.one(key).await, Some(source))
            }
            // A volume that is its own source is the driver's to refuse.
            std::cmp::Ordering::Equal => (self.one(key).await, None),
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
    async fn locks_that_nobody_holds_are_forgotten() {
        let locks = Locks::default();
        let kept = locks.one(&key(0)).await;
        for n in 1..10_000 {
            drop(locks.one(&key(n)).await);
        }
        assert!(locks.table.lock().unwrap().len() < 100);
        assert!(locks.get(&key(0)).try_lock().is_err(), "a lock that is held was forgotten");
        drop(kept);
    }
}
