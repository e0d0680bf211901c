//! Samples written from the description of the format: every class, every oddity.

use super::super::super::assignment::AssignedDevice;
use super::super::super::class::VolumeKind;
use super::super::super::global::Global;
use super::super::super::property::Property;
use super::super::super::testing;
use super::super::super::value::Value;
use super::super::finding::Weight;
use super::super::read;
use super::*;
use crate::config::Access;

fn resolved(text: &str) -> Resolved {
    let (document, findings) = read::read(text.as_bytes()).unwrap();
    let place = Surroundings {
        pools: testing::first_model().model.pools().cloned().collect(),
        pci_port: &|address| (address == "03_00.0").then(|| "00_1c.4-00_00.0".to_owned()),
        naming: testing::naming(),
    };
    let mut resolved = resolve(&document, &place);
    resolved.findings.splice(0..0, findings);
    resolved
}

fn model(resolved: &Resolved) -> Model {
    let mut model = Model::default();
    resolved.writes.iter().for_each(|write| write.apply(&mut model).unwrap());
    model
}

fn told(resolved: &Resolved, weight: Weight) -> Vec<String> {
    resolved.findings.iter().filter(|finding| finding.weight == weight).map(ToString::to_string).collect()
}

const SAMPLE: &str = include_str!("sample.xml");

#[test]
fn an_old_system_comes_in_whole_and_what_was_changed_is_told() {
    let resolved = resolved(SAMPLE);
    assert_eq!(told(&resolved, Weight::Problem), [""; 0]);
    let model = model(&resolved);
    let line = |text: &str| 1 + SAMPLE.lines().position(|line| line.contains(text)).unwrap();
    let expected = [
        format!("line {}: label \"gray\": colour 0x555753 of older releases made 0x555555", line("label-5")),
        "label \"orange\": built in and not in the file, added".to_owned(),
        "label \"yellow\": built in and not in the file, added".to_owned(),
        "label \"green\": built in and not in the file, added".to_owned(),
        "label \"blue\": built in and not in the file, added".to_owned(),
        "label \"purple\": built in and not in the file, added".to_owned(),
        format!(
            "line {}: pool \"tank\": taken, but cannot be used here: there is no driver \"zfs_zvol\"",
            line("zfs_zvol")
        ),
        "property default_pool: not in the file; pool \"varlibqubes\" chosen".to_owned(),
        "property default_pool_kernel: not in the file; pool \"linux-kernel\" chosen".to_owned(),
        format!("line {}: domain 'debian': hvm of older releases: virt_mode hvm", line("\"hvm\">True")),
        format!("line {}: domain 'debian': property icon is computed, left out", line("\"icon\"")),
        format!("line {}: domain 'far': property memory is none of a RemoteVM's, left out", line(">400<")),
        format!(
            "line {}: domain 'far': volume \"root\" is none of a RemoteVM's, left out",
            line("><volume name=\"root\"")
        ),
        format!("line {}: domain 'dom0': property maxmem is none of a AdminVM's, left out", line(">1000<")),
        format!("line {}: domain 'sys-net': PCI device 03_00.0 lies at 00_1c.4-00_00.0", line("03_00.0")),
        format!(
            "line {}: domain 'sys-net': device \"00_15.0\" of domain 'nobody', which does not exist, left out",
            line("nobody")
        ),
        format!(
            "line {}: domain 'sys-net': device \"00_16.0\" is assigned in an unknown way (\"sometimes\"), left out",
            line("sometimes")
        ),
        format!(
            "line {}: domain 'dvm': dispvm_allowed of older releases: template_for_dispvms",
            line("dispvm_allowed")
        ),
        format!("line {}: property the_weather: unknown, left out", line("the_weather")),
        format!(
            "line {}: property default_dispvm: domain 'work' is no template of disposables; set to none",
            line("\"default_dispvm\">work")
        ),
        format!(
            "line {}: property default_fw_netvm: of older releases: the netvm of 'sys-firewall'",
            line("default_fw_netvm")
        ),
        format!(
            "line {}: domain 'work': property default_dispvm: domain 'work' is no template of disposables (template_for_dispvms); set to none",
            line("<property name=\"template\">debian</property><property name=\"default_dispvm\"")
        ),
    ];
    assert_eq!(told(&resolved, Weight::Note), expected);

    let names: Vec<_> = model.vms().map(|vm| (vm.name.as_str(), vm.qid.get(), vm.class.as_str())).collect();
    assert_eq!(
        names,
        [
            ("dom0", 0, "AdminVM"),
            ("alone", 8, "StandaloneVM"),
            ("debian", 1, "TemplateVM"),
            ("disp77", 5, "DispVM"),
            ("dvm", 7, "AppVM"),
            ("far", 9, "RemoteVM"),
            ("sys-firewall", 3, "AppVM"),
            ("sys-net", 2, "AppVM"),
            ("work", 4, "AppVM"),
        ]
    );
    let vm = |name: &str| model.vm_named(name).unwrap();
    let value = |name: &str, property| vm(name).properties.get(&property).cloned();
    let named = |name: &str| Some(Value::Vm(Some(vm(name).uuid)));
    assert_eq!(value("debian", Property::Kernelopts), Some(Value::text(" quiet & <ro>\t\"x\" ")));
    assert_eq!(value("debian", Property::VirtMode), Some(Value::text("hvm")));
    assert_eq!(value("sys-net", Property::VirtMode), Some(Value::text("hvm")), "the new name counts");
    assert_eq!(value("alone", Property::VirtMode), Some(Value::text("hvm")));
    assert_eq!(value("sys-net", Property::Netvm), Some(Value::Vm(None)));
    assert_eq!(value("sys-firewall", Property::Netvm), named("sys-net"));
    assert_eq!(value("work", Property::DefaultDispvm), Some(Value::Vm(None)));
    assert_eq!(value("work", Property::ManagementDispvm), named("dvm"));
    assert_eq!(value("dvm", Property::TemplateForDispvms), Some(Value::Bool(true)));
    assert_eq!(value("disp77", Property::Dispid), Some(Value::Int(77)));
    assert_eq!(vm("disp77").label.get(), 9);
    assert_eq!(vm("debian").uuid.to_string(), "11111111-1111-4111-8111-111111111111");
    assert!(!vm("work").uuid.is_nil());
    assert_eq!(vm("dom0").feature("config-usbvm-name"), Some("sys-usb"));

    let mut features: Vec<_> = vm("debian").features.iter().collect();
    features.sort_by_key(|(_, feature)| feature.position);
    let features: Vec<_> = features.iter().map(|(n, f)| (n.as_str(), f.value.as_str())).collect();
    assert_eq!(features, [("qrexec", "2"), ("gui", ""), ("os", "Linux")]);
    assert_eq!(vm("debian").tags.len(), 2);

    let assigned: Vec<String> = vm("sys-net")
        .assignments
        .iter()
        .map(|(device, how)| {
            let backend = device.backend.and_then(|uuid| model.name_of(uuid));
            let backend = backend.map_or("*".to_owned(), |name| name.to_string());
            let parts = [&device.port, &device.id].map(|part| AssignedDevice::written(part.as_ref()));
            let options: Vec<_> = how.options.iter().map(|(n, v)| format!(" {n}={v}")).collect();
            format!("{} {backend}+{}:{} {}{}", device.class, parts[0], parts[1], how.mode, options.concat())
        })
        .collect();
    assert_eq!(
        assigned,
        [
            "pci dom0+00_14.0:* required",
            "pci dom0+00_1c.4-00_00.0:* auto-attach",
            "pci dom0+00_1f.6:* required no-strict-reset=True",
            "usb *+*:0951:1666 auto-attach",
            "usb sys-net+2-1:0951:1666::u080650 ask-to-attach",
        ]
    );

    let volumes = |name: &str| -> Vec<String> {
        let shown = |v: &Arc<VolumeConfig>| {
            let (vid, size) = (v.vid.as_deref().unwrap_or("-"), v.size.map_or(0, |size| size.get()));
            let kept = v.revisions_to_keep.map_or(String::new(), |n| format!(" keep {n}"));
            let access = if v.access == Access::ReadOnly { " ro" } else { "" };
            format!("{} {}:{vid} {:?} {size}{access}{kept}", v.name, v.pool, v.kind)
        };
        vm(name).volumes.iter().map(shown).collect()
    };
    assert_eq!(
        volumes("debian"),
        [
            "root varlibqubes:vm-templates/debian/root Origin 21474836480 keep 3",
            "private fast:vm-templates/debian/private Origin 2147483648",
            "volatile varlibqubes:vm-templates/debian/volatile Volatile 10737418240",
            "kernel linux-kernel:- Kernel 0 ro",
        ]
    );
    assert_eq!(
        volumes("work"),
        [
            "root varlibqubes:appvms/work/root Snapshot 0",
            "private fast:appvms/work/private Origin 1073741824",
            "volatile varlibqubes:appvms/work/volatile Volatile 10737418240",
            "kernel linux-kernel:- Kernel 0 ro",
            "extra varlibqubes:appvms/work/extra Origin 4096 ro",
        ]
    );
    assert_eq!(volumes("disp77")[1], "private fast:appvms/disp77/private Snapshot 0", "where its source is");
    assert_eq!(vm("disp77").volumes[1].kind, VolumeKind::Snapshot);
    assert_eq!(vm("work").volume("private").unwrap().ephemeral, Some(false));
    assert!(vm("far").volumes.is_empty());

    assert_eq!(model.global_vm(Global::DefaultNetvm), Some(vm("sys-firewall").uuid));
    assert_eq!(model.global(Global::DefaultDispvm), Some(&Value::Vm(None)));
    assert_eq!(model.global(Global::Updatevm), Some(&Value::Vm(None)));
    assert_eq!(model.global(Global::CheckUpdatesVm), Some(&Value::Bool(false)));
    assert_eq!(model.global(Global::StatsInterval), Some(&Value::Int(5)));
    assert_eq!(model.default_kernel(), Some("6.1"));
    assert_eq!(model.default_pool_of("private").map(|pool| pool.as_str()), Some("fast"));
    assert_eq!(&*model.pool("thin").unwrap().options["thin_pool"], "vm-pool");
    assert_eq!(model.labels().count(), 9);
}

#[test]
fn a_file_with_nothing_in_it_is_a_system_with_dom0_alone() {
    let resolved = resolved("<qubes/>");
    assert_eq!(told(&resolved, Weight::Problem), [""; 0]);
    let model = model(&resolved);
    assert_eq!((model.vm_count(), model.labels().count(), model.pools().count()), (1, 8, 2));
    assert_eq!(model.default_pool_of("root").map(|pool| pool.as_str()), Some("varlibqubes"));
}

/// A domain of class StandaloneVM.
fn domain(id: u32, name: &str, more: &str) -> String {
    format!(
        "<domain id='domain-{id}' class='StandaloneVM'><properties><property name='name'>{name}</property>\
         <property name='label' ref='label-1'/></properties>{more}</domain>"
    )
}

#[test]
fn every_problem_is_named_with_its_line() {
    let property = |name: &str, value: &str| {
        let id = 1;
        format!(
            "<domain id='domain-{id}' class='AppVM'><properties><property name='name'>a</property>\
             <property name='label'>1</property><property name='template'>t</property>\n\
             <property name='{name}'>{value}</property></properties></domain>"
        )
    };
    let volume = |attributes: &str| {
        domain(1, "a", &format!("\n<volume-config><volume {attributes}/></volume-config>"))
    };
    for (domains, line, words) in [
        (property("memory", "lots"), 2, "property memory: Failed to parse property value as int"),
        (property("memory", "-5"), 2, "property memory: memory must be positive"),
        (property("debug", "maybe"), 2, "property debug: Invalid literal for boolean property: 'maybe'"),
        (property("netvm", "nobody"), 2, "property netvm: there is no domain 'nobody'"),
        (property("netvm", "t"), 2, "property netvm: domain 't' does not provide network"),
        (property("label", "mauve"), 2, "there is no label \"mauve\""),
        (property("kernel", "a/b"), 2, "property kernel: Kernel name cannot contain '/'"),
        (
            property("template", "a"),
            2,
            "property template: domain 'a' is a AppVM, and a TemplateVM is needed",
        ),
        (domain(1, "none", ""), 1, "left out: VM name cannot be 'none' nor 'default'"),
        (domain(1, "", ""), 1, "left out: it has no name"),
        (domain(10_001, "a", ""), 1, "left out: its number \"10001\" is none of 0 to 10000"),
        (domain(99, "a", ""), 1, "left out: its number 99 is that of a domain before it"),
        (domain(1, "t", ""), 1, "left out: a domain of this name comes before it"),
        (domain(1, "dom0", ""), 1, "left out: dom0 alone has class AdminVM"),
        (domain(1, "a", "").replace("StandaloneVM", "CloudVM"), 1, "there is no class \"CloudVM\""),
        (domain(1, "a", "").replace("StandaloneVM", "AppVM"), 1, "it has no template"),
        (
            domain(1, "a", "<features>\n<feature name='a b'/></features>"),
            2,
            "feature \"a b\": feature name contains",
        ),
        (
            domain(1, "a", "<features>\n<feature name='a'>\u{e9}</feature></features>"),
            2,
            "feature \"a\": value contains",
        ),
        (domain(1, "a", "<tags>\n<tag name='a.b'/></tags>"), 2, "tag \"a.b\": disallowed"),
        (
            domain(1, "a", "<devices class='usb'>\n<device id='' mode='required'/></devices>"),
            2,
            "device \"\": a device's",
        ),
        (volume("name='root' pool='gone'"), 2, "volume \"root\": there is no pool \"gone\""),
        (
            volume("name='root' vid='x/y'"),
            2,
            "volume \"root\": its vid is \"x/y\"; in this pool it is called",
        ),
        (volume("name='root' size='big'"), 2, "volume \"root\": size is \"big\""),
        (volume("name='root' rw='perhaps'"), 2, "volume \"root\": rw is \"perhaps\""),
        (volume("name='root' revisions_to_keep='-2'"), 2, "volume \"root\": revisions_to_keep"),
        (volume("name='root' snap_on_start='True'"), 2, "volume \"root\": snap_on_start and save_on_stop"),
        (
            volume("name='kernel' pool='varlibqubes'"),
            2,
            "volume \"kernel\": its pool varlibqubes holds no kernels",
        ),
        (volume("name='Root' save_on_stop='True'"), 2, "volume \"Root\": volume name must"),
    ] {
        let template = domain(99, "t", "").replace("StandaloneVM", "TemplateVM");
        let text = format!("<qubes><domains>{template}{domains}</domains></qubes>");
        let resolved = resolved(&text);
        let problems = told(&resolved, Weight::Problem);
        let about = if words.starts_with("left out") { "domain " } else { "domain 'a': " };
        let good = matches!(problems.as_slice(), [one] if one.starts_with(&format!("line {line}: {about}")) && one.contains(words));
        assert!(good, "{domains}\n{problems:?}");
        let model = model(&resolved);
        let kept: Vec<_> = resolved.kept.iter().map(|kept| kept.name.as_str()).collect();
        let fits_badly = model.vm_named("a").is_some();
        let left_out = words.starts_with("left out");
        assert_eq!(kept, if left_out || fits_badly { vec![] } else { vec!["a"] }, "{domains}");
    }
    for (text, words) in [
        (
            "<labels><label id='label-x' color='0xcc0000'>red</label></labels>",
            "label \"red\": its id \"label-x\"",
        ),
        ("<labels><label id='label-9' color='red'>a</label></labels>", "label \"a\": Label value must"),
        (
            "<labels><label id='label-1' color='0xcc0000'>red</label><label id='label-1' color='0xcc0000'>a</label></labels>",
            "label \"a\": its name or index",
        ),
        ("<pools><pool name='a b' driver='file'/></pools>", "pool \"a b\": Pool name"),
        (
            "<pools><pool name='a' driver='file' dir_path='/x'/><pool name='a' driver='file'/></pools>",
            "pool \"a\": a pool of this name",
        ),
        (
            "<properties><property name='default_netvm'>nobody</property></properties>",
            "property default_netvm: there is no domain 'nobody'",
        ),
        (
            "<properties><property name='default_pool'>gone</property></properties>",
            "property default_pool: there is no pool \"gone\"",
        ),
        (
            "<properties><property name='stats_interval'>often</property></properties>",
            "property stats_interval: \"often\" is no number",
        ),
        (
            "<properties><property name='check_updates_vm'>x</property></properties>",
            "property check_updates_vm: \"x\" is neither",
        ),
        (
            "<properties><property name='default_kernel'>a/b</property></properties>",
            "property default_kernel: Kernel name",
        ),
    ] {
        let resolved = resolved(&format!("<qubes>{text}</qubes>"));
        let problems = told(&resolved, Weight::Problem);
        assert!(
            matches!(problems.as_slice(), [one] if one.starts_with("line 1: ") && one.contains(words)),
            "{text}: {problems:?}"
        );
    }
}

#[test]
fn loops_of_netvms_are_broken_as_the_deployed_system_breaks_them() {
    let net = |id: u32, name: &str, netvm: &str| {
        domain(id, name, "").replace(
            "<property name='label'",
            &format!("<property name='provides_network'>True</property>{netvm}<property name='label'"),
        )
    };
    let by = |name: &str| format!("<property name='netvm'>{name}</property>");
    let explicit = [net(1, "a", &by("b")), net(2, "b", &by("c")), net(3, "c", &by("a"))].concat();
    let by_default = [net(1, "a", &by("b")), net(2, "b", "")].concat();
    for (domains, default) in [(explicit, ""), (by_default, "a"), (net(1, "a", ""), "a")] {
        let text = format!(
            "<qubes><properties><property name='default_netvm'>{default}</property></properties><domains>{domains}</domains></qubes>"
        );
        let resolved = resolved(&text);
        assert_eq!(told(&resolved, Weight::Problem), [""; 0]);
        let loops = told(&resolved, Weight::Note).iter().filter(|note| note.contains("loop")).count();
        assert_eq!(loops, 1, "{:?}", resolved.findings);
        let model = model(&resolved);
        for vm in model.vms() {
            assert!(model.netvm_chain(vm).count() <= 3, "{}", vm.name);
        }
    }
}
