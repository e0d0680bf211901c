//! The six classes of VMs, and what differs between them, as one table.

use std::fmt;
use std::str::FromStr;

use crate::config::Access;
use crate::ids::ByteSize;
pub use crate::storage::VolumeGroup;

/// The class of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VmClass {
    /// The administrative domain: dom0 alone.
    AdminVm,
    /// Based on a template: its root is a snapshot of the template's, its private volume is its own.
    AppVm,
    /// A disposable, based on an AppVM: every volume is thrown away at its end.
    DispVm,
    /// A VM on another machine, of which only the name and some settings are known here.
    RemoteVm,
    /// All volumes are its own.
    StandaloneVm,
    /// All volumes are its own, and others are based on it.
    TemplateVm,
}

/// What a VM of a class may be based on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TemplateRule {
    /// It has no template.
    None,
    /// A TemplateVM.
    Template,
    /// An AppVM whose property `template_for_dispvms` is set.
    DisposableTemplate,
}

/// Where a new volume's content comes from and what becomes of it when the VM stops. The legal
/// combinations of the deployed `snap_on_start` and `save_on_stop`, and the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VolumeKind {
    /// Its own content, kept (`save_on_stop`).
    Origin,
    /// A snapshot of the same volume of the template, made at each start (`snap_on_start`).
    Snapshot,
    /// Empty at each start, thrown away at the end.
    Volatile,
    /// The kernel's folder, read-only; which one, the property `kernel` says.
    Kernel,
}

impl VolumeKind {
    /// Whether each start begins from the template's volume.
    pub const fn snap_on_start(self) -> bool {
        matches!(self, Self::Snapshot)
    }

    /// Whether the content outlives a stop.
    pub const fn save_on_stop(self) -> bool {
        matches!(self, Self::Origin)
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Snapshot => "snapshot",
            Self::Volatile => "volatile",
            Self::Kernel => "kernel",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Origin, Self::Snapshot, Self::Volatile, Self::Kernel].into_iter().find(|k| k.as_str() == text)
    }
}

/// One of the usual volumes of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeDefault {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: VolumeKind,
    /// Whether the guest may write.
    pub access: Access,
    /// Its size when the VM is created; `None` where it follows from the source or the kernel.
    pub size: Option<ByteSize>,
}

const fn volume(name: &'static str, kind: VolumeKind, gib: u32) -> VolumeDefault {
    VolumeDefault { name, kind, access: Access::ReadWrite, size: Some(ByteSize::gib(gib)) }
}

const fn snapshot(name: &'static str) -> VolumeDefault {
    VolumeDefault { name, kind: VolumeKind::Snapshot, access: Access::ReadWrite, size: None }
}

const KERNEL: VolumeDefault =
    VolumeDefault { name: "kernel", kind: VolumeKind::Kernel, access: Access::ReadOnly, size: None };

/// A TemplateVM or StandaloneVM.
static OWN_ROOT: [VolumeDefault; 4] = [
    volume("root", VolumeKind::Origin, 10),
    volume("private", VolumeKind::Origin, 2),
    volume("volatile", VolumeKind::Volatile, 10),
    KERNEL,
];

static APP: [VolumeDefault; 4] = [
    snapshot("root"),
    volume("private", VolumeKind::Origin, 2),
    volume("volatile", VolumeKind::Volatile, 10),
    KERNEL,
];

static DISPOSABLE: [VolumeDefault; 4] =
    [snapshot("root"), snapshot("private"), volume("volatile", VolumeKind::Volatile, 12), KERNEL];

impl VmClass {
    /// All classes, in the order in which they are listed.
    pub const ALL: [Self; 6] =
        [Self::AdminVm, Self::AppVm, Self::DispVm, Self::RemoteVm, Self::StandaloneVm, Self::TemplateVm];

    /// The name that clients and `qubes.xml` know.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AdminVm => "AdminVM",
            Self::AppVm => "AppVM",
            Self::DispVm => "DispVM",
            Self::RemoteVm => "RemoteVM",
            Self::StandaloneVm => "StandaloneVM",
            Self::TemplateVm => "TemplateVM",
        }
    }

    /// What a VM of this class is based on.
    pub const fn template_rule(self) -> TemplateRule {
        match self {
            Self::AppVm => TemplateRule::Template,
            Self::DispVm => TemplateRule::DisposableTemplate,
            Self::AdminVm | Self::RemoteVm | Self::StandaloneVm | Self::TemplateVm => TemplateRule::None,
        }
    }

    /// Whether this is a domain of this host that starts and stops. dom0 and remote VMs always count as
    /// running.
    pub const fn has_lifecycle(self) -> bool {
        match self {
            Self::AppVm | Self::DispVm | Self::StandaloneVm | Self::TemplateVm => true,
            Self::AdminVm | Self::RemoteVm => false,
        }
    }

    /// The usual volumes, in the order in which they are listed and become the guest's disks.
    pub fn volumes(self) -> &'static [VolumeDefault] {
        match self {
            Self::TemplateVm | Self::StandaloneVm => &OWN_ROOT,
            Self::AppVm => &APP,
            Self::DispVm => &DISPOSABLE,
            Self::AdminVm | Self::RemoteVm => &[],
        }
    }

    /// The folder of its volumes.
    pub const fn volume_group(self) -> VolumeGroup {
        match self {
            Self::TemplateVm => VolumeGroup::VmTemplates,
            Self::AdminVm | Self::AppVm | Self::DispVm | Self::RemoteVm | Self::StandaloneVm => {
                VolumeGroup::AppVms
            }
        }
    }
}

impl fmt::Display for VmClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such VM class")]
pub struct UnknownClass;

impl FromStr for VmClass {
    type Err = UnknownClass;

    fn from_str(text: &str) -> Result<Self, UnknownClass> {
        Self::ALL.into_iter().find(|class| class.as_str() == text).ok_or(UnknownClass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_parses_from_the_name_that_it_prints() {
        for class in VmClass::ALL {
            assert_eq!(class.to_string().parse(), Ok(class));
        }
        assert_eq!("appvm".parse::<VmClass>(), Err(UnknownClass));
    }

    #[test]
    fn only_classes_with_a_template_have_snapshot_volumes_and_only_kernels_and_snapshots_lack_a_size() {
        for class in VmClass::ALL {
            let snapshots = class.volumes().iter().any(|v| v.kind == VolumeKind::Snapshot);
            assert_eq!(snapshots, class.template_rule() != TemplateRule::None, "{class}");
            for volume in class.volumes() {
                let derived = matches!(volume.kind, VolumeKind::Snapshot | VolumeKind::Kernel);
                assert_eq!(volume.size.is_none(), derived, "{class} {}", volume.name);
            }
        }
    }
}
