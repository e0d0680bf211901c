//! Imports whose data somebody else writes, at a path that he is told: the script that the deployed clients run.
//!
//! The VM's lock is not held in between, because nobody knows whether the writer still lives; the volume is in use
//! instead. What would disturb is refused until the end is told, the VM is removed or the daemon ends.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::super::host::Host;
use super::super::operation::OperationKind;
use super::super::refusal::HostError;
use super::super::start::no_turn;
use super::import::end_event;
use super::replacing::Replacing;
use super::{Named, VolumeRefusal};
use crate::ids::{ByteSize, VmName, VolumeName};
use crate::storage::{Import, ImportSize};

/// All that are under way.
#[derive(Default)]
pub(in super::super) struct HandedImports(Mutex<HashMap<(Uuid, VolumeName), Handed>>);

struct Handed {
    replacing: Replacing,
    import: Import,
}

impl HandedImports {
    fn all(&self) -> MutexGuard<'_, HashMap<(Uuid, VolumeName), Handed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, vm: Uuid, volume: &VolumeName) -> Option<Handed> {
        self.all().remove(&(vm, volume.clone()))
    }

    /// Refuses work on a volume whose data is being written.
    pub(super) fn refuse(&self, named: &Named) -> Result<(), VolumeRefusal> {
        match self.all().contains_key(&(named.vm.uuid, named.config.name.clone())) {
            true => Err(VolumeRefusal::ImportInProgress { vid: named.vid() }),
            false => Ok(()),
        }
    }

    /// Gives up those of one VM, or all.
    pub(in super::super) async fn give_up(&self, of: Option<Uuid>) {
        let mut given_up = Vec::new();
        {
            let mut all = self.all();
            let keys: Vec<_> = all.keys().filter(|(vm, _)| of.is_none_or(|of| of == *vm)).cloned().collect();
            given_up.extend(keys.into_iter().filter_map(|key| all.remove(&key)));
        }
        for handed in given_up {
            handed.give_up(HostError::Bug).await;
        }
    }
}

impl Handed {
    /// Leaves the volume as it was; gives the reason back.
    async fn give_up(self, why: HostError) -> HostError {
        let Self { replacing, import } = self;
        if let Err(error) = import.abort().await {
            let vm = &replacing.named.vm.name;
            tracing::warn!(%vm, error = error.report(), "what an import has brought stays for now");
        }
        let told = end_event(replacing.named.config.name.clone());
        replacing.end(Err(why), told).await.err().unwrap_or(HostError::Bug)
    }
}

impl Host {
    /// Begins an import whose data the caller writes: exactly so much; `None`: as much as the volume has. Gives the
    /// size, and the path to write to, which is there, is as large and reads as zeros.
    ///
    /// # Errors
    /// As [`import_volume`](Host::import_volume); or data is on its way into the volume already.
    pub async fn hand_out_import(
        self: &Arc<Self>,
        vm: &VmName,
        volume: &str,
        size: Option<ByteSize>,
    ) -> Result<(ByteSize, PathBuf), HostError> {
        self.volume_operation(OperationKind::Copy, (vm, volume), move |host, named, _| async move {
            let (replacing, mut import, size) = host.begin_import(named, size, ImportSize::Exactly).await?;
            let path = import.hand_out().await;
            let handed = Handed { replacing, import };
            let path = match path {
                Ok(path) => path,
                Err(error) => return Err(handed.give_up(error.into()).await),
            };
            let tellable = path.to_str().is_some_and(|path| !path.contains(char::is_whitespace));
            let Named { vm, config, .. } = &handed.replacing.named;
            if !tellable {
                let why = VolumeRefusal::UntellablePath { volume: config.name.clone() };
                return Err(handed.give_up(why.into()).await);
            }
            let key = (vm.uuid, config.name.clone());
            host.handed.all().insert(key, handed);
            Ok((size, path))
        })
        .await
    }

    /// Ends such an import: what was written is the volume's data when this returns, or, if the caller says that he
    /// failed, and why, the volume is as it was.
    ///
    /// # Errors
    /// No such volume; no import; what failed; what the caller says.
    pub async fn end_handed_import(
        self: &Arc<Self>,
        vm: &VmName,
        volume: &str,
        written: Result<(), String>,
    ) -> Result<(), HostError> {
        let named = self.named_volume(vm, volume)?;
        let registered = self
            .operations
            .register(named.vm.uuid, OperationKind::Volume)
            .map_err(|no| no_turn(&named.vm, no))?;
        let host = Arc::clone(self);
        let task = self.tasks.spawn(async move {
            let _held = registered.lock().await.map_err(|no| no_turn(&named.vm, no))?;
            let none = || VolumeRefusal::NoImport { vid: named.vid() };
            let handed = host.handed.take(named.vm.uuid, &named.config.name).ok_or_else(none)?;
            if let Err(words) = written {
                return Err(handed.give_up(VolumeRefusal::ImportFailed { words }.into()).await);
            }
            let Handed { replacing, import } = handed;
            let finished = import.finish().await.map_err(HostError::from);
            let told = end_event(replacing.named.config.name.clone());
            replacing.end(finished, told).await
        });
        task.await.unwrap_or(Err(HostError::Bug))
    }
}
