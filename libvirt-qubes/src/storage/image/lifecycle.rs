//! A volume's life: create, verify, start, stop, recover, resize, remove. The order of steps is the module's promise.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mgmt_block::FileId;

use super::copy::Method;
use super::disk::Durability;
use super::names::{self, Automatic, Image};
use super::place::{CopyInto, Found, NearFull, Place, is_untouched_copy, same_file};
use super::regular::Open;
use super::source_note;
use crate::config::Access;
use crate::error::{At, Kind, Op, Result};
use crate::ids::ByteSize;
use crate::storage::about::About;
use crate::storage::{Ending, Job, Recovered, Started, VolumeId, VolumeInfo, VolumeKind, VolumeSpec};

impl Place<'_> {
    pub(super) fn vacant(&self) -> Result<()> {
        if names::is_ambiguous(&self.id.volume) {
            return Err(self.refuse(Kind::Invalid, "files of this name would be those of another volume"));
        }
        self.not_importing()?;
        if !self.look()?.is_empty() {
            return Err(
                self.refuse(Kind::AlreadyExists, format!("files of it are in {}", self.dir.display()))
            );
        }
        Ok(())
    }

    pub(super) fn create(&self, spec: &VolumeSpec) -> Result<()> {
        if let VolumeKind::Kernel { .. } = spec.kind {
            return Err(self.no_kernels());
        }
        self.vacant()?;
        if spec.kind != VolumeKind::Origin {
            return Ok(());
        }
        let size = self.whole_sectors(spec.size)?;
        self.make_dir()?;
        self.empty(&Image::Clean, size, Durability::Durable).inspect_err(|_| self.drop_empty_dir())?;
        self.sync_dir_name()
    }

    pub(super) fn verify(&self, spec: &VolumeSpec) -> Result<()> {
        let place = match &spec.kind {
            VolumeKind::Volatile => return Ok(()),
            VolumeKind::Kernel { .. } => return Err(self.no_kernels()),
            VolumeKind::Origin if self.look()?.dirty.is_some() => return Ok(()),
            VolumeKind::Origin => self.at(self.id),
            VolumeKind::Snapshot { source } => self.at(source),
        };
        match place.look()?.clean {
            Some(_) => Ok(()),
            None => Err(place.why_no_clean()?),
        }
    }

    fn at<'b>(&'b self, id: &'b VolumeId) -> Place<'b> {
        Place::new(self.shared, id, self.op)
    }

    pub(super) fn start(
        &self,
        spec: &VolumeSpec,
        release_source: &mut dyn FnMut(),
        job: &Job,
    ) -> Result<Started> {
        self.not_importing()?;
        job.check(self.op, self.id)?;
        let mut found = self.look()?;
        self.remove_unfinished(&found)?;
        let dirty = Started { path: self.path(&Image::Dirty), access: spec.access };
        match &spec.kind {
            VolumeKind::Kernel { .. } => Err(self.no_kernels()),
            VolumeKind::Volatile => {
                self.make_dir()?;
                self.empty(&Image::Dirty, self.whole_sectors(spec.size)?, Durability::None)?;
                Ok(dirty)
            }
            VolumeKind::Snapshot { source } => {
                let path = self.start_snapshot(source, &found, release_source, job)?;
                Ok(Started { path, access: spec.access })
            }
            VolumeKind::Origin if found.dirty.is_some() => {
                tracing::warn!(volume = %self.id, "continues on what an earlier run has left uncommitted");
                // A power cut may have taken the time of its last change, not the change: it is no untouched copy.
                let changed = self.open(&Image::Dirty, Open::ToWrite)?.set_modified(SystemTime::now());
                changed.at(self.op, dirty.path.display())?;
                Ok(dirty)
            }
            VolumeKind::Origin if found.clean.is_none() => Err(self.missing()),
            // Nothing will be written: there is nothing to copy or to commit.
            VolumeKind::Origin if spec.access == Access::ReadOnly => {
                Ok(Started { path: self.path(&Image::Clean), access: Access::ReadOnly })
            }
            VolumeKind::Origin => {
                self.start_run(spec, &mut found, job).inspect_err(|_| self.give_up_run(spec))?;
                Ok(dirty)
            }
        }
    }

    fn start_run(&self, spec: &VolumeSpec, found: &mut Found, job: &Job) -> Result<()> {
        if !self.start_in_place(spec, found)? {
            self.start_copy(found, job)?;
        }
        self.sync_dir()
    }

    /// Takes back what a start that failed has made; what cannot be taken back now, the next start continues on.
    fn give_up_run(&self, spec: &VolumeSpec) {
        if let Err(e) = self.look().and_then(|found| self.take_back(spec, &found)) {
            tracing::warn!(volume = %self.id, error = %e.report(), "cannot take a failed start back");
        }
    }

    fn start_snapshot(
        &self,
        source: &VolumeId,
        found: &Found,
        release_source: &mut dyn FnMut(),
        job: &Job,
    ) -> Result<PathBuf> {
        self.make_dir()?;
        let source = self.at(source);
        let export = source.open_clean()?;
        let seen = export.file().metadata().at(self.op, export.path().display())?;
        self.unmap(found)?;
        for image in [Image::Cow, Image::Dirty, Image::Clean] {
            self.remove(&image)?;
        }
        // A copy needs it for `is outdated` alone, so that a file system without links does as well.
        let linked = self.disk().link(export.path(), &self.path(&Image::Clean));
        if let Err(e) = &linked {
            tracing::debug!(volume = %self.id, error = %e, "cannot link the source's image");
        }
        if linked.is_ok() && self.shared.maps() && export.size().get() >= 512 {
            let device = self.map(&export, release_source).inspect_err(|_| self.give_up_map())?;
            self.note_source(&Image::Cow, &seen);
            return Ok(device);
        }
        // The open file stays what it is, whatever becomes of the source now.
        release_source();
        let how = CopyInto {
            method: self.shared.method(),
            durability: Durability::None,
            near_full: NearFull::Refused,
        };
        if let Err(e) = self.copy(&export, &Image::Dirty, how, job) {
            // It holds the source's blocks, which are wanted where there is no room.
            if let Err(left) = self.remove(&Image::Clean) {
                tracing::warn!(volume = %self.id, error = %left.report(), "cannot take back a start's link");
            }
            return Err(e);
        }
        self.note_source(&Image::Dirty, &seen);
        Ok(self.path(&Image::Dirty))
    }

    fn note_source(&self, at: &Image, source: &Metadata) {
        if let Err(e) = source_note::note(&self.path(at), source) {
            tracing::debug!(volume = %self.id, error = %e, "cannot note what the source was like");
        }
    }

    /// Whether what a run was made of is the source's present state.
    fn is_current(&self, found: &Found, taken: &Metadata, now: &Metadata) -> bool {
        let noted_at = if found.cow.is_some() { Image::Cow } else { Image::Dirty };
        same_file(taken, now) && source_note::is_as_noted(&self.path(&noted_at), now)
    }

    /// `false` if this start needs a copy.
    fn start_in_place(&self, spec: &VolumeSpec, found: &mut Found) -> Result<bool> {
        if !self.shared.writes_in_place(spec) {
            return Ok(false);
        }
        // Revisions that are not to be kept go first: one that is the clean image itself would be written too.
        self.remove_twins(found)?;
        self.prune(std::mem::take(&mut found.revisions), 0)?;
        let rename = || match &found.clean {
            // A VM that runs on a snapshot of it would see what is written.
            Some(clean) if self.is_beneath_a_device(clean)? => Ok(false),
            _ => self.rename(&Image::Clean, &Image::Dirty).map(|()| true),
        };
        if !self.shared.uses.unless_read(self.id, rename).unwrap_or(Ok(false))? {
            return Ok(false);
        }
        self.remove(&Image::Precache)?;
        Ok(true)
    }

    fn start_copy(&self, found: &Found, job: &Job) -> Result<()> {
        if let (Some(precache), Some(clean)) = (&found.precache, &found.clean) {
            if is_untouched_copy(precache, clean) {
                return self.rename(&Image::Precache, &Image::Dirty);
            }
            tracing::warn!(volume = %self.id, "drops a prepared copy that is not of the present state");
            self.remove(&Image::Precache)?;
        }
        let how = CopyInto {
            method: self.shared.method(),
            durability: Durability::DataFirst,
            near_full: NearFull::Refused,
        };
        self.copy(&self.open_clean()?, &Image::Dirty, how, job)
    }

    pub(super) fn stop(&self, spec: &VolumeSpec, ending: Ending) -> Result<()> {
        let found = self.look()?;
        match &spec.kind {
            VolumeKind::Origin if ending == Ending::Ran => self.settle(spec, found).map(drop),
            VolumeKind::Origin => self.take_back(spec, &found),
            VolumeKind::Volatile | VolumeKind::Snapshot { .. } => self.drop_run(spec, &found).map(drop),
            VolumeKind::Kernel { .. } => Err(self.no_kernels()),
        }
    }

    pub(super) fn recover(&self, spec: &VolumeSpec) -> Result<Recovered> {
        self.not_importing()?;
        let mut found = self.look()?;
        self.remove_unfinished(&found)?;
        match &spec.kind {
            VolumeKind::Origin => {
                match (&found.dirty, &found.clean) {
                    (None, _) => {
                        self.remove_twins(&mut found)?;
                        Ok(Recovered::Clean)
                    }
                    // Nothing was written, as far as can be seen: a Start that ended before its guest ran. After a power cut
                    // the time of a write may be lost and the write not, so it is not thrown away; but it costs no revision.
                    (Some(dirty), Some(clean)) if is_untouched_copy(dirty, clean) => {
                        self.make_durable(&Image::Dirty)?;
                        self.replace(&Image::Dirty, found, None)?;
                        Ok(Recovered::Committed)
                    }
                    (Some(_), _) => self.settle(spec, found),
                }
            }
            VolumeKind::Volatile | VolumeKind::Snapshot { .. } => self.drop_run(spec, &found),
            VolumeKind::Kernel { .. } => Err(self.no_kernels()),
        }
    }

    /// Makes what a run wrote the committed state.
    fn settle(&self, spec: &VolumeSpec, found: Found) -> Result<Recovered> {
        if found.dirty.is_none() {
            return Ok(Recovered::Clean);
        }
        self.make_durable(&Image::Dirty)?;
        self.commit(spec, &Image::Dirty, found)?;
        Ok(Recovered::Committed)
    }

    fn take_back(&self, spec: &VolumeSpec, found: &Found) -> Result<()> {
        match (&found.dirty, &found.clean) {
            (None, _) => Ok(()),
            (Some(_), None) => {
                self.rename(&Image::Dirty, &Image::Clean)?;
                self.sync_dir()
            }
            (Some(dirty), Some(clean)) if is_untouched_copy(dirty, clean) => {
                if self.shared.prepares_copies(spec) {
                    self.rename(&Image::Dirty, &Image::Precache)?;
                } else {
                    self.remove(&Image::Dirty)?;
                }
                self.sync_dir()
            }
            (Some(_), Some(_)) => Ok(()),
        }
    }

    fn drop_run(&self, spec: &VolumeSpec, found: &Found) -> Result<Recovered> {
        self.unmap(found)?;
        self.remove(&Image::Dirty)?;
        if spec.kind.source().is_some() {
            self.remove(&Image::Cow)?;
            self.remove(&Image::Clean)?;
        }
        Ok(if found.dirty.is_some() || found.cow.is_some() { Recovered::Dropped } else { Recovered::Clean })
    }

    /// Makes the data of `image` durable.
    pub(super) fn make_durable(&self, image: &Image) -> Result<()> {
        let path = self.path(image);
        let file = self.open(image, Open::ToWrite)?;
        self.disk().sync_file(&file, &path).at(self.op, path.display())
    }

    /// Makes `new`, whose data is durable, the committed state; `found` is what is there now.
    pub(super) fn commit(&self, spec: &VolumeSpec, new: &Image, found: Found) -> Result<()> {
        self.replace(new, found, Some(spec.revisions_to_keep.count()))
    }

    /// The same; so many revisions are kept then, that of the state until now among them. `None`: those that there are.
    fn replace(&self, new: &Image, mut found: Found, keep: Option<usize>) -> Result<()> {
        self.drop_unfinished(&found);
        if let Some(keep) = keep {
            self.keep_clean(keep, &mut found)?;
        }
        if found.precache.is_some() {
            self.remove(&Image::Precache)?;
        }
        self.rename(new, &Image::Clean)?;
        self.sync_dir()?;
        // What runs without a clean image had one before.
        if found.clean.is_none() && *new == Image::Import {
            self.sync_dir_name()?;
        }
        // The new state is safe: nothing from here on is worth an error.
        if let Some(keep) = keep
            && let Err(e) = self.prune(found.revisions, keep)
        {
            tracing::warn!(volume = %self.id, error = %e.report(), "cannot remove surplus revisions");
        }
        Ok(())
    }

    /// Refuses a size that no file has here: a volume that is only made at the next start could never be started.
    fn must_hold_file_of(&self, size: ByteSize) -> Result<()> {
        use rustix::fs::{Mode, OFlags};
        let nameless = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        // Where there are no files without a name, the start says it.
        let Ok(file) = rustix::fs::open(&self.shared.dir, nameless, Mode::RUSR | Mode::WUSR) else {
            return Ok(());
        };
        match File::from(file).set_len(size.get()) {
            Err(e) if e.kind() == std::io::ErrorKind::FileTooLarge => {
                let dir = self.shared.dir.display();
                Err(self
                    .refuse(Kind::Invalid, format!("the file system of {dir} has no files of {size} bytes")))
            }
            _ => Ok(()),
        }
    }

    /// Gives the clean image a second name as a revision, unless it has one.
    pub(super) fn keep_clean(&self, keep: usize, found: &mut Found) -> Result<()> {
        let Some(clean) = &found.clean else { return Ok(()) };
        if keep == 0 || found.revisions.iter().any(|(_, m)| same_file(m, clean)) {
            return Ok(());
        }
        let revision = Automatic { number: found.next_revision(), time: clean.mtime() };
        let (from, to) = (self.path(&Image::Clean), self.path(&Image::Revision(revision.clone())));
        self.disk().link(&from, &to).at(self.op, to.display())?;
        found.revisions.push((revision, clean.clone()));
        Ok(())
    }

    /// Removes all but the newest `keep`.
    pub(super) fn prune(&self, revisions: Vec<(Automatic, Metadata)>, keep: usize) -> Result<()> {
        let surplus = revisions.len().saturating_sub(keep);
        for (revision, _) in revisions.into_iter().take(surplus) {
            self.remove(&Image::Revision(revision))?;
        }
        Ok(())
    }

    /// Makes the copy that the next start renames. Without it the start makes its own.
    pub(super) fn prepare(&self, spec: &VolumeSpec) {
        if spec.kind != VolumeKind::Origin || !self.shared.prepares_copies(spec) {
            return;
        }
        let copy = || {
            let found = self.look()?;
            let is_there = match (&found.clean, &found.precache) {
                (Some(clean), Some(precache)) => is_untouched_copy(precache, clean),
                (Some(_), None) => false,
                (None, _) => true,
            };
            if is_there || found.dirty.is_some() || self.shared.uses.is_importing(self.id) {
                return Ok(());
            }
            let how = CopyInto {
                // A copy of the data is not made for nobody: it would take its time before anybody else may use the volume.
                method: Method::ShareAlone,
                durability: Durability::DataFirst,
                near_full: NearFull::Refused,
            };
            self.copy(&self.open_clean()?, &Image::Precache, how, &Job::default())
        };
        match copy() {
            Err(e) if e.kind() == Kind::Unsupported => {
                tracing::debug!(volume = %self.id, error = %e.report(), "the next start makes its own copy");
            }
            Err(e) => {
                tracing::warn!(volume = %self.id, error = %e.report(), "cannot prepare the copy for the next start");
            }
            Ok(()) => {}
        }
    }

    pub(super) fn resize(&self, spec: &VolumeSpec, size: ByteSize) -> Result<()> {
        if spec.access == Access::ReadOnly {
            return Err(self.refuse(Kind::Invalid, format!("Can not resize readonly volume {}", self.id)));
        }
        self.not_importing()?;
        let size = self.whole_sectors(size)?;
        let mut found = self.look()?;
        if found.cow.is_some() {
            return Err(self.refuse_to_grow_device());
        }
        let running = found.dirty.is_some();
        let (image, present) = match (&found.dirty, &found.clean, &spec.kind) {
            (Some(dirty), _, _) => (Image::Dirty, dirty.len()),
            (None, Some(clean), VolumeKind::Origin) => (Image::Clean, clean.len()),
            (None, None, VolumeKind::Origin) => return Err(self.missing()),
            // Nothing of it is on disk: its next start takes the size from its spec or source.
            (None, _, VolumeKind::Volatile) => return self.must_hold_file_of(size),
            (None, _, VolumeKind::Snapshot { .. } | VolumeKind::Kernel { .. }) => return Ok(()),
        };
        if size.get() < present {
            let why =
                format!("a volume cannot be made smaller: it has {present} bytes, {size} were asked for");
            return Err(self.refuse(Kind::Invalid, why));
        }
        if !running {
            self.remove_twins(&mut found)?;
        }
        let path = self.path(&image);
        let file = self.open(&image, Open::ToWrite)?;
        if size.get() > present {
            self.disk().set_len(&file, &path, size.get()).at(self.op, path.display())?;
            let synced = self.disk().sync_file(&file, &path).at(self.op, path.display());
            // Nobody has seen the rest of it yet.
            synced.inspect_err(|_| self.give_up_growth(&file, &path, present))?;
        }
        if running {
            return grow_devices(&file, &path);
        }
        Ok(())
    }

    fn give_up_growth(&self, file: &File, path: &Path, before: u64) {
        if let Err(e) = self.disk().set_len(file, path, before) {
            tracing::warn!(volume = %self.id, error = %e, "cannot take a failed resize back");
        }
    }

    pub(super) fn info(&self, spec: &VolumeSpec) -> Result<VolumeInfo> {
        let found = self.look()?;
        let mine = match &spec.kind {
            VolumeKind::Kernel { .. } => return Err(self.no_kernels()),
            VolumeKind::Origin => found.dirty.as_ref().or(found.clean.as_ref()),
            // The clean image of a snapshot is its source's.
            VolumeKind::Volatile | VolumeKind::Snapshot { .. } => found.dirty.as_ref().or(found.cow.as_ref()),
        };
        let source = match &spec.kind {
            VolumeKind::Snapshot { source } => self.at(source).look()?,
            VolumeKind::Volatile | VolumeKind::Origin | VolumeKind::Kernel { .. } => Found::default(),
        };
        let source = source.clean.or(source.dirty);
        // A device is as large as what it shows; its store is not.
        let image = if found.cow.is_some() { found.clean.as_ref() } else { mine };
        let size = image.or(source.as_ref()).map_or(spec.size, |m| ByteSize::bytes(m.len()));
        let running = found.dirty.as_ref().or(found.cow.as_ref());
        let outdated = match (&spec.kind, running, &found.clean, &source) {
            (VolumeKind::Snapshot { .. }, Some(_), Some(taken), Some(now)) => {
                Some(!self.is_current(&found, taken, now))
            }
            (VolumeKind::Snapshot { .. }, Some(_), Some(_), None) => Some(true),
            (VolumeKind::Snapshot { .. }, Some(_), None, _) => None,
            _ => Some(false),
        };
        let is_mapped = match running {
            Some(_) => found.cow.is_some(),
            None => self.shared.maps() && spec.kind.source().is_some(),
        };
        let path = match (&spec.kind, spec.access, &found.dirty) {
            (VolumeKind::Origin, Access::ReadOnly, None) => Some(self.path(&Image::Clean)),
            // Without a folder there is no name for the device yet.
            _ if is_mapped => self.device().ok(),
            _ => Some(self.path(&Image::Dirty)),
        };
        Ok(VolumeInfo {
            size,
            usage: ByteSize::bytes(mine.map_or(0, |m| m.blocks().saturating_mul(512))),
            path,
            dirty: running.is_some(),
            outdated,
        })
    }

    pub(super) fn remove_all(&self) -> Result<()> {
        self.not_importing()?;
        let (found, _) = self.look_at_all()?;
        self.remove_unfinished(&found)?;
        self.unmap(&found)?;
        for image in [Image::Cow, Image::Dirty, Image::Precache] {
            self.remove(&image)?;
        }
        self.prune(found.revisions, 0)?;
        for (number, _) in found.kept {
            self.remove(&Image::Kept { number })?;
        }
        self.remove(&Image::Clean)?;
        if self.dir.is_dir() {
            self.sync_dir()?;
            self.disk().remove_empty_dir(&self.dir).at(self.op, self.dir.display())?;
        }
        Ok(())
    }

    pub(super) fn whole_sectors(&self, size: ByteSize) -> Result<ByteSize> {
        size.whole_sectors()
            .filter(|size| i64::try_from(size.get()).is_ok())
            .ok_or_else(|| self.refuse(Kind::Invalid, format!("a volume cannot have {size} bytes")))
    }
}

/// Tells the loop devices of a running domain. The backend in the kernel tells the guest.
fn grow_devices(file: &File, path: &Path) -> Result<()> {
    let at = path.display();
    let id = FileId::of(&file.metadata().at(Op::LoopDevice, &at)?);
    for device in mgmt_block::find(|status| status.backing == id).at(Op::LoopDevice, &at)? {
        device.update_capacity().at(Op::LoopDevice, &at)?;
    }
    Ok(())
}
