use std::collections::{BTreeMap, BTreeSet};

use super::super::model::SetAside;
use super::super::pending::{Pending, PendingKind, PendingVolume, Reserved, VolumeProgress};
use super::super::refusal::Refusal;
use super::super::snapshot::Snapshot;
use super::super::testing::{Rig, apply, set_global, short, small_model, vm};
use super::super::value::Value;
use super::super::write::Write;
use super::super::{global::Global, ids::PendingId};
use super::{NewPool, adding, drivers, folders, removing, settings};
use crate::storage::{DriverKind, RevisionsToKeep};

fn new(name: &str, options: &[(&str, &str)]) -> Result<NewPool, Refusal> {
    let options: BTreeMap<_, _> = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    NewPool::new(name.parse().unwrap(), DriverKind::File, options)
}

fn add(snapshot: &mut Snapshot, name: &str) -> Result<Vec<String>, Refusal> {
    let pool = new(name, &[("dir_path", "/srv/fast")])?;
    let diff = adding::add(snapshot, &pool).map_err(|refused| refused.refusal)?;
    Ok(short(&apply(snapshot, diff).1))
}

fn remove(snapshot: &mut Snapshot, name: &str) -> Result<Vec<String>, Refusal> {
    let diff = removing::remove(snapshot, name).map_err(|refused| refused.refusal)?;
    Ok(short(&apply(snapshot, diff).1))
}

fn aside(table: &'static str, name: &str, pool: &str) -> SetAside {
    SetAside {
        table,
        name: name.to_owned(),
        uuid: None,
        qid: None,
        position: None,
        label: None,
        dispid: None,
        volumes: Vec::new(),
        pools: vec![pool.parse().unwrap()],
        references: Vec::new(),
        reason: "bad".to_owned(),
    }
}

#[test]
fn options_are_known_complete_and_in_one_form() {
    let pool = new(
        "fast",
        &[("dir_path", "//srv/./fast/"), ("revisions_to_keep", "7"), ("ephemeral_volatile", "ON")],
    );
    let options: Vec<_> = pool.unwrap().options.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(options, ["dir_path=/srv/fast", "ephemeral_volatile=True", "revisions_to_keep=7"]);
    let unknown = BTreeSet::from(["thin_pool".to_owned()]);
    let refused = |options: &[(&str, &str)]| new("fast", options).unwrap_err();
    assert_eq!(refused(&[("thin_pool", "x")]), Refusal::UnknownPoolOptions { options: unknown });
    assert_eq!(refused(&[("dir_path", "")]), Refusal::MissingPoolOptions { options: vec!["dir_path"] });
    for (key, value) in [
        ("dir_path", "srv"),
        ("dir_path", "/srv/../fast"),
        ("dir_path", "/srv\x7f"),
        ("revisions_to_keep", "-2"),
        ("revisions_to_keep", "4294967296"),
        ("revisions_to_keep", "many"),
        ("revisions_to_keep", "01"),
        ("revisions_to_keep", "+1"),
        ("revisions_to_keep", " 1"),
        ("ephemeral_volatile", ""),
    ] {
        let mut options = BTreeMap::from([("dir_path", "/srv")]);
        options.insert(key, value);
        let refused = refused(&options.into_iter().collect::<Vec<_>>());
        assert!(
            matches!(&refused, Refusal::PoolOption { text } if text.contains(key)),
            "{key}={value}: {refused:?}"
        );
    }
    for info in drivers() {
        assert!(info.kind.options().iter().all(|option| info.options.contains(&option.name)));
        let has_base = info.options.contains(&"revisions_to_keep");
        let has_none = matches!(info.kind, DriverKind::Callback | DriverKind::LinuxKernel);
        assert_eq!(has_base, !has_none);
    }
}

#[test]
fn a_pool_comes_last_and_has_a_name_of_its_own() {
    let mut snapshot = small_model();
    assert_eq!(add(&mut snapshot, "fast").unwrap(), [" PoolAdd { pool: PoolName(\"fast\") }"]);
    assert_eq!(snapshot.model.pools().last().unwrap().name.as_str(), "fast");
    let place = |snapshot: &Snapshot| snapshot.model.pools().last().unwrap().position;
    let kept = Some(place(&snapshot) + 1);
    snapshot.model.put_set_aside(SetAside { position: kept, ..aside("pool", "bad", "other") });
    add(&mut snapshot, "after").unwrap();
    assert!(Some(place(&snapshot)) > kept, "the row that was set aside has this place");
    let last = Some(u32::MAX);
    snapshot.model.put_set_aside(SetAside { position: last, ..aside("pool", "worse", "other") });
    for name in ["before-it", "before-that"] {
        add(&mut snapshot, name).unwrap();
    }
    let places: Vec<u32> = snapshot.model.pools().map(|pool| pool.position).collect();
    assert!(places.contains(&(u32::MAX - 1)) && places.contains(&(u32::MAX - 2)), "{places:?}");
    for name in ["fast", "varlibqubes", "bad"] {
        assert_eq!(
            add(&mut snapshot, name).unwrap_err(),
            Refusal::PoolExists { pool: name.parse().unwrap() }
        );
    }
}

#[test]
fn a_pool_goes_when_nobody_uses_it_and_is_announced() {
    let mut snapshot = small_model();
    add(&mut snapshot, "fast").unwrap();
    let pool = || "fast".parse().unwrap();
    let in_use = |volumes_of: &[&str], defaults: &[&'static str]| Refusal::PoolInUse {
        pool: pool(),
        volumes_of: volumes_of.iter().map(|name| name.parse().unwrap()).collect(),
        defaults: defaults.to_vec(),
    };
    set_global(&mut snapshot, Global::DefaultPoolVolatile, Value::Pool(pool()));
    assert_eq!(remove(&mut snapshot, "fast").unwrap_err(), in_use(&[], &["default_pool_volatile"]));
    Write::SetGlobal(Global::DefaultPoolVolatile, None).apply(&mut snapshot.model).unwrap();

    let row = Pending {
        id: PendingId::new(3),
        kind: PendingKind::Remove,
        vm: Reserved::of(&vm(&snapshot, "work")),
        volumes: vec![PendingVolume {
            volume: "private".parse().unwrap(),
            pool: pool(),
            vid: "appvms/work/private".into(),
            progress: VolumeProgress::Made,
        }],
    };
    Write::BeginPending(row.into()).apply(&mut snapshot.model).unwrap();
    assert_eq!(remove(&mut snapshot, "fast").unwrap_err(), in_use(&["work"], &[]));
    Write::FinishPending(PendingId::new(3)).apply(&mut snapshot.model).unwrap();

    for (table, name, named) in
        [("vm", "ghost", &["ghost"][..]), ("vm", "no name", &[]), ("global", "default_pool", &[])]
    {
        let mut snapshot = snapshot.clone();
        snapshot.model.put_set_aside(aside(table, name, "fast"));
        assert_eq!(remove(&mut snapshot, "fast").unwrap_err(), in_use(named, &[]), "{table} {name}");
    }
    let events = remove(&mut snapshot, "fast").unwrap();
    let event = |kind: &str| format!(" {kind} {{ pool: PoolName(\"fast\") }}");
    assert_eq!(events, [event("PoolPreDelete"), event("PoolDelete")]);
    assert_eq!(remove(&mut snapshot, "fast").unwrap_err(), Refusal::PoolNotFound { pool: "fast".to_owned() });
}

#[test]
fn kernels_and_the_default_of_the_default_use_a_pool() {
    let mut snapshot = small_model();
    let by = ["debian", "sys-net", "work"].iter().map(|name| name.parse().unwrap()).collect();
    let refused = remove(&mut snapshot, "linux-kernel").unwrap_err();
    let pool = "linux-kernel".parse().unwrap();
    assert_eq!(refused, Refusal::PoolInUse { pool, volumes_of: by, defaults: vec!["default_pool_kernel"] });
    Write::SetGlobal(Global::DefaultPool, None).apply(&mut snapshot.model).unwrap();
    let refused = remove(&mut snapshot, "varlibqubes").unwrap_err();
    assert!(
        matches!(&refused, Refusal::PoolInUse { defaults, .. } if *defaults == ["default_pool"]),
        "{refused:?}"
    );
}

#[test]
fn a_setting_is_changed_and_a_pool_of_kernels_has_none() {
    let mut snapshot = small_model();
    let newest = |count| RevisionsToKeep::Newest(count);
    for (pool, keep) in [("varlibqubes", newest(5)), ("linux-kernel", newest(0))] {
        let diff = settings::set_revisions(&snapshot, pool, keep).unwrap();
        assert!(apply(&mut snapshot, diff).1.is_empty());
    }
    let diff = settings::set_ephemeral(&snapshot, "varlibqubes", true).unwrap();
    apply(&mut snapshot, diff);
    let shown = snapshot.model.pool("varlibqubes").unwrap().shown_options();
    let shown: Vec<_> = shown.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let expected =
        ["dir_path=/srv/varlibqubes", "ephemeral_volatile=True", "revisions_to_keep=5", "cow=auto"];
    assert_eq!(shown, expected);
    assert_eq!(snapshot.model.pool("linux-kernel").unwrap().shown_options().len(), 1);
    for refused in [
        settings::set_revisions(&snapshot, "linux-kernel", newest(1)).unwrap_err(),
        settings::set_ephemeral(&snapshot, "linux-kernel", true).unwrap_err(),
    ] {
        assert!(matches!(refused.refusal, Refusal::PoolOption { .. }), "{refused:?}");
    }
    assert!(settings::set_revisions(&snapshot, "none", newest(1)).is_err());
}

#[test]
fn folders_that_are_noted_outlive_a_restart_and_go_if_they_are_empty() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["new", "new/appvms", "new/vm-templates"].map(|path| dir.path().join(path));
    let texts: Vec<std::sync::Arc<str>> = paths.iter().map(|path| path.to_str().unwrap().into()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let rig = Rig::new();
    runtime.block_on(folders::begin(&rig.committer, &texts)).unwrap();
    let rig = rig.restart();
    assert_eq!(rig.snapshot().model.folders().cloned().collect::<Vec<_>>(), texts);
    // What is in use by then stays, and is noted no more.
    for (made, file) in [(2, None), (3, None), (3, Some("new/appvms/file"))] {
        paths.iter().take(made).for_each(|path| std::fs::create_dir(path).unwrap());
        file.iter().for_each(|file| std::fs::write(dir.path().join(file), "").unwrap());
        runtime.block_on(folders::begin(&rig.committer, &texts)).unwrap();
        runtime.block_on(folders::undo(&rig.committer, texts.clone()));
        assert_eq!(rig.snapshot().model.folders().count(), 0);
        let left: Vec<bool> = paths.iter().map(|path| path.exists()).collect();
        assert_eq!(left, [file.is_some(), file.is_some(), false], "{made}");
    }
}
