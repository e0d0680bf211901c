//! What waits for a pool that is away: volumes that could not be put to rest when the daemon started, and volumes that
//! are to go and could not be removed.
//!
//! Both are tried again when somebody asks for the VM, or for a new one, and each time that figures of pools are
//! refreshed. What is not done when the daemon ends the next start finds again: rows of `pending` stay until their last
//! volume is gone, and every start puts every halted VM's volumes to rest.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::class::VolumeKind;
use super::host::Host;
use super::ids::PendingId;
use super::operation::OperationKind;
use super::pending::{Pending, VolumeProgress};
use super::pool::Pool;
use super::recovery;
use super::snapshot::Snapshot;
use super::{pools, volumes};
use crate::error::{Error, Kind};
use crate::ids::{PoolName, VmName};

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
    rows: BTreeSet<PendingId>,
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
    pub(super) fn add_row(&self, row: PendingId) {
        self.all().rows.insert(row);
    }

    /// A volume of a row could not be removed, and nobody works on it any more.
    pub(super) fn not_removed(&self, row: PendingId, vm: &VmName, error: &Error) {
        if may_pass(error) {
            tracing::error!(%vm, error = error.report(), "a volume stays for now");
            self.add_row(row);
        } else {
            tracing::error!(%vm, error = error.report(), "a volume stays until the next start-up");
        }
    }

    pub(super) fn has_row(&self, row: PendingId) -> bool {
        self.all().rows.contains(&row)
    }

    pub(super) fn has_vm(&self, vm: Uuid) -> bool {
        self.all().vms.contains(&vm)
    }

    fn vms(&self) -> Vec<Uuid> {
        self.all().vms.iter().copied().collect()
    }

    fn rows(&self) -> Vec<PendingId> {
        self.all().rows.iter().copied().collect()
    }
}

/// Whether what a pool refuses now it may do later, without anybody's change to it: its place comes back, can be written
/// again. What a command refused it is not asked again and again.
pub(super) fn may_pass(error: &Error) -> bool {
    match error.kind() {
        Kind::Unavailable | Kind::NotFound | Kind::Io | Kind::Denied => true,
        Kind::AlreadyExists
        | Kind::Busy
        | Kind::Invalid
        | Kind::Unsupported
        | Kind::NoMemory
        | Kind::NoSpace
        | Kind::TimedOut
        | Kind::Cancelled
        | Kind::Corrupt
        | Kind::Backend => false,
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

    /// Before a name is taken: removes what waits for its removal, as far as its pools are there.
    pub(super) async fn settle_rows(self: &Arc<Self>) {
        if self.waiting.rows().is_empty() {
            return;
        }
        self.resume_pools().await;
        let _alone = self.waiting.rows_turn.lock().await;
        let mut seen = Seen::default();
        for id in self.waiting.rows() {
            let Some(row) = self.snapshot().model.pending_row(id).cloned() else {
                self.waiting.all().rows.remove(&id);
                continue;
            };
            if seen.are_there(self, pools_of_row(&row)).await && !recovery::settle_volumes(self, &row).await {
                self.waiting.all().rows.remove(&id);
            }
        }
    }

    /// Tries all that waits again, unless that is being done already. It returns at once.
    pub(super) fn settle_waiting(self: &Arc<Self>) {
        let Ok(alone) = Arc::clone(&self.waiting.round).try_lock_owned() else { return };
        let host = Arc::clone(self);
        self.tasks.spawn(async move {
            host.resume_pools().await;
            host.settle_rows().await;
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
    let own = vm.volumes.iter().filter(|volume| volume.kind != VolumeKind::Kernel);
    own.filter_map(|volume| Some(volumes::place(seen, vm, volume).ok()?.pool)).collect()
}
