//! What is known of volumes: what LVM has told, and what was changed here since.
//!
//! LVs with names of ours are changed by nobody else, so that what is known stays right without asking: each change that
//! LVM has done is done here too. Only how much of an LV is mapped changes by itself.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::names::{LvName, Names, Role};
use super::op::LvOp;
use super::place::Found;
use super::report::Lv;
use crate::ids::ByteSize;
use crate::storage::VolumeId;

/// What nobody has asked about for so long is forgotten when there is much.
const KEPT: Duration = Duration::from_secs(3600);
/// A listing of all is for what follows at once: the recovery of many volumes.
const LISTED: Duration = Duration::from_secs(600);

/// A volume's LVs, and how much of them is mapped.
#[derive(Debug, Clone, Default)]
pub(super) struct Figures {
    pub(super) found: Found,
    lvs: Vec<Lv>,
    used: HashMap<String, u64>,
    /// Of the LV that was shown before: until LVM tells more.
    last: Option<u64>,
}

impl Figures {
    pub(super) fn used(&self, lv: &Lv) -> ByteSize {
        ByteSize::bytes(self.used.get(&lv.name).copied().or(self.last).unwrap_or(0))
    }

    fn has_usage(&self) -> bool {
        self.last.is_some() || self.found.shown().is_none_or(|lv| self.used.contains_key(&lv.name))
    }

    fn with(mut self, names: &Names, pool: &str, lvs: Vec<Lv>) -> Self {
        self.found = Found::of(names, pool, &lvs);
        self.used.retain(|name, _| lvs.iter().any(|lv| lv.name == *name));
        self.last = self.found.shown().and_then(|lv| self.used.get(&lv.name)).copied().or(self.last);
        self.lvs = lvs;
        self
    }
}

#[derive(Debug)]
struct Entry {
    names: Names,
    figures: Arc<Figures>,
    /// When LVM told all of it; `None`: something has changed since.
    told: Option<Instant>,
    /// A change failed, and may have been done all the same.
    is_unsure: bool,
    wanted: Instant,
}

/// What is known of one volume.
pub(super) enum Knowledge {
    Fresh(Arc<Figures>),
    /// Right but for how much is mapped.
    Old(Arc<Figures>),
    Nothing,
}

#[derive(Debug)]
pub(super) struct Known {
    pool: String,
    entries: HashMap<VolumeId, Entry>,
    /// How many there were.
    changes: u64,
    /// How many ask LVM now. For them it is noted what changes meanwhile: what they hear may be of before.
    asking: usize,
    changed: HashMap<VolumeId, u64>,
    /// LVs that lost their names.
    lost: HashMap<String, u64>,
    listing: Option<Listing>,
}

/// All LVs of the volume group at one time, so that not each of many volumes has to be asked for.
#[derive(Debug)]
struct Listing {
    at: Instant,
    lvs: Vec<Lv>,
    /// Volumes of which it does not hold any more.
    changed: HashSet<VolumeId>,
}

impl Known {
    pub(super) fn of_pool(pool: &LvName) -> Self {
        Self {
            pool: pool.lv().to_owned(),
            entries: HashMap::new(),
            changes: 0,
            asking: 0,
            changed: HashMap::new(),
            lost: HashMap::new(),
            listing: None,
        }
    }

    /// LVM has told all LVs that there are.
    pub(super) fn list(&mut self, lvs: Vec<Lv>) {
        self.listing = Some(Listing { at: Instant::now(), lvs, changed: HashSet::new() });
    }

    /// What all LVs were told to be of a volume, if that is not long ago and nothing was changed of it since.
    pub(super) fn listed(&self, id: &VolumeId, names: &Names) -> Option<Found> {
        let listing = self.listing.as_ref().filter(|listing| listing.at.elapsed() < LISTED)?;
        (!listing.changed.contains(id)).then(|| Found::of(names, &self.pool, &listing.lvs))
    }

    /// A volume's LVs, if what is known of them is right as far as anybody here can tell.
    pub(super) fn sure(&self, id: &VolumeId) -> Option<Found> {
        self.entries.get(id).filter(|entry| !entry.is_unsure).map(|entry| entry.figures.found.clone())
    }

    /// Whether an LV of a volume that is known is in the pool.
    pub(super) fn has(&self, lv: &LvName) -> bool {
        let mut lvs =
            self.entries.values().filter(|entry| !entry.is_unsure).flat_map(|entry| &entry.figures.lvs);
        lvs.any(|known| known.name == lv.lv() && known.pool == self.pool)
    }

    pub(super) fn get(&mut self, id: &VolumeId, age: Duration) -> Knowledge {
        let Some(entry) = self.entries.get_mut(id) else { return Knowledge::Nothing };
        entry.wanted = Instant::now();
        let figures = Arc::clone(&entry.figures);
        match entry.told {
            _ if entry.is_unsure || !figures.has_usage() => Knowledge::Nothing,
            Some(told) if told.elapsed() < age => Knowledge::Fresh(figures),
            _ => Knowledge::Old(figures),
        }
    }

    /// Somebody begins to ask; the number is for [`tell`](Self::tell).
    pub(super) fn begin(&mut self) -> u64 {
        self.asking += 1;
        self.changes
    }

    pub(super) fn end(&mut self) {
        self.asking = self.asking.saturating_sub(1);
        if self.asking == 0 {
            self.changed.clear();
            self.lost.clear();
        }
    }

    /// What LVM told of a volume: its LVs, and how much of them is mapped, if that was asked. `None`: it may be of before
    /// a change.
    pub(super) fn tell(
        &mut self,
        since: u64,
        id: &VolumeId,
        names: &Names,
        lvs: &[Lv],
        used: Option<HashMap<String, u64>>,
    ) -> Option<Arc<Figures>> {
        let is_later = |at: Option<&u64>| at.is_some_and(|at| *at > since);
        let mine = || lvs.iter().filter(|lv| names.role(&lv.name).is_some());
        if is_later(self.changed.get(id)) || mine().any(|lv| is_later(self.lost.get(&lv.origin))) {
            return None;
        }
        let now = Instant::now();
        if self.entries.len() == self.entries.capacity() {
            self.entries.retain(|_, entry| entry.wanted.elapsed() < KEPT);
        }
        let entry = self.entries.entry(id.clone()).or_insert_with(|| Entry {
            names: names.clone(),
            figures: Arc::default(),
            told: None,
            is_unsure: false,
            wanted: now,
        });
        let mut figures = Figures::clone(&entry.figures);
        if let Some(used) = used {
            figures.used = used;
            entry.told = Some(now);
        }
        entry.figures = Arc::new(figures.with(names, &self.pool, mine().cloned().collect()));
        entry.is_unsure = false;
        Some(Arc::clone(&entry.figures))
    }

    /// Nothing that is known of these holds any more.
    pub(super) fn doubt<'a>(&mut self, ids: impl IntoIterator<Item = &'a VolumeId>) {
        for id in ids {
            if let Some(entry) = self.entries.get_mut(id) {
                entry.is_unsure = true;
            }
        }
    }

    /// A volume was changed here.
    pub(super) fn change(&mut self, id: &VolumeId, op: &LvOp, is_done: bool) {
        let (lost, to): (&[LvName], &str) = match op {
            LvOp::Rename { from, to } => (std::slice::from_ref(from), to.lv()),
            LvOp::Remove(lvs) => (lvs, ""),
            LvOp::Create { .. } | LvOp::Snapshot { .. } | LvOp::Resize { .. } => (&[], ""),
            LvOp::Activate(_) | LvOp::Names { .. } | LvOp::Figures(_) | LvOp::Pool(_) | LvOp::All(_) => {
                return;
            }
        };
        self.changes += 1;
        match &mut self.listing {
            Some(listing) if listing.at.elapsed() < LISTED => drop(listing.changed.insert(id.clone())),
            listing => *listing = None,
        }
        if self.asking > 0 {
            self.changed.insert(id.clone(), self.changes);
            self.lost.extend(lost.iter().map(|lv| (lv.lv().to_owned(), self.changes)));
        }
        let made = self.made_by(op);
        if let Some(entry) = self.entries.get_mut(id) {
            entry.told = None;
            match (op, &made) {
                (LvOp::Create { .. } | LvOp::Snapshot { .. }, None) => entry.is_unsure = true,
                _ if !is_done => entry.is_unsure = true,
                _ => entry.apply(op, made, &self.pool),
            }
        }
        for entry in self.entries.values_mut() {
            let is_lost = |lv: &Lv| lost.iter().any(|name| name.lv() == lv.origin);
            if !entry.figures.lvs.iter().any(is_lost) {
                continue;
            }
            entry.told = None;
            if !is_done {
                entry.is_unsure = true;
                continue;
            }
            let mut lvs = entry.figures.lvs.clone();
            for lv in lvs.iter_mut().filter(|lv| is_lost(lv)) {
                to.clone_into(&mut lv.origin);
            }
            let figures = Figures::clone(&entry.figures);
            entry.figures = Arc::new(figures.with(&entry.names, &self.pool, lvs));
        }
    }

    /// The LV that a command makes, and how much of it is mapped, as far as that is known.
    fn made_by(&self, op: &LvOp) -> Option<(Lv, Option<u64>)> {
        let made = |lv: &LvName, size, origin: &str| Lv {
            name: lv.lv().to_owned(),
            size,
            pool: self.pool.clone(),
            origin: origin.to_owned(),
            time: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX)),
            ..Lv::default()
        };
        match op {
            LvOp::Create { lv, size, .. } => Some((made(lv, size.get(), ""), Some(0))),
            LvOp::Snapshot { of, lv } => self.entries.values().find_map(|entry| {
                let origin = entry.figures.lvs.iter().find(|lv| lv.name == of.lv())?;
                let used = entry.figures.used.get(of.lv()).copied();
                Some((made(lv, origin.size, of.lv()), used))
            }),
            LvOp::Remove(_)
            | LvOp::Rename { .. }
            | LvOp::Resize { .. }
            | LvOp::Activate(_)
            | LvOp::Names { .. }
            | LvOp::Figures(_)
            | LvOp::Pool(_)
            | LvOp::All(_) => None,
        }
    }
}

impl Entry {
    /// Does what LVM has done.
    fn apply(&mut self, op: &LvOp, made: Option<(Lv, Option<u64>)>, pool: &str) {
        let mut figures = Figures::clone(&self.figures);
        let mut lvs = std::mem::take(&mut figures.lvs);
        if let Some((lv, used)) = made {
            // What is made empty to be filled does not stay so.
            let used = used.filter(|used| *used > 0 || self.names.role(&lv.name) != Some(Role::Import));
            figures.used.extend(used.map(|used| (lv.name.clone(), used)));
            lvs.retain(|other| other.name != lv.name);
            lvs.push(lv);
        }
        match op {
            LvOp::Remove(gone) => lvs.retain(|lv| !gone.iter().any(|name| name.lv() == lv.name)),
            LvOp::Rename { from, to } => {
                for lv in lvs.iter_mut().filter(|lv| lv.name == from.lv()) {
                    to.lv().clone_into(&mut lv.name);
                }
                let used = figures.used.remove(from.lv());
                figures.used.extend(used.map(|used| (to.lv().to_owned(), used)));
            }
            LvOp::Resize { lv: resized, size, .. } => {
                for lv in lvs.iter_mut().filter(|lv| lv.name == resized.lv()) {
                    lv.size = size.get();
                }
            }
            LvOp::Create { .. }
            | LvOp::Snapshot { .. }
            | LvOp::Activate(_)
            | LvOp::Names { .. }
            | LvOp::Figures(_)
            | LvOp::Pool(_)
            | LvOp::All(_) => {}
        }
        self.figures = Arc::new(figures.with(&self.names, pool, lvs));
    }
}

#[cfg(test)]
mod tests {
    use super::super::op::Resizing;
    use super::*;

    const AGE: Duration = Duration::from_secs(1000);

    fn lv(name: &str) -> LvName {
        LvName::new("vg".parse().unwrap(), name).unwrap()
    }

    fn row(name: &str, origin: &str) -> Lv {
        let (name, origin) = (name.to_owned(), origin.to_owned());
        Lv { name, origin, size: 4 << 20, pool: "pool00".to_owned(), ..Lv::default() }
    }

    fn volume(text: &str) -> (VolumeId, Names) {
        let id: VolumeId = text.parse().unwrap();
        let names = Names::of(&"vg".parse().unwrap(), &id).unwrap();
        (id, names)
    }

    fn known(id: &str, lvs: &[Lv]) -> Known {
        let mut known = Known::of_pool(&lv("pool00"));
        let (id, names) = volume(id);
        let since = known.begin();
        known.tell(since, &id, &names, lvs, Some(HashMap::from([("vm-a-root".to_owned(), 5)]))).unwrap();
        known.end();
        known
    }

    fn names_of(known: &mut Known, id: &VolumeId) -> Vec<(String, u64)> {
        match known.get(id, AGE) {
            Knowledge::Fresh(figures) | Knowledge::Old(figures) => {
                figures.lvs.iter().map(|lv| (lv.name.clone(), lv.size)).collect()
            }
            Knowledge::Nothing => panic!("nothing is known"),
        }
    }

    #[test]
    fn what_was_done_is_known_and_what_failed_is_not() {
        let (id, _) = volume("appvms/a/root");
        let mut known = known("appvms/a/root", &[row("vm-a-root", "")]);
        let used = |known: &mut Known| match known.get(&id, AGE) {
            Knowledge::Old(figures) => figures.used(figures.found.shown().unwrap()).get(),
            Knowledge::Fresh(_) | Knowledge::Nothing => panic!("not old"),
        };
        let size = ByteSize::bytes(8 << 20);
        known.change(&id, &LvOp::Snapshot { of: lv("vm-a-root"), lv: lv("vm-a-root-snap") }, true);
        assert_eq!(used(&mut known), 5, "it shares all blocks");
        known.change(&id, &LvOp::Resize { lv: lv("vm-a-root-snap"), size, how: Resizing::Grow }, true);
        known.change(&id, &LvOp::Rename { from: lv("vm-a-root"), to: lv("vm-a-root-7-back") }, true);
        known.change(&id, &LvOp::Rename { from: lv("vm-a-root-snap"), to: lv("vm-a-root") }, true);
        assert_eq!(
            names_of(&mut known, &id),
            [("vm-a-root-7-back".to_owned(), 4 << 20), ("vm-a-root".to_owned(), 8 << 20)]
        );
        let Knowledge::Old(figures) = known.get(&id, AGE) else { panic!("not old") };
        assert_eq!(figures.found.clean.as_ref().unwrap().origin, "vm-a-root-7-back");
        known.change(&id, &LvOp::Remove(vec![lv("vm-a-root-7-back")]), true);
        assert_eq!(names_of(&mut known, &id).len(), 1);
        known.change(&id, &LvOp::Remove(vec![lv("vm-a-root")]), false);
        assert!(matches!(known.get(&id, AGE), Knowledge::Nothing));
    }

    #[test]
    fn an_answer_that_may_be_of_before_a_change_is_not_taken() {
        let (id, names) = volume("appvms/a/root");
        let (snapshot, its_names) = volume("appvms/b/root");
        let mut known = known("appvms/a/root", &[row("vm-a-root", "")]);
        let since = known.begin();
        known.change(&id, &LvOp::Rename { from: lv("vm-a-root"), to: lv("vm-a-root-7-back") }, true);
        assert!(known.tell(since, &id, &names, &[row("vm-a-root", "")], None).is_none());
        let stale = [row("vm-b-root-snap", "vm-a-root")];
        assert!(
            known.tell(since, &snapshot, &its_names, &stale, None).is_none(),
            "its origin has another name"
        );
        let fresh = [row("vm-b-root-snap", "vm-a-root-7-back")];
        assert!(known.tell(since, &snapshot, &its_names, &fresh, None).is_some());
        known.end();
        let since = known.begin();
        assert!(known.tell(since, &id, &names, &[row("vm-a-root-7-back", "")], None).is_some());
    }
}
