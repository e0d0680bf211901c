//! Errors of the lower layer: their classes, and how much is told of them.

use libvirt_qubes::ids::VmName;
use libvirt_qubes::{Error, Kind, Op};

use super::Causes;
use crate::failure::Failure;
use crate::wire::exception::quoted;
use crate::wire::{Class, Exception};

/// An error outside any operation on a VM.
pub(super) fn failed(error: &Error, causes: Causes) -> Failure {
    match class_of(error) {
        Some(class) => Exception::plain(class, words(error, causes)).into(),
        None => Failure::internal(error.clone()),
    }
}

/// A step of a Start failed: which, on what, and the telling line of what is below.
pub(super) fn step_failed(vm: &VmName, step: &str, error: &Error, causes: Causes) -> Failure {
    let Some(class) = class_of(error) else {
        return Failure::internal(error.clone());
    };
    if class == Class::QubesMemoryError {
        let fields = [quoted(vm.as_str()), words(error, causes)];
        return Exception::new(class, "Not enough memory to start domain %s: %s", fields).into();
    }
    let fields = [step.to_owned(), quoted(vm.as_str()), words(error, causes)];
    Exception::new(class, "Start failed: step '%s' of %s: %s", fields).into()
}

pub(super) fn words(error: &Error, causes: Causes) -> String {
    match causes {
        Causes::Told => error.report(),
        Causes::Hidden => error.to_string(),
    }
}

/// The class of an error of the lower layer; `None` where it is a matter of the daemon alone.
fn class_of(error: &Error) -> Option<Class> {
    match error.op() {
        Op::Store => match error.kind() {
            Kind::NoSpace | Kind::Denied | Kind::Busy | Kind::Cancelled | Kind::Unavailable => {
                Some(Class::QubesException)
            }
            Kind::NotFound
            | Kind::AlreadyExists
            | Kind::Invalid
            | Kind::Unsupported
            | Kind::NoMemory
            | Kind::TimedOut
            | Kind::Io
            | Kind::Corrupt
            | Kind::Backend => None,
        },
        Op::SetupPool
        | Op::RemovePool
        | Op::CreateVolume
        | Op::RemoveVolume
        | Op::VerifyVolume
        | Op::StartVolume
        | Op::StopVolume
        | Op::EncryptVolume
        | Op::ImportVolume
        | Op::ExportVolume
        | Op::ResizeVolume
        | Op::RevertVolume
        | Op::InspectStorage
        | Op::ReadKernel => Some(Class::StoragePoolException),
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
        | Op::Xenstore
        | Op::Recover
        | Op::CallService
        | Op::LoopDevice => Some(match error.kind() {
            Kind::NoMemory => Class::QubesMemoryError,
            Kind::TimedOut if error.op() == Op::ShutdownDomain => Class::QubesVMShutdownTimeoutError,
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
            | Kind::Backend => Class::QubesException,
        }),
    }
}
