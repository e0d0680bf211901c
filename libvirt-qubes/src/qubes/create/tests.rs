//! What a new VM becomes, and what is wrong with a request.

use super::super::class::VolumeKind;
use super::super::event::Subject;
use super::super::ids::LabelIndex;
use super::super::label::Label;
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
    assert_eq!((owner.name.as_str(), origin.vid.as_deref()), ("debian", Some("vm-templates/debian/root")));
    assert_eq!(snapshot.model.volume_size(&work, "root").map(|size| size.get() >> 30), Some(10));
    assert!(snapshot.model.volume_source(&work, "private").is_none());
}

#[test]
fn a_pool_for_all_takes_what_can_be_written_and_is_no_snapshot() {
    let mut snapshot = small_model();
    pool("fast", 9).apply(&mut snapshot.model).unwrap();
    let all =
        NewVm { pools: Pools::All("fast".parse().unwrap()), ..new_vm("a", VmClass::AppVm, Some("debian")) };
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
            app(each("kernel", "varlibqubes")),
            R::KernelInPoolOfVolumes {
                volume: "kernel".parse().unwrap(),
                pool: "varlibqubes".parse().unwrap(),
            },
        ),
        (app(each("swap", "varlibqubes")), R::NoSuchVolume { vm: name("a"), volume: "swap".to_owned() }),
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
fn when_every_number_is_taken_the_one_that_is_given_back_is_the_next() {
    let mut snapshot = first_model();
    let first = make(&mut snapshot, &new_vm("vm1", VmClass::RemoteVm, None));
    for number in 2..=9999 {
        let qid = super::super::ids::Qid::new(number).unwrap();
        assert_eq!(snapshot.model.free_qid(), Ok(qid));
        let name = format!("vm{number}").parse().unwrap();
        let uuid = Uuid::from_u128(u128::from(number));
        let vm = Arc::new(Vm { uuid, qid, name, ..Vm::clone(&first) });
        Write::AddVm(vm).apply(&mut snapshot.model).unwrap();
    }
    let new = new_vm("a", VmClass::RemoteVm, None);
    assert_eq!(refused(&snapshot, &new), R::NoFreeQid);
    Write::RemoveVm(Uuid::from_u128(5000)).apply(&mut snapshot.model).unwrap();
    assert_eq!(make(&mut snapshot, &new).qid.get(), 5000);
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
fn a_creator_can_say_whose_screen_its_vms_get() {
    let mut snapshot = small_model();
    super::super::testing::feature(&mut snapshot, "work", "set-created-guivm", "sys-net");
    let new = NewVm { source: "work".parse().unwrap(), ..new_vm("a", VmClass::AppVm, Some("debian")) };
    let made = make(&mut snapshot, &new);
    assert_eq!(made.reference(Property::Guivm), Some(Some(vm(&snapshot, "sys-net").uuid)));
    assert!(made.tags.iter().any(|tag| tag.as_str() == "guivm-sys-net"));
    let remote = NewVm { source: new.source.clone(), ..new_vm("far", VmClass::RemoteVm, None) };
    assert_eq!(make(&mut snapshot, &remote).reference(Property::Guivm), None);
    super::super::testing::feature(&mut snapshot, "work", "set-created-guivm", "nobody");
    let new = NewVm { source: new.source, ..new_vm("b", VmClass::AppVm, Some("debian")) };
    assert_eq!(make(&mut snapshot, &new).reference(Property::Guivm), None);
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
fn a_label_that_got_the_index_of_another_meanwhile_is_not_that_one() {
    let mut snapshot = first_model();
    make(&mut snapshot, &new_vm("debian", VmClass::TemplateVm, None));
    let index = LabelIndex::new(9).unwrap();
    let label = |name: &str| {
        let (name, colour) = (name.parse().unwrap(), "0x123456".parse().unwrap());
        Write::AddLabel(Arc::new(Label { index, name, colour }))
    };
    label("teal").apply(&mut snapshot.model).unwrap();
    let new = NewVm { label: "teal".to_owned(), ..new_vm("a", VmClass::AppVm, Some("debian")) };
    let diff = begin(&snapshot, &new).unwrap();
    let (plan, _) = apply(&mut snapshot, diff);
    assert!(finish(&snapshot, &plan).is_ok());
    Write::RemoveLabel(index).apply(&mut snapshot.model).unwrap();
    label("rust").apply(&mut snapshot.model).unwrap();
    assert_eq!(finish(&snapshot, &plan).unwrap_err().refusal, R::LabelNotFound { label: "teal".into() });
    Write::RemoveLabel(index).apply(&mut snapshot.model).unwrap();
    label("teal").apply(&mut snapshot.model).unwrap();
    assert!(finish(&snapshot, &plan).is_ok());
}

#[test]
fn a_disposable_takes_over_what_its_base_has_set() {
    let mut snapshot = small_model();
    for (property, value) in
        [("template_for_dispvms", "True"), ("memory", "777"), ("label", "blue"), ("installed_by_rpm", "True")]
    {
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
