//! What is known of a VM's current run.

use std::time::UNIX_EPOCH;

use super::super::value::{Type, Value};
use super::row::{FIXED, Row, Source};

pub(super) static XID: Row = Row {
    name: "xid",
    kind: Type::Int,
    source: Source::Computed(|snapshot, vm| {
        let domid = snapshot.run(vm.uuid).and_then(|run| run.domid);
        Some(Value::Int(domid.map_or(-1, |domid| i64::from(domid.get()))))
    }),
    help: "The number of the VM's Xen domain; -1 while it has none.",
    ..FIXED
};

pub(super) static STUBDOM_XID: Row = Row {
    name: "stubdom_xid",
    kind: Type::Int,
    source: Source::Computed(|snapshot, vm| {
        let stubdom = snapshot.run(vm.uuid).and_then(|run| run.stubdom);
        Some(Value::Int(stubdom.map_or(-1, |(domid, _)| i64::from(domid.get()))))
    }),
    help: "The number of the Xen domain that emulates the VM's devices; -1 while there is none.",
    ..FIXED
};

pub(super) static STUBDOM_UUID: Row = Row {
    name: "stubdom_uuid",
    source: Source::Computed(|snapshot, vm| {
        let stubdom = snapshot.run(vm.uuid).and_then(|run| run.stubdom);
        Some(Value::text(stubdom.map_or(String::new(), |(_, uuid)| uuid.to_string())))
    }),
    help: "The identity of the Xen domain that emulates the VM's devices; empty while there is none.",
    ..FIXED
};

pub(super) static START_TIME: Row = Row {
    name: "start_time",
    source: Source::Computed(|snapshot, vm| {
        let started = snapshot.run(vm.uuid).and_then(|run| run.started_at)?;
        let seconds = started.duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
        Some(Value::text(format!("{seconds:?}")))
    }),
    help: "When the VM was started, in seconds since 1970; empty while it is halted.",
    ..FIXED
};
