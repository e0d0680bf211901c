//! What the two drivers of image files do on disk, beyond the contract.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use libvirt_qubes::Kind;
use libvirt_qubes::config::Access;
use libvirt_qubes::ids::ByteSize;
use libvirt_qubes::storage::{
    Driver, Ending, ImageDriver, ImportSize, Job, Resize, Revisions, RevisionsToKeep, SetupCheck, Sharing,
    Step, VolumeId, VolumeKind, VolumeSpec,
};
use mgmt_block::{Attach, BufferedIo, Lifetime, LoopDevice, Reference};
use tempfile::TempDir;

use crate::filesystem::{Mkfs, Mounted, allocated};

pub(crate) const BYTES: usize = 1 << 20;
const MIB: u64 = BYTES as u64;

pub(crate) fn spec(keep: i64, sharing: Sharing) -> VolumeSpec {
    VolumeSpec {
        kind: VolumeKind::Origin,
        size: ByteSize::bytes(8 * MIB),
        revisions_to_keep: RevisionsToKeep::try_from(keep).unwrap(),
        access: Access::ReadWrite,
        sharing,
        ephemeral: false,
    }
}

pub(crate) fn private() -> VolumeId {
    "appvms/work/private".parse().unwrap()
}

pub(crate) fn file_pool() -> (TempDir, ImageDriver) {
    let dir = tempfile::tempdir().unwrap();
    let driver = ImageDriver::file(&dir.path().join("pool")).unwrap();
    driver.setup().unwrap();
    (dir, driver)
}

pub(crate) fn reflink_pool(test: &str) -> Option<(Mounted, ImageDriver)> {
    let xfs = Mounted::new(Mkfs::Xfs, 512 << 20, test)?;
    let driver = ImageDriver::reflink(&xfs.path().join("pool"), SetupCheck::Probe).unwrap();
    driver.setup().unwrap();
    Some((xfs, driver))
}

pub(crate) fn start(driver: &ImageDriver, id: &VolumeId, spec: &VolumeSpec) -> PathBuf {
    driver.start(id, spec, &mut || {}, &Job::default()).unwrap().unwrap().path
}

pub(crate) fn run(driver: &ImageDriver, id: &VolumeId, spec: &VolumeSpec, data: &[u8]) {
    let path = start(driver, id, spec);
    File::options().write(true).open(path).unwrap().write_all_at(data, 0).unwrap();
    driver.stop(id, spec, Ending::Ran).unwrap();
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Names with each date as `DATE`.
pub(crate) fn dateless(dir: &Path) -> Vec<String> {
    names(dir)
        .into_iter()
        .map(|name| name.split_once('@').map_or(name.clone(), |(n, _)| format!("{n}@DATE")))
        .collect()
}

#[test]
fn file_reflink_has_the_deployed_names_at_every_stage() {
    let Some((xfs, driver)) = reflink_pool("file_reflink_has_the_deployed_names_at_every_stage") else {
        return;
    };
    let (id, spec) = (private(), spec(1, Sharing::Source));
    let dir = xfs.path().join("pool/appvms/work");
    driver.create(&id, &spec).unwrap();
    assert_eq!(dateless(&dir), ["private.img"]);
    driver.prepare(&id, &spec);
    assert_eq!(dateless(&dir), ["private-precache.img", "private.img"]);
    start(&driver, &id, &spec);
    driver.prepare(&id, &spec);
    assert_eq!(dateless(&dir), ["private-dirty.img", "private.img"]);
    driver.stop(&id, &spec, Ending::Ran).unwrap();
    assert_eq!(dateless(&dir), ["private.img", "private.img.1@DATE"]);
    driver.prepare(&id, &spec);
    assert_eq!(dateless(&dir), ["private-precache.img", "private.img", "private.img.1@DATE"]);
    let import = driver.begin_import(&id, &spec, ImportSize::AsItComes).unwrap();
    assert!(names(&dir).contains(&"private-import.img".to_owned()));
    import.abort().unwrap();
    driver.keep(&id, &spec, 3, &Job::default()).unwrap();
    assert_eq!(
        dateless(&dir),
        ["private-keep.3.img", "private-precache.img", "private.img", "private.img.1@DATE"]
    );
    let root = VolumeSpec { kind: VolumeKind::Snapshot { source: id.clone() }, ..spec.clone() };
    let root_id = "appvms/disp1/root".parse().unwrap();
    start(&driver, &root_id, &root);
    let snapshot = xfs.path().join("pool/appvms/disp1");
    assert_eq!(names(&snapshot), ["root-dirty.img", "root.img"]);
    let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
    assert_eq!(
        inode(&snapshot.join("root.img")),
        inode(&dir.join("private.img")),
        "a hard link to its source"
    );
}

#[test]
fn a_start_of_file_reflink_takes_the_copy_that_the_stop_made() {
    let Some((xfs, driver)) = reflink_pool("a_start_of_file_reflink_takes_the_copy_that_the_stop_made")
    else {
        return;
    };
    let (id, spec) = (private(), spec(1, Sharing::Source));
    driver.create(&id, &spec).unwrap();
    run(&driver, &id, &spec, b"one");
    driver.prepare(&id, &spec);
    let dir = xfs.path().join("pool/appvms/work");
    let inode = |name: &str| std::fs::metadata(dir.join(name)).unwrap().ino();
    let prepared = inode("private-precache.img");
    start(&driver, &id, &spec);
    assert_eq!(inode("private-dirty.img"), prepared);
    driver.stop(&id, &spec, Ending::Ran).unwrap();
    // But not if it is of another state, as a restored backup of single files might leave it.
    File::options().write(true).open(dir.join("private.img")).unwrap().write_all_at(b"two", 0).unwrap();
    let path = start(&driver, &id, &spec);
    let mut data = [0; 3];
    File::open(path).unwrap().read_exact_at(&mut data, 0).unwrap();
    assert_eq!(&data, b"two");
}

#[test]
fn copies_of_file_reflink_take_no_space() {
    let Some((xfs, driver)) = reflink_pool("copies_of_file_reflink_take_no_space") else { return };
    let (id, spec) = (private(), spec(1, Sharing::Source));
    let mut import = driver.begin_import(&id, &spec, ImportSize::AsItComes).unwrap();
    for byte in 1..=64u8 {
        import.write(&vec![byte; BYTES]).unwrap();
    }
    import.finish().unwrap();
    let used = || {
        xfs.sync();
        driver.usage().unwrap().unwrap().usage.get()
    };
    let before = used();
    start(&driver, &id, &spec);
    let export = driver.export(&id, &spec).unwrap();
    driver.import_from(&"appvms/copy/private".parse().unwrap(), &spec, &export, &Job::default()).unwrap();
    driver.keep(&id, &spec, 1, &Job::default()).unwrap();
    assert!(used() < before + 4 * MIB, "{} bytes more", used() - before);
}

#[test]
fn a_private_volume_of_file_without_revisions_is_written_in_place() {
    let (dir, driver) = file_pool();
    let (id, spec) = (private(), spec(0, Sharing::Private));
    driver.create(&id, &spec).unwrap();
    let folder = dir.path().join("pool/appvms/work");
    let inode = |name: &str| std::fs::metadata(folder.join(name)).unwrap().ino();
    let image = inode("private.img");
    let path = start(&driver, &id, &spec);
    assert_eq!(names(&folder), ["private-dirty.img"]);
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), image, "the start made a copy");
    // What holds is fixed at the start: a change of mind waits for the next one.
    let shared = VolumeSpec { sharing: Sharing::Source, ..spec.clone() };
    assert_eq!(driver.export(&id, &shared).unwrap_err().kind(), Kind::Busy);
    driver.stop(&id, &shared, Ending::Ran).unwrap();
    assert_eq!(inode("private.img"), image);
    start(&driver, &id, &shared);
    assert_eq!(names(&folder), ["private-dirty.img", "private.img"]);
    driver.export(&id, &shared).unwrap();
    driver.stop(&id, &shared, Ending::Ran).unwrap();
    assert_eq!(names(&folder), ["private.img"]);
}

#[test]
fn files_and_folders_are_for_root_alone() {
    let (dir, driver) = file_pool();
    let (id, spec) = (private(), spec(1, Sharing::Source));
    driver.create(&id, &spec).unwrap();
    run(&driver, &id, &spec, b"one");
    start(&driver, &id, &spec);
    let _import =
        driver.begin_import(&"appvms/other/private".parse().unwrap(), &spec, ImportSize::AsItComes).unwrap();
    let mut modes = BTreeMap::new();
    let mut folders = vec![dir.path().join("pool")];
    while let Some(folder) = folders.pop() {
        modes.insert(folder.clone(), 0o700);
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                modes.insert(path, 0o600);
            }
        }
    }
    assert!(modes.len() > 7, "{modes:?}");
    for (path, mode) in modes {
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            mode,
            "{}",
            path.display()
        );
    }
}

#[test]
fn what_the_driver_does_not_know_is_listed_and_left_alone() {
    let (dir, driver) = file_pool();
    let (id, spec) = (private(), spec(1, Sharing::Source));
    driver.create(&id, &spec).unwrap();
    let folder = dir.path().join("pool/appvms/work");
    let strangers = [
        "private-cow.img",
        "private-cow.img.old",
        "private.img.bak",
        "notes.txt",
        "private.img~",
        "x.img~a~",
    ];
    for name in strangers {
        std::fs::write(folder.join(name), "mine").unwrap();
    }
    std::fs::write(dir.path().join("pool/appvms/file"), "mine").unwrap();
    run(&driver, &id, &spec, b"one");
    driver.recover(&id, &spec).unwrap();
    driver.remove(&id).unwrap();
    let mut expected: Vec<_> = strangers.iter().map(|name| folder.join(name)).collect();
    expected.push(dir.path().join("pool/appvms/file"));
    expected.sort();
    let contents = driver.contents().unwrap();
    assert_eq!(contents.unknown, expected);
    assert!(contents.volumes.is_empty());
}

#[test]
fn recovery_removes_names_of_unfinished_steps_of_its_own_volume_only() {
    let (dir, driver) = file_pool();
    let (id, spec) = (private(), spec(1, Sharing::Source));
    driver.create(&id, &spec).unwrap();
    let folder = dir.path().join("pool/appvms/work");
    let mine =
        ["private.img~0a1b2c", "private-dirty.img~x_1", "private-import.img", "private-keep.4.img~abc"];
    let others = ["root-import.img", "root.img~0a1b2c"];
    for name in mine.iter().chain(&others) {
        std::fs::write(folder.join(name), "part").unwrap();
    }
    driver.recover(&id, &spec).unwrap();
    assert_eq!(names(&folder), ["private.img", "root-import.img", "root.img~0a1b2c"]);
}

#[test]
fn names_whose_files_would_be_those_of_another_volume_are_refused() {
    let (_dir, driver) = file_pool();
    let spec = spec(1, Sharing::Source);
    for name in ["private-dirty", "private-import", "private-precache", "private-keep.1", "private-cow"] {
        let id = format!("appvms/work/{name}").parse().unwrap();
        assert_eq!(driver.create(&id, &spec).unwrap_err().kind(), Kind::Invalid, "{name}");
        let import = driver.begin_import(&id, &spec, ImportSize::AsItComes);
        assert_eq!(import.err().unwrap().kind(), Kind::Invalid, "{name}");
    }
}

#[test]
fn a_place_with_nothing_but_leftovers_of_a_volume_is_not_vacant() {
    let (dir, driver) = file_pool();
    let folder = dir.path().join("pool/appvms/work");
    for name in
        ["private-keep.1.img", "private.img.2@2024-01-01T00:00:00Z", "private-import.img", "private.img~ab"]
    {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), "data").unwrap();
        assert_eq!(driver.vacant(&private()).unwrap_err().kind(), Kind::AlreadyExists, "{name}");
        driver.remove(&private()).unwrap();
        driver.vacant(&private()).unwrap();
    }
}

#[test]
fn zeros_become_holes_and_holes_stay_holes() {
    let (dir, driver) = file_pool();
    let (id, spec) = (private(), spec(1, Sharing::Source));
    let mut import = driver.begin_import(&id, &spec, ImportSize::AsItComes).unwrap();
    // 64 MiB with 128 KiB of data, in pieces that fit no block; then a hole of 1 TiB.
    let mut data = vec![0; 64 * BYTES];
    for at in [0, 33 * BYTES + 12_345] {
        data[at..at + 65_536].fill(7);
    }
    for piece in data.chunks(100_003) {
        import.write(piece).unwrap();
    }
    import.skip(ByteSize::bytes(1 << 40)).unwrap();
    import.write(b"end").unwrap();
    let size = import.finish().unwrap().get();
    assert_eq!(size, (64 * MIB + (1 << 40) + 3).next_multiple_of(512));
    let image = dir.path().join("pool/appvms/work/private.img");
    assert!(allocated(&image) <= MIB, "{} bytes allocated", allocated(&image));

    let export = driver.export(&id, &spec).unwrap();
    let mut got = vec![0; data.len()];
    export.file().read_exact_at(&mut got, 0).unwrap();
    assert!(got == data);
    // The copies of a start, of another volume, and of another file system.
    let copied = start(&driver, &id, &spec);
    assert!(allocated(&copied) <= MIB, "{} bytes allocated", allocated(&copied));
    assert_eq!(std::fs::metadata(&copied).unwrap().len(), size);
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let elsewhere = ImageDriver::file(memory.path()).unwrap();
    elsewhere.setup().unwrap();
    elsewhere.import_from(&id, &spec, &export, &Job::default()).unwrap();
    let image = memory.path().join("appvms/work/private.img");
    assert!(allocated(&image) <= MIB, "{} bytes allocated", allocated(&image));
    let mut got = vec![0; data.len()];
    File::open(&image).unwrap().read_exact_at(&mut got, 0).unwrap();
    assert!(got == data);
    let mut end = [0; 3];
    File::open(&image).unwrap().read_exact_at(&mut end, 64 * MIB + (1 << 40)).unwrap();
    assert_eq!(&end, b"end");
}

#[test]
fn a_copy_can_be_cancelled_between_two_chunks() {
    let (dir, driver) = file_pool();
    let (id, spec) = (private(), spec(1, Sharing::Source));
    let mut import = driver.begin_import(&id, &spec, ImportSize::AsItComes).unwrap();
    for byte in 1..=48u8 {
        import.write(&vec![byte; BYTES]).unwrap();
    }
    import.finish().unwrap();
    let cancel = tokio_util::sync::CancellationToken::new();
    let (seen, stop) = (Arc::new(Mutex::new(0)), cancel.clone());
    let last = Arc::clone(&seen);
    let job = Job::new(cancel).with_progress(move |progress| {
        *last.lock().unwrap() = progress.done;
        stop.cancel();
    });
    let export = driver.export(&id, &spec).unwrap();
    let target = "appvms/copy/private".parse().unwrap();
    assert_eq!(driver.import_from(&target, &spec, &export, &job).unwrap_err().kind(), Kind::Cancelled);
    let seen = *seen.lock().unwrap();
    assert!(seen > 0 && seen < 48 * MIB, "{seen}");
    assert_eq!(names(&dir.path().join("pool/appvms")), ["work"]);
}

#[test]
fn a_place_that_cannot_share_blocks_is_refused_and_left_as_it_was() {
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let driver = ImageDriver::reflink(&memory.path().join("pool"), SetupCheck::Probe).unwrap();
    let error = driver.setup().unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.report().contains("does not support reflinks"), "{}", error.report());
    assert!(names(memory.path()).is_empty());
    assert!(!ImageDriver::can_share_blocks(memory.path()).unwrap());
    // The last folder is made, its parent is not.
    let deep = ImageDriver::file(&memory.path().join("no/pool")).unwrap();
    let error = deep.setup().unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.report().contains("only the last part of the path is made"), "{}", error.report());
    // A file in its place is no folder.
    std::fs::write(memory.path().join("file"), "").unwrap();
    assert!(ImageDriver::file(&memory.path().join("file")).unwrap().setup().is_err());
}

#[test]
fn a_place_that_shares_blocks_is_found_out_without_leaving_a_trace() {
    let test = "a_place_that_shares_blocks_is_found_out_without_leaving_a_trace";
    let Some(xfs) = Mounted::new(Mkfs::Xfs, 512 << 20, test) else { return };
    assert!(ImageDriver::can_share_blocks(&xfs.path()).unwrap());
    assert!(names(&xfs.path()).is_empty());
}

#[test]
fn a_running_guests_loop_device_grows_with_its_volume() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: not root");
        return;
    }
    let (_dir, driver) = file_pool();
    let (id, spec) = (private(), spec(1, Sharing::Source));
    driver.create(&id, &spec).unwrap();
    let path = start(&driver, &id, &spec);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let how = Attach {
        access: mgmt_block::Access::ReadWrite,
        io: BufferedIo::Buffered,
        reference: Reference::EMPTY,
        lifetime: Lifetime::Kept,
    };
    let device = LoopDevice::attach(&file, &how).unwrap();
    driver.resize(&id, &spec, ByteSize::bytes(16 * MIB)).unwrap();
    let name = device.path().file_name().unwrap().to_str().unwrap().to_owned();
    let sectors = std::fs::read_to_string(format!("/sys/block/{name}/size")).unwrap();
    device.detach().unwrap();
    assert_eq!(sectors.trim().parse::<u64>().unwrap() * 512, 16 * MIB);
}

#[test]
fn no_name_is_given_to_data_that_is_not_durable_and_no_success_to_a_name_that_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let steps = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&steps);
    let driver = ImageDriver::reflink(&dir.path().join("pool"), SetupCheck::Skip)
        .unwrap()
        .observed(move |step| log.lock().unwrap().push(step.clone()));
    driver.setup().unwrap();
    let (id, spec) = (private(), spec(2, Sharing::Source));
    let operations: &[(&str, &dyn Fn())] = &[
        ("create", &|| driver.create(&id, &spec).unwrap()),
        ("start", &|| drop(start(&driver, &id, &spec))),
        ("stop", &|| driver.stop(&id, &spec, Ending::Ran).unwrap()),
        ("resize", &|| driver.resize(&id, &spec, ByteSize::bytes(9 * MIB)).unwrap()),
        ("import", &|| {
            let mut import = driver.begin_import(&id, &spec, ImportSize::AsItComes).unwrap();
            import.write(b"data").unwrap();
            import.finish().unwrap();
        }),
        ("copy", &|| {
            let export = driver.export(&id, &spec).unwrap();
            driver
                .import_from(&"appvms/b/private".parse().unwrap(), &spec, &export, &Job::default())
                .unwrap();
        }),
        ("keep", &|| drop(driver.keep(&id, &spec, 1, &Job::default()).unwrap())),
        ("revert", &|| {
            let revision = driver.revisions(&id).unwrap().remove(0);
            driver.revert(&id, &spec, &revision.id, &Job::default()).unwrap();
        }),
    ];
    for (name, operation) in operations {
        steps.lock().unwrap().clear();
        operation();
        let steps = steps.lock().unwrap().clone();
        assert!(!steps.is_empty(), "{name} did nothing");
        check_order(name, &steps);
    }
}

/// Replays the steps and asks at each rename and at the end what a power cut would leave.
fn check_order(operation: &str, steps: &[Step]) {
    let mut unsynced_data: Vec<&Path> = Vec::new();
    let mut unsynced_names: Vec<&Path> = Vec::new();
    for step in steps {
        match step {
            Step::Create(path) | Step::Fill(path) | Step::Resize(path) => unsynced_data.push(path),
            Step::SyncFile(path) => unsynced_data.retain(|p| p != path),
            Step::Rename { from, to } => {
                assert!(
                    !unsynced_data.contains(&from.as_path()),
                    "{operation}: {} before its data: {steps:#?}",
                    to.display()
                );
                unsynced_names.push(to);
            }
            Step::Link { to, .. } => unsynced_names.push(to),
            Step::MakeDir(path) | Step::Remove(path) => unsynced_names.push(path),
            Step::SyncDir(dir) => unsynced_names.retain(|p| p.parent() != Some(dir)),
            Step::Attach(_) | Step::Map(_) | Step::Unmap(_) => {}
        }
    }
    assert!(unsynced_data.is_empty(), "{operation}: {unsynced_data:?}");
    // The prepared copy, and surplus that is removed after the commit, may be lost: they are made or removed again.
    unsynced_names.retain(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        !name.contains("-precache") && !steps.contains(&Step::Remove(path.to_path_buf()))
    });
    assert!(unsynced_names.is_empty(), "{operation}: {unsynced_names:?}");
}

#[test]
fn what_a_kill_left_unfinished_of_a_running_volume_goes_with_the_next_snapshot_or_the_stop() {
    let test = "what_a_kill_left_unfinished_of_a_running_volume_goes_with_the_next_snapshot_or_the_stop";
    let Some((xfs, driver)) = reflink_pool(test) else { return };
    let (id, spec) = (private(), spec(0, Sharing::Source));
    driver.create(&id, &spec).unwrap();
    let path = start(&driver, &id, &spec);
    let dir = xfs.path().join("pool/appvms/work");
    let leave = || std::fs::copy(&path, dir.join("private-keep.1.img~0123456789ab")).unwrap();
    leave();
    driver.keep(&id, &spec, 2, &Job::default()).unwrap();
    assert_eq!(names(&dir), ["private-dirty.img", "private-keep.2.img", "private.img"]);
    leave();
    driver.stop(&id, &spec, Ending::Ran).unwrap();
    assert_eq!(names(&dir), ["private-keep.2.img", "private.img"]);
}

#[test]
fn a_volatile_volume_does_not_get_a_size_that_no_file_can_have() {
    let Some(ext4) = Mounted::new(Mkfs::Ext4, 64 << 20, "a_volatile_volume_does_not_get_a_size") else {
        return;
    };
    let driver = ImageDriver::file(&ext4.path().join("pool")).unwrap();
    driver.setup().unwrap();
    let id: VolumeId = "appvms/work/volatile".parse().unwrap();
    let spec = VolumeSpec { kind: VolumeKind::Volatile, ..spec(0, Sharing::Private) };
    let refused = driver.resize(&id, &spec, ByteSize::bytes(20_000_000_000_000)).unwrap_err();
    assert_eq!(refused.kind(), Kind::Invalid);
    assert!(refused.report().contains("has no files of 20000000000000 bytes"), "{}", refused.report());
    // Of what is there it is the same fault, and no error of the disk.
    let other: VolumeId = "appvms/work/private".parse().unwrap();
    let origin = VolumeSpec { kind: VolumeKind::Origin, ..spec.clone() };
    driver.create(&other, &origin).unwrap();
    let size = ByteSize::bytes(20_000_000_000_000);
    let too_large = VolumeSpec { size, ..origin.clone() };
    let import = || {
        let mut import = driver.begin_import(&other, &origin, ImportSize::Zeros(size))?;
        import.skip(size)?;
        import.finish().map(drop)
    };
    for refused in [
        driver.resize(&other, &origin, size),
        driver.create(&"appvms/fresh/new".parse().unwrap(), &too_large),
        import(),
    ] {
        let refused = refused.unwrap_err();
        let words = format!("the file system of {}/pool has no files so large", ext4.path().display());
        assert!(refused.kind() == Kind::Invalid && refused.report().contains(&words), "{}", refused.report());
    }
    driver.remove(&other).unwrap();
    // What is larger than the file system is no more than a promise.
    driver.resize(&id, &spec, ByteSize::bytes(1 << 40)).unwrap();
    assert_eq!(names(&ext4.path().join("pool/appvms")), Vec::<String>::new());
}

#[test]
fn a_source_that_is_written_in_place_or_grown_is_another_state() {
    let (dir, driver) = file_pool();
    is_another_state_once_written_or_grown(&driver, &dir.path().join("pool"));
    let test = "a_source_that_is_written_in_place_or_grown_is_another_state";
    if let Some((xfs, driver)) = reflink_pool(test) {
        is_another_state_once_written_or_grown(&driver, &xfs.path().join("pool"));
    }
}

fn is_another_state_once_written_or_grown(driver: &ImageDriver, pool: &Path) {
    let (template, in_place) = ("vm-templates/base/root".parse().unwrap(), spec(-1, Sharing::Source));
    driver.create(&template, &in_place).unwrap();
    let root = VolumeSpec { kind: VolumeKind::Snapshot { source: template.clone() }, ..in_place.clone() };
    let work: VolumeId = "appvms/work/root".parse().unwrap();
    let outdated = || driver.info(&work, &root).unwrap().outdated;
    let own = start(driver, &work, &root);
    File::options().write(true).open(&own).unwrap().write_all_at(b"own", 0).unwrap();
    assert_eq!(outdated(), Some(false));
    let written = start(driver, &template, &in_place);
    assert!(!pool.join("vm-templates/base/root.img").exists(), "not written in place");
    assert_eq!(outdated(), Some(false), "nothing was written");
    let written = File::options().write(true).open(written).unwrap();
    written.write_all_at(b"new", 0).unwrap();
    // Longer than a tick of the clock after the change before.
    written.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(1)).unwrap();
    assert_eq!(outdated(), Some(true));
    driver.stop(&template, &in_place, Ending::Ran).unwrap();
    assert_eq!(outdated(), Some(true));
    driver.stop(&work, &root, Ending::Ran).unwrap();
    assert_eq!(outdated(), Some(false));

    start(driver, &work, &root);
    assert_eq!(outdated(), Some(false));
    driver.resize(&template, &in_place, ByteSize::bytes(9 * MIB)).unwrap();
    assert_eq!(outdated(), Some(true));
}
