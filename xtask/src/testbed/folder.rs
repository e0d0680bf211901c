//! The folder of one run: what dom0 shares with the host, its disks, the console's log. It is removed when it is dropped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::guests;
use crate::workspace;

/// A folder of its own for this process, under the testbed's.
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// A new one below `testbed`.
    pub(crate) fn create(testbed: &Path) -> Result<Self> {
        let path = testbed.join(format!("run.{}", std::process::id()));
        workspace::remove(&path)?;
        let folder = Self { path };
        for path in [folder.share(), folder.files()] {
            fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        }
        Ok(folder)
    }

    /// What dom0 sees as `/share`.
    pub(crate) fn share(&self) -> PathBuf {
        self.path.join("share")
    }

    /// The log of the serial line.
    pub(crate) fn console(&self) -> PathBuf {
        self.path.join("console.log")
    }

    /// What dom0 sees as `/files`, which it cannot write to.
    pub(crate) fn files(&self) -> PathBuf {
        self.path.join("files")
    }

    /// Puts `from` at `name` of the files: the same file, where one file system allows it.
    pub(crate) fn link(&self, from: &Path, name: &str) -> Result<()> {
        let to = self.files().join(name);
        let folder = to.parent().context("a file needs a name")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        fs::hard_link(from, &to)
            .or_else(|_| fs::copy(from, &to).map(drop))
            .with_context(|| format!("cannot put {} at {}", from.display(), to.display()))
    }

    /// Puts a file with this text at `name` of the share.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        let to = self.share().join(name);
        fs::write(&to, text).with_context(|| format!("cannot write {}", to.display()))
    }

    /// Puts all guests at their places in the files.
    pub(crate) fn add_guests(&self, from: &Path) -> Result<()> {
        guests::FILES.iter().try_for_each(|name| self.link(&from.join(name), &format!("guests/{name}")))
    }

    /// An empty disk of `size` bytes, which takes no space until it is written to.
    pub(crate) fn disk(&self, number: usize, size: u64) -> Result<PathBuf> {
        let path = self.path.join(format!("disk{number}.img"));
        File::create(&path)
            .and_then(|file| file.set_len(size))
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = workspace::remove(&self.path) {
            eprintln!("xtask: {error:#}");
        }
    }
}
