//! A pool as the deployed drivers leave it, made by hand, is taken over where it lies: listed, recovered, started, stopped and
//! reverted. What is no volume's stays.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libvirt_qubes::ids::ByteSize;
use libvirt_qubes::storage::{
    Driver, Ending, ImageDriver, Job, Recovered, Revisions, RevisionsToKeep, SetupCheck, Sharing, VolumeId,
    VolumeKind, VolumeSpec,
};

use crate::filesystem::{Mkfs, Mounted};
use crate::images::{dateless, names, spec};

const BYTES: usize = 64 * 1024;

/// A folder that somebody else has filled.
struct Found {
    root: PathBuf,
}

impl Found {
    fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// An image, as old as the seconds say, of this byte alone.
    fn image(&self, name: &str, content: u8, time: u64) {
        std::fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        let file = File::create_new(self.at(name)).unwrap();
        file.write_all_at(&[content; BYTES], 0).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::new(time, 123_456_789)).unwrap();
    }

    /// As the deployed driver copies, times included.
    fn copy(&self, from: &str, to: &str) {
        let mut copy = Command::new("cp");
        let copied = copy
            .args(["--reflink=auto", "--preserve=timestamps"])
            .arg(self.at(from))
            .arg(self.at(to))
            .status();
        assert!(copied.unwrap().success());
    }

    fn foreign(&self, name: &str) {
        std::fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        std::fs::write(self.at(name), "somebody's").unwrap();
    }

    fn inode(&self, name: &str) -> u64 {
        std::fs::metadata(self.at(name)).unwrap().ino()
    }
}

fn id(text: &str) -> VolumeId {
    text.parse().unwrap()
}

fn origin(keep: i64) -> VolumeSpec {
    VolumeSpec { size: ByteSize::bytes(BYTES as u64), ..spec(keep, Sharing::Source) }
}

fn start(driver: &ImageDriver, id: &VolumeId, spec: &VolumeSpec) -> PathBuf {
    driver.start(id, spec, &mut || {}, &Job::default()).unwrap().unwrap().path
}

fn first(path: &Path) -> u8 {
    let mut byte = [0];
    File::open(path).unwrap().read_exact_at(&mut byte, 0).unwrap();
    byte[0]
}

fn write(path: &Path, content: u8) {
    File::options().write(true).open(path).unwrap().write_all_at(&[content; BYTES], 0).unwrap();
}

fn committed(driver: &ImageDriver, id: &VolumeId, spec: &VolumeSpec) -> u8 {
    let mut byte = [0];
    driver.export(id, spec).unwrap().file().read_exact_at(&mut byte, 0).unwrap();
    byte[0]
}

fn revisions(driver: &ImageDriver, id: &VolumeId) -> Vec<(String, i64)> {
    let listed = driver.revisions(id).unwrap();
    listed.into_iter().map(|revision| (revision.id.to_string(), revision.committed_at)).collect()
}

/// 2024-02-29T12:00:00Z.
const LEAP_DAY: u64 = 1_709_208_000;

#[test]
fn a_pool_of_the_deployed_file_reflink_is_taken_over_in_place() {
    let test = "a_pool_of_the_deployed_file_reflink_is_taken_over_in_place";
    let Some(xfs) = Mounted::new(Mkfs::Xfs, 512 << 20, test) else { return };
    let pool = Found { root: xfs.path().join("pool") };
    // A template at rest, with two revisions: the ninth and the tenth.
    pool.image("vm-templates/base/root.img", b'c', LEAP_DAY + 200);
    pool.copy("vm-templates/base/root.img", "vm-templates/base/root-precache.img");
    pool.image("vm-templates/base/root.img.9@2024-02-29T12:00:00Z", b'a', LEAP_DAY);
    pool.image("vm-templates/base/root.img.10@2024-02-29T12:01:40Z", b'b', LEAP_DAY + 100);
    // An AppVM that ran when the power failed, in the middle of other things.
    pool.image("appvms/work/private.img", b'p', LEAP_DAY);
    pool.image("appvms/work/private-dirty.img", b'q', LEAP_DAY + 50);
    pool.image("appvms/work/private.img.1@2024-02-29T12:00:00Z~k3_x9Zab", b'?', LEAP_DAY);
    pool.image("appvms/work/private-import.img", b'?', LEAP_DAY);
    std::fs::hard_link(pool.at("vm-templates/base/root.img"), pool.at("appvms/work/root.img")).unwrap();
    pool.image("appvms/work/root-dirty.img", b'?', LEAP_DAY);
    pool.image("appvms/work/volatile-dirty.img", b'?', LEAP_DAY);
    // One whose snapshots are disabled, and that ran then.
    pool.image("appvms/direct/private-dirty.img", b'd', LEAP_DAY);
    let foreign = [
        "appvms/work/firewall.xml",
        "appvms/work/private.img.bak",
        "appvms/work/private.img.2",
        "vm-templates/base/apps.templates/editor.desktop",
        "appvms/.trash/private.img",
        "qubes.xml",
    ];
    for name in foreign {
        pool.foreign(name);
    }

    let driver = ImageDriver::reflink(&pool.root, SetupCheck::Probe).unwrap();
    driver.setup().unwrap();
    let (root, private, direct) =
        (id("vm-templates/base/root"), id("appvms/work/private"), id("appvms/direct/private"));
    let (own, volatile) = (id("appvms/work/root"), id("appvms/work/volatile"));
    let spec = origin(2);
    let snapshot = VolumeSpec { kind: VolumeKind::Snapshot { source: root.clone() }, ..spec.clone() };
    let empty = VolumeSpec { kind: VolumeKind::Volatile, ..spec.clone() };
    let disabled = VolumeSpec { revisions_to_keep: RevisionsToKeep::Disabled, ..spec.clone() };

    let contents = driver.contents().unwrap();
    let mut volumes = vec![root.clone(), private.clone(), direct.clone(), own.clone(), volatile.clone()];
    volumes.sort();
    assert_eq!(contents.volumes, volumes);
    let mut unknown: Vec<_> = foreign[..3].iter().map(|name| pool.at(name)).collect();
    unknown.extend([pool.at("vm-templates/base/apps.templates"), pool.at("appvms/.trash")]);
    unknown.sort();
    assert_eq!(contents.unknown, unknown);

    let leap_day = i64::try_from(LEAP_DAY).unwrap();
    assert_eq!(revisions(&driver, &root), [("9".to_owned(), leap_day), ("10".to_owned(), leap_day + 100)]);
    assert!(driver.info(&private, &spec).unwrap().dirty);
    for (id, spec, found) in [
        (&root, &spec, Recovered::Clean),
        (&private, &spec, Recovered::Committed),
        (&own, &snapshot, Recovered::Dropped),
        (&volatile, &empty, Recovered::Dropped),
        (&direct, &disabled, Recovered::Committed),
    ] {
        assert_eq!(driver.recover(id, spec).unwrap(), found, "{id}");
        driver.verify(id, spec).unwrap();
    }
    assert_eq!(committed(&driver, &private, &spec), b'q');
    assert_eq!(revisions(&driver, &private), [("1".to_owned(), leap_day)]);
    assert_eq!(committed(&driver, &direct, &disabled), b'd');
    assert_eq!(names(&pool.at("appvms/direct")), ["private.img"]);
    assert_eq!(
        dateless(&pool.at("appvms/work")),
        ["firewall.xml", "private.img", "private.img.1@DATE", "private.img.2", "private.img.bak"]
    );

    // The copy that the deployed driver prepared is the one that the start takes.
    let prepared = pool.inode("vm-templates/base/root-precache.img");
    let path = start(&driver, &root, &spec);
    assert_eq!(path, pool.at("vm-templates/base/root-dirty.img"));
    assert_eq!(pool.inode("vm-templates/base/root-dirty.img"), prepared);
    assert_eq!(first(&start(&driver, &own, &snapshot)), b'c');
    write(&path, b'e');
    driver.stop(&root, &spec, Ending::Ran).unwrap();
    assert_eq!(driver.info(&own, &snapshot).unwrap().outdated, Some(true));
    let ids = |id| revisions(&driver, id).into_iter().map(|(id, _)| id).collect::<Vec<_>>();
    assert_eq!(ids(&root), ["10", "11"], "numbers go on, and the oldest goes");
    assert_eq!(committed(&driver, &root, &spec), b'e');
    driver.revert(&root, &spec, &"10".parse().unwrap(), &Job::default()).unwrap();
    assert_eq!(committed(&driver, &root, &spec), b'b');
    assert_eq!(ids(&root), ["11", "12"]);
    driver.stop(&own, &snapshot, Ending::Ran).unwrap();
    assert_eq!(first(&start(&driver, &own, &snapshot)), b'b');

    for id in [&root, &private, &direct, &own, &volatile] {
        driver.remove(id).unwrap();
    }
    for name in foreign {
        assert_eq!(std::fs::read_to_string(pool.at(name)).unwrap(), "somebody's", "{name}");
    }
    assert_eq!(names(&pool.at("appvms")), [".trash", "work"]);
    assert_eq!(driver.contents().unwrap().volumes, []);
}

#[test]
fn a_prepared_copy_of_another_state_is_not_taken_over() {
    let test = "a_prepared_copy_of_another_state_is_not_taken_over";
    let Some(xfs) = Mounted::new(Mkfs::Xfs, 512 << 20, test) else { return };
    let pool = Found { root: xfs.path().join("pool") };
    pool.image("appvms/work/private.img", b'p', LEAP_DAY);
    pool.image("appvms/work/private-precache.img", b'o', LEAP_DAY + 1);
    let driver = ImageDriver::reflink(&pool.root, SetupCheck::Probe).unwrap();
    driver.setup().unwrap();
    assert_eq!(first(&start(&driver, &id("appvms/work/private"), &origin(1))), b'p');
    assert_eq!(names(&pool.at("appvms/work")), ["private-dirty.img", "private.img"]);
}

#[test]
fn of_a_pool_of_the_deployed_file_the_images_are_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let pool = Found { root: dir.path().join("pool") };
    pool.image("vm-templates/base/root.img", b'r', LEAP_DAY);
    pool.image("appvms/work/private.img", b'p', LEAP_DAY);
    pool.image("appvms/work/private-import.img", b'?', LEAP_DAY);
    // Stores of its dm-snapshots: they mean nothing without it, and are for a person to look at.
    let stores =
        ["vm-templates/base/root-cow.img", "appvms/work/private-cow.img", "appvms/work/private-cow.img.old"];
    for name in stores {
        pool.foreign(name);
    }
    let driver = ImageDriver::file(&pool.root).unwrap();
    driver.setup().unwrap();
    let (root, private, own) =
        (id("vm-templates/base/root"), id("appvms/work/private"), id("appvms/work/root"));
    let spec = origin(1);
    let snapshot = VolumeSpec { kind: VolumeKind::Snapshot { source: root.clone() }, ..spec.clone() };
    let contents = driver.contents().unwrap();
    assert_eq!(contents.volumes, [private.clone(), root.clone()]);
    let mut unknown: Vec<_> = stores.iter().map(|name| pool.at(name)).collect();
    unknown.sort();
    assert_eq!(contents.unknown, unknown);
    for (id, spec) in [(&root, &spec), (&private, &spec), (&own, &snapshot)] {
        assert_eq!(driver.recover(id, spec).unwrap(), Recovered::Clean);
        driver.verify(id, spec).unwrap();
        assert_eq!(driver.revisions(id).unwrap(), []);
    }
    assert_eq!(first(&start(&driver, &own, &snapshot)), b'r');
    let path = start(&driver, &private, &spec);
    assert_eq!(first(&path), b'p');
    write(&path, b'q');
    driver.stop(&private, &spec, Ending::Ran).unwrap();
    driver.stop(&own, &snapshot, Ending::Ran).unwrap();
    let [former] = &driver.revisions(&private).unwrap()[..] else { panic!("not one revision") };
    assert_eq!(UNIX_EPOCH + Duration::from_secs(former.committed_at.unsigned_abs()), leap_day());
    driver.revert(&private, &spec, &former.id, &Job::default()).unwrap();
    assert_eq!(committed(&driver, &private, &spec), b'p');
    for id in [&root, &private, &own] {
        driver.remove(id).unwrap();
    }
    for name in stores {
        assert_eq!(std::fs::read_to_string(pool.at(name)).unwrap(), "somebody's", "{name}");
    }
}

fn leap_day() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(LEAP_DAY)
}
