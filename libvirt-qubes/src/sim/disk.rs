//! The backends of simulated disks: real files and block devices, held open as long as a domain has them.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::config::{Access, DiskSpec};
use crate::device::DiskId;
use crate::error::{At, Error, Kind, Op, Result};

/// A disk that a domain has.
#[derive(Debug)]
pub(super) struct OpenDisk {
    file: File,
    id: DiskId,
    access: Access,
}

impl OpenDisk {
    /// Opens what the disk names, with the rights that it wants. Blocks. A failure is about the path.
    pub(super) fn open(disk: &DiskSpec) -> Result<Self> {
        let path = &disk.path;
        absolute(path, Op::AttachDisk)?;
        // Looked at before it is opened: opening a FIFO would wait for its other end.
        let id = DiskId::of(path)?;
        let writable = disk.access == Access::ReadWrite;
        let file = OpenOptions::new().read(true).write(writable).open(path);
        Ok(Self { file: file.at(Op::AttachDisk, path.display())?, id, access: disk.access })
    }

    /// Whether these two may not be used by two guests: the same thing, and one of them writes.
    pub(super) fn conflicts(&self, other: &Self) -> bool {
        self.id == other.id && (self.access == Access::ReadWrite || other.access == Access::ReadWrite)
    }

    /// What a guest's write does. Blocks.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// What a guest reads; shorter at the end of the disk. Blocks.
    pub(super) fn read(&self, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut have = 0;
        while let Some(rest) = bytes.get_mut(have..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset.saturating_add(have as u64))? {
                0 => break,
                more => have = have.saturating_add(more),
            }
        }
        bytes.truncate(have);
        Ok(bytes)
    }
}

/// Opens a file that a boot needs and closes it again. Blocks. A failure is about the path.
pub(super) fn probe_boot_file(path: &Path) -> Result<()> {
    let op = Op::ReadKernel;
    absolute(path, op)?;
    if !std::fs::metadata(path).at(op, path.display())?.is_file() {
        return Err(Error::new(Kind::Invalid, op, path.display()).because("not a regular file"));
    }
    File::open(path).map(drop).at(op, path.display())
}

fn absolute(path: &Path, op: Op) -> Result<()> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(Error::new(Kind::Invalid, op, path.display()).because("not an absolute path"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(path: &Path, access: Access) -> DiskSpec {
        DiskSpec { vdev: "xvda".parse().unwrap(), path: path.into(), access }
    }

    #[test]
    fn the_same_file_by_two_names_may_be_shared_by_readers_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&path, [0; 512]).unwrap();
        std::fs::hard_link(&path, &link).unwrap();
        let open = |path: &Path, access| OpenDisk::open(&disk(path, access)).unwrap();
        let reader = open(&path, Access::ReadOnly);
        let writer = open(&path, Access::ReadWrite);
        assert!(!reader.conflicts(&open(&link, Access::ReadOnly)));
        assert!(reader.conflicts(&open(&link, Access::ReadWrite)));
        assert!(writer.conflicts(&open(&link, Access::ReadOnly)));
        let other = dir.path().join("c");
        std::fs::write(&other, []).unwrap();
        assert!(!writer.conflicts(&open(&other, Access::ReadWrite)));
    }

    #[test]
    fn what_is_no_disk_is_refused_by_name_and_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing.img");
        let error = OpenDisk::open(&disk(&missing, Access::ReadOnly)).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(error.target(), missing.to_str().unwrap());
        let error = OpenDisk::open(&disk(dir.path(), Access::ReadOnly)).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        let error = OpenDisk::open(&disk(Path::new("a.img"), Access::ReadOnly)).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
    }

    #[test]
    fn a_read_ends_where_the_disk_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, b"0123456789").unwrap();
        let open = OpenDisk::open(&disk(&path, Access::ReadWrite)).unwrap();
        open.write(2, b"ab").unwrap();
        assert_eq!(open.read(1, 4).unwrap(), b"1ab4");
        assert_eq!(open.read(8, 40).unwrap(), b"89");
    }
}
