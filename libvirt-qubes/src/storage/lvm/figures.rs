//! Figures about volumes: at most so old, and asked for together.
//!
//! Whoever finds nothing fresh notes which volume is wanted; one asks LVM for all that were noted, the others wait
//! for the answer. So a hundred volumes cost two commands, and one volume costs the same in a large volume group as
//! in a small one, but for LVM's own reading of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Shared;
use super::names::{LvName, Names};
use super::op::{AT_ONCE, LvOp};
use super::place::{Found, Place};
use super::report::Lv;
use super::runner::Failed;
use crate::error::Result;
use crate::ids::ByteSize;
use crate::storage::VolumeId;

/// What a query gives, or the query and what `lvm` said.
type Asked<T> = std::result::Result<T, Box<(LvOp, Failed)>>;

/// What was there, and how much of it is mapped.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) found: Found,
    used: HashMap<String, u64>,
}

impl Figures {
    pub(super) fn used(&self, lv: &Lv) -> ByteSize {
        ByteSize::bytes(self.used.get(&lv.name).copied().unwrap_or(0))
    }
}

#[derive(Debug)]
pub(super) struct Cache {
    age: Duration,
    table: Mutex<Table>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    known: HashMap<VolumeId, (Instant, Arc<Figures>)>,
    wanted: BTreeMap<VolumeId, Names>,
    is_asking: bool,
    /// Volumes that were changed while somebody asks: the answer may be of before.
    changed: HashSet<VolumeId>,
    /// Likewise, of any: what others are snapshots of.
    has_renamed: bool,
}

impl Cache {
    pub(super) fn new(age: Duration) -> Self {
        Self { age, table: Mutex::default(), answered: Condvar::new() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change of the table is whole, so that a panic elsewhere leaves it right.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A volume was changed here: what is known of it is wrong. So is, of others, what they are snapshots of.
    pub(super) fn changed(&self, id: &VolumeId, op: &LvOp) {
        let (gone, now): (&[LvName], &str) = match op {
            LvOp::Rename { from, to } => (std::slice::from_ref(from), to.lv()),
            LvOp::Remove(lvs) => (lvs, ""),
            LvOp::Create { .. }
            | LvOp::Snapshot { .. }
            | LvOp::Resize { .. }
            | LvOp::Activate(_)
            | LvOp::Names { .. }
            | LvOp::Figures(_)
            | LvOp::Pool(_)
            | LvOp::All(_) => (&[], ""),
        };
        let mut table = self.table();
        table.known.remove(id);
        if table.is_asking {
            table.changed.insert(id.clone());
            table.has_renamed |= !gone.is_empty();
        }
        for (_, figures) in table.known.values_mut() {
            let is_gone = |snap: &Lv| gone.iter().any(|lv| lv.lv() == snap.origin);
            if figures.found.snap.as_ref().is_some_and(is_gone) {
                let mut found = figures.found.clone();
                if let Some(snap) = &mut found.snap {
                    now.clone_into(&mut snap.origin);
                }
                *figures = Arc::new(Figures { found, used: figures.used.clone() });
            }
        }
    }
}

/// Lets others ask, whatever became of the one who did.
struct Asking<'a>(&'a Cache);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.table().is_asking = false;
        self.0.answered.notify_all();
    }
}

impl Shared {
    pub(super) fn figures_of(&self, place: &Place<'_>) -> Result<Arc<Figures>> {
        let cache = &self.figures;
        let mut table = cache.table();
        loop {
            if let Some((at, figures)) = table.known.get(place.id)
                && at.elapsed() < cache.age
            {
                return Ok(Arc::clone(figures));
            }
            table.wanted.insert(place.id.clone(), place.names.clone());
            if table.is_asking {
                table = cache.answered.wait(table).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            table.is_asking = true;
            table.changed.clear();
            table.has_renamed = false;
            let mut wanted = std::mem::take(&mut table.wanted);
            if let Some(later) = wanted.keys().filter(|id| *id != place.id).nth(AT_ONCE - 1).cloned() {
                table.wanted = wanted.split_off(&later);
                if let Some(mine) = table.wanted.remove(place.id) {
                    wanted.insert(place.id.clone(), mine);
                }
            }
            drop(table);
            let asking = Asking(cache);
            let answer = self.ask_figures(&wanted).map_err(|asked| {
                let (op, failed) = *asked;
                place.failed(&op, failed)
            })?;
            table = cache.table();
            let now = Instant::now();
            let mut mine = None;
            for (id, figures) in answer {
                if table.changed.contains(&id) || (table.has_renamed && figures.found.snap.is_some()) {
                    continue;
                }
                let figures = Arc::new(figures);
                if id == *place.id {
                    mine = Some(Arc::clone(&figures));
                }
                table.known.insert(id, (now, figures));
            }
            if table.known.len() == table.known.capacity() {
                table.known.retain(|_, (at, _)| at.elapsed() < cache.age);
            }
            drop(table);
            drop(asking);
            if let Some(mine) = mine {
                return Ok(mine);
            }
            table = cache.table();
        }
    }

    fn ask_figures(&self, wanted: &BTreeMap<VolumeId, Names>) -> Asked<Vec<(VolumeId, Figures)>> {
        // An LV that goes between the two reports makes the second fail: once more, then it is an error.
        self.ask_figures_once(wanted).or_else(|_| self.ask_figures_once(wanted))
    }

    fn ask_figures_once(&self, wanted: &BTreeMap<VolumeId, Names>) -> Asked<Vec<(VolumeId, Figures)>> {
        let ask = |op: LvOp| self.runner.run(&op).map_err(|failed| Box::new((op, failed)));
        let bases = wanted.values().map(|names| names.base().to_owned()).collect();
        let lvs = ask(LvOp::Names { vg: self.pool.vg().clone(), bases })?;
        let found: Vec<_> =
            wanted.iter().map(|(id, names)| (id.clone(), Found::of(names, self.pool.lv(), &lvs))).collect();
        let shown = |found: &Found| found.snap.as_ref().or(found.current().map(|(_, lv)| lv)).cloned();
        let shown: Vec<_> = found.iter().filter_map(|(_, found)| shown(found)).collect();
        let mut used = HashMap::new();
        for part in shown.chunks(AT_ONCE) {
            let names = part.iter().filter_map(|lv| LvName::new(self.pool.vg().clone(), &lv.name).ok());
            for lv in ask(LvOp::Figures(names.collect()))? {
                used.insert(lv.name.clone(), share(lv.size, lv.data_percent));
            }
        }
        Ok(found
            .into_iter()
            .map(|(id, found)| {
                let mine = found.snap.iter().chain(found.current().map(|(_, lv)| lv));
                let used = mine.filter_map(|lv| Some((lv.name.clone(), *used.get(&lv.name)?))).collect();
                (id, Figures { found, used })
            })
            .collect())
    }
}

/// So many percent of a size.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "LVM tells percents with two digits behind the point"
)]
pub(super) fn share(size: u64, percent: f64) -> u64 {
    (size as f64 * percent.clamp(0.0, 100.0) / 100.0) as u64
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_share_never_leaves_its_bounds() {
        assert_eq!(super::share(1000, 12.5), 125);
        assert_eq!(super::share(1000, 250.0), 1000);
        assert_eq!(super::share(1000, -1.0), 0);
        assert_eq!(super::share(1000, f64::NAN), 0);
    }
}
