//! Removing a VM: it leaves the model at once, and its name is free when its last volume is gone.

use std::sync::Arc;

use super::class::VolumeKind;
use super::host::Host;
use super::operation::OperationKind;
use super::refusal::{HostError, Refusal};
use super::remove;
use super::start::no_turn;
use super::volumes;
use crate::error::Op;
use crate::ids::VmName;
use crate::storage::Volume;

impl Host {
    /// Removes a halted VM that nobody uses, with its volumes. It waits for what is under way on the VM.
    ///
    /// # Errors
    /// Why it cannot be removed; nothing has changed then. Trouble with its volumes is logged: they go at the next
    /// start-up, and the VM is gone all the same.
    pub async fn remove(self: &Arc<Self>, name: &VmName) -> Result<(), HostError> {
        let seen = self.snapshot();
        let vm = Arc::clone(seen.model.find_vm(name)?);
        let registered = self
            .operations
            .register(vm.uuid, OperationKind::Remove)
            .map_err(|no| no_turn(&vm, Op::RemoveVolume, no))?;
        let host = Arc::clone(self);
        let task = self.tasks.spawn(async move {
            let _held = registered.lock().await.map_err(|no| no_turn(&vm, Op::RemoveVolume, no))?;
            let seen = host.snapshot();
            // Whoever had the lock before may have removed it.
            if seen.model.vm(vm.uuid).is_none() {
                return Err(Refusal::NoSuchVm { name: vm.name.clone() }.into());
            }
            let placed: Result<Vec<Volume>, Refusal> = vm
                .volumes
                .iter()
                .filter(|volume| volume.kind != VolumeKind::Kernel)
                .map(|volume| volumes::place(&seen, &vm, volume))
                .collect();
            let placed = placed?;
            let uuid = vm.uuid;
            let row = host.committer.commit(move |seen| remove::begin(seen, uuid)).await?;
            for volume in placed.iter().rev() {
                if let Err(error) = host.storage.remove(volume).await {
                    tracing::error!(vm = %vm.name, error = error.report(), "a volume stays until the next start-up");
                    return Ok(());
                }
            }
            if let Err(error) = host.committer.commit(move |_| Ok(remove::finish(&row))).await {
                tracing::error!(vm = %vm.name, ?error, "the name stays reserved until the next start-up");
            }
            Ok(())
        });
        task.await.unwrap_or(Err(HostError::Bug))
    }
}
