//! The committer's thread: batches of changes, each in one transaction.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::super::diff::{Refused, Space};
use super::super::event::ModelEvent;
use super::super::model::Model;
use super::super::refusal::HostError;
use super::super::sequencer::Sequencer;
use super::super::snapshot::Snapshot;
use super::super::store::Store;
use super::super::store::error::{AtStore, explained, of_one_change};
use super::super::write::Write;
use super::{BATCH, Change, Effect, Message, closed};
use crate::error::{Error, Kind, Op, Result};

/// What became of a change.
type Outcome = std::result::Result<(), HostError>;

/// What the thread owns.
pub(super) struct Work {
    pub(super) store: Store,
    pub(super) sequencer: Arc<Sequencer>,
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
    /// Serves until the queue is closed, then closes the store.
    pub(super) fn serve(mut self, mut queue: mpsc::Receiver<Message>) -> Result<()> {
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

    /// One change in a transaction of its own, with room made for it on a full file system if it frees some.
    fn alone(&mut self, change: &mut Vec<Box<dyn Change>>) -> Vec<Outcome> {
        let lost = match self.transaction(change) {
            Ok(outcomes) => return outcomes,
            Err(lost) => lost,
        };
        let mut lost = lost;
        for make_room in [Store::fold_log, Store::give_up_ballast] {
            let full = lost.error.kind() == Kind::NoSpace && lost.space == Space::Frees;
            if full && make_room(&mut self.store) {
                match self.transaction(change) {
                    Ok(outcomes) => return outcomes,
                    Err(again) => lost = again,
                }
            }
        }
        let error = explained(lost.error, &self.store.name);
        tracing::error!(error = error.report(), "commit failed");
        self.sequencer.announce(lost.pre_events);
        vec![Err(error.into())]
    }

    /// Runs changes one on top of the other, commits what they write and publishes it. On failure nothing is
    /// written, published or announced.
    fn transaction(&mut self, changes: &mut [Box<dyn Change>]) -> std::result::Result<Vec<Outcome>, Lost> {
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
            && let Err(error) = self.commit()
        {
            self.roll_back();
            return Err(Lost { pre_events: all_pre, space, error });
        }
        self.sequencer.publish_model(draft.model, announced);
        Ok(outcomes)
    }

    fn commit(&mut self) -> Result<()> {
        self.store.check_files()?;
        self.store.db.execute_batch("COMMIT").at_store(&self.store.name)
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
        if own == Space::Takes
            && let Err(error) = self.store.has_room()
        {
            return Step::Out { pre_events, error: error.into() };
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

    fn write(&self, model: &mut Model, writes: &[Write]) -> std::result::Result<(), Unwritten> {
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

    fn acknowledge(&mut self, changes: Vec<Box<dyn Change>>, outcomes: Vec<Outcome>) {
        for (change, outcome) in changes.into_iter().zip(outcomes) {
            change.acknowledge(outcome);
        }
        self.store.restore_room();
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
