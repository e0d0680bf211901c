//! Loop devices: attach a file, ask what is attached, take over a new size, detach.
//!
//! A `LoopDevice` is an open handle, not the binding: dropping it leaves the file attached, unless it was attached for
//! as long as it is open. Every call here is a short system call and may block for a disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use crate::ioctl::{self, LO_NAME_SIZE, LoopFlags, LoopInfo64};

/// `LOOP_MAJOR` of `linux/major.h`.
const LOOP_MAJOR: u32 = 7;

/// Asked for explicitly: with direct I/O the driver would else take the disk's, and a guest that was installed
/// on sectors of 512 bytes would find others.
const SECTOR: u32 = 512;

/// How often somebody else may be faster at taking the free device. Each loss means that another attach
/// succeeded, so that this is out of reach in practice.
const ATTEMPTS: u32 = 200;

/// How a file is attached, or is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Writes to the device fail.
    ReadOnly,
    /// The backing file must be open for writing.
    ReadWrite,
}

/// Which file: the device of its file system and its inode number, as `stat` gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// The file that `metadata` describes.
    pub fn of(metadata: &std::fs::Metadata) -> FileId {
        FileId { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// A text that goes with a device while it is attached, as `losetup --loop-ref` sets it: at most 63 bytes, no
/// NUL. The kernel only keeps it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Reference([u8; LO_NAME_SIZE]);

impl Reference {
    /// No reference: what devices have whose maker set none.
    pub const EMPTY: Reference = Reference([0; LO_NAME_SIZE]);

    /// `None` if the text is too long or holds a NUL.
    pub fn new(text: &str) -> Option<Reference> {
        let mut bytes = [0; LO_NAME_SIZE];
        if text.len() >= LO_NAME_SIZE || text.bytes().any(|b| b == 0) {
            return None;
        }
        for (to, from) in bytes.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        Some(Reference(bytes))
    }

    fn text(&self) -> &[u8] {
        self.0.split(|b| *b == 0).next().unwrap_or_default()
    }
}

impl std::fmt::Debug for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reference({:?})", String::from_utf8_lossy(self.text()))
    }
}

/// Whether the host's page cache holds the file's data a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BufferedIo {
    /// Through the page cache. Works on every file system.
    Buffered,
    /// Past the page cache. Where the file system cannot, the driver goes back to `Buffered` by itself.
    DirectWherePossible,
}

/// Until when a file stays attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is detached.
    Kept,
    /// Until nobody has the device open any more; the handle counts. A process that is killed leaves none.
    WhileOpen,
}

/// How to attach a file.
#[derive(Clone, Debug)]
pub struct Attach {
    /// `ReadWrite` needs a backing file that is open for writing.
    pub access: Access,
    /// Page cache or not.
    pub io: BufferedIo,
    /// Kept with the device; see [`Status::reference`].
    pub reference: Reference,
    /// When it is detached.
    pub lifetime: Lifetime,
}

/// What a device says of its binding.
#[derive(Clone, Debug)]
pub struct Status {
    /// The attached file.
    pub backing: FileId,
    /// How it is attached.
    pub access: Access,
    /// Page cache or not, as it is, not as it was asked for.
    pub io: BufferedIo,
    /// The device detaches when its last opener closes it.
    pub released_on_close: bool,
    /// The text that its maker gave.
    pub reference: Reference,
}

impl Status {
    fn from_kernel(info: &LoopInfo64) -> Status {
        let set = |flag| info.lo_flags.contains(flag);
        let mut reference = info.lo_file_name;
        if let Some(last) = reference.last_mut() {
            *last = 0;
        }
        Status {
            backing: FileId { device: info.lo_device, inode: info.lo_inode },
            access: if set(LoopFlags::READ_ONLY) { Access::ReadOnly } else { Access::ReadWrite },
            io: if set(LoopFlags::DIRECT_IO) {
                BufferedIo::DirectWherePossible
            } else {
                BufferedIo::Buffered
            },
            released_on_close: set(LoopFlags::AUTOCLEAR),
            reference: Reference(reference),
        }
    }
}

/// An open handle on one device of the loop driver, attached or not.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    device_number: u64,
    file: File,
}

impl LoopDevice {
    /// Attaches the open file `backing` to a free device. The kernel keeps its own reference to the file.
    ///
    /// # Errors
    /// Those of opening `/dev/loop-control` and the device, and `LOOP_CONFIGURE`'s: `EBADF` for a read-write
    /// attach of a file open for reading, `EINVAL` for what is no file or block device.
    pub fn attach(backing: impl AsFd, how: &Attach) -> io::Result<LoopDevice> {
        let mut info = LoopInfo64::zeroed();
        info.lo_file_name = how.reference.0;
        if how.access == Access::ReadOnly {
            info.lo_flags |= LoopFlags::READ_ONLY;
        }
        if how.io == BufferedIo::DirectWherePossible {
            info.lo_flags |= LoopFlags::DIRECT_IO;
        }
        if how.lifetime == Lifetime::WhileOpen {
            info.lo_flags |= LoopFlags::AUTOCLEAR;
        }
        let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
        let mut last = io::Error::from(Errno::BUSY);
        for attempt in 0..ATTEMPTS {
            let number = ioctl::get_free(&control)?;
            let device = match LoopDevice::open_as(&node(number), how.access) {
                Ok(device) => device,
                // A device that was just made: its node in /dev comes a moment later.
                Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::NOENT | Errno::NXIO)) => {
                    last = e;
                    std::thread::sleep(Duration::from_millis(u64::from(attempt.min(20))));
                    continue;
                }
                Err(e) => return Err(e),
            };
            match ioctl::configure(&device, &backing, SECTOR, info) {
                Ok(()) => return Ok(device),
                Err(Errno::BUSY | Errno::AGAIN) => last = Errno::BUSY.into(),
                Err(e) => return Err(e.into()),
            }
        }
        Err(last)
    }

    /// Opens an existing device to ask or to detach it.
    ///
    /// # Errors
    /// Those of opening `path`; `InvalidInput` if it is no device of the loop driver.
    pub fn open(path: &Path) -> io::Result<LoopDevice> {
        LoopDevice::open_as(path, Access::ReadOnly)
    }

    fn open_as(path: &Path, access: Access) -> io::Result<LoopDevice> {
        let not_loop = || io::Error::new(io::ErrorKind::InvalidInput, "not a loop device");
        // Looked at before it is opened too: opening a tape or a terminal has effects.
        if !is_loop(&std::fs::metadata(path)?) {
            return Err(not_loop());
        }
        let file = OpenOptions::new().read(true).write(access == Access::ReadWrite).open(path)?;
        let metadata = file.metadata()?;
        if !is_loop(&metadata) {
            return Err(not_loop());
        }
        Ok(LoopDevice { path: path.to_owned(), device_number: metadata.rdev(), file })
    }

    /// Where its node is: `/dev/loop7`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Major and minor number.
    pub fn device_number(&self) -> (u32, u32) {
        (rustix::fs::major(self.device_number), rustix::fs::minor(self.device_number))
    }

    /// What is attached; `None` if nothing is.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn status(&self) -> io::Result<Option<Status>> {
        match ioctl::get_status(self) {
            Ok(info) => Ok(Some(Status::from_kernel(&info))),
            Err(Errno::NXIO) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Takes over the size that the attached file has now.
    ///
    /// # Errors
    /// The ioctl's; `ENXIO` if nothing is attached.
    pub fn update_capacity(&self) -> io::Result<()> {
        Ok(ioctl::set_capacity(self)?)
    }

    /// Detaches the file: at once, or, where somebody else has the device open, when the last of them closes it.
    /// A device with nothing attached is no error.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn detach(self) -> io::Result<()> {
        match ioctl::clear(&self) {
            Ok(()) | Err(Errno::NXIO) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

impl AsFd for LoopDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The attached devices whose status `wanted` accepts. Looks at every loop device of the host; one that comes or
/// goes meanwhile may be missed.
///
/// # Errors
/// Those of listing `/sys/block`. A device that cannot be opened any more is passed over.
pub fn find(mut wanted: impl FnMut(&Status) -> bool) -> io::Result<Vec<LoopDevice>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/sys/block")? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(number) = name.to_str().and_then(|n| n.strip_prefix("loop")).and_then(|n| n.parse().ok())
        else {
            continue;
        };
        // Only a device with a file attached has this attribute; the others need not be opened.
        if !entry.path().join("loop/backing_file").exists() {
            continue;
        }
        let Ok(device) = LoopDevice::open(&node(number)) else { continue };
        if matches!(device.status(), Ok(Some(status)) if wanted(&status)) {
            found.push(device);
        }
    }
    Ok(found)
}

fn node(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/loop{number}"))
}

fn is_loop(metadata: &std::fs::Metadata) -> bool {
    metadata.file_type().is_block_device() && rustix::fs::major(metadata.rdev()) == LOOP_MAJOR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_holds_63_bytes_and_no_nul() {
        assert!(Reference::new(&"x".repeat(63)).is_some());
        assert!(Reference::new(&"x".repeat(64)).is_none());
        assert!(Reference::new("a\0b").is_none());
        assert_eq!(Reference::new("backend/vbd/5/51712").unwrap().text(), b"backend/vbd/5/51712");
        assert_eq!(Reference::new("").unwrap(), Reference::EMPTY);
    }

    #[test]
    fn what_is_no_loop_device_is_not_opened_as_one() {
        for path in ["/dev/null", "/proc/self/exe", "/dev"] {
            assert_eq!(
                LoopDevice::open(Path::new(path)).unwrap_err().kind(),
                io::ErrorKind::InvalidInput,
                "{path}"
            );
        }
    }
}
