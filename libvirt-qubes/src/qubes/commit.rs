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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc as std_mpsc;

    use super::super::event::EventKind;
    use super::super::global::Global;
    use super::super::refusal::Refusal;
    use super::super::subscription::Delivery;
    use super::super::testing::{Rig, block_on, refusal};
    use super::super::value::Value;
    use super::*;

    fn announce(name: &str) -> ModelEvent {
        ModelEvent::system(EventKind::PoolAdd { pool: name.parse().unwrap() })
    }

    fn set_interval(seconds: i64) -> Diff<i64> {
        Diff::new(seconds)
            .pre_event(announce("pre"))
            .write(Write::SetGlobal(Global::StatsInterval, Some(Value::Int(seconds))))
            .event(announce("done"))
    }

    fn interval(state: &Snapshot) -> Option<i64> {
        state.model.global_int(Global::StatsInterval)
    }

    /// A write that no constraint lets pass: a property that refers to a VM which does not exist.
    fn dangling() -> Write {
        Write::SetGlobal(Global::Clockvm, Some(Value::Vm(Some(uuid::Uuid::from_u128(1)))))
    }

    fn events(subscription: &mut super::super::subscription::Subscription) -> Vec<String> {
        std::iter::from_fn(|| subscription.try_next())
            .map(|delivery| match delivery {
                Delivery::Event(event) => {
                    let EventKind::PoolAdd { pool } = &event.event.kind else { panic!("{event:?}") };
                    pool.to_string()
                }
                Delivery::Lost { .. } => "lost".to_owned(),
            })
            .collect()
    }

    /// Holds the committer's thread in a change until the guard is dropped, so that what is sent meanwhile
    /// waits together.
    struct Hold {
        release: Option<std_mpsc::Sender<()>>,
        held: tokio::task::JoinHandle<std::result::Result<(), HostError>>,
    }

    impl Hold {
        async fn new(committer: &Committer) -> Self {
            let (release, wait) = std_mpsc::channel::<()>();
            let (entered, inside) = oneshot::channel();
            let (wait, entered) = (std::sync::Mutex::new(wait), std::sync::Mutex::new(Some(entered)));
            let committer = committer.clone();
            let held = tokio::spawn(async move {
                committer
                    .commit(move |_| {
                        if let Some(entered) = entered.lock().unwrap().take() {
                            entered.send(()).unwrap();
                            wait.lock().unwrap().recv().unwrap_err();
                        }
                        Ok(Diff::new(()))
                    })
                    .await
            });
            inside.await.unwrap();
            Self { release: Some(release), held }
        }

        async fn release(mut self) {
            self.release.take();
            self.held.await.unwrap().unwrap();
        }
    }

    /// Sends changes while the committer is held, in order, and gives their answers.
    async fn together<T, F>(committer: &Committer, changes: Vec<F>) -> Vec<std::result::Result<T, HostError>>
    where
        T: Send + 'static,
        F: Fn(&Snapshot) -> std::result::Result<Diff<T>, Refused> + Send + 'static,
    {
        let hold = Hold::new(committer).await;
        let mut waiting = Vec::new();
        for (already, change) in changes.into_iter().enumerate() {
            let sender = committer.clone();
            waiting.push(tokio::spawn(async move { sender.commit(change).await }));
            while committer.queue.max_capacity() - committer.queue.capacity() <= already {
                tokio::task::yield_now().await;
            }
        }
        hold.release().await;
        let mut answers = Vec::new();
        for answer in waiting {
            answers.push(answer.await.unwrap());
        }
        answers
    }

    #[test]
    fn a_change_is_durable_visible_and_announced_when_it_is_acknowledged() {
        let rig = Rig::new();
        let (mut subscription, before) = rig.committer.sequencer().subscribe(|_| true);
        assert_eq!(rig.commit(|_| Ok(set_interval(7))).unwrap(), 7);
        assert_eq!(interval(&rig.snapshot()), Some(7));
        assert_eq!(rig.snapshot().number, before.number + 2);
        assert_eq!(events(&mut subscription), ["pre", "done"]);
        assert_eq!(interval(&rig.restart().snapshot()), Some(7));
    }

    #[test]
    fn a_refusal_changes_nothing_and_announces_what_came_before_the_veto() {
        let rig = Rig::new();
        let (mut subscription, _) = rig.committer.sequencer().subscribe(|_| true);
        let result = rig.commit::<()>(|_| {
            Err(Refused { pre_events: vec![announce("pre")], refusal: Refusal::NoFreeQid })
        });
        assert_eq!(refusal(result), Refusal::NoFreeQid);
        assert_eq!(events(&mut subscription), ["pre"]);
    }

    #[test]
    fn a_change_that_contradicts_the_store_fails_alone_and_announces_its_pre_events() {
        let rig = Rig::new();
        let (mut subscription, _) = rig.committer.sequencer().subscribe(|_| true);
        let good = |n: i64| {
            move |_: &Snapshot| Ok(if n == 2 { set_interval(n).write(dangling()) } else { set_interval(n) })
        };
        let answers = block_on(together(&rig.committer, (1..=3).map(good).collect()));
        assert!(matches!(answers[..], [Ok(1), Err(HostError::Failed(_)), Ok(3)]), "{answers:?}");
        assert_eq!(events(&mut subscription), ["pre", "done", "pre", "pre", "done"]);
        assert_eq!(interval(&rig.restart().snapshot()), Some(3));
    }

    #[test]
    fn a_panic_fails_its_change_and_neither_the_thread_nor_its_neighbours() {
        let rig = Rig::new();
        let change = |n: i64| {
            move |_: &Snapshot| {
                assert!(n != 2, "a bug");
                Ok(set_interval(n))
            }
        };
        let answers = block_on(together(&rig.committer, (1..=3).map(change).collect()));
        assert!(matches!(answers[..], [Ok(1), Err(HostError::Bug), Ok(3)]), "{answers:?}");
        assert_eq!(rig.commit(|_| Ok(set_interval(4))).unwrap(), 4);
    }

    #[test]
    fn each_change_sees_those_before_it_though_they_share_a_transaction() {
        let rig = Rig::new();
        let next = |_: i64| |state: &Snapshot| Ok(set_interval(interval(state).unwrap() + 1));
        let answers = block_on(together(&rig.committer, (0..100).map(next).collect()));
        let answers: Vec<i64> = answers.into_iter().map(std::result::Result::unwrap).collect();
        assert_eq!(answers, (4..104).collect::<Vec<_>>());
        assert_eq!(interval(&rig.restart().snapshot()), Some(103));
    }

    #[test]
    fn what_waits_together_shares_one_transaction() {
        let rig = Rig::new();
        let wal = rig.dir.path().join("state.db-wal");
        let size = || std::fs::metadata(&wal).unwrap().len();
        let before = size();
        let change = |n: i64| move |_: &Snapshot| Ok(set_interval(n));
        let answers = block_on(together(&rig.committer, (0..100).map(change).collect()));
        assert!(answers.iter().all(std::result::Result::is_ok));
        // Alone, each would append at least one page of 4 KiB.
        assert!(size() - before < 20 * 4096, "{} bytes", size() - before);
    }

    #[test]
    fn when_the_commit_fails_each_change_runs_again_alone_on_what_readers_see() {
        let rig = Rig::new();
        let runs = Arc::new(AtomicUsize::new(0));
        // No page can be added from here on, until the limit is lifted.
        let huge = |n: i64| {
            let runs = runs.clone();
            move |state: &Snapshot| {
                runs.fetch_add(1, Ordering::Relaxed);
                match n {
                    1 | 3 => Ok(set_interval(interval(state).unwrap() + 10)),
                    2 => {
                        let text = Value::text("x".repeat(1 << 20));
                        Ok(set_interval(n).write(Write::SetGlobal(Global::DefaultKernel, Some(text))))
                    }
                    // Refused only because of what 2 wrote, which never happened.
                    _ if state.model.default_kernel().is_some() => Err(Refusal::NoFreeQid.into()),
                    _ => Ok(set_interval(interval(state).unwrap() + 100)),
                }
            }
        };
        let rig = limited(rig);
        let (mut subscription, _) = rig.committer.sequencer().subscribe(|_| true);
        let answers = block_on(together(&rig.committer, (1..=4).map(huge).collect()));
        assert!(matches!(answers[..], [Ok(13), Err(HostError::Failed(_)), Ok(23), Ok(123)]), "{answers:?}");
        let Err(HostError::Failed(error)) = &answers[1] else { panic!() };
        assert_eq!(error.kind(), Kind::NoSpace, "{}", error.report());
        assert_eq!(events(&mut subscription), ["pre", "done", "pre", "pre", "done", "pre", "done"]);
        assert!(runs.load(Ordering::Relaxed) >= 6);
        assert_eq!(interval(&rig.restart().snapshot()), Some(123));
    }

    /// The same state, on a connection that may not add pages.
    fn limited(mut rig: Rig) -> Rig {
        rig.close();
        let dir = std::mem::replace(&mut rig.dir, tempfile::tempdir().unwrap());
        let opened = super::super::testing::open(dir.path());
        opened.store.db.execute_batch("PRAGMA max_page_count = 1").unwrap();
        Rig::with(dir, opened)
    }

    #[test]
    fn a_caller_that_goes_away_loses_its_answer_and_not_its_change() {
        let rig = Rig::new();
        block_on(async {
            let hold = Hold::new(&rig.committer).await;
            let committer = rig.committer.clone();
            let task = tokio::spawn(async move { committer.commit(|_| Ok(set_interval(9))).await });
            while rig.committer.queue.capacity() == rig.committer.queue.max_capacity() {
                tokio::task::yield_now().await;
            }
            task.abort();
            hold.release().await;
        });
        assert_eq!(interval(&rig.restart().snapshot()), Some(9));
    }

    #[test]
    fn what_waits_when_the_committer_is_closed_is_done_and_what_comes_later_refused() {
        let mut rig = Rig::new();
        let waiting = block_on(async {
            let hold = Hold::new(&rig.committer).await;
            let committer = rig.committer.clone();
            let waiting = tokio::spawn(async move { committer.commit(|_| Ok(set_interval(9))).await });
            while rig.committer.queue.capacity() == rig.committer.queue.max_capacity() {
                tokio::task::yield_now().await;
            }
            rig.committer.close().await;
            hold.release().await;
            waiting.await.unwrap()
        });
        assert_eq!(waiting.unwrap(), 9);
        rig.close();
        let late = rig.commit(|_| Ok(set_interval(1)));
        assert!(matches!(late, Err(HostError::Failed(error)) if error.kind() == Kind::Unavailable));
        assert_eq!(
            super::super::testing::open(rig.dir.path()).model.global_int(Global::StatsInterval),
            Some(9)
        );
    }
}
