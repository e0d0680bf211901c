//! What clients are told when the library refuses or fails: class, format and fields.
//!
//! The one place where the library's enums become exceptions. No `_` arm: a new reason does not compile until
//! somebody decides what clients see of it. Of VMs that an error speaks of besides those of the call itself,
//! it names those that the source may see, and does not count the others.

use std::collections::BTreeSet;

use libvirt_qubes::ids::VmName;
use libvirt_qubes::qubes::class::VmClass;
use libvirt_qubes::qubes::refusal::{HostError, Owner, Refusal, User, ValueRule, Verb};
use libvirt_qubes::{Error, Kind, Op};

use crate::failure::{Failure, chain, limit_reached};
use crate::wire::exception::quoted;
use crate::wire::{Class, Exception};

/// To whom a failure is told.
pub struct Reader<'a> {
    /// Whether it is dom0, who may read everything.
    pub is_dom0: bool,
    /// Which VMs it may see.
    pub sees: &'a dyn Fn(&VmName) -> bool,
}

fn plain(class: Class, message: impl Into<String>) -> Failure {
    Exception::plain(class, message).into()
}

fn with<F: Into<String>>(class: Class, format: &'static str, fields: impl IntoIterator<Item = F>) -> Failure {
    Exception::new(class, format, fields).into()
}

/// About a VM of the call itself.
fn about(class: Class, format: &'static str, vm: &VmName) -> Failure {
    with(class, format, [vm.as_str()])
}

impl Reader<'_> {
    /// What this reader is told of a failed operation.
    pub fn failure(&self, error: HostError) -> Failure {
        match error {
            HostError::Refused(refusal) => self.refused(refusal),
            HostError::Failed(error) => self.failed(error),
            HostError::Step { vm, step, error } => self.step(&vm, step, error),
            HostError::Limit { name, value } => limit_reached(name, value).into(),
            HostError::Bug => Failure::internal("a change of the model panicked"),
        }
    }

    /// What this reader is told of the lower layer's error.
    pub fn failed(&self, error: Error) -> Failure {
        match fate(&error) {
            Fate::Internal => Failure::internal(error),
            Fate::Told(class @ Class::QubesMemoryError) => {
                let fields = [error.target().to_owned(), self.words(&error)];
                with(class, "Not enough memory to start domain '%s': %s", fields)
            }
            Fate::Told(class) => with(class, "%s", [self.words(&error)]),
        }
    }

    fn step(&self, vm: &VmName, step: &'static str, error: Error) -> Failure {
        match fate(&error) {
            Fate::Internal => Failure::internal(error),
            Fate::Told(class @ Class::QubesMemoryError) => {
                let fields = [vm.as_str().to_owned(), self.words(&error)];
                with(class, "Not enough memory to start domain '%s': %s", fields)
            }
            Fate::Told(class) => {
                let fields = [step.to_owned(), vm.as_str().to_owned(), self.words(&error)];
                with(class, "Start failed: %s of '%s': %s", fields)
            }
        }
    }

    /// dom0 reads the causes too; they can name files of dom0.
    fn words(&self, error: &Error) -> String {
        if self.is_dom0 { chain(error) } else { error.to_string() }
    }

    /// Those names that the reader may see, in order.
    fn visible<'n>(&self, names: impl IntoIterator<Item = &'n VmName>) -> String {
        let names: Vec<&str> =
            names.into_iter().filter(|name| (self.sees)(name)).map(VmName::as_str).collect();
        names.join(", ")
    }

    /// A sentence, and after it the names that the reader may see.
    fn naming(&self, class: Class, sentence: &'static str, names: &BTreeSet<VmName>) -> Failure {
        match self.visible(names).as_str() {
            "" => plain(class, sentence),
            names => plain(class, format!("{sentence}: {names}")),
        }
    }

    fn users(&self, by: &BTreeSet<User>) -> String {
        let user = |user: &User| match &user.owner {
            Owner::System => Some(format!("{} of the system", user.property)),
            Owner::Vm(vm) => (self.sees)(vm).then(|| format!("{} of {vm}", user.property)),
        };
        by.iter().filter_map(user).collect::<Vec<_>>().join(", ")
    }

    /// What this reader is told of a refusal.
    pub fn refused(&self, refusal: Refusal) -> Failure {
        use Class as C;
        use Refusal as R;
        match refusal {
            R::NoSuchVm { name } => Failure::no_such_domain(name.as_str()),
            R::NoSuchUuid { uuid } => Failure::no_such_domain(&format!("uuid:{uuid}")),
            R::SetAside { name, reason } => {
                with(C::QubesVMError, "The stored data of %s is damaged: %s", [quoted(&name), reason])
            }
            R::VmExists { name } => about(C::QubesVMAlreadyExistsError, "Qube already exists: %s", &name),
            R::NoFreeQid => plain(C::QubesException, "No free qube id"),
            R::OperationPending { vm } => {
                about(C::QubesVMError, "Another operation on the domain is under way: '%s'", &vm)
            }
            R::ClassHasNoTemplate { class } => {
                with(C::ProtocolError, "%s cannot be based on template", [class.as_str()])
            }
            R::ClassNotCreatable { class } => {
                with(C::QubesPropertyValueError, "A qube of class %s cannot be created", [class.as_str()])
            }
            R::NoTemplate => {
                plain(C::QubesValueError, "Template for the qube not specified, nor default template set.")
            }
            R::WrongClass { vm, class, expected } => with(
                C::QubesPropertyValueError,
                "wrong VM class: domains['%s'] is of type %s and not %s",
                [vm.as_str(), class.as_str(), expected.as_str()],
            ),
            R::NotDisposableTemplate { template } => about(
                C::QubesValueError,
                "template for disposable (%s) needs to be an AppVM with template_for_dispvms=True",
                &template,
            ),
            R::TemplateNotDisposable { template: _ } => plain(
                C::QubesPropertyValueError,
                "template for disposable must have template_for_dispvms=True",
            ),
            R::NoSuchVolume { vm, volume: _ } => Failure::Absent(Exception::new(
                C::PermissionDenied,
                "Argument not in '%s volumes'",
                [vm.as_str()],
            )),
            R::LabelNotFound { label } => {
                with(C::QubesLabelNotFoundError, "Label does not exist: %s", [label])
            }
            R::LabelExists { label } | R::LabelInUse { label, by: _ } => {
                with(C::QubesLabelInUseError, "Label is still in use: '%s'", [label.as_str()])
            }
            R::LabelBuiltIn { label: _ } => plain(C::ProtocolError, "Can only remove custom labels"),
            R::PoolNotFound { pool: _ } => {
                Failure::Absent(Exception::plain(C::PermissionDenied, "Argument not in 'pools'"))
            }
            R::UnknownPool { pool } => {
                Failure::Absent(Exception::new(C::QubesException, "Unknown storage pool %s", [pool.as_str()]))
            }
            R::PoolExists { pool } => {
                with(C::QubesPoolInUseError, "Storage pool is in use: '%s'", [pool.as_str()])
            }
            R::PoolInUse { pool, volumes_of, defaults } if defaults.is_empty() => {
                match self.visible(&volumes_of) {
                    names if names.is_empty() => {
                        with(C::QubesPoolInUseError, "Storage pool is in use: '%s'", [pool.as_str()])
                    }
                    names => with(
                        C::QubesPoolInUseError,
                        "Storage pool is in use: '%s' by volumes of %s",
                        [pool.as_str(), &names],
                    ),
                }
            }
            R::PoolInUse { pool: _, volumes_of: _, defaults } => {
                with(C::QubesPoolInUseError, "Storage pool is in use: set as %s", [defaults.join(", ")])
            }
            R::SnapshotPool { volume, pool } => with(
                C::QubesException,
                // As deployed: no space after the comma, one at the end.
                "Snapshot volume %s must be in the same pool as its origin (%s volume of template),cannot move to \
                 pool %s ",
                [volume.as_str(), volume.as_str(), pool.as_str()],
            ),
            R::NoDefaultPool => plain(C::QubesException, "No pool was named, and there is no default pool"),
            R::VolumeNameTaken { pool, vid } => with(
                C::StoragePoolException,
                "Volume exists already: %s in pool '%s'",
                [quoted(&vid), pool.to_string()],
            ),
            R::RemoveDom0 => plain(C::QubesVMInUseError, "'dom0' cannot be removed"),
            R::InstalledByPackageManager { vm } => {
                about(C::QubesVMInUseError, "VM installed by package manager: %s", &vm)
            }
            R::InUse { vm, by } => match self.users(&by) {
                users if users.is_empty() => about(
                    C::QubesVMInUseError,
                    "Domain is in use: '%s';  see 'journalctl -u qubesd -e' in dom0 for details",
                    &vm,
                ),
                users => with(
                    C::QubesVMInUseError,
                    "Domain is in use: '%s';  see 'journalctl -u qubesd -e' in dom0 for details: it is %s",
                    [vm.as_str(), &users],
                ),
            },
            R::DevicesAssigned { vm: _, ports } => {
                with(C::QubesVMInUseError, "VM has devices assigned to other VMs: %s", [ports.join(", ")])
            }
            R::NotHalted { vm } => about(C::QubesVMNotHaltedError, "Domain is not powered off: '%s'", &vm),
            R::NotStarted { vm } => about(C::QubesVMNotStartedError, "Domain is powered off: '%s'", &vm),
            R::NotRunning { vm } => about(
                C::QubesVMNotRunningError,
                "Domain not running (either powered off or paused): '%s'",
                &vm,
            ),
            R::NotPaused { vm } => about(C::QubesVMNotPausedError, "Domain is not paused: '%s'", &vm),
            R::NoLifecycle { vm, class, verb } => no_lifecycle(&vm, class, verb),
            R::ClientsRunning { vm: _, clients } => {
                self.naming(C::QubesVMInUseError, "There are other VMs connected to this VM", &clients)
            }
            R::StartProhibited { vm: _, rationale } => {
                with(C::QubesException, "Qube start is prohibited. Rationale: %s", [rationale])
            }
            R::RestoreInProgress { vm: _ } => {
                plain(C::QubesVMError, "Restore of this domain in progress, cannot start")
            }
            R::NoKernel { vm } => about(
                C::QubesException,
                "Start failed: property 'kernel' of '%s' is empty, and this hypervisor boots no such VM without a \
                 kernel",
                &vm,
            ),
            R::NoSuchProperty { property, of } => with(
                C::QubesNoSuchPropertyError,
                "Invalid property %s of %s",
                [quoted(&property), owner(&of).to_owned()],
            ),
            R::PropertyReadOnly { property, class } => with(
                C::QubesPropertyValueError,
                "property '%s' on %s instance cannot be set",
                [property, class.map_or("Qubes", VmClass::as_str)],
            ),
            R::PropertyWriteOnce { property } => {
                with(C::QubesPropertyValueError, "Property '%s' cannot be changed", [property])
            }
            R::PropertyWithoutDefault { property } => {
                with(C::QubesPropertyValueError, "Property '%s' has no default", [property])
            }
            R::TemplateReset { default } => match default.filter(|vm| (self.sees)(vm)) {
                Some(default) => about(
                    C::QubesValueError,
                    "Cannot unset template. You can set it to the current default (%s) instead",
                    &default,
                ),
                None => plain(C::QubesValueError, "Cannot unset template."),
            },
            R::PropertyValue { property: _, rule, text } => match rule {
                ValueRule::Type => plain(C::QubesValueError, text),
                ValueRule::Property => plain(C::QubesPropertyValueError, text),
            },
            R::VmRequired { property } => {
                with(C::QubesPropertyValueError, "Property '%s' cannot be set to none", [property])
            }
            R::ReferenceNotFound { property, name } => with(
                C::QubesPropertyValueError,
                "Can't set %s to non-existing qube %s",
                [property, name.as_str()],
            ),
            R::TemplateWhileRunning { vm: _ } => {
                plain(C::QubesVMNotHaltedError, "Cannot change template while qube is running")
            }
            R::TemplateWhileDisposablesRun { vm: _, disposables } => self.naming(
                C::QubesVMNotHaltedError,
                "Cannot change template while there are running DispVMs based on this DVM template",
                &disposables,
            ),
            R::PropertyWhileRunning { vm, property } => with(
                C::QubesVMNotHaltedError,
                "Cannot change %s while qube is running: '%s'",
                [property, vm.as_str()],
            ),
            R::ProvidesNoNetwork { netvm } => {
                about(C::QubesValueError, "The %s qube does not provide network", &netvm)
            }
            R::NetworkLoop => plain(C::QubesValueError, "Loops in network are unsupported"),
            R::DefaultNetworkLoop { vm } if (self.sees)(&vm) => {
                about(C::QubesPropertyValueError, "Network loop on '%s'", &vm)
            }
            R::DefaultNetworkLoop { vm: _ } => plain(C::QubesPropertyValueError, "Network loop"),
            R::NetvmHalted { netvm } => {
                about(C::QubesVMNotStartedError, "Cannot dynamically attach to stopped qube %s", &netvm)
            }
            R::NetworkStillUsed { by } => self.naming(
                C::QubesValueError,
                "The qube is still used by other qubes, change theirs 'netvm' first",
                &by,
            ),
            R::NotForDisposables { property, of, target } => not_for_disposables(property, &of, &target),
            R::DisposableTemplateOfSystem { properties: _ } => plain(
                C::QubesVMInUseError,
                "Cannot change template_for_dispvms to False while it is in use by the system by any of these \
                 properties: default_dispvm, management_dispvm",
            ),
            R::DisposableTemplateOfVms { by } => {
                let sentence = "Cannot change template_for_dispvms to False while it is the disposable template of \
                                a qube by any of these properties: default_dispvm, management_dispvm, template";
                match self.users(&by) {
                    users if users.is_empty() => plain(C::QubesVMInUseError, sentence),
                    users => plain(C::QubesVMInUseError, format!("{sentence}: it is {users}")),
                }
            }
            R::KernelNotInstalled { kernel } => {
                with(C::QubesPropertyValueError, "Kernel %s not installed", [quoted(&kernel)])
            }
            R::KernelWithoutImage { kernel } => with(
                C::QubesPropertyValueError,
                "Kernel %s not properly installed: missing 'vmlinuz' file",
                [quoted(&kernel)],
            ),
            R::NoSuchPool { pool: _ } => plain(C::QubesPropertyValueError, "No such storage pool"),
            R::AttachToHalted { vm: _ } => plain(
                C::QubesVMNotRunningError,
                "VM not running, cannot attach device, do you mean `assign`?",
            ),
            R::UnknownDevice { class } => {
                with(C::ProtocolError, "Cannot attach ambiguous %s device.", [class])
            }
            R::DeviceAlreadyAttached { class, device, vm } => with(
                C::DeviceAlreadyAttached,
                "'device %s of class %s already attached to %s'",
                [&device, class, vm.as_str()],
            ),
            R::DeviceAttachedElsewhere { device, vm } => match (self.sees)(&vm) {
                true => with(
                    C::DeviceAlreadyAttached,
                    "'Device %s already attached to %s'",
                    [&device, vm.as_str()],
                ),
                false => with(C::DeviceAlreadyAttached, "'Device %s already attached'", [device]),
            },
            R::DeviceNotAttached { class, port, vm } => {
                with(C::DeviceNotAssigned, "'%s device %s not attached to %s'", [class, &port, vm.as_str()])
            }
            R::BackendHalted { backend } => about(
                C::QubesVMNotRunningError,
                "Domain %s needs to be running to attach device from it",
                &backend,
            ),
            R::DeviceOption { text } => plain(C::QubesValueError, text),
            R::NoDevices { class: _ } => plain(C::QubesException, "This qube doesn't support devices"),
        }
    }
}

fn owner(of: &Owner) -> &str {
    match of {
        Owner::System => "Qubes",
        Owner::Vm(vm) => vm.as_str(),
    }
}

fn no_lifecycle(vm: &VmName, class: VmClass, verb: Verb) -> Failure {
    let is_dom0 = class == VmClass::AdminVm;
    match (verb, is_dom0) {
        (Verb::Start, true) => plain(Class::QubesVMNotHaltedError, "Cannot start Dom0 fake domain!"),
        (Verb::Start, false) => plain(Class::QubesVMNotHaltedError, "Cannot start a RemoteVM."),
        (Verb::Kill, true) => plain(Class::QubesVMError, "Cannot kill Dom0 fake domain!"),
        (Verb::Kill, false) => plain(Class::QubesVMError, "Cannot kill a RemoteVM."),
        (Verb::Suspend, true) => plain(Class::QubesVMError, "Cannot suspend Dom0 fake domain!"),
        (Verb::Suspend, false) => plain(Class::QubesVMError, "Cannot suspend a RemoteVM."),
        (Verb::Shutdown | Verb::Pause | Verb::Unpause, true | false) => with(
            Class::QubesVMError,
            "Not possible for a VM of class %s: '%s'",
            [class.as_str(), vm.as_str()],
        ),
    }
}

fn not_for_disposables(property: &str, of: &Owner, target: &VmName) -> Failure {
    match of {
        Owner::System => with(
            Class::QubesPropertyValueError,
            "Cannot set invalid property to system, %s '%s' has template_for_dispvms set to False",
            [property, target.as_str()],
        ),
        Owner::Vm(vm) => with(
            Class::QubesPropertyValueError,
            "Cannot set invalid property to qube '%s', %s '%s' has template_for_dispvms set to False",
            [vm.as_str(), property, target.as_str()],
        ),
    }
}

/// What becomes of an error of the lower layer.
enum Fate {
    /// It is told, as an exception of this class.
    Told(Class),
    /// It is a matter of the daemon alone.
    Internal,
}

fn fate(error: &Error) -> Fate {
    match error.kind() {
        Kind::NoMemory => return Fate::Told(Class::QubesMemoryError),
        Kind::NotFound
        | Kind::AlreadyExists
        | Kind::Busy
        | Kind::Invalid
        | Kind::Unsupported
        | Kind::Denied
        | Kind::NoSpace
        | Kind::TimedOut
        | Kind::Cancelled
        | Kind::Unavailable
        | Kind::Io
        | Kind::Corrupt
        | Kind::Backend => {}
    }
    match error.op() {
        Op::SetupPool
        | Op::CreateVolume
        | Op::RemoveVolume
        | Op::VerifyVolume
        | Op::StartVolume
        | Op::StopVolume
        | Op::ImportVolume
        | Op::ExportVolume
        | Op::ResizeVolume
        | Op::RevertVolume
        | Op::InspectStorage
        | Op::Recover
        | Op::ReadKernel
        | Op::LoopDevice => Fate::Told(Class::StoragePoolException),
        Op::OpenHypervisor
        | Op::ListDomains
        | Op::CreateDomain
        | Op::PauseDomain
        | Op::UnpauseDomain
        | Op::ShutdownDomain
        | Op::DestroyDomain
        | Op::WatchDomain
        | Op::AttachDisk
        | Op::DetachDisk
        | Op::ListDevices
        | Op::HostInfo
        | Op::Xenstore => Fate::Told(Class::QubesException),
        Op::Store if error.kind() == Kind::NoSpace => Fate::Told(Class::QubesException),
        Op::Store => Fate::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(refusal: Refusal, sees: &[&str]) -> (String, String) {
        let sees = |vm: &VmName| sees.contains(&vm.as_str());
        let reader = Reader { is_dom0: false, sees: &sees };
        match reader.refused(refusal) {
            Failure::Exception(exception) | Failure::Absent(exception) => {
                (exception.class().to_owned(), exception.message())
            }
            Failure::Denied | Failure::Internal(_) => panic!("not told"),
        }
    }

    fn vm(name: &str) -> VmName {
        name.parse().unwrap()
    }

    #[test]
    fn refusals_have_the_words_of_the_document() {
        let w = || vm("work");
        for (refusal, class, message) in [
            (Refusal::NoSuchVm { name: w() }, "QubesVMNotFoundError", "No such domain: 'work'"),
            (Refusal::VmExists { name: w() }, "QubesVMAlreadyExistsError", "Qube already exists: work"),
            (Refusal::NotHalted { vm: w() }, "QubesVMNotHaltedError", "Domain is not powered off: 'work'"),
            (Refusal::NotStarted { vm: w() }, "QubesVMNotStartedError", "Domain is powered off: 'work'"),
            (
                Refusal::NotRunning { vm: w() },
                "QubesVMNotRunningError",
                "Domain not running (either powered off or paused): 'work'",
            ),
            (Refusal::NotPaused { vm: w() }, "QubesVMNotPausedError", "Domain is not paused: 'work'"),
            (
                Refusal::NoLifecycle { vm: vm("dom0"), class: VmClass::AdminVm, verb: Verb::Pause },
                "QubesVMError",
                "Not possible for a VM of class AdminVM: 'dom0'",
            ),
            (
                Refusal::NoLifecycle { vm: vm("dom0"), class: VmClass::AdminVm, verb: Verb::Start },
                "QubesVMNotHaltedError",
                "Cannot start Dom0 fake domain!",
            ),
            (Refusal::RemoveDom0, "QubesVMInUseError", "'dom0' cannot be removed"),
            (
                Refusal::ClassHasNoTemplate { class: VmClass::TemplateVm },
                "ProtocolError",
                "TemplateVM cannot be based on template",
            ),
            (
                Refusal::WrongClass { vm: w(), class: VmClass::AppVm, expected: VmClass::TemplateVm },
                "QubesPropertyValueError",
                "wrong VM class: domains['work'] is of type AppVM and not TemplateVM",
            ),
            (
                Refusal::NoSuchProperty { property: "it's".into(), of: Owner::Vm(w()) },
                "QubesNoSuchPropertyError",
                "Invalid property \"it's\" of work",
            ),
            (
                Refusal::NoSuchProperty { property: "p".into(), of: Owner::System },
                "QubesNoSuchPropertyError",
                "Invalid property 'p' of Qubes",
            ),
            (
                Refusal::PropertyReadOnly { property: "xid", class: Some(VmClass::AppVm) },
                "QubesPropertyValueError",
                "property 'xid' on AppVM instance cannot be set",
            ),
            (
                Refusal::PropertyValue {
                    property: "memory",
                    rule: ValueRule::Type,
                    text: "100% wrong".into(),
                },
                "QubesValueError",
                "100% wrong",
            ),
            (
                Refusal::SnapshotPool { volume: "root".parse().unwrap(), pool: "p".parse().unwrap() },
                "QubesException",
                "Snapshot volume root must be in the same pool as its origin (root volume of template),cannot \
                 move to pool p ",
            ),
            (
                Refusal::DeviceAlreadyAttached { class: "block", device: "a:b:c".into(), vm: w() },
                "DeviceAlreadyAttached",
                "'device a:b:c of class block already attached to work'",
            ),
            (Refusal::PoolNotFound { pool: "p".into() }, "PermissionDenied", "Argument not in 'pools'"),
        ] {
            assert_eq!(told(refusal, &[]), (class.to_owned(), message.to_owned()));
        }
    }

    #[test]
    fn only_vms_that_the_source_may_see_are_named_and_the_others_are_not_counted() {
        let clients: BTreeSet<_> = [vm("a"), vm("b"), vm("c")].into();
        let refusal = || Refusal::ClientsRunning { vm: vm("net"), clients: clients.clone() };
        let sentence = "There are other VMs connected to this VM";
        assert_eq!(told(refusal(), &["c", "a"]).1, format!("{sentence}: a, c"));
        assert_eq!(told(refusal(), &[]).1, sentence);
        let by = |owner| User { owner, property: "netvm" };
        let users = || [by(Owner::Vm(vm("a"))), by(Owner::Vm(vm("b")))].into();
        let in_use = "Domain is in use: 'net';  see 'journalctl -u qubesd -e' in dom0 for details";
        let refusal = || Refusal::InUse { vm: vm("net"), by: users() };
        assert_eq!(told(refusal(), &[]).1, in_use);
        assert_eq!(told(refusal(), &["b"]).1, format!("{in_use}: it is netvm of b"));
        let elsewhere = || Refusal::DeviceAttachedElsewhere { device: "d".into(), vm: vm("a") };
        assert_eq!(told(elsewhere(), &["a"]).1, "'Device d already attached to a'");
        assert_eq!(told(elsewhere(), &[]).1, "'Device d already attached'");
    }

    #[test]
    fn causes_are_for_dom0_and_errors_of_the_store_for_the_log() {
        let error = |op| Error::new(Kind::NoSpace, op, "work").because("/srv/pool is full");
        let everybody = |_: &VmName| true;
        let tell = |is_dom0, error: HostError| match (Reader { is_dom0, sees: &everybody }).failure(error) {
            Failure::Exception(exception) => exception.to_string(),
            other @ (Failure::Absent(_) | Failure::Denied | Failure::Internal(_)) => format!("{other:?}"),
        };
        let step = |op| HostError::Step { vm: vm("work"), step: "private volume", error: error(op) };
        assert_eq!(
            tell(true, step(Op::StartVolume)),
            "StoragePoolException: Start failed: private volume of 'work': start volume work: no space left: \
             /srv/pool is full"
        );
        assert_eq!(
            tell(false, error(Op::CreateDomain).into()),
            "QubesException: create domain work: no space left"
        );
        let memory = Error::new(Kind::NoMemory, Op::CreateDomain, "work");
        assert!(
            tell(true, memory.into())
                .starts_with("QubesMemoryError: Not enough memory to start domain 'work': ")
        );
        let corrupt = Error::new(Kind::Corrupt, Op::Store, "mgmtd.db");
        assert!(tell(true, corrupt.into()).starts_with("Internal("));
        assert_eq!(
            tell(true, HostError::Limit { name: "operations_per_vm", value: 16 }),
            "QubesException: limit reached: operations_per_vm = 16"
        );
    }
}
