//! What a long operation is given: how to stop it, and whom to tell how far it is.

use std::fmt;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

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
}

impl Job {
    /// An operation that `cancel` stops.
    pub fn new(cancel: CancellationToken) -> Self {
        Self { cancel, progress: None }
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
