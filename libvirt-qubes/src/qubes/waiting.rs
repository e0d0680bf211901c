//! What waits for a pool that is away: volumes that could not be put to rest when the daemon started, and volumes that
//! are to go and could not be removed.
//!
//! Both are tried again when somebody asks for the VM, or for a new one of that name, and each time that figures of pools are
//! refreshed; what a pool that is there has refused, at ever longer intervals. What is not done when the daemon ends the next start finds again: rows of `pending` stay until their last
//! volume is gone, and every start puts every halted VM's volumes to rest.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::at_start;
use super::host::Host;
use super::ids::PendingId;
use super::operation::OperationKind;
use super::pending::{Pending, VolumeProgress};
use super::pool::Pool;
use super::pools;
use super::recovery;
use super::snapshot::Snapshot;
use crate::error::{Error, Kind};
use crate::ids::{PoolName, VmName};
use crate::storage::VolumeKind;

/// All that waits.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    all: Mutex<All>,
    /// Held while a row's volumes are removed: after that its name may be another VM's.
    rows_turn: tokio::sync::Mutex<()>,
    /// Held while all is tried again.
    round: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct All {
    vms: BTreeSet<Uuid>,
    rows: BTreeMap<PendingId, Due>,
}

/// When a row is tried again by itself.
#[derive(Debug, Clone, Copy)]
struct Due {
    at: Instant,
    /// The next interval.
    pause: Duration,
}

/// The first and the longest interval between two tries at what a pool has refused.
const PAUSES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_mins(10));

impl Due {
    fn at_once(now: Instant) -> Self {
        Self { at: now, pause: PAUSES.0 }
    }

    fn later(self, now: Instant) -> Self {
        Self { at: now + self.pause, pause: (self.pause * 2).min(PAUSES.1) }
    }
}

impl All {
    fn note(&mut self, row: PendingId, again: Again, now: Instant) {
        match again {
            Again::Never => {
                self.rows.remove(&row);
            }
            Again::Soon => {
                self.rows.insert(row, Due::at_once(now));
            }
            Again::Later => {
                let due = self.rows.get(&row).copied().unwrap_or_else(|| Due::at_once(now));
                self.rows.insert(row, due.later(now));
            }
        }
    }

    fn due(&self, now: Instant) -> Vec<PendingId> {
        self.rows.iter().filter(|(_, row)| row.at <= now).map(|(id, _)| *id).collect()
    }
}

/// Whether something that failed is to be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// Nothing is left to do; or it is for the next start-up.
    Never,
    /// Whenever the pool is there.
    Soon,
    /// At longer and longer intervals.
    Later,
}

impl Again {
    /// What a pool refuses now it may do later without anybody's change to it: its place comes back, can be written again. What a
    /// command refused, or for what there was no room or no time, it is asked more and more seldom.
    pub(super) fn after(error: &Error) -> Self {
        match error.kind() {
            Kind::Unavailable | Kind::NotFound | Kind::Io | Kind::Denied => Self::Soon,
            Kind::Busy | Kind::NoMemory | Kind::NoSpace | Kind::TimedOut | Kind::Backend => Self::Later,
            Kind::AlreadyExists | Kind::Invalid | Kind::Unsupported | Kind::Cancelled | Kind::Corrupt => {
                Self::Never
            }
        }
    }
}

impl Waiting {
    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A volume of a halted VM is not at rest.
    pub(super) fn add_vm(&self, vm: Uuid) {
        self.all().vms.insert(vm);
    }

    /// Volumes of a row are to go, and nobody works on it any more.
    pub(super) fn add_row(&self, row: PendingId, again: Again) {
        self.all().note(row, again, Instant::now());
    }

    /// A volume of a row could not be removed, and nobody works on it any more.
    pub(super) fn not_removed(&self, row: PendingId, vm: &VmName, error: &Error) {
        let again = Again::after(error);
        let until = if again == Again::Never { "until the next start-up" } else { "for now" };
        tracing::error!(%vm, error = error.report(), "a volume stays {until}");
        self.add_row(row, again);
    }

    pub(super) fn has_rows(&self) -> bool {
        !self.all().rows.is_empty()
    }

    pub(super) fn has_row(&self, row: PendingId) -> bool {
        self.all().rows.contains_key(&row)
    }

    pub(super) fn has_vm(&self, vm: Uuid) -> bool {
        self.all().vms.contains(&vm)
    }

    fn vms(&self) -> Vec<Uuid> {
        self.all().vms.iter().copied().collect()
    }

    fn rows(&self) -> Vec<PendingId> {
        self.all().rows.keys().copied().collect()
    }
}

/// What is known of pools within one round: each is asked once.
#[derive(Default)]
struct Seen(HashMap<PoolName, bool>);

impl Seen {
    async fn are_there(&mut self, host: &Host, pools: Vec<PoolName>) -> bool {
        for pool in pools {
            let is_there = match self.0.get(&pool) {
                Some(is_there) => *is_there,
                None => {
                    let is_there = host.storage.away(&pool).await.is_none();
                    self.0.insert(pool, is_there);
                    is_there
                }
            };
            if !is_there {
                return false;
            }
        }
        true
    }
}

impl Host {
    /// Before work on a VM or on what takes it as a source, holding no VM's lock: waits until its volumes are at rest, as
    /// far as its pools are there.
    pub(super) async fn at_rest(self: &Arc<Self>, vm: Uuid) {
        self.settling.at_rest(vm).await;
        if self.waiting.has_vm(vm) {
            self.resume_pools().await;
            self.rest_again(vm).await;
        }
    }

    /// For a name that is not free: removes what waits for its removal, as far as its pools are there.
    pub(super) async fn settle_rows(self: &Arc<Self>) {
        self.resume_pools().await;
        self.settle(self.waiting.rows()).await;
    }

    /// Whether the pools are there in which volumes of a row are to go.
    pub(super) async fn has_pools_of(&self, row: &Pending) -> bool {
        Seen::default().are_there(self, pools_of_row(row)).await
    }

    async fn settle(self: &Arc<Self>, rows: Vec<PendingId>) {
        let _alone = self.waiting.rows_turn.lock().await;
        let mut seen = Seen::default();
        for id in rows {
            let Some(row) = self.snapshot().model.pending_row(id).cloned() else {
                self.waiting.add_row(id, Again::Never);
                continue;
            };
            if seen.are_there(self, pools_of_row(&row)).await {
                self.waiting.add_row(id, recovery::settle_volumes(self, &row).await);
            }
        }
    }

    /// Tries all that waits again, unless that is being done already. It returns at once.
    pub(super) fn settle_waiting(self: &Arc<Self>) {
        let Ok(alone) = Arc::clone(&self.waiting.round).try_lock_owned() else { return };
        let host = Arc::clone(self);
        self.tasks.spawn(async move {
            host.resume_pools().await;
            let due = host.waiting.all().due(Instant::now());
            host.settle(due).await;
            let mut seen = Seen::default();
            for uuid in host.waiting.vms() {
                if seen.are_there(&host, pools_of(&host.snapshot(), uuid)).await {
                    host.rest_again(uuid).await;
                }
            }
            drop(alone);
        });
    }

    /// Puts a VM's volumes to rest under its lock, if that is still to be done.
    async fn rest_again(self: &Arc<Self>, uuid: Uuid) {
        let Ok(registered) = self.operations.register(uuid, OperationKind::Volume) else { return };
        let Ok(held) = registered.lock().await else { return };
        if !self.waiting.has_vm(uuid) {
            return;
        }
        let seen = self.snapshot();
        let Some(vm) = seen.model.vm(uuid) else {
            self.waiting.all().vms.remove(&uuid);
            return;
        };
        // Of one that runs, the stop does it.
        if seen.run(uuid).is_none_or(|run| run.domid.is_none()) && !recovery::settle(self, vm).await {
            self.waiting.all().vms.remove(&uuid);
        }
        drop((held, registered));
    }

    /// Pools of the model that storage has not.
    fn lacking_pools(&self) -> Vec<Arc<Pool>> {
        let seen = self.snapshot();
        let lacking = seen.model.pools().filter(|pool| self.storage.driver(&pool.name).is_err());
        lacking.cloned().collect()
    }

    /// Takes in the pools that could not be taken in until now.
    async fn resume_pools(&self) {
        if self.lacking_pools().is_empty() {
            return;
        }
        let _alone = self.pool_changes.lock().await;
        for pool in self.lacking_pools() {
            match pools::add(&self.storage, &pool).await {
                Ok(()) => tracing::info!(pool = %pool.name, "this pool can be used now"),
                Err(error) => {
                    tracing::debug!(pool = %pool.name, error = error.report(), "this pool cannot be used");
                }
            }
        }
    }
}

/// The pools that volumes of a row are to be removed from.
fn pools_of_row(row: &Pending) -> Vec<PoolName> {
    let made = row.volumes.iter().filter(|volume| volume.progress == VolumeProgress::Made);
    made.map(|volume| volume.pool.clone()).collect()
}

/// The pools that a VM's own volumes lie in.
fn pools_of(seen: &Snapshot, vm: Uuid) -> Vec<PoolName> {
    let Some(vm) = seen.model.vm(vm) else { return Vec::new() };
    let own = at_start::to_end(seen, vm).into_iter();
    own.filter(|volume| !matches!(volume.spec.kind, VolumeKind::Kernel { .. }))
        .map(|volume| volume.pool)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Op;

    #[test]
    fn what_a_pool_refuses_is_tried_at_longer_and_longer_intervals() {
        let (mut all, row, other) = (All::default(), PendingId::new(1), PendingId::new(2));
        let mut now = Instant::now();
        let mut refused = |all: &mut All| {
            all.note(row, Again::Later, now);
            let next = all.rows.get(&row).unwrap().at;
            assert!(!all.due(next - Duration::from_millis(1)).contains(&row) && all.due(next).contains(&row));
            let waited = next - now;
            now = next;
            waited.as_secs()
        };
        let waited: Vec<u64> = (0..9).map(|_| refused(&mut all)).collect();
        assert_eq!(waited, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
        // A pool that was away meanwhile is asked at once when it is back, and then begins anew.
        let back = now;
        all.note(row, Again::Soon, back);
        all.note(other, Again::Soon, back);
        assert_eq!(all.due(back), [row, other]);
        all.note(row, Again::Later, back);
        assert_eq!(all.due(back), [other]);
        assert_eq!(all.due(back + Duration::from_secs(10)), [row, other]);
        all.note(row, Again::Never, back);
        assert_eq!(all.due(back + Duration::from_hours(1)), [other]);
    }

    #[test]
    fn what_may_be_mended_is_tried_again_and_what_is_wrong_is_not() {
        for (kinds, again) in [
            (&[Kind::Unavailable, Kind::NotFound, Kind::Io, Kind::Denied][..], Again::Soon),
            (&[Kind::Busy, Kind::NoMemory, Kind::NoSpace, Kind::TimedOut, Kind::Backend], Again::Later),
            (
                &[Kind::AlreadyExists, Kind::Invalid, Kind::Unsupported, Kind::Cancelled, Kind::Corrupt],
                Again::Never,
            ),
        ] {
            for kind in kinds {
                assert_eq!(Again::after(&Error::new(*kind, Op::RemoveVolume, "a volume")), again, "{kind:?}");
            }
        }
    }
}
