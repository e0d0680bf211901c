//! Which file or block device is a disk of which domain, so that none is given to two domains at once.
//!
//! With a hotplug program of its own libxl never looks at a disk's path, so nothing below would refuse a file
//! that another guest writes. Files are told apart by what they are, not by name: a hard link, or another
//! path to the same block device, is the same disk.

use std::collections::HashMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

use crate::config::Access;
use crate::error::{At, Error, Kind, Op, Result};

/// What a path is: a regular file's inode, or a block device's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskId {
    /// A regular file, by the device of its file system and its inode.
    File {
        /// `st_dev`.
        device: u64,
        /// `st_ino`.
        inode: u64,
    },
    /// A block device, by its number.
    Block {
        /// `st_rdev`.
        device: u64,
    },
}

impl DiskId {
    /// Looks at a path, links followed. Blocks: call it off the async threads. `Kind::NotFound` when there is
    /// nothing, `Kind::Invalid` for what cannot be a disk.
    pub fn of(path: &Path) -> Result<Self> {
        let seen = std::fs::metadata(path).at(Op::AttachDisk, path.display())?;
        if seen.is_file() {
            Ok(Self::File { device: seen.dev(), inode: seen.ino() })
        } else if seen.file_type().is_block_device() {
            Ok(Self::Block { device: seen.rdev() })
        } else {
            Err(Error::new(Kind::Invalid, Op::AttachDisk, path.display())
                .because("neither a regular file nor a block device"))
        }
    }
}

/// A disk of a live domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The domain.
    pub domain: Uuid,
    /// Whether it may write.
    pub access: Access,
}

/// The disks of all live domains.
#[derive(Debug, Default)]
pub struct DiskClaims {
    claims: Mutex<HashMap<DiskId, Vec<Claim>>>,
}

impl DiskClaims {
    /// No claims.
    pub fn new() -> Self {
        Self::default()
    }

    /// Claims a disk for a domain. Several may read one; who writes must be alone. On refusal the claim that is
    /// in the way is the error.
    pub fn claim(&self, disk: DiskId, claim: Claim) -> std::result::Result<(), Claim> {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let holders = claims.entry(disk).or_default();
        let in_the_way = holders
            .iter()
            .find(|held| held.access == Access::ReadWrite || claim.access == Access::ReadWrite)
            .copied();
        match in_the_way {
            Some(held) => Err(held),
            None => {
                holders.push(claim);
                Ok(())
            }
        }
    }

    /// Gives one claim of a domain on a disk back.
    pub fn release(&self, disk: DiskId, domain: Uuid) {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(holders) = claims.get_mut(&disk) {
            if let Some(at) = holders.iter().position(|held| held.domain == domain) {
                holders.swap_remove(at);
            }
            if holders.is_empty() {
                claims.remove(&disk);
            }
        }
    }

    /// Gives everything of a domain back: it is gone.
    pub fn release_all(&self, domain: Uuid) {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        claims.retain(|_, holders| {
            holders.retain(|held| held.domain != domain);
            !holders.is_empty()
        });
    }

    /// How many disks are claimed.
    pub fn len(&self) -> usize {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Uuid = Uuid::from_u128(1);
    const B: Uuid = Uuid::from_u128(2);

    fn claim(domain: Uuid, access: Access) -> Claim {
        Claim { domain, access }
    }

    #[test]
    fn one_writes_alone_or_many_read() {
        let claims = DiskClaims::new();
        let disk = DiskId::File { device: 1, inode: 2 };
        claims.claim(disk, claim(A, Access::ReadOnly)).unwrap();
        claims.claim(disk, claim(B, Access::ReadOnly)).unwrap();
        assert_eq!(claims.claim(disk, claim(B, Access::ReadWrite)), Err(claim(A, Access::ReadOnly)));
        claims.release_all(A);
        claims.release(disk, B);
        claims.claim(disk, claim(B, Access::ReadWrite)).unwrap();
        assert_eq!(claims.claim(disk, claim(A, Access::ReadOnly)), Err(claim(B, Access::ReadWrite)));
        claims.release_all(B);
        assert!(claims.is_empty());
    }

    #[test]
    fn a_hard_link_is_the_same_disk_and_a_folder_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.img");
        std::fs::write(&file, b"x").unwrap();
        std::fs::hard_link(&file, dir.path().join("b.img")).unwrap();
        assert_eq!(DiskId::of(&file).unwrap(), DiskId::of(&dir.path().join("b.img")).unwrap());
        assert_eq!(DiskId::of(dir.path()).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(DiskId::of(&dir.path().join("none")).unwrap_err().kind(), Kind::NotFound);
    }
}
