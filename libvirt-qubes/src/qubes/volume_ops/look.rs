//! Looking at volumes: which there are, what they are like, their former states.

use std::path::PathBuf;

use super::super::class::VolumeKind;
use super::super::host::Host;
use super::super::index::Occupant;
use super::super::model::Model;
use super::super::refusal::{HostError, Refusal};
use super::super::volumes;
use super::{Named, VolumeRefusal};
use crate::config::Access;
use crate::error::{Kind, Result};
use crate::ids::{ByteSize, KernelVersion, PoolName, VmName, VolumeName};
use crate::storage::{self, Revision, RevisionsToKeep, Volume, VolumeId, VolumeInfo, VolumeSpec};

/// What is known of a volume: as it is configured, with figures of now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFacts {
    /// The pool that it lies in.
    pub pool: PoolName,
    /// Its name there; of a kernel, which one.
    pub vid: String,
    /// What it is.
    pub kind: VolumeKind,
    /// What the VM sees.
    pub size: ByteSize,
    /// What it takes on disk, shared blocks counted in full.
    pub usage: ByteSize,
    /// Whether the VM may write.
    pub access: Access,
    /// The name of the volume that each start copies.
    pub source: Option<String>,
    /// What the VM is given, or would be.
    pub path: Option<PathBuf>,
    /// How many former states are kept, by its own setting or its pool's.
    pub revisions_to_keep: RevisionsToKeep,
    /// Whether it is encrypted with a key that nobody keeps, by its own setting or its pool's.
    pub ephemeral: bool,
    /// Whether what it was copied from has changed since; `None` where nobody can tell.
    pub outdated: Option<bool>,
}

/// Whose a volume of a pool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolVolume {
    /// A VM's.
    OfVm {
        /// The VM.
        vm: VmName,
        /// The volume's name there.
        volume: VolumeName,
    },
    /// A kernel, which any number of VMs may have.
    Kernel(KernelVersion),
}

impl Host {
    /// The names of a VM's volumes, in their order.
    ///
    /// # Errors
    /// No such VM.
    pub fn volumes(&self, vm: &VmName) -> Result<Vec<VolumeName>, HostError> {
        let seen = self.snapshot();
        Ok(seen.model.find_vm(vm)?.volumes.iter().map(|volume| volume.name.clone()).collect())
    }

    /// The volumes of a pool, by their names there. Those that are being made or removed are not among them.
    ///
    /// # Errors
    /// No such pool; or it is one of kernels, and cannot be read.
    pub async fn pool_volumes(&self, pool: &str) -> Result<Vec<(String, PoolVolume)>, HostError> {
        let seen = self.snapshot();
        let pool = seen.model.find_pool(pool)?;
        if pool.holds_kernels() {
            let kernels = self.storage.kernels(&pool.name).await?;
            return Ok(kernels.into_iter().map(|v| (v.to_string(), PoolVolume::Kernel(v))).collect());
        }
        let volumes = seen.model.volumes_in(pool.name.as_str());
        Ok(volumes.filter_map(|(vid, of)| Some((vid.to_string(), owner(&seen.model, of)?))).collect())
    }

    /// Whose the volume of that name in a pool is.
    ///
    /// # Errors
    /// No such pool, or no such volume there.
    pub async fn pool_volume(&self, pool: &str, vid: &str) -> Result<PoolVolume, HostError> {
        let seen = self.snapshot();
        let pool = seen.model.find_pool(pool)?;
        let missing = || Refusal::from(VolumeRefusal::NoSuchVid { vid: vid.to_owned() });
        if pool.holds_kernels() {
            let kernels = self.storage.kernels(&pool.name).await?;
            let found = kernels.into_iter().find(|version| version.as_str() == vid);
            return Ok(PoolVolume::Kernel(found.ok_or_else(missing)?));
        }
        let of = seen.model.occupant(pool.name.as_str(), vid);
        Ok(of.and_then(|of| owner(&seen.model, of)).ok_or_else(missing)?)
    }

    /// What is known of a VM's volume.
    ///
    /// # Errors
    /// No such VM or volume; or its pool cannot be looked at.
    pub async fn volume_info(&self, vm: &VmName, volume: &str) -> Result<VolumeFacts, HostError> {
        let seen = self.snapshot();
        let named = Named::find(&seen, seen.model.find_vm(vm)?, volume)?;
        let source = seen.model.volume_source(&named.vm, volume);
        let source = source.and_then(|(_, source)| source.vid.as_deref().map(str::to_owned));
        let info = self.figures_of(&named.placed).await?;
        let Named { config, placed, .. } = &named;
        let revisions_to_keep = match config.kind {
            VolumeKind::Kernel => RevisionsToKeep::Newest(0),
            VolumeKind::Origin | VolumeKind::Snapshot | VolumeKind::Volatile => placed.spec.revisions_to_keep,
        };
        Ok(VolumeFacts {
            pool: placed.pool.clone(),
            vid: named.vid(),
            kind: config.kind,
            size: info.size,
            usage: info.usage,
            access: config.access,
            source,
            path: info.path,
            revisions_to_keep,
            ephemeral: volumes::is_ephemeral(&seen, config),
            outdated: info.outdated,
        })
    }

    /// What is known of a kernel in a pool.
    ///
    /// # Errors
    /// The pool cannot be looked at.
    pub async fn kernel_info(&self, pool: &str, version: KernelVersion) -> Result<VolumeFacts, HostError> {
        let pool = self.snapshot().model.find_pool(pool)?.name.clone();
        let vid = version.to_string();
        let kind = storage::VolumeKind::Kernel { version: Some(version) };
        let spec = VolumeSpec { kind, access: Access::ReadOnly, ..volumes::any_spec() };
        // Of no VM: the driver of kernels does not look at it.
        let name = "kernel".parse().map_err(|_| HostError::Bug)?;
        let id = VolumeId::new(storage::VolumeGroup::AppVms, VmName::dom0(), name);
        let info = self.figures_of(&Volume { pool: pool.clone(), id, spec }).await?;
        Ok(VolumeFacts {
            pool,
            vid,
            kind: VolumeKind::Kernel,
            size: info.size,
            usage: info.usage,
            access: Access::ReadOnly,
            source: None,
            path: info.path,
            revisions_to_keep: RevisionsToKeep::Newest(0),
            ephemeral: false,
            outdated: info.outdated,
        })
    }

    /// Former states of a VM's volume, oldest first.
    ///
    /// # Errors
    /// No such VM or volume; or its pool cannot be looked at.
    pub async fn volume_revisions(&self, vm: &VmName, volume: &str) -> Result<Vec<Revision>, HostError> {
        let named = self.named_volume(vm, volume)?;
        match named.config.kind {
            VolumeKind::Origin => Ok(self.storage.revisions(&named.placed).await?),
            VolumeKind::Snapshot | VolumeKind::Volatile | VolumeKind::Kernel => Ok(Vec::new()),
        }
    }

    /// A kernel that is not there has no size, nor has one in a pool of anything else; the VM's Start says what is wrong.
    async fn figures_of(&self, placed: &Volume) -> Result<VolumeInfo, HostError> {
        match self.storage.info(placed).await {
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Unsupported) && is_kernel(placed) => {
                Ok(VolumeInfo {
                    size: ByteSize::bytes(0),
                    usage: ByteSize::bytes(0),
                    path: None,
                    dirty: false,
                    outdated: Some(false),
                })
            }
            info => Ok(info?),
        }
    }
}

fn is_kernel(placed: &Volume) -> bool {
    matches!(placed.spec.kind, storage::VolumeKind::Kernel { .. })
}

fn owner(model: &Model, of: &Occupant) -> Option<PoolVolume> {
    match of {
        Occupant::Volume(vm, volume) => {
            Some(PoolVolume::OfVm { vm: model.vm(*vm)?.name.clone(), volume: volume.clone() })
        }
        Occupant::Pending(_) | Occupant::SetAside(_) => None,
    }
}
