//! Copying an image: by sharing its blocks, else its data without its holes.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::io::Errno;

use super::Shared;
use crate::error::{At, Error, Kind, Op, Result};
use crate::storage::sparse::{BLOCK, SparseWriter, next_data};
use crate::storage::transfer::LOOK_EACH;
use crate::storage::{Job, Progress};

/// Between two looks at the cancel token.
const CHUNK: u64 = 16 * 1024 * 1024;

/// How a driver copies images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// `FICLONE`; the data where the two files cannot share blocks.
    Share,
    /// `FICLONE`, or nothing.
    ShareAlone,
    /// The data.
    Data,
}

/// What a copy is about, for its errors.
pub(super) struct Copy<'a> {
    pub(super) source: &'a File,
    pub(super) size: u64,
    pub(super) method: Method,
    /// The pool whose watermark a copy of data keeps to.
    pub(super) within: Option<&'a Shared>,
    pub(super) op: Op,
    pub(super) what: &'a dyn std::fmt::Display,
    pub(super) job: &'a Job,
}

impl Copy<'_> {
    /// Fills the empty file `target`. Its length is the source's, at least `size`.
    pub(super) fn fill(&self, target: &File) -> Result<()> {
        self.job.check(self.op, self.what)?;
        if self.method != Method::Data && share(self.source, target).at(self.op, self.what)? {
            self.job.report(Progress { done: self.size, total: self.size });
            return Ok(());
        }
        if self.method == Method::ShareAlone {
            let why = "these files cannot share blocks";
            return Err(Error::new(Kind::Unsupported, self.op, self.what).because(why));
        }
        self.data(target)
    }

    fn data(&self, target: &File) -> Result<()> {
        if let Some(pool) = self.within
            && takes_space(self.source).at(self.op, self.what)?
        {
            pool.room(self.op, self.what)?;
        }
        target.set_len(self.size).at(self.op, self.what)?;
        let mut look = Look { pool: self.within, unchecked: 0 };
        let mut offset = 0;
        while offset < self.size {
            let Some((start, end)) = next_data(self.source, offset, self.size).at(self.op, self.what)? else {
                break;
            };
            self.range(target, start, end, &mut look)?;
            offset = end;
        }
        self.job.report(Progress { done: self.size, total: self.size });
        Ok(())
    }

    fn range(&self, target: &File, start: u64, end: u64, look: &mut Look<'_>) -> Result<()> {
        let mut offset = start;
        while offset < end {
            self.job.check(self.op, self.what)?;
            let chunk = CHUNK.min(end - offset);
            match copy_range(self.source, target, offset, chunk).at(self.op, self.what)? {
                Some(copied) => {
                    offset += copied;
                    look.after(copied, self.op, self.what)?;
                }
                None => return self.by_hand(target, offset, end, look),
            }
            self.job.report(Progress { done: offset, total: self.size });
        }
        Ok(())
    }

    /// Where the kernel does not copy by itself: between file systems, and from block devices, which show no
    /// holes.
    fn by_hand(&self, target: &File, start: u64, end: u64, look: &mut Look<'_>) -> Result<()> {
        let mut buffer = vec![0; 16 * BLOCK];
        let mut writer = SparseWriter::new(target.try_clone().at(self.op, self.what)?);
        // To a multiple of the block that is not past the start: rereads at most one block.
        let mut offset = start - start % BLOCK as u64;
        writer.skip(offset).at(self.op, self.what)?;
        while offset < end {
            self.job.check(self.op, self.what)?;
            let wanted = usize::try_from(end - offset).unwrap_or(usize::MAX).min(buffer.len());
            let part = buffer.get_mut(..wanted).unwrap_or_default();
            self.source.read_exact_at(part, offset).at(self.op, self.what)?;
            writer.write(part).at(self.op, self.what)?;
            offset += usize_to_u64(wanted);
            look.after(usize_to_u64(wanted), self.op, self.what)?;
            self.job.report(Progress { done: offset, total: self.size });
        }
        writer.finish(self.size).at(self.op, self.what)?;
        Ok(())
    }
}

/// Looks at the watermark again as data is copied.
struct Look<'a> {
    pool: Option<&'a Shared>,
    /// Bytes since it was last looked at.
    unchecked: u64,
}

impl Look<'_> {
    fn after(&mut self, copied: u64, op: Op, what: &dyn std::fmt::Display) -> Result<()> {
        self.unchecked = self.unchecked.saturating_add(copied);
        match self.pool {
            Some(pool) if self.unchecked >= LOOK_EACH => {
                self.unchecked = 0;
                pool.room(op, what)
            }
            _ => Ok(()),
        }
    }
}

/// Whether a copy of the data takes space: a file may be one hole; a block device does not tell.
fn takes_space(source: &File) -> io::Result<bool> {
    let metadata = source.metadata()?;
    Ok(!metadata.is_file() || metadata.blocks() > 0)
}

/// Whether `target` shares all blocks of `source` now. `false`: these two files cannot.
pub(super) fn share(source: &File, target: &File) -> io::Result<bool> {
    match rustix::fs::ioctl_ficlone(target, source) {
        Ok(()) => Ok(true),
        Err(Errno::BADF | Errno::INVAL | Errno::OPNOTSUPP | Errno::XDEV) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Copies within the kernel; `None` if it cannot with these two files.
fn copy_range(source: &File, target: &File, offset: u64, length: u64) -> io::Result<Option<u64>> {
    let (mut from, mut to) = (offset, offset);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), length) {
        // Some file systems say so instead of refusing; reading by hand finds out.
        Ok(0) => Ok(None),
        Ok(copied) => Ok(Some(u64::try_from(copied).unwrap_or(0))),
        Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM | Errno::BADF) => {
            Ok(None)
        }
        Err(Errno::INTR) => copy_range(source, target, offset, usize_to_u64(length)),
        Err(e) => Err(e.into()),
    }
}

fn usize_to_u64(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
