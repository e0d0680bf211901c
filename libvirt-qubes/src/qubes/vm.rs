//! One VM, immutable: a change makes a new one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;

use super::assignment::{AssignedDevice, Assignment};
use super::at_start::Started;
use super::class::VmClass;
use super::firewall::Firewall;
use super::ids::{Dispid, FeatureName, FeatureValue, LabelIndex, Qid, Tag};
use super::notes::Notes;
use super::property::Property;
use super::value::Value;
use super::volume::VolumeConfig;
use crate::ids::{PoolName, VmName};

/// A VM with everything that was set explicitly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// Its identity, also of its domain; dom0's is zero.
    pub uuid: Uuid,
    /// Its number.
    pub qid: Qid,
    /// Its name; it never changes.
    pub name: VmName,
    /// Its class.
    pub class: VmClass,
    /// Its label.
    pub label: LabelIndex,
    /// The explicit values of its other properties; those not in here have their default.
    pub properties: BTreeMap<Property, Value>,
    /// Its volumes in the order in which they are listed.
    pub volumes: Vec<Arc<VolumeConfig>>,
    /// Its tags.
    pub tags: BTreeSet<Tag>,
    /// Its features.
    pub features: BTreeMap<FeatureName, Feature>,
    /// The devices that are assigned to it.
    pub assignments: Arc<BTreeMap<AssignedDevice, Assignment>>,
    /// Its firewall rules. dom0 and remote VMs have none; here they stand with the default ones.
    pub firewall: Firewall,
    /// Its notes.
    pub notes: Notes,
    /// What held for its volumes when they were started; those that are at rest are not in here.
    pub started: Started,
}

/// A feature's value, and when it came relative to the VM's others: they are listed in that order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// The value.
    pub value: FeatureValue,
    /// Its place in the order of insertion.
    pub position: u64,
}

impl Vm {
    /// The identity of dom0.
    pub const DOM0: Uuid = Uuid::nil();

    /// A volume by name.
    pub fn volume(&self, name: &str) -> Option<&Arc<VolumeConfig>> {
        self.volumes.iter().find(|volume| volume.name.as_str() == name)
    }

    /// The pools that it has something in, kernels too; some more than once.
    pub fn pools(&self) -> impl Iterator<Item = &PoolName> {
        self.volumes.iter().map(|volume| &volume.pool).chain(self.started.keys().map(|(_, pool)| pool))
    }

    /// The own value of a feature.
    pub fn feature(&self, name: &str) -> Option<&str> {
        self.features.get(name).map(|feature| feature.value.as_str())
    }

    /// The number of a disposable.
    pub fn dispid(&self) -> Option<Dispid> {
        let number = self.properties.get(&Property::Dispid).and_then(Value::as_int)?;
        u16::try_from(number).ok().and_then(Dispid::new)
    }

    /// The explicit value of a property that refers to a VM; `None` where the default holds.
    pub(crate) fn reference(&self, property: Property) -> Option<Option<Uuid>> {
        self.properties.get(&property).map(Value::as_vm)
    }

    /// The explicit value of a property that is yes or no.
    pub(crate) fn flag(&self, property: Property) -> Option<bool> {
        self.properties.get(&property).and_then(Value::as_bool)
    }
}
