//! Making a VM: what it will be, decided before anything is made outside, and its entry into the model when
//! all of that is there.

pub mod clone;
pub mod disposable;
mod place;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;

use self::place::Placing;
use super::at_start::Started;
use super::class::{TemplateRule, VmClass};
use super::diff::{Diff, Refused};
use super::event::{EventKind, ModelEvent};
use super::firewall::Firewall;
use super::global::Global;
use super::ids::{Dispid, FeatureName, FeatureValue, LabelName, PendingId, Tag};
use super::model::Model;
use super::notes::Notes;
use super::pending::{Pending, PendingKind, PendingVolume, Reserved, VolumeProgress};
use super::property::{self, Property, desktop, template};
use super::refusal::Refusal;
use super::snapshot::Snapshot;
use super::value::Value;
use super::vm::{Feature, Vm};
use super::volume::VolumeConfig;
use super::write::Write;
use crate::ids::{ByteSize, PoolName, VmName, VolumeName};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVm {
    /// Its identity: fresh and random.
    pub uuid: Uuid,
    /// Its name.
    pub name: VmName,
    /// Its class.
    pub class: VmClass,
    /// Its label, by name.
    pub label: String,
    /// What it is based on; `None`: nothing, or the default.
    pub template: Option<VmName>,
    /// Where its volumes lie.
    pub pools: Pools,
    /// The size of its volume `root` where that is its own; `None`: the class's.
    pub root_size: Option<ByteSize>,
    /// Who asks: it becomes the tag `created-by-NAME`, and its feature `tag-created-vm-with` names others.
    pub source: VmName,
    /// As what the operation stands in `pending`.
    pub operation: Making,
    /// Numbers that a disposable gets only if no other is free: they were other disposables' not long ago.
    pub rested: imbl::OrdSet<Dispid>,
}

/// Which operation makes a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Making {
    /// Create.
    Vm,
    /// CreateTemplate, from an image.
    Template,
}

/// Where the volumes of a new VM lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pools {
    /// Where the global properties say.
    Default,
    /// Those that can be written and are no snapshots: here.
    All(PoolName),
    /// These volumes here, the others by default.
    Each(BTreeMap<VolumeName, PoolName>),
}

/// A VM that is being made.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Its row in `pending`; its volumes are recorded there.
    pub pending: PendingId,
    /// The VM as it will be.
    pub vm: Arc<Vm>,
    /// The VM that it is a copy of, as that was.
    pub copy_of: Option<Arc<Vm>>,
    /// Its label, by name: an index is given out again.
    label: Option<LabelName>,
    /// The tags that its creation adds, in the order of their events.
    tags: Vec<Tag>,
    told: Told,
}

/// Which events tell of a creation, and in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Tags, then volumes.
    Creation,
    /// Volumes, then tags.
    Disposable,
}

/// Decides what a new VM will be and reserves its name, number, identity and volumes.
///
/// # Errors
/// Everything that is wrong with the request; nothing is reserved then.
pub fn begin(snapshot: &Snapshot, new: &NewVm) -> Result<Diff<Plan>, Refused> {
    let model = &snapshot.model;
    let vm = planned(snapshot, new, || disposable::number(snapshot, new.uuid, &new.rested, |_| true))?;
    let tags = creation_tags(snapshot, &new.source);
    let kind = match new.operation {
        Making::Vm => PendingKind::Create,
        Making::Template => PendingKind::CreateTemplate,
    };
    let plan =
        Plan { pending: model.next_pending_id(), vm, copy_of: None, label: None, tags, told: Told::Creation };
    Ok(reserve(model, plan, kind))
}

/// The VM that a request makes, without the tags of its creation. `dispid` draws a disposable's number.
fn planned(
    snapshot: &Snapshot,
    new: &NewVm,
    dispid: impl FnOnce() -> Result<Dispid, Refusal>,
) -> Result<Arc<Vm>, Refusal> {
    let model = &snapshot.model;
    if new.class == VmClass::AdminVm {
        return Err(Refusal::ClassNotCreatable { class: new.class });
    }
    let template = template_of(snapshot, new)?;
    can_be_made(snapshot, &new.name, new.uuid)?;
    let by_name = model.label_named(&new.label);
    let label = by_name.ok_or_else(|| Refusal::LabelNotFound { label: new.label.clone() })?;
    let placing = Placing { snapshot, name: &new.name, group: new.class.volume_group() };
    let mut vm = Vm {
        uuid: new.uuid,
        qid: model.free_qid()?,
        name: new.name.clone(),
        class: new.class,
        label: label.index,
        properties: BTreeMap::new(),
        volumes: placing.volumes(new, template)?,
        tags: BTreeSet::new(),
        features: BTreeMap::new(),
        assignments: Arc::default(),
        firewall: Firewall::default(),
        notes: Notes::default(),
        started: Started::new(),
    };
    if let Some(template) = template {
        vm.properties.insert(Property::Template, Value::Vm(Some(template.uuid)));
        if new.class == VmClass::DispVm {
            vm.properties.insert(Property::Dispid, Value::Int(i64::from(dispid()?.get())));
            disposable::take_over(&mut vm, template)?;
        }
    }
    if Property::Guivm.applies_to(new.class)
        && let Some(guivm) = created_guivm(snapshot, &new.source)
    {
        vm.properties.insert(Property::Guivm, Value::Vm(Some(guivm)));
    }
    if new.class.has_lifecycle() && model.global(Global::CheckUpdatesVm) == Some(&Value::Bool(false)) {
        no_update_checks(&mut vm);
    }
    Ok(Arc::new(vm))
}

/// Whether a new VM may have this name and identity.
fn can_be_made(snapshot: &Snapshot, name: &VmName, uuid: Uuid) -> Result<(), Refusal> {
    if snapshot.model.name_is_free(name) && snapshot.model.uuid_is_free(uuid) {
        Ok(())
    } else {
        Err(Refusal::VmExists { name: name.clone() })
    }
}

/// Gives the planned VM the tags of its creation, and writes the row that reserves what it takes.
fn reserve(model: &Model, mut plan: Plan, kind: PendingKind) -> Diff<Plan> {
    plan.label = model.label(plan.vm.label).map(|label| label.name.clone());
    let vm = Arc::make_mut(&mut plan.vm);
    // What a disposable has from its base is not added, so nothing tells of it.
    plan.tags.retain(|tag| vm.tags.insert(tag.clone()));
    let row = Pending {
        id: plan.pending,
        kind,
        vm: Reserved::of(&plan.vm),
        volumes: pending_volumes(&plan.vm, VolumeProgress::Planned),
    };
    Diff::new(plan).write(Write::BeginPending(Arc::new(row)))
}

/// Puts a VM into the model when its volumes are there, and ends the operation.
///
/// # Errors
/// When what it needs went away meanwhile, or is not any more what it was: its template, its label, its netvm. The
/// caller removes the volumes and calls [`abandon`].
pub fn finish(snapshot: &Snapshot, plan: &Plan) -> Result<Diff<Arc<Vm>>, Refused> {
    still_fits(snapshot, plan)?;
    let vm = &Arc::new(desktop::tagged(&snapshot.model, &plan.vm));
    let added = EventKind::DomainAdd { vm: vm.name.clone(), uuid: vm.uuid };
    let mut diff = Diff::new(vm.clone())
        .write(Write::FinishPending(plan.pending))
        .write(Write::AddVm(vm.clone()))
        .event(ModelEvent::system(added));
    let mut of_volumes = Vec::new();
    if vm.class.has_lifecycle() {
        if let Some(source) = &plan.copy_of {
            of_volumes.push(EventKind::DomainCloneFiles { src: source.name.clone() });
        }
        of_volumes.push(EventKind::DomainCreateOnDisk);
    }
    let mut of_tags = plan.tags.iter().map(|tag| EventKind::DomainTagAdd { tag: tag.clone() }).collect();
    let mut kinds = Vec::new();
    match plan.told {
        Told::Creation => {
            kinds.append(&mut of_tags);
            kinds.append(&mut of_volumes);
        }
        Told::Disposable => {
            kinds.append(&mut of_volumes);
            kinds.append(&mut of_tags);
        }
    }
    diff.events.extend(kinds.into_iter().map(|kind| ModelEvent::of(vm, kind)));
    Ok(diff)
}

/// Whether what was decided at the beginning holds on the model of now, by the rules that a store is loaded by.
fn still_fits(snapshot: &Snapshot, plan: &Plan) -> Result<(), Refusal> {
    let (model, vm) = (&snapshot.model, &plan.vm);
    for (property, value) in &vm.properties {
        if let Some(target) = value.as_vm() {
            model.find_uuid(target)?;
        }
        property::fits(snapshot, vm, *property, value)?;
    }
    for backend in vm.assignments.keys().filter_map(|device| device.backend) {
        model.find_uuid(backend)?;
    }
    let label = model.label(vm.label).map(|label| &label.name);
    if label.is_none() || label != plan.label.as_ref() {
        let asked = plan.label.as_ref().map_or_else(|| vm.label.to_string(), ToString::to_string);
        return Err(Refusal::LabelNotFound { label: asked });
    }
    for volume in &vm.volumes {
        if model.pool(volume.pool.as_str()).is_none() {
            return Err(Refusal::UnknownPool { pool: volume.pool.clone() });
        }
        // A template that was given another template since.
        let source = model.volume_source(vm, volume.name.as_str());
        if source.is_some_and(|(_, source)| source.pool != volume.pool) {
            return Err(Refusal::SnapshotPool { volume: volume.name.clone(), pool: volume.pool.clone() });
        }
    }
    Ok(())
}

/// Ends an operation whose outside effects are undone.
pub fn abandon(pending: PendingId) -> Diff<()> {
    Diff::new(()).write(Write::FinishPending(pending)).frees_space()
}

/// The volumes of a VM that a driver keeps something of, as rows of `pending`.
pub(super) fn pending_volumes(vm: &Vm, progress: VolumeProgress) -> Vec<PendingVolume> {
    let row = |volume: &Arc<VolumeConfig>| {
        let (pool, vid) = (volume.pool.clone(), volume.vid.clone()?);
        Some(PendingVolume { volume: volume.name.clone(), pool, vid, progress })
    };
    vm.volumes.iter().filter_map(row).collect()
}

fn template_of<'a>(snapshot: &'a Snapshot, new: &NewVm) -> Result<Option<&'a Arc<Vm>>, Refusal> {
    let model = &snapshot.model;
    let rule = new.class.template_rule();
    let template = match (&new.template, rule) {
        (Some(_), TemplateRule::None) => return Err(Refusal::ClassHasNoTemplate { class: new.class }),
        (None, TemplateRule::None) => return Ok(None),
        (Some(name), _) => model.find_vm(name)?,
        (None, _) => {
            let default = model.global_vm(template::default_template(new.class));
            default.and_then(|vm| model.vm(vm)).ok_or(Refusal::NoTemplate)?
        }
    };
    match (template::fits(new.class, template), rule) {
        (Ok(()), _) => Ok(Some(template)),
        (Err(_), TemplateRule::DisposableTemplate) => {
            Err(Refusal::NotDisposableTemplate { template: template.name.clone() })
        }
        (Err(refusal), TemplateRule::Template | TemplateRule::None) => Err(refusal),
    }
}

fn no_update_checks(vm: &mut Vm) {
    if let (Ok(name), Ok(value)) = ("check-updates".parse::<FeatureName>(), "".parse::<FeatureValue>()) {
        let last = vm.features.values().map(|feature| feature.position).max().unwrap_or(0);
        vm.features.entry(name).or_insert(Feature { value, position: last + 1 });
    }
}

/// The firewall rules of a VM, for another that is being made after it. Rules that are damaged open nothing, here nor
/// there.
fn rules_of(vm: &Vm) -> Result<Firewall, Refusal> {
    match vm.firewall.damage() {
        None => Ok(vm.firewall.clone()),
        Some(reason) => Err(Refusal::FirewallDamaged { vm: vm.name.clone(), reason: reason.to_owned() }),
    }
}

/// The VM that the creator's feature `set-created-guivm` names, if there is one.
fn created_guivm(snapshot: &Snapshot, source: &VmName) -> Option<Uuid> {
    let creator = snapshot.model.vm_named(source.as_str())?;
    let guivm = creator.feature("set-created-guivm")?;
    snapshot.model.vm_named(guivm).map(|vm| vm.uuid)
}

/// The words of the creator's feature `tag-created-vm-with`, then `created-by-NAME`.
fn creation_tags(snapshot: &Snapshot, source: &VmName) -> Vec<Tag> {
    let creator = snapshot.model.vm_named(source.as_str());
    let words = creator.and_then(|vm| vm.feature("tag-created-vm-with")).unwrap_or_default();
    let own = format!("created-by-{source}");
    let mut tags: Vec<Tag> = Vec::new();
    for tag in words.split(' ').chain([own.as_str()]).filter_map(|word| word.parse().ok()) {
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    tags
}
