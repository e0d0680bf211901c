//! SQLite's errors as errors of the lower layer.

use std::fmt;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::Path;

use rusqlite::ErrorCode;

use crate::error::{Error, Kind, Op, Result};

/// Names the object that an access to the store was about.
pub(in super::super) trait AtStore<T> {
    /// The kind follows from SQLite's code.
    fn at_store(self, target: impl fmt::Display) -> Result<T>;
}

impl<T> AtStore<T> for rusqlite::Result<T> {
    fn at_store(self, target: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Error::new(kind(&error), Op::Store, target).because(error))
    }
}

fn kind(error: &rusqlite::Error) -> Kind {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Kind::NoSpace,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Kind::Busy,
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => Kind::Denied,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation) => {
            Kind::Corrupt
        }
        Some(ErrorCode::OutOfMemory) => Kind::NoMemory,
        Some(_) => Kind::Io,
        None => Kind::Corrupt,
    }
}

/// The failure with its cause, where SQLite has none: all that it says of a file system that turned read-only is that
/// a write failed. Blocks.
pub(in super::super) fn explained(error: Error, database: &str) -> Error {
    if error.kind() != Kind::Io {
        return error;
    }
    let probe = Path::new(database).with_file_name("lock.probe");
    match OpenOptions::new().write(true).create(true).truncate(false).open(&probe) {
        Err(why) if why.kind() == ErrorKind::ReadOnlyFilesystem => {
            Error::new(Kind::Denied, Op::Store, database).because("the file system is read-only")
        }
        Err(_) => error,
        Ok(_) => {
            if let Err(error) = std::fs::remove_file(&probe) {
                tracing::warn!(path = %probe.display(), %error, "a probe of the file system stays");
            }
            error
        }
    }
}

/// Whether a failure concerns one change alone: it contradicts the store's constraints. After any other the
/// whole transaction is in doubt.
pub(in super::super) fn of_one_change(error: &rusqlite::Error) -> bool {
    match error.sqlite_error_code() {
        Some(code) => code == ErrorCode::ConstraintViolation,
        None => true,
    }
}
