//! Data from outside, and from other volumes.

use tokio_util::sync::CancellationToken;

use super::{Pool, SIZE, id, keeping, must, must_fail, origin, read_file, write};
use crate::error::Kind;
use crate::ids::ByteSize;
use crate::storage::{ImportSize, ImportWriter, Job, RevisionsToKeep, VolumeId, VolumeSpec};

fn begin(pool: &Pool, volume: &VolumeId, spec: &VolumeSpec, size: ImportSize) -> Box<dyn ImportWriter> {
    must(pool.driver.begin_import(volume, spec, size), "begin an import")
}

pub(super) fn an_import_becomes_the_state_as_a_whole(pool: &Pool) {
    let (volume, spec) = (id("vm-templates/fedora/root"), origin());
    pool.holding(&volume, &spec, b"old!");
    let revisions = pool.revisions(&volume).len();
    let mut import = begin(pool, &volume, &spec, ImportSize::Exactly(ByteSize::bytes(2 * SIZE)));
    must(import.write(b"new!"), "write");
    must(import.skip(ByteSize::bytes(2 * SIZE - 8)), "skip");
    assert_eq!(pool.committed(&volume, &spec, 4), b"old!");
    must(import.write(b"last"), "write");
    assert_eq!(must(import.finish(), "finish").get(), 2 * SIZE);
    let export = must(pool.driver.export(&volume, &spec), "export");
    assert_eq!(export.size().get(), 2 * SIZE);
    assert_eq!(read_file(export.file(), 0, 8), b"new!\0\0\0\0");
    assert_eq!(read_file(export.file(), 2 * SIZE - 8, 8), b"\0\0\0\0last");
    if pool.driver.as_revisions().is_some() {
        assert_eq!(pool.revisions(&volume).len(), revisions + 1, "the state before an import is a revision");
    }
    // It lives on as any other.
    pool.run(&volume, &spec, b"run!");
    assert_eq!(pool.committed(&volume, &spec, 4), b"run!");
}

pub(super) fn an_import_of_unknown_length_gives_the_volume_its_size(pool: &Pool) {
    let (volume, spec) = (id("vm-templates/fedora/root"), origin());
    pool.holding(&volume, &spec, b"old!");
    let data = vec![7; 1_000_001];
    let mut import = begin(pool, &volume, &spec, ImportSize::AsItComes);
    for piece in data.chunks(70_001) {
        must(import.write(piece), "write");
    }
    let size = must(import.finish(), "finish").get();
    assert!(size >= 1_000_001 && size.is_multiple_of(512), "{size}");
    let export = must(pool.driver.export(&volume, &spec), "export");
    assert_eq!(export.size().get(), size);
    assert!(read_file(export.file(), 0, data.len()) == data);
    let rest = usize::try_from(size).expect("a small size") - data.len();
    assert_eq!(read_file(export.file(), 1_000_001, rest), vec![0; rest]);
}

pub(super) fn an_import_makes_a_volume_that_is_not_there(pool: &Pool) {
    let (volume, spec) = (id("vm-templates/fedora/root"), origin());
    let mut import = begin(pool, &volume, &spec, ImportSize::AsItComes);
    must(import.write(&[5; 4096]), "write");
    must(import.finish(), "finish");
    assert_eq!(pool.committed(&volume, &spec, 4096), vec![5; 4096]);
    assert_eq!(pool.revisions(&volume), Vec::new());
    let copy = id("vm-templates/debian/root");
    let export = must(pool.driver.export(&volume, &spec), "export");
    must(pool.driver.import_from(&copy, &spec, &export, &Job::default()), "copy");
    assert_eq!(pool.committed(&copy, &spec, 4096), vec![5; 4096]);
}

pub(super) fn what_somebody_else_writes_is_what_has_come(pool: &Pool) {
    let (volume, spec) = (id("vm-templates/fedora/root"), origin());
    pool.holding(&volume, &spec, b"old!");
    let size = ImportSize::Exactly(ByteSize::bytes(2 * SIZE));
    let mut import = begin(pool, &volume, &spec, size);
    let path = match import.hand_out() {
        // Where nobody else can be let, that is said.
        Err(e) if e.kind() == Kind::Unsupported => return drop(import),
        path => must(path, "hand out"),
    };
    must_fail(import.write(b"x"), Kind::Invalid);
    write(&path, 2 * SIZE - 4, b"last");
    assert_eq!(pool.committed(&volume, &spec, 4), b"old!");
    assert_eq!(must(import.finish(), "finish").get(), 2 * SIZE);
    let holds_it = || {
        let export = must(pool.driver.export(&volume, &spec), "export");
        assert_eq!(export.size().get(), 2 * SIZE);
        assert_eq!(read_file(export.file(), 0, 4), [0; 4]);
        assert_eq!(read_file(export.file(), 2 * SIZE - 4, 4), b"last");
    };
    holds_it();
    let mut import = begin(pool, &volume, &spec, size);
    write(&must(import.hand_out(), "hand out"), 0, b"never");
    must(import.abort(), "abort");
    holds_it();
    let mut import = begin(pool, &volume, &spec, ImportSize::AsItComes);
    must_fail(import.hand_out(), Kind::Invalid);
}

pub(super) fn a_broken_off_import_leaves_nothing(pool: &Pool) {
    let spec = origin();
    let (there, absent) = (id("vm-templates/fedora/root"), id("vm-templates/debian/root"));
    pool.holding(&there, &spec, b"old!");
    let revisions = pool.revisions(&there);
    for volume in [&there, &absent] {
        let mut dropped = begin(pool, volume, &spec, ImportSize::AsItComes);
        must(dropped.write(&[9; 200_000]), "write");
        drop(dropped);
        let mut aborted = begin(pool, volume, &spec, ImportSize::Exactly(ByteSize::bytes(SIZE)));
        must(aborted.write(&[9; 200_000]), "write");
        must(aborted.abort(), "abort");
    }
    assert_eq!(pool.committed(&there, &spec, 4), b"old!");
    assert_eq!(pool.revisions(&there), revisions);
    pool.assert_gone(&absent);
}

pub(super) fn too_much_and_too_little_data_are_refused(pool: &Pool) {
    let (volume, spec) = (id("vm-templates/fedora/root"), origin());
    pool.holding(&volume, &spec, b"old!");
    let size = ImportSize::Exactly(ByteSize::bytes(SIZE));
    let whole = usize::try_from(SIZE).expect("a small size");

    let mut import = begin(pool, &volume, &spec, size);
    must(import.write(&vec![9; whole]), "write");
    must_fail(import.write(&[9]), Kind::Invalid);
    drop(import);
    let mut import = begin(pool, &volume, &spec, size);
    must(import.write(&[9]), "write");
    must_fail(import.skip(ByteSize::bytes(SIZE)), Kind::Invalid);
    drop(import);
    let mut import = begin(pool, &volume, &spec, size);
    must(import.write(&vec![9; whole - 1]), "write");
    must_fail(import.finish(), Kind::Invalid);
    // No data at all is no image.
    must_fail(begin(pool, &volume, &spec, ImportSize::AsItComes).finish(), Kind::Invalid);
    must_fail(
        pool.driver.begin_import(&volume, &spec, ImportSize::Exactly(ByteSize::bytes(u64::MAX))),
        Kind::Invalid,
    );
    assert_eq!(pool.committed(&volume, &spec, 4), b"old!");
    must(begin(pool, &volume, &spec, size).abort(), "an import after those that failed");
}

pub(super) fn an_import_excludes_what_would_disturb_it(pool: &Pool) {
    let (volume, spec) = (id("vm-templates/fedora/root"), origin());
    pool.holding(&volume, &spec, b"old!");
    let mut import = begin(pool, &volume, &spec, ImportSize::AsItComes);
    must(import.write(&[1; 70_000]), "write");
    must_fail(pool.driver.begin_import(&volume, &spec, ImportSize::AsItComes), Kind::Busy);
    must_fail(pool.driver.start(&volume, &spec, &mut || {}, &Job::default()), Kind::Busy);
    must_fail(pool.driver.recover(&volume, &spec), Kind::Busy);
    must_fail(pool.driver.remove(&volume), Kind::Busy);
    let export = must(pool.driver.export(&volume, &spec), "export");
    must_fail(pool.driver.import_from(&volume, &spec, &export, &Job::default()), Kind::Busy);
    if let Some(resize) = pool.driver.as_resize() {
        must_fail(resize.resize(&volume, &spec, ByteSize::bytes(2 * SIZE)), Kind::Busy);
    }
    // Others take its state of before meanwhile.
    let snapshot = id("appvms/work/root");
    let started = pool.start(&snapshot, &super::snapshot_of(&volume));
    assert_eq!(super::read(&started.path, 0, 4), b"old!");
    must(import.write(&[1; 70_000]), "write");
    must(import.finish(), "finish");
    assert_eq!(pool.committed(&volume, &spec, 4096), vec![1; 4096]);
    assert_eq!(super::read(&started.path, 0, 4), b"old!");
    pool.stop(&snapshot, &super::snapshot_of(&volume));
    must(begin(pool, &volume, &spec, ImportSize::AsItComes).abort(), "the next import");
}

pub(super) fn a_dirty_volume_takes_no_import(pool: &Pool) {
    for keep in [RevisionsToKeep::Newest(1), RevisionsToKeep::Disabled] {
        let volume = id(&format!("appvms/keep{keep}/private"));
        let spec = keeping(keep);
        pool.holding(&volume, &spec, b"one");
        let started = pool.start(&volume, &spec);
        must_fail(pool.driver.begin_import(&volume, &spec, ImportSize::AsItComes), Kind::Busy);
        write(&started.path, 0, b"two");
        pool.stop(&volume, &spec);
        assert_eq!(pool.committed(&volume, &spec, 3), b"two");
    }
}

pub(super) fn a_copy_is_the_source_whatever_becomes_of_it(pool: &Pool) {
    let spec = origin();
    let (source, target) = (id("appvms/work/private"), id("appvms/copy/private"));
    must(pool.driver.create(&source, &spec), "create");
    let started = pool.start(&source, &spec);
    write(&started.path, 0, b"head");
    write(&started.path, SIZE / 2, b"middle");
    write(&started.path, SIZE - 4, b"tail");
    pool.stop(&source, &spec);
    pool.holding(&target, &VolumeSpec { size: ByteSize::bytes(2 * SIZE), ..spec.clone() }, b"other");

    let export = must(pool.driver.export(&source, &spec), "export");
    let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let listener = std::sync::Arc::clone(&told);
    let job = Job::default().with_progress(move |p| listener.lock().expect("no panic yet").push(p));
    must(pool.driver.import_from(&target, &spec, &export, &job), "copy");
    pool.run(&source, &spec, b"new!");
    let copy = must(pool.driver.export(&target, &spec), "export");
    assert_eq!(copy.size().get(), SIZE);
    for (offset, data) in [(0, b"head".as_slice()), (SIZE / 2, b"middle"), (SIZE - 4, b"tail")] {
        assert_eq!(read_file(copy.file(), offset, data.len()), data);
    }
    assert_eq!(read_file(copy.file(), 4, 4096), vec![0; 4096]);
    let told = told.lock().expect("no panic yet");
    assert!(told.is_sorted_by_key(|p| p.done));
    assert!(told.last().is_some_and(|p| p.done == SIZE && p.total == SIZE), "{told:?}");
}

pub(super) fn a_cancelled_copy_changes_nothing(pool: &Pool) {
    let spec = origin();
    let (source, there, absent) = (id("appvms/a/private"), id("appvms/b/private"), id("appvms/c/private"));
    pool.holding(&source, &spec, b"new!");
    pool.holding(&there, &spec, b"old!");
    let cancel = CancellationToken::new();
    cancel.cancel();
    let export = must(pool.driver.export(&source, &spec), "export");
    for target in [&there, &absent] {
        must_fail(
            pool.driver.import_from(target, &spec, &export, &Job::new(cancel.clone())),
            Kind::Cancelled,
        );
    }
    assert_eq!(pool.committed(&there, &spec, 4), b"old!");
    pool.assert_gone(&absent);
}
