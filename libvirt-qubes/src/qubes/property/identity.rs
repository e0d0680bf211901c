//! What a VM is: name, numbers, class, label.

use super::super::class::{TemplateRule, VmClass};
use super::super::value::{Type, Value};
use super::super::vm::Vm;
use super::Property;
use super::change::recomputed;
use super::row::{ALL, CloneRule, Effects, FIXED, LOCAL, PLAIN, QUBES, ROW, Row, Rules, Source};

pub(super) static LABEL: Row = Row {
    name: "label",
    kind: Type::Label,
    classes: ALL,
    clone: CloneRule::Own,
    source: Source::Stored(Rules {
        effects: |_, vm, _, _| Effects::events(vec![recomputed(vm, "icon")]),
        ..PLAIN
    }),
    help: "The label: how far the VM is trusted, shown as a colour. Set by name, by index, or as ``label-N``.",
    ..ROW
};

pub(super) static NAME: Row = Row {
    name: "name",
    classes: ALL,
    source: Source::Identity(|vm| Some(Value::text(vm.name.as_str()))),
    on_dom0: Some(|_, vm| Some(Value::text(vm.name.as_str()))),
    help: "The VM's name.",
    ..FIXED
};

pub(super) static QID: Row = Row {
    name: "qid",
    kind: Type::Int,
    classes: ALL,
    source: Source::Identity(|vm| Some(qid(vm))),
    on_dom0: Some(|_, vm| Some(qid(vm))),
    help: "The VM's number on this system; its addresses are made from it. It is not the Xen domain's, which \
           is ``xid``.",
    ..FIXED
};

fn qid(vm: &Vm) -> Value {
    Value::Int(i64::from(vm.qid.get()))
}

pub(super) static UUID: Row = Row {
    name: "uuid",
    classes: ALL,
    source: Source::Identity(|vm| Some(Value::text(vm.uuid.to_string()))),
    on_dom0: Some(|_, vm| Some(Value::text(vm.uuid.to_string()))),
    help: "The VM's identity, which is its Xen domain's too.",
    ..FIXED
};

pub(super) static KLASS: Row = Row {
    name: "klass",
    classes: ALL,
    source: Source::Computed(|_, vm| Some(Value::text(vm.class.as_str()))),
    help: "The VM's class.",
    ..FIXED
};

pub(super) static DISPID: Row = Row {
    name: "dispid",
    kind: Type::Int,
    classes: &[VmClass::DispVm],
    source: Source::Identity(|vm| vm.properties.get(&Property::Dispid).cloned()),
    help: "The disposable's number, 0 to 9999; its addresses are made from it.",
    ..FIXED
};

pub(super) static IS_PRELOAD: Row = Row {
    name: "is_preload",
    kind: Type::Bool,
    classes: &[VmClass::DispVm],
    source: Source::Computed(|snapshot, vm| {
        let queue = snapshot.model.template_of(vm).and_then(|template| template.feature("preload-dispvm"));
        Some(Value::Bool(queue.is_some_and(|queue| queue.split(' ').any(|name| name == vm.name.as_str()))))
    }),
    help: "Whether the disposable was made ahead of its use and still waits for it: it is in the feature \
           ``preload-dispvm`` of its template.",
    ..FIXED
};

pub(super) static UPDATEABLE: Row = Row {
    name: "updateable",
    kind: Type::Bool,
    classes: LOCAL,
    source: Source::Computed(|_, vm| Some(Value::Bool(vm.class.template_rule() == TemplateRule::None))),
    help: "Whether the VM is updated by itself: it has no template.",
    ..FIXED
};

pub(super) static ICON: Row = Row {
    name: "icon",
    classes: ALL,
    source: Source::Computed(|snapshot, vm| {
        let label = snapshot.model.label(vm.label)?;
        Some(Value::text(format!("{}-{}", icon_kind(vm), label.name)))
    }),
    on_dom0: Some(|_, _| Some(Value::text("adminvm-black"))),
    help: "The name of the VM's icon, made of what it is for and its label.",
    ..FIXED
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
