//! Removing a pool that nobody uses. Its data stays where it is.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::diff::{Diff, Refused};
use super::super::event::{EventKind, ModelEvent};
use super::super::global::Global;
use super::super::host::Host;
use super::super::index::Occupant;
use super::super::model::Model;
use super::super::refusal::{HostError, Refusal};
use super::super::snapshot::Snapshot;
use super::super::write::Write;
use crate::ids::{PoolName, VmName};

/// The global properties that name a pool.
const DEFAULTS: [Global; 5] = [
    Global::DefaultPool,
    Global::DefaultPoolKernel,
    Global::DefaultPoolPrivate,
    Global::DefaultPoolRoot,
    Global::DefaultPoolVolatile,
];

impl Host {
    /// Removes a pool. Its data is not touched. It runs to its end, whether somebody waits or not.
    ///
    /// # Errors
    /// No such pool; a volume lies in it, or volumes are made in it by default; the store cannot be written. The pool is
    /// gone when its driver cannot give it up (`Op::RemovePool`).
    pub async fn remove_pool(self: &Arc<Self>, name: &str) -> Result<(), HostError> {
        let (host, name) = (Arc::clone(self), name.to_owned());
        let task = self.tasks.spawn(async move {
            let _alone = host.pool_changes.lock().await;
            let gone = host.committer.commit(move |seen| remove(seen, &name)).await?;
            let given_up = host.storage.give_up_pool(&gone).await;
            host.look_at_kernels().await;
            host.look_at_surroundings().await;
            host.forget_pool_figures(&gone);
            given_up?;
            Ok(())
        });
        task.await.unwrap_or(Err(HostError::Bug))
    }
}

/// Takes a pool out; the answer is its name.
///
/// # Errors
/// [`Refusal::PoolNotFound`]; [`Refusal::PoolInUse`] while a volume lies in it (of a VM, also one that is being made or
/// removed, or was set aside), or volumes are made in it by default.
pub(super) fn remove(seen: &Snapshot, name: &str) -> Result<Diff<PoolName>, Refused> {
    let model = &seen.model;
    let pool = model.find_pool(name)?.name.clone();
    let (is_used, volumes_of) = users(model, &pool);
    let by_default = |global: &Global| match model.global(*global) {
        Some(value) => value.as_pool() == Some(&pool),
        // Those of a kind follow this one.
        None => *global == Global::DefaultPool && model.default_pool_of("") == Some(&pool),
    };
    let defaults: Vec<&'static str> = DEFAULTS.into_iter().filter(by_default).map(Global::name).collect();
    if is_used || !defaults.is_empty() {
        return Err(Refusal::PoolInUse { pool, volumes_of, defaults }.into());
    }
    Ok(Diff::new(pool.clone())
        .pre_event(ModelEvent::system(EventKind::PoolPreDelete { pool: pool.clone() }))
        .write(Write::RemovePool(pool.clone()))
        .event(ModelEvent::system(EventKind::PoolDelete { pool }))
        .frees_space())
}

/// Whether anything lies in the pool, and whose it is as far as it has a name.
fn users(model: &Model, pool: &PoolName) -> (bool, BTreeSet<VmName>) {
    let mut by: BTreeSet<VmName> = model.vms_in_pool(pool.as_str()).map(|vm| vm.name.clone()).collect();
    let mut is_used = !by.is_empty();
    for (_, occupant) in model.volumes_in(pool.as_str()) {
        is_used = true;
        match occupant {
            Occupant::Pending(id) => by.extend(model.pending_row(*id).map(|row| row.vm.name.clone())),
            // The first are above, the others below.
            Occupant::Volume(..) | Occupant::SetAside(_) => {}
        }
    }
    for row in model.set_aside().filter(|row| row.pools.contains(pool)) {
        is_used = true;
        if row.is_of_vm() {
            by.extend(row.name.parse());
        }
    }
    (is_used, by)
}
