//! The way in for async callers: pools by name, and the drivers' operations off the async threads.
//!
//! Each operation waits for its volume's locks, then for a thread, then runs to its end: dropping the future gives up
//! the answer, not the work. What is short, what belongs to a start and what copies in bulk have bounds of their own,
//! so that none of them waits behind the others; and a copy of data lets others have its volume's state meanwhile.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::ephemeral;
use super::lanes::{Lane, Lanes};
use super::locks::{Key, Locks};
use super::mapper::{DeviceMapper, Mapper};
use super::{
    Contents, Driver, Ending, Export, Import, ImportSize, Job, Kernel, Limits, PoolUsage, Recovered,
    Revision, RevisionId, Started, Tuning, VolumeId, VolumeInfo, VolumeSpec,
};
use crate::error::{Error, Kind, Op, Result};
use crate::ids::{ByteSize, KernelVersion, PoolName};

/// Everything an operation needs to know of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Where it lies.
    pub pool: PoolName,
    /// Which it is.
    pub id: VolumeId,
    /// What is wanted of it.
    pub spec: VolumeSpec,
}

impl Volume {
    pub(super) fn key(&self) -> Key {
        (self.pool.clone(), self.id.clone())
    }
}

/// All pools. Cheap to clone; clones are the same storage.
#[derive(Debug, Clone)]
pub struct Storage {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) tuning: Tuning,
    pub(super) pools: RwLock<BTreeMap<PoolName, Pool>>,
    /// Why some that there are are not among them.
    pub(super) unusable: RwLock<BTreeMap<PoolName, String>>,
    pub(super) locks: Locks,
    /// For ephemeral volumes.
    pub(super) mapper: Arc<dyn Mapper>,
    /// Of what belongs to no pool yet, or none any more.
    pub(super) lanes: Lanes,
    /// How much work was begun that may change what is in use.
    pub(super) changes: AtomicU64,
}

#[derive(Debug, Clone)]
pub(super) struct Pool {
    pub(super) driver: Arc<dyn Driver>,
    pub(super) lanes: Lanes,
}

impl Storage {
    /// Without a pool yet.
    pub fn new(limits: Limits) -> Self {
        Self::tuned(limits, Tuning::default())
    }

    /// The same, with what holds for all pools.
    pub fn tuned(limits: Limits, tuning: Tuning) -> Self {
        let mapper = Arc::new(DeviceMapper::new(tuning.command_limit));
        Self::with_mapper(limits, tuning, mapper)
    }

    /// The same, with somebody else to make devices. For tests.
    pub fn with_mapper(limits: Limits, tuning: Tuning, mapper: Arc<dyn Mapper>) -> Self {
        Self {
            inner: Arc::new(Inner {
                tuning,
                pools: RwLock::default(),
                unusable: RwLock::default(),
                locks: Locks::default(),
                mapper,
                lanes: Lanes::new(limits),
                changes: AtomicU64::new(0),
            }),
        }
    }

    /// A number that grows with whatever may change the space that volumes take. What running VMs write is not in it.
    pub fn changes(&self) -> u64 {
        self.inner.changes.load(Ordering::Relaxed)
    }

    /// What holds for all pools: for the drivers that are opened for this storage.
    pub fn tuning(&self) -> Tuning {
        self.inner.tuning.clone()
    }

    /// Kills the commands around pools that run, as at their deadline; none is run any more. For a caller that ends and cannot
    /// wait.
    pub fn end_commands(&self) {
        self.inner.tuning.end_commands.cancel();
    }

    /// Prepares a new pool's place and takes it in under `name`.
    ///
    /// # Errors
    /// `AlreadyExists` for a name that is taken; else what [`Driver::setup`] says.
    pub async fn add_pool(&self, name: PoolName, driver: Arc<dyn Driver>) -> Result<()> {
        self.take_in(name, driver, |driver| driver.setup()).await
    }

    /// Takes a pool in that was added before, by an earlier process.
    ///
    /// # Errors
    /// `AlreadyExists` for a name that is taken; else what [`Driver::resume`] says.
    pub async fn resume_pool(&self, name: PoolName, driver: Arc<dyn Driver>) -> Result<()> {
        self.take_in(name, driver, |driver| driver.resume()).await
    }

    /// Says why a pool that there is cannot be used, for whoever wants to; until it is taken in or removed.
    pub fn note_unusable(&self, name: PoolName, why: String) {
        self.inner.unusable.write().unwrap_or_else(PoisonError::into_inner).insert(name, why);
    }

    fn forget_unusable(&self, name: &PoolName) {
        self.inner.unusable.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    async fn take_in(
        &self,
        name: PoolName,
        driver: Arc<dyn Driver>,
        prepare: fn(&dyn Driver) -> Result<()>,
    ) -> Result<()> {
        let new = Arc::clone(&driver);
        let lanes = self.inner.lanes.another();
        self.run(&lanes, Lane::Short, &Job::default(), Op::SetupPool, name.to_string(), move || {
            prepare(&*new)
        })
        .await?;
        let mut pools = self.inner.pools.write().unwrap_or_else(PoisonError::into_inner);
        if pools.contains_key(&name) {
            return Err(Error::new(Kind::AlreadyExists, Op::SetupPool, name));
        }
        self.forget_unusable(&name);
        pools.insert(name, Pool { driver, lanes });
        Ok(())
    }

    /// Forgets a pool; its data stays. Operations under way end as they would. `false`: there was none.
    pub fn remove_pool(&self, name: &PoolName) -> bool {
        self.forget_unusable(name);
        self.inner.pools.write().unwrap_or_else(PoisonError::into_inner).remove(name).is_some()
    }

    /// Forgets a pool and gives it up: see [`Driver::dispose`]. `false`: there was none.
    ///
    /// # Errors
    /// As there; it is forgotten all the same.
    pub async fn give_up_pool(&self, name: &PoolName) -> Result<bool> {
        self.forget_unusable(name);
        let removed = self.inner.pools.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        let Some(Pool { driver, lanes }) = removed else { return Ok(false) };
        let dispose = move || driver.dispose().map(|()| true);
        self.run(&lanes, Lane::Short, &Job::default(), Op::RemovePool, name.to_string(), dispose).await
    }

    /// The names of the pools, sorted.
    pub fn pools(&self) -> Vec<PoolName> {
        self.inner.pools.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// The driver of a pool, to ask what it can. Its methods block.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn driver(&self, pool: &PoolName) -> Result<Arc<dyn Driver>> {
        self.pool(pool).map(|pool| pool.driver)
    }

    pub(super) fn pool(&self, pool: &PoolName) -> Result<Pool> {
        let pools = self.inner.pools.read().unwrap_or_else(PoisonError::into_inner);
        let unusable = || {
            let known = self.inner.unusable.read().unwrap_or_else(PoisonError::into_inner);
            let why = known.get(pool).map_or("", |why| why.as_str());
            let why = format!(
                "storage pool '{pool}' cannot be used now{}{why}",
                if why.is_empty() { "" } else { ": " }
            );
            Error::new(Kind::NotFound, Op::InspectStorage, pool).because(why)
        };
        pools.get(pool).cloned().ok_or_else(unusable)
    }

    /// Why nothing can be done in a pool now; `None`: it can. See [`Driver::away`].
    pub async fn away(&self, pool: &PoolName) -> Option<String> {
        let asked = self.on_pool(pool, |driver| Ok(driver.away())).await;
        asked.unwrap_or_else(|error| Some(error.report()))
    }

    /// See [`Driver::vacant`].
    ///
    /// # Errors
    /// As there.
    pub async fn vacant(&self, volume: &Volume) -> Result<()> {
        self.short(Op::CreateVolume, volume, |driver, v| driver.vacant(&v.id)).await
    }

    /// See [`Driver::create`].
    ///
    /// # Errors
    /// As there.
    pub async fn create(&self, volume: &Volume) -> Result<()> {
        self.changed(Lane::Short, Job::default(), Op::CreateVolume, volume, |driver, v, _| {
            driver.create(&v.id, &v.spec)
        })
        .await
    }

    /// See [`Driver::remove`].
    ///
    /// # Errors
    /// As there.
    pub async fn remove(&self, volume: &Volume) -> Result<()> {
        let mapper = Arc::clone(&self.inner.mapper);
        self.short(Op::RemoveVolume, volume, move |driver, v| {
            ephemeral::stop(&*mapper, &v.id, &v.spec, Op::RemoveVolume)?;
            driver.remove(&v.id)
        })
        .await
    }

    /// See [`Driver::verify`].
    ///
    /// # Errors
    /// As there.
    pub async fn verify(&self, volume: &Volume) -> Result<()> {
        self.short(Op::VerifyVolume, volume, |driver, v| driver.verify(&v.id, &v.spec)).await
    }

    /// See [`Driver::start`]. Holds the lock of a snapshot's source until the source's state is fixed.
    ///
    /// # Errors
    /// As there.
    pub async fn start(&self, volume: &Volume, job: Job) -> Result<Option<Started>> {
        let Pool { driver, lanes } = self.pool(&volume.pool)?;
        let key = volume.key();
        let locked = async {
            match volume.spec.kind.source() {
                Some(source) => {
                    self.inner.locks.with_source(&key, &(volume.pool.clone(), source.clone())).await
                }
                None => (self.inner.locks.of(&key).whole().await, None),
            }
        };
        let (own, mut source) = tokio::select! {
            biased;
            locked = locked => locked,
            () = job.cancelled() => return Err(Error::new(Kind::Cancelled, Op::StartVolume, &volume.id)),
        };
        let (v, mapper) = (volume.clone(), Arc::clone(&self.inner.mapper));
        self.run(&lanes, Lane::Start, &job.clone(), Op::StartVolume, volume.id.to_string(), move || {
            let _own = own;
            ephemeral::check(&*mapper, &v.id, &v.spec)?;
            ephemeral::stop(&*mapper, &v.id, &v.spec, Op::StartVolume)?;
            let started = driver.start(&v.id, &v.spec, &mut || drop(source.take()), &job)?;
            let Some(plain) = started.as_ref().filter(|_| v.spec.ephemeral) else { return Ok(started) };
            ephemeral::start(&*mapper, &v.id, plain).map(Some).inspect_err(|_| {
                let taken_back = ephemeral::stop(&*mapper, &v.id, &v.spec, Op::StopVolume)
                    .and_then(|()| driver.stop(&v.id, &v.spec, Ending::NeverRan));
                if let Err(e) = taken_back {
                    tracing::warn!(volume = %v.id, error = %e.report(), "cannot take a failed start back");
                }
            })
        })
        .await
    }

    /// Whether volumes can be [ephemeral](VolumeSpec::ephemeral) on this machine; `op` and `target` are for the error.
    ///
    /// # Errors
    /// `Unsupported`: what there is not, and what to do.
    pub async fn can_encrypt(&self, op: Op, target: impl fmt::Display) -> Result<()> {
        let (mapper, target) = (Arc::clone(&self.inner.mapper), target.to_string());
        let asked = target.clone();
        let ask = move || ephemeral::can_encrypt(&*mapper, op, asked);
        self.run(&self.inner.lanes, Lane::Short, &Job::default(), op, target, ask).await
    }

    /// See [`Driver::stop`].
    ///
    /// # Errors
    /// As there.
    pub async fn stop(&self, volume: &Volume, ending: Ending) -> Result<()> {
        let mapper = Arc::clone(&self.inner.mapper);
        self.changed(Lane::Short, Job::default(), Op::StopVolume, volume, move |driver, v, _| {
            ephemeral::stop(&*mapper, &v.id, &v.spec, Op::StopVolume)?;
            driver.stop(&v.id, &v.spec, ending)
        })
        .await
    }

    /// See [`Driver::recover`]: for each volume of a VM without a domain, when the caller starts.
    ///
    /// # Errors
    /// As there.
    pub async fn recover(&self, volume: &Volume) -> Result<Recovered> {
        let mapper = Arc::clone(&self.inner.mapper);
        self.short(Op::Recover, volume, move |driver, v| {
            ephemeral::stop(&*mapper, &v.id, &v.spec, Op::Recover)?;
            driver.recover(&v.id, &v.spec)
        })
        .await
    }

    /// See [`Driver::wake`].
    ///
    /// # Errors
    /// As there.
    pub async fn wake(&self, volume: &Volume) -> Result<()> {
        self.short(Op::SetupPool, volume, |driver, v| driver.wake(&v.id)).await
    }

    /// See [`Driver::begin_import`]. The volume is not locked while data comes: what would disturb the import is
    /// refused with `Busy` instead of waiting for it.
    ///
    /// # Errors
    /// As there.
    pub async fn import(&self, volume: &Volume, size: ImportSize) -> Result<Import> {
        let begun =
            self.short(Op::ImportVolume, volume, move |driver, v| driver.begin_import(&v.id, &v.spec, size));
        let lanes = self.pool(&volume.pool).map_or_else(|_| self.inner.lanes.clone(), |pool| pool.lanes);
        Ok(Import::new(self.clone(), lanes, volume.clone(), begun.await?))
    }

    /// See [`Driver::export`]. Reading from it blocks.
    ///
    /// # Errors
    /// As there.
    pub async fn export(&self, volume: &Volume) -> Result<Export> {
        let (Pool { driver, lanes }, v) = (self.pool(&volume.pool)?, volume.clone());
        let state = self.inner.locks.of(&volume.key()).state().await;
        let open = move || {
            let _state = state;
            Ok(driver.export(&v.id, &v.spec)?.named(driver.vid(&v.id, &v.spec), v.pool.clone()))
        };
        self.run(&lanes, Lane::Short, &Job::default(), Op::ExportVolume, volume.id.to_string(), open).await
    }

    /// Replaces `target`'s state by a copy of `source`'s committed one; makes `target` if it is not there. The
    /// source's lock is held while it is opened, not while it is copied. See [`Driver::import_from`].
    ///
    /// # Errors
    /// Those of an export and of an import.
    pub async fn copy(&self, source: &Volume, target: &Volume, job: Job) -> Result<()> {
        self.fill(self.export(source).await?, target, job).await
    }

    /// Replaces `target`'s state by a copy of what was opened; makes `target` if it is not there. See
    /// [`Driver::import_from`].
    ///
    /// # Errors
    /// As there.
    pub async fn fill(&self, export: Export, target: &Volume, job: Job) -> Result<()> {
        let lane = if export.is_of(&target.pool) { self.copying(&target.pool)? } else { Lane::Bulk };
        self.changed(lane, job, Op::ImportVolume, target, move |driver, v, job| {
            driver.import_from(&v.id, &v.spec, &export, job)
        })
        .await
    }

    /// See [`Resize::resize`](super::Resize::resize).
    ///
    /// # Errors
    /// As there.
    pub async fn resize(&self, volume: &Volume, size: ByteSize) -> Result<()> {
        let mapper = Arc::clone(&self.inner.mapper);
        self.changed(Lane::Short, Job::default(), Op::ResizeVolume, volume, move |driver, v, _| {
            if ephemeral::device(&*mapper, &v.id, &v.spec).is_some() {
                let why = "an ephemeral volume cannot grow while its VM runs: stop the VM first";
                return Err(Error::new(Kind::Busy, Op::ResizeVolume, &v.id).because(why));
            }
            let resize = driver.as_resize().ok_or_else(|| cannot(driver, Op::ResizeVolume, &v.id))?;
            resize.resize(&v.id, &v.spec, size)
        })
        .await
    }

    /// Oldest first; none on a driver without revisions. Takes no lock, as [`info`](Self::info).
    ///
    /// # Errors
    /// As [`Revisions::revisions`](super::Revisions::revisions).
    pub async fn revisions(&self, volume: &Volume) -> Result<Vec<Revision>> {
        let (Pool { driver, lanes }, v) = (self.pool(&volume.pool)?, volume.clone());
        let list = move || match driver.as_revisions() {
            Some(revisions) => revisions.revisions(&v.id),
            None => Ok(Vec::new()),
        };
        self.run(&lanes, Lane::Short, &Job::default(), Op::InspectStorage, volume.id.to_string(), list).await
    }

    /// See [`Revisions::revert`](super::Revisions::revert).
    ///
    /// # Errors
    /// As there.
    pub async fn revert(&self, volume: &Volume, revision: &RevisionId, job: Job) -> Result<()> {
        let revision = revision.clone();
        self.changed(self.copying(&volume.pool)?, job, Op::RevertVolume, volume, move |driver, v, job| {
            let revisions = driver.as_revisions().ok_or_else(|| cannot(driver, Op::RevertVolume, &v.id))?;
            revisions.revert(&v.id, &v.spec, &revision, job)
        })
        .await
    }

    /// See [`Revisions::keep`](super::Revisions::keep).
    ///
    /// # Errors
    /// As there.
    pub async fn keep(&self, volume: &Volume, number: u64, job: Job) -> Result<RevisionId> {
        self.locked(self.copying(&volume.pool)?, job, Op::CreateVolume, volume, move |driver, v, job| {
            let revisions = driver.as_revisions().ok_or_else(|| cannot(driver, Op::CreateVolume, &v.id))?;
            revisions.keep(&v.id, &v.spec, number, job)
        })
        .await
    }

    /// See [`Revisions::forget`](super::Revisions::forget).
    ///
    /// # Errors
    /// As there.
    pub async fn forget(&self, volume: &Volume, revision: &RevisionId) -> Result<()> {
        let revision = revision.clone();
        self.short(Op::RemoveVolume, volume, move |driver, v| {
            let revisions = driver.as_revisions().ok_or_else(|| cannot(driver, Op::RemoveVolume, &v.id))?;
            revisions.forget(&v.id, &revision)
        })
        .await
    }

    /// Figures as of now. Takes no lock: it waits for no operation, and may see one half done.
    ///
    /// # Errors
    /// As [`Driver::info`].
    pub async fn info(&self, volume: &Volume) -> Result<VolumeInfo> {
        let (Pool { driver, lanes }, v) = (self.pool(&volume.pool)?, volume.clone());
        let mapper = Arc::clone(&self.inner.mapper);
        self.run(&lanes, Lane::Short, &Job::default(), Op::InspectStorage, volume.id.to_string(), move || {
            let info = driver.info(&v.id, &v.spec)?;
            let path = ephemeral::device(&*mapper, &v.id, &v.spec).or(info.path);
            Ok(VolumeInfo { path, ..info })
        })
        .await
    }

    /// See [`Driver::usage`].
    ///
    /// # Errors
    /// As there.
    pub async fn usage(&self, pool: &PoolName) -> Result<Option<PoolUsage>> {
        self.on_pool(pool, |driver| driver.usage()).await
    }

    /// See [`Driver::contents`].
    ///
    /// # Errors
    /// As there.
    pub async fn contents(&self, pool: &PoolName) -> Result<Contents> {
        self.on_pool(pool, |driver| driver.contents()).await
    }

    /// A kernel of a pool of kernels.
    ///
    /// # Errors
    /// `Unsupported` for a pool of anything else; else as [`Kernels::kernel`](super::Kernels::kernel).
    pub async fn kernel(&self, pool: &PoolName, version: &KernelVersion) -> Result<Kernel> {
        let version = version.clone();
        self.on_pool(pool, move |driver| kernels(driver)?.kernel(&version)).await
    }

    /// The kernels of a pool of kernels, sorted.
    ///
    /// # Errors
    /// As [`kernel`](Self::kernel).
    pub async fn kernels(&self, pool: &PoolName) -> Result<Vec<KernelVersion>> {
        self.on_pool(pool, move |driver| kernels(driver)?.versions()).await
    }
}

fn cannot(driver: &dyn Driver, op: Op, id: &VolumeId) -> Error {
    Error::new(Kind::Unsupported, op, id).because(format!("the driver {} cannot do this", driver.name()))
}

fn kernels(driver: &dyn Driver) -> Result<&dyn super::Kernels> {
    let none =
        || Error::new(Kind::Unsupported, Op::ReadKernel, driver.name()).because("it is no pool of kernels");
    driver.as_kernels().ok_or_else(none)
}
