//! Removing a VM: it leaves the model at once, and its name is free when its last volume is gone.

use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use super::at_start;
use super::class::VmClass;
use super::diff::Diff;
use super::host::Host;
use super::operation::{Held, OperationKind};
use super::property::Property;
use super::refusal::{HostError, Refusal};
use super::remove;
use super::snapshot::Snapshot;
use super::start::{no_turn, note_run};
use super::vm::Vm;
use super::waiting::Again;
use super::write::Write;
use crate::ids::VmName;
use crate::storage::VolumeKind;

/// Whether a removal is a use of pools that wait for their first one: what somebody has asked for is, what follows from a
/// VM's end is not, which the daemon may find at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wakes {
    Yes,
    No,
}

impl Host {
    /// Removes a halted VM that nobody uses, with its volumes. It waits for what is under way on the VM.
    ///
    /// # Errors
    /// Why it cannot be removed; nothing has changed then. Trouble with its volumes is logged: they go as soon as they
    /// can, and the VM is gone all the same.
    pub async fn remove(self: &Arc<Self>, name: &VmName) -> Result<(), HostError> {
        let seen = self.snapshot();
        let vm = Arc::clone(seen.model.find_vm(name)?);
        let registered =
            self.operations.register(vm.uuid, OperationKind::Remove).map_err(|no| no_turn(&vm, no))?;
        let host = Arc::clone(self);
        let task = self.tasks.spawn(async move {
            let held = registered.lock().await.map_err(|no| no_turn(&vm, no))?;
            host.remove_held(&vm, &held, Wakes::Yes).await
        });
        task.await.unwrap_or(Err(HostError::Bug))
    }

    /// Removes a VM whose lock is held.
    async fn remove_held(&self, vm: &Vm, _held: &Held, wakes: Wakes) -> Result<(), HostError> {
        let seen = self.snapshot();
        // Whoever had the lock before may have removed it.
        let Some(vm) = seen.model.vm(vm.uuid) else {
            return Err(Refusal::NoSuchVm { name: vm.name.clone() }.into());
        };
        let mut placed = at_start::to_end(&seen, vm);
        placed.retain(|volume| !matches!(volume.spec.kind, VolumeKind::Kernel { .. }));
        let uuid = vm.uuid;
        let row = self.committer.commit(move |seen| remove::begin(seen, uuid)).await?;
        if let Some(dispid) = vm.dispid() {
            self.rested.add(dispid, Instant::now());
        }
        self.handed.give_up(Some(uuid)).await;
        for volume in placed.iter().rev() {
            if wakes == Wakes::No && self.storage.away(&volume.pool).await.is_some() {
                self.waiting.add_row(row.id, Again::Soon);
                return Ok(());
            }
            if let Err(error) = self.storage.remove(volume).await {
                self.waiting.not_removed(row.id, &vm.name, &error);
                return Ok(());
            }
        }
        if let Err(error) = self.committer.commit(move |_| Ok(remove::finish(&row))).await {
            tracing::error!(vm = %vm.name, ?error, "the name stays reserved until the next start-up");
        }
        Ok(())
    }

    /// What follows from the end of a VM's run, or from a Start that failed: a disposable goes, if it is one that
    /// does. Under the VM's lock.
    ///
    /// A disposable that others still use stays; the next start-up of the daemon tries again.
    pub(super) async fn after_run(&self, vm: Uuid, held: &Held) {
        let seen = self.snapshot();
        let Some(vm) = seen.model.vm(vm).filter(|vm| vm.class == VmClass::DispVm) else { return };
        if vm.flag(Property::AutoCleanup) == Some(true) {
            match self.remove_held(vm, held, Wakes::No).await {
                Ok(()) => tracing::info!(vm = %vm.name, "a disposable that has ended was removed"),
                Err(error) => {
                    tracing::warn!(vm = %vm.name, error = error.report(), "a disposable that has ended stays");
                    let uuid = vm.uuid;
                    let noted =
                        self.committer.commit(move |seen| Ok(note_run(Diff::new(()), seen, uuid))).await;
                    if let Err(error) = noted {
                        tracing::error!(vm = %vm.name, ?error, "no start-up will remove it");
                    }
                }
            }
        } else if let Some(run) = seen.model.pending_run_of(vm.uuid).map(|run| run.id) {
            let end = move |_: &Snapshot| Ok(Diff::new(()).write(Write::FinishPending(run)).frees_space());
            if let Err(error) = self.committer.commit(end).await {
                tracing::error!(vm = %vm.name, ?error, "the row of a run that has ended stays");
            }
        }
    }

    /// After a Start that failed, when its place in the queue is given back.
    pub(super) async fn after_failed_start(self: &Arc<Self>, vm: &Vm) {
        if vm.class != VmClass::DispVm {
            return;
        }
        match self.operations.register(vm.uuid, OperationKind::Remove) {
            Ok(registered) => {
                if let Ok(held) = registered.lock().await {
                    self.after_run(vm.uuid, &held).await;
                }
            }
            Err(no) => tracing::warn!(vm = %vm.name, %no, "a disposable that did not start stays"),
        }
    }
}
