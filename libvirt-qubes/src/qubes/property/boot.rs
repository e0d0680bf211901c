//! How a VM is virtualised and what it boots.

use std::sync::Arc;

use super::super::class::VmClass;
use super::super::refusal::{Refusal, ValueRule};
use super::super::snapshot::{Kernel, KernelImage, Snapshot};
use super::super::value::Value;
use super::super::vm::Vm;
use super::change::followers_reset;
use super::resources::refuse;
use super::row::{Change, Effects, Fallback, Inherit, PLAIN, ROW, Row, Rules, Source, Stage, TakesEffect};
use super::{Property, of_template, value};
use crate::ids::KernelVersion;

pub(super) static VIRT_MODE: Row = Row {
    name: "virt_mode",
    takes_effect: TakesEffect::NextStart,
    source: Source::Stored(Rules {
        canonical: |value| {
            let Some(text) = value.as_str() else { return Ok(value) };
            let lower = text.to_ascii_lowercase();
            if ["hvm", "pv", "pvh"].contains(&lower.as_str()) {
                return Ok(Value::text(lower));
            }
            let text = "Invalid virtualization mode, supported values: hvm, pv, pvh";
            Err(refuse(Property::VirtMode, text))
        },
        veto: |_, vm, change| match change {
            Change::Set(Value::Str(mode)) if &**mode == "pvh" && has_pci(vm) => {
                Err(refuse(Property::VirtMode, "pvh mode can't be set if pci devices are assigned"))
            }
            Change::Set(_) | Change::Reset(_) => Ok(()),
        },
        default: Fallback::To(|snapshot, vm| {
            let inherited = || of_template(snapshot, vm, Property::VirtMode);
            let pci = has_pci(vm).then(|| Value::text("hvm"));
            Some(pci.or_else(inherited).unwrap_or_else(|| Value::text("pvh")))
        }),
        ..PLAIN
    }),
    default: "``hvm`` with a PCI device assigned, else the template's, else ``pvh``",
    help: "How Xen runs the VM: ``hvm`` (with emulated devices), ``pvh`` (hardware virtualisation without them) or \
           ``pv`` (paravirtualised).",
    ..ROW
};

/// Whether a PCI device is assigned to a VM.
pub(super) fn has_pci(vm: &Vm) -> bool {
    vm.assignments.keys().any(|device| device.class.as_str() == "pci")
}

/// The virtualisation mode that holds.
pub(super) fn virt_mode(snapshot: &Snapshot, vm: &Vm) -> Option<Arc<str>> {
    text(value(snapshot, vm, Property::VirtMode))
}

fn text(value: Option<Value>) -> Option<Arc<str>> {
    value?.as_str().cloned()
}

pub(super) static KERNEL: Row = Row {
    name: "kernel",
    takes_effect: TakesEffect::NextStart,
    source: Source::Stored(Rules {
        canonical: |value| kernel_name("kernel", value),
        veto: |snapshot, vm, change| match change {
            Change::Set(Value::Str(kernel)) if !kernel.is_empty() => {
                installed(folder(snapshot, vm, kernel), kernel)
            }
            Change::Set(_) | Change::Reset(_) => Ok(()),
        },
        default: Fallback::To(|snapshot, vm| {
            Some(
                of_template(snapshot, vm, Property::Kernel)
                    .unwrap_or_else(|| Value::text(snapshot.model.default_kernel().unwrap_or_default())),
            )
        }),
        inherit: Inherit::FromTemplate,
        ..PLAIN
    }),
    default: "the template's, else the global ``default_kernel``",
    help: "The kernel that the VM boots: the name of a folder in the pool of kernels. Empty: the VM brings its \
           own.",
    ..ROW
};

/// The name of a kernel, or nothing, for the property of that name, of a VM or of the system.
pub(in super::super) fn kernel_name(property: &'static str, value: Value) -> Result<Value, Refusal> {
    match value.as_str().filter(|text| !text.is_empty()).map(|text| text.parse::<KernelVersion>()) {
        Some(Err(error)) => {
            let text = error.reason().into();
            Err(Refusal::PropertyValue { property, rule: ValueRule::Property, text })
        }
        Some(Ok(_)) | None => Ok(value),
    }
}

/// Whether a kernel is there as a whole, given what is known of its folder.
pub(in super::super) fn installed(folder: Option<&Kernel>, kernel: &str) -> Result<(), Refusal> {
    match folder {
        None => Err(Refusal::KernelNotInstalled { kernel: kernel.to_owned() }),
        Some(Kernel { image: KernelImage::Missing, .. }) => {
            Err(Refusal::KernelWithoutImage { kernel: kernel.to_owned() })
        }
        Some(Kernel { image: KernelImage::Present, .. }) => Ok(()),
    }
}

/// What is known of a kernel's folder in the VM's pool of kernels.
pub(super) fn folder<'a>(snapshot: &'a Snapshot, vm: &Vm, kernel: &str) -> Option<&'a Kernel> {
    match vm.volume("kernel") {
        Some(volume) => snapshot.cells.host.kernels.get(&volume.pool)?.get(kernel),
        None => default_folder(snapshot, kernel),
    }
}

/// What is known of a kernel's folder in the default pool of kernels.
pub(in super::super) fn default_folder<'a>(snapshot: &'a Snapshot, kernel: &str) -> Option<&'a Kernel> {
    snapshot.cells.host.kernels.get(snapshot.model.default_pool_of("kernel")?)?.get(kernel)
}

/// The kernel that dom0 provides; `None` when the VM brings its own: it has none set, or a boot loader that
/// looks for it inside.
pub(super) fn kernel_of_dom0(snapshot: &Snapshot, vm: &Vm) -> Option<Arc<str>> {
    let kernel = text(value(snapshot, vm, Property::Kernel)).filter(|kernel| !kernel.is_empty())?;
    let mode = virt_mode(snapshot, vm);
    let loader =
        matches!((&*kernel, mode.as_deref()), ("pvgrub2-pvh", Some("pvh")) | ("pvgrub2", Some("pv")));
    (!loader).then_some(kernel)
}

pub(super) static KERNELOPTS: Row = Row {
    name: "kernelopts",
    stage: Stage::Late,
    takes_effect: TakesEffect::NextStart,
    source: Source::Stored(Rules {
        canonical: |value| match value.as_str() {
            Some(text) if text.len() > 512 => {
                Err(refuse(Property::Kernelopts, "Kernelopts value too long (512 chars max)"))
            }
            Some(_) | None => Ok(value),
        },
        default: Fallback::To(|snapshot, vm| Some(default_kernelopts(snapshot, vm))),
        inherit: Inherit::FromTemplate,
        ..PLAIN
    }),
    default: "empty without a kernel; with a PCI device assigned what the kernel's folder says in \
              ``default-kernelopts-pci.txt``; else the template's, else what the folder says in \
              ``default-kernelopts-nopci.txt``, else ``swiotlb=2048``",
    help: "What is added to the kernel's command line; at most 512 characters.",
    ..ROW
};

fn default_kernelopts(snapshot: &Snapshot, vm: &Vm) -> Value {
    let Some(kernel) = text(value(snapshot, vm, Property::Kernel)).filter(|kernel| !kernel.is_empty()) else {
        return Value::text("");
    };
    let folder = folder(snapshot, vm, &kernel);
    if has_pci(vm) {
        let own = folder.and_then(|kernel| kernel.default_kernelopts_pci.as_deref()).unwrap_or_default();
        let dom0 = snapshot.model.vm(Vm::DOM0);
        let s0ix = dom0.and_then(|dom0| dom0.feature("suspend-s0ix")).is_some_and(|value| !value.is_empty());
        return Value::text(format!("{own}{}", if s0ix { " qubes_exp_pm_use_suspend=1" } else { "" }));
    }
    of_template(snapshot, vm, Property::Kernelopts).unwrap_or_else(|| {
        let own = folder.and_then(|kernel| kernel.default_kernelopts.clone());
        Value::Str(own.unwrap_or_else(|| "swiotlb=2048".into()))
    })
}

pub(super) static BOOTMODE: Row = Row {
    name: "bootmode",
    stage: Stage::Late,
    takes_effect: TakesEffect::NextStart,
    source: Source::Stored(Rules {
        default: Fallback::To(|snapshot, vm| Some(default_bootmode(snapshot, vm))),
        ..PLAIN
    }),
    default: "the feature ``boot-mode.active`` if that mode exists, else ``appvm_default_bootmode`` of the template \
              if that exists, else ``default``",
    help: "The way in which the VM boots: one of the modes that the features ``boot-mode.kernelopts.MODE`` of the VM \
           and its templates describe, or ``default``.",
    ..ROW
};

pub(super) static APPVM_DEFAULT_BOOTMODE: Row = Row {
    name: "appvm_default_bootmode",
    classes: &[VmClass::TemplateVm],
    stage: Stage::Late,
    takes_effect: TakesEffect::NextStart,
    source: Source::Stored(Rules {
        default: Fallback::To(|_, vm| {
            Some(Value::text(vm.feature("boot-mode.appvm-default").unwrap_or(DEFAULT_MODE)))
        }),
        effects: |snapshot, vm, old, new| {
            Effects::events(if old == new {
                Vec::new()
            } else {
                followers_reset(snapshot, vm, Property::Bootmode)
            })
        },
        ..PLAIN
    }),
    default: "the feature ``boot-mode.appvm-default``, else ``default``",
    help: "The way in which VMs based on this template boot where they do not say otherwise.",
    ..ROW
};

const DEFAULT_MODE: &str = "default";

fn default_bootmode(snapshot: &Snapshot, vm: &Vm) -> Value {
    let model = &snapshot.model;
    let exists = |from: &Vm, mode: &str| {
        model.feature_with_template(from, &format!("boot-mode.kernelopts.{mode}")).is_some()
    };
    match vm.feature("boot-mode.active") {
        Some(DEFAULT_MODE) => return Value::text(DEFAULT_MODE),
        Some(active) if exists(vm, active) => return Value::text(active),
        Some(_) | None => {}
    }
    let template =
        model.with_templates(vm).skip(1).find(|vm| Property::AppvmDefaultBootmode.applies_to(vm.class));
    let mode = template.and_then(|template| {
        let mode = Property::AppvmDefaultBootmode.text(snapshot, template)?;
        exists(template, &mode).then_some(mode)
    });
    Value::text(mode.as_deref().unwrap_or(DEFAULT_MODE))
}
