//! Where the volumes of a new VM lie, and what they are.

use std::sync::Arc;

use super::super::class::{VmClass, VolumeGroup, VolumeKind};
use super::super::refusal::Refusal;
use super::super::snapshot::Snapshot;
use super::super::vm::Vm;
use super::super::volume::VolumeConfig;
use super::{NewVm, Pools};
use crate::ids::{PoolName, VmName, VolumeName};

/// Whose volumes are placed.
pub(super) struct Placing<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) name: &'a VmName,
    pub(super) group: VolumeGroup,
}

impl Placing<'_> {
    /// The class's volumes, then those that the template has besides.
    pub(super) fn volumes(
        &self,
        new: &NewVm,
        template: Option<&Arc<Vm>>,
    ) -> Result<Vec<Arc<VolumeConfig>>, Refusal> {
        // Named, it must be there, whether anything comes to lie in it or not.
        if let Pools::All(pool) = &new.pools
            && self.snapshot.model.pool(pool.as_str()).is_none()
        {
            return Err(Refusal::UnknownPool { pool: pool.clone() });
        }
        let mut volumes: Vec<VolumeConfig> = Vec::new();
        for usual in new.class.volumes() {
            let name: VolumeName = usual.name.parse().map_err(|_| self.no_such_volume(usual.name))?;
            let size = match (usual.size, usual.name) {
                (Some(_), "root") => new.root_size.or(usual.size),
                (size, _) => size,
            };
            let live = template.and_then(|template| template.volume(usual.name));
            // A disposable's volumes are like those of what it is based on.
            let like = live.filter(|_| new.class == VmClass::DispVm);
            volumes.push(VolumeConfig {
                pool: self.pool_for(&new.pools, template, &name, usual.kind, like)?,
                name,
                vid: None,
                kind: usual.kind,
                size,
                access: like.map_or(usual.access, |like| like.access),
                revisions_to_keep: None,
                ephemeral: like.and_then(|like| like.ephemeral),
                last_snapshot: 0,
            });
        }
        for extra in template.into_iter().flat_map(|template| &template.volumes) {
            if !volumes.iter().any(|volume| volume.name == extra.name) {
                let pool = self.pool_for(&new.pools, template, &extra.name, extra.kind, Some(extra))?;
                volumes.push(VolumeConfig {
                    pool,
                    vid: None,
                    last_snapshot: 0,
                    ..VolumeConfig::clone(extra)
                });
            }
        }
        if let Pools::Each(named) = &new.pools
            && let Some(unknown) = named.keys().find(|name| !volumes.iter().any(|v| v.name == **name))
        {
            return Err(self.no_such_volume(unknown.as_str()));
        }
        volumes.into_iter().map(|volume| self.placed(volume).map(Arc::new)).collect()
    }

    /// The same volumes as another VM's, in the same pools.
    pub(super) fn copies(&self, of: &Vm) -> Result<Vec<Arc<VolumeConfig>>, Refusal> {
        let copy = |volume: &Arc<VolumeConfig>| {
            // What a volume is made of is listed, so that a new field cannot be forgotten here.
            let VolumeConfig {
                name,
                pool,
                vid: _,
                kind,
                size,
                access,
                revisions_to_keep,
                ephemeral,
                last_snapshot: _,
            } = VolumeConfig::clone(volume);
            let copy = VolumeConfig {
                name,
                pool,
                vid: None,
                kind,
                size,
                access,
                revisions_to_keep,
                ephemeral,
                // Explicit snapshots are not copied.
                last_snapshot: 0,
            };
            self.placed(copy).map(Arc::new)
        };
        of.volumes.iter().map(copy).collect()
    }

    fn no_such_volume(&self, volume: &str) -> Refusal {
        Refusal::NoSuchVolume { vm: self.name.clone(), volume: volume.to_owned() }
    }

    fn pool_for(
        &self,
        pools: &Pools,
        template: Option<&Arc<Vm>>,
        name: &VolumeName,
        kind: VolumeKind,
        like: Option<&Arc<VolumeConfig>>,
    ) -> Result<PoolName, Refusal> {
        let model = &self.snapshot.model;
        let named = match pools {
            Pools::Default => None,
            Pools::All(pool) => matches!(kind, VolumeKind::Origin | VolumeKind::Volatile).then_some(pool),
            Pools::Each(named) => named.get(name),
        };
        if kind == VolumeKind::Snapshot {
            if let Some(pool) = named {
                return Err(Refusal::SnapshotPool { volume: name.clone(), pool: pool.clone() });
            }
            let origin = template.and_then(|template| model.volume_origin(template, name.as_str()));
            return match origin {
                Some((_, origin)) => Ok(origin.pool.clone()),
                None => Err(self.no_such_volume(name.as_str())),
            };
        }
        let pool = named
            .or_else(|| like.map(|like| &like.pool))
            .or_else(|| model.default_pool_of(name.as_str()))
            .ok_or(Refusal::NoDefaultPool)?;
        match model.pool(pool.as_str()) {
            // One that a default gives is left to whoever gives the VM a kernel: it may boot without.
            Some(pool) if kind == VolumeKind::Kernel && named.is_some() && !pool.holds_kernels() => {
                Err(Refusal::KernelInPoolOfVolumes { volume: name.clone(), pool: pool.name.clone() })
            }
            Some(pool) => Ok(pool.name.clone()),
            None => Err(Refusal::UnknownPool { pool: pool.clone() }),
        }
    }

    /// A volume with the name that its pool's driver gives it.
    fn placed(&self, mut volume: VolumeConfig) -> Result<VolumeConfig, Refusal> {
        let model = &self.snapshot.model;
        if volume.kind == VolumeKind::Kernel {
            return Ok(volume);
        }
        let pool = model.pool(volume.pool.as_str());
        let pool = pool.ok_or_else(|| Refusal::UnknownPool { pool: volume.pool.clone() })?;
        let vid = self.snapshot.cells.host.naming.vid(pool, self.group, self.name, &volume.name);
        if model.occupant(pool.name.as_str(), &vid).is_some() {
            return Err(Refusal::VolumeNameTaken { pool: pool.name.clone(), vid });
        }
        volume.vid = Some(vid.into());
        Ok(volume)
    }
}
