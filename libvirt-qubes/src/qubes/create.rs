//! Making a VM: what it will be, decided before anything is made outside, and its entry into the model when
//! all of that is there.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use uuid::Uuid;

use super::class::{TemplateRule, VmClass, VolumeKind};
use super::diff::{Diff, Refused};
use super::event::{EventKind, ModelEvent};
use super::global::Global;
use super::ids::{FeatureName, FeatureValue, PendingId, Tag};
use super::pending::{Pending, PendingKind, PendingVolume, Reserved, VolumeProgress};
use super::property::{CloneRule, Property, template};
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
    /// The tags that its creation gives it, in the order of their events.
    tags: Vec<Tag>,
}

/// Decides what a new VM will be and reserves its name, number, identity and volumes.
///
/// # Errors
/// Everything that is wrong with the request; nothing is reserved then.
pub fn begin(snapshot: &Snapshot, new: &NewVm) -> Result<Diff<Plan>, Refused> {
    let model = &snapshot.model;
    if new.class == VmClass::AdminVm {
        return Err(Refusal::ClassNotCreatable { class: new.class }.into());
    }
    let template = template_of(snapshot, new)?;
    if !model.name_is_free(&new.name) || !model.uuid_is_free(new.uuid) {
        return Err(Refusal::VmExists { name: new.name.clone() }.into());
    }
    let by_name = model.label_named(&new.label);
    let label = by_name.ok_or_else(|| Refusal::LabelNotFound { label: new.label.clone() })?;
    let mut vm = Vm {
        uuid: new.uuid,
        qid: model.free_qid()?,
        name: new.name.clone(),
        class: new.class,
        label: label.index,
        properties: BTreeMap::new(),
        volumes: volumes(snapshot, new, template)?,
        tags: BTreeSet::new(),
        features: BTreeMap::new(),
    };
    if let Some(template) = template {
        vm.properties.insert(Property::Template, Value::Vm(Some(template.uuid)));
        if new.class == VmClass::DispVm {
            vm.properties.insert(Property::Dispid, Value::Int(i64::from(dispid(snapshot, new.uuid)?)));
            take_over(&mut vm, template);
        }
    }
    if new.class.has_lifecycle() && model.global(Global::CheckUpdatesVm) == Some(&Value::Bool(false)) {
        no_update_checks(&mut vm);
    }
    let tags = creation_tags(snapshot, &new.source);
    vm.tags.extend(tags.iter().cloned());
    let kind = match new.operation {
        Making::Vm => PendingKind::Create,
        Making::Template => PendingKind::CreateTemplate,
    };
    let row = Pending {
        id: model.next_pending_id(),
        kind,
        vm: Reserved { uuid: vm.uuid, qid: vm.qid, name: vm.name.clone() },
        volumes: pending_volumes(&vm, VolumeProgress::Planned),
    };
    let plan = Plan { pending: row.id, vm: Arc::new(vm), tags };
    Ok(Diff::new(plan).write(Write::BeginPending(Arc::new(row))))
}

/// Puts a VM into the model when its volumes are there, and ends the operation.
///
/// # Errors
/// When what it needs went away meanwhile: its template, its label. The caller removes the volumes and calls
/// [`abandon`].
pub fn finish(snapshot: &Snapshot, plan: &Plan) -> Result<Diff<Arc<Vm>>, Refused> {
    let (model, vm) = (&snapshot.model, &plan.vm);
    if let Some(Some(template)) = vm.reference(Property::Template) {
        template::fits(vm.class, model.find_uuid(template)?)?;
    }
    for target in vm.properties.values().filter_map(|value| match value {
        Value::Vm(target) => *target,
        Value::Str(_) | Value::Int(_) | Value::Bool(_) | Value::Label(_) | Value::Pool(_) => None,
    }) {
        model.find_uuid(target)?;
    }
    if model.label(vm.label).is_none() {
        return Err(Refusal::LabelNotFound { label: vm.label.to_string() }.into());
    }
    let added = EventKind::DomainAdd { vm: vm.name.clone(), uuid: vm.uuid };
    let mut diff = Diff::new(vm.clone())
        .write(Write::FinishPending(plan.pending))
        .write(Write::AddVm(vm.clone()))
        .event(ModelEvent::system(added));
    for tag in &plan.tags {
        diff = diff.event(ModelEvent::of(vm, EventKind::DomainTagAdd { tag: tag.clone() }));
    }
    if vm.class.has_lifecycle() {
        diff = diff.event(ModelEvent::of(vm, EventKind::DomainCreateOnDisk));
    }
    Ok(diff)
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

/// The class's volumes, then those that the template has besides.
fn volumes(
    snapshot: &Snapshot,
    new: &NewVm,
    template: Option<&Arc<Vm>>,
) -> Result<Vec<Arc<VolumeConfig>>, Refusal> {
    let mut volumes: Vec<VolumeConfig> = Vec::new();
    for usual in new.class.volumes() {
        let name: VolumeName = usual.name.parse().map_err(|_| no_such_volume(new, usual.name))?;
        let size = match (usual.size, usual.name) {
            (Some(_), "root") => new.root_size.or(usual.size),
            (size, _) => size,
        };
        let live = template.and_then(|template| template.volume(usual.name));
        // A disposable's volumes are like those of what it is based on.
        let like = live.filter(|_| new.class == VmClass::DispVm);
        volumes.push(VolumeConfig {
            pool: pool_for(snapshot, new, template, &name, usual.kind, like)?,
            name,
            vid: None,
            kind: usual.kind,
            size,
            access: like.map_or(usual.access, |like| like.access),
            revisions_to_keep: None,
            ephemeral: like.and_then(|like| like.ephemeral),
        });
    }
    for extra in template.into_iter().flat_map(|template| &template.volumes) {
        if !volumes.iter().any(|volume| volume.name == extra.name) {
            let pool = pool_for(snapshot, new, template, &extra.name, extra.kind, Some(extra))?;
            volumes.push(VolumeConfig { pool, vid: None, ..VolumeConfig::clone(extra) });
        }
    }
    if let Pools::Each(named) = &new.pools
        && let Some(unknown) = named.keys().find(|name| !volumes.iter().any(|v| v.name == **name))
    {
        return Err(no_such_volume(new, unknown.as_str()));
    }
    volumes.into_iter().map(|volume| placed(snapshot, new, volume).map(Arc::new)).collect()
}

fn no_such_volume(new: &NewVm, volume: &str) -> Refusal {
    match volume.parse() {
        Ok(volume) => Refusal::NoSuchVolume { vm: new.name.clone(), volume },
        Err(_) => Refusal::VmExists { name: new.name.clone() },
    }
}

fn pool_for(
    snapshot: &Snapshot,
    new: &NewVm,
    template: Option<&Arc<Vm>>,
    name: &VolumeName,
    kind: VolumeKind,
    like: Option<&Arc<VolumeConfig>>,
) -> Result<PoolName, Refusal> {
    let model = &snapshot.model;
    let named = match &new.pools {
        Pools::Default => None,
        Pools::All(pool) => matches!(kind, VolumeKind::Origin | VolumeKind::Volatile).then_some(pool),
        Pools::Each(named) => named.get(name),
    };
    if kind == VolumeKind::Snapshot {
        if let Some(pool) = named {
            return Err(Refusal::SnapshotPool { volume: name.clone(), pool: pool.clone() });
        }
        let origin = template.and_then(|template| model.volume_origin(template, name.as_str()));
        return match origin {
            Some((_, origin)) => Ok(origin.pool.clone()),
            None => Err(no_such_volume(new, name.as_str())),
        };
    }
    let pool = named
        .or_else(|| like.map(|like| &like.pool))
        .or_else(|| model.default_pool_of(name.as_str()))
        .ok_or(Refusal::NoDefaultPool)?;
    match model.pool(pool.as_str()) {
        Some(pool) => Ok(pool.name.clone()),
        None => Err(Refusal::UnknownPool { pool: pool.clone() }),
    }
}

/// A volume with the name that its pool's driver gives it.
fn placed(snapshot: &Snapshot, new: &NewVm, mut volume: VolumeConfig) -> Result<VolumeConfig, Refusal> {
    let model = &snapshot.model;
    if volume.kind == VolumeKind::Kernel {
        return Ok(volume);
    }
    let pool = model.pool(volume.pool.as_str());
    let pool = pool.ok_or_else(|| Refusal::UnknownPool { pool: volume.pool.clone() })?;
    let vid = snapshot.cells.host.naming.vid(pool, new.class.volume_group(), &new.name, &volume.name);
    if model.occupant(pool.name.as_str(), &vid).is_some() {
        return Err(Refusal::VolumeNameTaken { pool: pool.name.clone(), vid });
    }
    volume.vid = Some(vid.into());
    Ok(volume)
}

/// A number for a disposable, seemingly random (it shows in the VM's address and name), the same whenever
/// the change runs again on the same model.
fn dispid(snapshot: &Snapshot, uuid: Uuid) -> Result<u16, Refusal> {
    let taken = |id: u16| {
        let id = Some(Value::Int(i64::from(id)));
        snapshot.model.vms().any(|vm| vm.properties.get(&Property::Dispid) == id.as_ref())
    };
    let candidate = |attempt: u32| {
        let mut hasher = DefaultHasher::new();
        (uuid, attempt).hash(&mut hasher);
        u16::try_from(hasher.finish() % 10_000).unwrap_or(0)
    };
    (0..100).map(candidate).find(|id| !taken(*id)).ok_or(Refusal::NoFreeQid)
}

/// What a disposable has from the VM that it is based on.
fn take_over(vm: &mut Vm, template: &Vm) {
    for (property, value) in &template.properties {
        let row = property.row();
        if row.clone == CloneRule::Copied && property.applies_to(vm.class) {
            vm.properties.entry(*property).or_insert_with(|| value.clone());
        }
    }
    let features = template.features.iter();
    let features = features.filter(|(name, _)| !name.as_str().starts_with("preload-dispvm"));
    vm.features = features.map(|(name, feature)| (name.clone(), feature.clone())).collect();
    vm.tags.clone_from(&template.tags);
}

fn no_update_checks(vm: &mut Vm) {
    if let (Ok(name), Ok(value)) = ("check-updates".parse::<FeatureName>(), "".parse::<FeatureValue>()) {
        let last = vm.features.values().map(|feature| feature.position).max().unwrap_or(0);
        vm.features.entry(name).or_insert(Feature { value, position: last + 1 });
    }
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
