//! A file beside the database that is given up when the file system is full, so that what frees space
//! can still be committed. While it is missing, nothing else is.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use crate::error::{Error, Kind, Op, Result};

/// What the ballast gives: many times what one change needs.
const SIZE: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Ballast {
    path: PathBuf,
    is_there: bool,
}

impl Ballast {
    /// The ballast of a state directory, put there if the file system has room.
    pub(super) fn load(dir: &Path) -> Self {
        let path = dir.join("ballast");
        let is_there = is_whole(dir);
        let mut ballast = Self { path, is_there };
        if !ballast.restore() {
            tracing::warn!(path = %ballast.path.display(), "no room for the ballast: only what frees space is stored");
        }
        ballast
    }

    /// Whether it was not given up, or is back.
    pub(super) fn is_there(&self) -> bool {
        self.is_there
    }

    /// Whether the file system would give it more, for this user.
    pub(super) fn could_grow(&self) -> bool {
        let tried = OpenOptions::new().write(true).open(&self.path).and_then(|file| {
            let grown = rustix::fs::fallocate(&file, FallocateFlags::empty(), SIZE as u64, 1 << 16);
            file.set_len(SIZE as u64)?;
            Ok(grown?)
        });
        // Not every file system can do that.
        !tried.is_err_and(|error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        })
    }

    /// Gives the space up. `false` when there is none to give.
    pub(super) fn give_up(&mut self) -> bool {
        if !self.is_there {
            return false;
        }
        self.is_there = false;
        let gone = File::open(&self.path).and_then(|file| {
            std::fs::remove_file(&self.path)?;
            drop(file);
            sync_folder(&self.path)
        });
        match gone {
            Ok(()) => {
                tracing::warn!(path = %self.path.display(), "file system is full: ballast given up");
                true
            }
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "cannot give up the ballast");
                false
            }
        }
    }

    /// Puts it back if it is missing and there is room. Whether it is there.
    pub(super) fn restore(&mut self) -> bool {
        if self.is_there {
            return true;
        }
        match write(&self.path) {
            Ok(()) => {
                tracing::info!(path = %self.path.display(), "the ballast is there");
                self.is_there = true;
            }
            Err(error) => {
                tracing::debug!(path = %self.path.display(), %error, "no room for the ballast");
                if let Err(error) = std::fs::remove_file(&self.path)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    tracing::warn!(path = %self.path.display(), %error, "cannot remove half a ballast");
                }
            }
        }
        self.is_there
    }
}

/// Whether the ballast of a state directory is there.
pub(super) fn is_whole(dir: &Path) -> bool {
    std::fs::metadata(dir.join("ballast")).is_ok_and(|file| file.len() == SIZE as u64)
}

/// Refuses a state that had a store which is gone: beginning anew would hide what is still on disk. A first start makes
/// the ballast after the store.
pub(super) fn must_have_store(dir: &Path, database: &Path) -> Result<()> {
    let empty = std::fs::metadata(database).map_or(true, |file| file.len() == 0);
    if empty && is_whole(dir) {
        let words = "it is gone or empty, and there was one (its 'ballast' is there): put it back, or remove \
                     'ballast' to begin with nothing";
        return Err(Error::new(Kind::Corrupt, Op::Store, database.display()).because(words));
    }
    Ok(())
}

/// Random content, so that a file system that compresses holds it at full size.
fn write(path: &Path) -> io::Result<()> {
    let mut content = Vec::with_capacity(SIZE);
    File::open("/dev/urandom")?.take(SIZE as u64).read_to_end(&mut content)?;
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(&content)?;
    file.sync_all()?;
    sync_folder(path)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ballast_is_given_up_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ballast");
        let mut ballast = Ballast::load(dir.path());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), SIZE as u64);
        assert!(ballast.give_up());
        assert!(!path.exists() && !ballast.give_up());
        assert!(ballast.restore() && path.exists() && ballast.restore());
        assert!(ballast.give_up());
    }

    #[test]
    fn a_ballast_that_is_too_small_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ballast"), b"x").unwrap();
        Ballast::load(dir.path());
        assert_eq!(std::fs::metadata(dir.path().join("ballast")).unwrap().len(), SIZE as u64);
    }
}
