//! The one place where a failure of the library becomes an exception of the wire.
//!
//! The matches have no catch-all: a new refusal does not compile until somebody decides what clients see.
//! Classes and texts are the deployed daemon's (a reason may follow where it gives none). Names of other VMs
//! are left out where the caller may not see them.

mod error;
mod volume;

use libvirt_qubes::Op;
use libvirt_qubes::ids::VmName;
use libvirt_qubes::qubes::{HostError, Owner, Refusal, User, ValueRule, Verb, VmClass};
use libvirt_qubes::storage::Meeting;

use error::{failed, step_failed, words};

use crate::failure::Failure;
use crate::wire::exception::quoted;
use crate::wire::{Class, Exception};

/// Who is told.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    /// How much of an error's causes, which can name files of dom0.
    pub causes: Causes,
    /// Whether it may know of a VM.
    pub sees: Sees<'a>,
}

/// Whether a VM may be known of.
type Sees<'a> = &'a dyn Fn(&VmName) -> bool;

/// How much is told of what an error follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Causes {
    /// The whole chain: to dom0.
    Told,
    /// The operation, its object and the kind of error alone.
    Hidden,
}

/// The exception for a failure, as this reader is told of it.
pub fn failure(error: HostError, reader: Reader<'_>) -> Failure {
    match error {
        HostError::Refused(refusal) => refused(refusal, reader.sees),
        HostError::Failed(error) => failed(&error, reader.causes),
        HostError::Step { vm, step, error } => step_failed(&vm, &step, &error, reader.causes),
        HostError::CalledOff { vm } => {
            let format = "Operation on %s cancelled: it was killed, or its domain ended, meanwhile";
            Exception::new(Class::QubesException, format, [quoted(vm.as_str())]).into()
        }
        HostError::Limit { name, value } => crate::failure::limit_reached(name, value).into(),
        HostError::ResizeInGuest { volume, error } => exception(
            Class::StoragePoolException,
            "Online resize of volume %s failed (you need to resize filesystem manually): %s",
            [volume.to_string(), words(&error, reader.causes)],
        )
        .into(),
        HostError::Bug => Failure::internal("a change to the model panicked; the log has the place"),
    }
}

/// The exception for a failure where clients know words of their own, with one `%s`, for what the store could not
/// take. The log has it whole.
pub fn unsaved(error: HostError, format: &'static str, reader: Reader<'_>) -> Failure {
    match error {
        HostError::Failed(error) if error.op() == Op::Store => {
            tracing::error!(error = error.report(), "a change was not saved");
            Exception::new(Class::QubesException, format, [words(&error, reader.causes)]).into()
        }
        other @ (HostError::Refused(_)
        | HostError::Failed(_)
        | HostError::Step { .. }
        | HostError::CalledOff { .. }
        | HostError::Limit { .. }
        | HostError::ResizeInGuest { .. }
        | HostError::Bug) => failure(other, reader),
    }
}

/// What an event says of a refusal: the exception's text, naming no other VM.
pub fn in_an_event(refusal: Refusal) -> String {
    match refused(refusal, &|_| false) {
        Failure::Exception(exception) | Failure::Absent(exception) => exception.message(),
        Failure::Denied => "denied".to_owned(),
        Failure::Internal(_) => "internal error".to_owned(),
    }
}

fn exception<const N: usize>(class: Class, format: &'static str, fields: [String; N]) -> Exception {
    Exception::new(class, format, fields)
}

fn refused(refusal: Refusal, sees: Sees<'_>) -> Failure {
    let plain = |class, text: &str| Exception::plain(class, text);
    let names = |names: &mut dyn Iterator<Item = &VmName>| {
        names.filter(|name| sees(name)).map(VmName::as_str).collect::<Vec<_>>().join(", ")
    };
    let made = match refusal {
        Refusal::NoSuchVm { name } => return Failure::no_such_domain(name.as_str()),
        Refusal::NoSuchUuid { uuid } => return Failure::no_such_domain(&format!("uuid:{uuid}")),
        Refusal::SetAside { name, reason } => {
            let format = "The stored settings of %s are damaged: %s; `mgmtd doctor` shows and repairs them";
            exception(Class::QubesVMError, format, [quoted(&name), reason])
        }
        Refusal::VmExists { name } => {
            exception(Class::QubesVMAlreadyExistsError, "Qube already exists: %s", [name.to_string()])
        }
        Refusal::NoFreeQid => plain(Class::QubesException, "No free qube id"),
        Refusal::OperationPending { vm } => {
            exception(Class::QubesVMError, "Another operation on %s is under way", [quoted(vm.as_str())])
        }
        Refusal::ClassHasNoTemplate { class } => {
            exception(Class::ProtocolError, "%s cannot be based on template", [class.to_string()])
        }
        Refusal::ClassNotCreatable { class } => exception(
            Class::QubesPropertyValueError,
            "There is one %s, and it exists from the start: no other can be created",
            [class.to_string()],
        ),
        Refusal::NoTemplate => {
            plain(Class::QubesValueError, "Template for the qube not specified, nor default template set.")
        }
        Refusal::WrongClass { vm, class, expected } => exception(
            Class::QubesPropertyValueError,
            "wrong VM class: domains[%s] is of type %s and not %s",
            [quoted(vm.as_str()), class.to_string(), expected.to_string()],
        ),
        Refusal::NotDisposableTemplate { template } => exception(
            Class::QubesValueError,
            "template for disposable (%s) needs to be an AppVM with template_for_dispvms=True",
            [template.to_string()],
        ),
        Refusal::NoDisposableOf => plain(
            Class::QubesException,
            "Refusing to create disposable out of app qube which has template_for_dispvms=False",
        ),
        Refusal::TemplateNotDisposable { .. } => plain(
            Class::QubesPropertyValueError,
            "template for disposable must have template_for_dispvms=True",
        ),
        Refusal::NoSuchVolume { vm, .. } => {
            let fields = [quoted(&format!("{vm} volumes"))];
            return Failure::Absent(exception(Class::PermissionDenied, "Argument not in %s", fields));
        }

        Refusal::Volume(refusal) => return volume::refused(refusal),

        Refusal::LabelNotFound { label } => {
            exception(Class::QubesLabelNotFoundError, "Label does not exist: %s", [label])
        }
        Refusal::LabelExists { label } => {
            exception(Class::QubesLabelInUseError, "Label is still in use: %s", [quoted(label.as_str())])
        }
        Refusal::LabelInUse { label, by } => {
            let by = names(&mut by.iter());
            let label = quoted(label.as_str());
            if by.is_empty() {
                exception(Class::QubesLabelInUseError, "Label is still in use: %s", [label])
            } else {
                exception(Class::QubesLabelInUseError, "Label is still in use: %s, by %s", [label, by])
            }
        }
        Refusal::NoFreeLabelIndex => plain(Class::QubesException, "No free label index"),
        Refusal::LabelBuiltIn { .. } => plain(Class::ProtocolError, "Can only remove custom labels"),

        Refusal::FeatureNotFound { vm, feature } => exception(
            Class::QubesFeatureNotFoundError,
            "Feature not set for domain %s: %s",
            [vm.to_string(), feature],
        ),
        Refusal::FeatureProtected { feature } => {
            exception(Class::PermissionDenied, "Feature is protected: %s", [feature.to_string()])
        }
        Refusal::FeatureRule { text } => plain(Class::QubesValueError, &text),
        Refusal::TagNotFound { vm, tag } => exception(
            Class::QubesTagNotFoundError,
            "Tag not set for domain %s: %s",
            [vm.to_string(), tag.to_string()],
        ),

        Refusal::PoolNotFound { .. } => {
            return Failure::Absent(plain(Class::PermissionDenied, "Argument not in 'pools'"));
        }
        Refusal::UnknownPool { pool } => {
            let unknown = exception(Class::QubesException, "Unknown storage pool %s", [pool.to_string()]);
            return Failure::Absent(unknown);
        }
        Refusal::PoolExists { pool } => {
            exception(Class::QubesPoolInUseError, "Storage pool is in use: %s", [quoted(pool.as_str())])
        }
        Refusal::PoolPlaceTaken { pool, meeting } => {
            let format = match meeting {
                Meeting::Same => "Storage pool is in use: same place as pool %s",
                Meeting::Inside => "Storage pool is in use: the place lies inside that of pool %s",
                Meeting::Around => "Storage pool is in use: the place of pool %s lies inside it",
            };
            exception(Class::QubesPoolInUseError, format, [quoted(pool.as_str())])
        }
        Refusal::UnknownPoolOptions { options } => {
            let options = options.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            exception(Class::ProtocolError, "Unexpected driver options found: %s", [options])
        }
        Refusal::MissingPoolOptions { options } => {
            exception(Class::QubesException, "missing required driver options: %s", [options.join(", ")])
        }
        Refusal::PoolOption { text } => plain(Class::QubesValueError, &text),
        Refusal::PoolInUse { pool, volumes_of, defaults } => {
            let mut reasons: Vec<String> = defaults.iter().map(|key| format!("set as {key}")).collect();
            let owners = names(&mut volumes_of.iter());
            if !owners.is_empty() {
                reasons.push(format!("volumes of {owners}"));
            }
            if reasons.is_empty() {
                reasons.push(quoted(pool.as_str()));
            }
            exception(Class::QubesPoolInUseError, "Storage pool is in use: %s", [reasons.join("; ")])
        }
        Refusal::SnapshotPool { volume, pool } => exception(
            Class::QubesException,
            "Snapshot volume %s must be in the same pool as its origin (%s volume of template),cannot move to pool %s ",
            [volume.to_string(), volume.to_string(), pool.to_string()],
        ),
        Refusal::KernelInPoolOfVolumes { volume, pool } => exception(
            Class::StoragePoolException,
            "Volume %s cannot lie in storage pool %s, which holds volumes of qubes: kernels lie in a pool of the driver \
             linux-kernel",
            [volume.to_string(), quoted(pool.as_str())],
        ),
        Refusal::NoDefaultPool => plain(
            Class::QubesException,
            "No storage pool was named and no default is set: set the property 'default_pool'",
        ),
        Refusal::VolumeNameTaken { pool, vid } => {
            exception(Class::StoragePoolException, "Volume exists: %s in pool %s", [vid, pool.to_string()])
        }

        Refusal::RemoveDom0 => plain(Class::QubesVMInUseError, "'dom0' cannot be removed"),
        Refusal::InstalledByPackageManager { vm } => {
            exception(Class::QubesVMInUseError, "VM installed by package manager: %s", [vm.to_string()])
        }
        Refusal::InUse { vm, by } => {
            let format = "Domain is in use: %s;  see 'journalctl -u qubesd -e' in dom0 for details%s";
            let by = users(&by, sees);
            let reason = if by.is_empty() { by } else { format!("; used by {by}") };
            exception(Class::QubesVMInUseError, format, [quoted(vm.as_str()), reason])
        }
        Refusal::DevicesAssigned { ports, .. } => exception(
            Class::QubesVMInUseError,
            "VM has devices assigned to other VMs: %s",
            [ports.join(", ")],
        ),

        Refusal::NotHalted { vm } => {
            exception(Class::QubesVMNotHaltedError, "Domain is not powered off: %s", [quoted(vm.as_str())])
        }
        Refusal::NotStarted { vm } => {
            exception(Class::QubesVMNotStartedError, "Domain is powered off: %s", [quoted(vm.as_str())])
        }
        Refusal::NotRunning { vm } => exception(
            Class::QubesVMNotRunningError,
            "Domain not running (either powered off or paused): %s",
            [quoted(vm.as_str())],
        ),
        Refusal::NotPaused { vm } => {
            exception(Class::QubesVMNotPausedError, "Domain is not paused: %s", [quoted(vm.as_str())])
        }
        Refusal::NoLifecycle { vm, class, verb } => no_lifecycle(&vm, class, verb),
        Refusal::ClientsRunning { clients, .. } => exception(
            Class::QubesVMInUseError,
            "There are other VMs connected to this VM%s",
            [after_colon(names(&mut clients.iter()))],
        ),
        Refusal::ShutdownTimeout { vm } => exception(
            Class::QubesVMShutdownTimeoutError,
            "Domain shutdown timed out: %s",
            [quoted(vm.as_str())],
        ),
        Refusal::StartProhibited { rationale, .. } => {
            exception(Class::QubesException, "Qube start is prohibited. Rationale: %s", [rationale])
        }
        Refusal::RestoreInProgress { .. } => {
            plain(Class::QubesVMError, "Restore of this domain in progress, cannot start")
        }
        Refusal::SourceRuns { of, vid } => exception(
            Class::QubesVMError,
            "Volume %s is running: its VM writes it in place, and has to be stopped before others start from it",
            [if sees(&of) { vid } else { "of its template".to_owned() }],
        ),
        Refusal::NoKernel { vm } => exception(
            Class::QubesException,
            "Start failed: property 'kernel' of %s is empty, and this hypervisor boots no VM without a kernel: \
             set it, or the global 'default_kernel'",
            [quoted(vm.as_str())],
        ),

        Refusal::NotForClass { vm, class } => exception(
            Class::QubesVMError,
            "Not possible for a VM of class %s: %s",
            [class.to_string(), quoted(vm.as_str())],
        ),
        Refusal::FirewallDamaged { vm, reason } => exception(
            Class::QubesVMError,
            "The stored firewall rules of %s are damaged, and everything is dropped: %s; set new ones, or see \
             `mgmtd doctor`",
            [quoted(vm.as_str()), reason],
        ),
        Refusal::NoSuchFirewallRule { id } => {
            exception(Class::QubesValueError, "No such firewall rule: %s", [id])
        }
        Refusal::TooManyFirewallRules { most } => crate::failure::limit_reached("firewall_rules", most),
        Refusal::NotesDamaged { reason } => {
            exception(Class::QubesException, "Failed to read notes file: %s", [reason])
        }

        Refusal::NoSuchProperty { property, of } => {
            let of = match of {
                Owner::System => "Qubes".to_owned(),
                Owner::Vm(vm) => vm.to_string(),
            };
            exception(Class::QubesNoSuchPropertyError, "Invalid property %s of %s", [quoted(&property), of])
        }
        Refusal::PropertyReadOnly { property, class } => exception(
            Class::QubesPropertyValueError,
            "property %s on %s instance cannot be set",
            [quoted(property), class.map_or_else(|| "Qubes".to_owned(), |class| class.to_string())],
        ),
        Refusal::PropertyWriteOnce { property } => {
            exception(Class::QubesPropertyValueError, "Property %s cannot be changed", [quoted(property)])
        }
        Refusal::PropertyWithoutDefault { property } => exception(
            Class::QubesPropertyValueError,
            "Property %s has no default to go back to: set another value instead",
            [quoted(property)],
        ),
        Refusal::TemplateReset { default: Some(default) } if sees(&default) => exception(
            Class::QubesValueError,
            "Cannot unset template. You can set it to the current default (%s) instead",
            [default.to_string()],
        ),
        Refusal::TemplateReset { default: _ } => plain(Class::QubesValueError, "Cannot unset template"),
        Refusal::PropertyValue { rule, text, .. } => plain(
            match rule {
                ValueRule::Type => Class::QubesValueError,
                ValueRule::Property => Class::QubesPropertyValueError,
            },
            &text,
        ),
        Refusal::VmRequired { property } => {
            exception(Class::QubesPropertyValueError, "Property %s cannot be None", [quoted(property)])
        }
        Refusal::ReferenceNotFound { property, name } => exception(
            Class::QubesPropertyValueError,
            "Can't set %s to non-existing qube %s",
            [property.to_owned(), name.to_string()],
        ),
        Refusal::TemplateWhileRunning { .. } => {
            plain(Class::QubesVMNotHaltedError, "Cannot change template while qube is running")
        }
        Refusal::TemplateWhileDisposablesRun { disposables, .. } => exception(
            Class::QubesVMInUseError,
            "Cannot change template while disposables based on the qube run%s",
            [after_colon(names(&mut disposables.iter()))],
        ),
        Refusal::PropertyWhileRunning { property, .. } => exception(
            Class::QubesVMNotHaltedError,
            "Cannot change %s while qube is running",
            [property.to_owned()],
        ),
        Refusal::ProvidesNoNetwork { netvm } => {
            exception(Class::QubesValueError, "The %s qube does not provide network", [netvm.to_string()])
        }
        Refusal::NetworkLoop => plain(Class::QubesValueError, "Loops in network are unsupported"),
        Refusal::DefaultNetworkLoop { vm } if sees(&vm) => {
            exception(Class::QubesPropertyValueError, "Network loop on %s", [quoted(vm.as_str())])
        }
        Refusal::DefaultNetworkLoop { vm: _ } => plain(Class::QubesPropertyValueError, "Network loop"),
        Refusal::NetvmHalted { netvm } => exception(
            Class::QubesVMNotStartedError,
            "Cannot dynamically attach to stopped qube %s",
            [netvm.to_string()],
        ),
        Refusal::NetworkStillUsed { by } => exception(
            Class::QubesValueError,
            "The qube is still used by other qubes, change theirs 'netvm' first%s",
            [after_colon(names(&mut by.iter()))],
        ),
        Refusal::NotForDisposables { property, of, target } => {
            let of = match of {
                Owner::System => "system".to_owned(),
                Owner::Vm(vm) => format!("qube {}", quoted(vm.as_str())),
            };
            exception(
                Class::QubesPropertyValueError,
                "Cannot set invalid property to %s, %s %s has template_for_dispvms set to False",
                [of, property.to_owned(), quoted(target.as_str())],
            )
        }
        Refusal::DisposableTemplateOfSystem { properties } => exception(
            Class::QubesVMInUseError,
            "Cannot change template_for_dispvms to False while it is in use by the system by any of these \
             properties: %s",
            [properties.join(", ")],
        ),
        Refusal::DisposableTemplateOfVms { by } => exception(
            Class::QubesVMInUseError,
            "Cannot change template_for_dispvms to False while it is the disposable template of a qube by any of \
             these properties: default_dispvm, management_dispvm, template%s",
            [after_colon(users(&by, sees))],
        ),
        Refusal::KernelNotInstalled { kernel } => {
            exception(Class::QubesPropertyValueError, "Kernel %s not installed", [quoted(&kernel)])
        }
        Refusal::KernelWithoutImage { kernel } => exception(
            Class::QubesPropertyValueError,
            "Kernel %s not properly installed: missing 'vmlinuz' file",
            [quoted(&kernel)],
        ),
        Refusal::NoSuchPool { .. } => plain(Class::QubesPropertyValueError, "No such storage pool"),
        Refusal::PoolOfVolumes { pool } => exception(
            Class::QubesPropertyValueError,
            "Storage pool %s holds volumes of qubes, not kernels",
            [quoted(pool.as_str())],
        ),
        Refusal::PoolOfKernels { pool } => exception(
            Class::QubesPropertyValueError,
            "Storage pool %s holds kernels, not volumes of qubes",
            [quoted(pool.as_str())],
        ),

        Refusal::AttachToHalted { .. } => plain(
            Class::QubesVMNotRunningError,
            "VM not running, cannot attach device, do you mean `assign`?",
        ),
        Refusal::UnknownDevice { class, why } => {
            exception(Class::ProtocolError, "Cannot attach ambiguous %s device. %s", [class.to_owned(), why])
        }
        Refusal::DeviceAlreadyAttached { class, device, vm } => exception(
            Class::DeviceAlreadyAttached,
            "'device %s of class %s already attached to %s'",
            [device, class.to_owned(), vm.to_string()],
        ),
        Refusal::DeviceAttachedElsewhere { device, vm } => {
            let holder = if sees(&vm) { vm.to_string() } else { "another qube".to_owned() };
            exception(Class::DeviceAlreadyAttached, "'Device %s already attached to %s'", [device, holder])
        }
        Refusal::DeviceNotAttached { class, port, vm } => exception(
            Class::DeviceNotAssigned,
            "'%s device %s not attached to %s'",
            [class.to_owned(), port, vm.to_string()],
        ),
        Refusal::BackendHalted { backend } => exception(
            Class::QubesVMNotRunningError,
            "Domain %s needs to be running to attach device from it",
            [backend.to_string()],
        ),
        Refusal::DeviceOption { text } => plain(Class::QubesValueError, &text),
        Refusal::NoDevices { .. } => plain(Class::QubesException, "This qube doesn't support devices"),
    };
    made.into()
}

/// What follows a sentence, if there is anything.
fn after_colon(names: String) -> String {
    if names.is_empty() { names } else { format!(": {names}") }
}

fn no_lifecycle(vm: &VmName, class: VmClass, verb: Verb) -> Exception {
    let word = match verb {
        Verb::Start => "start",
        Verb::Kill => "kill",
        Verb::Suspend => "suspend",
        Verb::Shutdown | Verb::Pause | Verb::Unpause => {
            return Exception::new(
                Class::QubesVMError,
                "Not possible for a VM of class %s: %s",
                [class.to_string(), quoted(vm.as_str())],
            );
        }
    };
    let text = match class {
        VmClass::AdminVm => format!("Cannot {word} Dom0 fake domain!"),
        VmClass::RemoteVm
        | VmClass::AppVm
        | VmClass::DispVm
        | VmClass::StandaloneVm
        | VmClass::TemplateVm => {
            format!("Cannot {word} a {class}.")
        }
    };
    let class = if verb == Verb::Start { Class::QubesVMNotHaltedError } else { Class::QubesVMError };
    Exception::plain(class, text)
}

/// `work (template), mail (netvm), system (default_netvm)`, those that the caller sees.
fn users<'a>(by: impl IntoIterator<Item = &'a User>, sees: Sees<'_>) -> String {
    let mut words = Vec::new();
    for user in by {
        match &user.owner {
            Owner::System => words.push(format!("system ({})", user.property)),
            Owner::Vm(vm) if sees(vm) => words.push(format!("{vm} ({})", user.property)),
            Owner::Vm(_) => {}
        }
    }
    words.join(", ")
}

#[cfg(test)]
mod tests;
