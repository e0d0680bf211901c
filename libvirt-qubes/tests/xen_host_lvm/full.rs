//! A thin pool that is really full.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

use libvirt_qubes::Kind;
use libvirt_qubes::storage::{Driver, Ending, ImportSize, Job, LvmDriver, Revisions, Tuning};

use crate::thin_pool::run;
use crate::{MIB, disk, id, spec};

fn at_once() -> Tuning {
    Tuning { refresh: Duration::ZERO, ..Tuning::default() }
}

#[test]
#[ignore = "needs the testbed's disk; run by cargo xtask test"]
fn at_the_last_block_of_data_reverts_commits_and_removals_work() {
    let disk = disk();
    let driver = LvmDriver::new(disk.make(32, &[]), at_once());
    // A write that finds no room fails after a second instead of a minute.
    std::fs::write("/sys/module/dm_thin_pool/parameters/no_space_timeout", "1").unwrap();
    driver.setup().unwrap();
    let (volume, hog) = (id("appvms/work/private"), id("appvms/hog/private"));
    let spec = spec(2);
    driver.create(&volume, &spec).unwrap();
    for byte in [1, 2] {
        let started = driver.start(&volume, &spec, &mut || {}, &Job::default()).unwrap().unwrap();
        let file = File::options().write(true).open(started.path).unwrap();
        file.write_all_at(&[byte; 4096], 0).unwrap();
        file.sync_all().unwrap();
        driver.stop(&volume, &spec, Ending::Ran).unwrap();
    }
    driver.keep(&volume, &spec, 1, &Job::default()).unwrap();
    let large = libvirt_qubes::storage::VolumeSpec {
        size: libvirt_qubes::ids::ByteSize::bytes(64 * MIB),
        ..spec.clone()
    };
    driver.create(&hog, &large).unwrap();
    let started = driver.start(&hog, &large, &mut || {}, &Job::default()).unwrap().unwrap();
    let file = File::options().write(true).open(&started.path).unwrap();
    let filled = (0..64).map(|n| file.write_all_at(&[7; 1 << 20], n * MIB).and_then(|()| file.sync_all()));
    assert!(filled.into_iter().any(|written| written.is_err()), "64 MiB went into 32");
    drop(file);
    let usage = driver.usage().unwrap().unwrap();
    assert_eq!(usage.usage, usage.size, "the pool is full");

    let refused = driver.begin_import(&volume, &spec, ImportSize::AsItComes).err().unwrap();
    assert_eq!(refused.kind(), Kind::NoSpace, "{}", refused.report());
    let first_byte = || {
        let export = driver.export(&volume, &spec).unwrap();
        let mut byte = [0];
        export.file().read_exact_at(&mut byte, 0).unwrap();
        byte[0]
    };
    // The second oldest is the state after the first run.
    let older = driver.revisions(&volume).unwrap().remove(1);
    driver.revert(&volume, &spec, &older.id, &Job::default()).unwrap();
    assert_eq!(first_byte(), 1);
    // An explicit snapshot is not used up: it becomes a new LV, which LVM makes none of in a pool that is full.
    let refused = driver.revert(&volume, &spec, &"s1".parse().unwrap(), &Job::default()).unwrap_err();
    assert_eq!(refused.kind(), Kind::NoSpace, "{}", refused.report());
    assert!(refused.report().contains("lvextend --size"), "{}", refused.report());
    assert_eq!(first_byte(), 1, "nothing has changed");
    // Its data could not all be written: what was is committed, or stays dirty and is removed.
    if let Err(e) = driver.stop(&hog, &large, Ending::Ran) {
        eprintln!("the full volume's stop: {}", e.report());
    }
    driver.remove(&hog).unwrap();
    let usage = driver.usage().unwrap().unwrap();
    assert!(usage.usage.get() < usage.size.get() / 4, "{usage:?}");
    driver.begin_import(&volume, &spec, ImportSize::AsItComes).unwrap().abort().unwrap();
    driver.remove(&volume).unwrap();
}

#[test]
#[ignore = "needs the testbed's disk; run by cargo xtask test"]
fn metadata_is_kept_from_its_end_and_removals_work_there() {
    let disk = disk();
    let pool = disk.make(1600, &["--chunksize=64k", "--zero=n"]);
    let percent = |driver: &LvmDriver| {
        let (size, used) = driver.usage().unwrap().unwrap().metadata.unwrap();
        used.get() * 100 / size.get()
    };
    // An empty pool uses a tenth of so little metadata. A watermark as near as can be, since what was refused is taken again 5 percent
    // below: each percent takes some 2,400 blocks.
    let mark = percent(&LvmDriver::new(pool.clone(), at_once())) + 8;
    let tuning = Tuning { near_full_percent: u8::try_from(mark).unwrap(), ..at_once() };
    let driver = LvmDriver::new(pool, tuning);
    driver.setup().unwrap();
    let (volume, hog) = (id("appvms/work/private"), id("appvms/hog/private"));
    driver.create(&volume, &spec(2)).unwrap();
    let large = libvirt_qubes::storage::VolumeSpec {
        size: libvirt_qubes::ids::ByteSize::bytes(2048 * MIB),
        ..spec(2)
    };
    driver.create(&hog, &large).unwrap();
    let started = driver.start(&hog, &large, &mut || {}, &Job::default()).unwrap().unwrap();
    let file = File::options().write(true).open(&started.path).unwrap();
    // A block here and there: each costs metadata, and little data.
    let mut written = 0;
    while percent(&driver) <= mark {
        for _ in 0..2048 {
            file.write_all_at(&[1; 4096], written * 65536).unwrap();
            written += 1;
        }
        file.sync_all().unwrap();
        assert!(written < 24_000, "{} % after {written} blocks", percent(&driver));
    }
    drop(file);
    for refused in [
        driver.start(&volume, &spec(2), &mut || {}, &Job::default()).map(drop),
        driver.create(&id("appvms/new/private"), &spec(2)),
        driver.keep(&volume, &spec(2), 1, &Job::default()).map(drop),
    ] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), Kind::NoSpace, "{}", refused.report());
        assert!(refused.report().contains("lvextend --poolmetadatasize"), "{}", refused.report());
    }
    driver.stop(&hog, &large, Ending::Ran).unwrap();
    driver.remove(&hog).unwrap();
    driver.start(&volume, &spec(2), &mut || {}, &Job::default()).unwrap();
    driver.remove(&volume).unwrap();
}

/// A pool whose kernel takes no change any more, by what a VM writes after all that makes LVs.
#[test]
#[ignore = "needs the testbed's disk; run by cargo xtask test"]
fn at_the_last_block_of_metadata_the_errors_say_what_helps_and_then_all_goes_on() {
    /// A leaf of the tree of a volume's blocks has at most so many.
    const LEAF: u64 = 252;
    const LEAVES: u64 = 44;
    let disk = disk();
    let pool = disk.make(800, &["--chunksize=64k", "--zero=n"]);
    let tuning = Tuning { near_full_percent: 100, ..at_once() };
    let driver = LvmDriver::new(pool.clone(), tuning);
    driver.setup().unwrap();
    let percent = || {
        let (size, used) = driver.usage().unwrap().unwrap().metadata.unwrap();
        used.get() * 100 / size.get()
    };
    let (volume, hog) = (id("appvms/work/private"), id("appvms/hog/private"));
    driver.create(&volume, &spec(1)).unwrap();
    for byte in [1, 2] {
        let started = driver.start(&volume, &spec(1), &mut || {}, &Job::default()).unwrap().unwrap();
        let file = File::options().write(true).open(started.path).unwrap();
        file.write_all_at(&[byte; 4096], 0).unwrap();
        file.sync_all().unwrap();
        drop(file);
        driver.stop(&volume, &spec(1), Ending::Ran).unwrap();
    }
    let large = libvirt_qubes::storage::VolumeSpec {
        size: libvirt_qubes::ids::ByteSize::bytes(LEAVES * LEAF * 65536),
        ..spec(1)
    };
    driver.create(&hog, &large).unwrap();
    let write = |lv: &str, mut blocks: Box<dyn Iterator<Item = u64>>| -> std::io::Result<()> {
        let file = File::options().write(true).open(format!("/dev/{}/{lv}", pool.vg()))?;
        blocks.try_for_each(|block| file.write_all_at(&[3; 4096], block * 65536))?;
        file.sync_all()
    };
    write("vm-hog-private", Box::new(0..LEAVES * LEAF)).unwrap();
    // States that share all of it: each write to one copies a leaf, some 46 of the metadata's 1024 blocks a state.
    let states = 22;
    for number in 1..=states {
        driver.keep(&hog, &large, number, &Job::default()).unwrap();
    }
    println!("metadata is {} % full with {states} states", percent());
    let full = (1..=states).find_map(|number| {
        let written =
            write(&format!("vm-hog-private-s{number}-keep"), Box::new((0..LEAVES).map(|leaf| leaf * LEAF)));
        written.err()
    });
    println!("metadata is {} % full: {full:?}", percent());
    assert!(full.is_some(), "the metadata is not full");

    let told = |what: &str, done: libvirt_qubes::Result<()>| match done {
        Ok(()) => println!("{what}: done"),
        Err(e) => {
            println!("{what}: {}", e.report());
            assert_eq!(e.kind(), Kind::NoSpace, "{what}: {}", e.report());
            assert!(e.report().contains("lvextend --poolmetadatasize"), "{what}: {}", e.report());
        }
    };
    let newest = driver.revisions(&volume).unwrap().pop().unwrap();
    told("revert", driver.revert(&volume, &spec(1), &newest.id, &Job::default()));
    told("create", driver.create(&id("appvms/new/private"), &spec(1)));
    told("start", driver.start(&volume, &spec(1), &mut || {}, &Job::default()).map(drop));
    told("keep", driver.keep(&volume, &spec(1), 1, &Job::default()).map(drop));
    told("forget", driver.forget(&hog, &"s1".parse().unwrap()));
    told("remove", driver.remove(&hog));

    run(Command::new("lvm").args(["lvextend", "--poolmetadatasize=+4M", &pool.to_string()])).unwrap();
    println!("metadata is {} % full", percent());
    driver.remove(&hog).unwrap();
    driver.recover(&volume, &spec(1)).unwrap();
    let export = driver.export(&volume, &spec(1)).unwrap();
    let mut byte = [0];
    export.file().read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(byte, [1]);
    drop(export);
    let started = driver.start(&volume, &spec(1), &mut || {}, &Job::default()).unwrap().unwrap();
    File::options().write(true).open(started.path).unwrap().write_all_at(&[4; 4096], 0).unwrap();
    driver.stop(&volume, &spec(1), Ending::Ran).unwrap();
    driver.remove(&volume).unwrap();
    driver.remove(&id("appvms/new/private")).unwrap();
    assert_eq!(disk.lvs(), [pool.lv()]);
}
