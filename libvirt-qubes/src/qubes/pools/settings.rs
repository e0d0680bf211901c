//! What can be changed of a pool. None of it has an event.

use std::sync::Arc;

use super::super::diff::{Diff, Refused};
use super::super::host::Host;
use super::super::pool::Pool;
use super::super::refusal::HostError;
use super::super::snapshot::Snapshot;
use super::super::write::Write;
use super::options::{EPHEMERAL, REVISIONS, bad, shown};
use crate::error::Op;
use crate::storage::{DriverKind, RevisionsToKeep};

impl Host {
    /// How many revisions are kept of volumes that have no number of their own. A volume that is started keeps to
    /// what held then.
    ///
    /// # Errors
    /// No such pool; a pool of kernels keeps none; the store cannot be written.
    pub async fn set_pool_revisions(&self, pool: &str, keep: RevisionsToKeep) -> Result<(), HostError> {
        let pool = pool.to_owned();
        self.committer.commit(move |seen| set_revisions(seen, &pool, keep)).await
    }

    /// Whether volatile volumes that say nothing themselves are encrypted with a key that nobody keeps.
    ///
    /// # Errors
    /// No such pool; a pool of kernels has none; yes, where nothing can encrypt them; the store cannot be written.
    pub async fn set_pool_ephemeral(&self, pool: &str, ephemeral: bool) -> Result<(), HostError> {
        if ephemeral {
            set_ephemeral(&self.snapshot(), pool, ephemeral).map_err(|refused| refused.refusal)?;
            self.storage.can_encrypt(Op::SetupPool, pool).await?;
        }
        let pool = pool.to_owned();
        self.committer.commit(move |seen| set_ephemeral(seen, &pool, ephemeral)).await
    }
}

pub(super) fn set_revisions(seen: &Snapshot, pool: &str, keep: RevisionsToKeep) -> Result<Diff<()>, Refused> {
    let pool = seen.model.find_pool(pool)?;
    if is_of_kernels(pool) {
        if keep == RevisionsToKeep::Newest(0) {
            return Ok(Diff::new(()));
        }
        return Err(bad("LinuxKernel supports only revisions_to_keep=0").into());
    }
    Ok(with(pool, REVISIONS, &keep.to_string()))
}

pub(super) fn set_ephemeral(seen: &Snapshot, pool: &str, ephemeral: bool) -> Result<Diff<()>, Refused> {
    let pool = seen.model.find_pool(pool)?;
    if is_of_kernels(pool) {
        if !ephemeral {
            return Ok(Diff::new(()));
        }
        return Err(bad("LinuxKernel supports only ephemeral_volatile=False").into());
    }
    Ok(with(pool, EPHEMERAL, shown(ephemeral)))
}

fn is_of_kernels(pool: &Pool) -> bool {
    &*pool.driver == DriverKind::LinuxKernel.as_str()
}

fn with(pool: &Pool, option: &str, value: &str) -> Diff<()> {
    let mut pool = pool.clone();
    pool.options.insert(option.into(), value.into());
    Diff::new(()).write(Write::SetPool(Arc::new(pool)))
}
