//! Set and Reset, for every property alike.

use std::sync::Arc;

use uuid::Uuid;

use super::super::class::VmClass;
use super::super::diff::{Diff, Refused};
use super::super::event::{EventKind, ModelEvent, PropertyChange};
use super::super::refusal::Refusal;
use super::super::snapshot::Snapshot;
use super::super::value::Value;
use super::super::vm::Vm;
use super::super::write::Write;
use super::row::{Change, Effects, Inherit, Rules, Source};
use super::{Property, parse, shown, value, value_shown};

/// Sets a property of a VM to a client's bytes. Setting it to the value that it has is a change too: it is
/// stored, and all events are sent.
///
/// # Errors
/// Unknown VM or property; a value that breaks a rule. What is vetoed after it was announced says so in
/// `pre_events`.
pub fn set(snapshot: &Snapshot, vm: Uuid, name: &str, bytes: &[u8]) -> Result<Diff<()>, Refused> {
    let vm = snapshot.model.find_uuid(vm)?;
    let property = Property::of(vm, name)?;
    let value = parse::parse(&snapshot.model, property.name(), property.row().kind, bytes)?;
    set_value(snapshot, vm, property, value)
}

/// Sets a property of a VM to a value of its type.
///
/// # Errors
/// As [`set`], but for those about the bytes.
pub fn set_value(snapshot: &Snapshot, vm: &Vm, property: Property, new: Value) -> Result<Diff<()>, Refused> {
    let rules = settable(vm, property)?;
    let new = (rules.canonical)(new)?;
    (rules.fits)(snapshot, vm, &new)?;
    let old = value(snapshot, vm, property);
    let change = PropertyChange {
        name: property.name(),
        new: Some(shown(&snapshot.model, Some(&new))),
        old: value_shown(snapshot, vm, property),
    };
    let pre_events = vec![ModelEvent::of(vm, EventKind::PropertyPreSet(change.clone()))];
    if let Err(refusal) = (rules.veto)(snapshot, vm, Change::Set(&new)) {
        return Err(Refused { pre_events, refusal });
    }
    let Effects { writes, mut events } = (rules.effects)(snapshot, vm, old.as_ref(), Some(&new));
    events.extend(inherited(snapshot, vm, property, rules, old.as_ref(), Some(&new)));
    events.push(ModelEvent::of(vm, EventKind::PropertySet(change)));
    let mut diff = Diff::new(()).write(Write::SetProperty(vm.uuid, property, Some(new)));
    diff.pre_events = pre_events;
    diff.writes.extend(writes);
    diff.events = events;
    Ok(diff)
}

/// Gives a property of a VM its default back.
///
/// # Errors
/// Unknown VM or property; a property that cannot be without a value. What is vetoed after it was announced
/// says so in `pre_events`.
pub fn reset(snapshot: &Snapshot, vm: Uuid, name: &str) -> Result<Diff<()>, Refused> {
    let vm = snapshot.model.find_uuid(vm)?;
    let property = Property::of(vm, name)?;
    let rules = settable(vm, property)?;
    if property == Property::Label {
        return Err(Refusal::PropertyWithoutDefault { property: property.name() }.into());
    }
    let old = value(snapshot, vm, property);
    let new = rules.default.value(snapshot, vm);
    let old_shown = value_shown(snapshot, vm, property);
    let change = PropertyChange { name: property.name(), new: None, old: old_shown };
    let of = |kind| ModelEvent::of(vm, kind);
    let mut pre_events = vec![of(EventKind::PropertyPreReset(change.clone()))];
    if let Err(refusal) = (rules.veto)(snapshot, vm, Change::Reset(new.as_ref())) {
        return Err(Refused { pre_events, refusal });
    }
    // A netvm that changes by a reset is announced as set, too, and what vetoes that vetoes the reset.
    let set = new.as_ref().filter(|_| property == Property::Netvm && old != new);
    let set = set
        .map(|new| (new, PropertyChange { new: Some(shown(&snapshot.model, Some(new))), ..change.clone() }));
    if let Some((new, set)) = &set {
        pre_events.push(of(EventKind::PropertyPreSet(set.clone())));
        if let Err(refusal) = (rules.veto)(snapshot, vm, Change::Set(new)) {
            return Err(Refused { pre_events, refusal });
        }
    }
    pre_events.push(of(EventKind::PropertyPreDel(change.clone())));
    let Effects { writes, mut events } = (rules.effects)(snapshot, vm, old.as_ref(), new.as_ref());
    events.extend(inherited(snapshot, vm, property, rules, old.as_ref(), new.as_ref()));
    events.extend(set.map(|(_, set)| of(EventKind::PropertySet(set))));
    events.push(of(EventKind::PropertyReset(change.clone())));
    events.push(of(EventKind::PropertyDel(change)));
    let mut diff = Diff::new(()).write(Write::SetProperty(vm.uuid, property, None));
    diff.pre_events = pre_events;
    diff.writes.extend(writes);
    diff.events = events;
    Ok(diff)
}

/// The rules of a property, or why it cannot be set.
fn settable(vm: &Vm, property: Property) -> Result<&'static Rules, Refusal> {
    let row = property.row();
    let computed = row.on_dom0.is_some() && vm.class == VmClass::AdminVm;
    match &row.source {
        Source::Stored(rules) if !computed => Ok(rules),
        Source::Identity(_) if !computed => Err(Refusal::PropertyWriteOnce { property: row.name }),
        Source::Stored(_) | Source::Identity(_) | Source::Computed(_) => {
            Err(Refusal::PropertyReadOnly { property: row.name, class: Some(vm.class) })
        }
    }
}

/// Events for the VMs that show a template's value and now show another.
fn inherited(
    snapshot: &Snapshot,
    vm: &Vm,
    property: Property,
    rules: &Rules,
    old: Option<&Value>,
    new: Option<&Value>,
) -> Vec<ModelEvent> {
    if rules.inherit == Inherit::Never || vm.class != VmClass::TemplateVm || old == new {
        return Vec::new();
    }
    followers_reset(snapshot, vm, property)
}

/// Events that a property of the VMs based on a template is another now, where they have no own value.
pub(super) fn followers_reset(snapshot: &Snapshot, template: &Vm, property: Property) -> Vec<ModelEvent> {
    let based = snapshot.model.vms_naming(template.uuid, Property::Template);
    let follow = based.filter(|vm| property.applies_to(vm.class) && !vm.properties.contains_key(&property));
    by_name(follow).into_iter().map(|vm| recomputed(vm, property.name())).collect()
}

/// VMs in the order of their names, dom0 first: that of events about many.
pub(in super::super) fn by_name<'a>(vms: impl Iterator<Item = &'a Arc<Vm>>) -> Vec<&'a Arc<Vm>> {
    let mut vms: Vec<_> = vms.collect();
    vms.sort_by(|a, b| (a.uuid != Vm::DOM0, &a.name).cmp(&(b.uuid != Vm::DOM0, &b.name)));
    vms
}

/// An event that tells of a computed value that is another now.
pub(in super::super) fn recomputed(vm: &Vm, name: &'static str) -> ModelEvent {
    ModelEvent::of(vm, EventKind::PropertyReset(PropertyChange { name, new: None, old: None }))
}
