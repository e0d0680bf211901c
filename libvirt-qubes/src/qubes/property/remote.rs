//! How VMs on other machines are reached.

use super::super::class::VmClass;
use super::super::value::{Type, Value};
use super::Property;
use super::desktop::retagged;
use super::row::{Fallback, NONE, PLAIN, ROW, Row, Rules, Source, Stage};

pub(super) static RELAYVM: Row = Row {
    name: "relayvm",
    kind: Type::Vm,
    classes: &[VmClass::RemoteVm],
    stage: Stage::Late,
    source: Source::Stored(Rules {
        default: Fallback::To(|_, _| Some(Value::Vm(None))),
        effects: |snapshot, vm, _, new| {
            retagged(&snapshot.model, vm, Property::Relayvm, new.and_then(Value::as_vm))
        },
        ..PLAIN
    }),
    default: "none",
    help: "The VM on this host through which the remote one is reached. The tag ``relayvm-NAME`` follows it.",
    ..ROW
};

pub(super) static TRANSPORT_RPC: Row = Row {
    name: "transport_rpc",
    classes: &[VmClass::RemoteVm],
    source: Source::Stored(Rules { default: NONE, ..PLAIN }),
    default: "none",
    help: "The service of ``relayvm`` that passes calls on to the other machine.",
    ..ROW
};

pub(super) static REMOTE_NAME: Row = Row {
    name: "remote_name",
    classes: &[VmClass::RemoteVm],
    source: Source::Stored(Rules { default: NONE, ..PLAIN }),
    default: "none",
    help: "The VM's name on the other machine, where it is not the same as here.",
    ..ROW
};
