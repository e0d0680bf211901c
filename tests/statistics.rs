//! Figures of what runs: `vm.Stats` and `vm.CurrentState` through the socket.

use std::io::Write;
use std::net::Shutdown;

use mgmt_tests::Daemon;

fn keys(event: &str) -> Vec<&str> {
    event.split(' ').skip(2).map(|pair| pair.split_once('=').unwrap().0).collect()
}

fn value<'a>(event: &'a str, key: &str) -> &'a str {
    event.split(' ').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')).unwrap()
}

#[test]
fn the_most_memory_of_a_run_is_what_it_was_started_with() {
    let daemon = Daemon::start();
    daemon.call("mgmt.vm.CreateTemplate", "dom0", "base", b"a root image").ok();
    daemon.call("mgmt.vm.Create.AppVM", "dom0", "base", b"name=work label=red").ok();
    // What it inherits may change while it runs.
    let set = |maxmem: &str| {
        daemon.call("mgmt.vm.property.Set", "base", "maxmem", maxmem.as_bytes()).ok();
    };
    let most = || {
        let state = daemon.call("mgmt.vm.CurrentState", "work", "", b"").ok();
        value(&state, "mem_static_max").to_owned()
    };
    set("1000");
    daemon.call("mgmt.vm.Start", "work", "", b"").ok();
    assert_eq!(most(), "1024000");
    set("2000");
    assert_eq!(most(), "1024000", "the next run's");
    daemon.call("mgmt.vm.Kill", "work", "", b"").ok();
    assert_eq!(most(), "0");
    daemon.call("mgmt.vm.Start", "work", "", b"").ok();
    assert_eq!(most(), "2048000");
}

#[test]
fn every_running_vm_is_told_of_again_and_again() {
    let daemon = Daemon::start();
    daemon.call("mgmt.vm.CreateTemplate", "dom0", "base", b"a root image").ok();
    for vm in ["work", "idle", "later"] {
        let payload = format!("name={vm} label=red");
        daemon.call("mgmt.vm.Create.AppVM", "dom0", "base", payload.as_bytes()).ok();
    }
    daemon.call("mgmt.vm.Start", "work", "", b"").ok();
    for method in ["mgmt.vm.Stats", "admin.vm.Stats"] {
        let mut stats = daemon.socket().stream(method, "dom0");
        // At once, and after the interval.
        for _ in 0..2 {
            let (dom0, work) = (stats.next(), stats.next());
            assert!(dom0.starts_with("dom0 vm-stats memory_kb="), "{dom0}");
            assert!(work.starts_with("work vm-stats memory_kb=409600 "), "{work}");
            let expected = [
                "memory_kb",
                "memory_assigned_total",
                "memory_assigned_usable",
                "memory_with_swap_used",
                "cpu_time",
                "cpu_usage",
                "online_vcpus",
            ];
            assert_eq!(keys(&work), expected);
            assert_eq!(keys(&dom0), expected);
            assert_eq!(value(&work, "online_vcpus"), "2");
            let usage: u32 = value(&work, "cpu_usage").parse().unwrap();
            assert!(usage <= 100, "{work}");
        }
    }
    // Of a VM that does not run there is nothing until it does.
    let mut later = daemon.socket().stream("mgmt.vm.Stats", "later");
    daemon.call("mgmt.vm.Start", "later", "", b"").ok();
    assert!(later.next().starts_with("later vm-stats "));
    assert!(later.next().starts_with("later vm-stats "));
    let absent = daemon.call("mgmt.vm.Stats", "nobody", "", b"").exception();
    assert_eq!(absent, ("QubesVMNotFoundError".into(), "No such domain: 'nobody'".into()));
    let unwanted = daemon.call("admin.vm.Stats", "dom0", "x", b"").exception();
    assert_eq!(unwanted, ("ProtocolError".into(), "unexpected argument".into()));
    let unwanted = daemon.call("admin.vm.Stats", "dom0", "", b"x").exception();
    assert_eq!(unwanted, ("ProtocolError".into(), "unexpected payload".into()));
}

#[test]
fn a_reader_that_leaves_is_forgotten_and_the_number_of_readers_is_bounded() {
    let daemon = mgmt_tests::Start::new().config("[limits]\nsubscribers = 2\n").start();
    let files = daemon.open_files();
    for _ in 0..5 {
        drop(daemon.socket().stream("mgmt.vm.Stats", "dom0"));
        // Its leaving is seen a moment later.
        for _ in 0..1000 {
            if daemon.open_files() <= files {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
    let _two =
        [daemon.socket().stream("mgmt.vm.Stats", "dom0"), daemon.socket().stream("admin.vm.Stats", "dom0")];
    let refused = daemon.call("mgmt.vm.Stats", "dom0", "", b"").exception();
    assert_eq!(refused, ("QubesException".into(), "limit reached: subscribers = 2".into()));
    // A stream is no reason to wait at the end.
    let mut open = daemon.socket().connect();
    open.write_all(b"mgmt.vm.Stats+ dom0 name dom0\0").unwrap();
    open.shutdown(Shutdown::Write).unwrap();
    assert_eq!(daemon.terminate(), Some(0));
}
