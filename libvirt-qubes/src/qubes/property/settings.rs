//! Settings that stand for themselves.

use super::super::class::VmClass;
use super::super::global::Global;
use super::super::value::{Type, Value};
use super::resources::{positive, refuse};
use super::row::{ALL, CloneRule, Inherit, PLAIN, ROW, Row, Rules, Source};
use super::{Property, of_template};

const OFF: Rules = Rules { default: |_, _| Some(Value::Bool(false)), ..PLAIN };

/// As long as a time-out may be, in seconds: a month.
const MOST_SECONDS: i64 = 31 * 24 * 3600;

pub(super) static AUTOSTART: Row = Row {
    name: "autostart",
    kind: Type::Bool,
    source: Source::Stored(OFF),
    help: "Should this qube be started together with the host.",
    ..ROW
};

pub(super) static DEBUG: Row = Row {
    name: "debug",
    kind: Type::Bool,
    source: Source::Stored(OFF),
    help: "Turns on debugging features.",
    ..ROW
};

pub(super) static INSTALLED_BY_RPM: Row = Row {
    name: "installed_by_rpm",
    kind: Type::Bool,
    clone: CloneRule::Own,
    source: Source::Stored(OFF),
    help: "If this domain's image was installed from package tracked by package manager.",
    ..ROW
};

pub(super) static INCLUDE_IN_BACKUPS: Row = Row {
    name: "include_in_backups",
    kind: Type::Bool,
    classes: ALL,
    source: Source::Stored(Rules {
        default: |_, vm| {
            Some(Value::Bool(match vm.class {
                VmClass::DispVm => vm.flag(Property::AutoCleanup) != Some(true),
                VmClass::RemoteVm => false,
                VmClass::AdminVm | VmClass::AppVm | VmClass::StandaloneVm | VmClass::TemplateVm => true,
            }))
        },
        ..PLAIN
    }),
    help: "If this domain is to be included in default backup.",
    ..ROW
};

pub(super) static BACKUP_TIMESTAMP: Row = Row {
    name: "backup_timestamp",
    kind: Type::Int,
    source: Source::Stored(PLAIN),
    help: "Time of last backup of the qube, in seconds since the epoch.",
    ..ROW
};

pub(super) static DEFAULT_USER: Row = Row {
    name: "default_user",
    source: Source::Stored(Rules {
        canonical: |value| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-+,.".contains(&b);
            match value.as_str() {
                Some(text) if !text.bytes().all(allowed) => {
                    let text = "Username can contain only those characters: \
                                abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+,.";
                    Err(refuse(Property::DefaultUser, text.to_owned()))
                }
                Some(_) | None => Ok(value),
            }
        },
        default: |snapshot, vm| {
            Some(of_template(snapshot, vm, Property::DefaultUser).unwrap_or_else(|| Value::text("user")))
        },
        inherit: Inherit::FromTemplate,
        ..PLAIN
    }),
    help: "Default user to start applications as. The template's value where none is set.",
    ..ROW
};

pub(super) static QREXEC_TIMEOUT: Row = Row {
    name: "qrexec_timeout",
    kind: Type::Int,
    source: Source::Stored(Rules {
        canonical: |value| positive(Property::QrexecTimeout, MOST_SECONDS, value),
        default: |snapshot, vm| {
            of_template(snapshot, vm, Property::QrexecTimeout)
                .or_else(|| snapshot.model.global_int(Global::DefaultQrexecTimeout).map(Value::Int))
        },
        inherit: Inherit::FromTemplate,
        ..PLAIN
    }),
    help: "Time in seconds after which qrexec connection attempt is deemed failed. The operating system inside \
           VM should be able to boot in this time.",
    ..ROW
};

pub(super) static SHUTDOWN_TIMEOUT: Row = Row {
    name: "shutdown_timeout",
    kind: Type::Int,
    source: Source::Stored(Rules {
        canonical: |value| positive(Property::ShutdownTimeout, MOST_SECONDS, value),
        default: |snapshot, vm| {
            of_template(snapshot, vm, Property::ShutdownTimeout)
                .or_else(|| snapshot.model.global_int(Global::DefaultShutdownTimeout).map(Value::Int))
        },
        inherit: Inherit::FromTemplate,
        ..PLAIN
    }),
    help: "Time in seconds for shutdown of the VM, after which VM may be forcefully powered off. The operating \
           system inside VM should be able to fully shutdown in this time.",
    ..ROW
};
