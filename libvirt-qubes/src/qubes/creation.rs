//! Making a VM: its entry in `pending`, its volumes, its place in the model – all, or nothing.
//!
//! The order keeps a crash from leaking: a volume is recorded as this operation's before it is made, and only after
//! it was seen that nothing lies there yet. So whoever undoes, this daemon or the next, removes nothing of
//! somebody else's and forgets nothing of ours.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::class::{VmClass, VolumeKind};
use super::create::{self, Making, NewVm, Plan, Pools};
use super::diff::Diff;
use super::host::Host;
use super::ids::PendingId;
use super::operation::{Held, OperationKind, Registered};
use super::pending::VolumeProgress;
use super::refusal::{HostError, Refusal};
use super::start::no_turn;
use super::vm::Vm;
use super::volume::VolumeConfig;
use super::volumes;
use super::write::Write;
use crate::error::{Error, Kind, Op, Result};
use crate::ids::{ByteSize, VmName};
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

/// A VM that is being made, from its row in `pending` to its place in the model.
struct Creation {
    host: Arc<Host>,
    plan: Plan,
    volumes: Vec<Volume>,
    registered: Registered,
    _held: Held,
}

impl Host {
    /// Makes a VM with empty volumes and returns when it is there for everybody. It is halted.
    ///
    /// # Errors
    /// What is wrong with the request, or what failed; nothing is left then.
    pub async fn create(self: &Arc<Self>, request: CreateRequest) -> Result<(), HostError> {
        let new = new_vm(request, Making::Vm);
        let host = Arc::clone(self);
        let task = self.tasks.spawn(async move {
            let creation = Creation::begin(&host, new).await?;
            let made = match creation.record().await {
                Ok(()) => creation.make_all().await,
                Err(error) => Err(error),
            };
            creation.end(made).await
        });
        task.await.unwrap_or(Err(HostError::Bug))
    }

    /// Begins to make a template from an image whose size is not known yet. Its name is reserved from now on; it
    /// is there for everybody after [`TemplateUpload::finish`].
    ///
    /// # Errors
    /// What is wrong with the request; nothing is left then.
    pub async fn create_template(
        self: &Arc<Self>,
        name: VmName,
        source: VmName,
    ) -> Result<TemplateUpload, HostError> {
        let request = CreateRequest {
            name,
            class: VmClass::TemplateVm,
            label: "black".to_owned(),
            template: None,
            pools: Pools::Default,
            source,
        };
        let new = new_vm(request, Making::Template);
        let host = Arc::clone(self);
        // A task of its own: a caller that goes away while the row is written leaves no row.
        let task = self.tasks.spawn(async move {
            let creation = Creation::begin(&host, new).await?;
            match creation.begin_upload().await {
                Ok(import) => Ok(TemplateUpload { state: Some((creation, import)) }),
                Err(error) => Err(creation.end(Err(error)).await.err().unwrap_or(HostError::Bug)),
            }
        });
        task.await.unwrap_or(Err(HostError::Bug))
    }
}

fn new_vm(request: CreateRequest, operation: Making) -> NewVm {
    let CreateRequest { name, class, label, template, pools, source } = request;
    NewVm { uuid: Uuid::new_v4(), name, class, label, template, pools, root_size: None, source, operation }
}

/// The image of a template on its way to the pool. Dropped before its end, it leaves nothing.
pub struct TemplateUpload {
    state: Option<(Creation, Import)>,
}

impl TemplateUpload {
    /// Writes the next bytes of the image and gives the buffer back, empty. Memory stays flat; zeros become holes.
    ///
    /// # Errors
    /// The pool cannot take them; the upload can only be dropped then.
    pub async fn write(&mut self, data: Vec<u8>) -> Result<Vec<u8>, HostError> {
        let (creation, import) = self.state.as_mut().ok_or(HostError::Bug)?;
        creation.check()?;
        Ok(import.write(data).await?)
    }

    /// All has come: makes the template, and returns when it is there for everybody.
    ///
    /// # Errors
    /// What failed; nothing is left then.
    pub async fn finish(mut self) -> Result<(), HostError> {
        let (mut creation, import) = self.state.take().ok_or(HostError::Bug)?;
        let tasks = creation.host.tasks.clone();
        let task = tasks.spawn(async move {
            let made = match import.finish().await {
                Ok(size) => {
                    creation.set_root_size(size);
                    creation.make_all_but_root().await
                }
                Err(error) => Err(error.into()),
            };
            creation.end(made).await
        });
        task.await.unwrap_or(Err(HostError::Bug))
    }

    /// Gives up, and returns when nothing is left.
    pub async fn abort(mut self) {
        if let Some((creation, import)) = self.state.take() {
            give_up(creation, import).await;
        }
    }
}

impl std::fmt::Debug for TemplateUpload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TemplateUpload").finish_non_exhaustive()
    }
}

impl Drop for TemplateUpload {
    fn drop(&mut self) {
        if let Some((creation, import)) = self.state.take() {
            let tasks = creation.host.tasks.clone();
            tasks.spawn(give_up(creation, import));
        }
    }
}

async fn give_up(creation: Creation, import: Import) {
    if let Err(error) = import.abort().await {
        tracing::warn!(vm = %creation.plan.vm.name, error = error.report(), "an unfinished image stays for now");
    }
    creation.undo().await;
}

impl Creation {
    async fn begin(host: &Arc<Host>, new: NewVm) -> Result<Self, HostError> {
        let registered = host.operations.register(new.uuid, OperationKind::Create);
        let plan = host.committer.commit(move |seen| create::begin(seen, &new)).await?;
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
                Ok(Self { host: Arc::clone(host), plan, volumes, registered, _held: held })
            }
            (Err(refusal), _) => Err(forget(host, plan.pending, refusal.into()).await),
            (Ok(_), Err(no)) => {
                let error = no_turn(&plan.vm, Op::CreateVolume, no);
                Err(forget(host, plan.pending, error).await)
            }
        }
    }

    fn cancel(&self) -> &CancellationToken {
        self.registered.cancel_token()
    }

    fn check(&self) -> Result<(), HostError> {
        if self.cancel().is_cancelled() {
            let words = "the daemon is shutting down";
            return Err(Error::new(Kind::Cancelled, Op::CreateVolume, &self.plan.vm.name)
                .because(words)
                .into());
        }
        Ok(())
    }

    /// Takes the volumes' places: nothing lies there yet, and from now on what does is this operation's.
    async fn record(&self) -> Result<(), HostError> {
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

    async fn begin_upload(&self) -> Result<Import, HostError> {
        self.record().await?;
        let root = self.volumes.iter().find(|volume| volume.id.volume.as_str() == "root");
        let root = root.ok_or(HostError::Bug)?;
        Ok(self.host.storage.import(root, ImportSize::AsItComes).await?)
    }

    async fn make_all(&self) -> Result<(), HostError> {
        for volume in &self.volumes {
            self.check()?;
            self.host.storage.create(volume).await?;
        }
        Ok(())
    }

    async fn make_all_but_root(&self) -> Result<(), HostError> {
        for volume in self.volumes.iter().filter(|volume| volume.id.volume.as_str() != "root") {
            self.check()?;
            self.host.storage.create(volume).await?;
        }
        Ok(())
    }

    /// The root volume is as large as its image.
    fn set_root_size(&mut self, size: ByteSize) {
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
    async fn end(self, made: Result<(), HostError>) -> Result<(), HostError> {
        let ended = match made {
            Ok(()) => {
                let plan = self.plan.clone();
                self.host.committer.commit(move |seen| create::finish(seen, &plan)).await.map(drop)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            self.undo().await;
            return Err(error);
        }
        Ok(())
    }

    async fn undo(self) {
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
            if let Err(error) = self.host.storage.remove(volume).await {
                tracing::error!(vm = %name, error = error.report(), "a volume stays until the next start-up");
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
