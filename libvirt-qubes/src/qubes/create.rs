//! Making a VM: what it will be, decided before anything is made outside, and its entry into the model when
//! all of that is there.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use uuid::Uuid;

use super::class::{TemplateRule, VmClass, VolumeKind};
use super::diff::{Diff, Refused};
use super::event::{EventKind, ModelEvent};
use super::firewall::Firewall;
use super::global::Global;
use super::notes::Notes;
use super::ids::{Dispid, FeatureName, FeatureValue, PendingId, Tag};
use super::pending::{Pending, PendingKind, PendingVolume, Reserved, VolumeProgress};
use super::property::{CloneRule, Property, desktop, template};
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
        assignments: Arc::default(),
        firewall: Firewall::default(),
        notes: Notes::default(),
    };
    if let Some(template) = template {
        vm.properties.insert(Property::Template, Value::Vm(Some(template.uuid)));
        if new.class == VmClass::DispVm {
            vm.properties.insert(Property::Dispid, Value::Int(i64::from(dispid(snapshot, new.uuid)?.get())));
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
        vm: Reserved::of(&vm),
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
    for target in vm.properties.values().filter_map(Value::as_vm) {
        model.find_uuid(target)?;
    }
    if model.label(vm.label).is_none() {
        return Err(Refusal::LabelNotFound { label: vm.label.to_string() }.into());
    }
    let vm = &Arc::new(desktop::tagged(model, vm));
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
fn dispid(snapshot: &Snapshot, uuid: Uuid) -> Result<Dispid, Refusal> {
    let mut hasher = DefaultHasher::new();
    uuid.hash(&mut hasher);
    let drawn = u16::try_from(hasher.finish() % 10_000).ok().and_then(Dispid::new).unwrap_or(Dispid::LAST);
    snapshot.model.free_dispid_from(drawn).ok_or(Refusal::NoFreeQid)
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

#[cfg(test)]
mod tests {
    use super::super::event::Subject;
    use super::super::refusal::Refusal as R;
    use super::super::testing::{apply, first_model, make, new_vm, set, set_global, small_model, vm};
    use super::*;

    fn refused(snapshot: &Snapshot, new: &NewVm) -> Refusal {
        begin(snapshot, new).unwrap_err().refusal
    }

    fn pool(name: &str, position: u32) -> Write {
        let name: PoolName = name.parse().unwrap();
        Write::SetPool(Arc::new(super::super::pool::Pool {
            name,
            driver: "file".into(),
            options: BTreeMap::new(),
            position,
        }))
    }

    fn placement(vm: &Vm) -> Vec<(&str, &str, Option<&str>, Option<u64>)> {
        vm.volumes
            .iter()
            .map(|v| (v.name.as_str(), v.pool.as_str(), v.vid.as_deref(), v.size.map(|s| s.get() >> 30)))
            .collect()
    }

    #[test]
    fn a_new_vm_has_its_classes_volumes_in_the_default_pools() {
        let snapshot = small_model();
        assert_eq!(
            placement(&vm(&snapshot, "debian")),
            [
                ("root", "varlibqubes", Some("vm-templates/debian/root"), Some(10)),
                ("private", "varlibqubes", Some("vm-templates/debian/private"), Some(2)),
                ("volatile", "varlibqubes", Some("vm-templates/debian/volatile"), Some(10)),
                ("kernel", "linux-kernel", None, None),
            ]
        );
        assert_eq!(
            placement(&vm(&snapshot, "work")),
            [
                ("root", "varlibqubes", Some("appvms/work/root"), None),
                ("private", "varlibqubes", Some("appvms/work/private"), Some(2)),
                ("volatile", "varlibqubes", Some("appvms/work/volatile"), Some(10)),
                ("kernel", "linux-kernel", None, None),
            ]
        );
        let work = vm(&snapshot, "work");
        let (owner, origin) = snapshot.model.volume_source(&work, "root").unwrap();
        assert_eq!(
            (owner.name.as_str(), origin.vid.as_deref()),
            ("debian", Some("vm-templates/debian/root"))
        );
        assert_eq!(snapshot.model.volume_size(&work, "root").map(|size| size.get() >> 30), Some(10));
        assert!(snapshot.model.volume_source(&work, "private").is_none());
    }

    #[test]
    fn a_pool_for_all_takes_what_can_be_written_and_is_no_snapshot() {
        let mut snapshot = small_model();
        pool("fast", 9).apply(&mut snapshot.model).unwrap();
        let all = NewVm {
            pools: Pools::All("fast".parse().unwrap()),
            ..new_vm("a", VmClass::AppVm, Some("debian"))
        };
        let pools: Vec<_> = make(&mut snapshot, &all).volumes.iter().map(|v| v.pool.to_string()).collect();
        assert_eq!(pools, ["varlibqubes", "fast", "fast", "linux-kernel"]);
        let each = Pools::Each([("private".parse().unwrap(), "fast".parse().unwrap())].into());
        let each = NewVm { pools: each, ..new_vm("b", VmClass::StandaloneVm, None) };
        let pools: Vec<_> = make(&mut snapshot, &each).volumes.iter().map(|v| v.pool.to_string()).collect();
        assert_eq!(pools, ["varlibqubes", "fast", "varlibqubes", "linux-kernel"]);
        set_global(&mut snapshot, Global::DefaultPoolPrivate, Value::Pool("fast".parse().unwrap()));
        let pools: Vec<_> = make(&mut snapshot, &new_vm("c", VmClass::TemplateVm, None))
            .volumes
            .iter()
            .map(|v| v.pool.to_string())
            .collect();
        assert_eq!(pools, ["varlibqubes", "fast", "varlibqubes", "linux-kernel"]);
    }

    #[test]
    fn what_is_wrong_with_a_request_is_named() {
        let snapshot = small_model();
        let name = |name: &str| name.parse::<VmName>().unwrap();
        let each =
            |volume: &str, pool: &str| Pools::Each([(volume.parse().unwrap(), pool.parse().unwrap())].into());
        let app = |pools| NewVm { pools, ..new_vm("a", VmClass::AppVm, Some("debian")) };
        let gone = || "gone".parse().unwrap();
        for (new, refusal) in [
            (new_vm("a", VmClass::AdminVm, None), R::ClassNotCreatable { class: VmClass::AdminVm }),
            (
                new_vm("a", VmClass::TemplateVm, Some("debian")),
                R::ClassHasNoTemplate { class: VmClass::TemplateVm },
            ),
            (new_vm("a", VmClass::RemoteVm, Some("x")), R::ClassHasNoTemplate { class: VmClass::RemoteVm }),
            (new_vm("a", VmClass::AppVm, Some("nobody")), R::NoSuchVm { name: name("nobody") }),
            (new_vm("a", VmClass::AppVm, None), R::NoTemplate),
            (new_vm("a", VmClass::DispVm, None), R::NoTemplate),
            (
                new_vm("a", VmClass::AppVm, Some("work")),
                R::WrongClass { vm: name("work"), class: VmClass::AppVm, expected: VmClass::TemplateVm },
            ),
            (new_vm("a", VmClass::DispVm, Some("work")), R::NotDisposableTemplate { template: name("work") }),
            (new_vm("work", VmClass::TemplateVm, None), R::VmExists { name: name("work") }),
            (new_vm("dom0", VmClass::TemplateVm, None), R::VmExists { name: name("dom0") }),
            (
                NewVm { label: "pink".into(), ..new_vm("a", VmClass::TemplateVm, None) },
                R::LabelNotFound { label: "pink".into() },
            ),
            (app(Pools::All(gone())), R::UnknownPool { pool: gone() }),
            (app(each("private", "gone")), R::UnknownPool { pool: gone() }),
            (
                app(each("root", "varlibqubes")),
                R::SnapshotPool { volume: "root".parse().unwrap(), pool: "varlibqubes".parse().unwrap() },
            ),
            (
                app(each("swap", "varlibqubes")),
                R::NoSuchVolume { vm: name("a"), volume: "swap".parse().unwrap() },
            ),
        ] {
            assert_eq!(refused(&snapshot, &new), refusal, "{new:?}");
        }
    }

    #[test]
    fn the_default_template_is_taken_where_none_is_named() {
        let mut snapshot = small_model();
        let debian = vm(&snapshot, "debian").uuid;
        set_global(&mut snapshot, Global::DefaultTemplate, Value::Vm(Some(debian)));
        let made = make(&mut snapshot, &new_vm("a", VmClass::AppVm, None));
        assert_eq!(made.reference(Property::Template), Some(Some(debian)));
    }

    #[test]
    fn name_number_identity_and_volumes_are_reserved_from_begin_to_finish() {
        let mut snapshot = first_model();
        let new = new_vm("a", VmClass::TemplateVm, None);
        let diff = begin(&snapshot, &new).unwrap();
        assert!(diff.events.is_empty() && diff.pre_events.is_empty());
        let (plan, _) = apply(&mut snapshot, diff);
        assert!(snapshot.model.vm_named("a").is_none());
        assert_eq!(
            refused(&snapshot, &new_vm("a", VmClass::TemplateVm, None)),
            R::VmExists { name: new.name.clone() }
        );
        assert!(!snapshot.model.uuid_is_free(new.uuid));
        assert_eq!(snapshot.model.free_qid().unwrap().get(), 2);
        let row = snapshot.model.pending_row(plan.pending).unwrap();
        let planned: Vec<_> = row.volumes.iter().map(|v| (v.volume.as_str(), &*v.vid, v.progress)).collect();
        assert_eq!(
            planned,
            [
                ("root", "vm-templates/a/root", VolumeProgress::Planned),
                ("private", "vm-templates/a/private", VolumeProgress::Planned),
                ("volatile", "vm-templates/a/volatile", VolumeProgress::Planned),
            ]
        );
        let diff = abandon(plan.pending);
        apply(&mut snapshot, diff);
        assert!(snapshot.model.uuid_is_free(new.uuid) && snapshot.model.name_is_free(&new.name));
        assert!(snapshot.model.occupant("varlibqubes", "vm-templates/a/root").is_none());
        assert_eq!(snapshot.model, snapshot.model.reindexed());
    }

    #[test]
    fn numbers_are_the_lowest_free_ones() {
        let mut snapshot = first_model();
        for (name, qid) in [("a", 1), ("b", 2), ("c", 3)] {
            assert_eq!(make(&mut snapshot, &new_vm(name, VmClass::RemoteVm, None)).qid.get(), qid);
        }
        let uuid = vm(&snapshot, "b").uuid;
        Write::RemoveVm(uuid).apply(&mut snapshot.model).unwrap();
        assert_eq!(make(&mut snapshot, &new_vm("d", VmClass::RemoteVm, None)).qid.get(), 2);
        assert_eq!(make(&mut snapshot, &new_vm("e", VmClass::RemoteVm, None)).qid.get(), 4);
    }

    #[test]
    fn events_of_a_creation_come_at_its_end_in_order() {
        let mut snapshot = small_model();
        let source = vm(&snapshot, "work");
        Write::SetFeature(
            source.uuid,
            "tag-created-vm-with".parse().unwrap(),
            Some("mine b/ad mine".parse().unwrap()),
        )
        .apply(&mut snapshot.model)
        .unwrap();
        let new = NewVm { source: source.name.clone(), ..new_vm("a", VmClass::AppVm, Some("debian")) };
        let diff = begin(&snapshot, &new).unwrap();
        let (plan, _) = apply(&mut snapshot, diff);
        let diff = finish(&snapshot, &plan).unwrap();
        let (made, events) = apply(&mut snapshot, diff);
        let tag = |tag: &str| EventKind::DomainTagAdd { tag: tag.parse().unwrap() };
        let kinds: Vec<_> = events.iter().map(|event| event.kind.clone()).collect();
        assert_eq!(
            kinds,
            [
                EventKind::DomainAdd { vm: new.name.clone(), uuid: new.uuid },
                tag("mine"),
                tag("created-by-work"),
                EventKind::DomainCreateOnDisk,
            ]
        );
        assert_eq!(events[0].subject, Subject::System);
        assert!(events[1..].iter().all(|event| event.vm() == Some(new.uuid)));
        let tags: Vec<_> = made.tags.iter().map(Tag::as_str).collect();
        assert_eq!(tags, ["audiovm-dom0", "created-by-work", "guivm-dom0", "mine"]);
    }

    #[test]
    fn a_template_or_label_that_goes_while_its_vm_is_made_is_noticed_at_the_end() {
        let mut snapshot = first_model();
        make(&mut snapshot, &new_vm("debian", VmClass::TemplateVm, None));
        let diff = begin(&snapshot, &new_vm("a", VmClass::AppVm, Some("debian"))).unwrap();
        let (plan, _) = apply(&mut snapshot, diff);
        let mut without = snapshot.clone();
        let debian = vm(&without, "debian").uuid;
        Write::RemoveVm(debian).apply(&mut without.model).unwrap();
        assert_eq!(finish(&without, &plan).unwrap_err().refusal, R::NoSuchUuid { uuid: debian });
        let mut without = snapshot.clone();
        Write::RemoveLabel(plan.vm.label).apply(&mut without.model).unwrap_err();
        assert!(finish(&snapshot, &plan).is_ok());
    }

    #[test]
    fn a_disposable_takes_over_what_its_base_has_set() {
        let mut snapshot = small_model();
        for (property, value) in [
            ("template_for_dispvms", "True"),
            ("memory", "777"),
            ("label", "blue"),
            ("installed_by_rpm", "True"),
        ] {
            set(&mut snapshot, "work", property, value).unwrap();
        }
        let work = vm(&snapshot, "work").uuid;
        for (name, value) in [("gui", "1"), ("preload-dispvm-max", "3")] {
            Write::SetFeature(work, name.parse().unwrap(), Some(value.parse().unwrap()))
                .apply(&mut snapshot.model)
                .unwrap();
        }
        let made = make(&mut snapshot, &new_vm("disp", VmClass::DispVm, Some("work")));
        let set: Vec<_> = made.properties.keys().map(|property| property.name()).collect();
        assert_eq!(set, ["dispid", "memory", "template"]);
        assert_eq!(made.features.keys().map(FeatureName::as_str).collect::<Vec<_>>(), ["gui"]);
        let kinds: Vec<_> = made.volumes.iter().map(|v| (v.name.as_str(), v.kind)).collect();
        assert_eq!(kinds[1], ("private", VolumeKind::Snapshot));
        let (owner, _) = snapshot.model.volume_source(&made, "private").unwrap();
        assert_eq!(owner.name.as_str(), "work");
        let (owner, _) = snapshot.model.volume_source(&made, "root").unwrap();
        assert_eq!(owner.name.as_str(), "debian");
    }

    #[test]
    fn a_template_made_from_an_image_is_as_large_as_that() {
        let mut snapshot = first_model();
        let new = NewVm {
            root_size: Some(ByteSize::bytes(5 << 20)),
            operation: Making::Template,
            ..new_vm("t", VmClass::TemplateVm, None)
        };
        let diff = begin(&snapshot, &new).unwrap();
        let (plan, _) = apply(&mut snapshot, diff);
        assert_eq!(snapshot.model.pending_row(plan.pending).unwrap().kind, PendingKind::CreateTemplate);
        assert_eq!(plan.vm.volume("root").unwrap().size, new.root_size);
        assert_eq!(plan.vm.volume("private").unwrap().size, Some(ByteSize::gib(2)));
    }
}
