//! A volume's life: create, verify, start, stop, recover, resize, remove. The order of steps is the module's promise.

use std::fs::OpenOptions;

use super::names::Role;
use super::op::{LvOp, Resizing};
use super::place::{Found, Place, Worth};
use super::room::Need;
use crate::config::Access;
use crate::error::{At, Kind, Result};
use crate::ids::ByteSize;
use crate::storage::about::About;
use crate::storage::{
    Ending, Job, Recovered, RevisionsToKeep, Started, VolumeId, VolumeInfo, VolumeKind, VolumeSpec,
};

impl Place<'_> {
    pub(super) fn vacant(&self) -> Result<()> {
        if self.names.is_ambiguous() {
            return Err(self.refuse(Kind::Invalid, "an LV of this name would be one of another volume"));
        }
        self.not_importing()?;
        if !self.look()?.is_vacant() {
            let why = format!("logical volumes {}* are there", self.names.lv(Role::Clean));
            return Err(self.refuse(Kind::AlreadyExists, why));
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
        self.make(Role::Clean, spec.size)
    }

    /// A new, empty LV.
    pub(super) fn make(&self, role: Role, size: ByteSize) -> Result<()> {
        let size = self.whole_extents(size)?;
        self.shared.room(self.op, self.id, Need::Metadata)?;
        self.change(&LvOp::Create { lv: self.names.lv(role), pool: self.shared.pool.clone(), size })
    }

    pub(super) fn verify(&self, spec: &VolumeSpec) -> Result<()> {
        let place = match &spec.kind {
            VolumeKind::Volatile => return Ok(()),
            VolumeKind::Kernel { .. } => return Err(self.no_kernels()),
            VolumeKind::Origin => self.at(self.id)?,
            VolumeKind::Snapshot { source } => self.at(source)?,
        };
        let found = place.look()?;
        let is_dirty = spec.kind == VolumeKind::Origin && found.snap.is_some();
        if is_dirty || found.current().is_some() { Ok(()) } else { Err(place.why_no_current(&found)) }
    }

    pub(super) fn at<'b>(&'b self, id: &'b VolumeId) -> Result<Place<'b>> {
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
        match &spec.kind {
            VolumeKind::Kernel { .. } => Err(self.no_kernels()),
            VolumeKind::Volatile => {
                let mut found = self.look()?;
                self.remove_unfinished(&mut found)?;
                if found.clean.is_some() {
                    self.remove(&[Role::Clean], Worth::Nothing)?;
                }
                self.make(Role::Clean, spec.size)?;
                Ok(self.started(Role::Clean, spec))
            }
            VolumeKind::Snapshot { source } => {
                let source = self.at(source)?;
                let known = self.known_at_rest().zip(source.known());
                self.by_known(
                    known.filter(|(_, theirs)| theirs.current().is_some()),
                    || self.look_with(&source),
                    |(found, theirs)| self.start_from(&source, found, &theirs),
                )?;
                release_source();
                Ok(self.started(Role::Snap, spec))
            }
            VolumeKind::Origin => {
                let known = self.known_at_rest().filter(|found| found.clean.is_some());
                self.by_known(known, || self.look(), |found| self.start_persistent(spec, found))
            }
        }
    }

    /// What is known of a volume that no run, import or removal has left anything of.
    fn known_at_rest(&self) -> Option<Found> {
        self.known().filter(|found| found.snap.is_none() && found.import.is_none() && found.gone.is_empty())
    }

    /// Acts on what is known, if anything is; where that is wrong, a name is missing or taken, and LVM is asked.
    fn by_known<K, T>(
        &self,
        known: Option<K>,
        ask: impl FnOnce() -> Result<K>,
        act: impl Fn(K) -> Result<T>,
    ) -> Result<T> {
        match known.map(&act) {
            Some(Err(e)) if matches!(e.kind(), Kind::NotFound | Kind::AlreadyExists) => {
                tracing::warn!(volume = %self.id, error = %e.report(), "somebody else has changed its LVs");
                act(ask()?)
            }
            Some(done) => done,
            None => act(ask()?),
        }
    }

    fn start_from(&self, source: &Place<'_>, mut found: Found, theirs: &Found) -> Result<()> {
        self.remove_unfinished(&mut found)?;
        let (role, _) = theirs.current().ok_or_else(|| source.why_no_current(theirs))?;
        if found.snap.is_some() {
            self.remove(&[Role::Snap], Worth::Nothing)?;
        }
        self.shared.room(self.op, self.id, Need::Metadata)?;
        self.change(&LvOp::Snapshot { of: source.names.lv(role), lv: self.names.lv(Role::Snap) })
    }

    fn start_persistent(&self, spec: &VolumeSpec, mut found: Found) -> Result<Started> {
        if found.is_vacant() {
            return Err(self.why_no_current(&found));
        }
        self.heal(&mut found)?;
        self.remove_unfinished(&mut found)?;
        if found.snap.is_some() {
            tracing::warn!(volume = %self.id, "continues on what an earlier run has left uncommitted");
            self.shared.forget_start(self.id);
            self.activate(Role::Snap)?;
            return Ok(self.started(Role::Snap, spec));
        }
        if found.clean.is_none() {
            return Err(self.why_no_current(&found));
        }
        // Nothing will be written: there is nothing to copy or to commit.
        if spec.access == Access::ReadOnly {
            self.activate(Role::Clean)?;
            return Ok(self.started(Role::Clean, spec));
        }
        if !self.start_in_place(spec, &found)? {
            self.shared.room(self.op, self.id, Need::Metadata)?;
            self.snapshot(Role::Clean, Role::Snap)?;
        }
        self.shared.note_start(self.id);
        Ok(self.started(Role::Snap, spec))
    }

    fn started(&self, role: Role, spec: &VolumeSpec) -> Started {
        Started { path: self.shared.runner.device(&self.names.lv(role)), access: spec.access }
    }

    /// `false` if this start needs a snapshot.
    fn start_in_place(&self, spec: &VolumeSpec, found: &Found) -> Result<bool> {
        if spec.revisions_to_keep != RevisionsToKeep::Disabled || self.shared.uses.is_read(self.id) {
            return Ok(false);
        }
        // Without revisions there is no doubt which LV is which.
        self.prune(&found.backs, 0)?;
        let renamed = self.shared.uses.unless_read(self.id, || self.rename(Role::Clean, Role::Snap));
        let Some(renamed) = renamed else { return Ok(false) };
        renamed?;
        self.activate(Role::Snap)?;
        Ok(true)
    }

    pub(super) fn stop(&self, spec: &VolumeSpec, ending: Ending) -> Result<()> {
        match &spec.kind {
            VolumeKind::Origin if ending == Ending::Ran => self.end_run(spec),
            VolumeKind::Origin => self.take_back(&self.look()?),
            VolumeKind::Volatile | VolumeKind::Snapshot { .. } => {
                let known = self.known().filter(|found| Self::of_run(spec, found).1);
                self.by_known(known, || self.look(), |found| self.drop_run(spec, &found)).map(drop)
            }
            VolumeKind::Kernel { .. } => Err(self.no_kernels()),
        }
    }

    pub(super) fn recover(&self, spec: &VolumeSpec) -> Result<Recovered> {
        self.not_importing()?;
        if self
            .shared
            .figures
            .at_setup(self.id, &self.names)
            .is_some_and(|found| found.is_at_rest(&spec.kind))
        {
            return Ok(Recovered::Clean);
        }
        let mut found = self.look()?;
        match &spec.kind {
            VolumeKind::Origin => {
                // In this order: a volume without a clean LV is never left with nothing but an import.
                self.heal(&mut found)?;
                self.remove_unfinished(&mut found)?;
                // What looks like a run may have written nothing: no revision is worth less than it.
                Ok(self.settle_all(found)?.0)
            }
            VolumeKind::Volatile | VolumeKind::Snapshot { .. } => {
                self.remove_unfinished(&mut found)?;
                self.drop_run(spec, &found)
            }
            VolumeKind::Kernel { .. } => Err(self.no_kernels()),
        }
    }

    /// Commits what a run wrote, by what is known of it: if that is wrong a rename fails, and LVM is asked.
    fn end_run(&self, spec: &VolumeSpec) -> Result<()> {
        let known = self.known().filter(|found| found.snap.is_some());
        self.by_known(known, || self.look(), |found| self.settle(spec, found)).map(drop)
    }

    /// Makes what a run wrote the committed state.
    fn settle(&self, spec: &VolumeSpec, found: Found) -> Result<Recovered> {
        let recovered = self.settle_all(found)?;
        if let (Recovered::Committed, backs) = recovered {
            self.shared.note_surplus(self.id, backs, spec.revisions_to_keep.count());
        }
        Ok(recovered.0)
    }

    /// The same, and every revision stays. With it: how many there are.
    fn settle_all(&self, mut found: Found) -> Result<(Recovered, usize)> {
        self.shared.forget_start(self.id);
        if found.snap.take().is_none() {
            return Ok((Recovered::Clean, found.backs.len()));
        }
        let backs = self.commit_all(Role::Snap, found)?;
        Ok((Recovered::Committed, backs))
    }

    fn take_back(&self, found: &Found) -> Result<()> {
        // What was there before this process's last start of it may have been written by a domain.
        let is_ours = self.shared.forget_start(self.id);
        match (&found.snap, &found.clean) {
            (Some(_), None) if found.backs.is_empty() => self.rename(Role::Snap, Role::Clean),
            (Some(_), Some(_)) if is_ours => self.remove(&[Role::Snap], Worth::Something),
            _ => Ok(()),
        }
    }

    /// What a run of it makes, and whether that is there.
    fn of_run(spec: &VolumeSpec, found: &Found) -> (Role, bool) {
        match &spec.kind {
            VolumeKind::Volatile => (Role::Clean, found.clean.is_some()),
            VolumeKind::Snapshot { .. } | VolumeKind::Origin | VolumeKind::Kernel { .. } => {
                (Role::Snap, found.snap.is_some())
            }
        }
    }

    fn drop_run(&self, spec: &VolumeSpec, found: &Found) -> Result<Recovered> {
        let (role, there) = Self::of_run(spec, found);
        if !there {
            return Ok(Recovered::Clean);
        }
        self.remove(&[role], Worth::Nothing)?;
        Ok(Recovered::Dropped)
    }

    /// Makes `new` the committed state; `found` is what is there besides. What is left over goes [later](Self::prune_surplus).
    pub(super) fn commit(&self, spec: &VolumeSpec, new: Role, found: Found) -> Result<()> {
        let backs = self.commit_all(new, found)?;
        self.shared.note_surplus(self.id, backs, spec.revisions_to_keep.count());
        Ok(())
    }

    /// How many revisions there are then.
    fn commit_all(&self, new: Role, mut found: Found) -> Result<usize> {
        self.sync(new)?;
        if let Some(clean) = found.clean.take() {
            let back = self.next_back(&found);
            self.rename(Role::Clean, Role::Back(back))?;
            found.backs.push((back, clean));
        }
        self.rename(new, Role::Clean)?;
        Ok(found.backs.len())
    }

    /// Removes what commits of this process have left over, once they are answered: the new state is safe, and what is left
    /// over is not worth an error. What is not removed goes after the next commit.
    pub(super) fn prune_surplus(&self, spec: &VolumeSpec) {
        if self.shared.surplus(self.id).is_none() {
            return;
        }
        let pruned = self.look().and_then(|found| self.prune(&found.backs, spec.revisions_to_keep.count()));
        self.shared.forget_surplus(self.id);
        if let Err(e) = pruned {
            tracing::warn!(volume = %self.id, error = %e.report(), "cannot remove surplus revisions");
        }
    }

    /// Removes all but the newest `keep`.
    fn prune(&self, backs: &[(u64, super::Lv)], keep: usize) -> Result<()> {
        let surplus = backs.len().saturating_sub(keep);
        let roles: Vec<_> = backs.iter().take(surplus).map(|(epoch, _)| Role::Back(*epoch)).collect();
        self.remove(&roles, Worth::Something)
    }

    /// Makes the data of an LV durable. One without a device has been written by nobody since the host came up.
    fn sync(&self, role: Role) -> Result<()> {
        let path = self.shared.runner.device(&self.names.lv(role));
        match OpenOptions::new().write(true).open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            file => file.and_then(|file| file.sync_all()).at(self.op, path.display()),
        }
    }

    pub(super) fn resize(&self, spec: &VolumeSpec, size: ByteSize) -> Result<()> {
        if spec.access == Access::ReadOnly {
            return Err(self.refuse(Kind::Invalid, format!("Can not resize readonly volume {}", self.id)));
        }
        self.not_importing()?;
        let size = self.whole_extents(size)?;
        let found = self.look()?;
        let (role, present) = match (&found.snap, found.current(), &spec.kind) {
            (Some(snap), _, _) => (Role::Snap, snap.size),
            (None, Some((role, lv)), VolumeKind::Origin | VolumeKind::Volatile) => (role, lv.size),
            (None, None, VolumeKind::Origin) => return Err(self.why_no_current(&found)),
            // Nothing of it is there: its next start takes the size from its spec or source.
            (None, _, VolumeKind::Volatile | VolumeKind::Snapshot { .. } | VolumeKind::Kernel { .. }) => {
                return Ok(());
            }
        };
        if size.get() < present {
            let why =
                format!("a volume cannot be made smaller: it has {present} bytes, {size} were asked for");
            return Err(self.refuse(Kind::Invalid, why));
        }
        if size.get() == present {
            return Ok(());
        }
        self.change(&LvOp::Resize { lv: self.names.lv(role), size, how: Resizing::Grow })
    }

    pub(super) fn info(&self, spec: &VolumeSpec) -> Result<VolumeInfo> {
        let source = match &spec.kind {
            VolumeKind::Kernel { .. } => return Err(self.no_kernels()),
            VolumeKind::Snapshot { source } => Some(self.at(source)?),
            VolumeKind::Volatile | VolumeKind::Origin => None,
        };
        let mine = self.shared.figures_of(self)?;
        let theirs = source.as_ref().map(|place| self.shared.figures_of(place)).transpose()?;
        let found = &mine.found;
        let shown = match &spec.kind {
            VolumeKind::Origin => found.snap.as_ref().or(found.current().map(|(_, lv)| lv)),
            VolumeKind::Volatile => found.clean.as_ref(),
            VolumeKind::Snapshot { .. } | VolumeKind::Kernel { .. } => found.snap.as_ref(),
        };
        let source_now = theirs.as_ref().and_then(|theirs| theirs.found.current());
        let source_size =
            theirs.as_ref().and_then(|t| t.found.current().map(|(_, lv)| lv).or(t.found.snap.as_ref()));
        let outdated = match (&spec.kind, &found.snap, source_now) {
            (VolumeKind::Snapshot { .. }, Some(snap), Some((_, now))) => snap.origin != now.name,
            (VolumeKind::Snapshot { .. }, Some(_), None) => true,
            _ => false,
        };
        let dirty = match &spec.kind {
            VolumeKind::Volatile => found.clean.is_some(),
            VolumeKind::Snapshot { .. } | VolumeKind::Origin | VolumeKind::Kernel { .. } => {
                found.snap.is_some()
            }
        };
        let given = match (&spec.kind, spec.access, dirty) {
            (VolumeKind::Volatile, _, _) | (VolumeKind::Origin, Access::ReadOnly, false) => Role::Clean,
            _ => Role::Snap,
        };
        Ok(VolumeInfo {
            size: shown.or(source_size).map_or(spec.size, |lv| ByteSize::bytes(lv.size)),
            usage: shown.map_or(ByteSize::bytes(0), |lv| mine.used(lv)),
            path: Some(self.shared.runner.device(&self.names.lv(given))),
            dirty,
            outdated: Some(outdated),
        })
    }

    pub(super) fn remove_all(&self) -> Result<()> {
        self.not_importing()?;
        let found = self.look()?;
        let backs = found.backs.iter().map(|(epoch, _)| Role::Back(*epoch));
        let kept = found.kept.iter().map(|(number, _)| Role::Kept(*number));
        let rest = [
            found.import.is_some().then_some(Role::Import),
            found.snap.is_some().then_some(Role::Snap),
            found.clean.is_some().then_some(Role::Clean),
        ];
        let roles: Vec<_> = backs.chain(kept).chain(rest.into_iter().flatten()).collect();
        self.shared.forget_start(self.id);
        self.shared.forget_surplus(self.id);
        self.remove(&roles, Worth::Something)?;
        found.gone.iter().try_for_each(|number| self.remove_gone(*number))
    }

    /// LVM rounds up; what is asked for is compared with what LVM makes of it.
    pub(super) fn whole_extents(&self, size: ByteSize) -> Result<ByteSize> {
        let extent = self.shared.geometry(self.op)?.extent;
        size.get()
            .max(1)
            .checked_next_multiple_of(extent.max(512))
            .filter(|size| i64::try_from(*size).is_ok())
            .map(ByteSize::bytes)
            .ok_or_else(|| self.refuse(Kind::Invalid, format!("a volume cannot have {size} bytes")))
    }
}
