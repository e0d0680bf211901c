//! Making a VM: its entry in `pending`, its volumes, its place in the model – all, or nothing.
//!
//! The order keeps a crash from leaking: a volume is recorded as this operation's before it is made, and only after
//! it was seen that nothing lies there yet. So whoever undoes, this daemon or the next, removes nothing of
//! somebody else's and forgets nothing of ours.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::class::{VmClass, VolumeKind};
use super::create::disposable::{self, NewDisposable};
use super::create::{self, Making, NewVm, Plan, Pools};
use super::diff::{Diff, Refused};
use super::host::Host;
use super::ids::PendingId;
use super::operation::{Held, OperationKind, Registered};
use super::pending::VolumeProgress;
use super::refusal::{HostError, Refusal};
use super::snapshot::Snapshot;
use super::start::no_turn;
use super::vm::Vm;
use super::volume::VolumeConfig;
use super::volumes;
use super::write::Write;
use crate::error::{Error, Kind, Op, Result};
use crate::ids::{ByteSize, VmName, VolumeName};
use crate::storage::{Import, ImportSize, Volume};

/// What a client asks for; the rest of a [`NewVm`] is the host's to choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateRequest {
    /// The new VM's name.
    pub name: VmName,
    /// Its class.
    pub class: VmClass,
    /// Its label, by name.
    pub label: String,
    /// What it is based on; `None`: nothing, or the default.
    pub template: Option<VmName>,
    /// Where its volumes lie.
    pub pools: Pools,
    /// Who asks.
    pub source: VmName,
}

impl Host {
    /// Makes a VM with empty volumes and returns when it is there for everybody. It is halted.
    ///
    /// # Errors
    /// What is wrong with the request, or what failed; nothing is left then.
    pub async fn create(self: &Arc<Self>, request: CreateRequest) -> Result<(), HostError> {
        let new = self.new_vm(request, Making::Vm);
        self.make(new.uuid, move |seen| create::begin(seen, &new)).await.map(drop)
    }

    /// Makes a disposable, named by its number, and returns when it is there for everybody. It is halted; when it has
    /// run it is removed by itself.
    ///
    /// `base`: what it is based on; `None`: what the property `default_dispvm` of `source`, who asks, names.
    ///
    /// # Errors
    /// There is no base, or that allows no disposables; or what failed; nothing is left then.
    pub async fn create_disposable(
        self: &Arc<Self>,
        base: Option<VmName>,
        source: VmName,
    ) -> Result<Arc<Vm>, HostError> {
        let new =
            NewDisposable { uuid: Uuid::new_v4(), base, source, rested: self.rested.all(Instant::now()) };
        self.make(new.uuid, move |seen| disposable::begin(seen, &new)).await
    }

    /// Makes what a plan says, with empty volumes.
    async fn make(
        self: &Arc<Self>,
        uuid: Uuid,
        plan: impl Fn(&Snapshot) -> Result<Diff<Plan>, Refused> + Send + Sync + 'static,
    ) -> Result<Arc<Vm>, HostError> {
        let host = Arc::clone(self);
        let task = self.tasks.spawn(async move {
            let creation = Creation::begin(&host, uuid, plan).await?;
            let made = match creation.record().await {
                Ok(()) => creation.make_all().await,
                Err(error) => Err(error),
            };
            creation.end(made).await
        });
        task.await.unwrap_or(Err(HostError::Bug))
    }

    pub(super) fn new_vm(&self, request: CreateRequest, operation: Making) -> NewVm {
        let CreateRequest { name, class, label, template, pools, source } = request;
        NewVm {
            uuid: Uuid::new_v4(),
            name,
            class,
            label,
            template,
            pools,
            root_size: None,
            source,
            operation,
            rested: self.rested.all(Instant::now()),
        }
    }
}

/// A VM that is being made, from its row in `pending` to its place in the model.
pub(super) struct Creation {
    pub(super) host: Arc<Host>,
    pub(super) plan: Plan,
    /// Those that a driver keeps something of, in the order of the VM's.
    pub(super) volumes: Vec<Volume>,
    /// Those of them whose creation has succeeded.
    created: Mutex<Vec<VolumeName>>,
    registered: Registered,
    _held: Held,
}

impl Creation {
    /// Commits the plan's row. `uuid` is the new VM's.
    pub(super) async fn begin(
        host: &Arc<Host>,
        uuid: Uuid,
        plan: impl Fn(&Snapshot) -> Result<Diff<Plan>, Refused> + Send + Sync + 'static,
    ) -> Result<Self, HostError> {
        let registered = host.operations.register(uuid, OperationKind::Create);
        let plan = Arc::new(plan);
        let commit = || {
            let plan = Arc::clone(&plan);
            host.committer.commit(move |seen| plan(seen))
        };
        let plan = match commit().await {
            // What waits for its removal may be what is in the way.
            Err(HostError::Refused(_)) if host.waiting.has_rows() => {
                host.settle_rows().await;
                commit().await?
            }
            planned => planned?,
        };
        let seen = host.snapshot();
        let placed: Result<Vec<Volume>, Refusal> = plan
            .vm
            .volumes
            .iter()
            .filter(|volume| volume.kind != VolumeKind::Kernel)
            .map(|volume| volumes::place(&seen, &plan.vm, volume))
            .collect();
        let turn = match registered {
            Ok(registered) => registered.lock().await.map(|held| (registered, held)),
            Err(no) => Err(no),
        };
        match (placed, turn) {
            (Ok(volumes), Ok((registered, held))) => {
                let created = Mutex::default();
                Ok(Self { host: Arc::clone(host), plan, volumes, created, registered, _held: held })
            }
            (Err(refusal), _) => Err(forget(host, plan.pending, refusal.into()).await),
            (Ok(_), Err(no)) => {
                let error = no_turn(&plan.vm, no);
                Err(forget(host, plan.pending, error).await)
            }
        }
    }

    pub(super) fn cancel(&self) -> &CancellationToken {
        self.registered.cancel_token()
    }

    pub(super) fn check(&self) -> Result<(), HostError> {
        if self.cancel().is_cancelled() {
            let words = "the daemon is shutting down";
            return Err(Error::new(Kind::Cancelled, Op::CreateVolume, &self.plan.vm.name)
                .because(words)
                .into());
        }
        Ok(())
    }

    /// Takes the volumes' places: nothing lies there yet, and from now on what does is this operation's.
    pub(super) async fn record(&self) -> Result<(), HostError> {
        for volume in &self.volumes {
            self.host.storage.vacant(volume).await?;
        }
        let pending = self.plan.pending;
        let names: Vec<_> = self.volumes.iter().map(|volume| volume.id.volume.clone()).collect();
        self.host
            .committer
            .commit(move |_| {
                Ok(names.iter().cloned().fold(Diff::new(()), |diff, name| {
                    diff.write(Write::RecordVolume(pending, name, VolumeProgress::Made))
                }))
            })
            .await
    }

    pub(super) async fn begin_upload(&self) -> Result<Import, HostError> {
        self.record().await?;
        let root = self.volumes.iter().find(|volume| volume.id.volume.as_str() == "root");
        let root = root.ok_or(HostError::Bug)?;
        Ok(self.host.storage.import(root, ImportSize::AsItComes).await?)
    }

    async fn make_all(&self) -> Result<(), HostError> {
        for volume in &self.volumes {
            self.check()?;
            self.create(volume).await?;
        }
        Ok(())
    }

    pub(super) async fn make_all_but_root(&self) -> Result<(), HostError> {
        for volume in self.volumes.iter().filter(|volume| volume.id.volume.as_str() != "root") {
            self.check()?;
            self.create(volume).await?;
        }
        Ok(())
    }

    /// Makes an empty volume.
    pub(super) async fn create(&self, volume: &Volume) -> Result<()> {
        self.host.storage.create(volume).await?;
        self.created.lock().unwrap_or_else(PoisonError::into_inner).push(volume.id.volume.clone());
        Ok(())
    }

    /// Whether there is nothing of a volume to be removed: it was not made, and nothing of an attempt has stayed.
    async fn is_nothing(&self, volume: &Volume) -> bool {
        let created = self.created.lock().unwrap_or_else(PoisonError::into_inner).contains(&volume.id.volume);
        !created && self.host.storage.vacant(volume).await.is_ok()
    }

    /// The root volume is as large as its image.
    pub(super) fn set_root_size(&mut self, size: ByteSize) {
        let vm = Vm {
            volumes: self
                .plan
                .vm
                .volumes
                .iter()
                .map(|volume| match volume.name.as_str() {
                    "root" => Arc::new(VolumeConfig { size: Some(size), ..VolumeConfig::clone(volume) }),
                    _ => Arc::clone(volume),
                })
                .collect(),
            ..Vm::clone(&self.plan.vm)
        };
        self.plan.vm = Arc::new(vm);
    }

    /// Puts the VM into the model, or takes back what was made.
    pub(super) async fn end(self, made: Result<(), HostError>) -> Result<Arc<Vm>, HostError> {
        let ended = match made {
            Ok(()) => {
                let plan = self.plan.clone();
                self.host.committer.commit(move |seen| create::finish(seen, &plan)).await
            }
            Err(error) => Err(error),
        };
        if ended.is_err() {
            self.undo().await;
        }
        ended
    }

    pub(super) async fn undo(self) {
        let name = self.plan.vm.name.clone();
        let row = self.host.snapshot().model.pending_row(self.plan.pending).cloned();
        let made = |volume: &Volume| {
            row.as_ref().is_some_and(|row| {
                row.volumes
                    .iter()
                    .any(|known| known.volume == volume.id.volume && known.progress == VolumeProgress::Made)
            })
        };
        for volume in self.volumes.iter().rev().filter(|volume| made(volume)) {
            if self.is_nothing(volume).await {
                continue;
            }
            if let Err(error) = self.host.storage.remove(volume).await {
                self.host.waiting.not_removed(self.plan.pending, &name, &error);
                return;
            }
        }
        let pending = self.plan.pending;
        if let Err(error) = self.host.committer.commit(move |_| Ok(create::abandon(pending))).await {
            tracing::error!(vm = %name, ?error, "the row of an undone creation stays until the next start-up");
        }
    }
}

/// Takes the row of a creation that made nothing back.
async fn forget(host: &Host, pending: PendingId, error: HostError) -> HostError {
    if let Err(second) = host.committer.commit(move |_| Ok(create::abandon(pending))).await {
        tracing::error!(?second, "the row of a refused creation stays until the next start-up");
    }
    error
}
