//! LVs that have lost their names, and go when nobody reads them any more.

use std::sync::{Arc, PoisonError};

use super::Shared;
use super::names::{self, LvName, Role};
use super::op::LvOp;
use super::runner::Failed;
use crate::storage::uses::Reading;

impl Shared {
    pub(super) fn leave(&self, lv: LvName) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if !left.contains(&lv) {
            left.push(lv);
        }
    }

    /// Removes what nobody reads any more.
    fn sweep(&self) {
        let left = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        for lv in left {
            // At once: one that somebody reads could be discarded, but not removed.
            if let Err(e) = self.runner.run(&LvOp::Remove(vec![lv.clone()])) {
                tracing::debug!(%lv, error = %e, "still read, or gone");
                if matches!(e, Failed::Refused(_)) && self.runner.device(&lv).exists() {
                    self.leave(lv);
                }
            }
        }
    }

    /// Removes what an earlier process could not: of a volume that was removed nothing else would come to it. One look at
    /// all LVs when a pool is set up.
    pub(super) fn sweep_what_was_left(&self) {
        let lvs = match self.runner.run(&LvOp::All(self.pool.vg().clone())) {
            Ok(lvs) => lvs,
            Err(e) => return tracing::warn!(pool = %self.pool, error = %e, "what was to be gone may be left"),
        };
        for lv in lvs.iter().filter(|lv| lv.pool == self.pool.lv()) {
            if let Some((_, Role::Gone(_))) = names::volume_of(&lv.name)
                && let Ok(lv) = LvName::new(self.pool.vg().clone(), &lv.name)
            {
                self.leave(lv);
            }
        }
        self.figures.list(lvs);
        self.sweep();
    }
}

/// What an export holds: its volume has a reader, and what waited for that reader goes after it.
pub(super) struct Hold {
    shared: Arc<Shared>,
    reading: Option<Reading>,
}

impl Hold {
    pub(super) fn new(shared: &Arc<Shared>, reading: Reading) -> Self {
        Self { shared: Arc::clone(shared), reading: Some(reading) }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        drop(self.reading.take());
        if self.shared.left.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return;
        }
        // Whoever drops an export may be an async thread.
        let shared = Arc::clone(&self.shared);
        let spawned = std::thread::Builder::new().name("lvm-sweep".to_owned()).spawn(move || shared.sweep());
        if let Err(e) = spawned {
            tracing::warn!(error = %e, "cannot remove what an export has kept");
        }
    }
}
