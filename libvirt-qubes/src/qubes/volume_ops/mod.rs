//! What calls do with the volumes of VMs.
//!
//! Each change runs as a task of its own, under its VM's lock. What a driver does with names on disk recovers from
//! these alone. What replaces a volume's data from outside has a row of `pending` besides, from before its first
//! effect to the commit of the volume's new size: a crash in between leaves the data of before or of after, and
//! start-up sees to it that the size is that of the data.

mod copy;
mod handed;
mod import;
mod look;
mod refusal;
mod replacing;
mod resize;
mod revisions;
mod settings;
mod tokens;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::class::VolumeKind;
use super::diff::Diff;
use super::host::Host;
use super::operation::{OperationKind, Registered};
use super::refusal::{HostError, Refusal};
use super::snapshot::Snapshot;
use super::start::{called_off, no_turn};
use super::vm::Vm;
use super::volume::VolumeConfig;
use super::volumes;
use super::write::Write;
use crate::error::Kind;
use crate::ids::{ByteSize, VmName};
use crate::storage::Volume;

pub(super) use handed::HandedImports;
pub use import::VolumeImport;
pub use look::{PoolVolume, VolumeFacts};
pub use refusal::VolumeRefusal;
pub(super) use tokens::Tokens;

/// A volume of a VM: as configured, and as storage is asked for it.
#[derive(Clone)]
pub(super) struct Named {
    pub(super) vm: Arc<Vm>,
    pub(super) config: Arc<VolumeConfig>,
    pub(super) placed: Volume,
    /// Whether the operation on it came before every Start of its VM.
    is_first: bool,
}

impl Named {
    /// By what a snapshot says.
    fn find(seen: &Snapshot, vm: &Arc<Vm>, volume: &str) -> Result<Self, Refusal> {
        let missing = || Refusal::NoSuchVolume { vm: vm.name.clone(), volume: volume.to_owned() };
        let config = vm.volume(volume).ok_or_else(missing)?;
        let placed = volumes::place(seen, vm, config)?;
        Ok(Self { vm: Arc::clone(vm), config: Arc::clone(config), placed, is_first: false })
    }

    /// Whether its VM is halted, for the operation on it. In the order of arrival: a Start that came later, and waits, is no
    /// reason to refuse.
    fn is_halted(&self, seen: &Snapshot) -> bool {
        if self.is_first { seen.is_halted_for_first(&self.vm) } else { seen.is_halted(&self.vm) }
    }

    /// Its name in the pool, as people see it.
    fn vid(&self) -> String {
        volumes::vid(&self.config, &self.placed)
    }

    /// Refuses what needs states that outlive a stop.
    fn must_be_kept(&self) -> Result<(), VolumeRefusal> {
        match self.config.kind {
            VolumeKind::Origin => Ok(()),
            VolumeKind::Kernel => Err(VolumeRefusal::Kernel),
            VolumeKind::Snapshot | VolumeKind::Volatile => Err(VolumeRefusal::NotKept { vid: self.vid() }),
        }
    }
}

impl Host {
    fn named_volume(&self, vm: &VmName, volume: &str) -> Result<Named, HostError> {
        let seen = self.snapshot();
        let vm = seen.model.find_vm(vm)?;
        Ok(Named::find(&seen, vm, volume)?)
    }

    /// The same volume as it is now that its VM's lock is held.
    fn still_named(&self, named: &Named, registered: &Registered) -> Result<Named, HostError> {
        let seen = self.snapshot();
        let gone = |_| Refusal::NoSuchVm { name: named.vm.name.clone() };
        let vm = seen.model.find_uuid(named.vm.uuid).map_err(gone)?;
        let named = Named::find(&seen, vm, named.config.name.as_ref())?;
        self.handed.refuse(&named)?;
        Ok(Named { is_first: registered.is_before_any(OperationKind::Start), ..named })
    }

    /// Runs work on a volume under its VM's lock, as a task of its own. The token is cancelled by a Kill, and of
    /// what copies data by the daemon's end.
    async fn volume_operation<T, F>(
        self: &Arc<Self>,
        kind: OperationKind,
        (vm, volume): (&VmName, &str),
        work: impl FnOnce(Arc<Self>, Named, CancellationToken) -> F + Send + 'static,
    ) -> Result<T, HostError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, HostError>> + Send,
    {
        let named = self.named_volume(vm, volume)?;
        self.at_rest(named.vm.uuid).await;
        let registered =
            self.operations.register(named.vm.uuid, kind).map_err(|no| no_turn(&named.vm, no))?;
        let host = Arc::clone(self);
        let task = self.tasks.spawn(async move {
            let _held = registered.lock().await.map_err(|no| no_turn(&named.vm, no))?;
            let named = host.still_named(&named, &registered)?;
            let (vm, cancel) = (Arc::clone(&named.vm), registered.cancel_token().clone());
            let ended = work(Arc::clone(&host), named, cancel.clone()).await;
            host.told_why(&vm, &cancel, ended)
        });
        task.await.unwrap_or(Err(HostError::Bug))
    }

    /// Says of what was cancelled by whom.
    pub(super) fn told_why<T>(
        &self,
        vm: &Vm,
        cancel: &CancellationToken,
        ended: Result<T, HostError>,
    ) -> Result<T, HostError> {
        match ended {
            Err(HostError::Failed(error)) if error.kind() == Kind::Cancelled => {
                Err(self.cancelled(vm, cancel, error))
            }
            ended => ended,
        }
    }

    fn cancelled(&self, vm: &Vm, cancel: &CancellationToken, error: crate::Error) -> HostError {
        if self.ending.is_cancelled() {
            error.because("the daemon is shutting down").into()
        } else if cancel.is_cancelled() {
            called_off(vm)
        } else {
            error.into()
        }
    }

    /// Makes the model's size of a kept volume that of what is on disk.
    pub(super) async fn note_size(&self, vm: &Vm, config: &VolumeConfig, placed: &Volume) {
        if config.kind != VolumeKind::Origin {
            return;
        }
        let noted = match self.storage.info(placed).await {
            Ok(info) if config.size == Some(info.size) => Ok(()),
            Ok(info) => {
                let (uuid, volume) = (vm.uuid, config.name.clone());
                let size = move |seen: &Snapshot| {
                    Ok(with_size(Diff::new(()), seen, uuid, volume.as_ref(), info.size))
                };
                self.committer.commit(size).await
            }
            Err(error) => Err(error.into()),
        };
        if let Err(error) = noted {
            tracing::warn!(vm = %vm.name, volume = %config.name, error = error.report(), "its size is not noted");
        }
    }
}

/// Adds a volume's new size, if it is there and has another.
fn with_size<T>(diff: Diff<T>, seen: &Snapshot, vm: uuid::Uuid, volume: &str, size: ByteSize) -> Diff<T> {
    let config = seen.model.vm(vm).and_then(|vm| vm.volume(volume));
    match config.filter(|config| config.size != Some(size)) {
        Some(config) => {
            let config = VolumeConfig { size: Some(size), ..VolumeConfig::clone(config) };
            diff.write(Write::SetVolume(vm, Arc::new(config)))
        }
        None => diff,
    }
}
