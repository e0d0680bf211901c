//! Former states: list, go back, keep one, forget one.

use super::LvmDriver;
use super::names::Role;
use super::place::{Found, Place, Worth};
use super::room::Need;
use crate::error::{Kind, Op, Result};
use crate::storage::about::About;
use crate::storage::{Job, Revision, RevisionId, Revisions, VolumeId, VolumeSpec};

impl Revisions for LvmDriver {
    fn revisions(&self, id: &VolumeId) -> Result<Vec<Revision>> {
        let place = self.place(id, Op::InspectStorage)?;
        let figures = self.shared.figures_of(&place)?;
        let found = &figures.found;
        // In the name is when the state ceased to be the present one; a kept one's LV was made when it was kept.
        let surplus = self.shared.surplus(id).map_or(0, |keep| found.backs.len().saturating_sub(keep));
        let backs = found
            .backs
            .iter()
            .skip(surplus)
            .map(|(epoch, _)| (i64::try_from(*epoch).unwrap_or(i64::MAX), Role::Back(*epoch)));
        let kept = found.kept.iter().map(|(number, lv)| (lv.time, Role::Kept(*number)));
        let mut all: Vec<_> = backs.chain(kept).collect();
        all.sort_by_key(|(time, _)| *time);
        Ok(all
            .into_iter()
            .filter_map(|(committed_at, role)| Some(Revision { id: role.revision()?, committed_at }))
            .collect())
    }

    fn revert(&self, id: &VolumeId, spec: &VolumeSpec, revision: &RevisionId, _job: &Job) -> Result<()> {
        self.place(id, Op::RevertVolume)?.revert(spec, revision)
    }

    fn keep(&self, id: &VolumeId, spec: &VolumeSpec, number: u64, _job: &Job) -> Result<RevisionId> {
        self.place(id, Op::CreateVolume)?.keep(spec, number)
    }

    fn forget(&self, id: &VolumeId, revision: &RevisionId) -> Result<()> {
        let place = self.place(id, Op::RemoveVolume)?;
        let mut found = place.look()?;
        // What a commit that failed between its renames left as the newest revision is the state itself.
        place.heal(&mut found)?;
        let role = place.find_revision(&found, revision)?;
        place.remove(&[role], Worth::Something)
    }
}

impl Place<'_> {
    fn find_revision(&self, found: &Found, id: &RevisionId) -> Result<Role> {
        let there = |role: &Role| match role {
            Role::Back(epoch) => found.backs.iter().any(|(e, _)| e == epoch),
            Role::Kept(number) => found.kept.iter().any(|(n, _)| n == number),
            Role::Clean | Role::Snap | Role::Import | Role::Gone(_) => false,
        };
        let missing = || self.refuse(Kind::NotFound, format!("Revision does not exist: '{id}'"));
        Role::of_revision(id).filter(there).ok_or_else(missing)
    }

    fn revert(&self, spec: &VolumeSpec, id: &RevisionId) -> Result<()> {
        self.persistent(spec)?;
        self.not_importing()?;
        let mut found = self.look()?;
        if found.snap.is_some() {
            let why = format!("Cannot revert dirty volume {}, stop the qube first", self.id);
            return Err(self.refuse(Kind::Busy, why));
        }
        let role = self.find_revision(&found, id)?;
        // Renames alone: they need no space, so that they work in a full pool.
        if let Role::Back(wanted) = role {
            if let Some(clean) = found.clean.take() {
                let back = self.next_back(&found);
                self.rename(Role::Clean, Role::Back(back))?;
                found.backs.push((back, clean));
            }
            found.backs.retain(|(epoch, _)| *epoch != wanted);
            self.rename(role, Role::Clean)?;
            self.shared.note_surplus(self.id, found.backs.len(), spec.revisions_to_keep.count());
            return Ok(());
        }
        self.heal(&mut found)?;
        self.remove_unfinished(&mut found)?;
        self.shared.room(self.op, self.id, Need::Metadata)?;
        self.snapshot(role, Role::Import)?;
        self.commit(spec, Role::Import, found)
    }

    fn keep(&self, spec: &VolumeSpec, number: u64) -> Result<RevisionId> {
        self.persistent(spec)?;
        self.not_importing()?;
        let found = self.look()?;
        let role = Role::Kept(number);
        let id = role.revision().ok_or_else(|| self.refuse(Kind::Invalid, "no name for this number"))?;
        if found.kept.iter().any(|(n, _)| *n == number) {
            return Err(self.refuse(Kind::AlreadyExists, format!("revision {id} is there already")));
        }
        let present = match (&found.snap, found.current()) {
            (Some(_), _) => Role::Snap,
            (None, Some((role, _))) => role,
            (None, None) => return Err(self.why_no_current(&found)),
        };
        self.shared.room(self.op, self.id, Need::Metadata)?;
        self.snapshot(present, role)?;
        Ok(id)
    }
}
