//! Whether the files that are open are those that the next start will find.
//!
//! A database that is unlinked or replaced under its daemon goes on taking commits, into a file that nobody will
//! ever read again. So it is looked at before each commit.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{At, Error, Kind, Op, Result};

/// A file by what it is, not by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(file: &Metadata) -> Self {
        Self { device: file.dev(), inode: file.ino() }
    }
}

/// The database and its log, as they were found when they were opened.
#[derive(Debug)]
pub(super) struct Files {
    database: PathBuf,
    opened: Identity,
    log: PathBuf,
    /// `None` until there is one: SQLite makes it with the first transaction.
    log_opened: Option<Identity>,
}

impl Files {
    /// Takes down what is open. To be called when the database was read: its log is open then.
    pub(super) fn opened(database: &Path) -> Result<Self> {
        let mut log = database.as_os_str().to_owned();
        log.push("-wal");
        let file = std::fs::metadata(database).at(Op::Store, database.display())?;
        let mut files = Self {
            database: database.to_owned(),
            opened: Identity::of(&file),
            log: log.into(),
            log_opened: None,
        };
        files.check()?;
        Ok(files)
    }

    /// Fails when a file is not there any more, or another lies in its place.
    pub(super) fn check(&mut self) -> Result<()> {
        if look(&self.database)? != Some(self.opened) {
            return Err(lost(&self.database));
        }
        let log = look(&self.log)?;
        match self.log_opened {
            None => self.log_opened = log,
            Some(_) if log == self.log_opened => {}
            Some(_) => return Err(lost(&self.log)),
        }
        Ok(())
    }
}

fn look(path: &Path) -> Result<Option<Identity>> {
    match std::fs::metadata(path) {
        Ok(file) => Ok(Some(Identity::of(&file))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at(Op::Store, path.display()),
    }
}

fn lost(path: &Path) -> Error {
    Error::new(Kind::Unavailable, Op::Store, path.display()).because(
        "it was removed or replaced while this daemon uses it: nothing can be stored any more; \
         stop the daemon, put the file back, start it again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_removed_or_replaced_is_noticed_and_so_is_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let (database, log) = (dir.path().join("state.db"), dir.path().join("state.db-wal"));
        std::fs::write(&database, "x").unwrap();
        let mut files = Files::opened(&database).unwrap();
        files.check().unwrap();
        std::fs::write(&log, "x").unwrap();
        files.check().unwrap();
        for file in [&database, &log] {
            let aside = dir.path().join("aside");
            std::fs::rename(file, &aside).unwrap();
            let gone = files.check().unwrap_err();
            assert_eq!(gone.kind(), Kind::Unavailable);
            assert!(gone.report().contains(file.to_str().unwrap()), "{}", gone.report());
            std::fs::write(file, "x").unwrap();
            assert_eq!(files.check().unwrap_err().kind(), Kind::Unavailable, "another file is not it");
            std::fs::rename(&aside, file).unwrap();
            files.check().unwrap();
        }
    }
}
