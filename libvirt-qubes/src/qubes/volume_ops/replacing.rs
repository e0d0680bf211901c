//! A volume whose data or size is being changed: its row in `pending`, from before the first effect to the last commit.

use std::sync::Arc;

use super::super::class::VolumeKind;
use super::super::diff::{Diff, Refused};
use super::super::event::{EventKind, ModelEvent};
use super::super::host::Host;
use super::super::ids::PendingId;
use super::super::pending::{Pending, PendingKind, Reserved};
use super::super::refusal::{HostError, Refusal};
use super::super::snapshot::Snapshot;
use super::super::write::Write;
use super::{Named, with_size};
use crate::ids::ByteSize;

pub(super) struct Replacing {
    pub(super) host: Arc<Host>,
    pub(super) named: Named,
    row: PendingId,
}

impl Replacing {
    /// Commits the row. The VM is halted then, and its lock is held.
    pub(super) async fn begin(host: &Arc<Host>, named: Named) -> Result<Self, HostError> {
        named.must_be_kept()?;
        let of = named.clone();
        let row = host.committer.commit(move |seen| begin_halted(seen, &of)).await?;
        Ok(Self { host: Arc::clone(host), named, row })
    }

    /// The same for what must be possible where there is no room left.
    pub(super) async fn begin_without_room(host: &Arc<Host>, named: Named) -> Result<Self, HostError> {
        named.must_be_kept()?;
        let of = named.clone();
        let row = host.committer.commit(move |seen| begin_halted(seen, &of).map(Diff::frees_space)).await?;
        Ok(Self { host: Arc::clone(host), named, row })
    }

    /// The same for what a running VM bears too. Its lock is held.
    pub(super) async fn begin_any(host: &Arc<Host>, named: Named) -> Result<Self, HostError> {
        let uuid = named.vm.uuid;
        let row = host.committer.commit(move |seen| begin(seen, uuid)).await?;
        Ok(Self { host: Arc::clone(host), named, row })
    }

    /// Ends the row: with the volume's new size, or after an error with the size that it has now: what failed last may have been
    /// done.
    pub(super) async fn end(
        self,
        replaced: Result<ByteSize, HostError>,
        told: impl Fn(bool) -> Option<EventKind> + Send + 'static,
    ) -> Result<(), HostError> {
        let Self { host, named: Named { vm, config, placed, .. }, row } = self;
        let (of, volume) = (Arc::clone(&vm), config.name.clone());
        let is_replaced = replaced.is_ok();
        let size = match &replaced {
            Ok(size) => Some(*size),
            Err(_) if config.kind == VolumeKind::Origin => {
                host.storage.info(&placed).await.ok().map(|info| info.size)
            }
            Err(_) => None,
        };
        let committed = host
            .committer
            .commit(move |seen| {
                let diff = Diff::new(()).write(Write::FinishPending(row)).frees_space();
                let diff = match size {
                    Some(size) => with_size(diff, seen, of.uuid, volume.as_ref(), size),
                    None => diff,
                };
                Ok(match told(is_replaced) {
                    Some(kind) => diff.event(ModelEvent::of(&of, kind)),
                    None => diff,
                })
            })
            .await;
        match (replaced, committed) {
            (Ok(_), committed) => committed,
            (Err(error), Ok(())) => Err(error),
            (Err(error), Err(second)) => {
                tracing::error!(vm = %vm.name, ?second, "the row of an import stays until the next start-up");
                Err(error)
            }
        }
    }
}

fn begin_halted(seen: &Snapshot, named: &Named) -> Result<Diff<PendingId>, Refused> {
    let found = seen.model.find_uuid(named.vm.uuid)?;
    if !named.is_halted(seen) {
        return Err(Refusal::NotHalted { vm: found.name.clone() }.into());
    }
    begin(seen, found.uuid)
}

fn begin(seen: &Snapshot, vm: uuid::Uuid) -> Result<Diff<PendingId>, Refused> {
    let vm = seen.model.find_uuid(vm)?;
    let id = seen.model.next_pending_id();
    // The volume is in the model, and stays there: the row takes nothing.
    let row = Pending { id, kind: PendingKind::Import, vm: Reserved::of(vm), volumes: Vec::new() };
    Ok(Diff::new(id).write(Write::BeginPending(Arc::new(row))))
}
