//! The driver `file` with snapshots by device-mapper: its contract, what a start takes, and a kill after each step.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use libvirt_qubes::config::Access;
use libvirt_qubes::contract::storage::{Fixture, storage_contract};
use libvirt_qubes::ids::ByteSize;
use libvirt_qubes::storage::mapper::DeviceMapper;
use libvirt_qubes::storage::{
    CopyOnWrite, Driver, Ending, ImageDriver, Job, RevisionsToKeep, Sharing, VolumeId, VolumeKind, VolumeSpec,
};
use tempfile::TempDir;

use crate::{attached, devices};

const MIB: u64 = 1 << 20;
const CHUNK: u64 = 128 << 10;

fn driver(dir: &Path) -> ImageDriver {
    let mapper = Arc::new(DeviceMapper::new(Duration::from_secs(120)));
    ImageDriver::file(dir).unwrap().copy_on_write(CopyOnWrite::DeviceMapper, mapper)
}

fn id(text: &str) -> VolumeId {
    text.parse().unwrap()
}

fn template() -> (VolumeId, VolumeSpec) {
    let spec = VolumeSpec {
        kind: VolumeKind::Origin,
        size: ByteSize::bytes(32 * MIB + 512),
        revisions_to_keep: RevisionsToKeep::Newest(0),
        access: Access::ReadWrite,
        sharing: Sharing::Source,
        ephemeral: false,
    };
    (id("vm-templates/base/root"), spec)
}

fn root() -> (VolumeId, VolumeSpec) {
    let (source, spec) = template();
    (id("appvms/work/root"), VolumeSpec { kind: VolumeKind::Snapshot { source }, ..spec })
}

fn start(driver: &ImageDriver, (id, spec): &(VolumeId, VolumeSpec)) -> PathBuf {
    driver.start(id, spec, &mut || {}, &Job::default()).unwrap().unwrap().path
}

fn write(path: &Path, offset: u64, data: &[u8]) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(data, offset).unwrap();
    file.sync_all().unwrap();
}

fn read(path: &Path, offset: u64, length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    File::open(path).unwrap().read_exact_at(&mut data, offset).unwrap();
    data
}

/// A pool whose template's root is full of ones.
fn pool() -> (TempDir, ImageDriver) {
    let dir = tempfile::tempdir().unwrap();
    let driver = driver(&dir.path().join("pool"));
    driver.setup().unwrap();
    let (id, spec) = template();
    driver.create(&id, &spec).unwrap();
    let path = start(&driver, &template());
    write(&path, 0, &vec![1; 32 << 20]);
    write(&path, 32 * MIB, &[1; 512]);
    driver.stop(&id, &spec, Ending::Ran).unwrap();
    (dir, driver)
}

struct New;

impl Fixture for New {
    fn new_pool(&self) -> Arc<dyn Driver> {
        Arc::new(driver(&tempfile::tempdir().unwrap().keep().join("pool")))
    }
}

#[test]
#[ignore = "needs device-mapper; run by cargo xtask test"]
fn file_with_snapshots_by_device_mapper_keeps_the_contract() {
    storage_contract(&New);
    // The contract leaves some volumes running.
    for device in devices() {
        crate::output("dmsetup", &["remove", "--retry", &device]);
    }
    assert_eq!(attached(), Vec::<String>::new());
}

#[test]
#[ignore = "needs device-mapper; run by cargo xtask test"]
fn a_start_takes_no_space_whatever_its_source_holds() {
    let (dir, driver) = pool();
    let (source, work) = (template(), root());
    let store = dir.path().join("pool/appvms/work/root-dirty-cow.img");
    let taken = || store.metadata().unwrap().blocks() * 512;
    let device = start(&driver, &work);
    assert_eq!((devices().len(), attached().len(), taken()), (1, 2, 0));
    assert_eq!(read(&device, 0, 512), [1; 512]);
    assert_eq!(read(&device, 32 * MIB, 512), [1; 512]);
    write(&device, 5 * CHUNK + 4096, &[2; 4096]);
    write(&device, 32 * MIB, &[2; 512]);
    assert!(taken() > 0 && taken() <= 4 * CHUNK, "{} bytes of store", taken());

    // The template runs, and is committed, meanwhile.
    let path = start(&driver, &source);
    write(&path, 0, &[3; 512]);
    driver.stop(&source.0, &source.1, Ending::Ran).unwrap();
    assert_eq!(driver.info(&work.0, &work.1).unwrap().outdated, Some(true));
    assert_eq!(read(&device, 0, 512), [1; 512]);
    assert_eq!(read(&device, 5 * CHUNK + 4096, 4096), vec![2; 4096]);
    assert_eq!(read(&device, 32 * MIB, 512), [2; 512]);
    driver.stop(&work.0, &work.1, Ending::Ran).unwrap();
    assert_eq!((devices(), attached()), (Vec::new(), Vec::new()));
    assert!(!store.exists());
    let device = start(&driver, &work);
    assert_eq!(read(&device, 0, 512), [3; 512]);
    driver.stop(&work.0, &work.1, Ending::Ran).unwrap();
}

#[test]
#[ignore = "needs device-mapper; run by cargo xtask test"]
fn what_somebody_has_open_is_stopped_when_he_closes_it() {
    let (_dir, driver) = pool();
    let work = root();
    let held = File::open(start(&driver, &work)).unwrap();
    let stop = std::thread::spawn(move || {
        let (id, spec) = root();
        driver.stop(&id, &spec, Ending::Ran).unwrap();
    });
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(devices().len(), 1);
    drop(held);
    stop.join().unwrap();
    assert_eq!((devices(), attached()), (Vec::new(), Vec::new()));
}

#[test]
#[ignore = "a process of the next test's own"]
fn child_of_the_test_of_kills() {
    let Ok(dir) = std::env::var("MGMT_TEST_DM_KILL") else {
        println!("skipped: it is run by a_process_that_is_killed_leaves_nothing_after_recovery");
        return;
    };
    let after: usize = std::env::var("MGMT_TEST_DM_AFTER").unwrap().parse().unwrap();
    let steps = AtomicUsize::new(0);
    let driver = driver(Path::new(&dir)).observed(move |step| {
        println!("{step:?}");
        if steps.fetch_add(1, Ordering::SeqCst) + 1 == after {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
        }
    });
    // The way is chosen at the set-up, which makes no step where all is there.
    driver.setup().unwrap();
    let (id, spec) = root();
    let device = start(&driver, &root());
    write(&device, 0, &[9; 4096]);
    driver.stop(&id, &spec, Ending::Ran).unwrap();
}

#[test]
#[ignore = "needs device-mapper; run by cargo xtask test"]
fn a_process_that_is_killed_leaves_nothing_after_recovery() {
    let (dir, before) = pool();
    let pool = dir.path().join("pool");
    for after in 1.. {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "snapshot::child_of_the_test_of_kills", "--ignored", "--nocapture"])
            .env("MGMT_TEST_DM_KILL", &pool)
            .env("MGMT_TEST_DM_AFTER", after.to_string())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&child.stdout).into_owned();
        let killed = std::os::unix::process::ExitStatusExt::signal(&child.status) == Some(9);
        assert!(killed || child.status.success(), "{text}{}", String::from_utf8_lossy(&child.stderr));
        let left = (devices().len(), attached().len());
        println!("killed after step {after}: {left:?}: {}", text.lines().last().unwrap_or_default());
        // A loop device without a device over it went with the process.
        assert!(left == (0, 0) || left == (1, 2), "{left:?}");
        let next = driver(&pool);
        next.setup().unwrap();
        let (id, spec) = root();
        next.recover(&id, &spec).unwrap();
        assert_eq!((devices(), attached()), (Vec::new(), Vec::new()));
        assert_eq!(std::fs::read_dir(pool.join("appvms/work")).map(Iterator::count).unwrap_or(0), 0);
        if !killed {
            assert!(after > 10, "only {after} steps");
            break;
        }
    }
    let (id, spec) = template();
    let export = before.export(&id, &spec).unwrap();
    let mut data = [0; 512];
    export.file().read_exact_at(&mut data, 0).unwrap();
    assert_eq!(data, [1; 512]);
}
