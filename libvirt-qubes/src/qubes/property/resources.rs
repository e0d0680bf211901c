//! Memory and processors.

use super::super::class::VmClass;
use super::super::refusal::{Refusal, ValueRule};
use super::super::snapshot::{MemoryHotplug, Snapshot};
use super::super::value::{Type, Value};
use super::super::vm::Vm;
use super::row::{Change, Inherit, PLAIN, QUBES, ROW, Row, Rules, Source};
use super::{Property, boot, of_template, value};

/// More memory than any host has (Xen stops at 16 TiB); below it all arithmetic is safe.
const MOST_MIB: i64 = 16 << 20;

/// As many as Xen can number (`MAX_VIRT_CPUS`, xen/include/public/xen.h).
const MOST_VCPUS: i64 = 8192;

/// Memory of a VM that sets none, nor its template, in MiB.
const DEFAULT_MEMORY: i64 = 400;

pub(super) fn refuse(property: Property, text: String) -> Refusal {
    Refusal::value(property, ValueRule::Property, text)
}

/// A number of 1 to `most`.
pub(super) fn positive(property: Property, most: i64, value: Value) -> Result<Value, Refusal> {
    match value.as_int() {
        Some(number) if number <= 0 => Err(refuse(property, format!("{property} must be positive"))),
        Some(number) if number > most => Err(refuse(property, format!("{property} must be at most {most}"))),
        Some(_) | None => Ok(value),
    }
}

pub(super) static MEMORY: Row = Row {
    name: "memory",
    kind: Type::Int,
    source: Source::Stored(Rules {
        canonical: |value| positive(Property::Memory, MOST_MIB, value),
        default: |snapshot, vm| {
            Some(of_template(snapshot, vm, Property::Memory).unwrap_or(Value::Int(DEFAULT_MEMORY)))
        },
        inherit: Inherit::FromTemplate,
        ..PLAIN
    }),
    help: "Memory currently available for this VM, in MiB. The template's value where none is set.",
    ..ROW
};

pub(super) static MAXMEM: Row = Row {
    name: "maxmem",
    kind: Type::Int,
    classes: &[VmClass::AdminVm, VmClass::AppVm, VmClass::DispVm, VmClass::StandaloneVm, VmClass::TemplateVm],
    source: Source::Stored(Rules {
        canonical: |value| match value.as_int() {
            Some(number) if number < 0 => {
                Err(refuse(Property::Maxmem, "maxmem must be positive or zero".to_owned()))
            }
            Some(number) if number > MOST_MIB => {
                Err(refuse(Property::Maxmem, format!("maxmem must be at most {MOST_MIB}")))
            }
            Some(_) | None => Ok(value),
        },
        veto: |snapshot, vm, change| match change {
            Change::Set(_) | Change::Reset(_) if snapshot.is_halted(vm) || memory_hotplug(snapshot, vm) => {
                Ok(())
            }
            Change::Set(_) | Change::Reset(_) => Err(Refusal::NotHalted { vm: vm.name.clone() }),
        },
        default: |snapshot, vm| Some(Value::Int(default_maxmem(snapshot, vm))),
        inherit: Inherit::FromTemplate,
        ..PLAIN
    }),
    on_dom0: Some(|snapshot, _| {
        let most = snapshot.cells.host.dom0_max_memory;
        Some(Value::Int(most.map_or(4096, |most| i64::from(most.get()))))
    }),
    help: "Maximum amount of memory available for this VM (for the purpose of the memory balancer), in MiB. \
           Set to 0 to disable memory balancing for this qube.",
    ..ROW
};

/// Half of the host's memory, at most ten times the VM's own if it is known to cope with that; 0 where its
/// memory cannot be balanced.
fn default_maxmem(snapshot: &Snapshot, vm: &Vm) -> i64 {
    if !can_be_balanced(snapshot, vm) {
        return 0;
    }
    if let Some(Value::Int(most)) = of_template(snapshot, vm, Property::Maxmem) {
        return most;
    }
    let own = match value(snapshot, vm, Property::Memory) {
        Some(Value::Int(memory)) if vm.feature("os") == Some("Linux") => memory * 10,
        _ => 4000,
    };
    match snapshot.cells.host.total_memory {
        Some(total) => own.min(i64::from(total.get() / 2)),
        None => own,
    }
}

/// A guest whose memory is balanced must have a driver for it: every PV and PVH kernel has, an HVM guest only
/// if it says so.
fn can_be_balanced(snapshot: &Snapshot, vm: &Vm) -> bool {
    if boot::virt_mode(snapshot, vm).as_deref() != Some("hvm") {
        return true;
    }
    let model = &snapshot.model;
    let announced = |prefix: &str| {
        model.with_templates(vm).any(|vm| vm.features.keys().any(|name| name.as_str().starts_with(prefix)))
    };
    let set = |name: &str| model.feature_with_template(vm, name).is_some_and(|value| !value.is_empty());
    set("qrexec") && (!announced("supported-service.") || set("supported-service.meminfo-writer"))
}

/// Whether the VM can take more memory while it runs.
fn memory_hotplug(snapshot: &Snapshot, vm: &Vm) -> bool {
    let feature = |name: &str| snapshot.model.feature_with_template(vm, name);
    if let Some(decided) = feature("memory-hotplug") {
        return !decided.is_empty();
    }
    let mode = boot::virt_mode(snapshot, vm);
    if mode.as_deref() == Some("hvm") {
        return false;
    }
    match boot::kernel_of_dom0(snapshot, vm) {
        Some(kernel) => {
            boot::folder(snapshot, vm, &kernel).is_some_and(|k| k.memory_hotplug == MemoryHotplug::Supported)
        }
        None => feature("supported-feature.memory-hotplug").is_some_and(|value| !value.is_empty()),
    }
}

pub(super) static STUBDOM_MEM: Row = Row {
    name: "stubdom_mem",
    kind: Type::Int,
    classes: QUBES,
    source: Source::Stored(Rules {
        canonical: |value| positive(Property::StubdomMem, MOST_MIB, value),
        ..PLAIN
    }),
    help: "Memory amount allocated for the stub domain, in MiB.",
    ..ROW
};

pub(super) static VCPUS: Row = Row {
    name: "vcpus",
    kind: Type::Int,
    source: Source::Stored(Rules {
        canonical: |value| positive(Property::Vcpus, MOST_VCPUS, value),
        default: |snapshot, vm| Some(of_template(snapshot, vm, Property::Vcpus).unwrap_or(Value::Int(2))),
        inherit: Inherit::FromTemplate,
        ..PLAIN
    }),
    help: "Number of virtual CPUs for a qube. The template's value where none is set.",
    ..ROW
};
