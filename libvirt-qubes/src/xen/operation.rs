//! Threads for libxl's calls, which block.
//!
//! Each call runs on a named thread of its own, never on tokio's: the end of a runtime waits for its blocking
//! threads, and a guest may take a minute to answer. How many run at a time is bounded for each [`Lane`]; who
//! ends a domain never waits behind who builds one.
//!
//! A long operation gets a fresh context and makes the synchronous call on it. Cancelling it is
//! `libxl_ao_abort` from another thread, asked again until libxl has taken it: before the operation is
//! registered there is nothing to abort, and while a domain is built the call waits for the context's lock.
//! Giving up the future gives up the answer alone; the operation runs on, and its token still cancels it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::ctx::{Abort, Ctx};
use super::error::LibxlError;
use crate::error::{At, Error, Kind, Op, Result};

/// How long to wait before an abort is asked for again.
const ABORT_AGAIN: Duration = Duration::from_millis(5);

/// Which bound a call counts against.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lane {
    /// Hypercalls and single reads, on the main context.
    Short,
    /// Building a domain, changing its devices.
    Long,
    /// Ending a domain.
    End,
}

/// The bounds.
pub(super) struct Lanes {
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
    end: Arc<Semaphore>,
}

impl Lanes {
    pub(super) fn new(long: usize) -> Self {
        let lane = |places| Arc::new(Semaphore::new(places));
        Self { short: lane(8), long: lane(long.max(1)), end: lane(8) }
    }

    fn of(&self, lane: Lane) -> Arc<Semaphore> {
        Arc::clone(match lane {
            Lane::Short => &self.short,
            Lane::Long => &self.long,
            Lane::End => &self.end,
        })
    }

    /// Runs a blocking call on a thread of its own, when its lane has a place.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        what: What,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = self
            .of(lane)
            .acquire_owned()
            .await
            .map_err(|closed| what.error(Kind::Backend).because(closed))?;
        let (done, result) = oneshot::channel();
        on_thread(&what, move || {
            let result = work();
            drop(permit);
            // Who asked may have gone; then nobody wants the answer.
            done.send(result).ok();
        })?;
        result.await.map_err(|_| what.panicked())?
    }

    /// Runs a long operation on a context of its own.
    ///
    /// `work` makes the call that a cancel aborts. `settle` runs after it, on the same thread, with nothing left
    /// to abort: it undoes what a failure or a cancel left, on a context of its own.
    pub(super) async fn operate<T, U>(
        &self,
        lane: Lane,
        what: What,
        cancel: CancellationToken,
        work: impl FnOnce(&Ctx) -> Result<T> + Send + 'static,
        settle: impl FnOnce(Result<T>) -> Result<U> + Send + 'static,
    ) -> Result<U>
    where
        T: 'static,
        U: Send + 'static,
    {
        let lane = self.of(lane);
        // A task of its own, so that the token is heard even if nobody waits any more.
        let task = tokio::spawn(async move {
            let permit = tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(what.error(Kind::Cancelled)),
                permit = lane.acquire_owned() => {
                    permit.map_err(|closed| what.error(Kind::Backend).because(closed))?
                }
            };
            let running = Arc::new(Running::default());
            let (done, mut result) = oneshot::channel();
            on_thread(&what, {
                let (running, what, cancel) = (Arc::clone(&running), what.clone(), cancel.clone());
                move || {
                    let worked = running.work(&what, &cancel, work);
                    let settled = settle(worked);
                    drop(permit);
                    done.send(settled).ok();
                }
            })?;
            tokio::select! {
                biased;
                settled = &mut result => return settled.map_err(|_| what.panicked())?,
                () = cancel.cancelled() => {}
            }
            let aborting = what.clone().named("abort");
            if let Err(error) = on_thread(&aborting, move || running.abort()) {
                tracing::error!(%error, "the operation runs to its end");
            }
            result.await.map_err(|_| what.panicked())?
        });
        match task.await {
            Ok(result) => result,
            Err(gone) => Err(Error::new(Kind::Cancelled, Op::OpenHypervisor, "libxl").because(gone)),
        }
    }
}

/// What an operation is, for its thread's name and its errors.
#[derive(Debug, Clone)]
pub(super) struct What {
    verb: &'static str,
    op: Op,
    target: String,
}

impl What {
    pub(super) fn new(verb: &'static str, op: Op, target: impl fmt::Display) -> Self {
        Self { verb, op, target: target.to_string() }
    }

    fn named(mut self, verb: &'static str) -> Self {
        self.verb = verb;
        self
    }

    pub(super) fn error(&self, kind: Kind) -> Error {
        Error::new(kind, self.op, &self.target)
    }

    /// For libxl's own failures.
    pub(super) fn failed(&self, error: LibxlError) -> Error {
        error.at(self.op, &self.target)
    }

    /// The label of a context's log lines.
    pub(super) fn label(&self) -> String {
        format!("{} {}", self.verb, self.target)
    }

    fn panicked(&self) -> Error {
        self.error(Kind::Backend).because("its thread panicked")
    }
}

fn on_thread(what: &What, work: impl FnOnce() + Send + 'static) -> Result<()> {
    // Linux shows 15 characters of it.
    let spawned = thread::Builder::new().name(format!("libxl-{}", what.verb)).spawn(work);
    spawned.map(drop).at(what.op, &what.target)
}

/// A long operation, as the thread that aborts it sees it.
#[derive(Default)]
struct Running {
    /// There while the operation runs on it. Whoever lets go last frees it: never an async thread.
    ctx: Mutex<Option<Arc<Ctx>>>,
    over: AtomicBool,
}

impl Running {
    fn ctx(&self) -> MutexGuard<'_, Option<Arc<Ctx>>> {
        self.ctx.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work<T>(
        &self,
        what: &What,
        cancel: &CancellationToken,
        work: impl FnOnce(&Ctx) -> Result<T>,
    ) -> Result<T> {
        let result = Ctx::open(what.label()).map_err(|error| what.failed(error)).and_then(|ctx| {
            let ctx = Arc::new(ctx);
            *self.ctx() = Some(Arc::clone(&ctx));
            if cancel.is_cancelled() { Err(what.error(Kind::Cancelled)) } else { work(&ctx) }
        });
        self.over.store(true, Ordering::Release);
        *self.ctx() = None;
        match result {
            // The caller asked for it, and what libxl logs of an abort ("timeout", "unable to add") misleads.
            Err(error) if cancel.is_cancelled() => {
                tracing::debug!(error = error.report(), "aborted");
                Err(what.error(Kind::Cancelled))
            }
            other => other,
        }
    }

    /// Asks libxl until it has taken the abort, or the operation is over.
    fn abort(&self) {
        while !self.over.load(Ordering::Acquire) {
            let ctx = self.ctx().clone();
            if ctx.is_some_and(|ctx| ctx.abort() == Abort::Taken) {
                return;
            }
            thread::sleep(ABORT_AGAIN);
        }
    }
}
