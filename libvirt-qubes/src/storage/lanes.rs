//! Threads for blocking work, and how much of it runs at a time.
//!
//! Each pool has turns of its own, so that one that hangs holds up no other; copies of data share theirs, as they share the
//! machine.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Job;
use crate::error::{Error, Kind, Op, Result};

/// How many blocking operations run at a time; more wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Short ones in a pool: create, stop, resize, figures.
    pub short: usize,
    /// Starts in a pool, with the copies that they need.
    pub starts: usize,
    /// Copies of the data of whole volumes, and writes of imports, in all pools. Copies that share blocks are short ones.
    pub bulk_copies: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { short: 32, starts: 64, bulk_copies: 4 }
    }
}

/// What an operation waits for a turn among.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    Short,
    Start,
    Bulk,
}

/// The turns of one pool.
#[derive(Debug, Clone)]
pub(super) struct Lanes {
    limits: Limits,
    short: Arc<Semaphore>,
    starts: Arc<Semaphore>,
    bulk: Arc<Semaphore>,
}

fn turns(count: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(count.clamp(1, Semaphore::MAX_PERMITS)))
}

impl Lanes {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            short: turns(limits.short),
            starts: turns(limits.starts),
            bulk: turns(limits.bulk_copies),
        }
    }

    /// Those of another pool.
    pub(super) fn another(&self) -> Self {
        Self { bulk: Arc::clone(&self.bulk), ..Self::new(self.limits) }
    }

    /// Waits for a turn. Cancelled meanwhile, there is none.
    pub(super) async fn turn(
        &self,
        lane: Lane,
        job: &Job,
        op: Op,
        target: &str,
    ) -> Result<OwnedSemaphorePermit> {
        let lane = match lane {
            Lane::Short => &self.short,
            Lane::Start => &self.starts,
            Lane::Bulk => &self.bulk,
        };
        let turn = tokio::select! {
            biased;
            () = job.cancelled() => return Err(Error::new(Kind::Cancelled, op, target)),
            turn = Arc::clone(lane).acquire_owned() => turn,
        };
        // They are never closed.
        turn.map_err(|e| Error::new(Kind::Unavailable, op, target).because(e))
    }
}
