//! The model's events: what happened to which VM. Wire names and texts are made above.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::ids::{FeatureName, FeatureValue, Tag};
use super::pools::UsageKind;
use super::refusal::Refusal;
use super::value::Shown;
use super::vm::Vm;
use crate::ids::{ByteSize, PoolName, VmName, VolumeName};

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The system as a whole.
    System,
    /// A VM.
    Vm {
        /// Its identity.
        uuid: Uuid,
        /// Its name.
        name: VmName,
    },
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelEvent {
    /// What it is about.
    pub subject: Subject,
    /// What happened.
    pub kind: EventKind,
}

impl ModelEvent {
    /// An event of the system.
    pub fn system(kind: EventKind) -> Self {
        Self { subject: Subject::System, kind }
    }

    /// An event of a VM.
    pub fn of(vm: &Vm, kind: EventKind) -> Self {
        Self { subject: Subject::Vm { uuid: vm.uuid, name: vm.name.clone() }, kind }
    }

    /// The VM that it is about, or that a system event names.
    pub fn vm(&self) -> Option<Uuid> {
        match (&self.subject, self.kind.named_vm()) {
            (Subject::Vm { uuid, .. }, _) => Some(*uuid),
            (Subject::System, named) => named.map(|(uuid, _)| uuid),
        }
    }
}

/// A property's change in an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PropertyChange {
    /// The property's name.
    pub name: &'static str,
    /// The new value; absent from resets.
    pub new: Option<Shown>,
    /// The value that held before, a default included; absent where there was none.
    pub old: Option<Shown>,
}

/// Why something that was announced did not happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The model refused it; the names in it are not for everybody.
    Refused(Refusal),
    /// It failed, in these words.
    Failed(String),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// A VM was added (system).
    DomainAdd {
        /// The VM.
        vm: VmName,
        /// Its identity.
        uuid: Uuid,
    },
    /// A VM is about to be removed (system).
    DomainPreDelete {
        /// The VM.
        vm: VmName,
        /// Its identity.
        uuid: Uuid,
    },
    /// A VM was removed (system).
    DomainDelete {
        /// The VM.
        vm: VmName,
        /// Its identity.
        uuid: Uuid,
    },
    /// A VM's volumes were made.
    DomainCreateOnDisk,
    /// A VM's volumes were made as copies of another's.
    DomainCloneFiles {
        /// The other VM.
        src: VmName,
    },
    /// A VM's volumes were removed.
    DomainRemoveFromDisk,
    /// A tag was added.
    DomainTagAdd {
        /// The tag.
        tag: Tag,
    },
    /// A tag was removed.
    DomainTagDelete {
        /// The tag.
        tag: Tag,
    },
    /// A feature is about to be set.
    DomainFeaturePreSet {
        /// The feature.
        feature: FeatureName,
        /// Its new value.
        value: FeatureValue,
        /// Its old value, if it had one.
        old: Option<FeatureValue>,
    },
    /// A feature was set.
    DomainFeatureSet {
        /// The feature.
        feature: FeatureName,
        /// Its new value.
        value: FeatureValue,
        /// Its old value, if it had one.
        old: Option<FeatureValue>,
    },
    /// A feature is about to be removed.
    DomainFeaturePreDelete {
        /// The feature, as it was asked for: it may be none that a VM can have.
        feature: String,
    },
    /// A feature was removed.
    DomainFeatureDelete {
        /// The feature.
        feature: FeatureName,
    },
    /// A VM's firewall rules changed, or are to be given to its netvm again.
    FirewallChanged,
    /// A property is about to be set.
    PropertyPreSet(PropertyChange),
    /// A property was set.
    PropertySet(PropertyChange),
    /// A property is about to go back to its default.
    PropertyPreReset(PropertyChange),
    /// The old name of [`EventKind::PropertyPreReset`].
    PropertyPreDel(PropertyChange),
    /// A property went back to its default, or an inherited or computed value changed.
    PropertyReset(PropertyChange),
    /// The old name of [`EventKind::PropertyReset`].
    PropertyDel(PropertyChange),
    /// A Start begins.
    DomainPreStart,
    /// A VM's volumes were checked.
    DomainVerifyFiles,
    /// The domain is about to be built.
    DomainPreSpawn,
    /// The domain was built, paused.
    DomainSpawn,
    /// What the guest reads about itself was written.
    DomainQdbCreate,
    /// A Start is done.
    DomainStart,
    /// A Start failed.
    DomainStartFailed {
        /// Why.
        reason: Reason,
    },
    /// A domain is about to be unpaused.
    DomainPreUnpaused,
    /// A domain was unpaused.
    DomainUnpaused,
    /// A domain is about to be paused.
    DomainPrePaused,
    /// A domain was paused.
    DomainPaused,
    /// A guest is about to be asked to shut down.
    DomainPreShutdown {
        /// Whether it was forced.
        force: Force,
    },
    /// A guest could not be asked to shut down.
    DomainShutdownFailed {
        /// Why.
        reason: Reason,
    },
    /// A domain ended, for whatever reason.
    DomainStopped,
    /// What follows from the end is done.
    DomainShutdown,
    /// A service is about to be called in a VM.
    DomainCmdPreRun,
    /// A volume's data was replaced by a copy of another's.
    DomainImportVolume {
        /// The volume.
        name: VolumeName,
        /// The other's name in its pool.
        source: String,
    },
    /// Data from outside begins to replace a volume's.
    VolumeImportBegin {
        /// The volume.
        volume: VolumeName,
        /// How much is to come.
        size: ByteSize,
    },
    /// It has ended.
    VolumeImportEnd {
        /// The volume.
        volume: VolumeName,
        /// Whether it is the volume's data now.
        success: bool,
    },
    /// How far a copy of a volume's data is.
    VolumeProgress {
        /// The volume.
        volume: VolumeName,
        /// Bytes dealt with, holes included.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// A device is about to be attached.
    DevicePreAttach(Device),
    /// A device was attached.
    DeviceAttach(Device),
    /// A device is about to be detached.
    DevicePreDetach(DevicePort),
    /// A device was detached.
    DeviceDetach(DevicePort),
    /// The devices that a VM offers changed.
    DeviceListChange {
        /// The devices' class.
        class: &'static str,
    },
    /// A pool was added (system).
    PoolAdd {
        /// The pool.
        pool: PoolName,
    },
    /// A pool is about to be removed (system).
    PoolPreDelete {
        /// The pool.
        pool: PoolName,
    },
    /// A pool was removed (system).
    PoolDelete {
        /// The pool.
        pool: PoolName,
    },
    /// A pool has got nearly full (system).
    PoolUsage {
        /// The pool.
        pool: PoolName,
        /// Of what.
        kind: UsageKind,
        /// How full, in percent.
        percent: u8,
    },
}

impl EventKind {
    /// About how many bytes it takes to keep it, those that it shares with others counted in full. Only what a client
    /// makes as long as it likes is looked at.
    #[expect(clippy::wildcard_enum_match_arm, reason = "what holds no text of a client's weighs alike")]
    pub(super) fn weight(&self) -> usize {
        let shown = |shown: &Option<Shown>| if let Some(Shown::Str(text)) = shown { text.len() } else { 0 };
        let text = match self {
            Self::DomainFeaturePreSet { feature, value, old }
            | Self::DomainFeatureSet { feature, value, old } => {
                let old = old.as_ref().map_or(0, |old| old.as_str().len());
                feature.as_str().len() + value.as_str().len() + old
            }
            Self::PropertyPreSet(change)
            | Self::PropertySet(change)
            | Self::PropertyPreReset(change)
            | Self::PropertyPreDel(change)
            | Self::PropertyReset(change)
            | Self::PropertyDel(change) => shown(&change.new) + shown(&change.old),
            Self::DomainTagAdd { tag } | Self::DomainTagDelete { tag } => tag.as_str().len(),
            Self::DomainFeaturePreDelete { feature } => feature.len(),
            Self::DomainFeatureDelete { feature } => feature.as_str().len(),
            Self::DomainStartFailed { reason: Reason::Failed(why) }
            | Self::DomainShutdownFailed { reason: Reason::Failed(why) } => why.len(),
            _ => 0,
        };
        size_of::<Numbered>() + size_of::<ModelEvent>() + text
    }

    /// The VM that an event of the system names.
    pub fn named_vm(&self) -> Option<(Uuid, &VmName)> {
        if let Self::DomainAdd { vm, uuid }
        | Self::DomainPreDelete { vm, uuid }
        | Self::DomainDelete { vm, uuid } = self
        {
            Some((*uuid, vm))
        } else {
            None
        }
    }
}

/// Whether something was asked with force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Force {
    /// Only if nothing speaks against it.
    No,
    /// Whatever speaks against it.
    Yes,
}

/// A device in an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its class.
    pub class: &'static str,
    /// The VM that offers it.
    pub backend: VmName,
    /// Where it is plugged there.
    pub port: String,
    /// What it is.
    pub id: String,
    /// The options of the attachment.
    pub options: BTreeMap<String, String>,
}

/// Where a device is plugged, in an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicePort {
    /// The device's class.
    pub class: &'static str,
    /// The VM that offers it.
    pub backend: VmName,
    /// Where it is plugged there.
    pub port: String,
}

/// An event with its number. Numbers grow by one and never repeat, not over restarts either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbered {
    /// The number.
    pub number: u64,
    /// The event.
    pub event: Arc<ModelEvent>,
}

impl Numbered {
    /// About how many bytes it takes to keep it.
    pub(super) fn weight(&self) -> usize {
        self.event.kind.weight()
    }
}
