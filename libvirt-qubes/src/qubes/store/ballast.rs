//! A file beside the database that is given up when the file system is full, so that what frees space
//! can still be committed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What the ballast gives: many times what one change needs.
const SIZE: usize = 1 << 20;

/// How long to wait before another try to put it back on a file system that was full.
const RETRY: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Ballast {
    path: PathBuf,
    missing_since: Option<Instant>,
}

impl Ballast {
    /// The ballast of a state directory, put there if the file system has room.
    pub(super) fn load(dir: &Path) -> Self {
        let mut ballast = Self { path: dir.join("ballast"), missing_since: None };
        let whole = std::fs::metadata(&ballast.path).is_ok_and(|file| file.len() == SIZE as u64);
        if !whole {
            ballast.put();
        }
        ballast
    }

    /// Gives the space up. `false` when there is none to give.
    pub(super) fn give_up(&mut self) -> bool {
        if self.missing_since.is_some() {
            return false;
        }
        self.missing_since = Some(Instant::now());
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

    /// Puts it back after it was given up, when there may be room again.
    pub(super) fn restore(&mut self) {
        if self.missing_since.is_some_and(|since| since.elapsed() >= RETRY) {
            self.put();
        }
    }

    fn put(&mut self) {
        match write(&self.path) {
            Ok(()) => self.missing_since = None,
            Err(error) => {
                self.missing_since = Some(Instant::now());
                if let Err(error) = std::fs::remove_file(&self.path)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    tracing::warn!(path = %self.path.display(), %error, "cannot remove half a ballast");
                }
                tracing::warn!(path = %self.path.display(), %error, "no room for the ballast");
            }
        }
    }
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
        ballast.put();
        assert!(path.exists() && ballast.give_up());
    }

    #[test]
    fn a_ballast_that_is_too_small_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ballast"), b"x").unwrap();
        Ballast::load(dir.path());
        assert_eq!(std::fs::metadata(dir.path().join("ballast")).unwrap().len(), SIZE as u64);
    }
}
