//! What is known of a VM's current run.

use std::time::UNIX_EPOCH;

use super::super::value::{Type, Value};
use super::row::{CloneRule, ROW, Row, Source};

pub(super) static XID: Row = Row {
    name: "xid",
    kind: Type::Int,
    clone: CloneRule::Own,
    source: Source::Computed(|snapshot, vm| {
        let domid = snapshot.run(vm.uuid).and_then(|run| run.domid);
        Some(Value::Int(domid.map_or(-1, |domid| i64::from(domid.get()))))
    }),
    help: "Xen ID. Or not Xen, but ID.",
    ..ROW
};

pub(super) static STUBDOM_XID: Row = Row {
    name: "stubdom_xid",
    kind: Type::Int,
    clone: CloneRule::Own,
    source: Source::Computed(|snapshot, vm| {
        let stubdom = snapshot.run(vm.uuid).and_then(|run| run.stubdom);
        Some(Value::Int(stubdom.map_or(-1, |(domid, _)| i64::from(domid.get()))))
    }),
    help: "Xen ID of the stub domain, -1 when there is none.",
    ..ROW
};

pub(super) static STUBDOM_UUID: Row = Row {
    name: "stubdom_uuid",
    clone: CloneRule::Own,
    source: Source::Computed(|snapshot, vm| {
        let stubdom = snapshot.run(vm.uuid).and_then(|run| run.stubdom);
        Some(Value::text(stubdom.map_or(String::new(), |(_, uuid)| uuid.to_string())))
    }),
    help: "UUID of the stub domain, empty when there is none.",
    ..ROW
};

pub(super) static START_TIME: Row = Row {
    name: "start_time",
    clone: CloneRule::Own,
    source: Source::Computed(|snapshot, vm| {
        let started = snapshot.run(vm.uuid).and_then(|run| run.started_at)?;
        let seconds = started.duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
        Some(Value::text(format!("{seconds:?}")))
    }),
    help: "Tell when machine was started, in seconds since the epoch.",
    ..ROW
};
