//! How a VM is virtualised and what it boots.

use std::sync::Arc;

use super::super::refusal::Refusal;
use super::super::snapshot::{Kernel, KernelImage, Snapshot};
use super::super::value::Value;
use super::super::vm::Vm;
use super::resources::refuse;
use super::row::{Change, Inherit, PLAIN, ROW, Row, Rules, Source, Stage};
use super::{Property, of_template, value};
use crate::ids::KernelVersion;

pub(super) static VIRT_MODE: Row = Row {
    name: "virt_mode",
    source: Source::Stored(Rules {
        canonical: |value| {
            let Some(text) = value.as_str() else { return Ok(value) };
            let lower = text.to_ascii_lowercase();
            if ["hvm", "pv", "pvh"].contains(&lower.as_str()) {
                return Ok(Value::text(lower));
            }
            let text = "Invalid virtualization mode, supported values: hvm, pv, pvh";
            Err(refuse(Property::VirtMode, text.to_owned()))
        },
        default: |snapshot, vm| {
            Some(of_template(snapshot, vm, Property::VirtMode).unwrap_or_else(|| Value::text("pvh")))
        },
        ..PLAIN
    }),
    help: "Virtualization mode: full virtualization (\"HVM\"), or paravirtualization (\"PV\"), or hybrid \
           (\"PVH\"). The template's value where none is set.",
    ..ROW
};

/// The virtualisation mode that holds.
pub(super) fn virt_mode(snapshot: &Snapshot, vm: &Vm) -> Option<Arc<str>> {
    text(value(snapshot, vm, Property::VirtMode))
}

fn text(value: Option<Value>) -> Option<Arc<str>> {
    value?.as_str().cloned()
}

pub(super) static KERNEL: Row = Row {
    name: "kernel",
    source: Source::Stored(Rules {
        canonical: |value| match value.as_str().filter(|text| !text.is_empty()) {
            Some(text) => match text.parse::<KernelVersion>() {
                Ok(_) => Ok(value),
                Err(error) => Err(refuse(Property::Kernel, error.reason().to_owned())),
            },
            None => Ok(value),
        },
        veto: |snapshot, vm, change| match change {
            Change::Set(Value::Str(kernel)) if !kernel.is_empty() => installed(snapshot, vm, kernel),
            Change::Set(_) | Change::Reset(_) => Ok(()),
        },
        default: |snapshot, vm| {
            Some(
                of_template(snapshot, vm, Property::Kernel)
                    .unwrap_or_else(|| Value::text(snapshot.model.default_kernel().unwrap_or_default())),
            )
        },
        inherit: Inherit::FromTemplate,
        ..PLAIN
    }),
    help: "Kernel used by this domain: the name of a folder in the pool of kernels. Empty: the VM brings its \
           own. The template's value where none is set.",
    ..ROW
};

fn installed(snapshot: &Snapshot, vm: &Vm, kernel: &str) -> Result<(), Refusal> {
    match folder(snapshot, vm, kernel) {
        None => Err(Refusal::KernelNotInstalled { kernel: kernel.to_owned() }),
        Some(Kernel { image: KernelImage::Missing, .. }) => {
            Err(Refusal::KernelWithoutImage { kernel: kernel.to_owned() })
        }
        Some(Kernel { image: KernelImage::Present, .. }) => Ok(()),
    }
}

/// What is known of a kernel's folder in the VM's pool of kernels.
pub(super) fn folder<'a>(snapshot: &'a Snapshot, vm: &Vm, kernel: &str) -> Option<&'a Kernel> {
    let own = vm.volume("kernel").map(|volume| &volume.pool);
    let pool = own.or_else(|| snapshot.model.default_pool_of("kernel"))?;
    snapshot.cells.host.kernels.get(pool)?.get(kernel)
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
    source: Source::Stored(Rules {
        canonical: |value| match value.as_str() {
            Some(text) if text.len() > 512 => {
                Err(refuse(Property::Kernelopts, "Kernelopts value too long (512 chars max)".to_owned()))
            }
            Some(_) | None => Ok(value),
        },
        default: |snapshot, vm| Some(default_kernelopts(snapshot, vm)),
        inherit: Inherit::FromTemplate,
        ..PLAIN
    }),
    help: "Kernel command line passed to domain. The template's value where none is set.",
    ..ROW
};

fn default_kernelopts(snapshot: &Snapshot, vm: &Vm) -> Value {
    let Some(kernel) = text(value(snapshot, vm, Property::Kernel)).filter(|kernel| !kernel.is_empty()) else {
        return Value::text("");
    };
    of_template(snapshot, vm, Property::Kernelopts).unwrap_or_else(|| {
        let own = folder(snapshot, vm, &kernel).and_then(|kernel| kernel.default_kernelopts.clone());
        Value::Str(own.unwrap_or_else(|| "swiotlb=2048".into()))
    })
}
