//! Figures about volumes: who reads them waits for LVM once, and then no more.
//!
//! What is [known](super::known) is given as it is. Where LVM has not told it for a while, it is asked again behind the
//! answer, for all that are wanted together; so a hundred volumes cost two commands, and one volume costs the same in a
//! large volume group as in a small one, but for LVM's own reading of it. Whoever wants what is not known yet asks
//! likewise, or waits for the one who does.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Shared;
use super::known::{Figures, Knowledge, Known};
use super::names::{LvName, Names};
use super::op::{AT_ONCE, LvOp};
use super::place::{Found, Place};
use super::report::Lv;
use super::runner::Failed;
use crate::error::Result;
use crate::storage::VolumeId;

/// What a query gives, or the query and what `lvm` said.
type Asked<T> = std::result::Result<T, Box<(LvOp, Failed)>>;

/// The volumes that are asked for.
type Wanted = BTreeMap<VolumeId, Names>;

#[derive(Debug)]
pub(super) struct Cache {
    age: Duration,
    table: Mutex<Table>,
    answered: Condvar,
}

#[derive(Debug)]
struct Table {
    known: Known,
    wanted: Wanted,
    is_asking: bool,
}

impl Table {
    /// As many as are asked for together, `mine` among them. From now on it is being asked.
    fn take(&mut self, mine: Option<&VolumeId>) -> Wanted {
        self.is_asking = true;
        let mut wanted = std::mem::take(&mut self.wanted);
        if let Some(later) = wanted.keys().filter(|id| Some(*id) != mine).nth(AT_ONCE - 1).cloned() {
            self.wanted = wanted.split_off(&later);
            if let Some((id, names)) = mine.and_then(|mine| self.wanted.remove_entry(mine)) {
                wanted.insert(id, names);
            }
        }
        wanted
    }
}

impl Cache {
    /// Figures that are older than `age` are asked for again; with none, whoever reads waits for LVM.
    pub(super) fn new(age: Duration, pool: &LvName) -> Self {
        let table = Table { known: Known::of_pool(pool), wanted: BTreeMap::new(), is_asking: false };
        Self { age, table: Mutex::new(table), answered: Condvar::new() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change of the table is whole, so that a panic elsewhere leaves it right.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A volume was changed here, or perhaps.
    pub(super) fn changed(&self, id: &VolumeId, op: &LvOp, is_done: bool) {
        self.table().known.change(id, op, is_done);
    }

    /// A volume's LVs, without asking; `None` if that is not known.
    pub(super) fn known(&self, id: &VolumeId) -> Option<Found> {
        self.table().known.sure(id)
    }

    /// Whether an LV is known to be one of the pool.
    pub(super) fn is_known(&self, lv: &LvName) -> bool {
        self.table().known.has(lv)
    }

    /// A volume's LVs, by what there was at set-up; `None` once it was changed.
    pub(super) fn at_setup(&self, id: &VolumeId, names: &Names) -> Option<Found> {
        self.table().known.listed(id, names)
    }

    /// All LVs, at set-up.
    pub(super) fn list(&self, lvs: Vec<Lv>) {
        self.table().known.list(lvs);
    }

    /// LVM is asked for LVs from now on.
    pub(super) fn look(&self) -> Looking<'_> {
        Looking { cache: self, since: self.table().known.begin() }
    }
}

/// A question to LVM that is under way.
pub(super) struct Looking<'a> {
    cache: &'a Cache,
    since: u64,
}

impl Looking<'_> {
    /// What LVM told of a volume.
    pub(super) fn tell(&self, place: &Place<'_>, lvs: &[Lv]) {
        self.cache.table().known.tell(self.since, place.id, &place.names, lvs, None);
    }
}

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.cache.table().known.end();
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
    pub(super) fn figures_of(self: &Arc<Self>, place: &Place<'_>) -> Result<Arc<Figures>> {
        let cache = &self.figures;
        let mut table = cache.table();
        loop {
            if !cache.age.is_zero() {
                match table.known.get(place.id, cache.age) {
                    Knowledge::Fresh(figures) => return Ok(figures),
                    Knowledge::Old(figures) => {
                        table.wanted.insert(place.id.clone(), place.names.clone());
                        self.refresh_behind(table);
                        return Ok(figures);
                    }
                    Knowledge::Nothing => {}
                }
            }
            table.wanted.insert(place.id.clone(), place.names.clone());
            if table.is_asking {
                table = cache.answered.wait(table).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let wanted = table.take(Some(place.id));
            drop(table);
            let asking = Asking(cache);
            let mut answer = self.ask_and_note(&wanted).map_err(|asked| {
                let (op, failed) = *asked;
                place.failed(&op, failed)
            })?;
            drop(asking);
            if let Some(mine) = answer.remove(place.id) {
                return Ok(mine);
            }
            table = cache.table();
        }
    }

    /// Asks for what is wanted, unless somebody does, on a thread of its own.
    fn refresh_behind(self: &Arc<Self>, mut table: MutexGuard<'_, Table>) {
        if table.is_asking {
            return;
        }
        let mut wanted = table.take(None);
        drop(table);
        let shared = Arc::clone(self);
        let spawned = std::thread::Builder::new().name("lvm-figures".to_owned()).spawn(move || {
            while !wanted.is_empty() {
                let asking = Asking(&shared.figures);
                if let Err(asked) = shared.ask_and_note(&wanted) {
                    let (op, failed) = *asked;
                    tracing::warn!(command = %op, error = %failed, "figures stay as they were");
                    if let Failed::Refused(_) = failed {
                        shared.figures.table().known.doubt(wanted.keys());
                    }
                }
                drop(asking);
                let mut table = shared.figures.table();
                if table.is_asking {
                    return;
                }
                wanted = table.take(None);
                table.is_asking = !wanted.is_empty();
            }
        });
        if let Err(e) = spawned {
            tracing::warn!(error = %e, "figures stay as they were");
            drop(Asking(&self.figures));
        }
    }

    fn ask_and_note(&self, wanted: &Wanted) -> Asked<HashMap<VolumeId, Arc<Figures>>> {
        let looking = self.figures.look();
        let (lvs, used) = self.ask_figures(wanted)?;
        let mut table = self.figures.table();
        let noted = wanted.iter().filter_map(|(id, names)| {
            let figures = table.known.tell(looking.since, id, names, &lvs, Some(used.clone()))?;
            Some((id.clone(), figures))
        });
        let noted = noted.collect();
        drop(table);
        Ok(noted)
    }

    fn ask_figures(&self, wanted: &Wanted) -> Asked<(Vec<Lv>, HashMap<String, u64>)> {
        // An LV that goes between the two reports makes the second fail: once more, then it is an error.
        self.ask_figures_once(wanted).or_else(|_| self.ask_figures_once(wanted))
    }

    fn ask_figures_once(&self, wanted: &Wanted) -> Asked<(Vec<Lv>, HashMap<String, u64>)> {
        let ask = |op: LvOp| self.runner.run(&op).map_err(|failed| Box::new((op, failed)));
        let bases = wanted.values().map(|names| names.base().to_owned()).collect();
        let lvs = ask(LvOp::Names { vg: self.pool.vg().clone(), bases })?;
        let found = wanted.values().map(|names| Found::of(names, self.pool.lv(), &lvs));
        let shown: Vec<_> = found.filter_map(|found| found.shown().cloned()).collect();
        let mut used = HashMap::new();
        let mut note = |told: Vec<Lv>| {
            used.extend(
                told.into_iter().map(|lv| (lv.name, share(lv.size, lv.data_percent.unwrap_or_default()))),
            );
        };
        for part in shown.chunks(AT_ONCE) {
            let names = part.iter().filter_map(|lv| LvName::new(self.pool.vg().clone(), &lv.name).ok());
            let names: Vec<_> = names.collect();
            match ask(LvOp::Figures(names.clone())) {
                Ok(told) => note(told),
                Err(asked) if names.len() == 1 || !matches!(asked.1, Failed::Refused(_)) => {
                    return Err(asked);
                }
                // One that has lost its name since, or that cannot be read, leaves the others without theirs.
                Err(_) => names
                    .into_iter()
                    .filter_map(|name| ask(LvOp::Figures(vec![name])).ok())
                    .for_each(&mut note),
            }
        }
        Ok((lvs, used))
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
