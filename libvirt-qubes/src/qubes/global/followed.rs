//! The global properties that VMs follow as long as they set none of their own, and what a change tells those VMs.

use std::sync::Arc;

use super::super::event::{EventKind, ModelEvent, PropertyChange};
use super::super::ids::{FeatureName, FeatureValue};
use super::super::model::Model;
use super::super::property::change::by_name;
use super::super::property::desktop::retagged;
use super::super::property::network::netvm_runs;
use super::super::property::template::base_of_disposables;
use super::super::property::{Effects, Property, shown};
use super::super::refusal::{Owner, Refusal};
use super::super::snapshot::Snapshot;
use super::super::value::{Shown, Value};
use super::super::vm::Vm;
use super::super::write::Write;
use super::row::{Announced, GlobalFallback, GlobalRow, GlobalRules, GlobalSource, NONE, PLAIN, ROW};

fn followers(model: &Model, property: Property) -> Vec<&Arc<Vm>> {
    by_name(model.following(property))
}

fn change(property: Property, new: Option<Shown>, old: Option<Shown>) -> PropertyChange {
    PropertyChange { name: property.name(), new, old }
}

pub(super) static DEFAULT_NETVM: GlobalRow = GlobalRow {
    name: "default_netvm",
    source: GlobalSource::Stored(GlobalRules {
        fits: closes_no_loop,
        announce: netvm_announced,
        default: NONE,
        effects: |snapshot, old, new| {
            let model = &snapshot.model;
            let (old_shown, new_shown) = (shown(model, old), shown(model, new));
            let mut events = Vec::new();
            for vm in followers(model, Property::Netvm) {
                if old != new {
                    let set = change(Property::Netvm, Some(new_shown.clone()), Some(old_shown.clone()));
                    events.push(ModelEvent::of(vm, EventKind::PropertySet(set)));
                }
                let reset = change(Property::Netvm, None, Some(old_shown.clone()));
                events.push(ModelEvent::of(vm, EventKind::PropertyReset(reset)));
            }
            Effects::events(events)
        },
        ..PLAIN
    }),
    default: "none",
    help: "The VM from which VMs get their network that do not say otherwise. Templates do not follow it.",
    ..ROW
};

/// A VM that gets its network by default, and is above the new default, would be above itself.
fn closes_no_loop(snapshot: &Snapshot, value: &Value) -> Result<(), Refusal> {
    let model = &snapshot.model;
    let Some(netvm) = value.as_vm().and_then(|vm| model.vm(vm)) else { return Ok(()) };
    match model.netvm_chain(netvm).find(|above| model.follows(above.uuid, Property::Netvm)) {
        Some(follower) => Err(Refusal::DefaultNetworkLoop { vm: follower.name.clone() }),
        None => Ok(()),
    }
}

fn netvm_announced(snapshot: &Snapshot, old: Option<&Value>, new: Option<&Value>) -> Announced {
    let model = &snapshot.model;
    let (old_shown, new_shown) = (shown(model, old), shown(model, new));
    let mut events = Vec::new();
    for vm in followers(model, Property::Netvm) {
        let set = change(Property::Netvm, Some(new_shown.clone()), Some(old_shown.clone()));
        events.push(ModelEvent::of(vm, EventKind::PropertyPreSet(set)));
        if let Some(Err(refusal)) = new.map(|new| netvm_runs(snapshot, vm, new)) {
            return (events, Err(refusal));
        }
    }
    (events, Ok(()))
}

pub(super) static DEFAULT_DISPVM: GlobalRow = GlobalRow {
    name: "default_dispvm",
    source: GlobalSource::Stored(GlobalRules {
        fits: |snapshot, value| base_of_disposables(snapshot, &Owner::System, "default_dispvm", value),
        default: NONE,
        effects: |snapshot, old, _| {
            let old = shown(&snapshot.model, old);
            let told = |vm: &Arc<Vm>| {
                let reset = change(Property::DefaultDispvm, None, Some(old.clone()));
                ModelEvent::of(vm, EventKind::PropertyReset(reset))
            };
            Effects::events(
                followers(&snapshot.model, Property::DefaultDispvm).into_iter().map(told).collect(),
            )
        },
        ..PLAIN
    }),
    default: "none",
    help: "What disposables are based on where neither the call nor the VM that asks says otherwise.",
    ..ROW
};

pub(super) static DEFAULT_GUIVM: GlobalRow = GlobalRow {
    name: "default_guivm",
    source: GlobalSource::Stored(GlobalRules {
        default: GlobalFallback::To(|_| Some(Value::Vm(Some(Vm::DOM0)))),
        effects: |snapshot, old, new| tagged(&snapshot.model, Property::Guivm, old, new),
        ..PLAIN
    }),
    default: "dom0",
    help: "The VM that shows the windows of VMs that do not say otherwise.",
    ..ROW
};

pub(super) static DEFAULT_AUDIOVM: GlobalRow = GlobalRow {
    name: "default_audiovm",
    source: GlobalSource::Stored(GlobalRules {
        default: GlobalFallback::To(|_| Some(Value::Vm(Some(Vm::DOM0)))),
        effects: |snapshot, old, new| tagged(&snapshot.model, Property::Audiovm, old, new),
        ..PLAIN
    }),
    default: "dom0",
    help: "The VM that plays the sound of VMs that do not say otherwise.",
    ..ROW
};

/// The tags of those who follow, and what they are told.
fn tagged(model: &Model, property: Property, old: Option<&Value>, new: Option<&Value>) -> Effects {
    let (old_shown, new_shown) = (shown(model, old), shown(model, new));
    let mut effects = Effects::default();
    for vm in followers(model, property) {
        let tags = retagged(model, vm, property, new.and_then(Value::as_vm));
        effects.writes.extend(tags.writes);
        effects.events.extend(tags.events);
        let set = change(property, Some(new_shown.clone()), Some(old_shown.clone()));
        effects.events.push(ModelEvent::of(vm, EventKind::PropertySet(set)));
    }
    effects
}

pub(super) static CLOCKVM: GlobalRow = GlobalRow {
    name: "clockvm",
    source: GlobalSource::Stored(GlobalRules { default: NONE, effects: clock_moved, ..PLAIN }),
    default: "none",
    help: "The VM that dom0 sets its clock by. The feature ``service.clocksync`` follows it.",
    ..ROW
};

fn clock_moved(snapshot: &Snapshot, old: Option<&Value>, new: Option<&Value>) -> Effects {
    let mut effects = Effects::default();
    let (Ok(feature), Ok(on)) = ("service.clocksync".parse::<FeatureName>(), "1".parse::<FeatureValue>())
    else {
        return effects;
    };
    let vm = |value: Option<&Value>| value.and_then(Value::as_vm).and_then(|vm| snapshot.model.vm(vm));
    let mut tell = |vm: &Vm, value: Option<FeatureValue>, kinds: [EventKind; 2]| {
        effects.writes.push(Write::SetFeature(vm.uuid, feature.clone(), value));
        effects.events.extend(kinds.map(|kind| ModelEvent::of(vm, kind)));
    };
    if let Some(vm) = vm(new).filter(|vm| !vm.features.contains_key(&feature)) {
        let kinds = [
            EventKind::DomainFeaturePreSet { feature: feature.clone(), value: on.clone(), old: None },
            EventKind::DomainFeatureSet { feature: feature.clone(), value: on.clone(), old: None },
        ];
        tell(vm, Some(on), kinds);
    }
    let serves = |vm: &&Arc<Vm>| vm.feature(feature.as_str()).is_some_and(|value| !value.is_empty());
    if let Some(vm) = vm(old).filter(|_| old != new).filter(serves) {
        let kinds = [
            EventKind::DomainFeaturePreDelete { feature: feature.to_string() },
            EventKind::DomainFeatureDelete { feature: feature.clone() },
        ];
        tell(vm, None, kinds);
    }
    effects
}
