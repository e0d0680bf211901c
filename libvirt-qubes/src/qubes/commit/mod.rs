//! The committer: one thread that owns the database and decides what the model is.
//!
//! A change is a pure function of the latest state, which may be run more than once. Changes that wait
//! together share one transaction, each in a savepoint of its own, with foreign keys checked by the end of
//! each statement. Durable, then visible, then announced, then acknowledged. If the commit fails, all is
//! dropped and each change runs again alone, on the state that readers see; a refusal that was made on the
//! dropped state with it. A change that panics fails alone.

mod batch;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use super::diff::{Diff, Refused, Space};
use super::event::ModelEvent;
use super::refusal::HostError;
use super::sequencer::Sequencer;
use super::snapshot::Snapshot;
use super::store::Store;
use super::write::Write;
use crate::error::{At, Error, Kind, Op, Result};

/// As many changes share one transaction at most.
const BATCH: usize = 256;

/// As many changes wait at most; whoever comes then waits for a place.
const QUEUE: usize = 1024;

/// The handle of the committer; cheap to clone. The thread ends when [`Committer::close`] is called, or with
/// the last handle.
#[derive(Debug, Clone)]
pub struct Committer {
    queue: mpsc::Sender<Message>,
    sequencer: Arc<Sequencer>,
}

/// The committer's thread, to wait for its end.
#[derive(Debug)]
pub struct CommitterThread(JoinHandle<Result<()>>);

impl CommitterThread {
    /// Waits until the last change is answered and the store is closed. Blocks.
    ///
    /// # Errors
    /// When the store could not be closed in order; the next open recovers it, nothing is lost.
    pub fn join(self) -> Result<()> {
        self.0.join().unwrap_or_else(|_| Err(Error::new(Kind::Corrupt, Op::Store, "the committer's thread")))
    }
}

enum Message {
    Change(Box<dyn Change>),
    Close,
}

/// One waiting change.
trait Change: Send {
    /// Runs the change on a state; keeps its answer for [`Change::acknowledge`].
    fn run(&mut self, state: &Snapshot) -> std::result::Result<Effect, Refused>;
    /// Answers the caller.
    fn acknowledge(self: Box<Self>, outcome: std::result::Result<(), HostError>);
}

struct Effect {
    pre_events: Vec<ModelEvent>,
    writes: Vec<Write>,
    events: Vec<ModelEvent>,
    space: Space,
}

struct Waiting<F, T> {
    change: F,
    answer: Option<T>,
    caller: oneshot::Sender<std::result::Result<T, HostError>>,
}

impl<F, T> Change for Waiting<F, T>
where
    F: Fn(&Snapshot) -> std::result::Result<Diff<T>, Refused> + Send,
    T: Send,
{
    fn run(&mut self, state: &Snapshot) -> std::result::Result<Effect, Refused> {
        let diff = (self.change)(state)?;
        self.answer = Some(diff.answer);
        Ok(Effect {
            pre_events: diff.pre_events,
            writes: diff.writes,
            events: diff.events,
            space: diff.space,
        })
    }

    fn acknowledge(mut self: Box<Self>, outcome: std::result::Result<(), HostError>) {
        let answer = outcome.and_then(|()| self.answer.take().ok_or(HostError::Bug));
        // A caller that went away does not hear; the change stands all the same.
        drop(self.caller.send(answer));
    }
}

impl Committer {
    /// Starts the thread on an open store, whose model `sequencer` was made with.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(store: Store, sequencer: Arc<Sequencer>) -> Result<(Self, CommitterThread)> {
        let (queue, changes) = mpsc::channel(QUEUE);
        let work = batch::Work { store, sequencer: sequencer.clone() };
        let thread = std::thread::Builder::new()
            .name("committer".to_owned())
            .spawn(move || work.serve(changes))
            .at(Op::Store, "the committer's thread")?;
        Ok((Self { queue, sequencer }, CommitterThread(thread)))
    }

    /// Makes a change: runs it on the latest model (and the run states and host figures of that moment),
    /// writes it, publishes it. The change must be pure and quick: it may run several times, and everybody
    /// waits for it.
    ///
    /// Dropping the future gives up the answer, not the change.
    ///
    /// # Errors
    /// The change's refusal; [`HostError::Failed`] when the store cannot be written: nothing has changed.
    pub async fn commit<T, F>(&self, change: F) -> std::result::Result<T, HostError>
    where
        T: Send + 'static,
        F: Fn(&Snapshot) -> std::result::Result<Diff<T>, Refused> + Send + 'static,
    {
        let (caller, answer) = oneshot::channel();
        let waiting = Box::new(Waiting { change, answer: None, caller });
        if self.queue.send(Message::Change(waiting)).await.is_err() {
            return Err(closed().into());
        }
        answer.await.unwrap_or_else(|_| Err(closed().into()))
    }

    /// Lets what waits be done, refuses what comes later, and ends the thread.
    pub async fn close(&self) {
        // Fails when the thread has ended already.
        drop(self.queue.send(Message::Close).await);
    }

    /// The sequencer that changes are published through.
    pub fn sequencer(&self) -> &Arc<Sequencer> {
        &self.sequencer
    }
}

fn closed() -> Error {
    Error::new(Kind::Unavailable, Op::Store, "the store").because("it is closed")
}
