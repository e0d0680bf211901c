//! The folder of one run: what dom0 shares with the host, its disks, the console's log. It is removed when it is dropped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::guests;
use crate::workspace;

/// Followed by the number of the process that it belongs to.
const PREFIX: &str = "run.";

/// A folder of its own for this process, under the testbed's.
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// A new one below `testbed`.
    pub(crate) fn create(testbed: &Path) -> Result<Self> {
        remove_orphans(testbed)?;
        let path = testbed.join(format!("{PREFIX}{}", std::process::id()));
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

/// Removes what runs have left whose process was killed.
fn remove_orphans(testbed: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(testbed) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            workspace::remove(&entry.path())?;
        }
    }
    Ok(())
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = workspace::remove(&self.path) {
            eprintln!("xtask: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_folder_replaces_those_of_processes_that_are_gone_and_goes_itself() {
        let testbed = std::env::temp_dir().join(format!("xtask-folder-{}", std::process::id()));
        let (orphan, other) = (testbed.join("run.0"), testbed.join("run.1"));
        fs::create_dir_all(&orphan).unwrap();
        fs::create_dir_all(&other).unwrap();
        let folder = Folder::create(&testbed).unwrap();
        assert!(folder.share().is_dir() && folder.files().is_dir());
        assert!(!orphan.exists() && other.exists(), "process 1 lives");
        let path = folder.path.clone();
        drop(folder);
        assert!(!path.exists());
        fs::remove_dir_all(&testbed).unwrap();
    }
}
