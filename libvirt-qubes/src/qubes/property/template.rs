//! What a VM is based on, and what disposables are based on.

use std::sync::Arc;

use super::super::class::{VmClass, VolumeKind};
use super::super::global::Global;
use super::super::index::Referrer;
use super::super::refusal::{Owner, Refusal, User};
use super::super::snapshot::Snapshot;
use super::super::value::{Type, Value};
use super::super::vm::Vm;
use super::super::volume::VolumeConfig;
use super::super::write::Write;
use super::change::recomputed;
use super::row::{
    Change, CloneRule, Effects, Fallback, Inherit, LOCAL, PLAIN, ROW, Row, Rules, Source, Stage, TakesEffect,
};
use super::settings::OFF;
use super::{Property, of_template};

pub(super) static TEMPLATE: Row = Row {
    name: "template",
    kind: Type::Vm,
    classes: &[VmClass::AppVm, VmClass::DispVm],
    stage: Stage::Late,
    takes_effect: TakesEffect::WhileHalted,
    clone: CloneRule::Own,
    source: Source::Stored(Rules {
        fits: |snapshot, vm, value| match value.as_vm().map(|target| snapshot.model.vm(target)) {
            Some(Some(target)) => fits(vm.class, target),
            Some(None) => Ok(()),
            None => Err(Refusal::VmRequired { property: "template" }),
        },
        veto,
        effects: |snapshot, vm, _, new| Effects {
            writes: new.and_then(Value::as_vm).map_or_else(Vec::new, |to| repointed(snapshot, vm, to)),
            ..Effects::default()
        },
        ..PLAIN
    }),
    help: "What the VM is based on: its volume ``root`` (of a disposable, ``private`` too) is made anew from the \
           template's at each start, and settings that are not set are the template's. An AppVM is based on a \
           TemplateVM, a disposable on a VM with ``template_for_dispvms``.",
    ..ROW
};

/// Whether a VM of a class may be based on another; used when one is made, too.
pub(in super::super) fn fits(class: VmClass, template: &Vm) -> Result<(), Refusal> {
    match class {
        VmClass::AppVm if template.class != VmClass::TemplateVm => Err(Refusal::WrongClass {
            vm: template.name.clone(),
            class: template.class,
            expected: VmClass::TemplateVm,
        }),
        VmClass::DispVm
            if template.class != VmClass::AppVm
                || template.flag(Property::TemplateForDispvms) != Some(true) =>
        {
            Err(Refusal::TemplateNotDisposable { template: template.name.clone() })
        }
        VmClass::AdminVm
        | VmClass::AppVm
        | VmClass::DispVm
        | VmClass::RemoteVm
        | VmClass::StandaloneVm
        | VmClass::TemplateVm => Ok(()),
    }
}

fn veto(snapshot: &Snapshot, vm: &Vm, change: Change<'_>) -> Result<(), Refusal> {
    let model = &snapshot.model;
    match change {
        Change::Reset(_) => {
            let default =
                (vm.class == VmClass::AppVm).then(|| model.global_vm(Global::DefaultTemplate)).flatten();
            Err(Refusal::TemplateReset { default: default.and_then(|vm| model.name_of(vm)) })
        }
        Change::Set(_) if !snapshot.is_halted(vm) => {
            Err(Refusal::TemplateWhileRunning { vm: vm.name.clone() })
        }
        Change::Set(_) => {
            let disposables: std::collections::BTreeSet<_> = model
                .vms_naming(vm.uuid, Property::Template)
                .filter(|based| !snapshot.is_halted(based))
                .map(|based| based.name.clone())
                .collect();
            if disposables.is_empty() {
                Ok(())
            } else {
                Err(Refusal::TemplateWhileDisposablesRun { vm: vm.name.clone(), disposables })
            }
        }
    }
}

/// The global property that names the template of a VM made without one.
pub(in super::super) const fn default_template(class: VmClass) -> Global {
    match class {
        VmClass::DispVm => Global::DefaultDispvm,
        VmClass::AdminVm
        | VmClass::AppVm
        | VmClass::RemoteVm
        | VmClass::StandaloneVm
        | VmClass::TemplateVm => Global::DefaultTemplate,
    }
}

/// The snapshot volumes of a VM, and of the disposables based on it, moved to the pools of their new sources.
fn repointed(snapshot: &Snapshot, vm: &Vm, template: uuid::Uuid) -> Vec<Write> {
    let model = &snapshot.model;
    let Some(template) = model.vm(template) else { return Vec::new() };
    let moved = |vm: &Vm, volume: &VolumeConfig| {
        let (_, source) = model.volume_origin(template, volume.name.as_str())?;
        if source.pool == volume.pool {
            return None;
        }
        let pool = model.pool(source.pool.as_str())?;
        let vid = snapshot.cells.host.naming.vid(pool, vm.class.volume_group(), &vm.name, &volume.name);
        let config =
            VolumeConfig { pool: source.pool.clone(), vid: Some(vid.into()), ..VolumeConfig::clone(volume) };
        Some(Write::SetVolume(vm.uuid, Arc::new(config)))
    };
    let snapshots = |vm: &Arc<Vm>| {
        let volumes: Vec<_> =
            vm.volumes.iter().filter(|volume| volume.kind == VolumeKind::Snapshot).cloned().collect();
        volumes
    };
    let own = vm.volumes.iter().filter(|volume| volume.kind == VolumeKind::Snapshot);
    let mut writes: Vec<Write> = own.filter_map(|volume| moved(vm, volume)).collect();
    for based in model.vms_naming(vm.uuid, Property::Template) {
        // A disposable's volume follows this VM's, unless this VM has it itself.
        for volume in snapshots(based) {
            let through = vm.volume(volume.name.as_str()).is_none_or(|own| own.kind == VolumeKind::Snapshot);
            writes.extend(through.then(|| moved(based, &volume)).flatten());
        }
    }
    writes
}

pub(super) static TEMPLATE_FOR_DISPVMS: Row = Row {
    name: "template_for_dispvms",
    kind: Type::Bool,
    classes: &[VmClass::AppVm, VmClass::StandaloneVm],
    source: Source::Stored(Rules {
        veto: |snapshot, vm, change| match change.value().and_then(Value::as_bool) {
            Some(true) => Ok(()),
            Some(false) | None => no_base_of_disposables(snapshot, vm),
        },
        default: Fallback::To(|_, _| Some(Value::Bool(false))),
        effects: |_, vm, _, _| Effects::events(vec![recomputed(vm, "icon")]),
        ..PLAIN
    }),
    default: "False",
    help: "Whether disposables can be based on the VM. It stays so while the VM is named as such a base.",
    ..ROW
};

fn no_base_of_disposables(snapshot: &Snapshot, vm: &Vm) -> Result<(), Refusal> {
    let (mut of_system, mut of_vms) = (Vec::new(), std::collections::BTreeSet::new());
    for referrer in snapshot.model.referrers(vm.uuid) {
        match referrer {
            Referrer::System(global @ (Global::DefaultDispvm | Global::ManagementDispvm)) => {
                of_system.push(global.name());
            }
            Referrer::Vm(
                user,
                property @ (Property::DefaultDispvm | Property::ManagementDispvm | Property::Template),
            ) => {
                let name = snapshot.model.name_of(user);
                of_vms.extend(name.map(|name| User { owner: Owner::Vm(name), property: property.name() }));
            }
            Referrer::System(_) | Referrer::Vm(..) => {}
        }
    }
    for (user, property) in snapshot.model.bad_rows_naming(vm.uuid) {
        let as_base = [Property::DefaultDispvm, Property::ManagementDispvm, Property::Template];
        if let Some(property) = as_base.into_iter().find(|base| base.name() == property) {
            of_vms.insert(User { owner: Owner::Vm(user), property: property.name() });
        }
    }
    if !of_system.is_empty() {
        Err(Refusal::DisposableTemplateOfSystem { properties: of_system })
    } else if !of_vms.is_empty() {
        Err(Refusal::DisposableTemplateOfVms { by: of_vms })
    } else {
        Ok(())
    }
}

pub(super) static DEFAULT_DISPVM: Row = Row {
    name: "default_dispvm",
    kind: Type::Vm,
    classes: LOCAL,
    stage: Stage::Late,
    source: Source::Stored(Rules {
        fits: |snapshot, vm, value| {
            base_of_disposables(snapshot, &Owner::Vm(vm.name.clone()), "default_dispvm", value)
        },
        default: Fallback::To(|snapshot, vm| {
            let template = vm.reference(Property::Template).flatten();
            let own = if vm.class == VmClass::DispVm { template } else { None };
            Some(Value::Vm(own.or_else(|| snapshot.model.global_vm(Global::DefaultDispvm))))
        }),
        ..PLAIN
    }),
    default: "the global ``default_dispvm``; of a disposable its template",
    help: "What disposables are based on that the VM asks for without saying which.",
    ..ROW
};

pub(super) static MANAGEMENT_DISPVM: Row = Row {
    name: "management_dispvm",
    kind: Type::Vm,
    stage: Stage::Late,
    source: Source::Stored(Rules {
        fits: |snapshot, vm, value| {
            base_of_disposables(snapshot, &Owner::Vm(vm.name.clone()), "management_dispvm", value)
        },
        default: Fallback::To(|snapshot, vm| {
            Some(
                of_template(snapshot, vm, Property::ManagementDispvm)
                    .unwrap_or_else(|| Value::Vm(snapshot.model.global_vm(Global::ManagementDispvm))),
            )
        }),
        inherit: Inherit::FromTemplate,
        ..PLAIN
    }),
    default: "the template's, else the global ``management_dispvm``",
    help: "What the disposables are based on in which this VM is managed.",
    ..ROW
};

/// Whether disposables can be based on what a property names.
pub(in super::super) fn base_of_disposables(
    snapshot: &Snapshot,
    of: &Owner,
    property: &'static str,
    value: &Value,
) -> Result<(), Refusal> {
    match value.as_vm().and_then(|target| snapshot.model.vm(target)) {
        Some(target) if target.flag(Property::TemplateForDispvms) != Some(true) => {
            Err(Refusal::NotForDisposables { property, of: of.clone(), target: target.name.clone() })
        }
        Some(_) | None => Ok(()),
    }
}

pub(super) static AUTO_CLEANUP: Row = Row {
    name: "auto_cleanup",
    kind: Type::Bool,
    classes: &[VmClass::DispVm],
    source: Source::Stored(OFF),
    default: "False",
    help: "Whether the disposable is removed when it stops.",
    ..ROW
};
