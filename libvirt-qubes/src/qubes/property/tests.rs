//! What clients see of properties: lists, values, refusals, events.

use std::sync::Arc;

use super::super::class::VmClass;
use super::super::global::Global;
use super::super::refusal::{Owner, Refusal as R, ValueRule};
use super::super::snapshot::Snapshot;
use super::super::testing::{
    feature, first_model, make, new_vm, reset, set, set_global, short, small_model, vm,
};
use super::super::value::{Shown, Value};
use super::super::write::Write;
use super::*;
use crate::ids::VmName;

pub(super) fn get_of(snapshot: &Snapshot, name: &str, property: &str) -> (Origin, Shown) {
    let answer = get(snapshot, &vm(snapshot, name), property).unwrap();
    (answer.origin, answer.value)
}

pub(super) fn refused(snapshot: &mut Snapshot, name: &str, property: &str, value: &str) -> R {
    set(snapshot, name, property, value).unwrap_err().refusal
}

pub(super) fn name(text: &str) -> VmName {
    text.parse().unwrap()
}

fn text(text: &str) -> Shown {
    Shown::Str(text.into())
}

#[test]
fn every_property_has_a_name_of_its_own_help_and_a_class() {
    let mut names: Vec<_> = Property::ALL.iter().map(|property| property.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Property::ALL.len());
    for property in Property::ALL {
        let row = property.row();
        assert!(!row.help.is_empty() && !row.classes.is_empty() && !row.name.is_empty(), "{property}");
        assert_eq!(Property::named(row.name), Some(*property));
    }
}

#[test]
fn properties_are_listed_by_stage_and_name() {
    let names = |class| list(class).iter().map(|property| property.name()).collect::<Vec<_>>().join(" ");
    // As the deployed daemon lists them.
    let app = "autostart backup_timestamp debug default_user devices_denied dns gateway gateway6 icon \
               include_in_backups installed_by_rpm ip ip6 kernel keyboard_layout klass label mac maxmem memory name \
               provides_network qid qrexec_timeout shutdown_timeout start_time stubdom_mem stubdom_uuid stubdom_xid \
               template_for_dispvms updateable uuid vcpus virt_mode visible_gateway visible_gateway6 visible_ip \
               visible_ip6 visible_netmask xid audiovm bootmode default_dispvm guivm kernelopts management_dispvm \
               netvm template";
    assert_eq!(names(VmClass::AppVm), app);
    let own_root = app.replace(" netvm template", " netvm");
    assert_eq!(names(VmClass::StandaloneVm), own_root);
    let template = own_root
        .replace(" template_for_dispvms", "")
        .replace(" xid audiovm", " xid appvm_default_bootmode audiovm");
    assert_eq!(names(VmClass::TemplateVm), template);
    let disposable = app
        .replace(" template_for_dispvms", "")
        .replace("autostart", "auto_cleanup autostart")
        .replace(" dns", " dispid dns")
        .replace(" kernel keyboard", " is_preload kernel keyboard");
    assert_eq!(names(VmClass::DispVm), disposable);
    assert_eq!(
        names(VmClass::AdminVm),
        "devices_denied icon include_in_backups keyboard_layout klass label maxmem name qid updateable uuid \
         default_dispvm"
    );
    assert_eq!(
        names(VmClass::RemoteVm),
        "icon include_in_backups klass label name qid remote_name transport_rpc uuid relayvm"
    );
}

#[test]
fn a_fresh_app_vm_shows_these_values() {
    let snapshot = small_model();
    let work = vm(&snapshot, "work");
    let shown = |property: &str| {
        let answer = get(&snapshot, &work, property).unwrap();
        (answer.origin == Origin::Default, answer.kind.as_str(), answer.value)
    };
    for (property, expected) in [
        ("name", (false, "str", text("work"))),
        ("uuid", (false, "str", text(&work.uuid.to_string()))),
        ("qid", (false, "int", Shown::Int(2))),
        ("label", (false, "label", Shown::Label("red".parse().unwrap()))),
        ("klass", (true, "str", text("AppVM"))),
        ("template", (false, "vm", Shown::Vm(name("debian")))),
        ("memory", (true, "int", Shown::Int(400))),
        ("maxmem", (true, "int", Shown::Int(4000))),
        ("vcpus", (true, "int", Shown::Int(2))),
        ("virt_mode", (true, "str", text("pvh"))),
        ("kernel", (true, "str", text(""))),
        ("kernelopts", (true, "str", text(""))),
        ("netvm", (true, "vm", Shown::None)),
        ("xid", (true, "int", Shown::Int(-1))),
        ("start_time", (true, "str", Shown::None)),
        ("updateable", (true, "bool", Shown::Bool(false))),
        ("include_in_backups", (true, "bool", Shown::Bool(true))),
        ("icon", (true, "str", text("appvm-red"))),
        ("qrexec_timeout", (true, "int", Shown::Int(60))),
        ("backup_timestamp", (true, "int", Shown::None)),
        ("mac", (true, "str", text("00:16:3e:5e:6c:00"))),
        ("default_user", (true, "str", text("user"))),
    ] {
        assert_eq!(shown(property), expected, "{property}");
    }
    let unknown = get(&snapshot, &work, "nonsense").unwrap_err();
    assert_eq!(unknown, R::NoSuchProperty { property: "nonsense".into(), of: Owner::Vm(name("work")) });
    let dom0 = vm(&snapshot, "dom0");
    assert!(get(&snapshot, &dom0, "memory").is_err());
    for (property, expected) in [
        ("name", text("dom0")),
        ("qid", Shown::Int(0)),
        ("uuid", text("00000000-0000-0000-0000-000000000000")),
        ("icon", text("adminvm-black")),
        ("maxmem", Shown::Int(4096)),
        ("updateable", Shown::Bool(true)),
    ] {
        let answer = get(&snapshot, &dom0, property).unwrap();
        assert_eq!((answer.origin, answer.value), (Origin::Default, expected), "{property}");
    }
}

#[test]
fn a_template_passes_its_values_on() {
    let mut snapshot = small_model();
    for (property, value, shown) in [
        ("memory", "512", Shown::Int(512)),
        ("vcpus", "4", Shown::Int(4)),
        ("maxmem", "900", Shown::Int(900)),
        ("virt_mode", "PV", text("pv")),
        ("kernel", "6.1", text("6.1")),
        ("kernelopts", "quiet", text("quiet")),
        ("default_user", "alice", text("alice")),
        ("qrexec_timeout", "30", Shown::Int(30)),
    ] {
        set(&mut snapshot, "debian", property, value).unwrap();
        assert_eq!(get_of(&snapshot, "debian", property), (Origin::Explicit, shown.clone()), "{property}");
        assert_eq!(get_of(&snapshot, "work", property), (Origin::Default, shown), "{property}");
    }
}

#[test]
fn the_kernel_and_its_options_follow_the_global_kernel() {
    let mut snapshot = small_model();
    set_global(&mut snapshot, Global::DefaultKernel, Value::text("6.1"));
    assert_eq!(get_of(&snapshot, "work", "kernel"), (Origin::Default, text("6.1")));
    assert_eq!(get_of(&snapshot, "work", "kernelopts"), (Origin::Default, text("swiotlb=2048")));
    set(&mut snapshot, "work", "kernel", "").unwrap();
    assert_eq!(get_of(&snapshot, "work", "kernel"), (Origin::Explicit, text("")));
    assert_eq!(get_of(&snapshot, "work", "kernelopts"), (Origin::Default, text("")));
}

#[test]
fn memory_balancing_bounds_the_default_of_maxmem() {
    let mut snapshot = small_model();
    let feature = |snapshot: &mut Snapshot, vm: uuid::Uuid, name: &str, value: &str| {
        Write::SetFeature(vm, name.parse().unwrap(), Some(value.parse().unwrap()))
            .apply(&mut snapshot.model)
            .unwrap();
    };
    let debian = vm(&snapshot, "debian").uuid;
    let maxmem = |snapshot: &Snapshot| get_of(snapshot, "debian", "maxmem").1;
    assert_eq!(maxmem(&snapshot), Shown::Int(4000));
    feature(&mut snapshot, debian, "os", "Linux");
    set(&mut snapshot, "debian", "memory", "500").unwrap();
    assert_eq!(maxmem(&snapshot), Shown::Int(5000));
    set(&mut snapshot, "debian", "memory", "5000").unwrap();
    assert_eq!(maxmem(&snapshot), Shown::Int(8192), "half of the host's 16 GiB");
    set(&mut snapshot, "debian", "virt_mode", "hvm").unwrap();
    assert_eq!(maxmem(&snapshot), Shown::Int(0), "no agent");
    feature(&mut snapshot, debian, "qrexec", "1");
    assert_eq!(maxmem(&snapshot), Shown::Int(8192));
    feature(&mut snapshot, debian, "supported-service.cups", "1");
    assert_eq!(maxmem(&snapshot), Shown::Int(0), "announces services, but not this one");
    feature(&mut snapshot, debian, "supported-service.meminfo-writer", "1");
    assert_eq!(maxmem(&snapshot), Shown::Int(8192));
}

#[test]
fn a_bad_value_is_refused_in_these_words_and_without_an_event() {
    let mut snapshot = small_model();
    for (property, value, rule, words) in [
        ("memory", "abc", ValueRule::Type, "Failed to parse property value as int"),
        ("memory", "0", ValueRule::Property, "memory must be positive"),
        ("memory", "-1", ValueRule::Property, "memory must be positive"),
        ("vcpus", "0", ValueRule::Property, "vcpus must be positive"),
        ("stubdom_mem", "0", ValueRule::Property, "stubdom_mem must be positive"),
        ("qrexec_timeout", "0", ValueRule::Property, "qrexec_timeout must be positive"),
        ("maxmem", "-1", ValueRule::Property, "maxmem must be positive or zero"),
        ("debug", "maybe", ValueRule::Type, "Invalid literal for boolean property: 'maybe'"),
        ("kernelopts", "a\u{1}", ValueRule::Type, "Invalid characters in property value"),
        ("kernelopts", "\u{e9}", ValueRule::Type, "Non-ASCII bytes in property value"),
        ("kernel", "a/b", ValueRule::Property, "Kernel name cannot contain '/'"),
        (
            "virt_mode",
            "qemu",
            ValueRule::Property,
            "Invalid virtualization mode, supported values: hvm, pv, pvh",
        ),
        ("netvm", "none", ValueRule::Type, "VM name cannot be 'none' nor 'default'"),
        ("mac", "nonsense", ValueRule::Property, "Invalid MAC address: 'nonsense'"),
        (
            "default_user",
            "a b",
            ValueRule::Property,
            "Username can contain only those characters: \
             abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+,.",
        ),
    ] {
        let error = set(&mut snapshot, "work", property, value).unwrap_err();
        assert!(error.pre_events.is_empty());
        let R::PropertyValue { property: of, rule: broken, text } = &error.refusal else {
            panic!("{property}={value}: {error:?}");
        };
        assert_eq!((*of, *broken, text.as_ref()), (property, rule, words));
    }
    let long = "x".repeat(513);
    assert!(matches!(
        refused(&mut snapshot, "work", "kernelopts", &long),
        R::PropertyValue { rule: ValueRule::Property, text, .. } if text == "Kernelopts value too long (512 chars max)"
    ));
    set(&mut snapshot, "work", "kernelopts", &long[1..]).unwrap();
    assert_eq!(refused(&mut snapshot, "work", "label", "pink"), R::LabelNotFound { label: "pink".into() });
    assert_eq!(
        refused(&mut snapshot, "work", "netvm", "nobody"),
        R::ReferenceNotFound { property: "netvm", name: name("nobody") }
    );
    for property in ["name", "uuid", "qid"] {
        assert_eq!(refused(&mut snapshot, "work", property, "5"), R::PropertyWriteOnce { property });
        let reset = reset(&mut snapshot, "work", property).unwrap_err().refusal;
        assert_eq!(reset, R::PropertyWriteOnce { property });
    }
    for (vm, class, property) in [
        ("work", VmClass::AppVm, "xid"),
        ("dom0", VmClass::AdminVm, "qid"),
        ("dom0", VmClass::AdminVm, "maxmem"),
    ] {
        let read_only = R::PropertyReadOnly { property, class: Some(class) };
        assert_eq!(refused(&mut snapshot, vm, property, "5"), read_only);
    }
}

#[test]
fn a_label_is_named_by_name_by_index_or_with_its_prefix() {
    let mut snapshot = small_model();
    for (value, label) in [("blue", "blue"), ("3", "yellow"), ("label-8", "black")] {
        let events = set(&mut snapshot, "work", "label", value).unwrap();
        assert_eq!(get_of(&snapshot, "work", "label").1, Shown::Label(label.parse().unwrap()));
        let last = short(&events);
        assert_eq!(last[1], "work reset:icon - -");
        assert!(last[0].starts_with("work pre-set:label ") && last[2].starts_with("work set:label "));
    }
    let kept = reset(&mut snapshot, "work", "label").unwrap_err().refusal;
    assert_eq!(kept, R::PropertyWithoutDefault { property: "label" });
}

#[test]
fn set_and_reset_are_announced_with_new_and_old_values_even_when_nothing_changes() {
    let mut snapshot = small_model();
    let events = set(&mut snapshot, "work", "memory", "500").unwrap();
    assert_eq!(short(&events), ["work pre-set:memory 500 400", "work set:memory 500 400"]);
    let events = set(&mut snapshot, "work", "memory", "500").unwrap();
    assert_eq!(short(&events), ["work pre-set:memory 500 500", "work set:memory 500 500"]);
    let events = reset(&mut snapshot, "work", "memory").unwrap();
    assert_eq!(
        short(&events),
        [
            "work pre-reset:memory - 500",
            "work pre-del:memory - 500",
            "work reset:memory - 500",
            "work del:memory - 500"
        ]
    );
    assert_eq!(get_of(&snapshot, "work", "memory"), (Origin::Default, Shown::Int(400)));
    let events = set(&mut snapshot, "work", "backup_timestamp", "5").unwrap();
    assert_eq!(short(&events)[1], "work set:backup_timestamp 5 None", "its default is no value");
}

#[test]
fn a_templates_change_is_told_for_those_who_inherit_it() {
    let mut snapshot = small_model();
    set(&mut snapshot, "sys-net", "vcpus", "1").unwrap();
    let events = set(&mut snapshot, "debian", "vcpus", "4").unwrap();
    assert_eq!(short(&events), ["debian pre-set:vcpus 4 2", "work reset:vcpus - -", "debian set:vcpus 4 2"]);
    let events = set(&mut snapshot, "debian", "vcpus", "4").unwrap();
    assert_eq!(short(&events), ["debian pre-set:vcpus 4 4", "debian set:vcpus 4 4"]);
    let events = reset(&mut snapshot, "debian", "vcpus").unwrap();
    assert_eq!(short(&events)[2], "work reset:vcpus - -");
    let events = set(&mut snapshot, "debian", "debug", "on").unwrap();
    assert_eq!(events.len(), 2, "not inherited");
}

#[test]
fn providing_network_is_shown_as_a_feature() {
    let mut snapshot = small_model();
    let events = set(&mut snapshot, "work", "provides_network", "True").unwrap();
    assert_eq!(
        short(&events),
        [
            "work pre-set:provides_network true false",
            "work feature-pre-set:servicevm=1",
            "work feature-set:servicevm=1",
            "work reset:icon - -",
            "work reset:gateway - -",
            "work reset:gateway6 - -",
            "work set:provides_network true false",
        ]
    );
    assert_eq!(vm(&snapshot, "work").feature("servicevm"), Some("1"));
    assert_eq!(get_of(&snapshot, "work", "icon").1, text("servicevm-red"));
    let events = set(&mut snapshot, "work", "provides_network", "False").unwrap();
    assert_eq!(short(&events)[1..3], ["work feature-pre-delete:servicevm", "work feature-delete:servicevm"]);
    assert_eq!(vm(&snapshot, "work").feature("servicevm"), None);
}

#[test]
fn labels_are_found_by_name_or_decimal_index_alone() {
    let snapshot = first_model();
    let found = |text: &str| snapshot.model.find_label(text).map(|label| label.index.get());
    assert_eq!(found("red"), Ok(1));
    assert_eq!(found("8"), Ok(8));
    for bad in ["", "0", "9", "+1", "pink", "99999999999"] {
        assert_eq!(found(bad), Err(R::LabelNotFound { label: bad.to_owned() }), "{bad}");
    }
}

#[test]
fn a_bad_layout_address_or_code_is_refused_in_these_words() {
    let mut snapshot = small_model();
    let denied = "Interface code list should be in the form chhhhhhchhhhhh...,where c is one of \"b\", \"u\", \"m\", \
                  \"p\", \"*\" and h is a hexdigit or \"*\".";
    for (property, value, rule, words) in [
        ("keyboard_layout", "us", ValueRule::Property, "invalid number of keyboard layout parameters"),
        ("keyboard_layout", "us+++", ValueRule::Property, "invalid number of keyboard layout parameters"),
        ("keyboard_layout", "++", ValueRule::Property, "Invalid keyboard layout provided"),
        ("keyboard_layout", "u1++", ValueRule::Property, "Invalid keyboard layout provided"),
        ("keyboard_layout", "us+a:+", ValueRule::Property, "Invalid layout variant provided"),
        ("keyboard_layout", "us+a+b;", ValueRule::Property, "Invalid layout options provided"),
        ("ip", "10.0.0.256", ValueRule::Type, "Failed to parse property value as IPv4Address"),
        ("ip", "", ValueRule::Type, "Failed to parse property value as IPv4Address"),
        ("ip", "::1", ValueRule::Type, "Failed to parse property value as IPv4Address"),
        ("ip6", "10.0.0.1", ValueRule::Type, "Failed to parse property value as IPv6Address"),
        (
            "devices_denied",
            "u03",
            ValueRule::Type,
            "Invalid length of interfaces='u03' (is 3, expected multiple of 7)",
        ),
        ("devices_denied", "x030000", ValueRule::Property, denied),
        ("devices_denied", "u03000G", ValueRule::Property, denied),
    ] {
        let refusal = refused(&mut snapshot, "work", property, value);
        let expected = R::PropertyValue { property, rule, text: words.into() };
        assert_eq!(refusal, expected, "{property}={value}");
    }
    set(&mut snapshot, "work", "devices_denied", "u******b0f0f0fu******").unwrap();
    assert_eq!(get_of(&snapshot, "work", "devices_denied"), (Origin::Explicit, text("b0f0f0fu******")));
}

#[test]
fn the_way_of_booting_is_the_vms_choice_or_its_templates_if_that_way_exists() {
    let mut snapshot = small_model();
    let mode = |snapshot: &Snapshot, name: &str| get_of(snapshot, name, "bootmode").1;
    assert_eq!(mode(&snapshot, "work"), text("default"));
    let events = set(&mut snapshot, "debian", "appvm_default_bootmode", "rescue").unwrap();
    assert_eq!(
        short(&events),
        [
            "debian pre-set:appvm_default_bootmode rescue default",
            "sys-net reset:bootmode - -",
            "work reset:bootmode - -",
            "debian set:appvm_default_bootmode rescue default",
        ]
    );
    assert_eq!(mode(&snapshot, "work"), text("default"), "there is no such way");
    feature(&mut snapshot, "debian", "boot-mode.kernelopts.rescue", "single");
    assert_eq!(mode(&snapshot, "work"), text("rescue"));
    assert_eq!(mode(&snapshot, "debian"), text("default"), "it is for VMs based on it");
    feature(&mut snapshot, "work", "boot-mode.active", "gone");
    assert_eq!(mode(&snapshot, "work"), text("rescue"), "the active one does not exist");
    feature(&mut snapshot, "work", "boot-mode.active", "default");
    assert_eq!(mode(&snapshot, "work"), text("default"));
    feature(&mut snapshot, "sys-net", "boot-mode.kernelopts.mine", "");
    feature(&mut snapshot, "sys-net", "boot-mode.active", "mine");
    assert_eq!(mode(&snapshot, "sys-net"), text("mine"));
    set(&mut snapshot, "sys-net", "bootmode", "anything").unwrap();
    assert_eq!(mode(&snapshot, "sys-net"), text("anything"));
    feature(&mut snapshot, "debian", "boot-mode.appvm-default", "other");
    reset(&mut snapshot, "debian", "appvm_default_bootmode").unwrap();
    assert_eq!(get_of(&snapshot, "debian", "appvm_default_bootmode"), (Origin::Default, text("other")));
}

#[test]
fn a_disposable_that_waits_in_its_bases_queue_is_preloaded() {
    let mut snapshot = small_model();
    set(&mut snapshot, "work", "template_for_dispvms", "1").unwrap();
    make(&mut snapshot, &new_vm("disp1", VmClass::DispVm, Some("work")));
    assert_eq!(get_of(&snapshot, "disp1", "is_preload"), (Origin::Default, Shown::Bool(false)));
    feature(&mut snapshot, "work", "preload-dispvm", "disp12 disp1");
    assert_eq!(get_of(&snapshot, "disp1", "is_preload").1, Shown::Bool(true));
}

#[test]
fn a_default_may_be_no_value_and_some_have_none_at_all() {
    let snapshot = small_model();
    let work = vm(&snapshot, "work");
    for (property, expected) in [
        (Property::Memory, Some(Shown::Int(400))),
        (Property::StubdomMem, Some(Shown::None)),
        (Property::Ip, Some(Shown::None)),
        (Property::Xid, Some(Shown::Int(-1))),
        (Property::Netvm, Some(Shown::None)),
        (Property::Name, None),
        (Property::Label, None),
        (Property::Template, None),
    ] {
        assert_eq!(default_shown(&snapshot, &work, property), expected, "{property}");
    }
}

#[test]
fn a_pci_device_needs_emulation_and_memory_that_stays() {
    use super::super::assignment::{AssignedDevice, Assignment, AssignmentMode};
    let mut snapshot = small_model();
    set(&mut snapshot, "debian", "kernelopts", "quiet").unwrap();
    set(&mut snapshot, "sys-net", "kernel", "6.1").unwrap();
    let shown = |snapshot: &Snapshot, property: &str| get_of(snapshot, "sys-net", property).1;
    assert_eq!((shown(&snapshot, "virt_mode"), shown(&snapshot, "maxmem")), (text("pvh"), Shown::Int(4000)));
    let device = AssignedDevice { class: "pci".parse().unwrap(), backend: None, port: None, id: None };
    let assignment =
        Assignment { mode: AssignmentMode::Required, options: std::collections::BTreeMap::new() };
    let mut sys_net = Vm::clone(&vm(&snapshot, "sys-net"));
    sys_net.assignments = Arc::new([(device, assignment)].into());
    snapshot.model.put_vm(Arc::new(sys_net));
    assert_eq!((shown(&snapshot, "virt_mode"), shown(&snapshot, "maxmem")), (text("hvm"), Shown::Int(0)));
    assert_eq!(shown(&snapshot, "kernelopts"), text(""), "the template's are not looked at");
    feature(&mut snapshot, "dom0", "suspend-s0ix", "1");
    assert_eq!(shown(&snapshot, "kernelopts"), text(" qubes_exp_pm_use_suspend=1"));
    let words = "pvh mode can't be set if pci devices are assigned";
    let expected = R::PropertyValue { property: "virt_mode", rule: ValueRule::Property, text: words.into() };
    assert_eq!(refused(&mut snapshot, "sys-net", "virt_mode", "PVH"), expected);
    set(&mut snapshot, "sys-net", "virt_mode", "pv").unwrap();
}
