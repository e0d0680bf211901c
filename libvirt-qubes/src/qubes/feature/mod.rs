//! Features: names with a text each, on every VM. A feature that is there and empty says no; one that is not there
//! says nothing, and a template, a netvm or dom0 may be asked in its stead.

mod rule;
#[cfg(test)]
mod tests;

use uuid::Uuid;

use super::diff::{Diff, Refused};
use super::event::{EventKind, ModelEvent};
use super::host::Host;
use super::ids::{FeatureName, FeatureValue};
use super::model::Model;
use super::property::change::{by_name, recomputed};
use super::property::{self, Property};
use super::refusal::{HostError, Refusal};
use super::snapshot::Snapshot;
use super::value::Value;
use super::vm::Vm;
use super::write::Write;
use crate::ids::VmName;

/// Features that the daemon keeps for itself.
const PROTECTED: [&str; 4] =
    ["deferred-netvm-original", "preload-dispvm", "preload-dispvm-completed", "preload-dispvm-in-progress"];

/// The old way to switch memory balancing: it becomes the property `maxmem` and does not stay.
const MEMINFO_WRITER: &str = "service.meminfo-writer";

/// Who is asked for a feature that the VM does not have, in order. The first that has it answers, also if it is
/// empty there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fallback {
    /// Nobody.
    Nobody,
    /// Its template, the template's template.
    Templates,
    /// Its netvm, that one's netvm.
    Netvms,
    /// dom0.
    AdminVm,
    /// Its templates, then dom0.
    TemplatesAndAdminVm,
}

impl Vm {
    /// The names of its features in the order in which they came.
    pub fn features_in_order(&self) -> Vec<&FeatureName> {
        let mut features: Vec<_> = self.features.iter().collect();
        features.sort_by_key(|(_, feature)| feature.position);
        features.into_iter().map(|(name, _)| name).collect()
    }
}

/// The value of a feature.
///
/// # Errors
/// [`Refusal::FeatureNotFound`].
pub fn find<'a>(model: &'a Model, vm: &'a Vm, name: &str, fallback: Fallback) -> Result<&'a str, Refusal> {
    let of_admin = || model.vm(Vm::DOM0).and_then(|dom0| dom0.feature(name));
    let found = match fallback {
        Fallback::Nobody => vm.feature(name),
        Fallback::Templates => model.feature_with_template(vm, name),
        Fallback::Netvms => model.feature_with_netvm(vm, name),
        Fallback::AdminVm => vm.feature(name).or_else(of_admin),
        Fallback::TemplatesAndAdminVm => model.feature_with_template(vm, name).or_else(of_admin),
    };
    found.ok_or_else(|| Refusal::FeatureNotFound { vm: vm.name.clone(), feature: name.to_owned() })
}

/// Sets a feature. One that is there keeps its place; setting the value that it has is a change too.
///
/// # Errors
/// Unknown VM; [`Refusal::FeatureProtected`]. What its use forbids is refused after it was announced.
pub fn set(
    snapshot: &Snapshot,
    vm: Uuid,
    name: &FeatureName,
    value: &FeatureValue,
) -> Result<Diff<()>, Refused> {
    let vm = snapshot.model.find_uuid(vm)?;
    unprotected(name.as_str())?;
    let (feature, value) = (name.clone(), value.clone());
    let old = vm.features.get(name).map(|feature| feature.value.clone());
    let pre =
        EventKind::DomainFeaturePreSet { feature: feature.clone(), value: value.clone(), old: old.clone() };
    let was_there = old.is_some();
    let done = EventKind::DomainFeatureSet { feature, value: value.clone(), old };
    let announced = Diff::new(()).pre_event(ModelEvent::of(vm, pre));
    if let Err(refusal) = rule::check(snapshot, vm, name, &value) {
        return Err(Refused { pre_events: announced.pre_events, refusal });
    }
    let changed = if name.as_str() == MEMINFO_WRITER {
        let mut changed = balanced(snapshot, vm, &value, announced)?;
        if was_there {
            changed.writes.push(Write::SetFeature(vm.uuid, name.clone(), None));
        }
        let gone = [
            EventKind::DomainFeaturePreDelete { feature: name.to_string() },
            EventKind::DomainFeatureDelete { feature: name.clone() },
        ];
        changed.events.extend(gone.map(|kind| ModelEvent::of(vm, kind)));
        changed
    } else {
        let mut changed = announced;
        if vm.feature(name.as_str()) != Some(value.as_str()) {
            changed.events = shown_anew(snapshot, vm, name);
        }
        changed.write(Write::SetFeature(vm.uuid, name.clone(), Some(value)))
    };
    Ok(changed.event(ModelEvent::of(vm, done)))
}

/// Events of properties whose defaults follow a feature that changes.
fn shown_anew(snapshot: &Snapshot, vm: &Vm, name: &FeatureName) -> Vec<ModelEvent> {
    let follows = |vm: &Vm, property: Property| {
        property.applies_to(vm.class) && property::explicit(vm, property).is_none()
    };
    match name.as_str() {
        "boot-mode.active" if follows(vm, Property::Bootmode) => {
            vec![recomputed(vm, Property::Bootmode.name())]
        }
        "boot-mode.appvm-default" if follows(vm, Property::AppvmDefaultBootmode) => {
            let based = snapshot.model.vms_naming(vm.uuid, Property::Template);
            let based = by_name(based.filter(|based| follows(based, Property::Bootmode)));
            let own = recomputed(vm, Property::AppvmDefaultBootmode.name());
            let based = based.into_iter().map(|based| recomputed(based, Property::Bootmode.name()));
            std::iter::once(own).chain(based).collect()
        }
        _ => Vec::new(),
    }
}

/// Gives the memory balancer the VM, or takes it away.
fn balanced(
    snapshot: &Snapshot,
    vm: &Vm,
    value: &FeatureValue,
    announced: Diff<()>,
) -> Result<Diff<()>, Refused> {
    let mut pre_events = announced.pre_events;
    let change = Property::of(vm, "maxmem").map_err(Refused::from).and_then(|maxmem| {
        if value.as_str().is_empty() {
            property::set_value(snapshot, vm, maxmem, Value::Int(0))
        } else {
            property::reset(snapshot, vm.uuid, maxmem.name())
        }
    });
    match change {
        Ok(mut diff) => {
            pre_events.append(&mut diff.pre_events);
            Ok(Diff { pre_events, ..diff })
        }
        Err(mut refused) => {
            pre_events.append(&mut refused.pre_events);
            Err(Refused { pre_events, ..refused })
        }
    }
}

/// Removes a feature. That it is to be removed is announced also where it is not there, if it is a name that a
/// feature can have.
///
/// # Errors
/// Unknown VM; [`Refusal::FeatureProtected`]; [`Refusal::FeatureNotFound`].
pub fn remove(snapshot: &Snapshot, vm: Uuid, name: &str) -> Result<Diff<()>, Refused> {
    let vm = snapshot.model.find_uuid(vm)?;
    unprotected(name)?;
    let absent = || Refusal::FeatureNotFound { vm: vm.name.clone(), feature: name.to_owned() };
    let pre = ModelEvent::of(vm, EventKind::DomainFeaturePreDelete { feature: name.to_owned() });
    let Some(feature) = name.parse::<FeatureName>().ok().filter(|_| vm.feature(name).is_some()) else {
        return Err(Refused { pre_events: vec![pre], refusal: absent() });
    };
    let done = ModelEvent::of(vm, EventKind::DomainFeatureDelete { feature: feature.clone() });
    Ok(Diff::new(()).pre_event(pre).write(Write::SetFeature(vm.uuid, feature, None)).event(done))
}

fn unprotected(name: &str) -> Result<(), Refusal> {
    match name.parse() {
        Ok(feature) if PROTECTED.contains(&name) => Err(Refusal::FeatureProtected { feature }),
        Ok(_) | Err(_) => Ok(()),
    }
}

impl Host {
    /// Sets a feature of a VM. Acknowledged means durable.
    ///
    /// # Errors
    /// As [`set`]; the store cannot be written.
    pub async fn set_feature(
        &self,
        vm: &VmName,
        name: FeatureName,
        value: FeatureValue,
    ) -> Result<(), HostError> {
        let vm = self.snapshot().model.find_vm(vm)?.uuid;
        self.committer.commit(move |seen| set(seen, vm, &name, &value)).await
    }

    /// Removes a feature of a VM.
    ///
    /// # Errors
    /// As [`remove`]; the store cannot be written.
    pub async fn remove_feature(&self, vm: &VmName, name: &str) -> Result<(), HostError> {
        let vm = self.snapshot().model.find_vm(vm)?.uuid;
        let name = name.to_owned();
        self.committer.commit(move |seen| remove(seen, vm, &name)).await
    }
}
