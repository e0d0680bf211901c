//! What keeps references whole and refuses what is in use.

use std::sync::Arc;

use super::super::class::VmClass;
use super::super::global::Global;
use super::super::pending::{Pending, PendingKind, Reserved, StartPhase};
use super::super::refusal::{Owner, Refusal as R, User};
use super::super::snapshot::{Run, RunState};
use super::super::testing::{make, new_vm, reset, set, set_global, short, small_model, vm};
use super::super::value::{Shown, Value};
use super::super::write::Write;
use super::tests::{get_of, name, refused};
use super::*;
use crate::ids::DomId;

#[test]
fn a_kernel_must_be_installed_when_it_is_set() {
    let mut snapshot = small_model();
    let error = set(&mut snapshot, "work", "kernel", "5.0").unwrap_err();
    assert_eq!(error.refusal, R::KernelNotInstalled { kernel: "5.0".into() });
    assert_eq!(short(&error.pre_events), ["work pre-set:kernel 5.0 "]);
    assert_eq!(
        refused(&mut snapshot, "work", "kernel", "broken"),
        R::KernelWithoutImage { kernel: "broken".into() }
    );
    set(&mut snapshot, "work", "kernel", "6.1").unwrap();
    set(&mut snapshot, "work", "kernel", "").unwrap();
}

#[test]
fn a_netvm_must_provide_network_and_close_no_loop() {
    let mut snapshot = small_model();
    assert_eq!(
        refused(&mut snapshot, "work", "netvm", "debian"),
        R::ProvidesNoNetwork { netvm: name("debian") }
    );
    assert_eq!(refused(&mut snapshot, "work", "netvm", "dom0"), R::ProvidesNoNetwork { netvm: name("dom0") });
    assert_eq!(refused(&mut snapshot, "sys-net", "netvm", "sys-net"), R::NetworkLoop);
    set(&mut snapshot, "work", "provides_network", "1").unwrap();
    set(&mut snapshot, "work", "netvm", "sys-net").unwrap();
    assert_eq!(refused(&mut snapshot, "sys-net", "netvm", "work"), R::NetworkLoop);
    assert_eq!(
        refused(&mut snapshot, "sys-net", "provides_network", "off"),
        R::NetworkStillUsed { by: [name("work")].into() }
    );
    let vetoed = reset(&mut snapshot, "sys-net", "provides_network").unwrap_err();
    assert_eq!(vetoed.refusal, R::NetworkStillUsed { by: [name("work")].into() });
    assert_eq!(vetoed.pre_events.len(), 1);
}

#[test]
fn the_default_netvm_counts_for_loops_and_use() {
    let mut snapshot = small_model();
    set(&mut snapshot, "sys-net", "netvm", "").unwrap();
    let sys_net = vm(&snapshot, "sys-net").uuid;
    set_global(&mut snapshot, Global::DefaultNetvm, Value::Vm(Some(sys_net)));
    assert_eq!(get_of(&snapshot, "work", "netvm"), (Origin::Default, Shown::Vm(name("sys-net"))));
    assert_eq!(get_of(&snapshot, "debian", "netvm"), (Origin::Default, Shown::None), "templates have none");
    let clients: Vec<_> = snapshot.model.network_clients(sys_net).map(|vm| vm.name.to_string()).collect();
    assert_eq!(clients, ["work"]);
    assert!(matches!(
        refused(&mut snapshot, "sys-net", "provides_network", "no"),
        R::NetworkStillUsed { .. }
    ));
    set(&mut snapshot, "work", "provides_network", "yes").unwrap();
    assert_eq!(refused(&mut snapshot, "sys-net", "netvm", "work"), R::NetworkLoop);
    let vetoed = reset(&mut snapshot, "sys-net", "netvm").unwrap_err();
    assert_eq!(vetoed.refusal, R::NetworkLoop, "it would be its own netvm");
    assert_eq!(short(&vetoed.pre_events), ["sys-net pre-reset:netvm - None"]);
    set(&mut snapshot, "work", "netvm", "").unwrap();
    let events = reset(&mut snapshot, "work", "netvm").unwrap();
    assert_eq!(
        short(&events),
        [
            "work pre-reset:netvm - None",
            "work pre-set:netvm sys-net None",
            "work pre-del:netvm - None",
            "work set:netvm sys-net None",
            "work reset:netvm - None",
            "work del:netvm - None",
        ]
    );
}

#[test]
fn three_changes_of_netvms_one_after_the_other_cannot_close_a_loop() {
    let mut snapshot = small_model();
    for vm in ["a", "b", "c"] {
        make(&mut snapshot, &new_vm(vm, VmClass::AppVm, Some("debian")));
        set(&mut snapshot, vm, "provides_network", "1").unwrap();
    }
    set(&mut snapshot, "a", "netvm", "b").unwrap();
    set(&mut snapshot, "b", "netvm", "c").unwrap();
    assert_eq!(refused(&mut snapshot, "c", "netvm", "a"), R::NetworkLoop);
}

#[test]
fn a_running_vm_takes_a_running_netvm_only() {
    let mut snapshot = small_model();
    let (work, sys_net) = (vm(&snapshot, "work").uuid, vm(&snapshot, "sys-net").uuid);
    snapshot.cells.runs.insert(work, Run { state: RunState::Running, ..Run::registered() });
    let error = set(&mut snapshot, "work", "netvm", "sys-net").unwrap_err();
    assert_eq!(error.refusal, R::NetvmHalted { netvm: name("sys-net") });
    assert_eq!(error.pre_events.len(), 1);
    snapshot.cells.runs.insert(sys_net, Run { state: RunState::Running, ..Run::registered() });
    set(&mut snapshot, "work", "netvm", "sys-net").unwrap();
}

#[test]
fn a_template_is_changed_while_its_vm_is_halted_and_never_unset() {
    let mut snapshot = small_model();
    make(&mut snapshot, &new_vm("fedora", VmClass::TemplateVm, None));
    let work = vm(&snapshot, "work");
    assert_eq!(
        refused(&mut snapshot, "work", "template", "sys-net"),
        R::WrongClass { vm: name("sys-net"), class: VmClass::AppVm, expected: VmClass::TemplateVm }
    );
    assert_eq!(refused(&mut snapshot, "work", "template", ""), R::VmRequired { property: "template" });
    let unset = reset(&mut snapshot, "work", "template").unwrap_err();
    assert_eq!(unset.refusal, R::TemplateReset { default: None });
    assert_eq!(short(&unset.pre_events), ["work pre-reset:template - debian"]);
    set(&mut snapshot, "work", "template", "fedora").unwrap();
    assert_eq!(snapshot.model.template_of(&vm(&snapshot, "work")).unwrap().name, name("fedora"));

    let running = R::TemplateWhileRunning { vm: work.name.clone() };
    let start = Pending {
        id: snapshot.model.next_pending_id(),
        kind: PendingKind::Start(StartPhase::Building),
        vm: Reserved::of(&work),
        volumes: Vec::new(),
    };
    Write::BeginPending(Arc::new(start.clone())).apply(&mut snapshot.model).unwrap();
    assert_eq!(refused(&mut snapshot, "work", "template", "debian"), running, "a Start is pending");
    Write::FinishPending(start.id).apply(&mut snapshot.model).unwrap();
    let run = Run { domid: DomId::new(5), state: RunState::Paused, ..Run::registered() };
    snapshot.cells.runs.insert(work.uuid, run);
    assert_eq!(refused(&mut snapshot, "work", "template", "debian"), running);
    assert_eq!(get_of(&snapshot, "work", "xid").1, Shown::Int(5));
}

#[test]
fn snapshot_volumes_follow_their_source_to_its_pool() {
    let mut snapshot = small_model();
    let pool = super::super::pool::Pool {
        name: "fast".parse().unwrap(),
        driver: "file".into(),
        options: std::collections::BTreeMap::new(),
        position: 9,
    };
    Write::SetPool(Arc::new(pool)).apply(&mut snapshot.model).unwrap();
    let fast = super::super::create::NewVm {
        pools: super::super::create::Pools::All("fast".parse().unwrap()),
        ..new_vm("fedora", VmClass::TemplateVm, None)
    };
    make(&mut snapshot, &fast);
    set(&mut snapshot, "work", "template_for_dispvms", "1").unwrap();
    make(&mut snapshot, &new_vm("disp", VmClass::DispVm, Some("work")));
    set(&mut snapshot, "work", "template", "fedora").unwrap();
    let pools = |vm: &Vm| vm.volumes.iter().map(|v| v.pool.to_string()).collect::<Vec<_>>();
    assert_eq!(pools(&vm(&snapshot, "work")), ["fast", "varlibqubes", "varlibqubes", "linux-kernel"]);
    assert_eq!(pools(&vm(&snapshot, "disp")), ["fast", "varlibqubes", "varlibqubes", "linux-kernel"]);
    assert_eq!(snapshot.model, snapshot.model.reindexed());
}

#[test]
fn a_base_of_disposables_stays_one_while_it_is_used() {
    let mut snapshot = small_model();
    assert_eq!(
        refused(&mut snapshot, "work", "default_dispvm", "sys-net"),
        R::NotForDisposables {
            property: "default_dispvm",
            of: Owner::Vm(name("work")),
            target: name("sys-net")
        }
    );
    set(&mut snapshot, "sys-net", "template_for_dispvms", "1").unwrap();
    set(&mut snapshot, "work", "default_dispvm", "sys-net").unwrap();
    make(&mut snapshot, &new_vm("disp", VmClass::DispVm, Some("sys-net")));
    assert_eq!(get_of(&snapshot, "disp", "default_dispvm"), (Origin::Default, Shown::Vm(name("sys-net"))));
    let user = |vm: &str, property| User { owner: Owner::Vm(name(vm)), property };
    let used =
        R::DisposableTemplateOfVms { by: [user("work", "default_dispvm"), user("disp", "template")].into() };
    assert_eq!(refused(&mut snapshot, "sys-net", "template_for_dispvms", "0"), used);
    assert_eq!(reset(&mut snapshot, "sys-net", "template_for_dispvms").unwrap_err().refusal, used);
    let sys_net = vm(&snapshot, "sys-net").uuid;
    set_global(&mut snapshot, Global::DefaultDispvm, Value::Vm(Some(sys_net)));
    assert_eq!(
        refused(&mut snapshot, "sys-net", "template_for_dispvms", "0"),
        R::DisposableTemplateOfSystem { properties: vec!["default_dispvm"] }
    );
    assert_eq!(
        refused(&mut snapshot, "disp", "template", "work"),
        R::TemplateNotDisposable { template: name("work") }
    );
}

#[test]
fn the_bound_of_memory_is_fixed_while_a_vm_runs_unless_it_takes_memory_then() {
    let mut snapshot = small_model();
    let work = vm(&snapshot, "work");
    snapshot.cells.runs.insert(work.uuid, Run::registered());
    assert_eq!(refused(&mut snapshot, "work", "maxmem", "500"), R::NotHalted { vm: name("work") });
    Write::SetFeature(work.uuid, "memory-hotplug".parse().unwrap(), Some("1".parse().unwrap()))
        .apply(&mut snapshot.model)
        .unwrap();
    set(&mut snapshot, "work", "maxmem", "500").unwrap();
    set(&mut snapshot, "work", "memory", "500").unwrap();
    Write::SetFeature(work.uuid, "memory-hotplug".parse().unwrap(), None).apply(&mut snapshot.model).unwrap();
    set(&mut snapshot, "work", "maxmem", "500").unwrap();
    assert_eq!(refused(&mut snapshot, "work", "maxmem", "501"), R::NotHalted { vm: name("work") });
}
