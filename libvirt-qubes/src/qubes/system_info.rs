//! What the qrexec policy decides by: a few facts about every VM, as they are together at one moment.

use uuid::Uuid;

use super::class::VmClass;
use super::ids::Tag;
use super::label::Label;
use super::look::PowerState;
use super::property::{self, Property};
use super::snapshot::Snapshot;
use super::value::Value;
use super::vm::Vm;
use crate::ids::VmName;

/// What the policy knows of a VM.
#[derive(Debug, Clone, PartialEq)]
pub struct DomainFacts<'a> {
    /// Its name.
    pub name: &'a VmName,
    /// Its identity.
    pub uuid: Uuid,
    /// Its class.
    pub class: VmClass,
    /// Its own feature `internal`: it is hidden from people.
    pub internal: Option<&'a str>,
    /// Its tags, sorted.
    pub tags: Vec<&'a Tag>,
    /// Whether disposables may be based on it.
    pub template_for_dispvms: bool,
    /// What disposables that it asks for are based on.
    pub default_dispvm: Option<VmName>,
    /// Its label; `None` if that is damaged.
    pub label: Option<&'a Label>,
    /// The VM that shows its windows.
    pub guivm: Option<VmName>,
    /// The VM that relays its calls.
    pub relayvm: Option<VmName>,
    /// The service by which it is reached.
    pub transport_rpc: Option<String>,
    /// What it is doing.
    pub power_state: PowerState,
}

/// These facts of every VM, dom0 first, the others by name.
pub fn system_info(snapshot: &Snapshot) -> impl Iterator<Item = DomainFacts<'_>> {
    let value = |vm: &Vm, property: Property| {
        property.applies_to(vm.class).then(|| property::value(snapshot, vm, property)).flatten()
    };
    let named = move |vm: &Vm, property| {
        value(vm, property).and_then(|value| value.as_vm()).and_then(|uuid| snapshot.model.name_of(uuid))
    };
    snapshot.model.vms().map(move |vm| DomainFacts {
        name: &vm.name,
        uuid: vm.uuid,
        class: vm.class,
        internal: vm.feature("internal"),
        tags: vm.tags.iter().collect(),
        template_for_dispvms: property::explicit(vm, Property::TemplateForDispvms) == Some(Value::Bool(true)),
        default_dispvm: named(vm, Property::DefaultDispvm),
        label: snapshot.model.label(vm.label).map(AsRef::as_ref),
        guivm: named(vm, Property::Guivm),
        relayvm: named(vm, Property::Relayvm),
        transport_rpc: value(vm, Property::TransportRpc)
            .and_then(|value| value.as_str().map(|text| text.to_string()))
            .filter(|text| !text.is_empty()),
        power_state: snapshot.power_state(vm),
    })
}

#[cfg(test)]
mod tests {
    use super::super::global::Global;
    use super::super::testing::{apply, make, new_vm, set, set_global, small_model, vm};
    use super::super::{feature, tag};
    use super::*;

    #[test]
    fn the_facts_are_those_that_hold_and_dom0_comes_first() {
        let mut snapshot = small_model();
        make(&mut snapshot, &new_vm("far", VmClass::RemoteVm, None));
        set(&mut snapshot, "far", "relayvm", "sys-net").unwrap();
        set(&mut snapshot, "far", "transport_rpc", "ssh").unwrap();
        set(&mut snapshot, "work", "template_for_dispvms", "True").unwrap();
        let work = vm(&snapshot, "work");
        set_global(&mut snapshot, Global::DefaultDispvm, Value::Vm(Some(work.uuid)));
        let diff = feature::set(&snapshot, work.uuid, &"internal".parse().unwrap(), &"".parse().unwrap());
        apply(&mut snapshot, diff.unwrap());
        let diff = tag::add(&snapshot, work.uuid, &"a".parse().unwrap()).unwrap();
        apply(&mut snapshot, diff);
        let facts: Vec<_> = system_info(&snapshot).collect();
        let names: Vec<_> = facts.iter().map(|facts| facts.name.as_str()).collect();
        assert_eq!(names, ["dom0", "debian", "far", "sys-net", "work"]);
        let (dom0, work) = (&facts[0], &facts[4]);
        assert_eq!((dom0.internal, work.internal), (None, Some("")));
        assert_eq!((dom0.template_for_dispvms, work.template_for_dispvms), (false, true));
        assert_eq!(
            work.tags.iter().map(|tag| tag.as_str()).collect::<Vec<_>>(),
            ["a", "audiovm-dom0", "created-by-dom0", "guivm-dom0"]
        );
        // A remote VM, and who relays its calls.
        let far = facts.iter().find(|facts| facts.class == VmClass::RemoteVm).unwrap();
        assert_eq!(far.relayvm.as_ref().map(VmName::as_str), Some("sys-net"));
        assert_eq!((far.transport_rpc.as_deref(), work.transport_rpc.as_deref()), (Some("ssh"), None));
        let dispvms = facts.iter().filter(|facts| facts.class != VmClass::RemoteVm);
        let dispvms = dispvms.map(|facts| facts.default_dispvm.as_ref().map(VmName::as_str));
        assert!(dispvms.into_iter().all(|dispvm| dispvm == Some("work")));
        assert_eq!(work.label.map(|label| label.colour.as_str()), Some("0xcc0000"));
        assert_eq!((&dom0.guivm, work.guivm.as_ref().map(VmName::as_str)), (&None, Some("dom0")));
        assert_eq!((dom0.power_state.as_str(), work.power_state.as_str()), ("Running", "Halted"));
    }
}
