//! Settings of volumes: what they keep, who may write, encryption.

use std::sync::Arc;

use uuid::Uuid;

use super::super::class::{VmClass, VolumeKind};
use super::super::diff::{Diff, Refused};
use super::super::host::Host;
use super::super::property::Property;
use super::super::refusal::{HostError, Refusal};
use super::super::snapshot::Snapshot;
use super::super::vm::Vm;
use super::super::volume::VolumeConfig;
use super::super::volumes;
use super::super::write::Write;
use super::{Named, VolumeRefusal};
use crate::config::Access;
use crate::error::Op;
use crate::ids::VmName;
use crate::storage::RevisionsToKeep;

impl Host {
    /// Says how many revisions are kept when a volume is committed; -1: none, and its VM writes in place.
    ///
    /// # Errors
    /// No such volume; no such number; to or from -1 while the VM, or a disposable that is based on it, runs.
    pub async fn set_volume_revisions(
        &self,
        vm: &VmName,
        volume: &str,
        number: i64,
    ) -> Result<(), HostError> {
        self.set_volume(vm, volume, move |seen, named| set_revisions(seen, named, number)).await
    }

    /// Says whether the VM may write to a volume.
    ///
    /// # Errors
    /// No such volume; the VM is not halted; a kernel is read-only.
    pub async fn set_volume_access(
        &self,
        vm: &VmName,
        volume: &str,
        access: Access,
    ) -> Result<(), HostError> {
        let set = move |seen: &Snapshot, named: &Named| {
            if !seen.is_halted(&named.vm) {
                return Err(Refusal::NotHalted { vm: named.vm.name.clone() });
            }
            if named.config.kind == VolumeKind::Kernel && access == Access::ReadWrite {
                return Err(VolumeRefusal::Kernel.into());
            }
            Ok(VolumeConfig { access, ..VolumeConfig::clone(&named.config) })
        };
        self.set_volume(vm, volume, set).await
    }

    /// Says whether a volume is encrypted with a key that nobody keeps; it holds from the next start on.
    ///
    /// # Errors
    /// No such volume; yes, for one that outlives a stop, is made from another, or is read-only; yes, where nothing can
    /// encrypt it: such a volume would not be started.
    pub async fn set_volume_ephemeral(
        &self,
        vm: &VmName,
        volume: &str,
        ephemeral: bool,
    ) -> Result<(), HostError> {
        let set = move |_: &Snapshot, named: &Named| {
            if ephemeral && !volumes::may_be_ephemeral(&named.config) {
                return Err(VolumeRefusal::Ephemeral.into());
            }
            Ok(VolumeConfig { ephemeral: Some(ephemeral), ..VolumeConfig::clone(&named.config) })
        };
        if ephemeral {
            // The machine is asked when nothing else is wrong.
            let named = self.named_volume(vm, volume)?;
            set(&self.snapshot(), &named)?;
            self.storage.can_encrypt(Op::EncryptVolume, &named.placed.id).await?;
        }
        self.set_volume(vm, volume, set).await
    }

    async fn set_volume(
        &self,
        vm: &VmName,
        volume: &str,
        set: impl Fn(&Snapshot, &Named) -> Result<VolumeConfig, Refusal> + Send + 'static,
    ) -> Result<(), HostError> {
        let (vm, volume) = (self.snapshot().model.find_vm(vm)?.uuid, volume.to_owned());
        self.committer.commit(move |seen| change(seen, vm, &volume, &set)).await
    }
}

fn change(
    seen: &Snapshot,
    vm: Uuid,
    volume: &str,
    set: &impl Fn(&Snapshot, &Named) -> Result<VolumeConfig, Refusal>,
) -> Result<Diff<()>, Refused> {
    let named = Named::find(seen, seen.model.find_uuid(vm)?, volume)?;
    let config = set(seen, &named)?;
    Ok(Diff::new(()).write(Write::SetVolume(vm, Arc::new(config))))
}

fn set_revisions(seen: &Snapshot, named: &Named, number: i64) -> Result<VolumeConfig, Refusal> {
    let wrong = |_| VolumeRefusal::RevisionsToKeep;
    let keep = RevisionsToKeep::try_from(number).map_err(|_| VolumeRefusal::RevisionsToKeep)?;
    let number = i32::try_from(number).map_err(wrong)?;
    if named.config.kind == VolumeKind::Kernel && number != 0 {
        return Err(VolumeRefusal::KernelRevisions.into());
    }
    let disabled = |keep: RevisionsToKeep| keep == RevisionsToKeep::Disabled;
    if disabled(keep) != disabled(named.placed.spec.revisions_to_keep)
        && let Some(running) = running(seen, &named.vm)
    {
        return Err(Refusal::NotHalted { vm: running });
    }
    Ok(VolumeConfig { revisions_to_keep: Some(number), ..VolumeConfig::clone(&named.config) })
}

/// The VM, or a disposable that is based on it, whichever is not halted.
fn running(seen: &Snapshot, vm: &Arc<Vm>) -> Option<VmName> {
    let based = seen.model.vms_naming(vm.uuid, Property::Template).filter(|vm| vm.class == VmClass::DispVm);
    std::iter::once(vm).chain(based).find(|vm| !seen.is_halted(vm)).map(|vm| vm.name.clone())
}
