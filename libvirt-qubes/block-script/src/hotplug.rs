//! What is done when a disk's backend appears and goes: from the nodes that libxl wrote to the device that the
//! kernel's backend opens.
//!
//! The loop device carries the backend's path as its reference. So the device of a disk is found again, and no
//! other is ever freed, whatever became of the file's name, and even if the program was killed before it could
//! write down the device's name: libxl kills it at once when a start is cancelled.

use std::error::Error;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mgmt_block::xenstore::{self, Connection};
use mgmt_block::{Access, Attach, BufferedIo, Lifetime, LoopDevice, Reference};

/// One line for the administrator: what failed, on what, why, and what to do.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(what: impl fmt::Display, advice: &str) -> Failure {
        Failure(format!("{what}: {advice}"))
    }

    pub(crate) fn caused(what: impl fmt::Display, cause: &dyn Error, advice: &str) -> Failure {
        let mut line = format!("{what}: {cause}");
        let mut next = cause.source();
        while let Some(cause) = next {
            line.push_str(&format!(": {cause}"));
            next = cause.source();
        }
        Failure(format!("{line}; {advice}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The backend directory of one disk in xenstore.
pub(crate) struct Backend {
    store: Connection,
    path: String,
    reference: Reference,
}

impl Backend {
    /// `path` is `backend/vbd/DOMID/DEVID`, as libxl gives it in `XENBUS_PATH`.
    pub(crate) fn new(store: Connection, path: String) -> Result<Backend, Failure> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"-/_@".contains(&b);
        let reference = Reference::new(&path).filter(|_| path.bytes().all(legal));
        let reference = reference.ok_or_else(|| {
            Failure::new(
                format!("XENBUS_PATH is no path of a disk's backend: {path:?}"),
                "libxl sets it for its scripts",
            )
        })?;
        Ok(Backend { store, path, reference })
    }

    fn read(&mut self, node: &str) -> Result<Option<Vec<u8>>, Failure> {
        let path = format!("{}/{node}", self.path);
        self.store.read(&path).map_err(|e| unanswered("read", &path, &e))
    }

    fn write(&mut self, node: &str, value: &[u8]) -> Result<(), Failure> {
        let path = format!("{}/{node}", self.path);
        self.store.write(&path, value).map_err(|e| unanswered("write", &path, &e))
    }

    /// Leaves the reason where libxl looks for it. Best effort: the caller reports on stderr all the same.
    pub(crate) fn report(&mut self, failure: &Failure) {
        let line = failure.0.replace(|c: char| c.is_control(), " ");
        let line: String = line.chars().take(1000).collect();
        let written = self
            .write("hotplug-error", line.as_bytes())
            .and_then(|()| self.write("hotplug-status", b"error"));
        if let Err(second) = written {
            eprintln!("mgmt-block: {second}");
        }
    }
}

fn unanswered(verb: &str, path: &str, e: &xenstore::Error) -> Failure {
    Failure::caused(format!("cannot {verb} the xenstore node {path}"), e, "see xenstored's log")
}

/// What a disk is made of.
enum Target {
    File { file: File, path: PathBuf },
    Block { major: u32, minor: u32, path: PathBuf },
}

/// Presents the disk's file or block device to the kernel's backend. Called again, it changes nothing.
pub(crate) fn add(backend: &mut Backend) -> Result<(), Failure> {
    if backend.read("physical-device")?.is_some() {
        return backend.write("hotplug-status", b"connected");
    }
    let params = params(backend)?;
    let access = match backend.read("mode")?.as_deref() {
        Some(b"w") => Access::ReadWrite,
        _ => Access::ReadOnly,
    };
    let io = match backend.read("direct-io-safe")?.as_deref() {
        Some(b"1") => BufferedIo::DirectWherePossible,
        _ => BufferedIo::Buffered,
    };
    match open(params, access)? {
        Target::Block { major, minor, path } => publish(backend, &path, major, minor),
        Target::File { file, path } => {
            let how = Attach { access, io, reference: backend.reference, lifetime: Lifetime::Kept };
            let device = LoopDevice::attach(&file, &how).map_err(|e| {
                let what = format!("cannot attach {} to a loop device", path.display());
                Failure::caused(what, &e, "is the kernel's module loop loaded, and is Linux 5.8 or later?")
            })?;
            let (major, minor) = device.device_number();
            let published = backend
                .write("node", device.path().as_os_str().as_bytes())
                .and_then(|()| publish(backend, device.path(), major, minor));
            if published.is_err()
                && let Err(e) = device.detach()
            {
                eprintln!("mgmt-block: cannot detach {} again: {e}", path.display());
            }
            published
        }
    }
}

/// Frees the disk's loop device. Called again, or for a block device, it changes nothing.
pub(crate) fn remove(backend: &mut Backend) -> Result<(), Failure> {
    let reference = backend.reference;
    let noted = match backend.read("node")? {
        Some(node) => owned_device(Path::new(OsStr::from_bytes(&node)), reference),
        None => None,
    };
    let devices = match noted {
        Some(device) => vec![device],
        None if is_block_device(backend)? => Vec::new(),
        // Killed between the attach and its note, or never attached.
        None => mgmt_block::find(|status| status.reference == reference)
            .map_err(|e| Failure::caused("cannot list the loop devices", &e, "is /sys mounted?"))?,
    };
    for device in devices {
        let name = device.path().to_owned();
        device.detach().map_err(|e| {
            let what = format!("cannot detach the loop device {}", name.display());
            Failure::caused(what, &e, "`losetup --list` shows it, `losetup --detach` frees it")
        })?;
    }
    Ok(())
}

/// The device at `node`, if what is attached to it now was attached for this disk.
fn owned_device(node: &Path, reference: Reference) -> Option<LoopDevice> {
    let device = LoopDevice::open(node).ok()?;
    let ours = matches!(device.status(), Ok(Some(status)) if status.reference == reference);
    ours.then_some(device)
}

fn is_block_device(backend: &mut Backend) -> Result<bool, Failure> {
    let params = backend.read("params")?.unwrap_or_default();
    let path = Path::new(OsStr::from_bytes(&params));
    Ok(path.is_absolute() && std::fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device()))
}

fn params(backend: &mut Backend) -> Result<PathBuf, Failure> {
    let Some(params) = backend.read("params")? else {
        return Err(Failure::new(
            format!("the backend {} has no node params", backend.path),
            "the disk needs a target: the path of a file or block device",
        ));
    };
    let path = PathBuf::from(OsStr::from_bytes(&params));
    if !path.is_absolute() {
        let what = format!("the disk's target is not an absolute path: {}", path.display());
        return Err(Failure::new(what, "name the file or block device by its whole path"));
    }
    Ok(path)
}

/// Looks before it opens: a block device is never opened here, because a close after writing makes udev read it.
fn open(path: PathBuf, access: Access) -> Result<Target, Failure> {
    let cannot = |verb: &str, e: &std::io::Error| {
        Failure::caused(
            format!("cannot {verb} the disk's file {}", path.display()),
            e,
            "check the disk's target",
        )
    };
    let seen = std::fs::metadata(&path).map_err(|e| cannot("find", &e))?;
    if seen.file_type().is_block_device() {
        let (major, minor) = (rustix::fs::major(seen.rdev()), rustix::fs::minor(seen.rdev()));
        return Ok(Target::Block { major, minor, path });
    }
    let not_a_disk = || {
        let what = format!("{} is neither a regular file nor a block device", path.display());
        Failure::new(what, "check the disk's target")
    };
    if !seen.is_file() {
        return Err(not_a_disk());
    }
    // Should a pipe have taken the file's place meanwhile, the open must not wait for its other end.
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = OpenOptions::new()
        .read(true)
        .write(access == Access::ReadWrite)
        .custom_flags(nonblock)
        .open(&path)
        .map_err(|e| cannot("open", &e))?;
    if !file.metadata().map_err(|e| cannot("read the attributes of", &e))?.is_file() {
        return Err(not_a_disk());
    }
    Ok(Target::File { file, path })
}

/// `physical-device` makes the kernel's backend open the device; `hotplug-status` comes last.
fn publish(backend: &mut Backend, device: &Path, major: u32, minor: u32) -> Result<(), Failure> {
    backend.write("physical-device-path", device.as_os_str().as_bytes())?;
    backend.write("physical-device", format!("{major:x}:{minor:x}").as_bytes())?;
    backend.write("hotplug-status", b"connected")
}
