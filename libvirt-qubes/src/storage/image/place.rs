//! One volume's files, during one operation: what is there, and the small changes that operations are made of.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::disk::{Disk, Durability, NewFile};
use super::names::{self, Automatic, Image, Named};
use super::regular::{self, Open};
use super::{Copy, Method, Shared};
use crate::error::{At, Error, Kind, Op, Result};
use crate::ids::ByteSize;
use crate::storage::about::About;
use crate::storage::uses::Uses;
use crate::storage::{Export, Job, VolumeId};

pub(super) struct Place<'a> {
    pub(super) shared: &'a Shared,
    pub(super) id: &'a VolumeId,
    pub(super) op: Op,
    pub(super) dir: PathBuf,
}

/// An operation renames a handful of files, with a sync between any two.
const LOOKS: usize = 16;

/// What lies there.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) clean: Option<Metadata>,
    pub(super) dirty: Option<Metadata>,
    pub(super) cow: Option<Metadata>,
    pub(super) precache: Option<Metadata>,
    pub(super) import: Option<Metadata>,
    /// In the order of their numbers.
    pub(super) revisions: Vec<(Automatic, Metadata)>,
    pub(super) kept: Vec<(u64, Metadata)>,
    pub(super) unfinished: Vec<PathBuf>,
}

impl Found {
    pub(super) fn is_empty(&self) -> bool {
        self.clean.is_none()
            && self.dirty.is_none()
            && self.cow.is_none()
            && self.precache.is_none()
            && self.import.is_none()
            && self.revisions.is_empty()
            && self.kept.is_empty()
            && self.unfinished.is_empty()
    }

    /// A number that no revision has.
    pub(super) fn next_revision(&self) -> u64 {
        self.revisions.last().map_or(1, |(r, _)| r.number.saturating_add(1))
    }
}

pub(super) fn same_file(a: &Metadata, b: &Metadata) -> bool {
    a.dev() == b.dev() && a.ino() == b.ino()
}

/// Whether `copy` was made of `image` and not written since: copies take over the time of the last change, in
/// nanoseconds.
pub(super) fn is_untouched_copy(copy: &Metadata, image: &Metadata) -> bool {
    copy.len() == image.len() && copy.mtime() == image.mtime() && copy.mtime_nsec() == image.mtime_nsec()
}

impl About for Place<'_> {
    fn about(&self) -> (Op, &VolumeId) {
        (self.op, self.id)
    }

    fn uses(&self) -> &Uses {
        &self.shared.uses
    }
}

impl<'a> Place<'a> {
    pub(super) fn new(shared: &'a Shared, id: &'a VolumeId, op: Op) -> Self {
        let dir = shared.dir.join(id.group.as_str()).join(id.owner.as_str());
        Self { shared, id, op, dir }
    }

    pub(super) fn disk(&self) -> &'a Disk {
        &self.shared.disk
    }

    pub(super) fn path(&self, image: &Image) -> PathBuf {
        self.dir.join(image.file_name(&self.id.volume))
    }

    pub(super) fn missing(&self) -> Error {
        let clean = self.path(&Image::Clean);
        self.refuse(Kind::NotFound, format!("Missing image file {} for volume {}", clean.display(), self.id))
    }

    /// # Errors
    /// `Corrupt` where something has an image's name and is none.
    pub(super) fn look(&self) -> Result<Found> {
        let (found, odd) = self.look_at_all()?;
        odd.map_or(Ok(found), Err)
    }

    /// The same, with what has an image's name and is none as if it were one: for a removal. And what is wrong with it.
    ///
    /// Whoever holds no lock may look while an operation renames: he looks again then.
    pub(super) fn look_at_all(&self) -> Result<(Found, Option<Error>)> {
        for _ in 0..LOOKS {
            if let Some(found) = self.look_once()? {
                return Ok(found);
            }
        }
        Err(self.refuse(Kind::Busy, "its files change all the time"))
    }

    /// `None`: a file went meanwhile.
    fn look_once(&self) -> Result<Option<(Found, Option<Error>)>> {
        let at = self.dir.display();
        let mut found = Found::default();
        let mut odd = None;
        if !self.has_folder()? {
            return Ok(Some((found, None)));
        }
        let listing = match std::fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Some((found, None))),
            listing => listing.at(self.op, &at)?,
        };
        for entry in listing {
            let entry = entry.at(self.op, &at)?;
            let name = entry.file_name();
            let Some(named) = name.to_str().and_then(|name| names::parse(&self.id.volume, name)) else {
                continue;
            };
            let path = entry.path();
            let image = match named {
                Named::Unfinished => {
                    found.unfinished.push(path);
                    continue;
                }
                Named::Whole(image) => image,
            };
            // Not of what a link leads to.
            let metadata = match std::fs::symlink_metadata(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                metadata => metadata.at(self.op, path.display())?,
            };
            odd = regular::check(&metadata).at(self.op, path.display()).err().or(odd);
            match image {
                Image::Clean => found.clean = Some(metadata),
                Image::Dirty => found.dirty = Some(metadata),
                Image::Cow => found.cow = Some(metadata),
                Image::Precache => found.precache = Some(metadata),
                Image::Import => found.import = Some(metadata),
                Image::Revision(revision) => found.revisions.push((revision, metadata)),
                Image::Kept { number } => found.kept.push((number, metadata)),
            }
        }
        found.revisions.sort_by_key(|(revision, _)| revision.number);
        found.kept.sort_by_key(|(number, _)| *number);
        Ok(Some((found, odd)))
    }

    /// Makes the folder, if need be. Its name is durable only with the first state in it: see
    /// [`sync_dir_name`](Self::sync_dir_name).
    pub(super) fn make_dir(&self) -> Result<()> {
        self.disk().begin_dir(&self.dir).at(self.op, self.dir.display()).map(drop)
    }

    /// After the first state of a volume has become durable in the folder. Whoever made that: a process may have ended
    /// since.
    pub(super) fn sync_dir_name(&self) -> Result<()> {
        self.disk().sync_parent(&self.dir).at(self.op, self.dir.display())
    }

    pub(super) fn sync_dir(&self) -> Result<()> {
        self.disk().sync_dir(&self.dir).at(self.op, self.dir.display())
    }

    pub(super) fn remove(&self, image: &Image) -> Result<()> {
        self.remove_path(&self.path(image))
    }

    pub(super) fn remove_path(&self, path: &Path) -> Result<()> {
        self.disk().remove(path).at(self.op, path.display())
    }

    pub(super) fn rename(&self, from: &Image, to: &Image) -> Result<()> {
        let (from, to) = (self.path(from), self.path(to));
        self.disk().rename(&from, &to).at(self.op, to.display())
    }

    /// Removes what has the name of an unfinished step. There is no import under way.
    pub(super) fn remove_unfinished(&self, found: &Found) -> Result<()> {
        for path in &found.unfinished {
            self.remove_path(path)?;
        }
        if found.import.is_some() {
            self.remove(&Image::Import)?;
        }
        Ok(())
    }

    /// Removes what an earlier process has left unfinished of a volume whose VM ran on: recovery does not come to it. The lock
    /// is held, so that nobody works on it. Not worth an error.
    pub(super) fn drop_unfinished(&self, found: &Found) {
        for path in &found.unfinished {
            if let Err(e) = self.remove_path(path) {
                tracing::warn!(volume = %self.id, error = %e.report(), "what was left unfinished stays");
            }
        }
    }

    /// Removes the VM's folder, if it is empty, after what was to be made in it was not.
    pub(super) fn drop_empty_dir(&self) {
        if let Err(e) = self.disk().remove_empty_dir(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), error = %e, "an empty folder stays");
        }
    }

    /// Removes revisions that are the clean image itself: what a crash left between a commit's link and its rename.
    pub(super) fn remove_twins(&self, found: &mut Found) -> Result<()> {
        let Some(clean) = &found.clean else { return Ok(()) };
        let (twins, revisions) =
            std::mem::take(&mut found.revisions).into_iter().partition(|(_, m)| same_file(m, clean));
        found.revisions = revisions;
        let twins: Vec<(Automatic, Metadata)> = twins;
        for (revision, _) in twins {
            self.remove(&Image::Revision(revision))?;
        }
        Ok(())
    }

    /// Whether the volume's folder is there, and the pool's own.
    fn has_folder(&self) -> Result<bool> {
        let below = Path::new(self.id.group.as_str()).join(self.id.owner.as_str());
        regular::has_folder(&self.shared.dir, &below).at(self.op, self.dir.display())
    }

    /// Opens one of the volume's images.
    pub(super) fn open(&self, image: &Image, how: Open) -> Result<File> {
        let path = self.path(image);
        self.has_folder()?;
        regular::open(&path, how).at(self.op, path.display())
    }

    /// Opens the committed state and keeps it from being written in place.
    pub(super) fn open_clean(&self) -> Result<Export> {
        let path = self.path(&Image::Clean);
        let opened = self.shared.uses.read(self.id, || self.open(&Image::Clean, Open::ToRead));
        let (file, hold) = match opened {
            Err(e) if e.kind() == Kind::NotFound => return Err(self.why_no_clean()?),
            opened => opened?,
        };
        let size = file.metadata().at(self.op, path.display())?.len();
        Ok(Export::new(file, path, ByteSize::bytes(size), hold))
    }

    /// Written in place, or not there at all.
    pub(super) fn why_no_clean(&self) -> Result<Error> {
        Ok(match self.look()?.dirty {
            Some(_) => self.written_in_place(),
            None => self.missing(),
        })
    }

    /// A new `image` with the data of `source`, and with its time of last change.
    pub(super) fn copy(&self, source: &Export, image: &Image, how: CopyInto, job: &Job) -> Result<()> {
        let new = self.begin_copy(source, image, how, job)?;
        new.publish(how.durability).at(self.op, self.path(image).display())
    }

    /// The same without its name yet.
    pub(super) fn begin_copy(
        &self,
        source: &Export,
        image: &Image,
        how: CopyInto,
        job: &Job,
    ) -> Result<NewFile<'a>> {
        let path = self.path(image);
        let new = self.disk().begin(&path).at(self.op, path.display())?;
        let size = source.size().get();
        let within = match how.near_full {
            NearFull::Refused => Some(self.shared),
            NearFull::Tried => None,
        };
        Copy { source: source.file(), size, method: how.method, within, op: self.op, what: self.id, job }
            .fill(new.file())?;
        let changed = source.file().metadata().and_then(|m| m.modified());
        let changed = changed.at(self.op, source.path().display())?;
        new.file().set_modified(changed).at(self.op, path.display())?;
        Ok(new)
    }

    /// A new `image` of `size` that is one hole.
    pub(super) fn empty(&self, image: &Image, size: ByteSize, durability: Durability) -> Result<()> {
        let path = self.path(image);
        let make = || -> io::Result<()> {
            let new = self.disk().begin(&path)?;
            new.file().set_len(size.get())?;
            new.publish(durability)
        };
        make().at(self.op, path.display())
    }
}

/// How a copy is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct CopyInto {
    pub(super) method: Method,
    pub(super) durability: Durability,
    pub(super) near_full: NearFull,
}

/// What becomes of a copy that takes space in a pool that is nearly full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NearFull {
    /// It is refused.
    Refused,
    /// It is made if there is room.
    Tried,
}
