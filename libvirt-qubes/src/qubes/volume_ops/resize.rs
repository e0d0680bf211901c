//! Making volumes larger, those of running VMs too.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::super::class::VolumeKind;
use super::super::diff::Diff;
use super::super::event::{EventKind, ModelEvent};
use super::super::host::Host;
use super::super::operation::OperationKind;
use super::super::refusal::HostError;
use super::super::snapshot::RunState;
use super::replacing::Replacing;
use super::{Named, VolumeRefusal, with_size};
use crate::config::Access;
use crate::error::{Error, Kind, Op};
use crate::ids::{ByteSize, VmName};
use crate::qrexec::ServiceCall;

/// What makes a guest's file system as large as its disk.
const SERVICE: &str = "qubes.ResizeDisk";

impl Host {
    /// Makes a volume larger. Of a running VM the disk has the new size when this returns, and the guest was asked to
    /// use it.
    ///
    /// The backend in dom0's kernel sees that the device has grown and tells the guest; libxl has no part in it.
    ///
    /// # Errors
    /// Smaller than it is; read-only; made from another at each start, whose size it has; or what failed.
    /// [`HostError::ResizeInGuest`]: it is larger, and the guest does not use that yet.
    pub async fn resize_volume(
        self: &Arc<Self>,
        vm: &VmName,
        volume: &str,
        size: ByteSize,
    ) -> Result<(), HostError> {
        self.volume_operation(OperationKind::Volume, (vm, volume), move |host, named, cancel| async move {
            host.grow(&named, size).await?;
            host.grow_in_guest(&named, &cancel).await
        })
        .await
    }

    async fn grow(self: &Arc<Self>, named: &Named, asked: ByteSize) -> Result<(), HostError> {
        let vid = named.vid();
        let source = self
            .snapshot()
            .model
            .volume_source(&named.vm, named.config.name.as_ref())
            .and_then(|(_, source)| source.vid.as_deref().map(str::to_owned));
        match named.config.kind {
            VolumeKind::Kernel => return Err(VolumeRefusal::Kernel.into()),
            _ if named.config.access == Access::ReadOnly => {
                return Err(VolumeRefusal::ResizeReadOnly { vid }.into());
            }
            VolumeKind::Snapshot if named.is_halted(&self.snapshot()) => {
                let source = source.unwrap_or_default();
                return Err(VolumeRefusal::ResizeSnapshot { vid, source }.into());
            }
            VolumeKind::Origin | VolumeKind::Snapshot | VolumeKind::Volatile => {}
        }
        let size = self.storage.info(&named.placed).await?.size;
        if asked < size {
            return Err(VolumeRefusal::Shrink { vid, size, asked }.into());
        }
        let size = match named.config.kind {
            VolumeKind::Origin => {
                let replacing = Replacing::begin_any(self, named.clone()).await?;
                let grown = match self.storage.resize(&named.placed, asked).await {
                    Ok(()) => self.storage.info(&named.placed).await.map(|info| info.size),
                    Err(error) => Err(error),
                };
                return replacing.end(grown.map_err(HostError::from), |_| None).await;
            }
            // Its next start makes it as large as its source is then.
            VolumeKind::Snapshot | VolumeKind::Kernel => {
                return Ok(self.storage.resize(&named.placed, asked).await?);
            }
            VolumeKind::Volatile => {
                self.storage.resize(&named.placed, asked).await?;
                // As its next start makes it.
                asked.whole_sectors().unwrap_or(asked)
            }
        };
        let (uuid, volume) = (named.vm.uuid, named.config.name.clone());
        self.committer
            .commit(move |seen| Ok(with_size(Diff::new(()), seen, uuid, volume.as_ref(), size)))
            .await
    }

    async fn grow_in_guest(&self, named: &Named, cancel: &CancellationToken) -> Result<(), HostError> {
        let (vm, volume) = (&named.vm, &named.config.name);
        let failed = |error: Error| HostError::ResizeInGuest { volume: volume.clone(), error };
        match self.snapshot().run(vm.uuid).map(|run| run.state) {
            Some(RunState::Running) => {}
            None | Some(RunState::Transient | RunState::Halting | RunState::Dying | RunState::Crashed) => {
                return Ok(());
            }
            Some(state @ (RunState::Paused | RunState::Suspended)) => {
                let target = format!("{SERVICE} in {}", vm.name);
                let error = Error::new(Kind::Busy, Op::CallService, target);
                return Err(failed(error.because(format!("it is {state:?}").to_lowercase())));
            }
        }
        self.sequencer.announce(vec![ModelEvent::of(vm, EventKind::DomainCmdPreRun)]);
        let call = ServiceCall {
            uuid: vm.uuid,
            name: vm.name.clone(),
            user: "root",
            service: SERVICE,
            input: volume.as_ref().as_bytes().to_vec(),
        };
        tokio::select! {
            called = self.qrexec.call(call) => called.map(drop).map_err(failed),
            () = cancel.cancelled() => {
                Err(failed(Error::new(Kind::Cancelled, Op::CallService, &vm.name)))
            }
        }
    }
}
