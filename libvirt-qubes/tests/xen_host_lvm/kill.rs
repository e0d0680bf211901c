//! A process that is really killed in the middle of each transition.
//!
//! The test starts itself again as a child, which kills itself when it has had LVM execute so many changes; then a new
//! process's driver recovers.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use libvirt_qubes::storage::lvm::{Failed, Lv, LvName, LvOp, Lvm, Runner};
use libvirt_qubes::storage::{
    Driver, Ending, ImportSize, Job, LvmDriver, Revisions, Tuning, VolumeId, VolumeKind, VolumeSpec,
};

use crate::{disk, id, spec};

/// What the child does with one volume, in this order; what it kills itself after; what the committed state may hold then.
const TRANSITIONS: &[(&str, usize, &[u8])] = &[
    ("start", 1, &[2]),
    ("keep", 1, &[2]),
    ("resize", 1, &[2]),
    ("import", 1, &[2]),
    ("import", 2, &[2, 5]),
    ("stop", 1, &[6]),
    ("stop", 2, &[7]),
    ("start of a snapshot", 1, &[7]),
    ("clone", 1, &[7]),
    ("revert", 1, &[7, 6]),
    ("remove", 1, &[]),
    ("create", 1, &[0]),
];

const ROOT: &str = "appvms/work/root";
const CLONE: &str = "appvms/clone/private";

/// A snapshot of the volume.
fn snapshot() -> VolumeSpec {
    VolumeSpec { kind: VolumeKind::Snapshot { source: id("appvms/work/private") }, ..spec(0) }
}

#[derive(Debug)]
struct Deadly {
    lvm: Lvm,
    left: AtomicUsize,
}

impl Runner for Deadly {
    fn run(&self, op: &LvOp) -> Result<Vec<Lv>, Failed> {
        let done = self.lvm.run(op);
        if !op.is_report() && self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
        }
        done
    }

    fn device(&self, lv: &LvName) -> PathBuf {
        self.lvm.device(lv)
    }
}

/// The first byte of the committed state.
fn first_byte(driver: &LvmDriver, volume: &VolumeId) -> u8 {
    let export = driver.export(volume, &spec(2)).unwrap();
    let mut byte = [0];
    export.file().read_exact_at(&mut byte, 0).unwrap();
    byte[0]
}

fn write(path: &std::path::Path, byte: u8) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&[byte; 4096], 0).unwrap();
    file.sync_all().unwrap();
}

fn run(driver: &LvmDriver, byte: u8) {
    let volume = id("appvms/work/private");
    let started = driver.start(&volume, &spec(2), &mut || {}, &Job::default()).unwrap().unwrap();
    write(&started.path, byte);
    driver.stop(&volume, &spec(2), Ending::Ran).unwrap();
}

fn act(driver: &LvmDriver, what: &str) {
    let (volume, spec) = (id("appvms/work/private"), spec(2));
    match what {
        "create" => driver.create(&volume, &spec).unwrap(),
        "start" => drop(driver.start(&volume, &spec, &mut || {}, &Job::default()).unwrap()),
        "stop" => driver.stop(&volume, &spec, Ending::Ran).unwrap(),
        "import" => {
            let mut import = driver.begin_import(&volume, &spec, ImportSize::AsItComes).unwrap();
            import.write(&[5; 4 << 20]).unwrap();
            import.finish().unwrap();
        }
        "revert" => {
            let newest = driver.revisions(&volume).unwrap().pop().unwrap();
            driver.revert(&volume, &spec, &newest.id, &Job::default()).unwrap();
        }
        "keep" => drop(driver.keep(&volume, &spec, 1, &Job::default()).unwrap()),
        "resize" => {
            let size = libvirt_qubes::ids::ByteSize::bytes(8 << 20);
            driver.as_resize().unwrap().resize(&volume, &spec, size).unwrap();
        }
        "start of a snapshot" => {
            drop(driver.start(&id(ROOT), &snapshot(), &mut || {}, &Job::default()).unwrap());
        }
        "clone" => {
            let source = driver.export(&volume, &spec).unwrap();
            driver.import_from(&id(CLONE), &spec, &source, &Job::default()).unwrap();
        }
        "remove" => driver.remove(&volume).unwrap(),
        other => panic!("{other}"),
    }
}

#[test]
#[ignore = "a process of the next test's own"]
fn child_of_the_test_of_kills() {
    let Ok(words) = std::env::var("MGMT_TEST_LVM_KILL") else {
        println!("skipped: it is run by a_killed_process_loses_nothing");
        return;
    };
    let mut words = words.split(' ');
    let mut word = || words.next().unwrap();
    let pool = LvName::new(word().parse().unwrap(), word()).unwrap();
    let left = word().parse().unwrap();
    let what = words.collect::<Vec<_>>().join(" ");
    let runner = Deadly { lvm: Lvm::new(Tuning::default().command_limit), left: AtomicUsize::new(left) };
    let driver = LvmDriver::with_runner(pool, Tuning::default(), Arc::new(runner));
    driver.setup().unwrap();
    act(&driver, &what);
    panic!("{what} ended with fewer than {left} changes");
}

#[test]
#[ignore = "needs the testbed's disk; run by cargo xtask test"]
fn a_killed_process_loses_nothing() {
    let disk = disk();
    let pool = disk.make(256, &[]);
    let (volume, spec) = (id("appvms/work/private"), spec(2));
    // One process of LVM's for all that this process asks.
    let lvm = Arc::new(Lvm::new(Tuning::default().command_limit));
    let new_driver = || {
        let driver =
            LvmDriver::with_runner(pool.clone(), Tuning::default(), Arc::clone(&lvm) as Arc<dyn Runner>);
        driver.setup().unwrap();
        driver
    };
    let lvs = || -> Vec<String> {
        let lvs = lvm.run(&LvOp::All(pool.vg().clone())).unwrap();
        lvs.into_iter().map(|lv| lv.name).filter(|name| name != pool.lv()).collect()
    };
    let mut driver = new_driver();
    driver.create(&volume, &spec).unwrap();
    run(&driver, 1);
    run(&driver, 2);
    for (what, after, wanted) in TRANSITIONS {
        if let ("stop", [written]) = (*what, wanted) {
            let started = driver.start(&volume, &spec, &mut || {}, &Job::default()).unwrap().unwrap();
            write(&started.path, *written);
        }
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child_of_the_test_of_kills", "--ignored", "--nocapture"])
            .env("MGMT_TEST_LVM_KILL", format!("{} {} {after} {what}", pool.vg(), pool.lv()))
            .output()
            .unwrap();
        let killed = std::os::unix::process::ExitStatusExt::signal(&child.status) == Some(9);
        assert!(
            killed,
            "{what} {after}: {}{}",
            String::from_utf8_lossy(&child.stdout),
            String::from_utf8_lossy(&child.stderr)
        );

        driver = new_driver();
        driver.recover(&volume, &spec).unwrap();
        match *what {
            "start of a snapshot" => drop(driver.recover(&id(ROOT), &snapshot()).unwrap()),
            "clone" => {
                driver.recover(&id(CLONE), &spec).unwrap();
                assert!(wanted.contains(&first_byte(&driver, &id(CLONE))), "{what} {after}");
                driver.remove(&id(CLONE)).unwrap();
            }
            _ => {}
        }
        let left = lvs();
        let unfinished = |lv: &String| lv.ends_with("-snap") || lv.ends_with("-import");
        assert!(!left.iter().any(unfinished), "{what} {after}: {left:?}");
        if wanted.is_empty() {
            driver.remove(&volume).unwrap();
            assert_eq!(lvs(), Vec::<String>::new(), "{what} {after}");
        } else {
            let byte = first_byte(&driver, &volume);
            assert!(wanted.contains(&byte), "{what} {after}: {byte}");
        }
        println!("{what}, killed after change {after}: ok");
    }
    driver.remove(&volume).unwrap();
    assert_eq!(lvs(), Vec::<String>::new());
}
