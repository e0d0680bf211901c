//! The handle that calls use: model, hypervisor and storage of one host.
//!
//! This file holds its fields, how it is opened and closed; its methods lie with their families.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::block::Attached;
use super::commit::{Committer, CommitterThread};
use super::look::Figures;
use super::operation::{OperationKind, Operations};
use super::recovery;
use super::rested::Rested;
use super::sequencer::{EventLimits, Sequencer};
use super::settling::Settling;
use super::snapshot::{HostView, Snapshot, VolumeNaming};
use super::start::Starts;
use super::store::{Opened, Store};
use super::volume_ops::{HandedImports, Tokens};
use super::waiting::Waiting;
use super::{pools, settings, volumes};
use crate::device::DiskClaims;
use crate::error::{Error, Kind, Op, Result};
use crate::hypervisor::Hypervisor;
use crate::ids::MemoryMib;
use crate::qrexec::{NoQrexec, Qrexec};
use crate::storage::mapper::Mapper;
use crate::storage::{Limits as StorageLimits, Storage, Tuning, VolumeId};

/// What a host is opened with.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// The folder of the store; made if it is not there.
    pub state: PathBuf,
    /// The folder of the first start's pool.
    pub storage_dir: PathBuf,
    /// How many changes may wait for one VM.
    pub operations_per_vm: usize,
    /// Bounds of events.
    pub events: EventLimits,
    /// Bounds of storage's threads.
    pub storage: StorageLimits,
    /// What holds for all pools.
    pub tuning: Tuning,
    /// Who encrypts ephemeral volumes; `None`: the kernel, by `dmsetup`.
    pub mapper: Option<Arc<dyn Mapper>>,
}

/// What a host drives: a hypervisor, and services in its guests.
#[derive(Clone)]
pub struct Backend {
    /// The hypervisor.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Who calls services in guests.
    pub qrexec: Arc<dyn Qrexec>,
}

impl From<Arc<dyn Hypervisor>> for Backend {
    /// Without services.
    fn from(hypervisor: Arc<dyn Hypervisor>) -> Self {
        Self { hypervisor, qrexec: Arc::new(NoQrexec) }
    }
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backend").field("qrexec", &self.qrexec).finish_non_exhaustive()
    }
}

/// One host: what is stored, what runs, and what can be done to it.
///
/// Reads come from [`Host::snapshot`] and wait for nothing. Everything that changes something runs as a task of
/// its own: dropping a call's future gives up the answer, not the work.
pub struct Host {
    pub(super) committer: Committer,
    pub(super) sequencer: Arc<Sequencer>,
    pub(super) hypervisor: Arc<dyn Hypervisor>,
    pub(super) qrexec: Arc<dyn Qrexec>,
    pub(super) storage: Storage,
    pub(super) operations: Arc<Operations>,
    pub(super) starts: Starts,
    pub(super) settling: Settling,
    pub(super) waiting: Waiting,
    pub(super) claims: DiskClaims,
    pub(super) attached: Attached,
    pub(super) figures: Figures,
    pub(super) rested: Rested,
    /// Held while a pool is added or removed: storage and model have the same pools in between.
    pub(super) pool_changes: tokio::sync::Mutex<()>,
    pub(super) tokens: Tokens,
    pub(super) handed: HandedImports,
    pub(super) config: HostConfig,
    /// Every operation that is under way.
    pub(super) tasks: TaskTracker,
    /// Cancelled when the host closes: what follows the host for its life ends then.
    pub(super) closing: CancellationToken,
    /// Copies are called off, for the host is about to be closed.
    pub(super) ending: CancellationToken,
    thread: std::sync::Mutex<Option<CommitterThread>>,
}

impl Host {
    /// Opens the store (an empty one gets its first content), takes over what runs, and begins to put right what
    /// a crash left; that goes on after this returns, VM by VM, each holding its lock.
    ///
    /// The hypervisor is opened when the state is this process's alone: a second daemon on the same state drives
    /// nothing. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// The state is another process's; it cannot be read or written; the hypervisor cannot list its domains. A
    /// bad row, or a pool that cannot be used, is logged and no error.
    pub async fn open<B: Into<Backend>, E: From<Error>>(
        config: HostConfig,
        hypervisor: impl AsyncFnOnce() -> Result<B, E>,
    ) -> Result<Arc<Self>, E> {
        let storage = match config.mapper.clone() {
            Some(mapper) => Storage::with_mapper(config.storage, config.tuning.clone(), mapper),
            None => Storage::tuned(config.storage, config.tuning.clone()),
        };
        let paths = config.clone();
        let opened = tokio::task::spawn_blocking(move || {
            Store::open(&paths.state, || pools::first(&paths.state, &paths.storage_dir))
        });
        let Opened { store, model, last_number, .. } =
            opened.await.map_err(|join| failed_thread(&config, join))??;
        let Backend { hypervisor, qrexec } = hypervisor().await?.into();
        for pool in model.pools() {
            if let Err(error) = pools::add(&storage, pool).await {
                tracing::error!(pool = %pool.name, error = error.report(), "this pool cannot be used");
            }
        }
        let mut view = HostView::unknown(naming(&storage));
        let kernel_pools = model.pools().filter(|pool| pool.holds_kernels());
        let kernel_pools: Vec<_> = kernel_pools.map(|pool| pool.name.clone()).collect();
        view.kernels = Arc::new(settings::kernels(&storage, &kernel_pools).await);
        match hypervisor.facts().await {
            Ok(facts) => {
                view.total_memory = u32::try_from(facts.total_memory_kib >> 10).map(MemoryMib::new).ok();
                view.cpus = Some(facts.cpus);
            }
            Err(error) => tracing::warn!(error = error.report(), "nothing is known of the machine"),
        }
        let sequencer = Arc::new(Sequencer::new(model, last_number, view, config.events));
        let (committer, thread) = Committer::start(store, Arc::clone(&sequencer))?;
        let host = Arc::new(Self {
            committer,
            sequencer,
            hypervisor,
            qrexec,
            storage,
            operations: Arc::new(Operations::new(config.operations_per_vm)),
            starts: Starts::default(),
            settling: Settling::default(),
            waiting: Waiting::default(),
            claims: DiskClaims::new(),
            attached: Attached::default(),
            figures: Figures::default(),
            rested: Rested::default(),
            pool_changes: tokio::sync::Mutex::default(),
            tokens: Tokens::default(),
            handed: HandedImports::default(),
            config,
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            ending: CancellationToken::new(),
            thread: std::sync::Mutex::new(Some(thread)),
        });
        let events = host.hypervisor.subscribe();
        recovery::recover(&host).await?;
        tokio::spawn(Arc::clone(&host).follow_hypervisor(events));
        tokio::spawn(Arc::clone(&host).refresh_domains());
        tokio::spawn(Arc::clone(&host).refresh_storage());
        tokio::spawn(Arc::clone(&host).expire_rules());
        Ok(host)
    }

    /// Everything as of now; it never waits.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.sequencer.snapshot()
    }

    /// The hypervisor beneath.
    pub fn hypervisor(&self) -> &Arc<dyn Hypervisor> {
        &self.hypervisor
    }

    /// Where events come from.
    pub fn sequencer(&self) -> &Arc<Sequencer> {
        &self.sequencer
    }

    /// Calls off what copies data, as [`close`](Self::close) does: for a caller that has calls to end first.
    pub fn cancel_copies(&self) {
        self.ending.cancel();
        self.operations.cancel_all(&[OperationKind::Create, OperationKind::Copy]);
    }

    /// Kills the commands around pools that still run, with their children: for a caller whose patience with
    /// [`close`](Self::close) is over. What they were run for fails, and is settled at the next start where it is not before.
    pub fn end_commands(&self) {
        self.storage.end_commands();
    }

    /// Ends the host: what copies data is cancelled, the rest is finished, then the store is closed. VMs go on.
    ///
    /// # Errors
    /// The store could not be closed in order; nothing acknowledged is lost.
    pub async fn close(&self) -> Result<()> {
        self.cancel_copies();
        self.closing.cancel();
        self.handed.give_up(None).await;
        self.tasks.close();
        self.tasks.wait().await;
        self.committer.close().await;
        let thread = self.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        match thread {
            Some(thread) => tokio::task::spawn_blocking(move || thread.join())
                .await
                .map_err(|join| failed_thread(&self.config, join))?,
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("state", &self.config.state).finish_non_exhaustive()
    }
}

fn failed_thread(config: &HostConfig, join: tokio::task::JoinError) -> Error {
    Error::new(Kind::Backend, Op::Store, config.state.display()).because(join)
}

/// Names volumes as the pool's driver does. The drivers of files name them by folder, VM and volume; where the pool
/// could not be set up, so does this: the name is only a place that nobody else gets.
fn naming(storage: &Storage) -> VolumeNaming {
    let storage = storage.clone();
    VolumeNaming::new(move |pool, group, owner, volume| {
        let id = VolumeId::new(group, owner.clone(), volume.clone());
        match storage.driver(&pool.name) {
            Ok(driver) => driver.vid(&id, &volumes::any_spec()),
            Err(_) => id.to_string(),
        }
    })
}
