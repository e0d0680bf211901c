//! The committer on a real store.

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
    let result =
        rig.commit::<()>(|_| Err(Refused { pre_events: vec![announce("pre")], refusal: Refusal::NoFreeQid }));
    assert_eq!(refusal(result), Refusal::NoFreeQid);
    assert_eq!(events(&mut subscription), ["pre"]);
}

#[test]
fn a_change_that_contradicts_the_store_fails_alone_and_announces_its_pre_events() {
    let rig = Rig::new();
    let (mut subscription, _) = rig.committer.sequencer().subscribe(|_| true);
    let change = |n: i64| {
        move |_: &Snapshot| {
            let half = Write::SetGlobal(Global::DefaultQrexecTimeout, Some(Value::Int(99)));
            Ok(if n == 2 { set_interval(n).write(half).write(dangling()) } else { set_interval(n) })
        }
    };
    let answers = block_on(together(&rig.committer, (1..=3).map(change).collect()));
    assert!(matches!(answers[..], [Ok(1), Err(HostError::Failed(_)), Ok(3)]), "{answers:?}");
    assert_eq!(events(&mut subscription), ["pre", "done", "pre", "pre", "done"]);
    let left = |rig: &Rig| {
        let model = &rig.snapshot().model;
        (model.global_int(Global::StatsInterval), model.global(Global::DefaultQrexecTimeout).cloned())
    };
    assert_eq!(left(&rig), (Some(3), None));
    assert_eq!(left(&rig.restart()), (Some(3), None));
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
    assert_eq!(super::super::testing::open(rig.dir.path()).model.global_int(Global::StatsInterval), Some(9));
}
