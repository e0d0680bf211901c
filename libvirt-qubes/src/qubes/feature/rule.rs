//! What features are for, as far as it forbids names and values. The words are the deployed daemon's.

use std::borrow::Cow;
use std::net::Ipv4Addr;

use super::super::ids::{FeatureName, FeatureValue};
use super::super::property::Property;
use super::super::refusal::Refusal;
use super::super::snapshot::Snapshot;
use super::super::vm::Vm;

/// What the guest's store can hold of a service's name (its keys are shorter than 64 bytes).
const SERVICE_LENGTH: usize = 48;
/// The same for a name below `/vm-config/`.
const CONFIG_LENGTH: usize = 52;
/// The same for a name below `/persist/`.
const PERSIST_LENGTH: usize = 54;

/// The services of a guest that preloading its disposables needs.
const PRELOAD_SERVICES: [&str; 2] = ["qubes.WaitForRunningSystem", "qubes.WaitForSession"];

/// Judges a feature of a VM with its new value.
pub(super) fn check(
    snapshot: &Snapshot,
    vm: &Vm,
    name: &FeatureName,
    value: &FeatureValue,
) -> Result<(), Refusal> {
    let (name, value) = (name.as_str(), value.as_str());
    let broken = if let Some(service) = name.strip_prefix("service.") {
        service_name(service)
    } else if let Some(config) = name.strip_prefix("vm-config.") {
        config_name(config)
    } else if let Some(key) = name.strip_prefix("custom-persist.") {
        persist_name(key).or_else(|| persist_value(value))
    } else {
        match name {
            "preload-dispvm-max" => {
                unable_to_preload(snapshot, vm, value).or_else(|| unless_digits(name, value))
            }
            "preload-dispvm-threshold" => unless_digits(name, value),
            "preload-dispvm-delay" => unless_number(name, value),
            "net.fake-ip" | "net.fake-gateway" => unless_address(name, value),
            "net.fake-netmask" => unless_netmask(value),
            _ => None,
        }
    };
    broken.map_or(Ok(()), |text| Err(Refusal::FeatureRule { text }))
}

/// The broken rule, in words.
type Broken = Option<Cow<'static, str>>;

fn service_name(service: &str) -> Broken {
    match service {
        "" => Some("Service name cannot be empty".into()),
        "." | ".." => Some("Service name cannot be \".\" or \"..\"".into()),
        // Those have their own, hashed, place in the guest's store.
        long if long.len() > SERVICE_LENGTH && !long.starts_with("app-dispvm.") => {
            Some("Service name must not exceed 48 bytes".into())
        }
        _ => None,
    }
}

fn config_name(config: &str) -> Broken {
    let first = config.chars().next();
    match first {
        _ if config.len() > CONFIG_LENGTH => Some("VM config name must not exceed 46 bytes".into()),
        None => Some("Empty config name not allowed".into()),
        Some(first) if !first.is_ascii_alphabetic() => {
            Some("Config name must start with an ASCII letter".into())
        }
        Some(_) => None,
    }
}

fn persist_name(key: &str) -> Broken {
    if key.is_empty() {
        return Some("custom-persist key cannot be empty".into());
    }
    let long = key.len() > PERSIST_LENGTH;
    long.then(|| format!("custom-persist key is too long (max {PERSIST_LENGTH}), ignoring: {key}").into())
}

/// An absolute path, or `file|dir:owner:group:mode:/path`.
fn persist_value(value: &str) -> Broken {
    if value.starts_with('/') {
        return None;
    }
    let mut parts = value.splitn(5, ':');
    let mut part = || parts.next().unwrap_or_default();
    let (kind, _owner, _group, mode, path) = (part(), part(), part(), part(), part());
    if !path.starts_with('/') {
        return Some(format!("invalid value format: '{value}'").into());
    }
    if !matches!(kind, "file" | "dir") {
        return Some(format!("invalid resource type option '{kind}' in value '{value}'").into());
    }
    let digits = mode.strip_prefix("0o").unwrap_or(mode);
    let octal = !digits.is_empty() && digits.bytes().all(|b| matches!(b, b'0'..=b'7'));
    let fits = octal && u32::from_str_radix(digits, 8).is_ok_and(|mode| mode <= 0o7777);
    (!fits).then(|| format!("invalid mode option '{mode}' in value '{value}'").into())
}

/// Preloading needs services of the guest; dom0's number is for the VM that new disposables are based on.
fn unable_to_preload(snapshot: &Snapshot, vm: &Vm, value: &str) -> Broken {
    let model = &snapshot.model;
    let base = if vm.name.is_dom0() {
        let same = vm.feature("preload-dispvm-max") == Some(value);
        let default = model.global_vm(super::super::global::Global::DefaultDispvm);
        model.vm(default.filter(|_| !same)?)?.as_ref()
    } else if Property::TemplateForDispvms.applies_to(vm.class) {
        vm
    } else {
        return None;
    };
    let has =
        |feature: &str| model.feature_with_template(base, feature).is_some_and(|value| !value.is_empty());
    if !has("qrexec") {
        return Some("Qube does not support qrexec".into());
    }
    let missing: Vec<&str> =
        PRELOAD_SERVICES.into_iter().filter(|service| !has(&format!("supported-rpc.{service}"))).collect();
    (!missing.is_empty()).then(|| format!("Qube does not support the RPC(s) '{}'", missing.join(", ")).into())
}

fn unless_digits(name: &str, value: &str) -> Broken {
    (!value.bytes().all(|b| b.is_ascii_digit())).then(|| format!("Invalid {name} value: not a digit").into())
}

fn unless_number(name: &str, value: &str) -> Broken {
    let number = value.is_empty() || value.trim().parse::<f64>().is_ok();
    (!number).then(|| format!("Invalid {name} value: not an integer or float").into())
}

/// Empty is legal: the VM's own address is shown, whatever its template says.
fn unless_address(name: &str, value: &str) -> Broken {
    let address = value.is_empty() || value.parse::<Ipv4Addr>().is_ok();
    (!address).then(|| format!("Invalid {name} value: not an IPv4 address").into())
}

/// An address, or the length of a prefix up to 24.
fn unless_netmask(value: &str) -> Broken {
    let prefix = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    if !prefix {
        return unless_address("net.fake-netmask", value);
    }
    (!value.parse::<u8>().is_ok_and(|length| length <= 24)).then(|| "Invalid netmask value".into())
}
