//! What a long operation is given: how to stop it, and whom to tell how far it is.

use std::fmt;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::locks::{Held, Volume};
use crate::error::{Error, Kind, Op, Result};

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes dealt with, holes included.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// The caller's hold on a long operation. Cancelling is looked at between chunks of a copy: what was begun is
/// taken back, and the operation ends with `Kind::Cancelled`.
#[derive(Clone, Default)]
pub struct Job {
    cancel: CancellationToken,
    progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
    commit: Option<Arc<Volume>>,
}

/// A volume's state is its holder's to change. See [`Job::commit_turn`].
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct CommitTurn {
    _state: Option<Held>,
}

impl Job {
    /// An operation that `cancel` stops.
    pub fn new(cancel: CancellationToken) -> Self {
        Self { cancel, progress: None, commit: None }
    }

    /// `progress` is called on the copying thread, after each chunk; it must not block.
    #[must_use]
    pub fn with_progress(mut self, progress: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(progress));
        self
    }

    /// `Kind::Cancelled` once the token is cancelled. Drivers call it between steps.
    ///
    /// # Errors
    /// As said.
    pub fn check(&self, op: Op, target: impl fmt::Display) -> Result<()> {
        if self.cancel.is_cancelled() { Err(Error::new(Kind::Cancelled, op, target)) } else { Ok(()) }
    }

    /// Waits until the operation is cancelled.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// The volume that the operation works on is another's to start from and to copy until [`commit_turn`](Self::commit_turn).
    #[must_use]
    pub(super) fn with_commit_turn(mut self, volume: Arc<Volume>) -> Self {
        self.commit = Some(volume);
        self
    }

    /// Waits until nobody needs the volume's committed state to stay what it is, and keeps others from it until it is dropped.
    /// A driver asks for it when the data is copied, before the first step that changes what is committed. It blocks, for
    /// as long as it takes to fix a state.
    pub fn commit_turn(&self) -> CommitTurn {
        CommitTurn { _state: self.commit.clone().map(Volume::state_blocking) }
    }

    /// Tells how far the operation is.
    pub fn report(&self, progress: Progress) {
        if let Some(tell) = &self.progress {
            tell(progress);
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("cancelled", &self.cancel.is_cancelled()).finish_non_exhaustive()
    }
}
