//! Why the model refuses: one variant a reason, with the names it speaks of as data, so that what a caller
//! may not see can be left out before there is a text.
//!
//! Which exception and words a client gets is decided above, in one exhaustive `match`. Where a variant
//! carries `text`, it speaks of the given value alone and names no other object.

use std::borrow::Cow;
use std::collections::BTreeSet;

use uuid::Uuid;

use super::class::VmClass;
use super::event::Reason;
use super::ids::{FeatureName, LabelName, Tag};
use super::property::Property;
use super::volume_ops::VolumeRefusal;
use crate::error::Error;
use crate::ids::{PoolName, VmName, VolumeName};
use crate::storage::Meeting;

/// Whose property it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// The system: a global property.
    System,
    /// A VM.
    Vm(VmName),
}

/// Who uses something, and through which property.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct User {
    /// The VM, or the system.
    pub owner: Owner,
    /// The property's name.
    pub property: &'static str,
}

/// What a value of the wrong kind breaks; each is a class of its own for clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ValueRule {
    /// It is no value of the property's type (`QubesValueError`).
    Type,
    /// It breaks the property's own rule (`QubesPropertyValueError`).
    Property,
}

/// Why a change, or a look, is refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No VM of that name.
    NoSuchVm {
        /// The name.
        name: VmName,
    },
    /// No VM with that identity (any more).
    NoSuchUuid {
        /// The identity.
        uuid: Uuid,
    },
    /// The VM's row in the store is bad and was set aside when it was loaded.
    SetAside {
        /// Its name, as stored.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The name is taken, maybe by a VM that is still being made or removed.
    VmExists {
        /// The name.
        name: VmName,
    },
    /// Every number of 1 to 9999 is taken.
    NoFreeQid,
    /// Another operation on the VM holds its row of `pending`: it is being made, started or removed.
    OperationPending {
        /// The VM.
        vm: VmName,
    },

    /// A template was given for a class that has none.
    ClassHasNoTemplate {
        /// The class.
        class: VmClass,
    },
    /// The one AdminVM exists from the start; no other can be made.
    ClassNotCreatable {
        /// The class.
        class: VmClass,
    },
    /// The class needs a template; none was given, and there is no default.
    NoTemplate,
    /// A VM of another class was needed.
    WrongClass {
        /// The VM that was given.
        vm: VmName,
        /// Its class.
        class: VmClass,
        /// The class that is needed.
        expected: VmClass,
    },
    /// The base of a new disposable does not allow it (`template_for_dispvms`).
    NotDisposableTemplate {
        /// The base.
        template: VmName,
    },
    /// A disposable was asked of a VM that is no base for one, or there is no default.
    NoDisposableOf,
    /// The new template of a disposable does not allow it (`template_for_dispvms`).
    TemplateNotDisposable {
        /// The template.
        template: VmName,
    },
    /// Volumes of this name do not exist in the class.
    NoSuchVolume {
        /// The VM, or the one to be made.
        vm: VmName,
        /// As it was given.
        volume: String,
    },
    /// Something about a volume.
    Volume(VolumeRefusal),

    /// No label of that name or index.
    LabelNotFound {
        /// As it was given.
        label: String,
    },
    /// A label of that name exists.
    LabelExists {
        /// The name.
        label: LabelName,
    },
    /// The label is used by a VM.
    LabelInUse {
        /// The label.
        label: LabelName,
        /// The VMs.
        by: BTreeSet<VmName>,
    },
    /// No index is left for another label.
    NoFreeLabelIndex,
    /// The label is built in.
    LabelBuiltIn {
        /// The label.
        label: LabelName,
    },

    /// The VM, or nobody in the chain that was asked for, has the feature.
    FeatureNotFound {
        /// The VM.
        vm: VmName,
        /// As it was given.
        feature: String,
    },
    /// The daemon keeps this feature for itself.
    FeatureProtected {
        /// Its name.
        feature: FeatureName,
    },
    /// A feature's name, or the value for it, breaks a rule of what the feature is for.
    FeatureRule {
        /// The rule in words; speaks of name and value alone.
        text: Cow<'static, str>,
    },
    /// The VM does not have the tag.
    TagNotFound {
        /// The VM.
        vm: VmName,
        /// The tag.
        tag: Tag,
    },

    /// An argument names a pool that does not exist.
    PoolNotFound {
        /// As it was given.
        pool: String,
    },
    /// A new VM's volumes should lie in a pool that does not exist.
    UnknownPool {
        /// The pool.
        pool: PoolName,
    },
    /// A pool of that name exists.
    PoolExists {
        /// The name.
        pool: PoolName,
    },
    /// Another pool has its data in the place that a new one should have, or around it, or within it.
    PoolPlaceTaken {
        /// The other pool.
        pool: PoolName,
        /// How the new place lies to the other's.
        meeting: Meeting,
    },
    /// The driver has no such options.
    UnknownPoolOptions {
        /// Their names.
        options: BTreeSet<String>,
    },
    /// The driver needs more options.
    MissingPoolOptions {
        /// Their names.
        options: Vec<&'static str>,
    },
    /// The value of a pool's option is wrong; the text speaks of that value alone.
    PoolOption {
        /// What is wrong.
        text: Cow<'static, str>,
    },
    /// A volume, or a global property, uses the pool.
    PoolInUse {
        /// The pool.
        pool: PoolName,
        /// The VMs whose volumes lie in it.
        volumes_of: BTreeSet<VmName>,
        /// The global properties that name it.
        defaults: Vec<&'static str>,
    },
    /// A snapshot volume must lie where its source does.
    SnapshotPool {
        /// The volume.
        volume: VolumeName,
        /// The pool that was asked for.
        pool: PoolName,
    },
    /// A kernel's volume should lie in a pool of VMs' volumes.
    KernelInPoolOfVolumes {
        /// The volume.
        volume: VolumeName,
        /// The pool that was asked for.
        pool: PoolName,
    },
    /// No pool was named and there is no default.
    NoDefaultPool,
    /// The volumes of one VM would get one name twice, or a name that another VM's volume has.
    VolumeNameTaken {
        /// The pool.
        pool: PoolName,
        /// The name in the pool.
        vid: String,
    },

    /// dom0 cannot be removed.
    RemoveDom0,
    /// The package manager installed the VM, and removes it.
    InstalledByPackageManager {
        /// The VM.
        vm: VmName,
    },
    /// Others name the VM in a property.
    InUse {
        /// The VM.
        vm: VmName,
        /// Who, through which property.
        by: BTreeSet<User>,
    },
    /// Devices of the VM are assigned to others.
    DevicesAssigned {
        /// The VM.
        vm: VmName,
        /// The devices' ports.
        ports: Vec<String>,
    },

    /// The VM runs, or is being started.
    NotHalted {
        /// The VM.
        vm: VmName,
    },
    /// The VM is halted.
    NotStarted {
        /// The VM.
        vm: VmName,
    },
    /// The VM is halted or paused.
    NotRunning {
        /// The VM.
        vm: VmName,
    },
    /// The VM is not paused.
    NotPaused {
        /// The VM.
        vm: VmName,
    },
    /// dom0, or a remote VM, cannot be started, suspended, shut down or killed.
    NoLifecycle {
        /// The VM.
        vm: VmName,
        /// Its class.
        class: VmClass,
        /// What was asked.
        verb: Verb,
    },
    /// The VM did not end in the time that its property `shutdown_timeout` gives.
    ShutdownTimeout {
        /// The VM.
        vm: VmName,
    },
    /// VMs that use this one as their netvm are running.
    ClientsRunning {
        /// The VM.
        vm: VmName,
        /// The clients that run.
        clients: BTreeSet<VmName>,
    },
    /// Feature `prohibit-start`.
    StartProhibited {
        /// The VM.
        vm: VmName,
        /// The feature's value.
        rationale: String,
    },
    /// Tag `backup-restore-in-progress`.
    RestoreInProgress {
        /// The VM.
        vm: VmName,
    },
    /// Another VM, which runs, writes in place what one of the VM's volumes begins with.
    SourceRuns {
        /// The other VM.
        of: VmName,
        /// Its volume, by its name in the pool.
        vid: String,
    },
    /// This backend boots no VM without a kernel.
    NoKernel {
        /// The VM.
        vm: VmName,
    },

    /// A VM of this class has nothing of that kind.
    NotForClass {
        /// The VM.
        vm: VmName,
        /// Its class.
        class: VmClass,
    },
    /// The VM's firewall rules in the store are bad: none holds, and everything is dropped.
    FirewallDamaged {
        /// The VM.
        vm: VmName,
        /// What is wrong with them.
        reason: String,
    },
    /// No firewall rule with that id, or one that has expired.
    NoSuchFirewallRule {
        /// As it was given.
        id: String,
    },
    /// The VM has as many firewall rules as it may.
    TooManyFirewallRules {
        /// So many.
        most: usize,
    },
    /// The VM's notes in the store are bad.
    NotesDamaged {
        /// What is wrong with them.
        reason: String,
    },

    /// No property of that name.
    NoSuchProperty {
        /// As it was given.
        property: String,
        /// Whose.
        of: Owner,
    },
    /// The property is computed.
    PropertyReadOnly {
        /// Its name.
        property: &'static str,
        /// The class of the VM; `None` for a global one.
        class: Option<VmClass>,
    },
    /// The property is fixed when the VM is made.
    PropertyWriteOnce {
        /// Its name.
        property: &'static str,
    },
    /// The property has no default to go back to.
    PropertyWithoutDefault {
        /// Its name.
        property: &'static str,
    },
    /// `template` cannot be unset.
    TemplateReset {
        /// The current default template, which could be set instead.
        default: Option<VmName>,
    },
    /// The value is wrong by itself.
    PropertyValue {
        /// The property's name.
        property: &'static str,
        /// Which kind of rule it breaks.
        rule: ValueRule,
        /// The rule in words; speaks of the value alone.
        text: Cow<'static, str>,
    },
    /// A property that needs a VM was given none.
    VmRequired {
        /// The property's name.
        property: &'static str,
    },
    /// The value names a VM that does not exist.
    ReferenceNotFound {
        /// The property's name.
        property: &'static str,
        /// The name that was given.
        name: VmName,
    },
    /// The template of a running VM cannot be changed.
    TemplateWhileRunning {
        /// The VM.
        vm: VmName,
    },
    /// The template of a VM that is the base of running disposables cannot be changed.
    TemplateWhileDisposablesRun {
        /// The VM.
        vm: VmName,
        /// The disposables that run.
        disposables: BTreeSet<VmName>,
    },
    /// The property cannot be changed while the VM runs (`maxmem` without memory hotplug).
    PropertyWhileRunning {
        /// The VM.
        vm: VmName,
        /// The property's name.
        property: &'static str,
    },
    /// The chosen netvm provides no network.
    ProvidesNoNetwork {
        /// The chosen netvm.
        netvm: VmName,
    },
    /// The chosen netvm is the VM itself or gets its network from it.
    NetworkLoop,
    /// The new default netvm would close a loop for a VM that uses the default.
    DefaultNetworkLoop {
        /// That VM.
        vm: VmName,
    },
    /// The VM runs and the chosen netvm does not.
    NetvmHalted {
        /// The chosen netvm.
        netvm: VmName,
    },
    /// VMs use this one as their netvm, so it cannot stop providing network.
    NetworkStillUsed {
        /// The clients.
        by: BTreeSet<VmName>,
    },
    /// The chosen VM is no base for disposables.
    NotForDisposables {
        /// The property's name.
        property: &'static str,
        /// Whose property.
        of: Owner,
        /// The chosen VM.
        target: VmName,
    },
    /// `template_for_dispvms` cannot be cleared: global properties name the VM.
    DisposableTemplateOfSystem {
        /// These properties.
        properties: Vec<&'static str>,
    },
    /// `template_for_dispvms` cannot be cleared: other VMs name the VM.
    DisposableTemplateOfVms {
        /// Who, through which property.
        by: BTreeSet<User>,
    },
    /// No kernel of that version in the pool of kernels.
    KernelNotInstalled {
        /// The version.
        kernel: String,
    },
    /// The kernel's folder has no `vmlinuz`.
    KernelWithoutImage {
        /// The version.
        kernel: String,
    },
    /// A global property names no pool that exists.
    NoSuchPool {
        /// The pool.
        pool: String,
    },
    /// A global property wants a pool for volumes of VMs, and names one of kernels.
    PoolOfKernels {
        /// The pool.
        pool: PoolName,
    },
    /// A pool of VMs' volumes cannot be that of kernels.
    PoolOfVolumes {
        /// The pool.
        pool: PoolName,
    },

    /// A device can be attached only to a VM that runs.
    AttachToHalted {
        /// The VM.
        vm: VmName,
    },
    /// The backend has no such device.
    UnknownDevice {
        /// The device's class.
        class: &'static str,
        /// The device, and why it is none.
        why: String,
    },
    /// The VM has the device.
    DeviceAlreadyAttached {
        /// The device's class.
        class: &'static str,
        /// The device, `BACKEND:PORT:ID`.
        device: String,
        /// The VM.
        vm: VmName,
    },
    /// Another VM has the device.
    DeviceAttachedElsewhere {
        /// The device, `BACKEND:PORT:ID`.
        device: String,
        /// That VM.
        vm: VmName,
    },
    /// The VM has no such device.
    DeviceNotAttached {
        /// The device's class.
        class: &'static str,
        /// The port.
        port: String,
        /// The VM.
        vm: VmName,
    },
    /// The VM that has the device is off.
    BackendHalted {
        /// The backend.
        backend: VmName,
    },
    /// An option of an attachment is unknown or wrong; the text speaks of the option alone.
    DeviceOption {
        /// What is wrong.
        text: Cow<'static, str>,
    },
    /// Devices cannot be given to a VM of this class.
    NoDevices {
        /// The class.
        class: VmClass,
    },
}

/// What cannot be asked of dom0 or a remote VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Start.
    Start,
    /// Shutdown.
    Shutdown,
    /// Kill.
    Kill,
    /// Pause.
    Pause,
    /// Unpause.
    Unpause,
    /// Suspend.
    Suspend,
}

impl Refusal {
    pub(crate) fn value(property: Property, rule: ValueRule, text: impl Into<Cow<'static, str>>) -> Self {
        Self::PropertyValue { property: property.name(), rule, text: text.into() }
    }
}

/// Why an operation of the model's host failed.
#[derive(Debug, Clone)]
pub enum HostError {
    /// The model refuses; nothing was changed.
    Refused(Refusal),
    /// Storage, the hypervisor or the store failed; what was done is undone.
    Failed(Error),
    /// A step of an operation failed and what was done is undone.
    Step {
        /// The VM.
        vm: VmName,
        /// The step, as a person would say it.
        step: String,
        /// What failed in it.
        error: Error,
    },
    /// It was called off: the VM was killed, or its domain ended, meanwhile. What was done is undone.
    CalledOff {
        /// The VM.
        vm: VmName,
    },
    /// A limit of the configuration is reached; nothing was changed.
    Limit {
        /// The limit's key in the configuration.
        name: &'static str,
        /// Its value.
        value: u64,
    },
    /// A running VM's volume is larger, and its guest could not be told to use that.
    ResizeInGuest {
        /// The volume.
        volume: VolumeName,
        /// Why.
        error: Error,
    },
    /// A bug: the change panicked. It has no effect; the log has the rest.
    Bug,
}

impl HostError {
    /// What an event says of it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Refused(refusal) => Reason::Refused(refusal.clone()),
            Self::Failed(_)
            | Self::Step { .. }
            | Self::CalledOff { .. }
            | Self::Limit { .. }
            | Self::ResizeInGuest { .. }
            | Self::Bug => Reason::Failed(self.report()),
        }
    }

    /// In one line, for events and logs; names of other VMs included.
    pub fn report(&self) -> String {
        match self {
            Self::Refused(refusal) => format!("{refusal:?}"),
            Self::Failed(error) => error.report(),
            Self::Step { step, error, .. } => format!("step '{step}': {}", error.report()),
            Self::CalledOff { .. } => {
                "cancelled: the VM was killed, or its domain ended, meanwhile".to_owned()
            }
            Self::Limit { name, value } => format!("limit reached: {name} = {value}"),
            Self::ResizeInGuest { error, .. } => format!("larger, but not in the guest: {}", error.report()),
            Self::Bug => "internal error".to_owned(),
        }
    }
}

impl From<VolumeRefusal> for Refusal {
    fn from(refusal: VolumeRefusal) -> Self {
        Self::Volume(refusal)
    }
}

impl From<VolumeRefusal> for HostError {
    fn from(refusal: VolumeRefusal) -> Self {
        Self::Refused(refusal.into())
    }
}

impl From<Refusal> for HostError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Error> for HostError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}
