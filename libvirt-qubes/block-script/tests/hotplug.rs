//! The program as libxl runs it, against a small xenstored of this file and real loop devices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use common::{loop_devices_usable, none_left};
use mgmt_block::{Access, Attach, BufferedIo, FileId, Lifetime, LoopDevice, Reference, find};

const READ: u32 = 2;
const WRITE: u32 = 11;
const ERROR: u32 = 16;

#[derive(Default)]
struct Tree {
    nodes: BTreeMap<String, Vec<u8>>,
    /// In the order in which they came.
    writes: Vec<String>,
    /// The answer to a write to this node is EACCES.
    refuse: Option<String>,
}

/// xenstored's protocol, as far as a hotplug program needs it.
struct Xenstored {
    dir: tempfile::TempDir,
    tree: Arc<Mutex<Tree>>,
}

impl Xenstored {
    fn start() -> Xenstored {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        let tree = Arc::new(Mutex::new(Tree::default()));
        let shared = Arc::clone(&tree);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let tree = Arc::clone(&shared);
                std::thread::spawn(move || serve(client.unwrap(), &tree));
            }
        });
        Xenstored { dir, tree }
    }

    fn set(&self, path: &str, value: impl AsRef<[u8]>) {
        self.tree.lock().unwrap().nodes.insert(path.into(), value.as_ref().to_vec());
    }

    fn get(&self, path: &str) -> Option<String> {
        self.tree.lock().unwrap().nodes.get(path).map(|v| String::from_utf8(v.clone()).unwrap())
    }

    fn writes(&self) -> Vec<String> {
        self.tree.lock().unwrap().writes.clone()
    }

    fn run(&self, command: &str, backend: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_mgmt-block"))
            .arg(command)
            .env_remove("XENSTORED_PATH")
            .env("XENSTORED_RUNDIR", self.dir.path())
            .env("XENBUS_PATH", backend)
            .output()
            .unwrap()
    }
}

fn serve(mut client: UnixStream, tree: &Mutex<Tree>) {
    let mut header = [0; 16];
    while client.read_exact(&mut header).is_ok() {
        let field = |n: usize| u32::from_ne_bytes(header[4 * n..4 * n + 4].try_into().unwrap());
        let (kind, id, length) = (field(0), field(1), field(3));
        let mut payload = vec![0; length as usize];
        client.read_exact(&mut payload).unwrap();
        let end = payload.iter().position(|b| *b == 0).expect("a path ends with NUL");
        let path = String::from_utf8(payload[..end].to_vec()).unwrap();
        let mut tree = tree.lock().unwrap();
        let (kind, answer) = match kind {
            READ => match tree.nodes.get(&path) {
                Some(value) => (READ, value.clone()),
                None => (ERROR, b"ENOENT\0".to_vec()),
            },
            WRITE if tree.refuse.as_ref() == Some(&path) => (ERROR, b"EACCES\0".to_vec()),
            WRITE => {
                tree.nodes.insert(path.clone(), payload[end + 1..].to_vec());
                tree.writes.push(path);
                (WRITE, b"OK\0".to_vec())
            }
            _ => (ERROR, b"ENOSYS\0".to_vec()),
        };
        let length = u32::try_from(answer.len()).unwrap();
        let mut message: Vec<u8> = [kind, id, 0, length].iter().flat_map(|n| n.to_ne_bytes()).collect();
        message.extend_from_slice(&answer);
        client.write_all(&message).unwrap();
    }
}

/// A disk of 1 MiB and its backend directory, `backend/vbd/DOMID/51712`. Tests run at the same time in one
/// process: each has a domid of its own.
struct Disk {
    store: Xenstored,
    backend: String,
    image: PathBuf,
}

fn disk(domid: u32, mode: &str) -> Disk {
    let store = Xenstored::start();
    let image = store.dir.path().join("root.img");
    File::create_new(&image).unwrap().set_len(1 << 20).unwrap();
    let backend = format!("backend/vbd/{domid}/51712");
    store.set(&format!("{backend}/params"), image.to_str().unwrap());
    store.set(&format!("{backend}/mode"), mode);
    Disk { store, backend, image }
}

impl Disk {
    fn node(&self, name: &str) -> String {
        format!("{}/{name}", self.backend)
    }

    fn get(&self, name: &str) -> Option<String> {
        self.store.get(&self.node(name))
    }

    fn run(&self, command: &str) -> Output {
        self.store.run(command, &self.backend)
    }

    fn devices(&self) -> Vec<LoopDevice> {
        let id = FileId::of(&std::fs::metadata(&self.image).unwrap());
        find(|s| s.backing == id).unwrap()
    }

    fn is_free(&self) -> bool {
        let id = FileId::of(&std::fs::metadata(&self.image).unwrap());
        none_left(|s| s.backing == id)
    }
}

/// The test has the device open: a detach would only have marked it.
fn is_attached(device: &LoopDevice) -> bool {
    device.status().unwrap().is_some_and(|s| !s.released_on_close)
}

#[track_caller]
fn succeeded(output: &Output) {
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[track_caller]
fn failed(output: &Output, disk: &Disk, reason: &str) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = disk.get("hotplug-error").expect("no hotplug-error");
    assert!(error.contains(reason), "{error:?} does not say {reason:?}");
    assert!(!error.contains('\n'));
    assert!(String::from_utf8_lossy(&output.stderr).contains(reason), "{output:?}");
    assert_eq!(disk.get("hotplug-status").as_deref(), Some("error"));
    assert_eq!(disk.get("physical-device"), None);
}

#[test]
fn add_attaches_the_file_and_says_where() {
    if !loop_devices_usable("add_attaches_the_file_and_says_where") {
        return;
    }
    let disk = disk(1, "w");
    succeeded(&disk.run("add"));

    let devices = disk.devices();
    let [device] = devices.as_slice() else { panic!("{devices:?}") };
    let status = device.status().unwrap().unwrap();
    assert_eq!(status.access, Access::ReadWrite);
    assert_eq!(status.io, BufferedIo::Buffered);
    assert_eq!(status.reference, Reference::new("backend/vbd/1/51712").unwrap());
    let (major, minor) = device.device_number();
    assert_eq!(disk.get("physical-device").unwrap(), format!("{major:x}:{minor:x}"));
    assert_eq!(disk.get("node").as_deref(), device.path().to_str());
    assert_eq!(disk.get("physical-device-path").as_deref(), device.path().to_str());
    assert_eq!(disk.get("hotplug-status").as_deref(), Some("connected"));
    let order = ["node", "physical-device-path", "physical-device", "hotplug-status"].map(|n| disk.node(n));
    assert_eq!(disk.store.writes(), order);

    drop(devices);
    succeeded(&disk.run("remove"));
    assert!(disk.is_free());
}

#[test]
fn add_called_twice_attaches_once_and_remove_called_twice_is_fine() {
    if !loop_devices_usable("add_called_twice_attaches_once_and_remove_called_twice_is_fine") {
        return;
    }
    let disk = disk(2, "w");
    succeeded(&disk.run("add"));
    succeeded(&disk.run("add"));
    assert_eq!(disk.devices().len(), 1);
    succeeded(&disk.run("remove"));
    succeeded(&disk.run("remove"));
    assert!(disk.is_free());
}

#[test]
fn any_mode_but_w_is_read_only() {
    if !loop_devices_usable("any_mode_but_w_is_read_only") {
        return;
    }
    for (domid, mode) in [(3, "r"), (4, ""), (5, "ro"), (6, "W")] {
        let disk = disk(domid, mode);
        succeeded(&disk.run("add"));
        let status = disk.devices().first().unwrap().status().unwrap().unwrap();
        assert_eq!(status.access, Access::ReadOnly, "mode {mode:?}");
        succeeded(&disk.run("remove"));
    }
}

#[test]
fn a_block_device_is_handed_over_and_left_alone() {
    if !loop_devices_usable("a_block_device_is_handed_over_and_left_alone") {
        return;
    }
    let disk = disk(7, "w");
    let how = Attach {
        access: Access::ReadWrite,
        io: BufferedIo::Buffered,
        reference: Reference::EMPTY,
        lifetime: Lifetime::Kept,
    };
    let file = File::options().read(true).write(true).open(&disk.image).unwrap();
    let device = LoopDevice::attach(&file, &how).unwrap();
    // As LVM's names are: a link.
    let link = disk.store.dir.path().join("lv");
    std::os::unix::fs::symlink(device.path(), &link).unwrap();
    disk.store.set(&disk.node("params"), link.to_str().unwrap());

    succeeded(&disk.run("add"));
    let (major, minor) = device.device_number();
    assert_eq!(disk.get("physical-device").unwrap(), format!("{major:x}:{minor:x}"));
    assert_eq!(disk.get("physical-device-path").as_deref(), link.to_str());
    assert_eq!(disk.get("node"), None);
    succeeded(&disk.run("remove"));
    assert!(is_attached(&device), "remove detached a device that is not its own");
    device.detach().unwrap();
}

#[test]
fn remove_frees_no_device_that_was_attached_for_another_disk() {
    if !loop_devices_usable("remove_frees_no_device_that_was_attached_for_another_disk") {
        return;
    }
    let disk = disk(8, "w");
    let file = File::open(&disk.image).unwrap();
    let attach = |reference: &str| {
        let reference = Reference::new(reference).unwrap();
        LoopDevice::attach(
            &file,
            &Attach {
                access: Access::ReadOnly,
                io: BufferedIo::Buffered,
                reference,
                lifetime: Lifetime::Kept,
            },
        )
        .unwrap()
    };
    // The same file, as kernels' modules are shared; and the number that this disk once had.
    let others = [attach("backend/vbd/9/51712"), attach("")];
    for other in &others {
        disk.store.set(&disk.node("node"), other.path().to_str().unwrap());
        succeeded(&disk.run("remove"));
        assert!(is_attached(other));
    }
    for other in others {
        other.detach().unwrap();
    }
}

#[test]
fn remove_finds_the_device_of_an_add_that_was_killed_before_its_note() {
    if !loop_devices_usable("remove_finds_the_device_of_an_add_that_was_killed_before_its_note") {
        return;
    }
    let disk = disk(10, "w");
    let reference = Reference::new(&disk.backend).unwrap();
    let how =
        Attach { access: Access::ReadOnly, io: BufferedIo::Buffered, reference, lifetime: Lifetime::Kept };
    drop(LoopDevice::attach(File::open(&disk.image).unwrap(), &how).unwrap());
    assert_eq!(disk.devices().len(), 1);
    succeeded(&disk.run("remove"));
    assert!(disk.is_free());
}

#[test]
fn remove_works_after_the_file_was_renamed_or_deleted() {
    if !loop_devices_usable("remove_works_after_the_file_was_renamed_or_deleted") {
        return;
    }
    let disk = disk(11, "w");
    let id = FileId::of(&std::fs::metadata(&disk.image).unwrap());
    succeeded(&disk.run("add"));
    std::fs::remove_file(&disk.image).unwrap();
    File::create_new(&disk.image).unwrap();
    succeeded(&disk.run("remove"));
    assert!(none_left(|s| s.backing == id));
}

#[test]
fn a_refused_write_after_the_attach_detaches_again() {
    if !loop_devices_usable("a_refused_write_after_the_attach_detaches_again") {
        return;
    }
    for (domid, node) in [(12, "node"), (13, "physical-device")] {
        let disk = disk(domid, "w");
        disk.store.tree.lock().unwrap().refuse = Some(disk.node(node));
        failed(&disk.run("add"), &disk, "xenstored answered EACCES");
        assert!(disk.is_free());
    }
}

#[test]
fn a_disk_that_cannot_be_had_is_named_with_its_reason() {
    let disk = disk(14, "w");
    let place = disk.store.dir.path().to_owned();
    let fifo = place.join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    for (params, reason) in [
        (place.join("absent.img"), "absent.img: No such file"),
        (place.clone(), "is neither a regular file nor a block device"),
        (fifo, "is neither a regular file nor a block device"),
        (PathBuf::from("/dev/null"), "is neither a regular file nor a block device"),
        (PathBuf::from("root.img"), "not an absolute path: root.img"),
        (PathBuf::from("../root.img"), "not an absolute path: ../root.img"),
        (PathBuf::new(), "not an absolute path"),
    ] {
        disk.store.set(&disk.node("params"), params.to_str().unwrap());
        failed(&disk.run("add"), &disk, reason);
    }
}

#[test]
fn a_relative_target_is_not_looked_for_in_the_working_directory() {
    let disk = disk(15, "w");
    disk.store.set(&disk.node("params"), "root.img");
    let output = Command::new(env!("CARGO_BIN_EXE_mgmt-block"))
        .arg("add")
        .current_dir(disk.store.dir.path())
        .env("XENSTORED_PATH", disk.store.dir.path().join("socket"))
        .env("XENBUS_PATH", &disk.backend)
        .output()
        .unwrap();
    failed(&output, &disk, "not an absolute path");
}

#[test]
fn a_backend_without_a_target_is_an_error() {
    let store = Xenstored::start();
    let output = store.run("add", "backend/vbd/16/51712");
    assert_eq!(output.status.code(), Some(1));
    assert!(store.get("backend/vbd/16/51712/hotplug-error").unwrap().contains("has no node params"));
    // And nothing to remove is no error, even if the directory is gone.
    if loop_devices_usable("a_backend_without_a_target_is_an_error (remove)") {
        succeeded(&store.run("remove", "backend/vbd/16/51712"));
    }
}

#[test]
fn without_xenstored_the_reason_is_on_stderr() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_mgmt-block"))
        .arg("add")
        .env("XENSTORED_PATH", dir.path().join("socket"))
        .env("XENBUS_PATH", "backend/vbd/17/51712")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("cannot connect to xenstored at"), "{stderr}");
    assert!(stderr.contains("is xenstored running?"), "{stderr}");
}

#[test]
fn a_wrong_call_shows_the_usage_and_touches_nothing() {
    let store = Xenstored::start();
    for command in ["", "change", "--add"] {
        let output = store.run(command, "backend/vbd/18/51712");
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("usage: mgmt-block add|remove"));
    }
    for path in ["", "backend/vbd/1 8/51712", "backend/../18\n", &"x/".repeat(40)] {
        let output = store.run("add", path);
        assert_eq!(output.status.code(), Some(1), "{path:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("XENBUS_PATH is"), "{path:?}");
    }
    assert!(store.writes().is_empty());
}

#[test]
fn an_attached_device_survives_the_program_and_reads_as_the_file() {
    if !loop_devices_usable("an_attached_device_survives_the_program_and_reads_as_the_file") {
        return;
    }
    let disk = disk(19, "w");
    std::fs::write(&disk.image, b"x".repeat(1 << 20)).unwrap();
    succeeded(&disk.run("add"));
    let node = disk.get("node").unwrap();
    assert_eq!(std::fs::read(Path::new(&node)).unwrap(), b"x".repeat(1 << 20));
    let (major, minor) = {
        let rdev = std::fs::metadata(&node).unwrap().rdev();
        (rustix::fs::major(rdev), rustix::fs::minor(rdev))
    };
    assert_eq!(disk.get("physical-device").unwrap(), format!("{major:x}:{minor:x}"));
    succeeded(&disk.run("remove"));
}
