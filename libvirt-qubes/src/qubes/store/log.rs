//! The file of the write-ahead log. It is made once at a size that holds what frees space, and never given back: on a
//! full file system a transaction is written over blocks that the file has.

use std::fs::OpenOptions;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How long it is at least: many times what one change needs.
pub(super) const SIZE: u64 = 1 << 20;

/// What SQLite calls the log's header; without it the log is empty.
const HEADER: usize = 32;

#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    is_whole: bool,
}

impl LogFile {
    pub(super) fn of(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-wal");
        Self { path: path.into(), is_whole: false }
    }

    /// Makes the file as long as it has to be, if it is not and there is room. Whether it is.
    ///
    /// SQLite has made it, reads it to its last good frame, and writes on from there: what lies behind is nothing to it.
    pub(super) fn reserve(&mut self) -> bool {
        if !self.is_whole {
            match lengthen(&self.path) {
                Ok(()) => self.is_whole = true,
                Err(error) => tracing::debug!(path = %self.path.display(), %error, "no room for the log"),
            }
        }
        self.is_whole
    }

    /// Makes a log empty that was folded and closed: it must not be read into a database that somebody puts in the
    /// place of this one.
    pub(super) fn void(&self) -> io::Result<()> {
        match OpenOptions::new().write(true).open(&self.path) {
            Ok(file) => file.write_all_at(&[0; HEADER], 0).and_then(|()| file.sync_data()),
            // Somebody took it away.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// With zeros that are written, so that no block of it is left to be found later.
fn lengthen(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let length = file.seek(SeekFrom::End(0))?;
    let Some(missing) = SIZE.checked_sub(length).and_then(|missing| usize::try_from(missing).ok()) else {
        return Ok(());
    };
    file.write_all(&vec![0; missing])?;
    file.sync_all()
}
