//! Memory and processors.

use std::borrow::Cow;

use super::super::refusal::{Refusal, ValueRule};
use super::super::snapshot::{MemoryHotplug, Snapshot};
use super::super::value::{Type, Value};
use super::super::vm::Vm;
use super::row::{Change, Fallback, Inherit, LOCAL, NONE, PLAIN, ROW, Row, Rules, Source, TakesEffect};
use super::{Property, boot, of_template, value};

/// More memory than any host has (Xen stops at 16 TiB); below it all arithmetic is safe.
const MOST_MIB: i64 = 16 << 20;

/// As many as Xen can number (`MAX_VIRT_CPUS`, xen/include/public/xen.h).
const MOST_VCPUS: i64 = 8192;

/// Memory of a VM that sets none, nor its template, in MiB.
const DEFAULT_MEMORY: i64 = 400;

/// As long as a time-out may be, in seconds: a month.
pub(in super::super) const MOST_SECONDS: i64 = 31 * 24 * 3600;

pub(super) fn refuse(property: Property, text: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::value(property, ValueRule::Property, text)
}

/// A number of 1 to `most`, for the property of that name, of a VM or of the system.
pub(in super::super) fn positive(name: &'static str, most: i64, value: Value) -> Result<Value, Refusal> {
    let refused = |text: String| {
        Err(Refusal::PropertyValue { property: name, rule: ValueRule::Property, text: text.into() })
    };
    match value.as_int() {
        Some(number) if number <= 0 => refused(format!("{name} must be positive")),
        Some(number) if number > most => refused(format!("{name} must be at most {most}")),
        Some(_) | None => Ok(value),
    }
}

pub(super) static MEMORY: Row = Row {
    name: "memory",
    kind: Type::Int,
    takes_effect: TakesEffect::NextStart,
    source: Source::Stored(Rules {
        canonical: |value| positive("memory", MOST_MIB, value),
        default: Fallback::To(|snapshot, vm| {
            Some(of_template(snapshot, vm, Property::Memory).unwrap_or(Value::Int(DEFAULT_MEMORY)))
        }),
        inherit: Inherit::FromTemplate,
        ..PLAIN
    }),
    default: "the template's, else 400",
    help: "The memory that the VM starts with, in MiB.",
    ..ROW
};

pub(super) static MAXMEM: Row = Row {
    name: "maxmem",
    kind: Type::Int,
    classes: LOCAL,
    takes_effect: TakesEffect::WhileHalted,
    source: Source::Stored(Rules {
        canonical: |value| match value.as_int() {
            Some(number) if number < 0 => Err(refuse(Property::Maxmem, "maxmem must be positive or zero")),
            Some(number) if number > MOST_MIB => {
                Err(refuse(Property::Maxmem, format!("maxmem must be at most {MOST_MIB}")))
            }
            Some(_) | None => Ok(value),
        },
        veto: |snapshot, vm, change: Change<'_>| {
            let same = || change.value() == value(snapshot, vm, Property::Maxmem).as_ref();
            if snapshot.is_halted(vm) || memory_hotplug(snapshot, vm) || same() {
                Ok(())
            } else {
                Err(Refusal::NotHalted { vm: vm.name.clone() })
            }
        },
        default: Fallback::To(|snapshot, vm| Some(Value::Int(default_maxmem(snapshot, vm)))),
        inherit: Inherit::FromTemplate,
        ..PLAIN
    }),
    on_dom0: Some(|snapshot, _| {
        let most = snapshot.cells.host.dom0_max_memory;
        Some(Value::Int(most.map_or(4096, |most| i64::from(most.get()))))
    }),
    default: "0 where the VM's memory cannot be balanced; else the template's; else ten times ``memory`` if the \
              VM's feature ``os`` is ``Linux``, else 4000, and at most half of the host's memory",
    help: "The most memory that balancing may give to the VM, in MiB; 0: its memory is not balanced. While the VM \
           runs it can be changed only if the guest takes memory then.",
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

/// A PCI device may reach any of a VM's memory, so that stays. Else the guest must have a driver for it: every PV and PVH kernel has, an HVM guest only
/// if it says so.
fn can_be_balanced(snapshot: &Snapshot, vm: &Vm) -> bool {
    if boot::has_pci(vm) {
        return false;
    }
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
    takes_effect: TakesEffect::NextStart,
    source: Source::Stored(Rules {
        default: NONE,
        canonical: |value| positive("stubdom_mem", MOST_MIB, value),
        ..PLAIN
    }),
    help: "The memory of the domain that emulates the VM's devices, in MiB. Where it is not set, as much as \
           that domain's image needs.",
    ..ROW
};

pub(super) static VCPUS: Row = Row {
    name: "vcpus",
    kind: Type::Int,
    takes_effect: TakesEffect::NextStart,
    source: Source::Stored(Rules {
        canonical: |value| positive("vcpus", MOST_VCPUS, value),
        default: Fallback::To(|snapshot, vm| {
            Some(of_template(snapshot, vm, Property::Vcpus).unwrap_or(Value::Int(2)))
        }),
        inherit: Inherit::FromTemplate,
        ..PLAIN
    }),
    default: "the template's, else 2",
    help: "How many virtual processors the VM has.",
    ..ROW
};
