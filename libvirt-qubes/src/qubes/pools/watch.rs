//! Space of pools: figures that are refreshed off the calls' way, an event when one gets nearly full, and which pool
//! lies within which.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::super::event::{EventKind, ModelEvent};
use super::super::host::Host;
use super::super::model::Model;
use super::super::pool::Pool;
use super::super::refusal::HostError;
use crate::ids::PoolName;
use crate::storage::{PoolUsage, Tuning, is_near_full};

/// What a pool can be full of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UsageKind {
    /// The volumes' data.
    Data,
    /// What tells where that lies, where it has a place of its own (LVM).
    Metadata,
}

impl UsageKind {
    /// The word that clients know.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Metadata => "metadata",
        }
    }
}

impl fmt::Display for UsageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A pool as it is configured and was last seen.
#[derive(Debug, Clone)]
pub struct PoolView {
    /// Its configuration.
    pub pool: Arc<Pool>,
    /// Its space; `None` where that is not known, or the pool holds no data.
    pub usage: Option<PoolUsage>,
    /// The pool whose space its data takes, where that is another one's.
    pub included_in: Option<PoolName>,
}

/// What was last seen of pools.
#[derive(Debug, Default)]
pub(in super::super) struct PoolFigures {
    usages: ArcSwap<HashMap<PoolName, PoolUsage>>,
    included_in: ArcSwap<HashMap<PoolName, PoolName>>,
    near_full: NearFull,
    idle: Idle,
    /// Those that are being looked at.
    looking: Mutex<HashSet<PoolName>>,
}

impl PoolFigures {
    fn looking(&self) -> std::sync::MutexGuard<'_, HashSet<PoolName>> {
        self.looking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pool that nobody uses is looked at once in so many times: an administrator may have changed it.
const IDLE_LOOKS: u32 = 30;

/// Whether anything can have changed.
#[derive(Debug, Default)]
struct Idle(Mutex<Look>);

#[derive(Debug, Default)]
struct Look {
    changes: Option<u64>,
    /// One look after the last VM has ended.
    ran: bool,
    asked: bool,
    passed_over: u32,
}

impl Idle {
    fn look(&self) -> std::sync::MutexGuard<'_, Look> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody wants figures: the next look is not passed over.
    fn ask(&self) {
        self.look().asked = true;
    }

    fn is_due(&self, runs: bool, changes: u64) -> bool {
        let mut look = self.look();
        let is_due = runs
            || std::mem::take(&mut look.ran)
            || std::mem::take(&mut look.asked)
            || look.changes != Some(changes)
            || look.passed_over + 1 >= IDLE_LOOKS;
        look.ran = runs;
        look.changes = Some(changes);
        look.passed_over = if is_due { 0 } else { look.passed_over + 1 };
        is_due
    }
}

impl Host {
    /// A pool with its space as it was last seen; it waits for nothing.
    ///
    /// # Errors
    /// No such pool.
    pub fn pool(&self, name: &str) -> Result<PoolView, HostError> {
        let seen = self.snapshot();
        let pool = Arc::clone(seen.model.find_pool(name)?);
        let figures = &self.figures.pools;
        figures.idle.ask();
        let usage = figures.usages.load().get(&pool.name).copied();
        let included_in = figures.included_in.load().get(&pool.name).cloned();
        Ok(PoolView { usage, included_in, pool })
    }

    /// Looks at all pools now; at those whose figures take a command only if something can have changed since the last
    /// look: a VM runs, volumes were worked on, or somebody has asked for figures. It returns at once: a pool that does not
    /// answer holds up no other, and is not asked again meanwhile.
    pub(in super::super) fn refresh_pools(self: &Arc<Self>) {
        let seen = self.snapshot();
        let figures = &self.figures.pools;
        let is_due = figures.idle.is_due(!seen.cells.runs.is_empty(), self.storage.changes());
        for pool in seen.model.pools() {
            let is_cheap = self.storage.driver(&pool.name).is_ok_and(|driver| driver.usage_is_cheap());
            if (is_due || is_cheap) && figures.looking().insert(pool.name.clone()) {
                let (host, pool) = (Arc::clone(self), pool.name.clone());
                tokio::spawn(async move {
                    host.refresh_pool(&pool).await;
                    host.figures.pools.looking().remove(&pool);
                });
            }
        }
    }

    /// Looks at one pool now.
    pub(super) async fn refresh_pool(&self, pool: &PoolName) {
        let usage = match self.storage.usage(pool).await {
            Ok(usage) => usage,
            Err(error) => {
                // Once: it may be away for long.
                if self.figures.pools.usages.load().contains_key(pool) {
                    tracing::warn!(%pool, error = error.report(), "its space is not known");
                } else {
                    tracing::debug!(%pool, error = error.report(), "its space is not known");
                }
                None
            }
        };
        // It may have gone meanwhile.
        let usage = usage.filter(|_| self.snapshot().model.pool(pool.as_str()).is_some());
        self.figures.pools.usages.rcu(|usages| {
            let mut usages = HashMap::clone(usages);
            match usage {
                Some(usage) => usages.insert(pool.clone(), usage),
                None => usages.remove(pool),
            };
            usages
        });
        let Some(usage) = usage else { return };
        let events = self.figures.pools.near_full.look(pool, &usage, self.config.tuning.near_full_percent);
        for event in &events {
            tracing::warn!(%pool, ?event, "a pool is nearly full");
        }
        if !events.is_empty() {
            self.sequencer.announce(events.into_iter().map(ModelEvent::system).collect());
        }
    }

    /// Finds out anew which pool lies within which: for all pools, when one has come or gone.
    pub(in super::super) async fn look_at_surroundings(&self) {
        let (seen, tuning) = (self.snapshot(), self.storage.tuning());
        let look = tokio::task::spawn_blocking(move || surroundings(&seen.model, tuning));
        match look.await {
            Ok(found) => self.figures.pools.included_in.store(Arc::new(found)),
            Err(error) => tracing::error!(%error, "which pool lies within which is not known"),
        }
    }

    /// What was seen of a pool that is gone must not be another's of that name.
    pub(super) fn forget_pool_figures(&self, pool: &PoolName) {
        let figures = &self.figures.pools;
        figures.usages.rcu(|usages| {
            let mut usages = HashMap::clone(usages);
            usages.remove(pool);
            usages
        });
        figures.near_full.forget(pool);
    }
}

/// The pool whose space each takes; of several the innermost. Blocks.
fn surroundings(model: &Model, tuning: Tuning) -> HashMap<PoolName, PoolName> {
    let places: Vec<_> = model
        .pools()
        .filter_map(|pool| Some((&pool.name, super::driver(pool, tuning.clone()).ok()?.1.pool_place())))
        .collect();
    let mut found = HashMap::new();
    for (name, place) in &places {
        let around = places.iter().filter(|(other, outer)| other != name && place.takes_space_of(outer));
        let innermost = around.max_by_key(|(_, outer)| outer.depth());
        found.extend(innermost.map(|(outer, _)| ((*name).clone(), (*outer).clone())));
    }
    found
}

/// What is nearly full, so that each is told of once.
#[derive(Debug, Default)]
struct NearFull(Mutex<HashSet<(PoolName, UsageKind)>>);

impl NearFull {
    /// Notes a pool's figures; what has got nearly full since the last ones.
    fn look(&self, pool: &PoolName, usage: &PoolUsage, mark: u8) -> Vec<EventKind> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let data = (UsageKind::Data, usage.data_percent());
        let metadata = usage.metadata_percent().map(|percent| (UsageKind::Metadata, percent));
        let mut events = Vec::new();
        for (kind, percent) in std::iter::once(data).chain(metadata) {
            let key = (pool.clone(), kind);
            let was = known.contains(&key);
            match (was, is_near_full(was, mark, percent)) {
                (false, true) => {
                    known.insert(key);
                    events.push(EventKind::PoolUsage { pool: pool.clone(), kind, percent: whole(percent) });
                }
                (true, false) => {
                    known.remove(&key);
                }
                (false, false) | (true, true) => {}
            }
        }
        events
    }

    fn forget(&self, pool: &PoolName) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| known != pool);
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a percentage between 0 and 100 fits; what is behind the point is dropped"
)]
fn whole(percent: f64) -> u8 {
    percent.clamp(0.0, 100.0) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ByteSize;

    fn usage(data: u64, metadata: Option<u64>) -> PoolUsage {
        let of_1000 = |usage| (ByteSize::bytes(1000), ByteSize::bytes(usage));
        let (size, usage) = of_1000(data);
        PoolUsage { size, usage, available: None, metadata: metadata.map(of_1000) }
    }

    #[test]
    fn what_nobody_uses_is_looked_at_seldom() {
        let idle = Idle::default();
        assert!(idle.is_due(false, 0), "never looked at");
        assert!(!idle.is_due(false, 0));
        assert!(idle.is_due(false, 1), "a volume was worked on");
        assert!(!idle.is_due(false, 1));
        assert!(idle.is_due(true, 1) && idle.is_due(true, 1), "a VM runs");
        assert!(idle.is_due(false, 1), "what it wrote at its end");
        assert!(!idle.is_due(false, 1));
        idle.ask();
        assert!(idle.is_due(false, 1), "somebody has asked");
        let looks = (0..3 * IDLE_LOOKS).filter(|_| idle.is_due(false, 1)).count();
        assert_eq!(looks, 3);
    }

    #[test]
    fn a_pool_that_gets_nearly_full_is_told_of_once_for_each_time() {
        let (near_full, pool) = (NearFull::default(), "fast".parse().unwrap());
        let told = |data, metadata| {
            let events = near_full.look(&pool, &usage(data, metadata), 90);
            let told = events.into_iter().map(|event| {
                let EventKind::PoolUsage { kind, percent, .. } = event else { panic!("{event:?}") };
                format!("{kind} {percent}")
            });
            told.collect::<Vec<_>>().join(", ")
        };
        for (data, metadata, expected) in [
            (899, Some(0), ""),
            (900, Some(0), "data 90"),
            (990, Some(0), ""),
            (860, Some(955), "metadata 95"),
            (849, Some(955), ""),
            (999, Some(100), "data 99"),
            (999, Some(1000), "metadata 100"),
            (999, None, ""),
        ] {
            assert_eq!(told(data, metadata), expected, "{data} {metadata:?}");
        }
        near_full.forget(&pool);
        assert_eq!(told(1000, None), "data 100");
    }
}
