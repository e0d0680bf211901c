//! From a volume of the model to what storage is asked for: where it lies, what it is, whose copy it is.

use super::class::{VmClass, VolumeKind as ModelKind};
use super::property::Property;
use super::refusal::Refusal;
use super::snapshot::Snapshot;
use super::vm::Vm;
use super::volume::VolumeConfig;
use crate::config::Access;
use crate::ids::{ByteSize, KernelVersion, PoolName, VolumeName};
use crate::storage::{RevisionsToKeep, Sharing, Volume, VolumeId, VolumeKind, VolumeSpec};

/// The identity of a VM's volume.
pub(super) fn id(vm: &Vm, volume: &VolumeName) -> VolumeId {
    VolumeId::new(vm.class.volume_group(), vm.name.clone(), volume.clone())
}

/// Where a volume lies and what it is, by what the snapshot says. A snapshot volume's source is found up the
/// chain of templates; its pool and size are the source's.
pub(super) fn place(seen: &Snapshot, vm: &Vm, volume: &VolumeConfig) -> Result<Volume, Refusal> {
    let missing = || Refusal::NoSuchVolume { vm: vm.name.clone(), volume: volume.name.to_string() };
    let (pool, kind, size) = match volume.kind {
        ModelKind::Origin => (volume.pool.clone(), VolumeKind::Origin, volume.size),
        ModelKind::Volatile => (volume.pool.clone(), VolumeKind::Volatile, volume.size),
        ModelKind::Snapshot => {
            let (owner, source) = seen.model.volume_source(vm, volume.name.as_str()).ok_or_else(missing)?;
            let kind = VolumeKind::Snapshot { source: id(owner, &source.name) };
            (source.pool.clone(), kind, source.size.or(volume.size))
        }
        ModelKind::Kernel => {
            let version = Property::Kernel.text(seen, vm).filter(|version| !version.is_empty());
            let version = version
                .map(|version| {
                    version
                        .parse::<KernelVersion>()
                        .map_err(|_| Refusal::KernelNotInstalled { kernel: version })
                })
                .transpose()?;
            (volume.pool.clone(), VolumeKind::Kernel { version }, None)
        }
    };
    let sharing = sharing(vm, volume);
    Ok(Volume {
        id: id(vm, &volume.name),
        spec: VolumeSpec {
            kind,
            size: size.unwrap_or(ByteSize::bytes(0)),
            revisions_to_keep: revisions_to_keep(seen, &pool, volume),
            access: volume.access,
            sharing,
            ephemeral: is_ephemeral(seen, volume),
        },
        pool,
    })
}

/// The same for what ends a volume's use, or the volume: for that its own names are enough. Where its source, or its kernel, is
/// not to be found, it is one of nothing.
pub(super) fn place_to_end(seen: &Snapshot, vm: &Vm, volume: &VolumeConfig) -> Volume {
    place(seen, vm, volume).unwrap_or_else(|_| {
        let id = id(vm, &volume.name);
        let kind = match volume.kind {
            ModelKind::Origin => VolumeKind::Origin,
            ModelKind::Volatile => VolumeKind::Volatile,
            ModelKind::Snapshot => VolumeKind::Snapshot { source: id.clone() },
            ModelKind::Kernel => VolumeKind::Kernel { version: None },
        };
        let spec = VolumeSpec { kind, access: volume.access, ..any_spec() };
        Volume { id, spec, pool: volume.pool.clone() }
    })
}

/// Whether there is nothing to a volume: one of a kernel, of a VM that boots without one of ours.
pub(super) fn is_nothing(seen: &Snapshot, vm: &Vm, volume: &VolumeConfig) -> bool {
    volume.kind == ModelKind::Kernel
        && Property::Kernel.text(seen, vm).is_none_or(|version| version.is_empty())
}

/// Whether other volumes may be snapshots of this one.
fn sharing(vm: &Vm, volume: &VolumeConfig) -> Sharing {
    let template = vm.class == VmClass::TemplateVm && volume.name.as_str() != "private";
    let disposables = vm.flag(Property::TemplateForDispvms) == Some(true);
    if volume.kind == ModelKind::Origin && (template || disposables) {
        Sharing::Source
    } else {
        Sharing::Private
    }
}

/// The volume's own number, else the pool's, else the driver's: none on `file`, where each costs a copy, and one
/// on the others.
fn revisions_to_keep(seen: &Snapshot, pool: &PoolName, volume: &VolumeConfig) -> RevisionsToKeep {
    let of_pool = seen.model.pool(pool.as_str()).and_then(|pool| {
        let given = pool.options.get("revisions_to_keep").and_then(|text| text.parse::<i64>().ok());
        given.or_else(|| Some(if &*pool.driver == "file" { 0 } else { 1 }))
    });
    let number = volume.revisions_to_keep.map(i64::from).or(of_pool).unwrap_or(1);
    RevisionsToKeep::try_from(number).unwrap_or(RevisionsToKeep::Newest(1))
}

/// The name of a volume in its pool, as people see it.
pub(super) fn vid(config: &VolumeConfig, placed: &Volume) -> String {
    match (&config.vid, &placed.spec.kind) {
        (Some(vid), _) => vid.to_string(),
        (None, VolumeKind::Kernel { version: Some(version) }) => version.to_string(),
        (None, _) => String::new(),
    }
}

/// Whether a volume is encrypted with a key that nobody keeps: its own setting, else the pool's for what is empty at
/// each start and may be written.
pub(super) fn is_ephemeral(seen: &Snapshot, config: &VolumeConfig) -> bool {
    config.ephemeral.unwrap_or_else(|| {
        let pool = seen.model.pool(config.pool.as_str());
        let option = pool.and_then(|pool| pool.options.get("ephemeral_volatile"));
        may_be_ephemeral(config) && option.is_some_and(|text| text.eq_ignore_ascii_case("true"))
    })
}

/// Whether a volume could be encrypted with a key that nobody keeps.
pub(super) fn may_be_ephemeral(config: &VolumeConfig) -> bool {
    config.kind == ModelKind::Volatile && config.access == Access::ReadWrite
}

/// A spec for what looks at names alone.
pub(super) fn any_spec() -> VolumeSpec {
    VolumeSpec {
        kind: VolumeKind::Volatile,
        size: ByteSize::bytes(0),
        revisions_to_keep: RevisionsToKeep::Newest(0),
        access: Access::ReadWrite,
        sharing: Sharing::Private,
        ephemeral: false,
    }
}
