//! Which VMs show a VM's windows, play its sound and stand for its keyboard; and the tags that say so to
//! policies.

use std::collections::HashSet;
use std::sync::Arc;

use uuid::Uuid;

use super::super::event::{EventKind, ModelEvent, PropertyChange};
use super::super::global::Global;
use super::super::ids::Tag;
use super::super::model::Model;
use super::super::refusal::Refusal;
use super::super::value::{Type, Value};
use super::super::vm::Vm;
use super::super::write::Write;
use super::change::by_name;
use super::resources::refuse;
use super::row::{Effects, Fallback, LOCAL, PLAIN, ROW, Row, Rules, Source, Stage, TakesEffect};
use super::{Property, shown};

pub(super) static GUIVM: Row = Row {
    name: "guivm",
    kind: Type::Vm,
    stage: Stage::Late,
    takes_effect: TakesEffect::NextStart,
    source: Source::Stored(Rules {
        default: Fallback::To(|snapshot, _| Some(Value::Vm(snapshot.model.global_vm(Global::DefaultGuivm)))),
        effects: |snapshot, vm, _, new| {
            retagged(&snapshot.model, vm, Property::Guivm, new.and_then(Value::as_vm))
        },
        ..PLAIN
    }),
    default: "the global ``default_guivm``",
    help: "The VM that shows this one's windows. The tag ``guivm-NAME`` follows it.",
    ..ROW
};

pub(super) static AUDIOVM: Row = Row {
    name: "audiovm",
    kind: Type::Vm,
    stage: Stage::Late,
    source: Source::Stored(Rules {
        default: Fallback::To(|snapshot, _| {
            Some(Value::Vm(snapshot.model.global_vm(Global::DefaultAudiovm)))
        }),
        effects: |snapshot, vm, _, new| {
            retagged(&snapshot.model, vm, Property::Audiovm, new.and_then(Value::as_vm))
        },
        ..PLAIN
    }),
    default: "the global ``default_audiovm``",
    help: "The VM that plays this one's sound. The tag ``audiovm-NAME`` follows it.",
    ..ROW
};

/// The properties whose value a tag tells, each `PROPERTY-NAME`, and the global that is their default.
const TAGGED: [(Property, Option<Global>); 3] = [
    (Property::Guivm, Some(Global::DefaultGuivm)),
    (Property::Audiovm, Some(Global::DefaultAudiovm)),
    (Property::Relayvm, None),
];

fn belongs(tag: &Tag, property: Property) -> bool {
    tag.as_str().strip_prefix(property.name()).is_some_and(|rest| rest.starts_with('-'))
}

/// The tag that tells of a property's value; `None` where it names no VM, or one whose name no tag can hold.
fn tag(model: &Model, property: Property, target: Option<Uuid>) -> Option<Tag> {
    let name = model.name_of(target?)?;
    format!("{property}-{name}").parse().ok()
}

/// What makes a VM's tags tell of a property's new value.
pub(in super::super) fn retagged(
    model: &Model,
    vm: &Vm,
    property: Property,
    target: Option<Uuid>,
) -> Effects {
    let new = tag(model, property, target);
    let mut effects = Effects::default();
    for old in vm.tags.iter().filter(|old| belongs(old, property) && Some(*old) != new.as_ref()) {
        effects.writes.push(Write::RemoveTag(vm.uuid, old.clone()));
        effects.events.push(ModelEvent::of(vm, EventKind::DomainTagDelete { tag: old.clone() }));
    }
    if let Some(new) = new.filter(|new| !vm.tags.contains(new)) {
        effects.writes.push(Write::AddTag(vm.uuid, new.clone()));
        effects.events.push(ModelEvent::of(vm, EventKind::DomainTagAdd { tag: new }));
    }
    effects
}

/// A VM with the tags that tell of its properties. For VMs that are made, or come from outside; no event tells of
/// it, as these tags are there from the start.
pub(in super::super) fn tagged(model: &Model, vm: &Vm) -> Vm {
    let mut vm = vm.clone();
    for (property, default) in TAGGED {
        vm.tags.retain(|tag| !belongs(tag, property));
        if property.applies_to(vm.class) {
            let by_default = || default.and_then(|global| model.global_vm(global));
            let target = vm.reference(property).unwrap_or_else(by_default);
            vm.tags.extend(tag(model, property, target));
        }
    }
    vm
}

pub(super) static KEYBOARD_LAYOUT: Row = Row {
    name: "keyboard_layout",
    classes: LOCAL,
    source: Source::Stored(Rules {
        canonical: |value| match value.as_str() {
            Some(text) => layout(text).map(|()| value),
            None => Ok(value),
        },
        default: Fallback::To(|snapshot, vm| Some(default_layout(&snapshot.model, vm))),
        effects: |snapshot, vm, old, new| {
            Effects::events(if old == new { Vec::new() } else { told_to_shown(&snapshot.model, vm, old) })
        },
        ..PLAIN
    }),
    default: "the guivm's, else ``us++``",
    help: "The layout of the keyboard as ``LAYOUT+VARIANT+OPTIONS``; variant and options may be empty.",
    ..ROW
};

fn layout(text: &str) -> Result<(), Refusal> {
    let refused = |words: &'static str| Err(refuse(Property::KeyboardLayout, words));
    if !text.is_ascii() {
        return refused("Keyboard layouts must be ASCII");
    }
    let parts: Vec<&str> = text.split('+').collect();
    let [layout, variant, options] = parts[..] else {
        return refused("invalid number of keyboard layout parameters");
    };
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if layout.is_empty() || !layout.bytes().all(|b| b.is_ascii_alphabetic()) {
        refused("Invalid keyboard layout provided")
    } else if !variant.bytes().all(word) {
        refused("Invalid layout variant provided")
    } else if !options.bytes().all(|b| word(b) || matches!(b, b':' | b',')) {
        refused("Invalid layout options provided")
    } else {
        Ok(())
    }
}

/// The layout of the nearest guivm that has one set.
fn default_layout(model: &Model, vm: &Vm) -> Value {
    let mut seen = HashSet::from([vm.uuid]);
    let mut next = guivm(model, vm);
    while let Some(at) = next.filter(|at| seen.insert(at.uuid)) {
        if let Some(layout) = at.properties.get(&Property::KeyboardLayout) {
            return layout.clone();
        }
        next = guivm(model, at);
    }
    Value::text("us++")
}

fn guivm<'a>(model: &'a Model, vm: &Vm) -> Option<&'a Arc<Vm>> {
    let by_default = || model.global_vm(Global::DefaultGuivm);
    let chosen = Property::Guivm
        .applies_to(vm.class)
        .then(|| vm.reference(Property::Guivm).unwrap_or_else(by_default));
    model.vm(chosen??)
}

/// Events for the VMs that this one shows and that have no layout of their own.
fn told_to_shown(model: &Model, vm: &Vm, old: Option<&Value>) -> Vec<ModelEvent> {
    let by_default = model.global_vm(Global::DefaultGuivm) == Some(vm.uuid);
    let following = by_default.then(|| model.following(Property::Guivm)).into_iter().flatten();
    let theirs = model.vms_naming(vm.uuid, Property::Guivm).chain(following);
    let follow = theirs
        .filter(|shown| shown.uuid != vm.uuid && !shown.properties.contains_key(&Property::KeyboardLayout));
    let old = old.map(|old| shown(model, Some(old)));
    by_name(follow)
        .into_iter()
        .map(|shown| {
            let change = PropertyChange { name: "keyboard_layout", new: None, old: old.clone() };
            ModelEvent::of(shown, EventKind::PropertyReset(change))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::class::VmClass;
    use super::super::super::snapshot::Snapshot;
    use super::super::super::testing::{make, new_vm, reset, set, set_global, short, small_model, vm};
    use super::*;

    fn tags(snapshot: &Snapshot, name: &str) -> Vec<String> {
        vm(snapshot, name).tags.iter().map(ToString::to_string).collect()
    }

    fn layout_of(snapshot: &Snapshot, name: &str) -> String {
        Property::KeyboardLayout.text(snapshot, &vm(snapshot, name)).unwrap()
    }

    #[test]
    fn a_tag_follows_the_vm_that_shows_the_windows() {
        let mut snapshot = small_model();
        assert_eq!(tags(&snapshot, "work"), ["audiovm-dom0", "created-by-dom0", "guivm-dom0"]);
        let events = set(&mut snapshot, "work", "guivm", "sys-net").unwrap();
        assert_eq!(
            short(&events),
            [
                "work pre-set:guivm sys-net dom0",
                "work tag-delete:guivm-dom0",
                "work tag-add:guivm-sys-net",
                "work set:guivm sys-net dom0",
            ]
        );
        let events = set(&mut snapshot, "work", "guivm", "sys-net").unwrap();
        assert_eq!(short(&events), ["work pre-set:guivm sys-net sys-net", "work set:guivm sys-net sys-net"]);
        let events = set(&mut snapshot, "work", "guivm", "").unwrap();
        assert_eq!(short(&events)[1..2], ["work tag-delete:guivm-sys-net"]);
        assert_eq!(tags(&snapshot, "work"), ["audiovm-dom0", "created-by-dom0"]);
        let events = reset(&mut snapshot, "work", "guivm").unwrap();
        assert_eq!(
            short(&events),
            [
                "work pre-reset:guivm - None",
                "work pre-del:guivm - None",
                "work tag-add:guivm-dom0",
                "work reset:guivm - None",
                "work del:guivm - None",
            ]
        );
        let events = set(&mut snapshot, "work", "audiovm", "sys-net").unwrap();
        assert_eq!(short(&events)[1..3], ["work tag-delete:audiovm-dom0", "work tag-add:audiovm-sys-net"]);
        assert_eq!(snapshot.model, snapshot.model.reindexed());
    }

    #[test]
    fn a_tag_follows_the_relay_of_a_remote_vm() {
        let mut snapshot = small_model();
        make(&mut snapshot, &new_vm("far", VmClass::RemoteVm, None));
        assert_eq!(tags(&snapshot, "far"), ["created-by-dom0"]);
        let events = set(&mut snapshot, "far", "relayvm", "sys-net").unwrap();
        assert_eq!(
            short(&events),
            [
                "far pre-set:relayvm sys-net None",
                "far tag-add:relayvm-sys-net",
                "far set:relayvm sys-net None"
            ]
        );
        let events = reset(&mut snapshot, "far", "relayvm").unwrap();
        assert_eq!(short(&events)[2], "far tag-delete:relayvm-sys-net");
    }

    #[test]
    fn a_disposable_has_the_tags_of_its_own_properties_not_of_its_bases() {
        let mut snapshot = small_model();
        set(&mut snapshot, "work", "template_for_dispvms", "1").unwrap();
        set(&mut snapshot, "work", "guivm", "sys-net").unwrap();
        let sys_net = vm(&snapshot, "sys-net").uuid;
        Write::AddTag(vm(&snapshot, "work").uuid, "relayvm-x".parse().unwrap())
            .apply(&mut snapshot.model)
            .unwrap();
        set_global(&mut snapshot, Global::DefaultAudiovm, Value::Vm(Some(sys_net)));
        make(&mut snapshot, &new_vm("disp", VmClass::DispVm, Some("work")));
        assert_eq!(tags(&snapshot, "disp"), ["audiovm-sys-net", "created-by-dom0", "guivm-sys-net"]);
    }

    #[test]
    fn a_vm_without_a_layout_has_the_nearest_guivms() {
        let mut snapshot = small_model();
        assert_eq!(layout_of(&snapshot, "work"), "us++");
        let events = set(&mut snapshot, "dom0", "keyboard_layout", "de++").unwrap();
        assert_eq!(
            short(&events),
            [
                "dom0 pre-set:keyboard_layout de++ us++",
                "debian reset:keyboard_layout - us++",
                "sys-net reset:keyboard_layout - us++",
                "work reset:keyboard_layout - us++",
                "dom0 set:keyboard_layout de++ us++",
            ]
        );
        assert_eq!(
            set(&mut snapshot, "dom0", "keyboard_layout", "de++").unwrap().len(),
            2,
            "nothing changes"
        );
        assert_eq!(layout_of(&snapshot, "work"), "de++");
        set(&mut snapshot, "work", "guivm", "sys-net").unwrap();
        let events = set(&mut snapshot, "sys-net", "keyboard_layout", "cz+qwerty+a:b,c").unwrap();
        assert_eq!(short(&events)[1..2], ["work reset:keyboard_layout - de++"]);
        assert_eq!(layout_of(&snapshot, "work"), "cz+qwerty+a:b,c");
        set(&mut snapshot, "work", "keyboard_layout", "fr++").unwrap();
        assert_eq!(set(&mut snapshot, "sys-net", "keyboard_layout", "us++").unwrap().len(), 2);
    }

    #[test]
    fn vms_that_show_each_other_have_a_layout_all_the_same() {
        let mut snapshot = small_model();
        set(&mut snapshot, "work", "guivm", "sys-net").unwrap();
        set(&mut snapshot, "sys-net", "guivm", "work").unwrap();
        set(&mut snapshot, "debian", "guivm", "debian").unwrap();
        for name in ["work", "sys-net", "debian"] {
            assert_eq!(layout_of(&snapshot, name), "us++");
        }
        let events = set(&mut snapshot, "debian", "keyboard_layout", "de++").unwrap();
        assert_eq!(events.len(), 2, "it is not told to itself");
    }
}
