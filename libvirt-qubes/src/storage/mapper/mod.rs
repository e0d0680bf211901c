//! Device-mapper: devices that a running domain is given over the files of a volume.
//!
//! `dmsetup` is executed, a process for each command; a device's table goes in by its standard input. The files
//! beneath are attached to loop devices for as long as somebody has those open: first this process, then the device
//! that was made over them. So the kernel frees them, with that device or with a process that was killed before it
//! came to that, and a device of device-mapper is all that can be left over.
//!
//! Commands wait for no udev and let it make no nodes: what a guest wrote is no business of its rules.

mod op;

use std::any::Any;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mgmt_block::{Access, Attach, BufferedIo, FileId, Lifetime, LoopDevice, Reference};

pub(super) use op::CHUNK;
pub use op::{DeviceNumber, DmOp, Key, Target};

pub use super::lvm::Failed;

use super::{VolumeId, command};
use crate::error::{Error, Kind, Op};
use crate::ids::VolumeName;
use crate::said;

/// The name of a device: `mgmt-DEVICE:INODE-VOLUME`, by the folder that the volume lies in, as `stat` gives it. So it
/// is the same after a restart, and no other pool's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DmName(String);

impl DmName {
    pub(super) fn of(folder: &Metadata, volume: &VolumeName) -> Self {
        Self(format!("mgmt-{:x}:{:x}-{volume}", folder.dev(), folder.ino()))
    }

    /// That of an ephemeral volume: `vm-volatile-VM-crypt@VOLUME`, `_u` in VM being `_`, `_d` being `-`. The deployed
    /// daemon's, on folders.
    pub(super) fn of_ephemeral(id: &VolumeId) -> Self {
        let owner = id.owner.as_str().replace('_', "_u").replace('-', "_d");
        Self(format!("vm-volatile-{owner}-crypt@{}", id.volume))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A file that is a block device for as long as this is held, or something is made over it.
pub struct Attached {
    number: DeviceNumber,
    _hold: Box<dyn Any>,
}

impl Attached {
    /// The device with this number, and what keeps it.
    pub fn new(number: DeviceNumber, hold: impl Any) -> Self {
        Self { number, _hold: Box::new(hold) }
    }

    pub(super) fn number(&self) -> DeviceNumber {
        self.number
    }
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attached").field("number", &self.number).finish_non_exhaustive()
    }
}

/// Whoever makes and removes devices. Tests put a model of the kernel behind it.
pub trait Mapper: fmt::Debug + Send + Sync {
    /// Whether there is a device-mapper that this process may use.
    ///
    /// # Errors
    /// Why not.
    fn available(&self) -> Result<(), Failed>;

    /// Whether it can encrypt, too.
    ///
    /// # Errors
    /// Why not.
    fn encrypts(&self) -> Result<(), Failed>;

    /// Executes one command. It is done whole or not at all.
    ///
    /// # Errors
    /// In dmsetup's own words.
    fn run(&self, op: &DmOp) -> Result<(), Failed>;

    /// Where a device is read and written.
    fn device(&self, name: &DmName) -> PathBuf;

    /// Whether the kernel has a device of this name.
    ///
    /// # Errors
    /// If it cannot be asked.
    fn exists(&self, name: &DmName) -> io::Result<bool>;

    /// Makes a file a block device.
    ///
    /// # Errors
    /// Those of loop devices.
    fn attach(&self, file: &File, access: Access) -> io::Result<Attached>;

    /// Whether a file is beneath some block device.
    ///
    /// # Errors
    /// If the devices cannot be listed.
    fn is_attached(&self, file: FileId) -> io::Result<bool>;
}

/// So much of what dmsetup says is kept.
const MOST: usize = 16 << 10;

/// The kernel's.
#[derive(Debug)]
pub struct DeviceMapper {
    limit: Duration,
}

impl DeviceMapper {
    /// Commands that take longer than `limit` are killed.
    pub fn new(limit: Duration) -> Self {
        Self { limit }
    }

    fn dmsetup<S: AsRef<OsStr>>(&self, arguments: &[S], input: &[u8]) -> Result<(), Failed> {
        let mut command = Command::new("dmsetup");
        command.env("LC_ALL", "C").args(arguments);
        command.process_group(0);
        let ended = command::output_on(&mut command, input, self.limit, MOST);
        let ended = ended.map_err(|failed| match failed {
            command::Failed::Broken(e) => Failed::Broken(format!("dmsetup: {e}")),
            command::Failed::TimedOut(errors) => {
                Failed::TimedOut { limit: self.limit, said: telling(&errors) }
            }
        })?;
        if ended.status.success() { Ok(()) } else { Err(Failed::Refused(telling(&ended.errors))) }
    }
}

/// The lines of standard error that tell something, in one line.
fn telling(errors: &[u8]) -> String {
    said::in_one_line(errors, |line| line == "Command failed.")
}

impl Mapper for DeviceMapper {
    fn available(&self) -> Result<(), Failed> {
        let control = "/dev/mapper/control";
        match OpenOptions::new().read(true).write(true).open(control) {
            Ok(_) => Ok(()),
            // Its module may not be loaded yet: dmsetup sees to that.
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.dmsetup(&["version"], b""),
            Err(e) => Err(Failed::Broken(format!("{control}: {e}"))),
        }
    }

    fn encrypts(&self) -> Result<(), Failed> {
        self.available()?;
        // The kernel loads the module for the question.
        self.dmsetup(&["target-version", "crypt"], b"")
    }

    fn run(&self, op: &DmOp) -> Result<(), Failed> {
        tracing::debug!(command = %op, "dmsetup");
        self.dmsetup(&op.argv(), op.input().as_bytes())
    }

    fn device(&self, name: &DmName) -> PathBuf {
        Path::new("/dev/mapper").join(name.as_str())
    }

    fn exists(&self, name: &DmName) -> io::Result<bool> {
        for entry in std::fs::read_dir("/sys/block")? {
            // A device that goes meanwhile has no name any more.
            let known = std::fs::read_to_string(entry?.path().join("dm/name")).unwrap_or_default();
            if known.trim_end() == name.as_str() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn attach(&self, file: &File, access: Access) -> io::Result<Attached> {
        let how = Attach {
            access,
            // Several domains may read one file: it is in memory once.
            io: BufferedIo::Buffered,
            reference: Reference::EMPTY,
            lifetime: Lifetime::WhileOpen,
        };
        let device = LoopDevice::attach(file, &how)?;
        let (major, minor) = device.device_number();
        Ok(Attached::new(DeviceNumber { major, minor }, device))
    }

    fn is_attached(&self, file: FileId) -> io::Result<bool> {
        Ok(!mgmt_block::find(|status| status.backing == file)?.is_empty())
    }
}

/// Removes a device; one that is not there is no error.
pub(super) fn remove(mapper: &dyn Mapper, name: &DmName) -> Result<(), Failed> {
    match mapper.run(&DmOp::Remove(name.clone())) {
        Err(failed) if mapper.exists(name).unwrap_or(true) => Err(failed),
        _ => Ok(()),
    }
}

/// What dmsetup's words mean to a caller.
pub(super) fn failure(op: Op, target: impl fmt::Display, command: &DmOp, failed: &Failed) -> Error {
    let text = failed.to_string();
    let kind = match failed {
        Failed::TimedOut { .. } => Kind::TimedOut,
        Failed::Refused(_) if text.contains("Device or resource busy") => Kind::Busy,
        Failed::Refused(_) | Failed::Broken(_) => Kind::Backend,
    };
    Error::new(kind, op, target).because(format!("{command}: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named_by_the_folder_of_its_volume() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().metadata().unwrap();
        let name = DmName::of(&folder, &"root".parse().unwrap());
        assert_eq!(name.as_str(), format!("mgmt-{:x}:{:x}-root", folder.dev(), folder.ino()));
        // The kernel's limit is 127.
        let longest: VolumeName = "v".repeat(64).parse().unwrap();
        assert!(DmName::of(&folder, &longest).as_str().len() - folder.dev().to_string().len() < 127 - 16);
    }

    #[test]
    fn an_ephemeral_volumes_device_is_named_as_the_deployed_one() {
        let name = |id: &str| DmName::of_ephemeral(&id.parse().unwrap()).0;
        assert_eq!(name("appvms/my-work_1/volatile"), "vm-volatile-my_dwork_u1-crypt@volatile");
    }

    #[test]
    fn a_key_is_in_the_table_and_nowhere_else() {
        let number = DeviceNumber { major: 7, minor: 3 };
        let key = Key::random().unwrap();
        let name = DmName::of_ephemeral(&"appvms/work/volatile".parse().unwrap());
        let op =
            DmOp::Create { name, sectors: 8, target: Target::Crypt { device: number, key: key.clone() } };
        let table = op.input();
        let words: Vec<_> = table.split_whitespace().collect();
        let [start, sectors, target, cipher, hex, offset, device, from] = words[..] else {
            panic!("{words:?}")
        };
        assert_eq!([start, sectors, target, cipher], ["0", "8", "crypt", "aes-xts-plain64"]);
        assert_eq!([offset, device, from], ["0", "7:3", "0"]);
        assert_eq!((hex.len(), hex.bytes().all(|b| b.is_ascii_hexdigit())), (128, true));
        assert_ne!(Key::random().unwrap(), key);
        for shown in [op.argv().join(" "), op.to_string(), format!("{op:?}")] {
            assert!(!shown.contains(hex), "{shown}");
        }
        assert!(op.argv().contains(&"--uuid=CRYPT-TEMP-vm-volatile-work-crypt@volatile".to_owned()));
    }

    #[test]
    fn dmsetups_words_become_kinds() {
        let dir = tempfile::tempdir().unwrap();
        let name = DmName::of(&dir.path().metadata().unwrap(), &"root".parse().unwrap());
        let op = DmOp::Remove(name);
        for (text, kind) in [
            ("device-mapper: remove ioctl on mgmt-1:2-root  failed: Device or resource busy", Kind::Busy),
            ("device-mapper: reload ioctl on mgmt-1:2-root  failed: Invalid argument", Kind::Backend),
        ] {
            let error = failure(Op::StopVolume, "v", &op, &Failed::Refused(text.to_owned()));
            assert_eq!(error.kind(), kind);
            assert!(error.report().contains(text), "{}", error.report());
        }
    }
}
