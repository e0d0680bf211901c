//! One volume's LVs, during one operation: what is there, and the changes that operations are made of.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::time::{SystemTime, UNIX_EPOCH};

use super::Shared;
use super::names::{LvName, Names, Role};
use super::op::{AT_ONCE, LvOp};
use super::report::Lv;
use super::runner::Failed;
use crate::error::{At, Error, Kind, Op, Result};
use crate::storage::about::About;
use crate::storage::uses::Uses;
use crate::storage::{Export, VolumeId, VolumeKind};

pub(super) struct Place<'a> {
    pub(super) shared: &'a std::sync::Arc<Shared>,
    pub(super) id: &'a VolumeId,
    pub(super) op: Op,
    pub(super) names: Names,
}

/// Whether somebody would miss an LV that was emptied and not removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worth {
    /// Recovery drops it.
    Nothing,
    /// It is a state of a persistent volume.
    Something,
}

/// What is there.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    pub(super) clean: Option<Lv>,
    pub(super) snap: Option<Lv>,
    pub(super) import: Option<Lv>,
    /// Oldest first.
    pub(super) backs: Vec<(u64, Lv)>,
    /// In the order of their numbers.
    pub(super) kept: Vec<(u64, Lv)>,
    pub(super) gone: Vec<u64>,
    /// An LV with a name of this volume that is none of the thin pool.
    pub(super) foreign: Option<String>,
}

impl Found {
    pub(super) fn of(names: &Names, pool: &str, lvs: &[Lv]) -> Self {
        let mut found = Self::default();
        for lv in lvs {
            let Some(role) = names.role(&lv.name) else { continue };
            if lv.pool != pool {
                found.foreign = Some(lv.name.clone());
                continue;
            }
            match role {
                Role::Clean => found.clean = Some(lv.clone()),
                Role::Snap => found.snap = Some(lv.clone()),
                Role::Import => found.import = Some(lv.clone()),
                Role::Back(epoch) => found.backs.push((epoch, lv.clone())),
                Role::Kept(number) => found.kept.push((number, lv.clone())),
                Role::Gone(number) => found.gone.push(number),
            }
        }
        found.backs.sort_by_key(|(epoch, _)| *epoch);
        found.kept.sort_by_key(|(number, _)| *number);
        found
    }

    /// What is removed and only waits for its last reader does not count.
    pub(super) fn is_vacant(&self) -> bool {
        self.clean.is_none()
            && self.snap.is_none()
            && self.import.is_none()
            && self.backs.is_empty()
            && self.kept.is_empty()
            && self.foreign.is_none()
    }

    /// Whether recovery has nothing to do.
    pub(super) fn is_at_rest(&self, kind: &VolumeKind) -> bool {
        let is_whole = match kind {
            VolumeKind::Origin => self.clean.is_some(),
            VolumeKind::Volatile => self.clean.is_none(),
            VolumeKind::Snapshot { .. } => true,
            VolumeKind::Kernel { .. } => false,
        };
        is_whole && self.snap.is_none() && self.import.is_none() && self.gone.is_empty()
    }

    /// The committed state: after a crash between the two renames of a commit or revert, the newest revision.
    pub(super) fn current(&self) -> Option<(Role, &Lv)> {
        let back = || self.backs.last().map(|(epoch, lv)| (Role::Back(*epoch), lv));
        self.clean.as_ref().map(|lv| (Role::Clean, lv)).or_else(back)
    }

    /// The LV whose figures are the volume's.
    pub(super) fn shown(&self) -> Option<&Lv> {
        self.snap.as_ref().or(self.current().map(|(_, lv)| lv))
    }
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
    pub(super) fn new(shared: &'a std::sync::Arc<Shared>, id: &'a VolumeId, op: Op) -> Result<Self> {
        let names =
            Names::of(shared.pool.vg(), id).map_err(|bad| Error::new(Kind::Invalid, op, id).because(bad))?;
        Ok(Self { shared, id, op, names })
    }

    /// Written in place, or not there at all.
    pub(super) fn why_no_current(&self, found: &Found) -> Error {
        match (&found.snap, &found.foreign) {
            (Some(_), _) => self.written_in_place(),
            (None, Some(foreign)) => {
                let pool = &self.shared.pool;
                self.refuse(Kind::NotFound, format!("{}/{foreign} is not in the thin pool {pool}", pool.vg()))
            }
            (None, None) => {
                self.refuse(Kind::NotFound, format!("volume {} missing", self.names.lv(Role::Clean)))
            }
        }
    }

    pub(super) fn look(&self) -> Result<Found> {
        let bases = vec![self.names.base().to_owned()];
        let looking = self.shared.figures.look();
        let lvs = self.ask(&LvOp::Names { vg: self.shared.pool.vg().clone(), bases })?;
        looking.tell(self, &lvs);
        Ok(Found::of(&self.names, self.shared.pool.lv(), &lvs))
    }

    /// What is known of it, if anything is, without asking. Whoever acts on it asks when that fails.
    pub(super) fn known(&self) -> Option<Found> {
        self.shared.figures.known(self.id)
    }

    /// This volume and another, at once.
    pub(super) fn look_with(&self, other: &Place<'_>) -> Result<(Found, Found)> {
        let bases = vec![self.names.base().to_owned(), other.names.base().to_owned()];
        let looking = self.shared.figures.look();
        let lvs = self.ask(&LvOp::Names { vg: self.shared.pool.vg().clone(), bases })?;
        looking.tell(self, &lvs);
        looking.tell(other, &lvs);
        let pool = self.shared.pool.lv();
        Ok((Found::of(&self.names, pool, &lvs), Found::of(&other.names, pool, &lvs)))
    }

    /// A report.
    fn ask(&self, op: &LvOp) -> Result<Vec<Lv>> {
        self.shared.runner.run(op).map_err(|failed| self.failed(op, failed))
    }

    /// A change.
    pub(super) fn change(&self, op: &LvOp) -> Result<()> {
        let done = self.shared.runner.run(op);
        self.shared.figures.changed(self.id, op, done.is_ok());
        done.map(drop).map_err(|failed| self.failed(op, failed))
    }

    pub(super) fn failed(&self, op: &LvOp, failed: Failed) -> Error {
        let failed = match failed {
            // The kernel refuses every change then, and LVM says no more than that it did.
            Failed::Refused(why) if kind_of(&why) == Kind::Backend && self.shared.is_read_only() => {
                Failed::Refused(format!("{why}; the thin pool is read-only: its metadata is out of space"))
            }
            failed @ (Failed::Refused(_) | Failed::TimedOut { .. } | Failed::Broken(_)) => failed,
        };
        failure(self.op, self.id, &self.shared.pool, op, failed)
    }

    pub(super) fn rename(&self, from: Role, to: Role) -> Result<()> {
        self.change(&LvOp::Rename { from: self.names.lv(from), to: self.names.lv(to) })
    }

    pub(super) fn snapshot(&self, of: Role, to: Role) -> Result<()> {
        self.change(&LvOp::Snapshot { of: self.names.lv(of), lv: self.names.lv(to) })
    }

    /// Removes LVs that are there. A large one is discarded first, and until it is gone it has lost what it had: so one
    /// that is worth something loses its name before.
    pub(super) fn remove(&self, roles: &[Role], worth: Worth) -> Result<()> {
        if self.shared.uses.is_read(self.id) {
            return roles.iter().try_for_each(|role| self.remove_read(*role));
        }
        for roles in roles.chunks(AT_ONCE) {
            let lvs: Vec<_> = roles.iter().map(|role| self.empty(*role, worth)).collect::<Result<_>>()?;
            if !lvs.is_empty() {
                self.change(&LvOp::Remove(lvs))?;
            }
        }
        Ok(())
    }

    /// Discards an LV, if that is worth it. Its name afterwards.
    fn empty(&self, role: Role, worth: Worth) -> Result<LvName> {
        let lv = self.names.lv(role);
        // Whoever has it open, a domain that nobody knows of perhaps, would find nothing: it is not removed either.
        if !self.shared.runner.is_large(&lv) || self.is_open(&lv) {
            return Ok(lv);
        }
        let lv = match (role, worth) {
            (Role::Import | Role::Gone(_), _) | (_, Worth::Nothing) => lv,
            (Role::Clean | Role::Snap | Role::Back(_) | Role::Kept(_), Worth::Something) => {
                self.names.lv(self.rename_away(role)?)
            }
        };
        if let Err(e) = self.shared.runner.discard(&lv) {
            tracing::debug!(%lv, error = %e, "not discarded before its removal");
        }
        Ok(lv)
    }

    /// Whether anybody has it open, in the kernel (a domain's disk) or not; if that is not told, it may be.
    fn is_open(&self, lv: &LvName) -> bool {
        match self.ask(&LvOp::Figures(vec![lv.clone()])) {
            Ok(told) => told.iter().any(|lv| lv.is_open),
            Err(e) => {
                tracing::debug!(%lv, error = %e.report(), "may be open");
                true
            }
        }
    }

    fn rename_away(&self, role: Role) -> Result<Role> {
        let gone = Role::Gone(self.look()?.gone.iter().max().map_or(1, |last| last.saturating_add(1)));
        self.rename(role, gone)?;
        Ok(gone)
    }

    /// One that somebody may have open: it loses its name at once, and goes with its last reader.
    fn remove_read(&self, role: Role) -> Result<()> {
        match self.change(&LvOp::Remove(vec![self.names.lv(role)])) {
            Err(e) if e.kind() == Kind::Busy && !matches!(role, Role::Gone(_)) => {
                self.shared.leave(self.names.lv(self.rename_away(role)?));
                Ok(())
            }
            Err(e) if e.kind() == Kind::Busy => Ok(()),
            removed => removed,
        }
    }

    /// Removes what has the name of an unfinished step. There is no import under way.
    pub(super) fn remove_unfinished(&self, found: &mut Found) -> Result<()> {
        if found.import.take().is_some() {
            self.remove(&[Role::Import], Worth::Nothing)?;
        }
        for gone in found.gone.drain(..) {
            // It is in nobody's way.
            if let Err(e) = self.remove_gone(gone) {
                tracing::warn!(volume = %self.id, error = %e.report(), "cannot remove what was to be gone");
            }
        }
        Ok(())
    }

    /// The end of the last reader may have been faster.
    pub(super) fn remove_gone(&self, number: u64) -> Result<()> {
        match self.remove(&[Role::Gone(number)], Worth::Nothing) {
            Err(e) if e.kind() == Kind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Takes back what a crash between the two renames of a commit or revert left; not a commit that can go on.
    pub(super) fn heal(&self, found: &mut Found) -> Result<()> {
        if found.clean.is_some() || found.snap.is_some() {
            return Ok(());
        }
        if let Some((epoch, lv)) = found.backs.pop() {
            tracing::warn!(volume = %self.id, revision = epoch, "takes up the newest revision: a commit was cut off");
            self.rename(Role::Back(epoch), Role::Clean)?;
            found.clean = Some(lv);
        }
        Ok(())
    }

    /// A name for a new revision: the present second, or the next that is later than all there are.
    pub(super) fn next_back(&self, found: &Found) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let next = found.backs.last().map_or(0, |(epoch, _)| epoch.saturating_add(1));
        now.max(next)
    }

    /// Sees to it that an LV has its device: after a boot, LVM's configuration may leave it without.
    pub(super) fn activate(&self, role: Role) -> Result<()> {
        let lv = self.names.lv(role);
        if self.shared.runner.device(&lv).exists() { Ok(()) } else { self.change(&LvOp::Activate(lv)) }
    }

    /// The committed state. By what is known of it, if that can be opened; else LVM is asked.
    pub(super) fn open_current(&self) -> Result<Export> {
        let open = |found: &Found| {
            let (role, _) = found.current().ok_or_else(|| self.why_no_current(found))?;
            self.open(role)
        };
        match self.known().map(|found| open(&found)) {
            Some(Ok(export)) => Ok(export),
            Some(Err(_)) | None => open(&self.look()?),
        }
    }

    /// Opens an LV and keeps it from being written in place and from going.
    fn open(&self, role: Role) -> Result<Export> {
        self.activate(role)?;
        let path = self.shared.runner.device(&self.names.lv(role));
        let opened = self.shared.uses.read(self.id, || File::open(&path));
        let (mut file, reading) = opened.at(self.op, path.display())?;
        let hold = super::gone::Hold::new(self.shared, reading);
        // Of the device: what is known may be of before somebody else made it larger.
        let size = file.seek(SeekFrom::End(0)).at(self.op, path.display())?;
        file.rewind().at(self.op, path.display())?;
        Ok(Export::new(file, path, crate::ids::ByteSize::bytes(size), hold))
    }
}

/// What LVM's words mean to a caller.
pub(super) fn failure(
    op: Op,
    target: impl std::fmt::Display,
    pool: &LvName,
    command: &LvOp,
    failed: Failed,
) -> Error {
    let text = failed.to_string();
    let kind = match &failed {
        Failed::TimedOut { .. } => Kind::TimedOut,
        Failed::Broken(_) => Kind::Backend,
        Failed::Refused(_) => kind_of(&text),
    };
    let name = command.argv().into_iter().next().unwrap_or_default();
    let advice = if kind == Kind::NoSpace {
        format!(
            "; make {pool} larger (lvextend --size +SIZE {pool}, and lvextend --poolmetadatasize +SIZE {pool} if its \
             metadata is what is full) or remove volumes"
        )
    } else {
        String::new()
    };
    Error::new(kind, op, target).because(format!("{name}: {text}{advice}"))
}

fn kind_of(text: &str) -> Kind {
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&[
        "reached threshold",
        "nsufficient free space",
        "nsufficient suitable",
        "No space left",
        "out of space",
    ]) {
        Kind::NoSpace
    } else if says(&["already exists"]) {
        Kind::AlreadyExists
    } else if says(&["in use", "is used by", "Device or resource busy"]) {
        Kind::Busy
    } else if says(&["Failed to find logical volume", "not found"]) {
        Kind::NotFound
    } else {
        Kind::Backend
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ByteSize;

    #[test]
    fn lvms_words_become_kinds_and_a_full_pool_says_what_to_do() {
        let pool = LvName::new("vg".parse().unwrap(), "pool00").unwrap();
        let op = LvOp::Create { lv: pool.clone(), pool: pool.clone(), size: ByteSize::bytes(1) };
        for (text, kind) in [
            (
                "Cannot create new thin volume, free space in thin pool vg/pool00 reached threshold.",
                Kind::NoSpace,
            ),
            ("Logical Volume \"a\" already exists in volume group \"vg\"", Kind::AlreadyExists),
            ("Logical volume vg/a in use.", Kind::Busy),
            ("Logical volume vg/a is used by another device.", Kind::Busy),
            ("Failed to find logical volume \"vg/a\"", Kind::NotFound),
            ("Volume group \"vg\" not found", Kind::NotFound),
            ("Something else", Kind::Backend),
        ] {
            let error = failure(Op::CreateVolume, "v", &pool, &op, Failed::Refused(text.to_owned()));
            assert_eq!(error.kind(), kind, "{text}");
            assert!(error.report().contains(text));
            assert_eq!(error.report().contains("lvextend --poolmetadatasize"), kind == Kind::NoSpace);
        }
        let timed_out =
            Failed::TimedOut { limit: std::time::Duration::from_secs(3), said: "waits".to_owned() };
        let error = failure(Op::CreateVolume, "v", &pool, &op, timed_out);
        assert_eq!(error.kind(), Kind::TimedOut);
        assert!(error.report().contains("lvcreate: no end after 3 s; killed; waits"), "{}", error.report());
    }
}
