//! Where a VM gets its network from.

use super::super::class::VmClass;
use super::super::event::{EventKind, ModelEvent};
use super::super::global::Global;
use super::super::ids::{FeatureName, FeatureValue};
use super::super::refusal::Refusal;
use super::super::snapshot::Snapshot;
use super::super::value::{Type, Value};
use super::super::vm::Vm;
use super::super::write::Write;
use super::Property;
use super::change::recomputed;
use super::resources::refuse;
use super::row::{Change, Effects, Fallback, PLAIN, ROW, Row, Rules, Source, Stage, TakesEffect};

pub(super) static NETVM: Row = Row {
    name: "netvm",
    kind: Type::Vm,
    stage: Stage::Late,
    source: Source::Stored(Rules {
        fits: netvm_fits,
        veto: |snapshot, vm, change| match change {
            Change::Reset(default) => default.map_or(Ok(()), |default| netvm_fits(snapshot, vm, default)),
            Change::Set(netvm) => netvm_runs(snapshot, vm, netvm),
        },
        default: Fallback::To(|snapshot, vm| {
            Some(Value::Vm(match vm.class {
                VmClass::TemplateVm => None,
                VmClass::AdminVm
                | VmClass::AppVm
                | VmClass::DispVm
                | VmClass::RemoteVm
                | VmClass::StandaloneVm => snapshot.model.global_vm(Global::DefaultNetvm),
            }))
        }),
        ..PLAIN
    }),
    default: "the global ``default_netvm``; of a TemplateVM none",
    help: "The VM from which this one gets its network. None: it has no network.",
    ..ROW
};

/// A VM that runs can be moved to a netvm that runs alone.
pub(in super::super) fn netvm_runs(snapshot: &Snapshot, vm: &Vm, netvm: &Value) -> Result<(), Refusal> {
    match netvm.as_vm().and_then(|target| snapshot.model.vm(target)) {
        Some(netvm) if !snapshot.is_halted(vm) && snapshot.is_halted(netvm) => {
            Err(Refusal::NetvmHalted { netvm: netvm.name.clone() })
        }
        Some(_) | None => Ok(()),
    }
}

fn netvm_fits(snapshot: &Snapshot, vm: &Vm, value: &Value) -> Result<(), Refusal> {
    let Some(netvm) = value.as_vm().and_then(|target| snapshot.model.vm(target)) else { return Ok(()) };
    if netvm.flag(Property::ProvidesNetwork) != Some(true) {
        return Err(Refusal::ProvidesNoNetwork { netvm: netvm.name.clone() });
    }
    if snapshot.model.netvm_chain(netvm).any(|above| above.uuid == vm.uuid) {
        return Err(Refusal::NetworkLoop);
    }
    Ok(())
}

pub(super) static PROVIDES_NETWORK: Row = Row {
    name: "provides_network",
    kind: Type::Bool,
    source: Source::Stored(Rules {
        fits: |snapshot, vm, value| {
            if value.as_bool() == Some(false) { unused(snapshot, vm) } else { Ok(()) }
        },
        veto: |snapshot, vm, change| match change {
            Change::Reset(_) => unused(snapshot, vm),
            Change::Set(_) => Ok(()),
        },
        default: Fallback::To(|_, _| Some(Value::Bool(false))),
        effects: |_, vm, _, new| service(vm, new == Some(&Value::Bool(true))),
        ..PLAIN
    }),
    default: "False",
    help: "Whether other VMs can get their network from this one. It stays so while any does.",
    ..ROW
};

fn unused(snapshot: &Snapshot, vm: &Vm) -> Result<(), Refusal> {
    let model = &snapshot.model;
    let bad = model.bad_rows_naming(vm.uuid).filter(|(_, property)| *property == NETVM.name);
    let clients = model.network_clients(vm.uuid).map(|client| client.name.clone());
    let by: std::collections::BTreeSet<_> = clients.chain(bad.map(|(client, _)| client)).collect();
    if by.is_empty() { Ok(()) } else { Err(Refusal::NetworkStillUsed { by }) }
}

/// The feature `servicevm` follows the property.
fn service(vm: &Vm, serves: bool) -> Effects {
    let mut effects = Effects::default();
    let (Ok(feature), Ok(one)) = ("servicevm".parse::<FeatureName>(), "1".parse::<FeatureValue>()) else {
        return effects;
    };
    let old = vm.features.get(&feature).map(|feature| feature.value.clone());
    let kinds = match (serves, old) {
        (true, old) => {
            effects.writes.push(Write::SetFeature(vm.uuid, feature.clone(), Some(one.clone())));
            let (feature, value) = (feature, one);
            vec![
                EventKind::DomainFeaturePreSet {
                    feature: feature.clone(),
                    value: value.clone(),
                    old: old.clone(),
                },
                EventKind::DomainFeatureSet { feature, value, old },
            ]
        }
        (false, Some(_)) => {
            effects.writes.push(Write::SetFeature(vm.uuid, feature.clone(), None));
            vec![
                EventKind::DomainFeaturePreDelete { feature: feature.to_string() },
                EventKind::DomainFeatureDelete { feature },
            ]
        }
        (false, None) => Vec::new(),
    };
    effects.events.extend(kinds.into_iter().map(|kind| ModelEvent::of(vm, kind)));
    effects.events.extend(["icon", "gateway", "gateway6"].map(|name| recomputed(vm, name)));
    effects
}

pub(super) static MAC: Row = Row {
    name: "mac",
    takes_effect: TakesEffect::NextStart,
    source: Source::Stored(Rules {
        canonical: |value| {
            let Some(text) = value.as_str() else { return Ok(value) };
            let lower = text.to_ascii_lowercase();
            let pair = |pair: &str| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit());
            if lower.split(':').count() == 6 && lower.split(':').all(pair) {
                return Ok(Value::text(lower));
            }
            let shown = super::parse::python_repr(text);
            Err(refuse(Property::Mac, format!("Invalid MAC address: {shown}")))
        },
        default: Fallback::To(|_, _| Some(Value::text("00:16:3e:5e:6c:00"))),
        ..PLAIN
    }),
    default: "``00:16:3e:5e:6c:00``",
    help: "The hardware address of the VM's network interface.",
    ..ROW
};
