//! From create to remove.

use super::{Pool, SIZE, id, keeping, must, must_fail, origin, read, write};
use crate::config::Access;
use crate::error::Kind;
use crate::ids::ByteSize;
use crate::storage::{Ending, Job, Recovered, RevisionsToKeep, VolumeKind, VolumeSpec};

pub(super) fn a_pool_can_be_set_up_again(pool: &Pool) {
    let (volume, spec) = (id("appvms/work/private"), origin());
    pool.holding(&volume, &spec, b"data");
    must(pool.driver.setup(), "setup of a pool in use");
    assert_eq!(pool.committed(&volume, &spec, 4), b"data");
}

pub(super) fn a_new_volume_is_empty_and_as_large_as_asked_for(pool: &Pool) {
    let (volume, spec) = (id("appvms/work/private"), origin());
    must(pool.driver.create(&volume, &spec), "create");
    must(pool.driver.verify(&volume, &spec), "verify");
    let info = must(pool.driver.info(&volume, &spec), "info");
    assert_eq!(info.size, spec.size);
    assert!(!info.dirty);
    assert_eq!(pool.committed(&volume, &spec, 4096), vec![0; 4096]);
    assert_eq!(pool.revisions(&volume), Vec::new());
    let contents = must(pool.driver.contents(), "contents");
    assert_eq!(contents.volumes, vec![volume]);
    assert_eq!(contents.unknown, Vec::<std::path::PathBuf>::new());
}

pub(super) fn a_volume_that_is_there_is_not_created_again(pool: &Pool) {
    let (volume, spec) = (id("appvms/work/private"), origin());
    pool.holding(&volume, &spec, b"data");
    must_fail(pool.driver.create(&volume, &spec), Kind::AlreadyExists);
    assert_eq!(pool.committed(&volume, &spec, 4), b"data");
    // Nor while it runs, in whatever way.
    for keep in [RevisionsToKeep::Newest(1), RevisionsToKeep::Disabled] {
        let spec = keeping(keep);
        pool.start(&volume, &spec);
        must_fail(pool.driver.create(&volume, &spec), Kind::AlreadyExists);
        pool.stop(&volume, &spec);
    }
    assert_eq!(pool.committed(&volume, &spec, 4), b"data");
}

pub(super) fn what_a_run_wrote_is_there_after_its_stop(pool: &Pool) {
    for keep in [RevisionsToKeep::Newest(0), RevisionsToKeep::Newest(1), RevisionsToKeep::Disabled] {
        let volume = id(&format!("appvms/keep{keep}/private"));
        let spec = VolumeSpec { sharing: crate::storage::Sharing::Private, ..keeping(keep) };
        must(pool.driver.create(&volume, &spec), "create");
        for run in [b"one", b"two"] {
            let started = pool.start(&volume, &spec);
            assert_eq!(started.access, Access::ReadWrite);
            assert!(started.path.is_absolute());
            let info = must(pool.driver.info(&volume, &spec), "info");
            assert!(info.dirty);
            assert_eq!(info.path.as_ref(), Some(&started.path));
            write(&started.path, SIZE - 3, run);
            pool.stop(&volume, &spec);
            let started = pool.start(&volume, &spec);
            assert_eq!(read(&started.path, SIZE - 3, 3), run);
            pool.stop(&volume, &spec);
        }
        assert!(!must(pool.driver.info(&volume, &spec), "info").dirty);
        must(pool.driver.remove(&volume), "remove");
    }
}

pub(super) fn a_volatile_volume_is_empty_at_each_start(pool: &Pool) {
    let volume = id("appvms/work/volatile");
    let spec = VolumeSpec { kind: VolumeKind::Volatile, ..origin() };
    must(pool.driver.create(&volume, &spec), "create");
    for _ in 0..2 {
        must(pool.driver.verify(&volume, &spec), "verify");
        let started = pool.start(&volume, &spec);
        assert_eq!(must(pool.driver.info(&volume, &spec), "info").size, spec.size);
        assert_eq!(read(&started.path, 0, 4096), vec![0; 4096]);
        write(&started.path, 0, &[7; 4096]);
        pool.stop(&volume, &spec);
        pool.assert_gone(&volume);
        // Also if the last run was never stopped.
        pool.start(&volume, &spec);
        write(&started.path, 0, &[8; 4096]);
    }
}

pub(super) fn a_start_that_no_domain_used_is_taken_back(pool: &Pool) {
    for keep in [RevisionsToKeep::Newest(2), RevisionsToKeep::Disabled] {
        let volume = id(&format!("appvms/keep{keep}/private"));
        let spec = keeping(keep);
        pool.holding(&volume, &spec, b"data");
        let before = pool.revisions(&volume);
        for _ in 0..2 {
            pool.start(&volume, &spec);
            must(pool.driver.stop(&volume, &spec, Ending::NeverRan), "take back");
            assert!(!must(pool.driver.info(&volume, &spec), "info").dirty);
            assert_eq!(pool.committed(&volume, &spec, 4), b"data");
            assert_eq!(pool.revisions(&volume), before, "taking a start back made a revision");
        }
    }
}

pub(super) fn a_volume_left_dirty_continues_on_what_it_has(pool: &Pool) {
    let (volume, spec) = (id("appvms/work/private"), origin());
    pool.holding(&volume, &spec, b"one");
    write(&pool.start(&volume, &spec).path, 0, b"two");
    let started = pool.start(&volume, &spec);
    assert_eq!(read(&started.path, 0, 3), b"two");
    // A start of it that no domain used takes nothing away either.
    must(pool.driver.stop(&volume, &spec, Ending::NeverRan), "take back");
    assert_eq!(read(&pool.start(&volume, &spec).path, 0, 3), b"two");
    pool.stop(&volume, &spec);
    assert_eq!(pool.committed(&volume, &spec, 3), b"two");
}

pub(super) fn recovery_commits_what_a_crash_left(pool: &Pool) {
    let source = id("vm-templates/fedora/root");
    pool.holding(&source, &origin(), b"root");
    let persistent = id("appvms/work/private");
    for keep in [RevisionsToKeep::Newest(1), RevisionsToKeep::Disabled] {
        let spec = keeping(keep);
        must(pool.driver.create(&persistent, &spec), "create");
        write(&pool.start(&persistent, &spec).path, 0, b"data");
        assert_eq!(must(pool.driver.recover(&persistent, &spec), "recover"), Recovered::Committed);
        assert_eq!(pool.committed(&persistent, &spec, 4), b"data");
        assert_eq!(must(pool.driver.recover(&persistent, &spec), "recover"), Recovered::Clean);
        must(pool.driver.remove(&persistent), "remove");
    }
    for (volume, kind) in [
        (id("appvms/work/root"), VolumeKind::Snapshot { source: source.clone() }),
        (id("appvms/work/volatile"), VolumeKind::Volatile),
    ] {
        let spec = VolumeSpec { kind, ..origin() };
        write(&pool.start(&volume, &spec).path, 0, b"data");
        assert_eq!(must(pool.driver.recover(&volume, &spec), "recover"), Recovered::Dropped);
        assert_eq!(must(pool.driver.recover(&volume, &spec), "recover"), Recovered::Clean);
        pool.assert_gone(&volume);
    }
    assert_eq!(pool.committed(&source, &origin(), 4), b"root");
}

pub(super) fn stop_and_recovery_of_what_is_at_rest_change_nothing(pool: &Pool) {
    let (volume, spec) = (id("appvms/work/private"), origin());
    pool.holding(&volume, &spec, b"data");
    let before = pool.revisions(&volume);
    for ending in [Ending::Ran, Ending::NeverRan] {
        must(pool.driver.stop(&volume, &spec, ending), "stop");
    }
    assert_eq!(must(pool.driver.recover(&volume, &spec), "recover"), Recovered::Clean);
    assert_eq!(pool.committed(&volume, &spec, 4), b"data");
    assert_eq!(pool.revisions(&volume), before);
    // A volume whose creation never came so far has nothing to recover.
    let absent = id("appvms/other/private");
    assert_eq!(must(pool.driver.recover(&absent, &spec), "recover"), Recovered::Clean);
    must(pool.driver.stop(&absent, &spec, Ending::Ran), "stop");
    pool.assert_gone(&absent);
}

pub(super) fn a_removed_volume_leaves_nothing_and_others_alone(pool: &Pool) {
    let spec = origin();
    let (removed, same_vm, other) =
        (id("appvms/work/root"), id("appvms/work/private"), id("appvms/workshop/root"));
    for volume in [&removed, &same_vm, &other] {
        pool.holding(volume, &spec, b"one");
        pool.run(volume, &spec, b"two");
    }
    write(&pool.start(&removed, &spec).path, 0, b"dirty");
    must(pool.driver.remove(&removed), "remove");
    pool.assert_gone(&removed);
    for volume in [&same_vm, &other] {
        assert_eq!(pool.committed(volume, &spec, 3), b"two");
        assert_eq!(pool.revisions(volume).len(), 2);
    }
    must(pool.driver.remove(&removed), "remove again");
    must(pool.driver.create(&removed, &spec), "create again");
    assert_eq!(pool.committed(&removed, &spec, 3), [0; 3]);
}

pub(super) fn what_is_not_there_is_not_found(pool: &Pool) {
    let (volume, spec) = (id("appvms/work/private"), origin());
    let snapshot = super::snapshot_of(&id("vm-templates/gone/root"));
    must_fail(pool.driver.verify(&volume, &spec), Kind::NotFound);
    must_fail(pool.driver.start(&volume, &spec, &mut || {}, &Job::default()), Kind::NotFound);
    must_fail(pool.driver.export(&volume, &spec), Kind::NotFound);
    must_fail(pool.driver.verify(&volume, &snapshot), Kind::NotFound);
    must_fail(pool.driver.start(&volume, &snapshot, &mut || {}, &Job::default()), Kind::NotFound);
    if let Some(resize) = pool.driver.as_resize() {
        must_fail(resize.resize(&volume, &spec, spec.size), Kind::NotFound);
    }
    must(pool.driver.remove(&volume), "remove of what is not there");
    must(pool.driver.recover(&volume, &snapshot), "recover");
    pool.assert_gone(&volume);
}

pub(super) fn a_volume_grows_and_never_shrinks(pool: &Pool) {
    let Some(resize) = pool.driver.as_resize() else { return };
    let (volume, spec) = (id("appvms/work/private"), origin());
    pool.holding(&volume, &spec, b"data");
    let revisions = pool.revisions(&volume);
    let grown = ByteSize::bytes(2 * SIZE);
    must(resize.resize(&volume, &spec, grown), "resize");
    must(resize.resize(&volume, &spec, grown), "resize to the same size");
    must_fail(resize.resize(&volume, &spec, ByteSize::bytes(SIZE)), Kind::Invalid);
    let read_only = VolumeSpec { access: Access::ReadOnly, ..spec.clone() };
    must_fail(resize.resize(&volume, &read_only, ByteSize::bytes(4 * SIZE)), Kind::Invalid);

    assert_eq!(must(pool.driver.info(&volume, &spec), "info").size, grown);
    assert_eq!(pool.revisions(&volume), revisions);
    let started = pool.start(&volume, &spec);
    assert_eq!(read(&started.path, 0, 4), b"data");
    write(&started.path, 2 * SIZE - 4, b"last");
    pool.stop(&volume, &spec);
    assert_eq!(must(pool.driver.export(&volume, &spec), "export").size(), grown);
    // What is kept of before has its own size still.
    if let (Some(states), Some(oldest)) = (pool.driver.as_revisions(), revisions.first()) {
        must(states.revert(&volume, &spec, oldest, &Job::default()), "revert");
        assert_eq!(must(pool.driver.export(&volume, &spec), "export").size().get(), SIZE);
    }
}

pub(super) fn a_running_volume_grows(pool: &Pool) {
    let Some(resize) = pool.driver.as_resize() else { return };
    let (volume, spec) = (id("appvms/work/private"), origin());
    pool.holding(&volume, &spec, b"data");
    let started = pool.start(&volume, &spec);
    must(resize.resize(&volume, &spec, ByteSize::bytes(2 * SIZE)), "resize");
    must_fail(resize.resize(&volume, &spec, ByteSize::bytes(SIZE)), Kind::Invalid);
    write(&started.path, 2 * SIZE - 4, b"last");
    pool.stop(&volume, &spec);
    let export = must(pool.driver.export(&volume, &spec), "export");
    assert_eq!(export.size().get(), 2 * SIZE);
    assert_eq!(super::read_file(export.file(), 2 * SIZE - 4, 4), b"last");
}

pub(super) fn a_volume_that_is_not_written_is_not_committed(pool: &Pool) {
    let volume = id("appvms/work/private");
    let (writable, spec) = (origin(), VolumeSpec { access: Access::ReadOnly, ..origin() });
    pool.holding(&volume, &writable, b"data");
    let before = pool.revisions(&volume);
    let started = pool.start(&volume, &spec);
    assert_eq!(started.access, Access::ReadOnly);
    assert_eq!(read(&started.path, 0, 4), b"data");
    pool.stop(&volume, &spec);
    assert_eq!(pool.revisions(&volume), before);
    assert_eq!(pool.committed(&volume, &writable, 4), b"data");
}
