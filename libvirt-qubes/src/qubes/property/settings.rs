//! Settings that stand for themselves.

use super::super::class::VmClass;
use super::super::global::Global;
use super::super::refusal::{Refusal, ValueRule};
use super::super::value::{Type, Value};
use super::parse::python_repr;
use super::resources::{MOST_SECONDS, positive, refuse};
use super::row::{
    ALL, CloneRule, Fallback, Inherit, LOCAL, NONE, PLAIN, ROW, Row, Rules, Source, TakesEffect,
};
use super::{Property, of_template};

pub(super) const OFF: Rules = Rules { default: Fallback::To(|_, _| Some(Value::Bool(false))), ..PLAIN };

pub(super) static AUTOSTART: Row = Row {
    name: "autostart",
    kind: Type::Bool,
    source: Source::Stored(OFF),
    default: "False",
    help: "Whether the VM is to be started together with the host.",
    ..ROW
};

pub(super) static DEBUG: Row = Row {
    name: "debug",
    kind: Type::Bool,
    takes_effect: TakesEffect::NextStart,
    source: Source::Stored(OFF),
    default: "False",
    help: "Whether the VM runs with what helps to find faults in it: a visible console, more output.",
    ..ROW
};

pub(super) static INSTALLED_BY_RPM: Row = Row {
    name: "installed_by_rpm",
    kind: Type::Bool,
    clone: CloneRule::Own,
    source: Source::Stored(OFF),
    default: "False",
    help: "Whether the package manager installed the VM. While it is so, the VM cannot be removed.",
    ..ROW
};

pub(super) static INCLUDE_IN_BACKUPS: Row = Row {
    name: "include_in_backups",
    kind: Type::Bool,
    classes: ALL,
    source: Source::Stored(Rules {
        default: Fallback::To(|_, vm| {
            Some(Value::Bool(match vm.class {
                VmClass::DispVm => vm.flag(Property::AutoCleanup) != Some(true),
                VmClass::RemoteVm => false,
                VmClass::AdminVm | VmClass::AppVm | VmClass::StandaloneVm | VmClass::TemplateVm => true,
            }))
        }),
        ..PLAIN
    }),
    default: "True; of a RemoteVM False; of a disposable the opposite of ``auto_cleanup``",
    help: "Whether a backup that names no VMs takes this one.",
    ..ROW
};

pub(super) static BACKUP_TIMESTAMP: Row = Row {
    name: "backup_timestamp",
    kind: Type::Int,
    source: Source::Stored(Rules { default: NONE, ..PLAIN }),
    help: "When the VM was last backed up, in seconds since 1970.",
    ..ROW
};

pub(super) static DEFAULT_USER: Row = Row {
    name: "default_user",
    takes_effect: TakesEffect::NextStart,
    source: Source::Stored(Rules {
        canonical: |value| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-+,.".contains(&b);
            match value.as_str() {
                Some(text) if !text.bytes().all(allowed) => {
                    let text = "Username can contain only those characters: \
                                abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+,.";
                    Err(refuse(Property::DefaultUser, text))
                }
                Some(_) | None => Ok(value),
            }
        },
        default: Fallback::To(|snapshot, vm| {
            Some(of_template(snapshot, vm, Property::DefaultUser).unwrap_or_else(|| Value::text("user")))
        }),
        inherit: Inherit::FromTemplate,
        ..PLAIN
    }),
    default: "the template's, else ``user``",
    help: "The user as whom programs are started in the VM.",
    ..ROW
};

pub(super) static QREXEC_TIMEOUT: Row = Row {
    name: "qrexec_timeout",
    kind: Type::Int,
    source: Source::Stored(Rules {
        canonical: |value| positive("qrexec_timeout", MOST_SECONDS, value),
        default: Fallback::To(|snapshot, vm| {
            of_template(snapshot, vm, Property::QrexecTimeout)
                .or_else(|| snapshot.model.global_int(Global::DefaultQrexecTimeout).map(Value::Int))
        }),
        inherit: Inherit::FromTemplate,
        ..PLAIN
    }),
    default: "the template's, else the global ``default_qrexec_timeout``",
    help: "How long a start waits for the guest's qrexec agent, in seconds.",
    ..ROW
};

pub(super) static SHUTDOWN_TIMEOUT: Row = Row {
    name: "shutdown_timeout",
    kind: Type::Int,
    source: Source::Stored(Rules {
        canonical: |value| positive("shutdown_timeout", MOST_SECONDS, value),
        default: Fallback::To(|snapshot, vm| {
            of_template(snapshot, vm, Property::ShutdownTimeout)
                .or_else(|| snapshot.model.global_int(Global::DefaultShutdownTimeout).map(Value::Int))
        }),
        inherit: Inherit::FromTemplate,
        ..PLAIN
    }),
    default: "the template's, else the global ``default_shutdown_timeout``",
    help: "How long a shutdown that is waited for may take, in seconds.",
    ..ROW
};

/// The length of one code in `devices_denied`.
const CODE: usize = 7;

pub(super) static DEVICES_DENIED: Row = Row {
    name: "devices_denied",
    classes: LOCAL,
    source: Source::Stored(Rules {
        canonical: |value| match value.as_str() {
            Some(text) => denied(text).map(Value::text),
            None => Ok(value),
        },
        default: Fallback::To(|_, _| Some(Value::text(""))),
        ..PLAIN
    }),
    default: "empty",
    help: "Interfaces of devices that must not be attached to the VM by hand: codes of seven characters without \
           anything between them, each one of ``b`` (block), ``u`` (USB), ``m`` (microphone), ``p`` (PCI), \
           ``*`` (any) followed by six hexadecimal digits or ``*``.",
    ..ROW
};

/// The codes sorted, each once.
fn denied(text: &str) -> Result<String, Refusal> {
    if !text.len().is_multiple_of(CODE) {
        let shown = python_repr(text);
        let words = format!(
            "Invalid length of interfaces={shown} (is {}, expected multiple of {CODE})",
            text.chars().count()
        );
        return Err(Refusal::value(Property::DevicesDenied, ValueRule::Type, words));
    }
    let digit = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'*');
    let code = |code: &&str| {
        code.as_bytes().split_first().is_some_and(|(c, rest)| b"bump*".contains(c) && rest.iter().all(digit))
    };
    let mut codes = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let split = rest.split_at_checked(CODE).filter(|(first, _)| code(first));
        let Some((first, others)) = split else {
            let words = "Interface code list should be in the form chhhhhhchhhhhh...,where c is one of \"b\", \
                         \"u\", \"m\", \"p\", \"*\" and h is a hexdigit or \"*\".";
            return Err(refuse(Property::DevicesDenied, words));
        };
        codes.push(first);
        rest = others;
    }
    codes.sort_unstable();
    codes.dedup();
    Ok(codes.concat())
}
