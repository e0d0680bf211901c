//! What a VM is: name, numbers, class, label.

use super::super::class::{TemplateRule, VmClass};
use super::super::value::{Type, Value};
use super::super::vm::Vm;
use super::Property;
use super::change::recomputed;
use super::row::{ALL, CloneRule, Effects, PLAIN, QUBES, ROW, Row, Rules, Source};

pub(super) static LABEL: Row = Row {
    name: "label",
    kind: Type::Label,
    classes: ALL,
    clone: CloneRule::Own,
    source: Source::Stored(Rules {
        effects: |_, vm, _, _| Effects { events: vec![recomputed(vm, "icon")], ..Effects::default() },
        ..PLAIN
    }),
    help: "Colourful label assigned to VM. This is where the colour of the padlock is set.",
    ..ROW
};

pub(super) static NAME: Row = Row {
    name: "name",
    classes: ALL,
    clone: CloneRule::Own,
    source: Source::Identity(|vm| Some(Value::text(vm.name.as_str()))),
    on_dom0: Some(|_, vm| Some(Value::text(vm.name.as_str()))),
    help: "User-specified name of the domain.",
    ..ROW
};

pub(super) static QID: Row = Row {
    name: "qid",
    kind: Type::Int,
    classes: ALL,
    clone: CloneRule::Own,
    source: Source::Identity(|vm| Some(qid(vm))),
    on_dom0: Some(|_, vm| Some(qid(vm))),
    help: "Internal, persistent identificator of particular domain. Note this is different from Xen domid.",
    ..ROW
};

fn qid(vm: &Vm) -> Value {
    Value::Int(i64::from(vm.qid.get()))
}

pub(super) static UUID: Row = Row {
    name: "uuid",
    classes: ALL,
    clone: CloneRule::Own,
    source: Source::Identity(|vm| Some(Value::text(vm.uuid.to_string()))),
    on_dom0: Some(|_, vm| Some(Value::text(vm.uuid.to_string()))),
    help: "UUID of the domain, also as Xen knows it.",
    ..ROW
};

pub(super) static KLASS: Row = Row {
    name: "klass",
    classes: ALL,
    clone: CloneRule::Own,
    source: Source::Computed(|_, vm| Some(Value::text(vm.class.as_str()))),
    help: "Domain class name.",
    ..ROW
};

pub(super) static DISPID: Row = Row {
    name: "dispid",
    kind: Type::Int,
    classes: &[VmClass::DispVm],
    clone: CloneRule::Own,
    source: Source::Identity(|vm| vm.properties.get(&Property::Dispid).cloned()),
    help: "Internal, persistent identifier of particular disposable.",
    ..ROW
};

pub(super) static UPDATEABLE: Row = Row {
    name: "updateable",
    kind: Type::Bool,
    classes: &[VmClass::AdminVm, VmClass::AppVm, VmClass::DispVm, VmClass::StandaloneVm, VmClass::TemplateVm],
    clone: CloneRule::Own,
    source: Source::Computed(|_, vm| Some(Value::Bool(vm.class.template_rule() == TemplateRule::None))),
    help: "True if this machine may be updated on its own.",
    ..ROW
};

pub(super) static ICON: Row = Row {
    name: "icon",
    classes: ALL,
    clone: CloneRule::Own,
    source: Source::Computed(|snapshot, vm| {
        let label = snapshot.model.label(vm.label)?;
        Some(Value::text(format!("{}-{}", icon_kind(vm), label.name)))
    }),
    on_dom0: Some(|_, _| Some(Value::text("adminvm-black"))),
    help: "freedesktop icon name, suitable for use in menus.",
    ..ROW
};

fn icon_kind(vm: &Vm) -> &'static str {
    let service = QUBES.contains(&vm.class) && vm.feature("servicevm").is_some_and(|value| !value.is_empty());
    match vm.class {
        VmClass::AdminVm => "adminvm",
        VmClass::TemplateVm => "templatevm",
        VmClass::RemoteVm => "remotevm",
        VmClass::AppVm | VmClass::DispVm | VmClass::StandaloneVm if service => "servicevm",
        VmClass::DispVm => "dispvm",
        VmClass::StandaloneVm => "standalonevm",
        VmClass::AppVm if vm.flag(Property::TemplateForDispvms) == Some(true) => "templatevm",
        VmClass::AppVm => "appvm",
    }
}
