//! Real loop devices.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::PathBuf;

use common::{loop_devices_usable, none_left};
use mgmt_block::{Access, Attach, BufferedIo, FileId, Lifetime, LoopDevice, Reference, find};

const MIB: u64 = 1 << 20;

struct Image {
    _dir: tempfile::TempDir,
    path: PathBuf,
    file: File,
}

fn image(size: u64) -> Image {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(size).unwrap();
    Image { _dir: dir, path, file }
}

fn attach(image: &Image, access: Access, reference: &str) -> LoopDevice {
    let how = Attach {
        access,
        io: BufferedIo::Buffered,
        reference: Reference::new(reference).unwrap(),
        lifetime: Lifetime::Kept,
    };
    LoopDevice::attach(&image.file, &how).unwrap()
}

fn capacity(device: &LoopDevice) -> u64 {
    let name = device.path().file_name().unwrap().to_str().unwrap().to_owned();
    let sectors = std::fs::read_to_string(format!("/sys/block/{name}/size")).unwrap();
    sectors.trim().parse::<u64>().unwrap() * 512
}

#[test]
fn what_is_written_to_the_device_is_in_the_file() {
    if !loop_devices_usable("what_is_written_to_the_device_is_in_the_file") {
        return;
    }
    let image = image(MIB);
    let device = attach(&image, Access::ReadWrite, "");
    let mut node = OpenOptions::new().write(true).open(device.path()).unwrap();
    node.write_all(b"guest").unwrap();
    node.sync_all().unwrap();
    drop(node);
    device.detach().unwrap();
    let mut start = [0; 5];
    File::open(&image.path).unwrap().read_exact(&mut start).unwrap();
    assert_eq!(&start, b"guest");
}

#[test]
fn status_tells_file_access_and_reference_and_nothing_after_a_detach() {
    if !loop_devices_usable("status_tells_file_access_and_reference_and_nothing_after_a_detach") {
        return;
    }
    let image = image(MIB);
    let device = attach(&image, Access::ReadOnly, "backend/vbd/3/51712");
    let status = device.status().unwrap().unwrap();
    assert_eq!(status.backing, FileId::of(&image.file.metadata().unwrap()));
    assert_eq!(status.access, Access::ReadOnly);
    assert_eq!(status.reference, Reference::new("backend/vbd/3/51712").unwrap());
    assert!(!status.released_on_close);
    assert!(
        OpenOptions::new().write(true).open(device.path()).and_then(|mut f| f.write_all(&[1; 512])).is_err(),
        "a read-only device took a write"
    );
    device.detach().unwrap();
    assert!(none_left(|s| s.backing == status.backing));
}

#[test]
fn a_file_open_for_reading_is_not_attached_for_writing() {
    if !loop_devices_usable("a_file_open_for_reading_is_not_attached_for_writing") {
        return;
    }
    let image = image(MIB);
    let id = FileId::of(&image.file.metadata().unwrap());
    let how = Attach {
        access: Access::ReadWrite,
        io: BufferedIo::Buffered,
        reference: Reference::EMPTY,
        lifetime: Lifetime::Kept,
    };
    // The kernel attaches it read-only of its own accord; then it has to say so.
    match LoopDevice::attach(File::open(&image.path).unwrap(), &how) {
        Ok(device) => {
            assert_eq!(device.status().unwrap().unwrap().access, Access::ReadOnly);
            device.detach().unwrap();
        }
        Err(_) => assert!(none_left(|s| s.backing == id)),
    }
}

#[test]
fn a_grown_file_grows_its_device() {
    if !loop_devices_usable("a_grown_file_grows_its_device") {
        return;
    }
    let image = image(MIB);
    let device = attach(&image, Access::ReadWrite, "");
    assert_eq!(capacity(&device), MIB);
    image.file.set_len(3 * MIB).unwrap();
    let id = FileId::of(&image.file.metadata().unwrap());
    for found in find(|s| s.backing == id).unwrap() {
        found.update_capacity().unwrap();
    }
    assert_eq!(capacity(&device), 3 * MIB);
    device.detach().unwrap();
}

#[test]
fn find_sees_every_device_of_a_file_and_no_other() {
    if !loop_devices_usable("find_sees_every_device_of_a_file_and_no_other") {
        return;
    }
    let (one, other) = (image(MIB), image(MIB));
    let devices = [attach(&one, Access::ReadOnly, "a"), attach(&one, Access::ReadOnly, "b")];
    let stranger = attach(&other, Access::ReadOnly, "c");
    let id = FileId::of(&one.file.metadata().unwrap());
    let mut found: Vec<_> = find(|s| s.backing == id).unwrap().iter().map(|d| d.path().to_owned()).collect();
    let mut expected: Vec<_> = devices.iter().map(|d| d.path().to_owned()).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    for device in devices.into_iter().chain([stranger]) {
        device.detach().unwrap();
    }
}

#[test]
fn many_attaches_at_once_all_succeed() {
    if !loop_devices_usable("many_attaches_at_once_all_succeed") {
        return;
    }
    let image = image(MIB);
    let barrier = std::sync::Barrier::new(16);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                barrier.wait();
                for _ in 0..8 {
                    attach(&image, Access::ReadOnly, "crowd").detach().unwrap();
                }
            });
        }
    });
    assert!(none_left(|s| s.reference == Reference::new("crowd").unwrap()));
}

#[test]
fn direct_io_is_a_wish_that_never_fails_the_attach() {
    if !loop_devices_usable("direct_io_is_a_wish_that_never_fails_the_attach") {
        return;
    }
    let image = image(MIB);
    let how = Attach {
        access: Access::ReadWrite,
        io: BufferedIo::DirectWherePossible,
        reference: Reference::EMPTY,
        lifetime: Lifetime::Kept,
    };
    let device = LoopDevice::attach(&image.file, &how).unwrap();
    assert_eq!(capacity(&device), MIB);
    device.detach().unwrap();
}

#[test]
fn a_device_for_as_long_as_it_is_open_goes_with_its_last_handle() {
    if !loop_devices_usable("a_device_for_as_long_as_it_is_open_goes_with_its_last_handle") {
        return;
    }
    let image = image(MIB);
    let how = Attach {
        access: Access::ReadWrite,
        io: BufferedIo::Buffered,
        reference: Reference::EMPTY,
        lifetime: Lifetime::WhileOpen,
    };
    let device = LoopDevice::attach(&image.file, &how).unwrap();
    let status = device.status().unwrap().unwrap();
    assert!(status.released_on_close);
    // Whoever looks at it meanwhile does not end it, and who else has it open keeps it.
    assert_eq!(find(|s| s.backing == status.backing).unwrap().len(), 1);
    let user = File::open(device.path()).unwrap();
    drop(device);
    assert_eq!(find(|s| s.backing == status.backing).unwrap().len(), 1);
    drop(user);
    assert!(none_left(|s| s.backing == status.backing));
}
