//! Former states of volumes: taking one, going back to one, removing one.

use std::sync::Arc;

use super::super::class::VolumeKind;
use super::super::diff::{Diff, Refused};
use super::super::host::Host;
use super::super::meter::{Meter, Tell};
use super::super::operation::OperationKind;
use super::super::refusal::{HostError, Refusal};
use super::super::snapshot::Snapshot;
use super::super::volume::VolumeConfig;
use super::super::write::Write;
use super::replacing::Replacing;
use super::{Named, VolumeRefusal};
use crate::error::{Error, Kind, Op};
use crate::ids::VmName;
use crate::storage::RevisionId;

impl Host {
    /// Keeps the present state of a volume until it is removed by name: of a running VM what its disk holds at this
    /// instant, as after a power cut.
    ///
    /// The number in its name is committed before anything is made: a crash in between uses it up, and nothing else.
    ///
    /// # Errors
    /// No such volume, or one that keeps nothing; the VM runs, and its pool can keep only a state at rest; or what
    /// failed. No state is kept then.
    pub async fn snapshot_volume(
        self: &Arc<Self>,
        vm: &VmName,
        volume: &str,
    ) -> Result<RevisionId, HostError> {
        self.volume_operation(OperationKind::Copy, (vm, volume), |host, named, cancel| async move {
            named.must_be_kept()?;
            // A pool that was taken over may hold snapshots that this store does not know of.
            let there = host.storage.revisions(&named.placed).await?;
            let highest =
                there.iter().filter_map(|revision| snapshot_number(&revision.id)).max().unwrap_or(0);
            let (uuid, volume) = (named.vm.uuid, named.config.name.clone());
            let number =
                host.committer.commit(move |seen| next_number(seen, uuid, volume.as_ref(), highest)).await?;
            let meter = host.quiet_meter(&named).await;
            let kept = host.storage.keep(&named.placed, number, meter.job(cancel)).await;
            match kept {
                Ok(id) => {
                    meter.finish();
                    Ok(id)
                }
                Err(error) if error.kind() == Kind::Busy && !named.is_halted(&host.snapshot()) => {
                    Err(Refusal::NotHalted { vm: named.vm.name.clone() }.into())
                }
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    /// Makes a former state of a halted VM's volume the present one. The state until now becomes a revision first; an
    /// automatic revision is used up by this, an explicit snapshot stays.
    ///
    /// # Errors
    /// No such volume or revision; the VM is not halted; or what failed. The volume is as it was then.
    pub async fn revert_volume(
        self: &Arc<Self>,
        vm: &VmName,
        volume: &str,
        revision: &str,
    ) -> Result<(), HostError> {
        let revision = revision.to_owned();
        self.volume_operation(OperationKind::Copy, (vm, volume), |host, named, cancel| async move {
            if !named.is_halted(&host.snapshot()) {
                return Err(VolumeRefusal::RevertRunning { vid: named.vid() }.into());
            }
            let id = host.find_revision(&named, &revision).await?;
            let meter = host.quiet_meter(&named).await;
            let replacing = Replacing::begin_without_room(&host, named).await?;
            let placed = &replacing.named.placed;
            let reverted = match host.storage.revert(placed, &id, meter.job(cancel)).await {
                Ok(()) => {
                    meter.finish();
                    host.storage.info(placed).await.map(|info| info.size)
                }
                Err(error) => Err(error),
            };
            replacing.end(reverted.map_err(HostError::from), |_| None).await
        })
        .await
    }

    /// Removes a former state of a volume.
    ///
    /// # Errors
    /// No such volume or revision; or what failed.
    pub async fn remove_revision(
        self: &Arc<Self>,
        vm: &VmName,
        volume: &str,
        revision: &str,
    ) -> Result<(), HostError> {
        let revision = revision.to_owned();
        self.volume_operation(OperationKind::Volume, (vm, volume), |host, named, _| async move {
            let id = host.find_revision(&named, &revision).await?;
            Ok(host.storage.forget(&named.placed, &id).await?)
        })
        .await
    }

    /// A revision that is there.
    async fn find_revision(&self, named: &Named, revision: &str) -> Result<RevisionId, HostError> {
        let missing = || VolumeRefusal::NoSuchRevision { revision: revision.to_owned() };
        let id: RevisionId = revision.parse().map_err(|_| missing())?;
        let there = match named.config.kind {
            VolumeKind::Origin => {
                self.storage.wake(&named.placed).await?;
                self.storage.revisions(&named.placed).await?
            }
            VolumeKind::Snapshot | VolumeKind::Volatile | VolumeKind::Kernel => Vec::new(),
        };
        if there.iter().any(|revision| revision.id == id) {
            return Ok(id);
        }
        // What cannot be seen may be there.
        let pool = &named.placed.pool;
        match self.storage.away(pool).await {
            Some(why) => Err(Error::new(Kind::Unavailable, Op::InspectStorage, &named.placed.id)
                .because(format!("storage pool '{pool}': {why}"))
                .into()),
            None => Err(missing().into()),
        }
    }

    /// For what is done at once where the pool shares blocks.
    async fn quiet_meter(&self, named: &Named) -> Meter {
        let size = self.storage.info(&named.placed).await.map_or(0, |info| info.size.get());
        Meter::begin(&self.sequencer, &named.vm, &named.config.name, size, Tell::IfLong)
    }
}

/// The number of an explicit snapshot.
fn snapshot_number(id: &RevisionId) -> Option<u64> {
    id.as_str().strip_prefix('s').and_then(|number| number.parse().ok())
}

/// Takes the next number that no snapshot of the volume has had.
fn next_number(seen: &Snapshot, vm: uuid::Uuid, volume: &str, highest: u64) -> Result<Diff<u64>, Refused> {
    let vm = seen.model.find_uuid(vm)?;
    let missing = || Refusal::NoSuchVolume { vm: vm.name.clone(), volume: volume.to_owned() };
    let config = vm.volume(volume).ok_or_else(missing)?;
    let number = config.last_snapshot.max(highest).saturating_add(1);
    let config = VolumeConfig { last_snapshot: number, ..VolumeConfig::clone(config) };
    Ok(Diff::new(number).write(Write::SetVolume(vm.uuid, Arc::new(config))))
}
