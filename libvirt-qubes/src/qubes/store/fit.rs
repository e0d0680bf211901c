//! What a loaded model cannot keep: rows that are good by themselves, and do not fit the rest.

use std::sync::Arc;

use super::super::assignment::AssignedDevice;
use super::super::global::Global;
use super::super::model::{Model, Reference, SetAside};
use super::super::property::{self, Property};
use super::super::snapshot::{Cells, HostView, Snapshot, VolumeNaming};
use super::super::vm::Vm;
use super::load::{aside, report};

/// Takes single properties from dom0, which stays.
fn without(model: &mut Model, dom0: &Vm, bad: Vec<(Property, String)>) {
    if bad.is_empty() {
        return;
    }
    let mut kept = dom0.clone();
    for (property, reason) in bad {
        let target = kept.properties.remove(&property).and_then(|value| value.as_vm());
        let references = target.map(|vm| (vm, Reference::Property(property.name().to_owned())));
        let row = SetAside {
            references: references.into_iter().collect(),
            ..aside("vm_reference", dom0.name.as_str(), reason)
        };
        report(&row);
        model.put_set_aside(row);
    }
    drop(model.take_vm(dom0.uuid));
    model.put_vm(Arc::new(kept));
}

/// Sets aside what does not fit the rest of the model: global properties, then VMs: one of each loop of netvms,
/// those with a template that is none.
pub(super) fn fitting(model: Model) -> Model {
    let naming = VolumeNaming::new(|_, _, _, volume| volume.to_string());
    let cells = Cells { runs: imbl::HashMap::new(), host: Arc::new(HostView::unknown(naming)) };
    let mut snapshot = Snapshot { number: 0, model, cells };
    // First the globals: a loop that one of them closes is no fault of the VMs in it.
    for global in Global::ALL {
        let value = snapshot.model.global(*global).cloned();
        let (Some(value), Some(rules)) = (value, global.rules()) else { continue };
        if let Err(refusal) = (rules.fits)(&snapshot, &value) {
            let as_value = |vm| (vm, Reference::Property(global.name().to_owned()));
            let references = value.as_vm().into_iter().map(as_value).collect();
            let row = SetAside { references, ..aside("global", global.name(), refusal.of_stored()) };
            report(&row);
            snapshot.model.put_global(*global, None);
            snapshot.model.put_set_aside(row);
        }
    }
    let vms: Vec<Arc<Vm>> = snapshot.model.vms().cloned().collect();
    for vm in vms {
        let judged = vm.properties.iter().filter_map(|(property, value)| {
            let refusal = property::fits(&snapshot, &vm, *property, value).err()?;
            Some((*property, format!("property {property}: {}", refusal.of_stored())))
        });
        let bad: Vec<(Property, String)> = judged.collect();
        if vm.uuid == Vm::DOM0 {
            without(&mut snapshot.model, &vm, bad);
            continue;
        }
        let bad = bad.into_iter().next().map(|(_, reason)| reason);
        let missing = || {
            let needed = Property::Template.applies_to(vm.class);
            (needed && !vm.properties.contains_key(&Property::Template))
                .then(|| "it has no template".to_owned())
        };
        if let Some(reason) = bad.or_else(missing) {
            let row = SetAside {
                uuid: Some(vm.uuid),
                qid: Some(i64::from(vm.qid.get())),
                dispid: vm.dispid().map(|dispid| i64::from(dispid.get())),
                label: Some(vm.label),
                volumes: vm.volumes.iter().filter_map(|v| Some((v.pool.clone(), v.vid.clone()?))).collect(),
                pools: vm.pools().cloned().collect(),
                references: vm
                    .properties
                    .iter()
                    .filter_map(|(property, value)| {
                        Some((value.as_vm()?, Reference::Property(property.name().to_owned())))
                    })
                    .chain(vm.assignments.keys().filter_map(|device| {
                        let port = AssignedDevice::written(device.port.as_ref()).to_owned();
                        Some((device.backend?, Reference::Device(port)))
                    }))
                    .collect(),
                ..aside("vm", vm.name.as_str(), reason)
            };
            report(&row);
            // It was there a moment ago.
            drop(snapshot.model.take_vm(vm.uuid));
            snapshot.model.put_set_aside(row);
        }
    }
    snapshot.model
}
