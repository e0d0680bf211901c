//! Copying a volume's committed state into another volume, by a token.

use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::super::event::EventKind;
use super::super::host::Host;
use super::super::meter::{Meter, Tell};
use super::super::operation::OperationKind;
use super::super::refusal::{HostError, Refusal};
use super::super::start::no_turn;
use super::replacing::Replacing;
use super::tokens::Source;
use super::{Named, VolumeRefusal};
use crate::error::{Error, Kind, Op};
use crate::ids::VmName;
use crate::storage::{Export, RevisionsToKeep};

impl Host {
    /// A token by which `caller` may copy a volume's data, once, within an hour.
    ///
    /// # Errors
    /// No such volume, or one that keeps nothing.
    pub fn offer_volume(&self, vm: &VmName, volume: &str, caller: VmName) -> Result<String, HostError> {
        let named = self.named_volume(vm, volume)?;
        named.must_be_kept()?;
        let source = Source {
            vm: named.vm.uuid,
            name: named.vm.name.clone(),
            volume: named.config.name.clone(),
            vid: named.vid(),
        };
        Ok(self.tokens.issue(source, caller, Instant::now()))
    }

    /// Replaces the data of a halted VM's volume by a copy of what a token stands for, as it was last committed. The
    /// token is used up by this, whatever comes of it. `cancel` calls it off; the volume is as it was then.
    ///
    /// # Errors
    /// No such token; its VM or volume is gone, or is written in place just now; the VM is not halted; or what failed.
    pub async fn copy_volume(
        self: &Arc<Self>,
        vm: &VmName,
        volume: &str,
        token: (&str, &VmName),
        cancel: CancellationToken,
    ) -> Result<(), HostError> {
        let (token, caller) = token;
        let source = self.tokens.take(token, caller, Instant::now()).ok_or(VolumeRefusal::NoSuchToken)?;
        let target = self.named_volume(vm, volume)?;
        target.must_be_kept()?;
        let host = Arc::clone(self);
        let task = self.tasks.spawn(async move {
            // Of the source nothing is locked: what was opened stays what it is.
            let export = tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(broken_off(&target)),
                export = host.open_source(&source) => export?,
            };
            host.copy_into(target, source, export, &cancel).await
        });
        task.await.unwrap_or(Err(HostError::Bug))
    }

    async fn open_source(self: &Arc<Self>, source: &Source) -> Result<Export, HostError> {
        let seen = self.snapshot();
        let gone = || Refusal::NoSuchVm { name: source.name.clone() };
        let vm = seen.model.vm(source.vm).ok_or_else(gone)?;
        let missing = || VolumeRefusal::NoSuchVid { vid: source.vid.clone() };
        let named = Named::find(&seen, vm, source.volume.as_ref()).map_err(|_| missing())?;
        self.at_rest(vm.uuid).await;
        let opened = match self.open_volumes(vm, Some(&source.volume)).await {
            // Written in place because it says so, and not because its driver does.
            Err(HostError::Refused(Refusal::NotHalted { .. }))
                if named.placed.spec.revisions_to_keep == RevisionsToKeep::Disabled =>
            {
                return Err(VolumeRefusal::SourceRuns { vid: source.vid.clone() }.into());
            }
            opened => opened?,
        };
        let (_, export) = opened.into_iter().next().ok_or_else(missing)?;
        Ok(export)
    }

    async fn copy_into(
        self: &Arc<Self>,
        target: Named,
        source: Source,
        export: Export,
        cancel: &CancellationToken,
    ) -> Result<(), HostError> {
        self.at_rest(target.vm.uuid).await;
        let registered = self
            .operations
            .register(target.vm.uuid, OperationKind::Copy)
            .map_err(|no| no_turn(&target.vm, no))?;
        let _held = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(broken_off(&target)),
            held = registered.lock() => held.map_err(|no| no_turn(&target.vm, no))?,
        };
        let replacing = Replacing::begin(self, self.still_named(&target, &registered)?).await?;
        let Named { vm, config, placed, .. } = &replacing.named;
        let meter = Meter::begin(&self.sequencer, vm, &config.name, export.size().get(), Tell::Always);
        let either = registered.cancel_token().child_token();
        let filled = {
            let mut filling = std::pin::pin!(self.storage.fill(export, placed, meter.job(either.clone())));
            tokio::select! {
                filled = &mut filling => filled,
                () = cancel.cancelled() => {
                    either.cancel();
                    filling.await
                }
            }
        };
        let copied = match filled {
            Ok(()) => {
                meter.finish();
                self.storage.info(placed).await.map(|info| info.size).map_err(HostError::from)
            }
            Err(error) => self.told_why(vm, registered.cancel_token(), Err(error.into())),
        };
        let imported = EventKind::DomainImportVolume { name: config.name.clone(), source: source.vid };
        replacing.end(copied, move |success| success.then(|| imported.clone())).await
    }
}

fn broken_off(target: &Named) -> HostError {
    Error::new(Kind::Cancelled, Op::ImportVolume, &target.placed.id).because("the caller has left").into()
}
