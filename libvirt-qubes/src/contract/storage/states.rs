//! Former states of a volume.

use super::{Pool, id, keeping, must, must_fail, origin, write};
use crate::error::Kind;
use crate::storage::{Job, RevisionId, RevisionsToKeep, VolumeId, VolumeSpec};

/// What each revision holds, found by going back to it and forward again; oldest first.
fn revert(pool: &Pool, volume: &VolumeId, spec: &VolumeSpec, revision: &RevisionId) {
    let states = pool.driver.as_revisions().expect("asked before");
    must(states.revert(volume, spec, revision, &Job::default()), "revert");
}

pub(super) fn the_newest_revisions_are_kept(pool: &Pool) {
    if pool.driver.as_revisions().is_none() {
        return;
    }
    let volume = id("appvms/work/private");
    must(pool.driver.create(&volume, &origin()), "create");
    let mut seen = Vec::new();
    for run in 0..5u8 {
        pool.run(&volume, &origin(), &[b'0' + run]);
        let revisions = pool.revisions(&volume);
        assert_eq!(revisions.len(), usize::from(run + 1).min(2));
        let newest = revisions.last().expect("each commit keeps a revision").clone();
        assert!(!seen.contains(&newest), "{newest} was the name of another state");
        seen.push(newest);
        assert_eq!(revisions, seen.iter().rev().take(2).rev().cloned().collect::<Vec<_>>());
    }
    // Fewer are kept from the next commit on.
    let fewer = keeping(RevisionsToKeep::Newest(1));
    pool.run(&volume, &fewer, b"5");
    assert_eq!(pool.revisions(&volume).len(), 1);
    let oldest = pool.revisions(&volume).first().expect("one is kept").clone();
    revert(pool, &volume, &fewer, &oldest);
    assert_eq!(pool.committed(&volume, &fewer, 1), b"4");
    pool.run(&volume, &keeping(RevisionsToKeep::Newest(0)), b"6");
    assert_eq!(pool.revisions(&volume), Vec::new());
}

pub(super) fn a_revert_goes_back_and_keeps_what_was(pool: &Pool) {
    let Some(states) = pool.driver.as_revisions() else { return };
    let (volume, spec) = (id("appvms/work/private"), origin());
    pool.holding(&volume, &spec, b"one");
    pool.run(&volume, &spec, b"two");
    pool.run(&volume, &spec, b"six");
    let [one, two] = <[RevisionId; 2]>::try_from(pool.revisions(&volume)).expect("two revisions");
    revert(pool, &volume, &spec, &one);
    assert_eq!(pool.committed(&volume, &spec, 3), b"one");
    let now = pool.revisions(&volume);
    assert!(!now.contains(&one), "a revision that was reverted to is used up");
    assert!(now.contains(&two));
    let six = now.iter().find(|r| **r != two).expect("the state until now is a revision").clone();
    // The next run begins with the state that was gone back to.
    let started = pool.start(&volume, &spec);
    assert_eq!(super::read(&started.path, 0, 3), b"one");
    pool.stop(&volume, &spec);
    let revisions = pool.revisions(&volume);
    if revisions.contains(&six) {
        revert(pool, &volume, &spec, &six);
        assert_eq!(pool.committed(&volume, &spec, 3), b"six");
    }
    must_fail(states.revert(&volume, &spec, &one, &Job::default()), Kind::NotFound);
    must_fail(
        states.revert(&volume, &spec, &"nonsense".parse().expect("a name"), &Job::default()),
        Kind::NotFound,
    );
}

pub(super) fn a_state_that_was_gone_back_to_is_the_newest_when_it_is_former_again(pool: &Pool) {
    if pool.driver.as_revisions().is_none() {
        return;
    }
    let (volume, spec) = (id("appvms/work/private"), keeping(RevisionsToKeep::Newest(3)));
    pool.holding(&volume, &spec, b"one");
    pool.run(&volume, &spec, b"two");
    pool.run(&volume, &spec, b"six");
    let one = pool.revisions(&volume).get(1).expect("three revisions").clone();
    revert(pool, &volume, &spec, &one);
    assert_eq!(pool.committed(&volume, &spec, 3), b"one");
    pool.run(&volume, &spec, b"ten");
    // Whatever its date: it was the state until now, and is the last that retention would take.
    let newest = pool.revisions(&volume).last().expect("revisions").clone();
    pool.run(&volume, &keeping(RevisionsToKeep::Newest(2)), b"new");
    assert_eq!(pool.revisions(&volume).first(), Some(&newest));
    revert(pool, &volume, &spec, &newest);
    assert_eq!(pool.committed(&volume, &spec, 3), b"one");
}

pub(super) fn a_kept_state_stays_until_it_is_forgotten(pool: &Pool) {
    let Some(states) = pool.driver.as_revisions() else { return };
    let (volume, spec) = (id("appvms/work/private"), keeping(RevisionsToKeep::Newest(1)));
    pool.holding(&volume, &spec, b"one");
    let kept = must(states.keep(&volume, &spec, 7, &Job::default()), "keep");
    assert_eq!(kept.as_str(), "s7");
    must_fail(states.keep(&volume, &spec, 7, &Job::default()), Kind::AlreadyExists);
    for run in [b"two", b"six"] {
        pool.run(&volume, &spec, run);
    }
    assert!(pool.revisions(&volume).contains(&kept), "retention removed a state that was to be kept");
    for _ in 0..2 {
        revert(pool, &volume, &spec, &kept);
        assert_eq!(pool.committed(&volume, &spec, 3), b"one");
        pool.run(&volume, &spec, b"ten");
    }
    // Without snapshots a run writes in place, but not into what is kept.
    pool.run(&volume, &keeping(RevisionsToKeep::Disabled), b"new");
    assert_eq!(pool.revisions(&volume), std::slice::from_ref(&kept));
    revert(pool, &volume, &spec, &kept);
    assert_eq!(pool.committed(&volume, &spec, 3), b"one");
    must(states.forget(&volume, &kept), "forget");
    assert!(!pool.revisions(&volume).contains(&kept));
    must_fail(states.forget(&volume, &kept), Kind::NotFound);
    // The number of a running volume's state: of this instant, or refused.
    let started = pool.start(&volume, &spec);
    write(&started.path, 0, b"now");
    match states.keep(&volume, &spec, 8, &Job::default()) {
        Ok(kept) => {
            write(&started.path, 0, b"new");
            pool.stop(&volume, &spec);
            revert(pool, &volume, &spec, &kept);
            assert_eq!(pool.committed(&volume, &spec, 3), b"now");
        }
        refused => must_fail(refused, Kind::Busy),
    }
    must(pool.driver.remove(&volume), "remove");
    pool.assert_gone(&volume);
}

pub(super) fn former_states_are_listed_oldest_first(pool: &Pool) {
    let Some(states) = pool.driver.as_revisions() else { return };
    let (volume, spec) = (id("appvms/work/private"), origin());
    let keep = |number| must(states.keep(&volume, &spec, number, &Job::default()), "keep");
    pool.holding(&volume, &spec, b"one");
    let one = keep(9);
    // Names may have dates of whole seconds: of several commits within one, some are of the next.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    pool.run(&volume, &spec, b"two");
    let two = keep(4);
    pool.run(&volume, &spec, b"six");
    let listed = must(states.revisions(&volume), "revisions");
    assert!(listed.is_sorted_by_key(|revision| revision.committed_at), "{listed:?}");
    let automatic: Vec<_> = listed.iter().map(|r| &r.id).filter(|id| !id.as_str().starts_with('s')).collect();
    // Of the same state there is one of each, in either order.
    let age = |id: &RevisionId| match automatic.iter().position(|known| *known == id) {
        Some(nth) => nth,
        None if *id == one => 0,
        None => 1,
    };
    let ages: Vec<_> = listed.iter().map(|revision| age(&revision.id)).collect();
    assert_eq!(ages, [0, 0, 1, 1], "{listed:?}");
    assert!(listed.iter().any(|revision| revision.id == two));
}

pub(super) fn a_dirty_volume_is_not_reverted(pool: &Pool) {
    let Some(states) = pool.driver.as_revisions() else { return };
    let (volume, spec) = (id("appvms/work/private"), origin());
    pool.holding(&volume, &spec, b"one");
    let revision = pool.revisions(&volume).first().expect("a revision").clone();
    write(&pool.start(&volume, &spec).path, 0, b"two");
    must_fail(states.revert(&volume, &spec, &revision, &Job::default()), Kind::Busy);
    pool.stop(&volume, &spec);
    assert_eq!(pool.committed(&volume, &spec, 3), b"two");
}
