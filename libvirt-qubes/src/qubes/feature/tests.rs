//! Features by their rules, on a small model.

use super::super::class::VmClass;
use super::super::event::PropertyChange;
use super::super::global::Global;
use super::super::testing::{apply, make, new_vm, set as set_property, set_global, short, small_model, vm};
use super::super::value::Shown;
use super::*;

fn name(text: &str) -> FeatureName {
    text.parse().unwrap()
}

fn value(text: &str) -> FeatureValue {
    text.parse().unwrap()
}

fn try_set(snapshot: &Snapshot, of: &str, feature: &str, to: &str) -> Result<Diff<()>, Refused> {
    set(snapshot, vm(snapshot, of).uuid, &name(feature), &value(to))
}

fn put(snapshot: &mut Snapshot, of: &str, feature: &str, to: &str) -> Vec<EventKind> {
    let diff = try_set(snapshot, of, feature, to).unwrap();
    kinds(apply(snapshot, diff).1)
}

fn kinds(events: Vec<ModelEvent>) -> Vec<EventKind> {
    events.into_iter().map(|event| event.kind).collect()
}

fn pre_set(feature: &str, to: &str, old: Option<&str>) -> EventKind {
    EventKind::DomainFeaturePreSet { feature: name(feature), value: value(to), old: old.map(value) }
}

fn was_set(feature: &str, to: &str, old: Option<&str>) -> EventKind {
    EventKind::DomainFeatureSet { feature: name(feature), value: value(to), old: old.map(value) }
}

fn pre_delete(feature: &str) -> EventKind {
    EventKind::DomainFeaturePreDelete { feature: feature.to_owned() }
}

fn deleted(feature: &str) -> EventKind {
    EventKind::DomainFeatureDelete { feature: name(feature) }
}

fn listed(snapshot: &Snapshot, of: &str) -> Vec<String> {
    vm(snapshot, of).features_in_order().into_iter().map(ToString::to_string).collect()
}

#[test]
fn features_are_listed_as_they_came_and_announce_every_set() {
    let mut snapshot = small_model();
    assert_eq!(put(&mut snapshot, "work", "b", "1"), [pre_set("b", "1", None), was_set("b", "1", None)]);
    put(&mut snapshot, "work", "a", "");
    assert_eq!(
        put(&mut snapshot, "work", "b", "1"),
        [pre_set("b", "1", Some("1")), was_set("b", "1", Some("1"))]
    );
    assert_eq!(listed(&snapshot, "work"), ["b", "a"]);
    let diff = remove(&snapshot, vm(&snapshot, "work").uuid, "b").unwrap();
    assert_eq!(kinds(apply(&mut snapshot, diff).1), [pre_delete("b"), deleted("b")]);
    put(&mut snapshot, "work", "b", "2");
    assert_eq!(listed(&snapshot, "work"), ["a", "b"]);
}

#[test]
fn the_removal_of_what_is_not_there_is_announced_and_refused() {
    let snapshot = small_model();
    let work = vm(&snapshot, "work");
    let absent =
        |feature: &str| Refusal::FeatureNotFound { vm: work.name.clone(), feature: feature.to_owned() };
    let refused = remove(&snapshot, work.uuid, "nope").unwrap_err();
    assert_eq!((kinds(refused.pre_events), refused.refusal), (vec![pre_delete("nope")], absent("nope")));
    // It is no feature's name, and as absent.
    let refused = remove(&snapshot, work.uuid, "no/pe").unwrap_err();
    assert_eq!((kinds(refused.pre_events), refused.refusal), (vec![pre_delete("no/pe")], absent("no/pe")));
}

#[test]
fn what_the_daemon_keeps_for_itself_is_neither_set_nor_removed_nor_announced() {
    let snapshot = small_model();
    for feature in PROTECTED {
        let protected = Refused::from(Refusal::FeatureProtected { feature: name(feature) });
        assert_eq!(try_set(&snapshot, "work", feature, "1").unwrap_err(), protected);
        assert_eq!(remove(&snapshot, vm(&snapshot, "work").uuid, feature).unwrap_err(), protected);
    }
    assert!(try_set(&snapshot, "work", "preload-dispvmx", "1").is_ok());
}

#[test]
fn the_first_that_has_a_feature_answers_even_if_it_is_empty_there() {
    let mut snapshot = small_model();
    make(&mut snapshot, &new_vm("sys-fw", VmClass::AppVm, Some("debian")));
    set_property(&mut snapshot, "sys-fw", "provides_network", "True").unwrap();
    set_property(&mut snapshot, "sys-fw", "netvm", "sys-net").unwrap();
    set_property(&mut snapshot, "work", "netvm", "sys-fw").unwrap();
    put(&mut snapshot, "debian", "t", "of debian");
    put(&mut snapshot, "sys-net", "n", "of sys-net");
    put(&mut snapshot, "dom0", "a", "of dom0");
    put(&mut snapshot, "dom0", "t", "of dom0");
    let found = |snapshot: &Snapshot, feature: &str| {
        use Fallback::{AdminVm, Netvms, Nobody, Templates, TemplatesAndAdminVm};
        let work = vm(snapshot, "work");
        [Nobody, Templates, Netvms, AdminVm, TemplatesAndAdminVm]
            .map(|fallback| find(&snapshot.model, &work, feature, fallback).ok().map(str::to_owned))
    };
    let some = |text: &str| Some(text.to_owned());
    let of_dom0 = some("of dom0");
    assert_eq!(found(&snapshot, "t"), [None, some("of debian"), None, of_dom0.clone(), some("of debian")]);
    assert_eq!(found(&snapshot, "n"), [None, None, some("of sys-net"), None, None]);
    assert_eq!(found(&snapshot, "a"), [None, None, None, of_dom0.clone(), of_dom0]);
    put(&mut snapshot, "work", "t", "");
    assert_eq!(found(&snapshot, "t"), [const { Some(String::new()) }; 5]);
    // dom0 has nobody to ask.
    let dom0 = vm(&snapshot, "dom0");
    for fallback in [Fallback::Templates, Fallback::Netvms, Fallback::TemplatesAndAdminVm] {
        assert_eq!(find(&snapshot.model, &dom0, "a", fallback), Ok("of dom0"));
        assert!(find(&snapshot.model, &dom0, "n", fallback).is_err());
    }
}

/// What is said of a value, after the event that announced it.
fn said(snapshot: &Snapshot, of: &str, feature: &str, to: &str) -> Option<String> {
    let Err(refused) = try_set(snapshot, of, feature, to) else { return None };
    let Refusal::FeatureRule { text } = refused.refusal else { panic!("{:?}", refused.refusal) };
    assert_eq!(kinds(refused.pre_events), [pre_set(feature, to, None)]);
    Some(text.into_owned())
}

#[test]
fn names_and_values_keep_to_what_they_are_for() {
    let snapshot = small_model();
    let long = |prefix: &str, length: usize| format!("{prefix}{}", "x".repeat(length));
    for (feature, to, words) in [
        ("service.", "1", Some("Service name cannot be empty")),
        ("service..", "1", Some("Service name cannot be \".\" or \"..\"")),
        ("service...", "1", Some("Service name cannot be \".\" or \"..\"")),
        ("service.cups", "", None),
        (&long("service.", 48), "1", None),
        (&long("service.", 49), "1", Some("Service name must not exceed 48 bytes")),
        (&long("service.app-dispvm.", 60), "1", None),
        ("vm-config.", "1", Some("Empty config name not allowed")),
        ("vm-config.1", "1", Some("Config name must start with an ASCII letter")),
        (&long("vm-config.", 52), "1", None),
        (&long("vm-config.", 53), "1", Some("VM config name must not exceed 46 bytes")),
        ("custom-persist.", "/x", Some("custom-persist key cannot be empty")),
        (&long("custom-persist.", 54), "/x", None),
        ("custom-persist.a", "", Some("invalid value format: ''")),
        ("custom-persist.a", "x", Some("invalid value format: 'x'")),
        (
            "custom-persist.a",
            "dir:user:user:0755:home",
            Some("invalid value format: 'dir:user:user:0755:home'"),
        ),
        ("custom-persist.a", "dir:user:user:0755:/home:x", None),
        ("custom-persist.a", "file:root:root:0o7777:/f", None),
        (
            "custom-persist.a",
            "link:root:root:0755:/f",
            Some("invalid resource type option 'link' in value 'link:root:root:0755:/f'"),
        ),
        (
            "custom-persist.a",
            "file:root:root:10000:/f",
            Some("invalid mode option '10000' in value 'file:root:root:10000:/f'"),
        ),
        (
            "custom-persist.a",
            "file:root:root:+8:/f",
            Some("invalid mode option '+8' in value 'file:root:root:+8:/f'"),
        ),
        (
            "custom-persist.a",
            "file:root:root::/f",
            Some("invalid mode option '' in value 'file:root:root::/f'"),
        ),
        ("preload-dispvm-threshold", "500", None),
        ("preload-dispvm-threshold", "", None),
        ("preload-dispvm-threshold", "-1", Some("Invalid preload-dispvm-threshold value: not a digit")),
        ("preload-dispvm-delay", "-0.5", None),
        ("preload-dispvm-delay", "", None),
        ("preload-dispvm-delay", "soon", Some("Invalid preload-dispvm-delay value: not an integer or float")),
        ("net.fake-ip", "192.168.1.128", None),
        ("net.fake-ip", "", None),
        ("net.fake-ip", "192.168.1", Some("Invalid net.fake-ip value: not an IPv4 address")),
        ("net.fake-gateway", "::1", Some("Invalid net.fake-gateway value: not an IPv4 address")),
        ("net.fake-netmask", "24", None),
        ("net.fake-netmask", "255.255.255.0", None),
        ("net.fake-netmask", "25", Some("Invalid netmask value")),
        ("net.fake-netmask", "999", Some("Invalid netmask value")),
        ("net.fake-netmask", "/24", Some("Invalid net.fake-netmask value: not an IPv4 address")),
    ] {
        assert_eq!(said(&snapshot, "work", feature, to).as_deref(), words, "{feature} {to}");
    }
    let too_long = said(&snapshot, "work", &long("custom-persist.", 55), "/x").unwrap();
    assert_eq!(too_long, long("custom-persist key is too long (max 54), ignoring: ", 55));
}

#[test]
fn preloading_needs_a_guest_that_can_say_when_it_is_ready() {
    let mut snapshot = small_model();
    let of = |snapshot: &Snapshot, of: &str, to: &str| said(snapshot, of, "preload-dispvm-max", to);
    assert_eq!(of(&snapshot, "work", "1").unwrap(), "Qube does not support qrexec");
    // No disposables are based on a template, and dom0 speaks for none yet.
    assert_eq!(of(&snapshot, "debian", "1"), None);
    assert_eq!(of(&snapshot, "dom0", "1"), None);
    put(&mut snapshot, "debian", "qrexec", "1");
    put(&mut snapshot, "debian", "supported-rpc.qubes.WaitForSession", "1");
    let words = "Qube does not support the RPC(s) 'qubes.WaitForRunningSystem'";
    assert_eq!(of(&snapshot, "work", "1").unwrap(), words);
    set_property(&mut snapshot, "work", "template_for_dispvms", "True").unwrap();
    let work = Value::Vm(Some(vm(&snapshot, "work").uuid));
    set_global(&mut snapshot, Global::DefaultDispvm, work);
    assert_eq!(of(&snapshot, "dom0", "1").unwrap(), words);
    put(&mut snapshot, "debian", "supported-rpc.qubes.WaitForRunningSystem", "1");
    assert_eq!(of(&snapshot, "work", "1"), None);
    assert_eq!(of(&snapshot, "work", ""), None);
    assert_eq!(of(&snapshot, "work", "many").unwrap(), "Invalid preload-dispvm-max value: not a digit");
}

#[test]
fn the_old_switch_of_memory_balancing_sets_maxmem_and_does_not_stay() {
    let mut snapshot = small_model();
    let default = property::get(&snapshot, &vm(&snapshot, "work"), "maxmem").unwrap().value;
    let old = Some(default.clone());
    let maxmem =
        |new: Option<Shown>, old: &Option<Shown>| PropertyChange { name: "maxmem", new, old: old.clone() };
    let zero = Shown::Int(0);
    assert_eq!(
        put(&mut snapshot, "work", MEMINFO_WRITER, ""),
        [
            pre_set(MEMINFO_WRITER, "", None),
            EventKind::PropertyPreSet(maxmem(Some(zero.clone()), &old)),
            EventKind::PropertySet(maxmem(Some(zero.clone()), &old)),
            pre_delete(MEMINFO_WRITER),
            deleted(MEMINFO_WRITER),
            was_set(MEMINFO_WRITER, "", None),
        ]
    );
    assert_eq!(property::get(&snapshot, &vm(&snapshot, "work"), "maxmem").unwrap().value, zero);
    assert!(!listed(&snapshot, "work").contains(&MEMINFO_WRITER.to_owned()));
    // One that an older release left in the store goes with it.
    Write::SetFeature(vm(&snapshot, "work").uuid, name(MEMINFO_WRITER), Some(value("")))
        .apply(&mut snapshot.model)
        .unwrap();
    let old = Some(zero);
    assert_eq!(
        put(&mut snapshot, "work", MEMINFO_WRITER, "1"),
        [
            pre_set(MEMINFO_WRITER, "1", Some("")),
            EventKind::PropertyPreReset(maxmem(None, &old)),
            EventKind::PropertyPreDel(maxmem(None, &old)),
            EventKind::PropertyReset(maxmem(None, &old)),
            EventKind::PropertyDel(maxmem(None, &old)),
            pre_delete(MEMINFO_WRITER),
            deleted(MEMINFO_WRITER),
            was_set(MEMINFO_WRITER, "1", Some("")),
        ]
    );
    assert_eq!(property::get(&snapshot, &vm(&snapshot, "work"), "maxmem").unwrap().value, default);
    assert!(!listed(&snapshot, "work").contains(&MEMINFO_WRITER.to_owned()));
    // dom0's maxmem cannot be set.
    let refused = try_set(&snapshot, "dom0", MEMINFO_WRITER, "").unwrap_err();
    assert_eq!(kinds(refused.pre_events), [pre_set(MEMINFO_WRITER, "", None)]);
    assert_eq!(
        refused.refusal,
        Refusal::PropertyReadOnly { property: "maxmem", class: Some(VmClass::AdminVm) }
    );
}

#[test]
fn boot_modes_that_follow_a_feature_are_told_when_it_changes() {
    let mut snapshot = small_model();
    set_property(&mut snapshot, "sys-net", "bootmode", "own").unwrap();
    let mut events = |of: &str, feature: &str, to: &str| {
        let diff = try_set(&snapshot, of, feature, to).unwrap();
        short(&apply(&mut snapshot, diff).1)
    };
    let own = [
        "work feature-pre-set:boot-mode.active=m",
        "work reset:bootmode - -",
        "work feature-set:boot-mode.active=m",
    ];
    assert_eq!(events("work", "boot-mode.active", "m"), own);
    assert_eq!(events("work", "boot-mode.active", "m"), [own[0], own[2]], "the value that it had");
    let set = events("sys-net", "boot-mode.active", "m");
    assert_eq!(set.len(), 2, "it has its own: {set:?}");
    assert_eq!(
        events("debian", "boot-mode.appvm-default", "m"),
        [
            "debian feature-pre-set:boot-mode.appvm-default=m",
            "debian reset:appvm_default_bootmode - -",
            "work reset:bootmode - -",
            "debian feature-set:boot-mode.appvm-default=m",
        ]
    );
    assert_eq!(events("work", "boot-mode.appvm-default", "m").len(), 2, "it is no template");
}
