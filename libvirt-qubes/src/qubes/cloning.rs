//! Cloning a VM: as making one, with its volumes copied from the other's.
//!
//! Nothing of the other VM is locked while data is copied: what is copied was opened before, and stays what it was.

use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use super::class::VolumeKind;
use super::create::clone::{self, NewClone};
use super::creation::Creation;
use super::host::Host;
use super::meter::{Meter, Tell};
use super::operation::OperationKind;
use super::refusal::{HostError, Refusal};
use super::snapshot::Run;
use super::start::no_turn;
use super::vm::Vm;
use super::volume::VolumeConfig;
use super::volumes;
use crate::error::{Kind, Op, Result};
use crate::ids::{VmName, VolumeName};
use crate::storage::{Export, Volume};

/// So often the volumes are opened anew because their VM's run came to its end meanwhile.
const ATTEMPTS: usize = 3;

impl Host {
    /// Makes a VM that has everything of another, its volumes as they were last committed, and returns when it is
    /// there for everybody. It is halted.
    ///
    /// # Errors
    /// The name is taken; the other VM is dom0, or runs and writes its volumes in place; or what failed. Nothing is
    /// left then.
    pub async fn clone_vm(
        self: &Arc<Self>,
        original: &VmName,
        name: VmName,
        source: VmName,
    ) -> Result<(), HostError> {
        let of = self.snapshot().model.find_vm(original)?.uuid;
        let new =
            NewClone { uuid: Uuid::new_v4(), name, of, source, rested: self.rested.all(Instant::now()) };
        let host = Arc::clone(self);
        let task = self.tasks.spawn(async move {
            host.at_rest(new.of).await;
            let creation = Creation::begin(&host, new.uuid, move |seen| clone::begin(seen, &new)).await?;
            let made = creation.copy_all().await;
            creation.end(made).await.map(drop)
        });
        task.await.unwrap_or(Err(HostError::Bug))
    }

    /// Opens the last committed state of each volume of a VM that is kept, or of one of them, all of one run.
    pub(super) async fn open_volumes(
        &self,
        vm: &Arc<Vm>,
        only: Option<&VolumeName>,
    ) -> Result<Vec<(VolumeName, Export)>, HostError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let before = self.snapshot().run(vm.uuid).cloned();
            let opened = self.open_each(vm, only).await;
            let after = self.snapshot().run(vm.uuid).cloned();
            let same = |run: &Run| after.as_ref().is_some_and(|now| now.domid == run.domid && !now.is_over());
            let ended =
                before.as_ref().is_some_and(|run| run.is_over() || (run.domid.is_some() && !same(run)));
            let at_rest = before.is_none() && after.is_none();
            match opened {
                Ok(opened) if !ended => return Ok(opened),
                // Written in place, though nothing runs: a run's end, or what a crash left, is being dealt with.
                Err(error) if error.kind() == Kind::Busy && !(at_rest || ended) => {
                    return Err(Refusal::NotHalted { vm: vm.name.clone() }.into());
                }
                Err(error) if error.kind() != Kind::Busy => return Err(self.not_opened(vm, error)),
                Ok(_) | Err(_) if attempt < ATTEMPTS => self.wait_for_turn(vm).await?,
                Ok(opened) => return Ok(opened),
                Err(_) => return Err(Refusal::NotHalted { vm: vm.name.clone() }.into()),
            }
        }
    }

    async fn open_each(&self, vm: &Arc<Vm>, only: Option<&VolumeName>) -> Result<Vec<(VolumeName, Export)>> {
        let mut opened = Vec::new();
        let seen = self.snapshot();
        let wanted = |volume: &&Arc<VolumeConfig>| {
            volume.kind == VolumeKind::Origin && only.is_none_or(|only| volume.name == *only)
        };
        for volume in vm.volumes.iter().filter(wanted) {
            let placed = volumes::place(&seen, vm, volume).map_err(|_| {
                crate::Error::new(Kind::NotFound, Op::ExportVolume, format!("{}/{}", vm.name, volume.name))
            })?;
            opened.push((volume.name.clone(), self.storage.export(&placed).await?));
        }
        Ok(opened)
    }

    /// A volume that is not there may be one of a VM that is not there any more.
    fn not_opened(&self, vm: &Vm, error: crate::Error) -> HostError {
        if error.kind() == Kind::NotFound && self.snapshot().model.vm(vm.uuid).is_none() {
            return Refusal::NoSuchVm { name: vm.name.clone() }.into();
        }
        error.into()
    }

    /// Waits until what is under way on a VM's volumes is over.
    async fn wait_for_turn(&self, vm: &Vm) -> Result<(), HostError> {
        let turn = self.operations.register(vm.uuid, OperationKind::Volume);
        let turn = turn.map_err(|no| no_turn(vm, no))?;
        turn.lock().await.map(drop).map_err(|no| no_turn(vm, no))
    }
}

impl Creation {
    async fn copy_all(&self) -> Result<(), HostError> {
        let original = self.plan.copy_of.as_ref().ok_or(HostError::Bug)?;
        let mut opened = self.host.open_volumes(original, None).await?;
        self.record().await?;
        for volume in &self.volumes {
            self.check()?;
            let at = opened.iter().position(|(name, _)| *name == volume.id.volume);
            match at.map(|at| opened.swap_remove(at)) {
                Some((_, export)) => self.copy(export, volume).await?,
                None => self.create(volume).await?,
            }
        }
        Ok(())
    }

    async fn copy(&self, export: Export, volume: &Volume) -> Result<(), HostError> {
        let (vm, size) = (&self.plan.vm, export.size().get());
        let meter = Meter::begin(&self.host.sequencer, vm, &volume.id.volume, size, Tell::IfLong);
        let filled = self.host.storage.fill(export, volume, meter.job(self.cancel().clone())).await;
        self.host.told_why(vm, self.cancel(), filled.map_err(HostError::from))?;
        meter.finish();
        Ok(())
    }
}
