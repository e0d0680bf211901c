//! What clients are told.

use std::collections::BTreeSet;

use libvirt_qubes::{Error, Kind};

use super::*;

fn told(refusal: Refusal, sees: &[&str]) -> (String, String) {
    let sees = |vm: &VmName| sees.contains(&vm.as_str());
    match failure(refusal.into(), Reader { causes: Causes::Hidden, sees: &sees }) {
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
            Refusal::PropertyValue { property: "memory", rule: ValueRule::Type, text: "100% wrong".into() },
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
        (
            Refusal::NotForClass { vm: w(), class: VmClass::RemoteVm },
            "QubesVMError",
            "Not possible for a VM of class RemoteVM: 'work'",
        ),
        (
            Refusal::FirewallDamaged { vm: w(), reason: "rule 3: unknown option".into() },
            "QubesVMError",
            "The stored firewall rules of 'work' are damaged, and everything is dropped: rule 3: unknown option; \
             set new ones, or see `mgmtd doctor`",
        ),
        (Refusal::NoSuchFirewallRule { id: "7".into() }, "QubesValueError", "No such firewall rule: 7"),
        (
            Refusal::TooManyFirewallRules { most: 10_000 },
            "QubesException",
            "limit reached: firewall_rules = 10000",
        ),
        (
            Refusal::NotesDamaged { reason: "100%".into() },
            "QubesException",
            "Failed to read notes file: 100%",
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
    assert_eq!(told(refusal(), &["b"]).1, format!("{in_use}; used by b (netvm)"));
    let elsewhere = || Refusal::DeviceAttachedElsewhere { device: "d".into(), vm: vm("a") };
    assert_eq!(told(elsewhere(), &["a"]).1, "'Device d already attached to a'");
    assert_eq!(told(elsewhere(), &[]).1, "'Device d already attached to another qube'");
}

#[test]
fn causes_are_for_dom0_and_errors_of_the_store_for_the_log() {
    let error = |op| Error::new(Kind::NoSpace, op, "work").because("/srv/pool is full");
    let everybody = |_: &VmName| true;
    let tell = |causes, error: HostError| match failure(error, Reader { causes, sees: &everybody }) {
        Failure::Exception(exception) => exception.to_string(),
        other @ (Failure::Absent(_) | Failure::Denied | Failure::Internal(_)) => format!("{other:?}"),
    };
    let step = |op| HostError::Step { vm: vm("work"), step: "private volume".to_owned(), error: error(op) };
    assert_eq!(
        tell(Causes::Told, step(Op::StartVolume)),
        "StoragePoolException: Start failed: step 'private volume' of 'work': start volume work: no space left: \
         /srv/pool is full"
    );
    assert_eq!(
        tell(Causes::Hidden, error(Op::CreateDomain).into()),
        "QubesException: create domain work: no space left"
    );
    let memory = HostError::Step {
        vm: vm("work"),
        step: "build the domain".to_owned(),
        error: Error::new(Kind::NoMemory, Op::CreateDomain, "work"),
    };
    assert!(
        tell(Causes::Told, memory)
            .starts_with("QubesMemoryError: Not enough memory to start domain 'work': ")
    );
    let full = |op| HostError::from(Error::new(Kind::Io, op, "state.db").because("Input/output error"));
    let unsaved = |causes, op| match unsaved(
        full(op),
        "firewall save error: %s",
        Reader { causes, sees: &everybody },
    ) {
        Failure::Exception(exception) => exception.to_string(),
        other @ (Failure::Absent(_) | Failure::Denied | Failure::Internal(_)) => format!("{other:?}"),
    };
    assert_eq!(
        unsaved(Causes::Told, Op::Store),
        "QubesException: firewall save error: access store state.db: input/output error: Input/output error"
    );
    assert!(!unsaved(Causes::Hidden, Op::Store).contains("Input/output"));
    assert!(!unsaved(Causes::Told, Op::SetupPool).contains("save error"));
    let corrupt = Error::new(Kind::Corrupt, Op::Store, "mgmtd.db");
    assert!(tell(Causes::Told, corrupt.into()).starts_with("Internal("));
    assert_eq!(
        tell(Causes::Told, HostError::Limit { name: "operations_per_vm", value: 16 }),
        "QubesException: limit reached: operations_per_vm = 16"
    );
}
