//! Adding a pool to a host that runs.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::diff::{Diff, Refused};
use super::super::event::{EventKind, ModelEvent};
use super::super::host::Host;
use super::super::model::Model;
use super::super::pool::Pool;
use super::super::refusal::{HostError, Refusal};
use super::super::snapshot::Snapshot;
use super::super::write::Write;
use super::options::{EPHEMERAL, shown};
use super::{NewPool, folders};
use crate::error::{Error, Kind, Op};
use crate::ids::PoolName;
use crate::storage::{Driver, DriverKind, Meeting, PoolPlace, Tuning, VolumeGroup};

impl Host {
    /// Sets a pool up and adds it. It runs to its end, whether somebody waits or not.
    ///
    /// # Errors
    /// The name is taken; another pool has its data there; the place, or the machine, cannot do what the driver or an
    /// option needs. Nothing was changed then, and nothing that was made is left.
    pub async fn add_pool(self: &Arc<Self>, new: NewPool) -> Result<(), HostError> {
        let host = Arc::clone(self);
        let task = self.tasks.spawn(async move { host.add_pool_alone(new).await });
        task.await.unwrap_or(Err(HostError::Bug))
    }

    async fn add_pool_alone(&self, new: NewPool) -> Result<(), HostError> {
        let _alone = self.pool_changes.lock().await;
        let seen = self.snapshot();
        name_is_free(&seen.model, &new.name)?;
        let name = new.name.clone();
        let tuning = self.storage.tuning();
        let look = tokio::task::spawn_blocking(move || look(&seen.model, new, tuning)).await;
        let looked = look.map_err(|join| Error::new(Kind::Backend, Op::SetupPool, name).because(join))??;
        let Looked { new, driver, own, missing } = looked;
        if new.options.get(EPHEMERAL).is_some_and(|value| &**value == shown(true)) {
            self.storage.can_encrypt(Op::SetupPool, &new.name).await?;
        }
        if !missing.is_empty() {
            folders::begin(&self.committer, &missing).await?;
        }
        if let Err(error) = self.storage.add_pool(new.name.clone(), driver).await {
            folders::undo(&self.committer, missing).await;
            return Err(error.into());
        }
        let (name, is_of_kernels) = (new.name.clone(), new.driver == DriverKind::LinuxKernel);
        let committed =
            self.committer.commit(move |seen| add(seen, &new).map(|d| folders::end(seen, &own, d)));
        if let Err(error) = committed.await {
            self.storage.remove_pool(&name);
            folders::undo(&self.committer, missing).await;
            return Err(error);
        }
        if is_of_kernels {
            self.look_at_kernels().await;
        }
        self.look_at_surroundings().await;
        self.refresh_pool(&name).await;
        Ok(())
    }
}

type Folders = Vec<Arc<str>>;

/// A pool that may be added, as far as others are concerned.
struct Looked {
    new: NewPool,
    driver: Arc<dyn Driver>,
    /// The driver's folders.
    own: Folders,
    /// Those that are not there.
    missing: Folders,
}

/// Opens the driver, and looks where it would have its data. Blocks.
fn look(model: &Model, new: NewPool, tuning: Tuning) -> Result<Looked, HostError> {
    let options = new.options.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let kind = new.driver;
    let driver = kind.open(&new.name, &options, tuning.clone())?;
    let new = new.with_base(driver.base_options())?;
    let place = driver.pool_place();
    for pool in model.pools() {
        // One that cannot be used keeps its place as far as that is known.
        let Ok((theirs, other)) = super::driver(pool, tuning.clone()) else { continue };
        match place.meets(&other.pool_place()) {
            None => {}
            Some(meeting) if may_meet((kind, &place), (theirs, &other.pool_place()), meeting) => {}
            Some(meeting) => return Err(Refusal::PoolPlaceTaken { pool: pool.name.clone(), meeting }.into()),
        }
    }
    let folders = driver.folders();
    let missing = folders.iter().filter(|folder| folder.symlink_metadata().is_err());
    let text = |folder: &std::path::PathBuf| folder.to_str().map(Arc::from);
    let (own, missing) = (folders.iter().filter_map(text).collect(), missing.filter_map(text).collect());
    Ok(Looked { new, driver, own, missing })
}

/// A pool of kernels may lie in a folder of volumes, as it does on a deployed system, beside the folders of VMs.
fn may_meet(new: (DriverKind, &PoolPlace), old: (DriverKind, &PoolPlace), meeting: Meeting) -> bool {
    let (inner, outer) = match meeting {
        Meeting::Same => return false,
        Meeting::Inside => (new, old),
        Meeting::Around => (old, new),
    };
    let (PoolPlace::Folder(kernels), PoolPlace::Folder(volumes)) = (inner.1, outer.1) else { return false };
    inner.0 == DriverKind::LinuxKernel
        && outer.0 != DriverKind::LinuxKernel
        && !VolumeGroup::ALL.iter().any(|group| kernels.starts_with(volumes.join(group.as_str())))
}

/// No pool has the name, nor one that was set aside.
fn name_is_free(model: &Model, name: &PoolName) -> Result<(), Refusal> {
    let set_aside = || model.set_aside().any(|row| row.table == "pool" && row.name == name.as_str());
    if model.pool(name.as_str()).is_some() || set_aside() {
        return Err(Refusal::PoolExists { pool: name.clone() });
    }
    Ok(())
}

/// The place behind all others, those of rows that were set aside included; where there is none behind, the last
/// that is free.
fn last_place(model: &Model) -> u32 {
    let set_aside = model.set_aside().filter_map(|row| row.position);
    let taken: BTreeSet<u32> = model.pools().map(|pool| pool.position).chain(set_aside).collect();
    match taken.last() {
        None => 1,
        Some(last) => last
            .checked_add(1)
            .or_else(|| (0..*last).rev().find(|place| !taken.contains(place)))
            .unwrap_or(*last),
    }
}

/// Puts a pool in, as the last.
pub(super) fn add(seen: &Snapshot, new: &NewPool) -> Result<Diff<()>, Refused> {
    let model = &seen.model;
    name_is_free(model, &new.name)?;
    let pool = Pool {
        name: new.name.clone(),
        driver: new.driver.as_str().into(),
        options: new.options.clone(),
        position: last_place(model),
    };
    let added = EventKind::PoolAdd { pool: new.name.clone() };
    Ok(Diff::new(()).write(Write::SetPool(Arc::new(pool))).event(ModelEvent::system(added)))
}
