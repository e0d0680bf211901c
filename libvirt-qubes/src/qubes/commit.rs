//! The committer: one thread that owns the database and decides what the model is.
//!
//! A change is a pure function of the latest state, which may be run more than once. Changes that wait
//! together share one transaction, each in a savepoint of its own, with foreign keys checked by the end of
//! each statement. Durable, then visible, then announced, then acknowledged. If the commit fails, all is
//! dropped and each change runs again alone, on the state that readers see; a refusal that was made on the
//! dropped state with it. A change that panics fails alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use super::diff::{Diff, Refused, Space};
use super::event::ModelEvent;
use super::refusal::HostError;
use super::sequencer::Sequencer;
use super::snapshot::Snapshot;
use super::store::Store;
use super::store::error::{AtStore, of_one_change};
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
        let work = Work { store, sequencer: sequencer.clone() };
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

/// What the thread owns.
struct Work {
    store: Store,
    sequencer: Arc<Sequencer>,
}

/// What became of one change inside a transaction.
enum Step {
    /// It is in the transaction and in the draft, or needs neither.
    Done { pre_events: Vec<ModelEvent>, events: Vec<ModelEvent> },
    /// It is not, for reasons of its own.
    Out { pre_events: Vec<ModelEvent>, error: HostError },
    /// The transaction is lost, and with it everybody's part.
    Broken { pre_events: Vec<ModelEvent>, space: Space, error: Error },
}

/// A transaction that failed.
struct Lost {
    pre_events: Vec<ModelEvent>,
    space: Space,
    error: Error,
}

impl Work {
    fn serve(mut self, mut queue: mpsc::Receiver<Message>) -> Result<()> {
        let mut batch = Vec::new();
        while let Some(message) = queue.blocking_recv() {
            let mut next = Some(message);
            while let Some(message) = next {
                match message {
                    Message::Change(change) => batch.push(change),
                    Message::Close => queue.close(),
                }
                next = if batch.len() < BATCH { queue.try_recv().ok() } else { None };
            }
            self.batch(std::mem::take(&mut batch));
        }
        self.store.close()
    }

    fn batch(&mut self, mut changes: Vec<Box<dyn Change>>) {
        if changes.len() > 1 {
            match self.transaction(&mut changes) {
                Ok(outcomes) => return self.acknowledge(changes, outcomes),
                Err(lost) => {
                    tracing::warn!(
                        error = lost.error.report(),
                        changes = changes.len(),
                        "commit failed; each change is tried alone"
                    );
                }
            }
        }
        for change in changes {
            let mut alone = vec![change];
            let outcomes = self.alone(&mut alone);
            self.acknowledge(alone, outcomes);
        }
    }

    /// One change in a transaction of its own, with the ballast given up for it if it may.
    fn alone(&mut self, change: &mut Vec<Box<dyn Change>>) -> Vec<std::result::Result<(), HostError>> {
        let lost = match self.transaction(change) {
            Ok(outcomes) => return outcomes,
            Err(lost) => lost,
        };
        let full = lost.error.kind() == Kind::NoSpace && lost.space == Space::Frees;
        let lost = if full && self.store.give_up_ballast() {
            match self.transaction(change) {
                Ok(outcomes) => return outcomes,
                Err(lost) => lost,
            }
        } else {
            lost
        };
        tracing::error!(error = lost.error.report(), "commit failed");
        self.sequencer.announce(lost.pre_events);
        vec![Err(lost.error.into())]
    }

    /// Runs changes one on top of the other, commits what they write and publishes it. On failure nothing is
    /// written, published or announced.
    fn transaction(
        &mut self,
        changes: &mut [Box<dyn Change>],
    ) -> std::result::Result<Vec<std::result::Result<(), HostError>>, Lost> {
        let mut draft = Snapshot::clone(&self.sequencer.snapshot());
        let (mut outcomes, mut announced, mut all_pre) = (Vec::new(), Vec::new(), Vec::new());
        let mut space = Space::Takes;
        for change in changes {
            draft.cells = self.sequencer.snapshot().cells.clone();
            match self.step(&mut draft, change.as_mut(), &mut space) {
                Step::Done { pre_events, events } => {
                    all_pre.extend_from_slice(&pre_events);
                    announced.extend(pre_events);
                    announced.extend(events);
                    outcomes.push(Ok(()));
                }
                Step::Out { pre_events, error } => {
                    all_pre.extend_from_slice(&pre_events);
                    announced.extend(pre_events);
                    outcomes.push(Err(error));
                }
                Step::Broken { pre_events, space, error } => {
                    self.roll_back();
                    all_pre.extend(pre_events);
                    return Err(Lost { pre_events: all_pre, space, error });
                }
            }
        }
        if self.in_transaction()
            && let Err(error) = self.store.db.execute_batch("COMMIT").at_store(&self.store.name)
        {
            self.roll_back();
            return Err(Lost { pre_events: all_pre, space, error });
        }
        self.sequencer.publish_model(draft.model, announced);
        Ok(outcomes)
    }

    /// Runs one change on the draft and writes it behind a savepoint.
    fn step(&mut self, draft: &mut Snapshot, change: &mut dyn Change, space: &mut Space) -> Step {
        let effect = match catch_unwind(AssertUnwindSafe(|| change.run(draft))) {
            Ok(Ok(effect)) => effect,
            Ok(Err(Refused { pre_events, refusal })) => {
                return Step::Out { pre_events, error: HostError::Refused(refusal) };
            }
            Err(_) => return Step::Out { pre_events: Vec::new(), error: HostError::Bug },
        };
        let Effect { pre_events, writes, events, space: own } = effect;
        if own == Space::Frees {
            *space = Space::Frees;
        }
        if writes.is_empty() {
            return Step::Done { pre_events, events };
        }
        let mut model = draft.model.clone();
        let written = catch_unwind(AssertUnwindSafe(|| self.write(&mut model, &writes)));
        let out = |error| Step::Out { pre_events: pre_events.clone(), error };
        match written {
            Ok(Ok(())) => {
                draft.model = model;
                Step::Done { pre_events, events }
            }
            Ok(Err(Unwritten::Contradiction(error))) => {
                tracing::error!(error = error.report(), "a change contradicts the store");
                match self.undo_step() {
                    Ok(()) => out(error.into()),
                    Err(error) => Step::Broken { pre_events, space: own, error },
                }
            }
            Ok(Err(Unwritten::Store(error))) => Step::Broken { pre_events, space: own, error },
            Err(_) => match self.undo_step() {
                Ok(()) => out(HostError::Bug),
                Err(error) => Step::Broken { pre_events, space: own, error },
            },
        }
    }

    fn write(&self, model: &mut super::model::Model, writes: &[Write]) -> std::result::Result<(), Unwritten> {
        let store =
            |result: rusqlite::Result<()>| result.at_store(&self.store.name).map_err(Unwritten::Store);
        if !self.in_transaction() {
            store(self.store.db.execute_batch("BEGIN IMMEDIATE"))?;
        }
        store(self.store.db.execute_batch("SAVEPOINT change"))?;
        for write in writes {
            write.apply(model).map_err(|error| {
                Unwritten::Contradiction(
                    Error::new(Kind::Corrupt, Op::Store, &self.store.name).because(error),
                )
            })?;
            if let Err(error) = write.execute(&self.store.db) {
                let own = of_one_change(&error);
                let error = Err::<(), _>(error).at_store(&self.store.name).err();
                let error = error.unwrap_or_else(closed);
                return Err(if own { Unwritten::Contradiction(error) } else { Unwritten::Store(error) });
            }
        }
        store(self.store.db.execute_batch("RELEASE change"))
    }

    /// Takes one change's part out of the transaction.
    fn undo_step(&self) -> Result<()> {
        if !self.in_transaction() {
            return Err(Error::new(Kind::Io, Op::Store, &self.store.name).because("transaction lost"));
        }
        self.store.db.execute_batch("ROLLBACK TO change; RELEASE change").at_store(&self.store.name)
    }

    fn in_transaction(&self) -> bool {
        !self.store.db.is_autocommit()
    }

    /// Some failures have rolled back already.
    fn roll_back(&self) {
        if self.in_transaction()
            && let Err(error) = self.store.db.execute_batch("ROLLBACK").at_store(&self.store.name)
        {
            tracing::error!(error = error.report(), "roll back failed");
        }
    }

    fn acknowledge(
        &mut self,
        changes: Vec<Box<dyn Change>>,
        outcomes: Vec<std::result::Result<(), HostError>>,
    ) {
        for (change, outcome) in changes.into_iter().zip(outcomes) {
            change.acknowledge(outcome);
        }
        self.store.restore_ballast();
        if let Err(error) = self.store.reserve_numbers(self.sequencer.snapshot().number) {
            tracing::error!(error = error.report(), "numbers of events cannot be reserved");
        }
    }
}

/// Why a change was not written.
enum Unwritten {
    /// It contradicts the model or a constraint: its own fault.
    Contradiction(Error),
    /// The store failed.
    Store(Error),
}
