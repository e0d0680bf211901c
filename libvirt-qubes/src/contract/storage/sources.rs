//! Volumes that others are made from.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_util::sync::CancellationToken;

use super::{Pool, id, keeping, must, must_fail, origin, read, read_file, snapshot_of, write};
use crate::error::Kind;
use crate::storage::{Ending, ImportSize, Job, RevisionsToKeep, VolumeKind, VolumeSpec};

pub(super) fn a_snapshot_holds_its_source_and_is_dropped(pool: &Pool) {
    let source = id("vm-templates/fedora/root");
    pool.holding(&source, &origin(), b"root");
    let (volume, spec) = (id("appvms/work/root"), snapshot_of(&source));
    must(pool.driver.create(&volume, &spec), "create");
    for _ in 0..2 {
        must(pool.driver.verify(&volume, &spec), "verify");
        assert_eq!(must(pool.driver.info(&volume, &spec), "info").size, origin().size);
        let started = pool.start(&volume, &spec);
        assert_eq!(read(&started.path, 0, 4), b"root");
        write(&started.path, 0, b"mine");
        assert_eq!(pool.committed(&source, &origin(), 4), b"root", "a snapshot wrote into its source");
        pool.stop(&volume, &spec);
        pool.assert_gone(&volume);
    }
    pool.start(&volume, &spec);
    must(pool.driver.stop(&volume, &spec, Ending::NeverRan), "take back");
    pool.assert_gone(&volume);
}

pub(super) fn a_snapshot_keeps_what_it_took_and_knows_that_it_is_outdated(pool: &Pool) {
    let source = id("vm-templates/fedora/root");
    for keep in [RevisionsToKeep::Newest(0), RevisionsToKeep::Newest(1)] {
        let source_spec = keeping(keep);
        pool.holding(&source, &source_spec, b"old!");
        let (volume, spec) = (id("appvms/work/root"), snapshot_of(&source));
        let started = pool.start(&volume, &spec);
        let outdated = || must(pool.driver.info(&volume, &spec), "info").outdated;
        assert_ne!(outdated(), Some(true));
        pool.run(&source, &source_spec, b"new!");
        assert_eq!(read(&started.path, 0, 4), b"old!");
        assert_ne!(outdated(), Some(false));
        pool.stop(&volume, &spec);
        let started = pool.start(&volume, &spec);
        assert_eq!(read(&started.path, 0, 4), b"new!");
        pool.stop(&volume, &spec);
        must(pool.driver.remove(&source), "remove");
    }
}

pub(super) fn a_source_is_free_once_its_state_is_fixed(pool: &Pool) {
    let source = id("vm-templates/fedora/root");
    pool.holding(&source, &origin(), b"root");
    let (volume, spec) = (id("appvms/work/root"), snapshot_of(&source));
    // The source runs, is committed and even removed the moment it may change: the snapshot is of before.
    let calls = AtomicUsize::new(0);
    let mut release = || {
        if calls.fetch_add(1, Ordering::SeqCst) == 0 {
            pool.run(&source, &origin(), b"next");
            must(pool.driver.remove(&source), "remove");
        }
    };
    let started = must(pool.driver.start(&volume, &spec, &mut release, &Job::default()), "start");
    assert!(calls.load(Ordering::SeqCst) > 0, "the source's lock is held to the end");
    assert_eq!(read(&started.expect("a device").path, 0, 4), b"root");
}

pub(super) fn a_cancelled_start_leaves_nothing(pool: &Pool) {
    let source = id("vm-templates/fedora/root");
    pool.holding(&source, &origin(), b"root");
    let (volume, spec) = (id("appvms/work/root"), snapshot_of(&source));
    let cancel = CancellationToken::new();
    cancel.cancel();
    must_fail(pool.driver.start(&volume, &spec, &mut || {}, &Job::new(cancel.clone())), Kind::Cancelled);
    pool.assert_gone(&volume);
    // Cancelled on the way: whatever the driver still does, it ends started or with nothing that recovery leaves.
    let cancel = CancellationToken::new();
    let started = pool.driver.start(&volume, &spec, &mut || cancel.cancel(), &Job::new(cancel.clone()));
    if started.is_err() {
        must_fail(started, Kind::Cancelled);
    }
    must(pool.driver.recover(&volume, &spec), "recover");
    pool.assert_gone(&volume);
}

pub(super) fn without_snapshots_a_running_volume_is_no_source(pool: &Pool) {
    let (source, source_spec) = (id("vm-templates/fedora/root"), keeping(RevisionsToKeep::Disabled));
    pool.holding(&source, &source_spec, b"root");
    let (volume, spec) = (id("appvms/work/root"), snapshot_of(&source));
    let running = pool.start(&source, &source_spec);
    must_fail(pool.driver.start(&volume, &spec, &mut || {}, &Job::default()), Kind::Busy);
    must_fail(pool.driver.verify(&volume, &spec), Kind::Busy);
    must_fail(pool.driver.export(&source, &source_spec), Kind::Busy);
    write(&running.path, 0, b"next");
    pool.stop(&source, &source_spec);
    assert_eq!(pool.revisions(&source), Vec::new());
    let started = pool.start(&volume, &spec);
    assert_eq!(read(&started.path, 0, 4), b"next");
    pool.stop(&volume, &spec);
}

pub(super) fn without_snapshots_a_reader_is_not_disturbed_by_a_start(pool: &Pool) {
    let (source, spec) = (id("vm-templates/fedora/root"), keeping(RevisionsToKeep::Disabled));
    pool.holding(&source, &spec, b"root");
    let export = must(pool.driver.export(&source, &spec), "export");
    write(&pool.start(&source, &spec).path, 0, b"next");
    assert_eq!(read_file(export.file(), 0, 4), b"root");
    pool.stop(&source, &spec);
    assert_eq!(read_file(export.file(), 0, 4), b"root");
    assert_eq!(pool.committed(&source, &spec, 4), b"next");
}

pub(super) fn an_export_stays_what_it_is(pool: &Pool) {
    let (volume, spec) = (id("appvms/work/private"), keeping(RevisionsToKeep::Newest(0)));
    pool.holding(&volume, &spec, b"one");
    let started = pool.start(&volume, &spec);
    write(&started.path, 0, b"two");
    let export = must(pool.driver.export(&volume, &spec), "export of a running volume");
    assert_eq!(read_file(export.file(), 0, 3), b"one", "an export shows what is not committed");
    assert_eq!(export.size(), spec.size);
    pool.stop(&volume, &spec);
    pool.run(&volume, &spec, b"three");
    must(pool.driver.remove(&volume), "remove");
    assert_eq!(read_file(export.file(), 0, 3), b"one");
}

pub(super) fn only_persistent_volumes_are_exported_or_imported(pool: &Pool) {
    let source = id("vm-templates/fedora/root");
    pool.holding(&source, &origin(), b"root");
    let volume = id("appvms/work/root");
    for kind in [VolumeKind::Volatile, VolumeKind::Snapshot { source: source.clone() }] {
        let spec = VolumeSpec { kind, ..origin() };
        must_fail(pool.driver.export(&volume, &spec), Kind::Unsupported);
        must_fail(pool.driver.begin_import(&volume, &spec, ImportSize::AsItComes), Kind::Unsupported);
        let export = must(pool.driver.export(&source, &origin()), "export");
        must_fail(pool.driver.import_from(&volume, &spec, &export, &Job::default()), Kind::Unsupported);
    }
    pool.assert_gone(&volume);
}
