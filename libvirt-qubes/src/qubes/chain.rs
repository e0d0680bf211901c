//! Chains through the model: templates, netvms, the origins of volumes.

use std::sync::Arc;

use uuid::Uuid;

use super::class::{VmClass, VolumeKind};
use super::global::Global;
use super::model::Model;
use super::property::Property;
use super::vm::Vm;
use super::volume::VolumeConfig;
use crate::ids::ByteSize;

/// No chain is longer: an AppVM's template has none, a disposable's has one, and netvms are VMs. A store
/// that somebody edited cannot make a walk endless.
const LONGEST: usize = 10_001;

impl Model {
    /// The template of a VM.
    pub fn template_of(&self, vm: &Vm) -> Option<&Arc<Vm>> {
        self.vm(vm.reference(Property::Template).flatten()?)
    }

    /// A VM, its template, the template's template.
    pub fn with_templates<'a>(&'a self, vm: &'a Vm) -> impl Iterator<Item = &'a Vm> {
        std::iter::successors(Some(vm), |vm| self.template_of(vm).map(Arc::as_ref)).take(LONGEST)
    }

    /// The VM's own feature, or the nearest template's that has it, even if it is empty there.
    pub fn feature_with_template<'a>(&'a self, vm: &'a Vm, name: &str) -> Option<&'a str> {
        self.with_templates(vm).find_map(|vm| vm.feature(name))
    }

    /// The VM that another gets its network from, by its own choice or by default.
    pub fn netvm_of(&self, vm: &Vm) -> Option<&Arc<Vm>> {
        let chosen = match vm.reference(Property::Netvm) {
            Some(chosen) => chosen,
            None if !Property::Netvm.applies_to(vm.class) || vm.class == VmClass::TemplateVm => None,
            None => self.global_vm(Global::DefaultNetvm),
        };
        self.vm(chosen?)
    }

    /// A VM, its netvm, that one's netvm.
    pub fn netvm_chain<'a>(&'a self, vm: &'a Vm) -> impl Iterator<Item = &'a Vm> {
        std::iter::successors(Some(vm), |vm| self.netvm_of(vm).map(Arc::as_ref)).take(LONGEST)
    }

    /// The VM's own feature, or the nearest netvm's that has it, even if it is empty there.
    pub fn feature_with_netvm<'a>(&'a self, vm: &'a Vm, name: &str) -> Option<&'a str> {
        self.netvm_chain(vm).find_map(|vm| vm.feature(name))
    }

    /// The VMs whose netvm is this one, by their own choice or by default.
    pub fn network_clients(&self, netvm: Uuid) -> impl Iterator<Item = &Arc<Vm>> {
        let by_default = self.global_vm(Global::DefaultNetvm) == Some(netvm);
        let following = by_default.then(|| self.following(Property::Netvm)).into_iter().flatten();
        self.vms_naming(netvm, Property::Netvm).chain(following)
    }

    /// The volume that holds the content of a VM's volume between runs: its own, or, where it is a snapshot,
    /// that of the nearest template which has it itself. With the VM that it belongs to.
    pub fn volume_origin<'a>(&'a self, vm: &'a Vm, volume: &str) -> Option<(&'a Vm, &'a Arc<VolumeConfig>)> {
        self.with_templates(vm)
            .find_map(|vm| Some((vm, vm.volume(volume).filter(|v| v.kind != VolumeKind::Snapshot)?)))
    }

    /// What a snapshot volume is made from at each start; `None` for other volumes.
    pub fn volume_source<'a>(&'a self, vm: &'a Vm, volume: &str) -> Option<(&'a Vm, &'a Arc<VolumeConfig>)> {
        vm.volume(volume).filter(|volume| volume.kind == VolumeKind::Snapshot)?;
        self.volume_origin(vm, volume)
    }

    /// The size of a volume as configured; a snapshot's is its origin's. `None` for kernels.
    pub fn volume_size(&self, vm: &Vm, volume: &str) -> Option<ByteSize> {
        self.volume_origin(vm, volume).and_then(|(_, origin)| origin.size)
    }
}
