//! The steps that change a file system: each one atomic, each one announced to whoever watches.
//!
//! A test watches to cut the work off between any two steps; nothing else does. The blocking calls are plain
//! `std::fs` and `rustix`.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::names;

/// A change that has just been made. Not durable before the sync that follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A folder was made.
    MakeDir(PathBuf),
    /// An empty file was made.
    Create(PathBuf),
    /// A file has all its data.
    Fill(PathBuf),
    /// A file's size was changed.
    Resize(PathBuf),
    /// A file's data and size are durable.
    SyncFile(PathBuf),
    /// The names in a folder are durable.
    SyncDir(PathBuf),
    /// A file has another name, in place of whatever had it.
    Rename {
        /// The name before.
        from: PathBuf,
        /// The name now.
        to: PathBuf,
    },
    /// A file has a second name.
    Link {
        /// The first name.
        from: PathBuf,
        /// The new name.
        to: PathBuf,
    },
    /// A file or an empty folder has lost its name.
    Remove(PathBuf),
    /// A file is a loop device, for as long as something has that open.
    Attach(PathBuf),
    /// A device of device-mapper was made.
    Map(PathBuf),
    /// One was removed, with the loop devices beneath it.
    Unmap(PathBuf),
}

/// How sure a new file must be before it gets its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// Data and name are durable on return.
    Durable,
    /// The name never shows data that is not durable; the name itself may be lost in a crash.
    DataFirst,
    /// Worth nothing after a crash.
    None,
}

type Observer = Arc<dyn Fn(&Step) + Send + Sync>;

#[derive(Clone, Default)]
pub(super) struct Disk {
    observer: Option<Observer>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("observed", &self.observer.is_some()).finish()
    }
}

impl Disk {
    pub(super) fn observed(observer: impl Fn(&Step) + Send + Sync + 'static) -> Self {
        Self { observer: Some(Arc::new(observer)) }
    }

    pub(super) fn done(&self, step: impl FnOnce() -> Step) {
        if let Some(observer) = &self.observer {
            observer(&step());
        }
    }

    /// Makes one folder, for root alone, and its name durable. `false` if it is there already.
    pub(super) fn make_dir(&self, path: &Path) -> io::Result<bool> {
        let made = self.begin_dir(path)?;
        if made {
            self.sync_parent(path)?;
        }
        Ok(made)
    }

    /// Makes one folder, for root alone. `false` if it is there already.
    pub(super) fn begin_dir(&self, path: &Path) -> io::Result<bool> {
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(false),
            Err(e) => return Err(e),
        }
        self.done(|| Step::MakeDir(path.to_owned()));
        Ok(true)
    }

    /// Makes an empty file, exclusively.
    pub(super) fn create(&self, path: &Path) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        self.done(|| Step::Create(path.to_owned()));
        Ok(file)
    }

    /// Begins a file that is to be `path`.
    pub(super) fn begin(&self, path: &Path) -> io::Result<NewFile<'_>> {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let unfinished = path.with_file_name(names::unfinished(name));
        let file = self.create(&unfinished)?;
        let path = path.to_owned();
        Ok(NewFile { disk: self, file, unfinished, path, is_durable: false, is_published: false })
    }

    pub(super) fn set_len(&self, file: &File, path: &Path, size: u64) -> io::Result<()> {
        file.set_len(size)?;
        self.done(|| Step::Resize(path.to_owned()));
        Ok(())
    }

    pub(super) fn sync_file(&self, file: &File, path: &Path) -> io::Result<()> {
        file.sync_all()?;
        self.done(|| Step::SyncFile(path.to_owned()));
        Ok(())
    }

    pub(super) fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()?;
        self.done(|| Step::SyncDir(path.to_owned()));
        Ok(())
    }

    pub(super) fn sync_parent(&self, path: &Path) -> io::Result<()> {
        self.sync_dir(path.parent().unwrap_or(Path::new("/")))
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)?;
        self.done(|| Step::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    pub(super) fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)?;
        self.done(|| Step::Link { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    /// A file that is not there is removed already.
    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Ok(()) => self.done(|| Step::Remove(path.to_owned())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Removes a folder if it is empty, durably.
    pub(super) fn remove_empty_dir(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_dir(path) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
                return Ok(());
            }
            Err(e) => return Err(e),
        }
        self.done(|| Step::Remove(path.to_owned()));
        self.sync_parent(path)
    }
}

/// A file under the name of an unfinished step. Dropped, it is removed.
pub(super) struct NewFile<'a> {
    disk: &'a Disk,
    file: File,
    unfinished: PathBuf,
    path: PathBuf,
    is_durable: bool,
    is_published: bool,
}

impl NewFile<'_> {
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Makes the data durable, which can fail where there is no room; its name can then not.
    pub(super) fn make_durable(&mut self) -> io::Result<()> {
        self.disk.done(|| Step::Fill(self.unfinished.clone()));
        self.disk.sync_file(&self.file, &self.unfinished)?;
        self.is_durable = true;
        Ok(())
    }

    /// Gives the file its name, at once: whoever looks sees what had the name before, or this file whole.
    pub(super) fn publish(mut self, durability: Durability) -> io::Result<()> {
        match durability {
            Durability::None => self.disk.done(|| Step::Fill(self.unfinished.clone())),
            Durability::DataFirst | Durability::Durable if self.is_durable => {}
            Durability::DataFirst | Durability::Durable => self.make_durable()?,
        }
        self.disk.rename(&self.unfinished, &self.path)?;
        self.is_published = true;
        if durability == Durability::Durable {
            self.disk.sync_parent(&self.path)?;
        }
        Ok(())
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if self.is_published {
            return;
        }
        // There is an error to tell already; what cannot be removed now, recovery removes.
        if let Err(e) = std::fs::remove_file(&self.unfinished) {
            tracing::warn!(path = %self.unfinished.display(), error = %e, "cannot remove an unfinished file");
        }
    }
}
