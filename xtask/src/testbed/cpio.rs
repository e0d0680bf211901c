//! Writes an initramfs: the "newc" cpio format of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
//!
//! Owner is root throughout and device nodes are entries like any other, so that no root is needed to make one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const FOLDER: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// What lies at one path.
enum Entry {
    Folder,
    File { from: PathBuf, mode: u32 },
    Bytes { bytes: Vec<u8>, mode: u32 },
    Symlink { target: String },
    Character { major: u32, minor: u32 },
}

/// The tree of an initramfs, in memory until it is written. Paths have no leading slash.
#[derive(Default)]
pub(crate) struct Archive {
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    fn add(&mut self, path: &str, entry: Entry) {
        let mut above = path;
        while let Some((parent, _)) = above.rsplit_once('/') {
            self.entries.entry(parent.to_owned()).or_insert(Entry::Folder);
            above = parent;
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// A folder, and those above it.
    pub(crate) fn folder(&mut self, path: &str) {
        self.add(path, Entry::Folder);
    }

    /// A copy of the file `from`, executable or not as that one is.
    pub(crate) fn file(&mut self, path: &str, from: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let metadata = from.metadata().with_context(|| format!("cannot read {}", from.display()))?;
        let mode = if metadata.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 };
        self.add(path, Entry::File { from: from.to_owned(), mode });
        Ok(())
    }

    /// A file with this text.
    pub(crate) fn text(&mut self, path: &str, text: &str) {
        self.add(path, Entry::Bytes { bytes: text.as_bytes().to_vec(), mode: 0o644 });
    }

    /// An executable script with this text.
    pub(crate) fn script(&mut self, path: &str, text: &str) {
        self.add(path, Entry::Bytes { bytes: text.as_bytes().to_vec(), mode: 0o755 });
    }

    /// A symbolic link.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        self.add(path, Entry::Symlink { target: target.to_owned() });
    }

    /// A character device.
    pub(crate) fn character(&mut self, path: &str, major: u32, minor: u32) {
        self.add(path, Entry::Character { major, minor });
    }

    /// Writes the archive to the new file `to`.
    pub(crate) fn write(&self, to: &Path) -> Result<()> {
        let named = || format!("cannot write {}", to.display());
        let mut out = BufWriter::new(File::create(to).with_context(named)?);
        for (number, (path, entry)) in self.entries.iter().enumerate() {
            let bytes;
            let (mode, device, data): (u32, (u32, u32), &[u8]) = match entry {
                Entry::Folder => (FOLDER | 0o755, (0, 0), &[]),
                Entry::Bytes { bytes, mode } => (REGULAR | mode, (0, 0), bytes),
                Entry::Symlink { target } => (SYMLINK | 0o777, (0, 0), target.as_bytes()),
                Entry::Character { major, minor } => (CHARACTER | 0o600, (*major, *minor), &[]),
                Entry::File { from, mode } => {
                    bytes = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
                    (REGULAR | mode, (0, 0), &bytes)
                }
            };
            record(&mut out, number + 1, path, mode, device, data).with_context(named)?;
        }
        record(&mut out, 0, "TRAILER!!!", 0, (0, 0), &[]).and_then(|()| out.flush()).with_context(named)
    }
}

fn record(
    out: &mut impl Write,
    number: usize,
    path: &str,
    mode: u32,
    (major, minor): (u32, u32),
    data: &[u8],
) -> io::Result<()> {
    let (size, name) = (data.len(), path.len() + 1);
    // magic, ino, mode, uid, gid, nlink, mtime, filesize, dev (major, minor), rdev (major, minor), namesize, check
    write!(
        out,
        "070701{number:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}{0:08x}{0:08x}{major:08x}{minor:08x}\
         {name:08x}{0:08x}{path}\0",
        0, 1
    )?;
    pad(out, 110 + name)?;
    out.write_all(data)?;
    pad(out, size)
}

fn pad(out: &mut impl Write, length: usize) -> io::Result<()> {
    out.write_all(&[0; 3][..length.wrapping_neg() % 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_before_what_lies_in_them_and_the_trailer_last() {
        let mut archive = Archive::default();
        archive.script("init", "#!/bin/sh\n");
        archive.text("etc/deep/name", "abcde");
        archive.symlink("bin", "usr/bin");
        archive.character("dev/console", 5, 1);
        let file = std::env::temp_dir().join(format!("xtask-cpio-{}", std::process::id()));
        archive.write(&file).unwrap();
        let bytes = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        let field = |at: usize, n: usize| {
            let digits = std::str::from_utf8(&bytes[at + 6 + 8 * n..at + 14 + 8 * n]).unwrap();
            usize::from_str_radix(digits, 16).unwrap()
        };
        let mut at = 0;
        let mut seen = Vec::new();
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let (size, name) = (field(at, 6), field(at, 11));
            let path = String::from_utf8(bytes[at + 110..at + 109 + name].to_vec()).unwrap();
            seen.push(format!("{path} {:o} {},{} {size}", field(at, 1), field(at, 9), field(at, 10)));
            at = (at + 110 + name).next_multiple_of(4);
            at = (at + size).next_multiple_of(4);
        }
        assert_eq!(
            seen,
            [
                "bin 120777 0,0 7",
                "dev 40755 0,0 0",
                "dev/console 20600 5,1 0",
                "etc 40755 0,0 0",
                "etc/deep 40755 0,0 0",
                "etc/deep/name 100644 0,0 5",
                "init 100755 0,0 10",
                "TRAILER!!! 0 0,0 0",
            ]
        );
    }

    #[test]
    fn every_record_begins_on_a_multiple_of_four_bytes() {
        for (path, data) in [("a", ""), ("ab", "x"), ("abc", "xy"), ("abcd", "xyz"), ("abcde", "wxyz")] {
            let mut out = Vec::new();
            record(&mut out, 1, path, REGULAR, (0, 0), data.as_bytes()).unwrap();
            assert_eq!(out.len() % 4, 0, "{path} {data}");
            assert_eq!(&out[..14], b"07070100000001");
        }
    }
}
