//! Former states: list, go back, keep one, forget one.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use super::ImageDriver;
use super::copy::{self, Method};
use super::disk::Durability;
use super::names::{Automatic, Image, RevisionName};
use super::place::{CopyInto, NearFull, Place, same_file};
use super::regular::Open;
use crate::error::{At, Kind, Op, Result};
use crate::ids::ByteSize;
use crate::storage::about::About;
use crate::storage::{Export, Job, Revision, RevisionId, Revisions, VolumeId, VolumeSpec};

/// A revision that is there.
enum Wanted {
    Automatic(Automatic),
    Kept(u64),
}

impl Revisions for ImageDriver {
    fn revisions(&self, id: &VolumeId) -> Result<Vec<Revision>> {
        let found = self.place(id, Op::InspectStorage).look()?;
        // What is the clean image itself was left by a commit that did not come to its end.
        let is_former = |m: &Metadata| !found.clean.as_ref().is_some_and(|clean| same_file(m, clean));
        let automatic = found.revisions.iter().filter(|(_, m)| is_former(m));
        // Among these their numbers are the order, as for what retention removes: one that was gone back to has an old date.
        let mut latest = (i64::MIN, 0);
        let automatic = automatic.map(|(r, m)| {
            latest = latest.max((r.time, m.mtime_nsec()));
            (latest, r.time, RevisionName::Automatic(r.number))
        });
        // The file of a kept state was made when it was kept; what it holds was committed when its data says.
        let kept = found.kept.iter();
        let kept =
            kept.map(|(number, m)| ((m.mtime(), m.mtime_nsec()), m.mtime(), RevisionName::Kept(*number)));
        let mut all: Vec<_> = automatic.chain(kept).collect();
        all.sort_by_key(|(at, ..)| *at);
        Ok(all
            .into_iter()
            .filter_map(|(_, committed_at, name)| Some(Revision { id: name.id()?, committed_at }))
            .collect())
    }

    fn revert(&self, id: &VolumeId, spec: &VolumeSpec, revision: &RevisionId, job: &Job) -> Result<()> {
        self.shared.placed(self.at_work(id, Op::RevertVolume)?.revert(spec, revision, job))
    }

    fn keep(&self, id: &VolumeId, spec: &VolumeSpec, number: u64, job: &Job) -> Result<RevisionId> {
        self.shared.placed(self.at_work(id, Op::CreateVolume)?.keep(spec, number, job))
    }

    fn forget(&self, id: &VolumeId, revision: &RevisionId) -> Result<()> {
        let place = self.at_work(id, Op::RemoveVolume)?;
        let image = match place.find_revision(revision)? {
            Wanted::Automatic(revision) => Image::Revision(revision),
            Wanted::Kept(number) => Image::Kept { number },
        };
        place.remove(&image)?;
        place.sync_dir()
    }
}

impl Place<'_> {
    fn find_revision(&self, id: &RevisionId) -> Result<Wanted> {
        let found = self.look()?;
        let wanted = match RevisionName::parse(id) {
            Some(RevisionName::Automatic(number)) => {
                let mut all = found.revisions.into_iter();
                all.find(|(r, _)| r.number == number).map(|(r, _)| Wanted::Automatic(r))
            }
            Some(RevisionName::Kept(number)) => {
                found.kept.iter().any(|(n, _)| *n == number).then_some(Wanted::Kept(number))
            }
            None => None,
        };
        wanted.ok_or_else(|| self.refuse(Kind::NotFound, format!("Revision does not exist: '{id}'")))
    }

    fn revert(&self, spec: &VolumeSpec, id: &RevisionId, job: &Job) -> Result<()> {
        self.persistent(spec)?;
        self.not_importing()?;
        let mut found = self.look()?;
        if found.dirty.is_some() {
            let why = format!("Cannot revert dirty volume {}, stop the qube first", self.id);
            return Err(self.refuse(Kind::Busy, why));
        }
        let wanted = self.find_revision(id)?;
        self.remove_unfinished(&found)?;
        let how = CopyInto {
            method: self.shared.method(),
            durability: Durability::DataFirst,
            near_full: NearFull::Tried,
        };
        // What may find no room comes first: nothing is changed then.
        let mut copy = match &wanted {
            Wanted::Automatic(_) => None,
            Wanted::Kept(number) => {
                let kept = self.open_image(&Image::Kept { number: *number })?;
                Some(self.begin_copy(&kept, &Image::Clean, how, job)?)
            }
        };
        if let Some(copy) = &mut copy {
            copy.make_durable().at(self.op, self.dir.display())?;
        }
        let _turn = job.commit_turn();
        let keep = spec.revisions_to_keep.count();
        match self.keep_clean(keep, &mut found) {
            Err(e) if e.kind() == Kind::NoSpace => {
                tracing::warn!(volume = %self.id, "no room to keep the present state as a revision");
            }
            kept => kept?,
        }
        if found.precache.is_some() {
            self.remove(&Image::Precache)?;
        }
        match &wanted {
            Wanted::Automatic(revision) => {
                // Renaming a file to a second name of itself does nothing; then its first name goes.
                let is_clean = found.clean.as_ref().is_some_and(|clean| {
                    found.revisions.iter().any(|(r, m)| r == revision && same_file(m, clean))
                });
                let image = Image::Revision(revision.clone());
                if is_clean {
                    self.remove(&image)?;
                } else {
                    self.rename(&image, &Image::Clean)?;
                }
                found.revisions.retain(|(r, _)| r != revision);
            }
            Wanted::Kept(_) => {}
        }
        if let Some(copy) = copy {
            copy.publish(how.durability).at(self.op, self.dir.display())?;
        }
        self.sync_dir()?;
        if let Err(e) = self.prune(found.revisions, keep) {
            tracing::warn!(volume = %self.id, error = %e.report(), "cannot remove surplus revisions");
        }
        Ok(())
    }

    fn keep(&self, spec: &VolumeSpec, number: u64, job: &Job) -> Result<RevisionId> {
        self.persistent(spec)?;
        self.not_importing()?;
        let found = self.look()?;
        let name = RevisionName::Kept(number);
        let id = name.id().ok_or_else(|| self.refuse(Kind::Invalid, "no name for this number"))?;
        if found.kept.iter().any(|(n, _)| *n == number) {
            return Err(self.refuse(Kind::AlreadyExists, format!("revision {id} is there already")));
        }
        self.drop_unfinished(&found);
        self.make_kept(&Image::Kept { number }, found.dirty.is_some(), job).inspect_err(|_| {
            if let Err(left) = self.remove(&Image::Kept { number }) {
                tracing::warn!(volume = %self.id, error = %left.report(), "a state that was not to be kept stays");
            }
        })?;
        Ok(id)
    }

    fn make_kept(&self, image: &Image, running: bool, job: &Job) -> Result<()> {
        let how = CopyInto {
            method: self.shared.method(),
            durability: Durability::Durable,
            near_full: NearFull::Refused,
        };
        if !running {
            return self.copy(&self.open_clean()?, image, how, job);
        }
        // Only sharing blocks takes the whole of a file that is being written at one instant.
        let path = self.path(image);
        let shared = match how.method {
            Method::Data => false,
            Method::Share | Method::ShareAlone => {
                let source = self.open_image(&Image::Dirty)?;
                let new = self.disk().begin(&path).at(self.op, path.display())?;
                copy::share(source.file(), new.file()).at(self.op, path.display())?
                    && new.publish(how.durability).at(self.op, path.display()).map(|()| true)?
            }
        };
        if shared {
            return Ok(());
        }
        let why = format!("Volume {} is running: this driver keeps the state of a stopped VM only", self.id);
        Err(self.refuse(Kind::Busy, why))
    }

    fn open_image(&self, image: &Image) -> Result<Export> {
        let path = self.path(image);
        let file = self.open(image, Open::ToRead)?;
        let size = file.metadata().at(self.op, path.display())?.len();
        Ok(Export::new(file, path, ByteSize::bytes(size), ()))
    }
}
