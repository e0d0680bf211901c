//! What clients see of global properties, and what the VMs that follow them are told.

use super::super::class::VmClass;
use super::super::diff::Refused;
use super::super::event::ModelEvent;
use super::super::property;
use super::super::refusal::{Refusal as R, ValueRule};
use super::super::snapshot::{Run, RunState};
use super::super::testing::{
    apply, feature, first_model, make, new_vm, set as set_of, short, small_model, vm,
};
use super::super::write::Write;
use super::*;
use crate::ids::VmName;

fn set_to(snapshot: &mut Snapshot, name: &str, value: &str) -> Result<Vec<ModelEvent>, Refused> {
    let diff = set(snapshot, name, value.as_bytes())?;
    Ok(apply(snapshot, diff).1)
}

fn reset_to_default(snapshot: &mut Snapshot, name: &str) -> Result<Vec<ModelEvent>, Refused> {
    let diff = reset(snapshot, name)?;
    Ok(apply(snapshot, diff).1)
}

fn refused(snapshot: &mut Snapshot, name: &str, value: &str) -> R {
    set_to(snapshot, name, value).unwrap_err().refusal
}

fn held(snapshot: &Snapshot, name: &str) -> (Origin, Shown) {
    let answer = answer(snapshot, Global::named(name).unwrap());
    (answer.origin, answer.value)
}

fn name(text: &str) -> VmName {
    text.parse().unwrap()
}

fn of_vm(snapshot: &Snapshot, name: &str, property: &str) -> Shown {
    property::get(snapshot, &vm(snapshot, name), property).unwrap().value
}

fn run(snapshot: &mut Snapshot, name: &str) {
    let uuid = vm(snapshot, name).uuid;
    snapshot.cells.runs.insert(uuid, Run { state: RunState::Running, ..Run::registered() });
}

#[test]
fn they_are_listed_by_name_and_each_has_help() {
    let names: Vec<_> = Global::ALL.iter().map(|global| global.name()).collect();
    assert!(names.is_sorted() && names.len() == 20, "{names:?}");
    for global in Global::ALL {
        assert!(!global.row().help.is_empty(), "{global}");
        assert_eq!(Global::named(global.name()), Some(*global));
        let says = matches!(&global.row().source, GlobalSource::Stored(rules)
            if matches!(rules.default, GlobalFallback::To(_)));
        assert_eq!(!global.row().default.is_empty(), says, "{global}");
    }
}

#[test]
fn a_first_start_shows_these_values() {
    let mut snapshot = first_model();
    let text = |text: &str| Shown::Str(text.into());
    for (name, origin, value) in [
        ("check_updates_vm", Origin::Default, Shown::Bool(true)),
        ("default_guivm", Origin::Default, Shown::Vm(VmName::dom0())),
        ("default_netvm", Origin::Default, Shown::None),
        ("default_kernel", Origin::Explicit, text("")),
        ("default_pool", Origin::Explicit, text("varlibqubes")),
        ("default_pool_root", Origin::Default, text("varlibqubes")),
        ("default_qrexec_timeout", Origin::Default, Shown::Int(60)),
        ("default_template", Origin::Default, Shown::None),
        ("maxmem", Origin::Default, Shown::Int(16384)),
        ("no_cpus", Origin::Default, Shown::None),
        ("stats_interval", Origin::Default, Shown::Int(3)),
    ] {
        assert_eq!(held(&snapshot, name), (origin, value), "{name}");
    }
    assert_eq!(default_shown(&snapshot, Global::DefaultTemplate), None);
    assert_eq!(default_shown(&snapshot, Global::DefaultNetvm), Some(Shown::None));
    reset_to_default(&mut snapshot, "default_pool").unwrap();
    assert_eq!(held(&snapshot, "default_pool"), (Origin::Default, text("varlibqubes")));
    assert_eq!(snapshot.model.default_pool_of("root").unwrap().as_str(), "varlibqubes");
    Write::SetPool(std::sync::Arc::new(super::super::pool::Pool {
        name: "fast".parse().unwrap(),
        driver: "file".into(),
        options: std::collections::BTreeMap::new(),
        position: 9,
    }))
    .apply(&mut snapshot.model)
    .unwrap();
    set_to(&mut snapshot, "default_pool", "fast").unwrap();
    assert_eq!(held(&snapshot, "default_pool_volatile"), (Origin::Default, text("fast")));
}

#[test]
fn set_and_reset_are_announced_about_the_system() {
    let mut snapshot = first_model();
    let events = set_to(&mut snapshot, "stats_interval", "9").unwrap();
    assert_eq!(short(&events), [" pre-set:stats_interval 9 3", " set:stats_interval 9 3"]);
    let events = set_to(&mut snapshot, "stats_interval", "9").unwrap();
    assert_eq!(short(&events), [" pre-set:stats_interval 9 9", " set:stats_interval 9 9"]);
    let events = reset_to_default(&mut snapshot, "stats_interval").unwrap();
    assert_eq!(
        short(&events),
        [
            " pre-reset:stats_interval - 9",
            " pre-del:stats_interval - 9",
            " reset:stats_interval - 9",
            " del:stats_interval - 9",
        ]
    );
    make(&mut snapshot, &new_vm("debian", VmClass::TemplateVm, None));
    let events = set_to(&mut snapshot, "default_template", "debian").unwrap();
    assert_eq!(short(&events)[1], " set:default_template debian -", "it has no default");
}

#[test]
fn a_new_default_netvm_is_told_to_those_who_follow_it() {
    let mut snapshot = small_model();
    make(&mut snapshot, &new_vm("mail", VmClass::AppVm, Some("debian")));
    set_of(&mut snapshot, "sys-net", "netvm", "").unwrap();
    let events = set_to(&mut snapshot, "default_netvm", "sys-net").unwrap();
    assert_eq!(
        short(&events),
        [
            " pre-set:default_netvm sys-net None",
            "mail pre-set:netvm sys-net None",
            "work pre-set:netvm sys-net None",
            "mail set:netvm sys-net None",
            "mail reset:netvm - None",
            "work set:netvm sys-net None",
            "work reset:netvm - None",
            " set:default_netvm sys-net None",
        ]
    );
    assert_eq!(of_vm(&snapshot, "work", "netvm"), Shown::Vm(name("sys-net")));
    assert_eq!(of_vm(&snapshot, "debian", "netvm"), Shown::None);
    let events = set_to(&mut snapshot, "default_netvm", "sys-net").unwrap();
    assert_eq!(
        short(&events)[1..5],
        [
            "mail pre-set:netvm sys-net sys-net",
            "work pre-set:netvm sys-net sys-net",
            "mail reset:netvm - sys-net",
            "work reset:netvm - sys-net",
        ]
    );
    set_of(&mut snapshot, "work", "netvm", "").unwrap();
    let events = reset_to_default(&mut snapshot, "default_netvm").unwrap();
    assert_eq!(
        short(&events),
        [
            " pre-reset:default_netvm - sys-net",
            "mail pre-set:netvm None sys-net",
            " pre-del:default_netvm - sys-net",
            "mail set:netvm None sys-net",
            "mail reset:netvm - sys-net",
            " reset:default_netvm - sys-net",
            " del:default_netvm - sys-net",
        ]
    );
}

#[test]
fn a_default_netvm_closes_no_loop_and_reaches_no_running_vm_before_it_runs() {
    let mut snapshot = small_model();
    assert_eq!(
        refused(&mut snapshot, "default_netvm", "sys-net"),
        R::DefaultNetworkLoop { vm: name("sys-net") }
    );
    set_of(&mut snapshot, "work", "provides_network", "1").unwrap();
    set_of(&mut snapshot, "sys-net", "netvm", "work").unwrap();
    assert_eq!(
        refused(&mut snapshot, "default_netvm", "sys-net"),
        R::DefaultNetworkLoop { vm: name("work") }
    );
    set_of(&mut snapshot, "work", "netvm", "").unwrap();
    for follower in ["a", "b", "c"] {
        make(&mut snapshot, &new_vm(follower, VmClass::AppVm, Some("debian")));
    }
    run(&mut snapshot, "b");
    let vetoed = set_to(&mut snapshot, "default_netvm", "sys-net").unwrap_err();
    assert_eq!(vetoed.refusal, R::NetvmHalted { netvm: name("sys-net") });
    assert_eq!(
        short(&vetoed.pre_events),
        [
            " pre-set:default_netvm sys-net None",
            "a pre-set:netvm sys-net None",
            "b pre-set:netvm sys-net None"
        ]
    );
    run(&mut snapshot, "sys-net");
    set_to(&mut snapshot, "default_netvm", "sys-net").unwrap();
}

#[test]
fn tags_of_those_who_follow_change_with_the_default() {
    let mut snapshot = small_model();
    set_of(&mut snapshot, "debian", "guivm", "").unwrap();
    let events = set_to(&mut snapshot, "default_guivm", "sys-net").unwrap();
    assert_eq!(
        short(&events),
        [
            " pre-set:default_guivm sys-net dom0",
            "sys-net tag-delete:guivm-dom0",
            "sys-net tag-add:guivm-sys-net",
            "sys-net set:guivm sys-net dom0",
            "work tag-delete:guivm-dom0",
            "work tag-add:guivm-sys-net",
            "work set:guivm sys-net dom0",
            " set:default_guivm sys-net dom0",
        ]
    );
    assert!(vm(&snapshot, "work").tags.iter().any(|tag| tag.as_str() == "guivm-sys-net"));
    let events = reset_to_default(&mut snapshot, "default_guivm").unwrap();
    assert_eq!(short(&events)[2..4], ["sys-net tag-delete:guivm-sys-net", "sys-net tag-add:guivm-dom0"]);
    let events = set_to(&mut snapshot, "default_audiovm", "").unwrap();
    assert_eq!(short(&events)[1..3], ["debian tag-delete:audiovm-dom0", "debian set:audiovm None dom0"]);
    assert_eq!(snapshot.model, snapshot.model.reindexed());
}

#[test]
fn a_new_default_dispvm_is_told_to_all_without_one_dom0_included() {
    let mut snapshot = small_model();
    set_of(&mut snapshot, "sys-net", "template_for_dispvms", "1").unwrap();
    set_of(&mut snapshot, "work", "default_dispvm", "").unwrap();
    // A disposable's default is its base, whatever the system's is.
    make(&mut snapshot, &new_vm("disp", VmClass::DispVm, Some("sys-net")));
    let events = set_to(&mut snapshot, "default_dispvm", "sys-net").unwrap();
    assert_eq!(
        short(&events),
        [
            " pre-set:default_dispvm sys-net None",
            "dom0 reset:default_dispvm - None",
            "debian reset:default_dispvm - None",
            "sys-net reset:default_dispvm - None",
            " set:default_dispvm sys-net None",
        ]
    );
    let refusal = set_of(&mut snapshot, "sys-net", "template_for_dispvms", "0").unwrap_err().refusal;
    assert_eq!(refusal, R::DisposableTemplateOfSystem { properties: vec!["default_dispvm"] });
    for property in ["default_dispvm", "management_dispvm"] {
        assert_eq!(
            refused(&mut snapshot, property, "work"),
            R::NotForDisposables { property, of: Owner::System, target: name("work") }
        );
    }
}

#[test]
fn the_clocks_feature_moves_with_it() {
    let mut snapshot = small_model();
    let events = set_to(&mut snapshot, "clockvm", "sys-net").unwrap();
    assert_eq!(
        short(&events),
        [
            " pre-set:clockvm sys-net None",
            "sys-net feature-pre-set:service.clocksync=1",
            "sys-net feature-set:service.clocksync=1",
            " set:clockvm sys-net None",
        ]
    );
    assert_eq!(set_to(&mut snapshot, "clockvm", "sys-net").unwrap().len(), 2, "it has it");
    feature(&mut snapshot, "work", "service.clocksync", "");
    let events = set_to(&mut snapshot, "clockvm", "work").unwrap();
    assert_eq!(
        short(&events)[1..3],
        ["sys-net feature-pre-delete:service.clocksync", "sys-net feature-delete:service.clocksync"]
    );
    assert_eq!(vm(&snapshot, "work").feature("service.clocksync"), Some(""), "it had one, and keeps it");
    assert_eq!(reset_to_default(&mut snapshot, "clockvm").unwrap().len(), 4, "not switched on: not removed");
}

#[test]
fn a_bad_value_is_refused_in_these_words_and_without_an_event() {
    let mut snapshot = small_model();
    for (property, value, rule, words) in [
        ("stats_interval", "0", ValueRule::Property, "stats_interval must be positive"),
        ("default_qrexec_timeout", "-1", ValueRule::Property, "default_qrexec_timeout must be positive"),
        ("default_shutdown_timeout", "x", ValueRule::Type, "Failed to parse property value as int"),
        ("default_kernel", "a/b", ValueRule::Property, "Kernel name cannot contain '/'"),
        ("check_updates_vm", "", ValueRule::Type, "Invalid literal for boolean property: ''"),
    ] {
        let error = set_to(&mut snapshot, property, value).unwrap_err();
        assert!(error.pre_events.is_empty());
        assert_eq!(error.refusal, R::PropertyValue { property, rule, text: words.into() });
    }
    let missing = set_to(&mut snapshot, "default_kernel", "5.0").unwrap_err();
    assert_eq!(missing.refusal, R::KernelNotInstalled { kernel: "5.0".into() });
    assert_eq!(short(&missing.pre_events), [" pre-set:default_kernel 5.0 "]);
    set_to(&mut snapshot, "default_kernel", "6.1").unwrap();
    assert_eq!(refused(&mut snapshot, "default_pool_root", "gone"), R::NoSuchPool { pool: "gone".into() });
    for property in ["default_pool", "default_pool_private", "default_pool_root", "default_pool_volatile"] {
        let of_kernels = R::PoolOfKernels { pool: "linux-kernel".parse().unwrap() };
        assert_eq!(refused(&mut snapshot, property, "linux-kernel"), of_kernels);
    }
    let of_volumes = R::PoolOfVolumes { pool: "varlibqubes".parse().unwrap() };
    assert_eq!(refused(&mut snapshot, "default_pool_kernel", "varlibqubes"), of_volumes);
    set_to(&mut snapshot, "default_pool_kernel", "linux-kernel").unwrap();
    assert_eq!(
        refused(&mut snapshot, "default_template", "work"),
        R::WrongClass { vm: name("work"), class: VmClass::AppVm, expected: VmClass::TemplateVm }
    );
    for property in ["maxmem", "no_cpus"] {
        let read_only = R::PropertyReadOnly { property, class: None };
        assert_eq!(refused(&mut snapshot, property, "5"), read_only);
        assert_eq!(reset_to_default(&mut snapshot, property).unwrap_err().refusal, read_only);
    }
    let unknown = R::NoSuchProperty { property: "memory".into(), of: Owner::System };
    assert_eq!(refused(&mut snapshot, "memory", "5"), unknown);
}
