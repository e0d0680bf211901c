//! One process alone uses a state directory.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::error::{At, Error, Kind, Op, Result};

/// Holds the lock of a state directory, until it is dropped or the process ends.
#[derive(Debug)]
pub(super) struct StateLock {
    _file: File,
}

impl StateLock {
    /// Takes the lock and leaves this process's number in the file. `Kind::Busy` when another process has
    /// it; the error's source names that one.
    pub(super) fn take(dir: &Path) -> Result<Self> {
        let path = dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .at(Op::Store, path.display())?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(Error::new(Kind::Busy, Op::Store, dir.display()).because(holder(&mut file)));
            }
            Err(error) => return Err(error).at(Op::Store, path.display()),
        }
        let line = format!("{}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(line.as_bytes()))
            .or_else(|error| {
                // A full disk must not keep the daemon from starting: the lock holds without its number.
                if error.kind() == std::io::ErrorKind::StorageFull { Ok(()) } else { Err(error) }
            })
            .at(Op::Store, path.display())?;
        Ok(Self { _file: file })
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(32).read_to_string(&mut text));
    let pid: Option<u32> = read.ok().and_then(|_| text.trim().parse().ok());
    match pid {
        Some(pid) => {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("the state directory is in use by process {pid} ({})", name.trim())
        }
        None => "the state directory is in use by another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_to_lock_is_told_who_was_first_and_gets_it_when_that_one_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateLock::take(dir.path()).unwrap();
        let error = StateLock::take(dir.path()).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy);
        assert!(error.report().contains(&format!("process {}", std::process::id())), "{}", error.report());
        drop(first);
        StateLock::take(dir.path()).unwrap();
    }
}
