//! The backends of simulated disks: real files and block devices, held open as long as a domain has them.

use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;

use crate::config::{Access, DiskSpec};

/// What is behind a path, whatever the path's spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Identity {
    File { device: u64, inode: u64 },
    Block { number: u64 },
}

/// A disk that a domain has.
#[derive(Debug)]
pub(super) struct OpenDisk {
    file: File,
    identity: Identity,
    access: Access,
}

impl OpenDisk {
    /// Opens what the disk names, with the rights that it wants. Blocks. The words of a failure name the path.
    pub(super) fn open(disk: &DiskSpec) -> Result<Self, String> {
        let path = &disk.path;
        let words = |error: std::io::Error| format!("{}: {error}", path.display());
        if !path.is_absolute() {
            return Err(format!("{}: not an absolute path", path.display()));
        }
        // Looked at before it is opened: opening a FIFO would wait for its other end.
        identity(path, &std::fs::metadata(path).map_err(words)?)?;
        let file = OpenOptions::new()
            .read(true)
            .write(disk.access == Access::ReadWrite)
            .open(path)
            .map_err(words)?;
        let identity = identity(path, &file.metadata().map_err(words)?)?;
        Ok(Self { file, identity, access: disk.access })
    }

    /// Whether these two may not be used by two guests: the same thing, and one of them writes.
    pub(super) fn conflicts(&self, other: &Self) -> bool {
        self.identity == other.identity
            && (self.access == Access::ReadWrite || other.access == Access::ReadWrite)
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

/// Opens a file that a boot needs and closes it again, in libxl's words where it cannot. Blocks.
pub(super) fn probe_boot_file(path: &Path) -> Result<(), String> {
    let words = |error: std::io::Error| format!("failed to open file '{}': {error}", path.display());
    if !std::fs::metadata(path).map_err(words)?.is_file() {
        return Err(format!("failed to open file '{}': not a regular file", path.display()));
    }
    File::open(path).map(drop).map_err(words)
}

fn identity(path: &Path, metadata: &Metadata) -> Result<Identity, String> {
    if metadata.is_file() {
        Ok(Identity::File { device: metadata.dev(), inode: metadata.ino() })
    } else if metadata.file_type().is_block_device() {
        Ok(Identity::Block { number: metadata.rdev() })
    } else {
        Err(format!("{}: neither a regular file nor a block device", path.display()))
    }
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
        let words = OpenDisk::open(&disk(&missing, Access::ReadOnly)).unwrap_err();
        assert!(words.starts_with(missing.to_str().unwrap()), "{words}");
        assert!(words.contains("No such file"), "{words}");
        let words = OpenDisk::open(&disk(dir.path(), Access::ReadOnly)).unwrap_err();
        assert!(words.contains("neither a regular file"), "{words}");
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
