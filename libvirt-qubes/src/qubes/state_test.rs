//! Random changes through the real committer, compared with a plain oracle, with indexes made anew and with
//! the store read back.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::class::VmClass;
use super::create::{self, NewVm};
use super::global;
use super::property::{self, Origin, Property};
use super::refusal::{HostError, Refusal};
use super::testing::{Rig, block_on, new_vm};
use super::value::Shown;
use super::{remove, snapshot::Snapshot};

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

#[derive(Debug, Clone)]
enum Op {
    Create { name: usize, class: VmClass, template: Option<usize> },
    CreateAndAbandon { name: usize },
    Remove { name: usize },
    RemoveHalf { name: usize },
    Set { name: usize, property: &'static str, value: String },
    Reset { name: usize, property: &'static str },
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let name = 0..NAMES.len();
    let class = prop_oneof![
        3 => Just(VmClass::AppVm),
        3 => Just(VmClass::TemplateVm),
        1 => Just(VmClass::StandaloneVm),
        1 => Just(VmClass::DispVm),
        1 => Just(VmClass::RemoteVm),
    ];
    let property = prop_oneof![
        Just("memory"),
        Just("netvm"),
        Just("provides_network"),
        Just("template"),
        Just("template_for_dispvms"),
        Just("default_dispvm"),
        Just("label"),
        Just("kernel"),
        Just("installed_by_rpm"),
    ];
    let value = prop_oneof![
        Just(String::new()),
        Just("1".to_owned()),
        Just("0".to_owned()),
        Just("6.1".to_owned()),
        Just("blue".to_owned()),
        name.clone().prop_map(|name| NAMES[name].to_owned()),
    ];
    prop_oneof![
        6 => (name.clone(), class, proptest::option::of(name.clone()))
            .prop_map(|(name, class, template)| Op::Create { name, class, template }),
        1 => name.clone().prop_map(|name| Op::CreateAndAbandon { name }),
        2 => name.clone().prop_map(|name| Op::Remove { name }),
        1 => name.clone().prop_map(|name| Op::RemoveHalf { name }),
        12 => (name.clone(), property.clone(), value)
            .prop_map(|(name, property, value)| Op::Set { name, property, value }),
        3 => (name, property).prop_map(|(name, property)| Op::Reset { name, property }),
        1 => Just(Op::Restart),
    ]
}

/// What must be so, told by names alone.
#[derive(Debug, Default)]
struct Oracle {
    /// Class and explicit values.
    vms: BTreeMap<String, (VmClass, BTreeMap<&'static str, Shown>)>,
    /// Names of VMs whose removal has not ended.
    going: BTreeSet<String>,
}

impl Oracle {
    fn agrees(&self, state: &Snapshot) {
        let names: Vec<_> = state.model.vms().map(|vm| vm.name.to_string()).collect();
        let expected: Vec<_> = std::iter::once("dom0".to_owned()).chain(self.vms.keys().cloned()).collect();
        assert_eq!(names, expected);
        for (name, (class, values)) in &self.vms {
            let vm = state.model.vm_named(name).unwrap();
            assert_eq!(vm.class, *class);
            assert_eq!(state.model.vm_with_qid(vm.qid), Some(vm));
            assert_eq!(state.model.vm(vm.uuid), Some(vm));
            for property in property::list(*class) {
                let answer = property::get(state, vm, property.name()).unwrap();
                match values.get(property.name()) {
                    Some(value) => assert_eq!((answer.origin, &answer.value), (Origin::Explicit, value)),
                    None if identity(property) => assert_eq!(answer.origin, Origin::Explicit),
                    None => assert_eq!(answer.origin, Origin::Default, "{name} {property}"),
                }
            }
        }
        for name in &self.going {
            assert!(!state.model.name_is_free(&name.parse().unwrap()), "{name}");
        }
        has_no_loop(state);
    }
}

fn has_no_loop(state: &Snapshot) {
    for vm in state.model.vms() {
        let steps = state.model.netvm_chain(vm).count();
        assert!(steps <= state.model.vm_count(), "loop at {}", vm.name);
    }
}

fn identity(property: Property) -> bool {
    matches!(property, Property::Name | Property::Uuid | Property::Qid | Property::Dispid | Property::Label)
}

fn make(rig: &Rig, new: NewVm) -> Result<(), HostError> {
    let plan = rig.commit(move |state| create::begin(state, &new))?;
    rig.commit(move |state| create::finish(state, &plan)).map(drop)
}

fn play(ops: Vec<Op>) {
    let (mut rig, mut oracle) = (Rig::new(), Oracle::default());
    for op in ops {
        let state = rig.snapshot();
        let uuid = |name: usize| state.model.vm_named(NAMES[name]).map(|vm| vm.uuid);
        match op {
            Op::Create { name, class, template } => {
                let new = new_vm(NAMES[name], class, template.map(|template| NAMES[template]));
                if make(&rig, new).is_ok() {
                    let mut values = BTreeMap::new();
                    let vm = rig.snapshot().model.vm_named(NAMES[name]).unwrap().clone();
                    for (property, value) in &vm.properties {
                        if *property != Property::Dispid {
                            let shown = property::shown(&rig.snapshot().model, Some(value));
                            values.insert(property.name(), shown);
                        }
                    }
                    let taken = oracle.vms.insert(NAMES[name].to_owned(), (class, values));
                    assert!(taken.is_none() && !oracle.going.contains(NAMES[name]));
                }
            }
            Op::CreateAndAbandon { name } => {
                let new = new_vm(NAMES[name], VmClass::TemplateVm, None);
                if let Ok(plan) = rig.commit(move |state| create::begin(state, &new)) {
                    assert!(!rig.snapshot().model.name_is_free(&NAMES[name].parse().unwrap()));
                    rig.commit(move |_| Ok(create::abandon(plan.pending))).unwrap();
                }
            }
            Op::Remove { name } | Op::RemoveHalf { name } => {
                let Some(uuid) = uuid(name) else { continue };
                match rig.commit(move |state| remove::begin(state, uuid)) {
                    Ok(row) => {
                        oracle.vms.remove(NAMES[name]);
                        if matches!(op, Op::Remove { .. }) {
                            rig.commit(move |_| Ok(remove::finish(&row))).unwrap();
                        } else {
                            oracle.going.insert(NAMES[name].to_owned());
                        }
                    }
                    Err(HostError::Refused(Refusal::InUse { by, .. })) => assert!(!by.is_empty()),
                    Err(HostError::Refused(Refusal::InstalledByPackageManager { .. })) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
            Op::Set { name, property, ref value } => {
                let (Some(uuid), value) = (uuid(name), value.clone()) else { continue };
                let set = rig.commit(move |state| property::set(state, uuid, property, value.as_bytes()));
                match set {
                    Ok(()) => {
                        let vm = rig.snapshot().model.vm(uuid).unwrap().clone();
                        let answer = property::get(&rig.snapshot(), &vm, property).unwrap();
                        oracle.vms.get_mut(NAMES[name]).unwrap().1.insert(property, answer.value);
                    }
                    Err(HostError::Refused(_)) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
            Op::Reset { name, property } => {
                let Some(uuid) = uuid(name) else { continue };
                match rig.commit(move |state| property::reset(state, uuid, property)) {
                    Ok(()) => drop(oracle.vms.get_mut(NAMES[name]).unwrap().1.remove(property)),
                    Err(HostError::Refused(_)) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
            Op::Restart => {
                let before = rig.snapshot();
                rig = rig.restart();
                let after = rig.snapshot();
                assert!(after.number > before.number);
                assert!(after.model.same_rows(&before.model));
                // What start-up does with what is left of a removal.
                let left: Vec<_> = after.model.pending().cloned().collect();
                for row in left {
                    assert!(oracle.going.remove(row.vm.name.as_str()));
                    rig.commit(move |_| Ok(remove::finish(&row))).unwrap();
                }
            }
        }
        let state = rig.snapshot();
        oracle.agrees(&state);
        assert_eq!(state.model, state.model.reindexed());
    }
    let before = rig.snapshot();
    let after = rig.restart();
    assert!(after.snapshot().model.same_rows(&before.model));
    assert_eq!(after.snapshot().model.set_aside().count(), 0);
}

#[test]
fn three_changes_of_netvms_at_once_close_no_loop() {
    let rig = Rig::new();
    make(&rig, new_vm("t", VmClass::TemplateVm, None)).unwrap();
    let ring = ["a", "b", "c"].map(|name| {
        make(&rig, new_vm(name, VmClass::AppVm, Some("t"))).unwrap();
        let uuid = rig.snapshot().model.vm_named(name).unwrap().uuid;
        rig.commit(move |state| property::set(state, uuid, "provides_network", b"1")).unwrap();
        (name, uuid)
    });
    for _ in 0..20 {
        let refused = block_on(async {
            let tasks: Vec<_> = (0..3)
                .map(|n| {
                    let (committer, (_, vm), (netvm, _)) =
                        (rig.committer.clone(), ring[n], ring[(n + 1) % 3]);
                    tokio::spawn(async move {
                        let set = move |state: &Snapshot| property::set(state, vm, "netvm", netvm.as_bytes());
                        committer.commit(set).await
                    })
                })
                .collect();
            let mut refused = 0;
            for task in tasks {
                match task.await.unwrap() {
                    Ok(()) => {}
                    Err(HostError::Refused(Refusal::NetworkLoop)) => refused += 1,
                    Err(other) => panic!("{other:?}"),
                }
            }
            refused
        });
        assert_eq!(refused, 1);
        has_no_loop(&rig.snapshot());
        for (_, vm) in ring {
            rig.commit(move |state| property::set(state, vm, "netvm", b"")).unwrap();
        }
    }
}

#[test]
fn a_default_and_two_netvms_changed_at_once_close_no_loop() {
    let rig = Rig::new();
    make(&rig, new_vm("t", VmClass::TemplateVm, None)).unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| {
        make(&rig, new_vm(name, VmClass::AppVm, Some("t"))).unwrap();
        let uuid = rig.snapshot().model.vm_named(name).unwrap().uuid;
        rig.commit(move |state| property::set(state, uuid, "provides_network", b"1")).unwrap();
        uuid
    });
    for _ in 0..20 {
        // c follows the default: a to b, b to c, and c to a.
        for vm in [a, b] {
            rig.commit(move |state| property::set(state, vm, "netvm", b"")).unwrap();
        }
        let refused = block_on(async {
            let set = |vm, netvm: &'static [u8]| {
                let committer = rig.committer.clone();
                let set = move |state: &Snapshot| property::set(state, vm, "netvm", netvm);
                tokio::spawn(async move { committer.commit(set).await })
            };
            let committer = rig.committer.clone();
            let tasks = [
                set(a, b"b"),
                tokio::spawn(
                    async move { committer.commit(|s| global::set(s, "default_netvm", b"a")).await },
                ),
                set(b, b"c"),
            ];
            let mut refused = 0;
            for task in tasks {
                match task.await.unwrap() {
                    Ok(()) => {}
                    Err(HostError::Refused(Refusal::NetworkLoop | Refusal::DefaultNetworkLoop { .. })) => {
                        refused += 1;
                    }
                    Err(other) => panic!("{other:?}"),
                }
            }
            refused
        });
        assert_eq!(refused, 1);
        has_no_loop(&rig.snapshot());
        assert!(rig.snapshot().model.vm(c).is_some());
        rig.commit(|state| global::reset(state, "default_netvm")).unwrap();
    }
}

#[test]
fn a_vm_that_names_itself_can_be_removed() {
    let rig = Rig::new();
    make(&rig, new_vm("a", VmClass::StandaloneVm, None)).unwrap();
    let uuid = rig.snapshot().model.vm_named("a").unwrap().uuid;
    rig.commit(move |state| property::set(state, uuid, "template_for_dispvms", b"1")).unwrap();
    rig.commit(move |state| property::set(state, uuid, "default_dispvm", b"a")).unwrap();
    let row = rig.commit(move |state| remove::begin(state, uuid)).unwrap();
    rig.commit(move |_| Ok(remove::finish(&row))).unwrap();
    assert_eq!(rig.restart().snapshot().model.vm_count(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 50, ..ProptestConfig::default() })]

    #[test]
    fn random_changes_keep_model_indexes_store_and_oracle_in_agreement(
        ops in proptest::collection::vec(op(), 1..60),
    ) {
        let mut all = vec![
            Op::Create { name: 0, class: VmClass::TemplateVm, template: None },
            Op::Create { name: 1, class: VmClass::AppVm, template: Some(0) },
            Op::Create { name: 2, class: VmClass::AppVm, template: Some(0) },
            Op::Set { name: 1, property: "provides_network", value: "1".to_owned() },
            Op::Set { name: 2, property: "provides_network", value: "1".to_owned() },
        ];
        all.extend(ops);
        play(all);
    }
}
