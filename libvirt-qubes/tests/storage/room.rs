//! Where there is little room, or none.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use libvirt_qubes::Kind;
use libvirt_qubes::ids::ByteSize;
use libvirt_qubes::storage::{
    Driver, Ending, ImageDriver, ImportSize, Job, Revisions, SetupCheck, Sharing, VolumeId, VolumeKind,
    VolumeSpec,
};

use rustix::fs::{FallocateFlags, fallocate};

use crate::filesystem::{Mkfs, Mounted};
use crate::images::{BYTES, dateless, file_pool, names, private, reflink_pool, run, spec, start};

const MIB: u64 = BYTES as u64;

/// Takes all space that is left; it goes with the file.
fn fill(mounted: &Mounted) -> File {
    let ballast = File::create(mounted.path().join("ballast")).unwrap();
    let mut filled = 0;
    for piece in [BYTES, 4096, 512] {
        while ballast.write_all_at(&vec![1; piece], filled).is_ok() {
            filled += piece as u64;
        }
    }
    drop(ballast.sync_all());
    ballast
}

#[test]
fn above_the_watermark_what_takes_space_is_refused_and_nothing_else() {
    let (dir, roomy) = file_pool();
    let (id, shared, own) = (private(), spec(1, Sharing::Source), spec(0, Sharing::Private));
    let empty: VolumeId = "appvms/empty/private".parse().unwrap();
    for id in [&id, &empty] {
        roomy.create(id, &shared).unwrap();
    }
    run(&roomy, &id, &shared, b"one");
    run(&roomy, &id, &shared, b"two");
    roomy.keep(&id, &shared, 1, &Job::default()).unwrap();
    // No file system is less than 0 % full.
    let full = ImageDriver::file(&dir.path().join("pool")).unwrap().near_full(0);
    let folder = dir.path().join("pool/appvms/work");
    let before = dateless(&folder);
    let snapshot = VolumeSpec { kind: VolumeKind::Snapshot { source: id.clone() }, ..shared.clone() };
    let other: VolumeId = "appvms/other/root".parse().unwrap();
    let start = |id: &VolumeId, spec| full.start(id, spec, &mut || {}, &Job::default());
    let export = full.export(&id, &shared).unwrap();
    for refused in [
        full.begin_import(&id, &shared, ImportSize::AsItComes).map(drop),
        full.import_from(&other, &shared, &export, &Job::default()),
        full.keep(&id, &shared, 2, &Job::default()).map(drop),
        start(&id, &shared).map(drop),
        start(&other, &snapshot).map(drop),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), Kind::NoSpace);
        assert!(error.report().contains("from 0 % on what takes space is refused"), "{}", error.report());
    }
    drop(export);
    assert_eq!(
        names(&dir.path().join("pool/appvms/other")),
        [""; 0],
        "a refused start holds no blocks of its source"
    );
    full.stop(&other, &snapshot, Ending::NeverRan).unwrap();
    full.remove(&other).unwrap();
    assert_eq!(dateless(&folder), before);
    assert_eq!(names(&dir.path().join("pool/appvms")), ["empty", "work"]);
    let zeros = ImportSize::Zeros(ByteSize::bytes(MIB));
    let mut clear = full.begin_import(&empty, &shared, zeros).unwrap();
    clear.skip(ByteSize::bytes(MIB)).unwrap();
    clear.finish().unwrap();
    // What is one hole, is renamed or is removed takes none.
    run(&full, &empty, &shared, b"");
    run(&full, &id, &own, b"in place");
    full.create(&other, &own).unwrap();
    full.remove(&other).unwrap();
    run(&roomy, &id, &shared, b"three");
    let revisions = full.revisions(&id).unwrap();
    let (kept, automatic): (Vec<_>, Vec<_>) =
        revisions.iter().map(|revision| &revision.id).partition(|id| id.as_str().starts_with('s'));
    assert_eq!((kept.len(), automatic.len()), (1, 1));
    for revision in automatic.into_iter().chain(kept) {
        full.revert(&id, &shared, revision, &Job::default()).unwrap();
    }
}

#[test]
fn copies_that_share_blocks_are_made_above_the_watermark() {
    let test = "copies_that_share_blocks_are_made_above_the_watermark";
    let Some((xfs, roomy)) = reflink_pool(test) else { return };
    let (id, spec) = (private(), spec(1, Sharing::Source));
    roomy.create(&id, &spec).unwrap();
    let full = roomy.near_full(0);
    run(&full, &id, &spec, b"one");
    let export = full.export(&id, &spec).unwrap();
    let other: VolumeId = "appvms/other/private".parse().unwrap();
    full.import_from(&other, &spec, &export, &Job::default()).unwrap();
    full.keep(&id, &spec, 1, &Job::default()).unwrap();
    // From another file system it is the data that is copied.
    let (_dir, elsewhere) = file_pool();
    elsewhere.create(&id, &spec).unwrap();
    run(&elsewhere, &id, &spec, b"theirs");
    let export = elsewhere.export(&id, &spec).unwrap();
    let error = full.import_from(&other, &spec, &export, &Job::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace);
    assert_eq!(names(&xfs.path().join("pool/appvms")), ["other", "work"]);
}

/// With not a byte free a run still ends, a revision is gone back to, what needs no copy is started, and things are removed.
fn loses_nothing_when_it_is_full(full: &Mounted, driver: &ImageDriver) {
    driver.setup().unwrap();
    let other = |owner: &str| format!("appvms/{owner}/private").parse::<VolumeId>().unwrap();
    let (id, own, waiting, large) = (private(), other("own"), other("waiting"), other("large"));
    let (spec, in_place) = (spec(1, Sharing::Source), spec(-1, Sharing::Source));
    let ready = |id, data| {
        driver.create(id, &spec).unwrap();
        run(driver, id, &spec, data);
        driver.prepare(id, &spec);
    };
    ready(&id, b"one");
    ready(&waiting, b"her");
    ready(&large, &[7; 4 * BYTES]);
    driver.keep(&large, &spec, 1, &Job::default()).unwrap();
    driver.create(&own, &in_place).unwrap();
    let folder = full.path().join("pool/appvms/work");
    let before = dateless(&folder);
    let mut import = driver.begin_import(&id, &spec, ImportSize::AsItComes).unwrap();
    let error = loop {
        match import.write(&[9; 1 << 20]) {
            Ok(()) => {}
            Err(e) => break e,
        }
    };
    assert_eq!(error.kind(), Kind::NoSpace, "{}", error.report());
    drop(import);
    assert_eq!(dateless(&folder), before);
    // What was removed is free when the file system has come to it.
    rustix::fs::syncfs(File::open(&folder).unwrap()).unwrap();
    let path = start(driver, &id, &spec);
    let dirty = File::options().write(true).open(&path).unwrap();
    dirty.write_all_at(b"two", 0).unwrap();
    dirty.sync_all().unwrap();
    fill(full);
    let committed = |id: &VolumeId, spec| {
        let mut data = [0; 3];
        driver.export(id, spec).unwrap().file().read_exact_at(&mut data, 0).unwrap();
        data
    };
    driver.stop(&id, &spec, Ending::Ran).unwrap();
    assert_eq!(&committed(&id, &spec), b"two");
    let revision = driver.revisions(&id).unwrap().pop().unwrap();
    driver.revert(&id, &spec, &revision.id, &Job::default()).unwrap();
    assert_eq!(&committed(&id, &spec), b"one");
    start(driver, &own, &in_place);
    driver.stop(&own, &in_place, Ending::Ran).unwrap();
    if driver.name() == "file-reflink" {
        start(driver, &waiting, &spec);
        driver.stop(&waiting, &spec, Ending::Ran).unwrap();
        assert_eq!(&committed(&waiting, &spec), b"her");
    }
    driver.forget(&large, &"s1".parse().unwrap()).unwrap();
    for id in [&large, &own, &waiting, &id] {
        driver.remove(id).unwrap();
    }
    assert_eq!(names(&full.path().join("pool/appvms")), [""; 0]);
}

#[test]
fn a_full_pool_loses_nothing() {
    for (mkfs, size) in [(Mkfs::Ext4, 32 << 20), (Mkfs::Xfs, 320 << 20), (Mkfs::Btrfs, 320 << 20)] {
        let Some(full) = Mounted::new(mkfs, size, "a_full_pool_loses_nothing") else { continue };
        let pool = full.path().join("pool");
        let driver = match mkfs {
            Mkfs::Ext4 | Mkfs::OldXfs => ImageDriver::file(&pool),
            Mkfs::Xfs | Mkfs::Btrfs => ImageDriver::reflink(&pool, SetupCheck::Probe),
        };
        loses_nothing_when_it_is_full(&full, &driver.unwrap());
    }
}

#[test]
fn an_import_that_began_with_room_stops_at_the_watermark() {
    let test = "an_import_that_began_with_room_stops_at_the_watermark";
    let Some(small) = Mounted::new(Mkfs::Ext4, 128 << 20, test) else { return };
    let driver = ImageDriver::file(&small.path().join("pool")).unwrap().near_full(50);
    driver.setup().unwrap();
    let mut import =
        driver.begin_import(&private(), &spec(0, Sharing::Private), ImportSize::AsItComes).unwrap();
    let refused = (0..128).find_map(|_| import.write(&vec![1; BYTES]).err()).unwrap();
    assert_eq!(refused.kind(), Kind::NoSpace);
    assert!(refused.report().contains("from 50 % on"), "{}", refused.report());
    let percent = driver.usage().unwrap().unwrap().data_percent();
    assert!(percent < 80.0, "{percent}");
    drop(import);
    assert_eq!(names(&small.path().join("pool/appvms")), [""; 0]);
}

/// Somebody else takes the room as soon as the first piece is copied, however fast the copy is. Within the pool the kernel
/// copies; from another file system the data is read and written.
#[test]
fn a_copy_that_began_with_room_stops_at_the_watermark() {
    const DATA: usize = 48;
    let test = "a_copy_that_began_with_room_stops_at_the_watermark";
    let Some(small) = Mounted::in_memory(Mkfs::Ext4, 256 << 20, test) else { return };
    let driver = ImageDriver::file(&small.path().join("pool")).unwrap();
    let driver = driver.named(&"small".parse().unwrap()).near_full(60);
    driver.setup().unwrap();
    let (_dir, elsewhere) = file_pool();
    let (id, spec) = (private(), spec(0, Sharing::Private));
    let other: VolumeId = "appvms/other/private".parse().unwrap();
    for from in [&driver, &elsewhere] {
        let mut import = from.begin_import(&id, &spec, ImportSize::AsItComes).unwrap();
        for byte in 1..=DATA {
            import.write(&vec![u8::try_from(byte).unwrap(); BYTES]).unwrap();
        }
        import.finish().unwrap();
        let export = from.export(&id, &spec).unwrap();
        let ballast = File::create(small.path().join("ballast")).unwrap();
        let (taker, seen) = (ballast.try_clone().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let listener = Arc::clone(&seen);
        let job = Job::default().with_progress(move |progress| {
            let mut seen = listener.lock().unwrap();
            if seen.is_empty() {
                fallocate(&taker, FallocateFlags::empty(), 0, 144 * MIB).unwrap();
            }
            seen.push(progress.done);
        });
        let refused = driver.import_from(&other, &spec, &export, &job).unwrap_err();
        assert_eq!(refused.kind(), Kind::NoSpace);
        let words = refused.report();
        assert!(words.contains("storage pool 'small': ") && words.contains("from 60 % on"), "{words}");
        let copied = *seen.lock().unwrap().last().unwrap();
        assert!((1..DATA as u64 * MIB).contains(&copied), "it stops in the middle: {copied}");
        assert!(!small.path().join("pool/appvms/other").exists());
        ballast.set_len(0).unwrap();
        driver.import_from(&other, &spec, &export, &Job::default()).unwrap();
        driver.remove(&other).unwrap();
    }
}

#[test]
fn going_back_to_a_kept_state_without_room_changes_nothing() {
    let test = "going_back_to_a_kept_state_without_room_changes_nothing";
    let Some(small) = Mounted::new(Mkfs::Ext4, 32 << 20, test) else { return };
    let driver = ImageDriver::file(&small.path().join("pool")).unwrap().named(&"small".parse().unwrap());
    driver.setup().unwrap();
    let (id, spec) = (private(), spec(2, Sharing::Source));
    driver.create(&id, &spec).unwrap();
    run(&driver, &id, &spec, &vec![1; 4 * BYTES]);
    let kept = driver.keep(&id, &spec, 1, &Job::default()).unwrap();
    run(&driver, &id, &spec, b"two");
    let before = names(&small.path().join("pool/appvms/work"));
    let ballast = fill(&small);
    let refused = driver.revert(&id, &spec, &kept, &Job::default()).unwrap_err();
    assert_eq!(refused.kind(), Kind::NoSpace, "{}", refused.report());
    let words = format!(
        "storage pool 'small': the file system of {}/pool has no room left; make it",
        small.path().display()
    );
    assert!(refused.report().contains(&words), "{}", refused.report());
    assert_eq!(names(&small.path().join("pool/appvms/work")), before);
    ballast.set_len(0).unwrap();
    driver.revert(&id, &spec, &kept, &Job::default()).unwrap();
    let mut data = [0; 3];
    driver.export(&id, &spec).unwrap().file().read_exact_at(&mut data, 0).unwrap();
    assert_eq!(data, [1; 3]);
}

#[test]
fn a_file_system_without_a_free_byte_is_full_whatever_it_keeps_for_itself() {
    for mkfs in [Mkfs::Ext4, Mkfs::Xfs, Mkfs::Btrfs] {
        let test = "a_file_system_without_a_free_byte_is_full_whatever_it_keeps_for_itself";
        let Some(small) = Mounted::new(mkfs, 320 << 20, test) else { continue };
        let driver = ImageDriver::file(&small.path()).unwrap();
        driver.setup().unwrap();
        let percent = || driver.usage().unwrap().unwrap().data_percent();
        assert!(percent() < 50.0, "{mkfs:?}: {}", percent());
        let ballast = fill(&small);
        assert!(percent() > 98.0, "{mkfs:?}: {}", percent());
        drop(ballast);
    }
}
