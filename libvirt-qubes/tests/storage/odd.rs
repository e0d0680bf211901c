//! What lies where images should and is none: links, FIFOs, devices, folders; and what it must not lead to.

use std::fs::File;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use libvirt_qubes::Kind;
use libvirt_qubes::config::Access;
use libvirt_qubes::ids::ByteSize;
use libvirt_qubes::storage::{
    Driver, Ending, ImageDriver, ImportSize, Job, Resize, Revisions, RevisionsToKeep, SetupCheck, Sharing,
    VolumeId, VolumeKind, VolumeSpec,
};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

fn spec() -> VolumeSpec {
    VolumeSpec {
        kind: VolumeKind::Origin,
        size: ByteSize::bytes(MIB),
        revisions_to_keep: RevisionsToKeep::try_from(2).unwrap(),
        access: Access::ReadWrite,
        sharing: Sharing::Source,
        ephemeral: false,
    }
}

fn id(text: &str) -> VolumeId {
    text.parse().unwrap()
}

/// A pool of each driver, with a volume of a VM `work` that has one revision, and another VM's.
fn pools() -> Vec<(TempDir, ImageDriver)> {
    let made = |driver: fn(&Path) -> ImageDriver| {
        let dir = tempfile::tempdir().unwrap();
        let driver = driver(&dir.path().join("pool"));
        driver.setup().unwrap();
        for volume in ["appvms/work/private", "appvms/other/private"] {
            driver.create(&id(volume), &spec()).unwrap();
            write(&driver, &id(volume));
        }
        (dir, driver)
    };
    // Where blocks cannot be shared the second copies data; what is no image is none all the same.
    let reflink = |dir: &Path| ImageDriver::reflink(dir, SetupCheck::Skip).unwrap();
    vec![made(|dir| ImageDriver::file(dir).unwrap()), made(reflink)]
}

fn write(driver: &ImageDriver, id: &VolumeId) {
    let path = driver.start(id, &spec(), &mut || {}, &Job::default()).unwrap().unwrap().path;
    File::options().write(true).open(path).unwrap().write_all_at(b"own", 0).unwrap();
    driver.stop(id, &spec(), Ending::Ran).unwrap();
}

/// Everything that the driver does with a volume but for its removal.
fn all(driver: &ImageDriver, id: &VolumeId) -> Vec<(&'static str, libvirt_qubes::error::Result<()>)> {
    let (spec, job) = (spec(), Job::default());
    let revision = "1".parse().unwrap();
    vec![
        ("info", driver.info(id, &spec).map(drop)),
        ("verify", driver.verify(id, &spec)),
        ("vacant", driver.vacant(id)),
        ("start", driver.start(id, &spec, &mut || {}, &job).map(drop)),
        ("stop", driver.stop(id, &spec, Ending::Ran)),
        ("recover", driver.recover(id, &spec).map(drop)),
        ("resize", driver.resize(id, &spec, ByteSize::bytes(2 * MIB))),
        ("keep", driver.keep(id, &spec, 1, &job).map(drop)),
        ("revert", driver.revert(id, &spec, &revision, &job)),
        ("revisions", driver.revisions(id).map(drop)),
        ("import", driver.begin_import(id, &spec, ImportSize::AsItComes).map(drop)),
        ("export", driver.export(id, &spec).map(drop)),
    ]
}

fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.symlink_metadata().unwrap().is_dir() {
            found.extend(tree(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

/// Puts something at a path.
type Put<'a> = Box<dyn Fn(&Path) + 'a>;

#[test]
fn what_is_no_image_is_neither_read_nor_written_nor_waited_for() {
    for (dir, driver) in pools() {
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("victim"), "somebody's").unwrap();
        let work = id("appvms/work/private");
        let mut kinds: Vec<(&str, Put)> = vec![
            ("link", Box::new(|to: &Path| symlink(at("victim"), to).unwrap())),
            ("dangling link", Box::new(|to: &Path| symlink(at("nobody"), to).unwrap())),
            (
                "FIFO",
                Box::new(|to: &Path| mknodat(CWD, to, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap()),
            ),
            ("folder", Box::new(|to: &Path| std::fs::create_dir(to).unwrap())),
        ];
        if rustix::process::geteuid().is_root() {
            let zero = |to: &Path| {
                mknodat(CWD, to, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, makedev(1, 5)).unwrap();
            };
            kinds.push(("device", Box::new(zero)));
        }
        for name in ["private.img", "private-dirty.img"] {
            let image = at("pool/appvms/work").join(name);
            let own = image.with_extension("saved");
            let was_there = std::fs::rename(&image, &own).is_ok();
            for (kind, put) in &kinds {
                put(&image);
                let before = tree(dir.path());
                // What was committed is not what runs.
                let is_meant = |operation: &str| operation != "export" || name == "private.img";
                for (operation, result) in all(&driver, &work).into_iter().filter(|(name, _)| is_meant(name))
                {
                    let what = format!("{}: {operation} with a {kind} as {name}", driver.name());
                    let error = result.expect_err(&what);
                    assert_eq!(error.kind(), Kind::Corrupt, "{what}: {}", error.report());
                    assert!(error.report().contains(name), "{what}: {}", error.report());
                }
                assert_eq!(tree(dir.path()), before, "{kind}");
                assert_eq!(std::fs::read(at("victim")).unwrap(), b"somebody's", "{kind}");
                assert!(!at("nobody").exists());
                // The other VM's volume is as it was.
                write(&driver, &id("appvms/other/private"));
                if image.is_dir() { std::fs::remove_dir(&image) } else { std::fs::remove_file(&image) }
                    .unwrap();
            }
            if was_there {
                std::fs::rename(&own, &image).unwrap();
            }
        }
        write(&driver, &work);
        // A removal takes the link, and not what it leads to.
        let image = at("pool/appvms/work/private.img");
        std::fs::remove_file(&image).unwrap();
        symlink(at("victim"), &image).unwrap();
        driver.remove(&work).unwrap();
        assert!(at("victim").exists() && !at("pool/appvms/work").exists());
    }
}

#[test]
fn a_folder_that_is_a_link_is_not_followed() {
    for (dir, driver) in pools() {
        let at = |name: &str| dir.path().join(name);
        for folder in ["pool/appvms/work", "pool/appvms"] {
            std::fs::rename(at(folder), at("elsewhere")).unwrap();
            symlink(at("elsewhere"), at(folder)).unwrap();
            let before = tree(&at("elsewhere"));
            let operations = all(&driver, &id("appvms/work/private")).into_iter().chain([
                ("create", driver.create(&id("appvms/work/other"), &spec())),
                ("remove", driver.remove(&id("appvms/work/private"))),
            ]);
            for (operation, result) in operations {
                let error = result.expect_err(operation);
                assert_eq!(error.kind(), Kind::Corrupt, "{operation}: {}", error.report());
            }
            assert_eq!(tree(&at("elsewhere")), before);
            std::fs::remove_file(at(folder)).unwrap();
            std::fs::rename(at("elsewhere"), at(folder)).unwrap();
        }
        write(&driver, &id("appvms/work/private"));
    }
}

#[test]
fn an_import_is_what_came_and_not_what_somebody_put_in_its_place() {
    for (dir, driver) in pools() {
        let work = id("appvms/work/private");
        let image = dir.path().join("pool/appvms/work/private-import.img");
        for put in [
            |to: &Path| symlink("/etc/hostname", to).unwrap(),
            |to: &Path| std::fs::write(to, [7; 512]).unwrap(),
        ] {
            let mut import = driver.begin_import(&work, &spec(), ImportSize::AsItComes).unwrap();
            import.write(&[1; 512]).unwrap();
            std::fs::remove_file(&image).unwrap();
            put(&image);
            let error = import.finish().unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt, "{}", error.report());
            assert!(!image.exists());
            let mut data = [0; 3];
            driver.export(&work, &spec()).unwrap().file().read_exact_at(&mut data, 0).unwrap();
            assert_eq!(&data, b"own");
        }
    }
}
