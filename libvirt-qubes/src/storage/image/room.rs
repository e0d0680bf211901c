//! Room: what is refused where there is not much, and what an error says where there is none.

use std::error::Error as _;
use std::io;
use std::path::Path;

use super::Shared;
use crate::error::{At, Error, Kind, Op, Result};
use crate::ids::ByteSize;
use crate::storage::PoolUsage;

impl Shared {
    pub(super) fn usage(&self, op: Op) -> Result<PoolUsage> {
        let figures = rustix::fs::statvfs(&self.dir).at(op, self.dir.display())?;
        let bytes = |blocks: u64| ByteSize::bytes(blocks.saturating_mul(figures.f_frsize));
        Ok(PoolUsage {
            size: bytes(figures.f_blocks),
            usage: bytes(figures.f_blocks.saturating_sub(figures.f_bfree)),
            // As `df` sees it: btrfs holds space for metadata that no data gets, ext4 some for root.
            available: Some(bytes(figures.f_bavail)),
            metadata: None,
        })
    }

    /// Refuses what takes space where there is not much left.
    pub(super) fn room(&self, op: Op, what: &dyn std::fmt::Display) -> Result<()> {
        let Some(mark) = self.near_full_percent else { return Ok(()) };
        let percent = self.usage(op)?.data_percent();
        if !self.watermark.is_reached(mark, percent) {
            return Ok(());
        }
        let why = format!(
            "{}the file system of {} is {percent} % full, from {mark} % on what takes space is refused; make it larger, or \
             remove something",
            self.called(),
            self.dir.display()
        );
        Err(Error::new(Kind::NoSpace, op, what).because(why))
    }

    /// What went wrong in the pool, with the pool and its place where the system alone says that there is no room, or none for a
    /// file so large.
    pub(super) fn placed<T>(&self, done: Result<T>) -> Result<T> {
        done.map_err(|error| match error.source().and_then(|said| said.downcast_ref::<io::Error>()) {
            Some(said) => match lack(said, &self.dir) {
                Some(why) => Error::new(error.kind(), error.op(), error.target())
                    .because(format!("{}{why}: {said}", self.called())),
                None => error,
            },
            None => error,
        })
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "io::ErrorKind is open")]
fn lack(said: &io::Error, dir: &Path) -> Option<String> {
    let dir = dir.display();
    match said.kind() {
        io::ErrorKind::StorageFull => {
            Some(format!("the file system of {dir} has no room left; make it larger, or remove something"))
        }
        io::ErrorKind::QuotaExceeded => {
            Some(format!("the quota at {dir} is used up; raise it, or remove something"))
        }
        io::ErrorKind::FileTooLarge => Some(format!("the file system of {dir} has no files so large")),
        _ => None,
    }
}
