//! In and out and in again, on real stores.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::assignment::{AssignedDevice, Assignment, AssignmentMode};
use super::super::class::VmClass;
use super::super::create;
use super::super::global::Global;
use super::super::ids::LabelIndex;
use super::super::model::Model;
use super::super::notes::Notes;
use super::super::property::{Property, desktop};
use super::super::qubes_xml::finding::{Finding, Weight};
use super::super::qubes_xml::{describe, print, read};
use super::super::snapshot::Snapshot;
use super::super::store::Store;
use super::super::testing::{self, make, new_vm};
use super::super::value::Value;
use super::super::write::Write;
use super::*;
use crate::error::Kind;

fn request(state: &Path, file: &Path, bad: Bad) -> ImportRequest {
    ImportRequest {
        state: state.to_owned(),
        storage_dir: state.join("volumes"),
        file: file.to_owned(),
        vm_dirs: None,
        bad,
    }
}

fn model(state: &Path) -> Model {
    Store::open(state, || panic!("not a first start")).unwrap().model
}

/// Imports a text into a new state.
fn imported(dir: &Path, text: &str, bad: Bad) -> Result<Imported, ImportError> {
    let file = dir.join("in.xml");
    std::fs::write(&file, text).unwrap();
    import(&request(&dir.join("state"), &file, bad))
}

fn same_content(a: &Model, b: &Model) {
    for (ours, theirs) in a.vms().zip(b.vms()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(a.vm_count(), b.vm_count());
    assert!(a.labels().eq(b.labels()) && a.globals().eq(b.globals()));
    let pools = |model: &Model| {
        model.pools().map(|p| (p.name.clone(), p.driver.clone(), p.options.clone())).collect::<Vec<_>>()
    };
    assert_eq!(pools(a), pools(b));
}

/// Out of one state and into another.
fn moved(from: &Path, dir: &Path) -> Model {
    let out = dir.join("out");
    let exported = export(from, &out).unwrap();
    assert!(exported.findings.is_empty(), "{:?}", exported.findings);
    let to = dir.join("again");
    let imported = import(&request(&to, &out.join("qubes.xml"), Bad::Refused)).unwrap();
    let driver = |finding: &Finding| finding.weight == Weight::Note && finding.text.contains("no driver");
    assert!(imported.findings.iter().all(driver), "{:?}", imported.findings);
    let first = std::fs::read_to_string(out.join("qubes.xml")).unwrap();
    export(&to, &out).unwrap();
    assert_eq!(std::fs::read_to_string(out.join("qubes.xml")).unwrap(), first);
    model(&to)
}

#[test]
fn an_old_system_goes_in_and_out_and_in_again() {
    let dir = tempfile::tempdir().unwrap();
    let done = imported(dir.path(), include_str!("../qubes_xml/resolve/sample.xml"), Bad::Refused).unwrap();
    assert_eq!((done.vms, done.set_aside), (9, 0));
    let before = model(&dir.path().join("state"));
    same_content(&moved(&dir.path().join("state"), dir.path()), &before);
    let told = |vm: &&Arc<super::super::vm::Vm>| vm.tags.iter().any(|tag| tag.as_str().starts_with("guivm-"));
    assert!(before.vms().all(|vm| desktop::tagged(&before, vm).tags == vm.tags));
    assert!(before.vms().filter(told).count() > 1);
}

#[test]
fn a_system_that_makes_volumes_in_a_pool_of_kernels_is_taken_in_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let text = "<qubes><pools><pool name='mine' driver='file' dir_path='/x'/>\
                <pool name='kernels' driver='linux-kernel' dir_path='/k'/></pools>\
                <properties><property name='default_pool'>kernels</property>\
                <property name='default_pool_root'>kernels</property></properties></qubes>";
    let done = imported(dir.path(), text, Bad::Refused).unwrap();
    assert_eq!(done.set_aside, 0, "{:?}", done.findings);
    let taken = model(&dir.path().join("state"));
    for global in [Global::DefaultPool, Global::DefaultPoolRoot] {
        assert_eq!(taken.global(global), Some(&Value::Pool("kernels".parse().unwrap())), "{global}");
    }
    assert_eq!(taken.set_aside().count(), 0);
}

#[test]
fn only_an_empty_state_is_filled_and_the_first_starts_pools_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    drop(testing::open(&state));
    let text = "<qubes><pools><pool name='mine' driver='file' dir_path='/x'/></pools><domains>\
                <domain id='domain-1' class='RemoteVM'><properties><property name='name'>far</property>\
                <property name='label'>red</property></properties></domain></domains></qubes>";
    imported(dir.path(), text, Bad::Refused).unwrap();
    let filled = model(&state);
    assert_eq!(filled.pools().map(|pool| pool.name.as_str()).collect::<Vec<_>>(), ["mine"]);
    assert_eq!(filled.default_pool_of("root").map(|pool| pool.as_str()), Some("mine"));
    let error = imported(dir.path(), text, Bad::SetAside).unwrap_err();
    assert_eq!(error.to_string(), "the state is not empty: it holds 1 VMs besides dom0 (far)");

    let busy = Store::open(&state, || panic!("not a first start")).unwrap();
    let error = imported(dir.path(), text, Bad::Refused).unwrap_err();
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    assert_eq!(export(&state, &dir.path().join("out")).unwrap_err().kind(), Kind::Busy);
    drop(busy);
    let error = export(&dir.path().join("nowhere"), &dir.path().join("out")).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(!dir.path().join("nowhere").exists());
}

const BAD: &str = "<qubes><properties><property name='clockvm'>nobody</property></properties><domains>
    <domain id='domain-1' class='TemplateVM'><properties><property name='name'>t</property>
      <property name='label'>red</property></properties></domain>
    <domain id='domain-2' class='AppVM'><properties><property name='name'>a</property><property name='label'>red</property>
      <property name='template'>t</property><property name='memory'>lots</property></properties>
      <features><feature name='a'>1</feature></features></domain>
    <domain id='domain-3' class='AppVM'><properties><property name='name'>b</property><property name='label'>red</property>
      <property name='template'>a</property></properties></domain>
    <domain id='domain-4' class='AppVM'><properties><property name='name'>c</property><property name='label'>red</property>
      <property name='template'>t</property><property name='netvm'>t</property></properties></domain>
    <domain id='domain-2' class='AppVM'><properties><property name='name'>d</property></properties></domain>
    </domains></qubes>";

#[test]
fn a_file_with_problems_is_refused_whole_unless_what_is_bad_is_to_be_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let ImportError::Problems(findings) = imported(dir.path(), BAD, Bad::Refused).unwrap_err() else {
        panic!("not refused for its problems")
    };
    let problems: Vec<_> =
        findings.iter().filter(|f| f.weight == Weight::Problem).map(|f| f.about.as_str()).collect();
    assert_eq!(problems, ["domain 'd'", "domain 'a'", "property clockvm", "domain 'c'"]);
    let state = dir.path().join("state");
    assert_eq!(model(&state).vm_count(), 1);

    let done = imported(dir.path(), BAD, Bad::SetAside).unwrap();
    assert_eq!((done.vms, done.set_aside), (3, 3));
    let model = model(&state);
    assert_eq!(model.vms().map(|vm| vm.name.as_str()).collect::<Vec<_>>(), ["dom0", "b", "t"]);
    let mut aside: Vec<_> =
        model.set_aside().map(|row| (row.name.as_str(), row.qid, row.reason.as_str())).collect();
    aside.sort_unstable();
    assert_eq!(
        aside.iter().map(|row| (row.0, row.1)).collect::<Vec<_>>(),
        [("a", Some(2)), ("c", Some(4)), ("clockvm", None)]
    );
    assert_eq!(aside[0].2, "property memory: Failed to parse property value as int");
    assert!(model.occupant("varlibqubes", "appvms/a/private").is_some(), "its volumes stay reserved");
    assert!(!model.name_is_free(&"a".parse().unwrap()) && model.name_is_free(&"d".parse().unwrap()));
    let template = model.vm_named("t").unwrap().uuid;
    let state = testing::snapshot_of(model);
    let refused = super::super::remove::begin(&state, template).unwrap_err();
    assert!(format!("{refused:?}").contains("\"a\""), "what it refers to stays in use: {refused:?}");
}

#[test]
fn firewall_rules_and_notes_move_with_the_folders_of_their_vms() {
    let dir = tempfile::tempdir().unwrap();
    let system = dir.path().join("system");
    let put = |path: &str, text: &[u8]| {
        let path = system.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    put("qubes.xml", include_bytes!("../qubes_xml/resolve/sample.xml"));
    let rule = "<rule><properties><property name='action'>accept</property><property name='dsthost'>1.2.3.4</property>\
                <property name='comment'>mine</property></properties></rule>";
    put(
        "appvms/work/firewall.xml",
        format!("<firewall version='2'><rules>{rule}</rules></firewall>").as_bytes(),
    );
    put("appvms/work/notes.txt", "zwei\nZeilen: gr\u{f6}\u{df}er".as_bytes());
    put("appvms/alone/firewall.xml", b"<firewall version='2'><rules/></firewall>");
    put("vm-templates/debian/notes.txt", b"a template");
    let mut into = request(&dir.path().join("a"), &system.join("qubes.xml"), Bad::Refused);
    into.vm_dirs = Some(system.clone());
    import(&into).unwrap();
    let first = model(&into.state);
    let rules = |model: &Model, name: &str| -> Vec<String> {
        model.vm_named(name).unwrap().firewall.rules().iter().map(|entry| entry.rule.to_string()).collect()
    };
    assert_eq!(rules(&first, "work"), ["action=accept dst4=1.2.3.4/32 comment=mine"]);
    assert_eq!(rules(&first, "alone"), [""; 0]);
    assert_eq!(rules(&first, "dvm"), ["action=accept"]);
    let out = dir.path().join("out");
    export(&into.state, &out).unwrap();
    assert!(!out.join("appvms/dvm").exists());
    let back = ImportRequest {
        state: dir.path().join("b"),
        vm_dirs: Some(out.clone()),
        ..request(&out, &out.join("qubes.xml"), Bad::Refused)
    };
    import(&back).unwrap();
    let again = model(&back.state);
    assert_eq!(rules(&again, "work"), rules(&first, "work"));
    assert_eq!(rules(&again, "alone"), [""; 0]);
    for (name, text) in [("work", "zwei\nZeilen: gr\u{f6}\u{df}er"), ("debian", "a template")] {
        assert!(matches!(&again.vm_named(name).unwrap().notes, Notes::Text(notes) if notes.as_str() == text));
    }

    put("appvms/work/firewall.xml", b"<firewall version='2'><rules><rule/></rules></firewall>");
    put("vm-templates/debian/notes.txt", b"\xff");
    into.state = dir.path().join("c");
    let ImportError::Problems(findings) = import(&into).unwrap_err() else { panic!("not refused") };
    let problems: Vec<_> =
        findings.iter().filter(|f| f.weight == Weight::Problem).map(|f| f.about.as_str()).collect();
    assert_eq!(problems, ["domain 'debian'", "domain 'work'"]);
    into.bad = Bad::SetAside;
    import(&into).unwrap();
    assert_eq!(rules(&model(&into.state), "work"), [""; 0], "nothing passes by rules that are not known");
}

#[test]
fn what_is_given_out_names_nothing_that_is_left_out() {
    let mut rig = testing::Rig::new();
    for (name, class, template) in [
        ("debian", VmClass::TemplateVm, None),
        ("work", VmClass::AppVm, Some("debian")),
        ("net", VmClass::StandaloneVm, None),
        ("lone", VmClass::StandaloneVm, None),
    ] {
        let new = new_vm(name, class, template);
        let plan = rig.commit(move |seen| create::begin(seen, &new)).unwrap();
        rig.commit(move |seen| create::finish(seen, &plan)).unwrap();
    }
    for (vm, name, value) in [("net", "provides_network", "True"), ("lone", "netvm", "net")] {
        let vm = rig.snapshot().model.vm_named(vm).unwrap().uuid;
        rig.commit(move |seen| super::super::property::set(seen, vm, name, value.as_bytes())).unwrap();
    }
    rig.close();
    let state = rig.dir.path();
    let edit = rusqlite::Connection::open(state.join("state.db")).unwrap();
    edit.execute("UPDATE vm SET class = 'CloudVM' WHERE name IN ('debian', 'net')", []).unwrap();
    drop(edit);
    let out = tempfile::tempdir().unwrap();
    let exported = export(state, out.path()).unwrap();
    assert_eq!(exported.vms, 2, "{:?}", exported.findings);
    let told = |word: &str| exported.findings.iter().any(|finding| finding.to_string().contains(word));
    assert!(
        told("domain 'work': its template") && told("domain 'lone': netvm is 'net'"),
        "{:?}",
        exported.findings
    );

    let file = out.path().join("qubes.xml");
    let second = tempfile::tempdir().unwrap();
    let read = import(&request(&second.path().join("state"), &file, Bad::Refused)).unwrap();
    assert!(read.findings.iter().all(|finding| finding.weight == Weight::Note), "{:?}", read.findings);
    let model = model(&second.path().join("state"));
    let lone = model.vm_named("lone").unwrap();
    assert_eq!(lone.properties.get(&Property::Netvm), Some(&Value::Vm(None)));
}

#[test]
fn a_file_that_is_no_xml_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let error = imported(dir.path(), "<qubes>\n<labels>", Bad::SetAside).unwrap_err();
    assert!(matches!(&error, ImportError::NotXml(bad) if bad.line == 2), "{error}");
    imported(dir.path(), "<qubes/>", Bad::Refused).unwrap();
}

/// Class, backend, port, identity, mode, options.
type DeviceSpec = (String, Option<usize>, String, String, usize, Vec<(String, String)>);

/// A VM of a generated model.
#[derive(Debug, Clone)]
struct Spec {
    class: usize,
    label: u32,
    properties: Vec<(usize, String)>,
    netvm: Option<usize>,
    features: Vec<(String, String)>,
    tags: Vec<String>,
    devices: Vec<DeviceSpec>,
}

fn spec() -> impl Strategy<Value = Spec> {
    let printable = "[ -~]{0,12}";
    let properties = prop::collection::vec((0usize..5, "[ -~\t\n\r]{0,20}"), 0..4);
    let features = prop::collection::vec(("[A-Za-z0-9_.-]{1,6}", printable), 0..4);
    let options = prop::collection::vec(("[a-z!#$%&()*+,./:;<>?@^|~-]{1,5}", printable), 0..3);
    let device = (
        "(usb|pci|block|my_class)",
        prop::option::of(0usize..8),
        "(\\*|[ -)+-~]{1,8})",
        "[!-)+-~]{1,9}",
        0usize..3,
        options,
    );
    (
        0usize..5,
        1u32..9,
        properties,
        prop::option::of(0usize..8),
        features,
        prop::collection::vec("[A-Za-z0-9_-]{1,6}", 0..3),
        prop::collection::vec(device, 0..3),
    )
        .prop_map(|(class, label, properties, netvm, features, tags, devices)| Spec {
            class,
            label,
            properties,
            netvm,
            features,
            tags,
            devices,
        })
}

/// A model with these VMs: `v0` provides network, and `t` is everybody's template.
fn generated(specs: &[Spec]) -> Snapshot {
    let mut snapshot = testing::first_model();
    make(&mut snapshot, &new_vm("t", VmClass::TemplateVm, None));
    make(&mut snapshot, &new_vm("dvm", VmClass::AppVm, Some("t")));
    testing::set(&mut snapshot, "dvm", "template_for_dispvms", "True").unwrap();
    make(&mut snapshot, &new_vm("net", VmClass::StandaloneVm, None));
    testing::set(&mut snapshot, "net", "provides_network", "True").unwrap();
    for (index, spec) in specs.iter().enumerate() {
        let (class, template) = [
            (VmClass::AppVm, Some("t")),
            (VmClass::DispVm, Some("dvm")),
            (VmClass::RemoteVm, None),
            (VmClass::StandaloneVm, None),
            (VmClass::TemplateVm, None),
        ][spec.class];
        make(&mut snapshot, &new_vm(&format!("v{index}"), class, template));
    }
    let uuids: Vec<_> = snapshot.model.vms().map(|vm| vm.uuid).collect();
    let net = testing::vm(&snapshot, "net").uuid;
    for (index, spec) in specs.iter().enumerate() {
        let vm = testing::vm(&snapshot, &format!("v{index}"));
        let mut writes = vec![Write::SetProperty(
            vm.uuid,
            Property::Label,
            Some(Value::Label(LabelIndex::new(spec.label).unwrap())),
        )];
        for (kind, text) in &spec.properties {
            let number = i64::try_from(text.len()).unwrap() + 1;
            let (property, value) = match kind {
                0 => (Property::Kernelopts, Value::text(text)),
                1 => (Property::Memory, Value::Int(number)),
                2 => (Property::Debug, Value::Bool(number % 2 == 0)),
                3 => (Property::Kernel, Value::text("")),
                _ => (Property::ManagementDispvm, Value::Vm(None)),
            };
            if property.applies_to(vm.class) {
                writes.push(Write::SetProperty(vm.uuid, property, Some(value)));
            }
        }
        if let Some(netvm) = spec.netvm.filter(|_| Property::Netvm.applies_to(vm.class)) {
            let target = (netvm % 2 == 0).then_some(net);
            writes.push(Write::SetProperty(vm.uuid, Property::Netvm, Some(Value::Vm(target))));
        }
        for (name, value) in &spec.features {
            writes.push(Write::SetFeature(vm.uuid, name.parse().unwrap(), Some(value.parse().unwrap())));
        }
        for tag in spec.tags.iter().collect::<std::collections::BTreeSet<_>>() {
            let tag = tag.parse().unwrap();
            if !vm.tags.contains(&tag) {
                writes.push(Write::AddTag(vm.uuid, tag));
            }
        }
        for (class, backend, port, id, mode, options) in &spec.devices {
            let device = AssignedDevice {
                class: class.parse().unwrap(),
                backend: backend.map(|at| uuids[at % uuids.len()]),
                port: AssignedDevice::part(port).unwrap(),
                id: AssignedDevice::part(id).unwrap(),
            };
            let options: BTreeMap<_, _> =
                options.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect();
            writes.push(Write::SetAssignment(
                vm.uuid,
                device,
                Assignment { mode: AssignmentMode::ALL[*mode], options },
            ));
        }
        writes.iter().for_each(|write| write.apply(&mut snapshot.model).unwrap());
    }
    testing::set_global(&mut snapshot, Global::DefaultNetvm, Value::Vm(None));
    snapshot
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_a_model_holds_goes_out_and_in_and_out_the_same(specs in prop::collection::vec(spec(), 0..6)) {
        let snapshot = generated(&specs);
        let (document, findings) = describe::describe(&snapshot);
        prop_assert!(findings.is_empty(), "{:?}", findings);
        let mut bytes = Vec::new();
        print::print(&document, &mut bytes).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let done = imported(dir.path(), std::str::from_utf8(&bytes).unwrap(), Bad::Refused).unwrap();
        prop_assert!(done.findings.is_empty(), "{:?}", done.findings);
        let model = model(&dir.path().join("state"));
        let (mut ours, mut theirs) = (snapshot.model.clone(), model.clone());
        for model in [&mut ours, &mut theirs] {
            // Places are numbered anew; their order is what counts.
            let vms: Vec<_> = model.vms().cloned().collect();
            for vm in vms {
                let mut vm = desktop::tagged(model, &vm);
                let mut order: Vec<_> = vm.features.iter().map(|(n, f)| (f.position, n.clone())).collect();
                order.sort();
                for (position, (_, name)) in (0..).zip(order) {
                    vm.features.get_mut(&name).unwrap().position = position;
                }
                model.put_vm(Arc::new(vm));
            }
        }
        same_content(&ours, &theirs);
        let (again, _) = describe::describe(&testing::snapshot_of(model));
        prop_assert_eq!(again, document);
    }

    #[test]
    fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[<>/a-z'=&;# !-]{0,80}") {
        drop(read::read(&bytes));
        drop(read::read(text.as_bytes()));
        drop(read::read(format!("<qubes><domains>{text}</domains></qubes>").as_bytes()));
    }
}
