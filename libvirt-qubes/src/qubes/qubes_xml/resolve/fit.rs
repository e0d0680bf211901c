//! Whether domains fit together.

use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;

use super::super::super::global::Global;
use super::super::super::property::{self, Property};
use super::super::super::snapshot::{Cells, HostView, Snapshot};
use super::super::super::value::Value;
use super::super::super::vm::Vm;
use super::globals::is_put_right;
use super::identity::Identity;
use super::{Resolving, words};

impl Resolving<'_> {
    /// Checks values against the other domains. What does not fit stays in the rows and is set aside when they are
    /// loaded.
    pub(super) fn fit(&mut self, identities: &[Identity<'_>]) {
        let lines: HashMap<Uuid, &Identity<'_>> = identities.iter().map(|i| (i.uuid, i)).collect();
        let host = Arc::new(HostView::unknown(self.place.naming.clone()));
        let model = std::mem::take(&mut self.model);
        let mut snapshot = Snapshot { number: 0, model, cells: Cells { runs: imbl::HashMap::new(), host } };
        let vms: Vec<Arc<Vm>> = snapshot.model.vms().cloned().collect();
        for vm in vms {
            let Some(identity) = lines.get(&vm.uuid) else { continue };
            let mut right = None;
            for (property, value) in &vm.properties {
                let Err(refusal) = property::fits(&snapshot, &vm, *property, value) else { continue };
                let entry = identity.domain.property(property.name());
                let line = entry.map_or(identity.domain.line, |entry| entry.line);
                if is_put_right(*property, &refusal) {
                    let text = format!("property {property}: {}; set to none", words(&refusal));
                    self.findings.note(line, &identity.about, text);
                    let right: &mut Vm = right.get_or_insert_with(|| Vm::clone(&vm));
                    right.properties.insert(*property, Value::Vm(None));
                } else {
                    let text = format!("property {property}: {}", words(&refusal));
                    self.findings.problem(line, &identity.about, text);
                }
            }
            if Property::Template.applies_to(vm.class) && !vm.properties.contains_key(&Property::Template) {
                self.findings.problem(identity.domain.line, &identity.about, "it has no template");
            }
            if let Some(right) = right {
                snapshot.model.put_vm(Arc::new(right));
            }
        }
        self.model = snapshot.model;
        self.default_netvm(&lines);
    }

    /// The default netvm must not get its network from itself by default.
    fn default_netvm(&mut self, lines: &HashMap<Uuid, &Identity<'_>>) {
        let netvm = self.model.global_vm(Global::DefaultNetvm).and_then(|vm| self.model.vm(vm)).cloned();
        let Some(netvm) = netvm else { return };
        let back =
            self.model.netvm_chain(&netvm).skip(1).take_while(|vm| vm.uuid != netvm.uuid).last().cloned();
        let last = back.as_ref().unwrap_or(&netvm);
        if self.model.netvm_of(last).is_some_and(|vm| vm.uuid == netvm.uuid) {
            let mut right = Vm::clone(last);
            right.properties.insert(Property::Netvm, Value::Vm(None));
            let about = format!("domain '{}'", right.name);
            let line = lines.get(&right.uuid).map_or(0, |identity| identity.domain.line);
            self.findings.note(line, &about, "property netvm makes a loop by its default; set to none");
            self.model.put_vm(Arc::new(right));
        }
    }
}
