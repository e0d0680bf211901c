//! Data from outside into a volume, as it comes.

use std::sync::Arc;

use super::super::event::{EventKind, ModelEvent};
use super::super::host::Host;
use super::super::meter::{Meter, Tell};
use super::super::operation::{Held, OperationKind, Registered};
use super::super::refusal::HostError;
use super::super::start::no_turn;
use super::replacing::Replacing;
use super::{Named, VolumeRefusal};
use crate::error::{Error, Kind, Op};
use crate::ids::{ByteSize, VmName, VolumeName};
use crate::storage::{Import, ImportSize};

impl Host {
    /// Begins to replace the data of a halted VM's volume by exactly so much from outside; `None`: as much as it has.
    /// The VM's lock is held until the end.
    ///
    /// # Errors
    /// No such volume, or one that keeps nothing; the VM is not halted; or what failed. Nothing has changed then.
    pub async fn import_volume(
        self: &Arc<Self>,
        vm: &VmName,
        volume: &str,
        size: Option<ByteSize>,
    ) -> Result<VolumeImport, HostError> {
        let named = self.named_volume(vm, volume)?;
        self.at_rest(named.vm.uuid).await;
        let registered = self
            .operations
            .register(named.vm.uuid, OperationKind::Copy)
            .map_err(|no| no_turn(&named.vm, no))?;
        let host = Arc::clone(self);
        // A task of its own: a caller that goes away while the row is written leaves no row.
        let task = self.tasks.spawn(async move {
            let held = registered.lock().await.map_err(|no| no_turn(&named.vm, no))?;
            let named = host.still_named(&named, &registered)?;
            let (replacing, import, size) = host.begin_import(named, size, ImportSize::Exactly).await?;
            let Named { vm, config, .. } = &replacing.named;
            let meter = Meter::begin(&host.sequencer, vm, &config.name, size.get(), Tell::Always);
            let done = ByteSize::bytes(0);
            let state = UnderWay { replacing, import, size, done, meter, registered, _held: held };
            Ok(VolumeImport { state: Some(state) })
        });
        task.await.unwrap_or(Err(HostError::Bug))
    }

    /// Fills a halted VM's volume with zeros. Its size stays.
    ///
    /// # Errors
    /// As [`import_volume`](Host::import_volume).
    pub async fn clear_volume(self: &Arc<Self>, vm: &VmName, volume: &str) -> Result<(), HostError> {
        self.volume_operation(OperationKind::Copy, (vm, volume), |host, named, _| async move {
            let (replacing, mut import, size) = host.begin_import(named, None, ImportSize::Zeros).await?;
            let cleared = match import.skip(size).await {
                Ok(()) => import.finish().await,
                Err(error) => Err(error),
            };
            let told = end_event(replacing.named.config.name.clone());
            replacing.end(cleared.map_err(HostError::from), told).await
        })
        .await
    }

    /// The row, the place for the data, and the event. Under the VM's lock.
    pub(super) async fn begin_import(
        self: &Arc<Self>,
        named: Named,
        size: Option<ByteSize>,
        to_come: fn(ByteSize) -> ImportSize,
    ) -> Result<(Replacing, Import, ByteSize), HostError> {
        named.must_be_kept()?;
        if size.is_some_and(|size| size.get() == 0) {
            return Err(VolumeRefusal::NoSize { vid: named.vid() }.into());
        }
        let size = match size {
            Some(size) => size,
            None => self.storage.info(&named.placed).await?.size,
        };
        let replacing = Replacing::begin(self, named).await?;
        match self.storage.import(&replacing.named.placed, to_come(size)).await {
            Ok(import) => {
                let Named { vm, config, .. } = &replacing.named;
                let begun = EventKind::VolumeImportBegin { volume: config.name.clone(), size };
                self.sequencer.announce(vec![ModelEvent::of(vm, begun)]);
                Ok((replacing, import, size))
            }
            Err(error) => {
                Err(replacing.end(Err(error.into()), |_| None).await.err().unwrap_or(HostError::Bug))
            }
        }
    }
}

/// The event of an import's end.
pub(super) fn end_event(volume: VolumeName) -> impl Fn(bool) -> Option<EventKind> + Send + 'static {
    move |success| Some(EventKind::VolumeImportEnd { volume: volume.clone(), success })
}

/// Data on its way into a volume. It becomes the volume's as a whole, at its end; dropped before, it leaves nothing.
pub struct VolumeImport {
    state: Option<UnderWay>,
}

struct UnderWay {
    replacing: Replacing,
    import: Import,
    size: ByteSize,
    done: ByteSize,
    meter: Meter,
    registered: Registered,
    _held: Held,
}

impl VolumeImport {
    /// How much is to come.
    pub fn size(&self) -> ByteSize {
        self.state.as_ref().map_or(ByteSize::bytes(0), |state| state.size)
    }

    /// Writes the next bytes and gives the buffer back, empty. Memory stays flat; zeros become holes.
    ///
    /// # Errors
    /// More than was said; the pool cannot take it; the daemon ends. The import can only be dropped then.
    pub async fn write(&mut self, data: Vec<u8>) -> Result<Vec<u8>, HostError> {
        let state = self.state.as_mut().ok_or(HostError::Bug)?;
        if state.registered.cancel_token().is_cancelled() {
            let vm = &state.replacing.named.vm;
            let error = Error::new(Kind::Cancelled, Op::ImportVolume, &state.replacing.named.placed.id);
            return Err(state.replacing.host.cancelled(vm, state.registered.cancel_token(), error));
        }
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        let done = state.done.get().saturating_add(length);
        if done > state.size.get() {
            return Err(VolumeRefusal::TooMuchData { expected: state.size }.into());
        }
        let empty = state.import.write(data).await?;
        state.done = ByteSize::bytes(done);
        state.meter.note(done);
        Ok(empty)
    }

    /// All has come: it is the volume's data when this returns.
    ///
    /// # Errors
    /// Less came than was said, or what failed; the volume is as it was then.
    pub async fn finish(mut self) -> Result<(), HostError> {
        let state = self.state.take().ok_or(HostError::Bug)?;
        if state.done < state.size {
            let refusal = VolumeRefusal::NotEnoughData { copied: state.done, expected: state.size };
            let tasks = state.replacing.host.tasks.clone();
            drop(tasks.spawn(state.give_up()).await);
            return Err(refusal.into());
        }
        let tasks = state.replacing.host.tasks.clone();
        tasks.spawn(state.finish()).await.unwrap_or(Err(HostError::Bug))
    }

    /// Gives up, and returns when nothing is left.
    pub async fn abort(mut self) {
        if let Some(state) = self.state.take() {
            let tasks = state.replacing.host.tasks.clone();
            // A task of its own: who asks may go away.
            drop(tasks.spawn(state.give_up()).await);
        }
    }
}

impl UnderWay {
    async fn finish(self) -> Result<(), HostError> {
        let Self { replacing, import, meter, registered, _held, .. } = self;
        let finished = import.finish().await.map_err(HostError::from);
        if finished.is_ok() {
            meter.finish();
        }
        let told = end_event(replacing.named.config.name.clone());
        let ended = replacing.end(finished, told).await;
        drop((registered, _held));
        ended
    }

    async fn give_up(self) {
        let Self { replacing, import, meter, registered, _held, .. } = self;
        drop(meter);
        let vm = Arc::clone(&replacing.named.vm);
        if let Err(error) = import.abort().await {
            tracing::warn!(vm = %vm.name, error = error.report(), "what an import has brought stays for now");
        }
        let told = end_event(replacing.named.config.name.clone());
        // It is no news that it failed.
        drop(replacing.end(Err(HostError::Bug), told).await);
        drop((registered, _held));
    }
}

impl std::fmt::Debug for VolumeImport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VolumeImport").finish_non_exhaustive()
    }
}

impl Drop for VolumeImport {
    fn drop(&mut self) {
        if let Some(state) = self.state.take() {
            let tasks = state.replacing.host.tasks.clone();
            tasks.spawn(state.give_up());
        }
    }
}
