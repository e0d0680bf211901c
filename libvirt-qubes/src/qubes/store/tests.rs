//! Stores as they are found: new, left by an earlier start, edited by somebody, held by another process.

use uuid::Uuid;

use super::super::assignment::{AssignedDevice, AssignmentMode};
use super::super::at_start::{AtStart, Started};
use super::super::class::{VmClass, VolumeKind};
use super::super::global::Global;
use super::super::ids::Dispid;
use super::super::notes::{Notes, NotesText};
use super::super::pending::{PendingKind, StartPhase, VolumeProgress};
use super::super::property::{self, Property};
use super::super::testing::{self, Rig, new_vm};
use super::super::value::{Shown, Value};
use super::super::{create, pool};
use super::*;
use crate::config::Access;
use crate::ids::{ByteSize, PoolName};
use crate::storage::{RevisionsToKeep, Sharing};

fn edit(dir: &Path, sql: &str) {
    let db = Connection::open(dir.join("state.db")).unwrap();
    db.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    db.execute_batch(sql).unwrap();
}

/// A state with template `debian` and AppVM `work`, closed again.
fn filled() -> tempfile::TempDir {
    let mut rig = Rig::new();
    for new in [new_vm("debian", VmClass::TemplateVm, None), new_vm("work", VmClass::AppVm, Some("debian"))] {
        let plan = rig.commit(move |state| create::begin(state, &new)).unwrap();
        rig.commit(move |state| create::finish(state, &plan)).unwrap();
    }
    let work = rig.snapshot().model.vm_named("work").unwrap().uuid;
    rig.commit(move |state| property::set(state, work, "memory", b"500")).unwrap();
    rig.close();
    std::mem::replace(&mut rig.dir, tempfile::tempdir().unwrap())
}

#[test]
fn a_first_start_holds_dom0_eight_labels_two_pools_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("new/state");
    let opened = testing::open(&state);
    assert_eq!(opened.start, Start::First);
    let model = &opened.model;
    let vms: Vec<_> = model.vms().map(|vm| (vm.name.as_str(), vm.class, vm.qid.get(), vm.uuid)).collect();
    assert_eq!(vms, [("dom0", VmClass::AdminVm, 0, Uuid::nil())]);
    let labels: Vec<_> =
        model.labels().map(|l| (l.index.get(), l.name.as_str(), l.colour.as_str())).collect();
    assert_eq!((labels.len(), labels[0], labels[7]), (8, (1, "red", "0xcc0000"), (8, "black", "0x000000")));
    let pools: Vec<_> =
        model.pools().map(|p| (p.name.as_str(), &*p.driver, &*p.options["dir_path"])).collect();
    assert_eq!(
        pools,
        [("varlibqubes", "file", "/srv/varlibqubes"), ("linux-kernel", "linux-kernel", "/srv/vm-kernels")]
    );
    let pool = |name: &str| Value::Pool(name.parse().unwrap());
    let globals: Vec<_> = model.globals().map(|(global, value)| (global, value.clone())).collect();
    assert_eq!(
        globals,
        [
            (Global::DefaultKernel, Value::text("")),
            (Global::DefaultPool, pool("varlibqubes")),
            (Global::DefaultPoolKernel, pool("linux-kernel"))
        ]
    );
    assert_eq!(std::fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
    for file in ["state.db", "state.db-wal", "lock", "ballast"] {
        assert_eq!(std::fs::metadata(state.join(file)).unwrap().mode() & 0o777, 0o600, "{file}");
    }
}

#[test]
fn a_state_of_version_1_is_read_whole() {
    let dir = tempfile::tempdir().unwrap();
    edit(dir.path(), include_str!("v1.sql"));
    edit(dir.path(), include_str!("v1_content.sql"));
    edit(dir.path(), "PRAGMA user_version = 1; PRAGMA application_id = 0x51754d67");
    let opened = Store::open(dir.path(), || panic!("not a first start")).unwrap();
    assert_eq!(opened.last_number, 4_294_967_300);
    let state = testing::snapshot_of(opened.model);
    let model = &state.model;
    assert_eq!(model.set_aside().count(), 0, "{:?}", model.set_aside().collect::<Vec<_>>());
    assert!(model.vms().all(|vm| vm.firewall.is_default() && vm.notes == Notes::default()));

    let names: Vec<_> = model.vms().map(|vm| (vm.name.as_str(), vm.qid.get(), vm.class.as_str())).collect();
    assert_eq!(
        names,
        [
            ("dom0", 0, "AdminVM"),
            ("debian", 1, "TemplateVM"),
            ("disp4711", 7, "DispVM"),
            ("sys-net", 2, "AppVM")
        ]
    );
    let get = |vm: &str, name: &str| {
        let answer = property::get(&state, model.vm_named(vm).unwrap(), name).unwrap();
        (answer.origin == property::Origin::Explicit, answer.value)
    };
    let (vm, text) = (|name: &str| Shown::Vm(name.parse().unwrap()), |text: &str| Shown::Str(text.into()));
    assert_eq!(get("debian", "memory"), (true, Shown::Int(700)));
    assert_eq!(get("sys-net", "memory"), (false, Shown::Int(700)));
    assert_eq!(get("debian", "kernelopts"), (true, text("quiet ro")));
    assert_eq!(get("sys-net", "kernel"), (false, text("6.1")));
    assert_eq!(get("sys-net", "netvm"), (true, Shown::None));
    assert_eq!(get("sys-net", "label"), (true, Shown::Label("red".parse().unwrap())));
    assert_eq!(get("disp4711", "netvm"), (true, vm("sys-net")));
    assert_eq!(get("disp4711", "template"), (true, vm("sys-net")));
    assert_eq!(get("disp4711", "dispid"), (true, Shown::Int(4711)));
    assert_eq!(get("disp4711", "label"), (true, Shown::Label("pink".parse().unwrap())));

    let sys_net = model.vm_named("sys-net").unwrap();
    let volumes: Vec<_> =
        sys_net.volumes.iter().map(|v| (v.name.as_str(), v.kind, v.size, v.ephemeral)).collect();
    let (snapshot, volatile) = (VolumeKind::Snapshot, VolumeKind::Volatile);
    assert_eq!(
        volumes,
        [("root", snapshot, None, None), ("volatile", volatile, Some(ByteSize::gib(12)), Some(true))]
    );
    let root = model.vm_named("debian").unwrap().volume("root").unwrap();
    assert_eq!((root.revisions_to_keep, root.access), (Some(3), Access::ReadWrite));
    assert_eq!(model.volume_size(sys_net, "root"), Some(ByteSize::gib(10)));
    assert_eq!(
        sys_net.tags.iter().map(|tag| tag.as_str()).collect::<Vec<_>>(),
        ["audiovm-dom0", "created-by-dom0", "guivm-dom0"]
    );
    let features: Vec<_> =
        sys_net.features.iter().map(|(n, f)| (n.as_str(), f.value.as_str(), f.position)).collect();
    assert_eq!(features, [("gui", "", 1), ("servicevm", "1", 2)]);

    assert_eq!(&*model.pool("varlibqubes").unwrap().options["revisions_to_keep"], "2");
    assert_eq!(model.global_vm(Global::DefaultTemplate), Some(model.vm_named("debian").unwrap().uuid));
    assert_eq!(
        (model.global_vm(Global::DefaultNetvm), model.global_int(Global::StatsInterval)),
        (None, Some(5))
    );
    assert_eq!(model.default_pool_of("root").map(PoolName::as_str), Some("varlibqubes"));

    let pending: Vec<_> = model.pending().map(|row| (row.id.get(), row.kind, row.vm.name.as_str())).collect();
    let start = PendingKind::Start(StartPhase::Unpausing);
    assert_eq!(pending, [(3, PendingKind::Create, "half-made"), (4, start, "sys-net")]);
    let made: Vec<_> =
        model.pending().next().unwrap().volumes.iter().map(|v| (&*v.vid, v.progress)).collect();
    assert_eq!(
        made,
        [
            ("appvms/half-made/root", VolumeProgress::Made),
            ("appvms/half-made/private", VolumeProgress::Planned)
        ]
    );
    assert!(model.start_pending(sys_net.uuid) && !model.name_is_free(&"half-made".parse().unwrap()));
    assert_eq!(model.free_qid().unwrap().get(), 4);
}

/// A state as a version left it: the schemas up to it, each with what it added to the content.
fn of_version(version: usize) -> tempfile::TempDir {
    let content = [
        include_str!("v1_content.sql"),
        include_str!("v2_content.sql"),
        include_str!("v3_content.sql"),
        include_str!("v4_content.sql"),
        include_str!("v5_content.sql"),
        include_str!("v6_content.sql"),
        include_str!("v7_content.sql"),
        include_str!("v8_content.sql"),
    ];
    assert_eq!(content.len(), schema::MIGRATIONS.len(), "every version has its content");
    let dir = tempfile::tempdir().unwrap();
    for (schema, content) in schema::MIGRATIONS.iter().zip(content).take(version) {
        edit(dir.path(), schema);
        edit(dir.path(), content);
    }
    edit(dir.path(), &format!("PRAGMA user_version = {version}; PRAGMA application_id = 0x51754d67"));
    dir
}

#[test]
fn a_state_of_every_version_keeps_its_rows_on_the_way_to_this_one() {
    for version in 1..=schema::MIGRATIONS.len() {
        let dir = of_version(version);
        let opened = Store::open(dir.path(), || panic!("not a first start")).unwrap();
        assert_eq!(opened.start, Start::Later);
        let model = opened.model;
        let bad: Vec<_> = model.set_aside().collect();
        assert!(bad.is_empty(), "{version}: {bad:?}");
        assert_eq!((model.vm_count(), model.pending().count()), (4, 2), "{version}");
        let reserved = model.pending().next().unwrap().vm.dispid.map(Dispid::get);
        assert_eq!(reserved, (version >= 4).then_some(4712));
        let removed = model.pending().next().unwrap().volumes.iter();
        let removed: Vec<_> = removed.map(|volume| (volume.volume.as_str(), volume.pool.as_str())).collect();
        let (here, away) = ([("root", "varlibqubes"), ("private", "varlibqubes")], [("root", "away")]);
        assert_eq!(
            removed,
            if version >= 8 { [&here[..], &away].concat() } else { here.to_vec() },
            "{version}"
        );
        let folders: Vec<_> = model.folders().map(|folder| &**folder).collect();
        assert_eq!(folders, if version >= 5 { ["/srv/fast", "/srv/fast/appvms"].as_slice() } else { &[] });
        let sys_net = model.vm_named("sys-net").unwrap();
        let root = model.vm_named("debian").unwrap().volume("root").unwrap();
        assert_eq!(root.last_snapshot, if version >= 6 { 4 } else { 0 });
        let assigned: Vec<_> = sys_net
            .assignments
            .iter()
            .map(|(device, how)| {
                let options =
                    how.options.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join(" ");
                let parts = [&device.port, &device.id].map(|part| AssignedDevice::written(part.as_ref()));
                (device.class.as_str(), device.backend, parts, how.mode, options)
            })
            .collect();
        let pci = ["00_14.0", "0x8086:0xa0ed::p0c0330"];
        let expected = [
            ("pci", Some(Vm::DOM0), pci, AssignmentMode::Required, "no-strict-reset=True".to_owned()),
            ("usb", None, ["*", "0951:1666::u080650"], AssignmentMode::AskToAttach, String::new()),
        ];
        assert_eq!(assigned, if version >= 2 { expected.as_slice() } else { &[] }, "{version}");
        assert_eq!(model.devices_of(sys_net.uuid).count(), usize::from(version >= 2));
        let rules = |vm: &str| {
            let rules = model.vm_named(vm).unwrap().firewall.rules();
            rules.iter().map(|entry| format!("{} {}", entry.id, entry.rule)).collect::<Vec<_>>()
        };
        let default = ["1 action=accept"];
        let listed = [
            "9 action=drop dst6=2001:DB8::/32 comment=not there",
            "1 action=accept",
            "4 action=accept expire=253402300799 dsthost=example.com proto=tcp dstports=443-443",
        ];
        assert_eq!(rules("sys-net"), if version >= 3 { listed.as_slice() } else { &default }, "{version}");
        assert_eq!(rules("disp4711"), if version >= 3 { [].as_slice() } else { &default }, "{version}");
        assert_eq!(rules("debian"), default);
        let notes = if version >= 3 { "two\nlines, größer" } else { "" };
        let notes = NotesText::sanitised(notes.as_bytes()).unwrap();
        assert_eq!(model.vm_named("debian").unwrap().notes, Notes::Text(notes), "{version}");
        let started = |volume: &str, keep, access, sharing, ephemeral| {
            let at_start = AtStart { revisions_to_keep: keep, access, sharing, ephemeral };
            ((volume.parse().unwrap(), "varlibqubes".parse().unwrap()), at_start)
        };
        let noted = Started::from([
            started("root", RevisionsToKeep::Newest(2), Access::ReadWrite, Sharing::Private, false),
            started("volatile", RevisionsToKeep::Disabled, Access::ReadOnly, Sharing::Source, true),
        ]);
        assert_eq!(sys_net.started, if version >= 7 { noted } else { Started::new() }, "{version}");
    }
}

#[test]
fn a_later_start_finds_what_was_left_and_asks_nothing() {
    let dir = filled();
    let opened = Store::open(dir.path(), || panic!("not a first start")).unwrap();
    assert_eq!(opened.start, Start::Later);
    let names: Vec<_> = opened.model.vms().map(|vm| vm.name.as_str()).collect();
    assert_eq!(names, ["dom0", "debian", "work"]);
    assert_eq!(opened.model.set_aside().count(), 0);
}

#[test]
fn a_second_opener_is_refused_and_told_who_was_first() {
    let dir = tempfile::tempdir().unwrap();
    let first = testing::open(dir.path());
    let error = Store::open(dir.path(), || panic!("not a first start")).unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    assert!(error.report().contains(&format!("process {}", std::process::id())), "{}", error.report());
    drop(first);
    testing::open(dir.path());
}

#[test]
fn numbers_of_events_begin_above_those_of_every_earlier_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0;
    for _ in 0..3 {
        let mut opened = testing::open(dir.path());
        assert!(opened.last_number >= last);
        last = opened.last_number + 10;
        opened.store.reserve_numbers(last).unwrap();
    }
    let mut opened = testing::open(dir.path());
    let far = opened.last_number + 3 * NUMBER_BLOCK;
    opened.store.reserve_numbers(far).unwrap();
    drop(opened);
    assert!(testing::open(dir.path()).last_number > far);
}

#[test]
fn a_database_that_is_damaged_or_another_programs_is_an_error_and_is_left_alone() {
    for content in ["no database at all, but long enough to have a header".repeat(4), String::new()] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        if content.is_empty() {
            edit(dir.path(), "CREATE TABLE theirs (x)");
        } else {
            std::fs::write(&path, &content).unwrap();
        }
        let before = std::fs::read(&path).unwrap();
        let error = Store::open(dir.path(), || panic!("not a first start")).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{}", error.report());
        if !content.is_empty() {
            assert_eq!(std::fs::read(&path).unwrap(), before);
        }
    }
}

#[test]
fn a_bad_row_of_a_vm_is_set_aside_and_keeps_what_it_has() {
    for (sql, word) in [
        ("UPDATE vm SET class = 'CloudVM' WHERE name = 'work'", "CloudVM"),
        ("UPDATE vm SET qid = 70000 WHERE name = 'work'", "70000"),
        ("UPDATE vm SET label = 99 WHERE name = 'work'", "label 99"),
        ("UPDATE vm SET class = 'AdminVM' WHERE name = 'work'", "dom0 alone"),
        ("UPDATE vm_property SET value = '-5'", "memory must be positive"),
        ("UPDATE vm_property SET value = '05'", "05"),
        ("UPDATE vm_property SET name = 'nonsense'", "nonsense"),
        ("UPDATE vm_property SET name = 'xid'", "xid"),
        ("UPDATE vm_reference SET name = 'memory'", "memory"),
        ("UPDATE vm_reference SET target = NULL", "may not be none"),
        ("DELETE FROM vm_reference", "no template"),
        (
            "UPDATE vm_reference SET target = '00000000-0000-0000-0000-000000000000'",
            "AdminVM, not TemplateVM",
        ),
        ("UPDATE vm_reference SET target = 'nobody'", "nobody"),
        ("UPDATE volume SET kind = 'liquid' WHERE vm IN (SELECT uuid FROM vm WHERE name = 'work')", "liquid"),
        ("UPDATE volume SET pool = 'gone' WHERE vm IN (SELECT uuid FROM vm WHERE name = 'work')", "gone"),
        ("INSERT INTO tag SELECT uuid, 'a b' FROM vm WHERE name = 'work'", "a b"),
        ("INSERT INTO feature SELECT uuid, 'a b', '', 1 FROM vm WHERE name = 'work'", "a b"),
    ] {
        let dir = filled();
        edit(dir.path(), sql);
        let model = testing::open(dir.path()).model;
        assert!(model.vm_named("work").is_none(), "{sql}");
        assert!(model.vm_named("debian").is_some(), "{sql}");
        let row = model.set_aside().next().unwrap();
        assert!(row.name == "work" && row.reason.contains(word), "{sql}: {row:?}");
        assert!(!model.name_is_free(&"work".parse().unwrap()), "{sql}");
        assert!(!model.uuid_is_free(row.uuid.unwrap()), "{sql}");
        let free = model.free_qid().unwrap().get();
        assert_eq!(free, if sql.contains("70000") { 2 } else { 3 }, "{sql}");
        let uses_kernels = row.pools.iter().any(|pool| pool.as_str() == "linux-kernel");
        assert_eq!(uses_kernels, !sql.contains("gone"), "{sql}");
        if !sql.contains("gone") {
            assert!(model.occupant("varlibqubes", "appvms/work/private").is_some(), "{sql}");
        }
    }
}

#[test]
fn the_number_of_a_disposable_is_one_vms_and_a_bad_row_keeps_its_own() {
    let dir = tempfile::tempdir().unwrap();
    edit(dir.path(), include_str!("v1.sql"));
    edit(dir.path(), include_str!("v1_content.sql"));
    edit(dir.path(), "PRAGMA user_version = 1; PRAGMA application_id = 0x51754d67");
    drop(testing::open(dir.path()));
    let second = "INSERT INTO vm VALUES ('55555555-5555-4555-8555-555555555555', 8, 'twin', 'DispVM', 9);
        INSERT INTO vm_reference VALUES
            ('55555555-5555-4555-8555-555555555555', 'template', '22222222-2222-4222-8222-222222222222');
        INSERT INTO vm_property VALUES ('55555555-5555-4555-8555-555555555555', 'dispid', '4711');";
    edit(dir.path(), second);
    let dispid = |number| Dispid::new(number).unwrap();
    let model = testing::open(dir.path()).model;
    let bad = model.set_aside().next().unwrap();
    assert!(bad.name == "twin" && bad.reason.contains("4711"), "{bad:?}");
    assert!(!model.dispid_is_free(dispid(4711)) && model.dispid_is_free(dispid(4712)));

    edit(dir.path(), "UPDATE vm_property SET value = '99999' WHERE name = 'dispid' AND value = '4711'");
    assert_eq!(testing::open(dir.path()).model.set_aside().count(), 2);

    edit(dir.path(), "UPDATE vm_property SET value = '12' WHERE name = 'dispid' AND vm LIKE '3%'");
    edit(dir.path(), "UPDATE vm_property SET value = '13' WHERE name = 'dispid' AND vm LIKE '5%'");
    edit(dir.path(), "UPDATE pending SET dispid = 14 WHERE kind = 'create'");
    let model = testing::open(dir.path()).model;
    assert_eq!(model.free_dispid_from(dispid(12)), Some(dispid(15)));
    edit(dir.path(), "UPDATE pending SET dispid = 10000 WHERE kind = 'create'");
    let model = testing::open(dir.path()).model;
    let bad = model.set_aside().find(|row| row.table == "pending").unwrap();
    assert!(bad.reason.contains("10000"), "{bad:?}");
}

#[test]
fn what_refers_to_a_bad_row_loads_and_the_bad_row_keeps_others_in_use() {
    let dir = filled();
    edit(dir.path(), "UPDATE vm SET class = 'CloudVM' WHERE name = 'debian'");
    let model = testing::open(dir.path()).model;
    let state = testing::snapshot_of(model);
    let work = testing::vm(&state, "work");
    let template = property::get(&state, &work, "template").unwrap();
    assert_eq!(template.value, Shown::Vm("debian".parse().unwrap()));

    let dir = filled();
    edit(dir.path(), "UPDATE vm SET class = 'CloudVM' WHERE name = 'work'");
    let state = testing::snapshot_of(testing::open(dir.path()).model);
    let debian = testing::vm(&state, "debian").uuid;
    let refused = super::super::remove::begin(&state, debian).unwrap_err();
    assert!(format!("{refused:?}").contains("work"), "{refused:?}");

    let mut rig = Rig::new();
    for name in ["base", "net", "work"] {
        let new = new_vm(name, VmClass::StandaloneVm, None);
        let plan = rig.commit(move |state| create::begin(state, &new)).unwrap();
        rig.commit(move |state| create::finish(state, &plan)).unwrap();
    }
    for (vm, name, value) in [
        ("base", "template_for_dispvms", "True"),
        ("net", "provides_network", "True"),
        ("work", "netvm", "net"),
        ("work", "default_dispvm", "base"),
    ] {
        let vm = rig.snapshot().model.vm_named(vm).unwrap().uuid;
        rig.commit(move |state| property::set(state, vm, name, value.as_bytes())).unwrap();
    }
    rig.close();
    edit(rig.dir.path(), "UPDATE vm SET class = 'CloudVM' WHERE name = 'work'");
    let state = testing::snapshot_of(testing::open(rig.dir.path()).model);
    for (vm, name) in [("net", "provides_network"), ("base", "template_for_dispvms")] {
        let vm = testing::vm(&state, vm).uuid;
        let refused = property::set(&state, vm, name, b"False").unwrap_err();
        assert!(format!("{:?}", refused.refusal).contains("work"), "{refused:?}");
    }
}

#[test]
fn bad_labels_pools_globals_and_operations_are_set_aside() {
    for (sql, table) in [
        ("UPDATE label SET colour = 'pink' WHERE idx = 3", "label"),
        ("UPDATE pool SET position = -1 WHERE name = 'linux-kernel'", "pool"),
        ("UPDATE global SET value = NULL WHERE name = 'default_kernel'", "global"),
        ("INSERT INTO global (name, value) VALUES ('default_weather', 'sun')", "global"),
        ("INSERT INTO global (name, value) VALUES ('stats_interval', '0')", "global"),
        ("INSERT INTO global (name, value) VALUES ('maxmem', '5')", "global"),
        (
            "INSERT INTO global (name, vm) SELECT 'default_dispvm', uuid FROM vm WHERE class = 'TemplateVM'",
            "global",
        ),
        // The VM follows the default, and would be its own netvm.
        (
            "INSERT INTO global (name, vm) SELECT 'default_netvm', uuid FROM vm WHERE class = 'AppVM'",
            "global",
        ),
        ("INSERT INTO pending_folder VALUES ('srv')", "pending_folder"),
        ("INSERT INTO pending VALUES (7, 'dance', NULL, 'x', 5, 'ghost', NULL)", "pending"),
    ] {
        let dir = filled();
        edit(dir.path(), sql);
        let model = testing::open(dir.path()).model;
        let tables: Vec<_> = model.set_aside().map(|row| row.table).collect();
        assert_eq!(tables, [table], "{sql}");
        assert_eq!(model.vm_count(), 3, "{sql}");
        if table == "pending" {
            assert!(!model.name_is_free(&"ghost".parse().unwrap()));
        }
    }
}

#[test]
fn there_is_always_a_dom0() {
    for sql in ["UPDATE vm SET class = 'AppVM' WHERE qid = 0", "DELETE FROM vm WHERE qid = 0"] {
        let dir = filled();
        edit(dir.path(), sql);
        let model = testing::open(dir.path()).model;
        assert_eq!(model.vms().next().map(|vm| vm.name.as_str()), Some("dom0"), "{sql}");
    }
}

#[test]
fn what_is_bad_of_dom0_is_set_aside_by_itself_and_the_rest_of_it_holds() {
    let dom0 = "00000000-0000-0000-0000-000000000000";
    let good = format!(
        "INSERT INTO feature VALUES ('{dom0}', 'keep', '1', 1); INSERT INTO tag VALUES ('{dom0}', 'keept');
         INSERT INTO vm_property VALUES ('{dom0}', 'include_in_backups', 'False');"
    );
    for (sql, table, word) in [
        (format!("INSERT INTO vm_property VALUES ('{dom0}', 'zork', '1')"), "vm_property", "zork"),
        (format!("INSERT INTO vm_reference VALUES ('{dom0}', 'zork', NULL)"), "vm_reference", "zork"),
        (format!("INSERT INTO tag VALUES ('{dom0}', 'a b')"), "tag", "a b"),
        (format!("INSERT INTO feature VALUES ('{dom0}', 'a b', '', 2)"), "feature", "a b"),
        ("UPDATE vm SET label = 99 WHERE qid = 0".to_owned(), "label", "99"),
        ("UPDATE vm SET qid = 7, name = 'zero' WHERE qid = 0".to_owned(), "vm", "number 0"),
        (
            format!(
                "INSERT INTO vm_reference SELECT '{dom0}', 'default_dispvm', uuid FROM vm WHERE name = 'work'"
            ),
            "vm_reference",
            "template_for_dispvms",
        ),
    ] {
        let dir = filled();
        edit(dir.path(), &good);
        edit(dir.path(), &sql);
        let opened = testing::open(dir.path());
        let found: Vec<_> = opened.model.set_aside().collect();
        assert!(
            found.len() == 1 && found[0].table == table && found[0].reason.contains(word),
            "{sql}: {found:?}"
        );
        let dom0 = opened.model.vm(Vm::DOM0).unwrap();
        assert_eq!(
            (dom0.name.as_str(), dom0.qid.get(), dom0.feature("keep")),
            ("dom0", 0, Some("1")),
            "{sql}"
        );
        assert!(dom0.tags.iter().any(|tag| tag.as_str() == "keept"), "{sql}");
        assert_eq!(dom0.flag(Property::IncludeInBackups), Some(false), "{sql}");
        // What is set from now on is stored.
        Write::AddTag(Vm::DOM0, "more".parse().unwrap()).execute(&opened.store.db).unwrap();
    }
}

#[test]
fn a_dom0_with_anothers_identity_and_missing_labels_keep_no_daemon_from_starting() {
    let strange = "UPDATE vm SET uuid = '11111111-1111-1111-1111-111111111111' WHERE name = 'dom0'";
    let numberless =
        "UPDATE vm SET uuid = '11111111-1111-1111-1111-111111111111', qid = 9 WHERE name = 'dom0'";
    for (sql, bad) in [(strange, 1), (numberless, 1), ("DELETE FROM label", 0)] {
        let dir = filled();
        edit(dir.path(), sql);
        for _ in 0..2 {
            let opened = testing::open(dir.path());
            assert!(opened.model.vm(Vm::DOM0).is_some() && opened.model.vm_named("work").is_some(), "{sql}");
            assert_eq!((opened.model.set_aside().count(), opened.model.labels().count()), (bad, 8), "{sql}");
            Write::AddTag(Vm::DOM0, "mine".parse().unwrap()).execute(&opened.store.db).unwrap();
            Write::RemoveTag(Vm::DOM0, "mine".parse().unwrap()).execute(&opened.store.db).unwrap();
        }
    }
}

#[test]
fn a_store_that_is_gone_is_not_begun_anew_until_its_ballast_is_gone_too() {
    let dir = filled();
    let store = dir.path().join("state.db");
    for gone in [true, false] {
        if gone {
            std::fs::remove_file(&store).unwrap();
        } else {
            std::fs::write(&store, b"").unwrap();
        }
        let error = Store::open(dir.path(), || panic!("not a first start")).unwrap_err();
        assert!(error.report().contains("ballast"), "{}", error.report());
        assert!(store.exists() != gone);
    }
    std::fs::remove_file(dir.path().join("ballast")).unwrap();
    assert_eq!(testing::open(dir.path()).start, Start::First);
}

#[test]
fn a_pools_options_are_replaced_with_it() {
    let dir = filled();
    let mut opened = testing::open(dir.path());
    let mut pool = pool::Pool::clone(opened.model.pool("varlibqubes").unwrap());
    pool.options = [("revisions_to_keep".into(), "2".into())].into();
    let write = Write::SetPool(Arc::new(pool.clone()));
    write.apply(&mut opened.model).unwrap();
    write.execute(&opened.store.db).unwrap();
    drop(opened);
    assert_eq!(**testing::open(dir.path()).model.pool("varlibqubes").unwrap(), pool);
}
