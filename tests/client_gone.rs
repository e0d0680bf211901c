//! Clients that close before they are answered. What bulk calls make of that is shown beside what they do (`copies`,
//! `volumes`, `lifecycle`): they are called off. Every other change is done to its end.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use mgmt_tests::scene::{files, in_background, names, state, template, until};
use mgmt_tests::{Daemon, Hooked};

/// A call, and how one sees that it was done.
struct Change {
    method: &'static str,
    of: &'static str,
    argument: &'static str,
    payload: &'static [u8],
    is_done: fn(&Hooked, &Daemon) -> bool,
}

impl Change {
    /// Makes it; the answer is never read.
    fn ask(&self, daemon: &Daemon) -> UnixStream {
        let Self { method, of, argument, payload, .. } = self;
        let mut stream = daemon.socket().connect();
        let request = [format!("{method}+{argument} dom0 name {of}\0").as_bytes(), payload].concat();
        stream.write_all(&request).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream
    }
}

/// The daemon has seen what came before when it has answered so many others.
fn let_it_see(daemon: &Daemon) {
    for _ in 0..20 {
        daemon.call("mgmt.vm.List", "dom0", "", b"").ok();
    }
}

fn private(daemon: &Daemon, key: &str) -> String {
    let facts = daemon.call("mgmt.vm.volume.Info", "work", "private", b"").ok();
    let line = facts.lines().find_map(|line| line.strip_prefix(&format!("{key}=")).map(str::to_owned));
    line.unwrap_or_else(|| panic!("no {key}: {facts}"))
}

fn content(hooked: &Hooked, vm: &str) -> Option<Vec<u8>> {
    std::fs::read(hooked.path().join("appvms").join(vm).join("private.img")).ok()
}

fn snapshots(daemon: &Daemon) -> String {
    daemon.call("mgmt.vm.volume.ListSnapshots", "work", "private", b"").ok()
}

const OLD: [u8; 4096] = [5; 4096];

/// Each with the hook that holds it up in its middle.
const HELD_UP: &[(&str, Change)] = &[
    (
        "pre_setup",
        Change {
            method: "mgmt.pool.Add",
            of: "dom0",
            argument: "callback",
            payload: b"name=hooked\nconf_id=c\n",
            is_done: |_, daemon| {
                daemon.call("mgmt.pool.List", "dom0", "", b"").ok().lines().any(|p| p == "hooked")
            },
        },
    ),
    (
        "pre_volume_create",
        Change {
            method: "mgmt.vm.CreateInPool.AppVM",
            of: "dom0",
            argument: "base",
            payload: b"name=work label=red pool:private=hooked",
            is_done: |_, daemon| names(daemon).contains(&"work".to_owned()),
        },
    ),
    (
        "pre_volume_start",
        Change {
            method: "mgmt.vm.Start",
            of: "work",
            argument: "",
            payload: b"",
            is_done: |_, daemon| state(daemon, "work") == "Running",
        },
    ),
    (
        "post_volume_stop",
        Change {
            method: "mgmt.vm.Kill",
            of: "work",
            argument: "",
            payload: b"",
            is_done: |_, daemon| {
                // It is halted before its volumes are at rest: those are waited for by whoever wants them.
                daemon.call("mgmt.vm.volume.Set.revisions_to_keep", "work", "private", b"2").ok();
                state(daemon, "work") == "Halted"
            },
        },
    ),
    (
        "pre_volume_resize",
        Change {
            method: "mgmt.vm.volume.Resize",
            of: "work",
            argument: "private",
            payload: b"3221225472",
            is_done: |_, daemon| private(daemon, "size") == "3221225472",
        },
    ),
    (
        "pre_volume_import",
        Change {
            method: "mgmt.vm.Clone",
            of: "work",
            argument: "",
            payload: b"name=copy",
            is_done: |_, daemon| names(daemon).contains(&"copy".to_owned()),
        },
    ),
];

#[test]
fn what_is_held_up_in_its_middle_is_done_to_its_end_though_its_client_is_gone() {
    let hooked = Hooked::new();
    let daemon = hooked.start("").start();
    template(&daemon);
    for (hook, change) in HELD_UP {
        println!("{}", change.method);
        let is_done = || (change.is_done)(&hooked, &daemon);
        hooked.hold(hook);
        let stream = change.ask(&daemon);
        hooked.wait_until_held();
        drop(stream);
        let_it_see(&daemon);
        assert!(*hook == "post_volume_stop" || !is_done(), "{}", change.method);
        hooked.release(hook);
        until(change.method, is_done);
    }
    // All of them left what can be used.
    for vm in ["work", "copy"] {
        assert_eq!(daemon.call("mgmt.vm.Start", vm, "", b"").ok(), "");
        assert_eq!(daemon.call("mgmt.vm.Kill", vm, "", b"").ok(), "");
        assert_eq!(daemon.call("mgmt.vm.Remove", vm, "", b"").ok(), "");
    }
    assert_eq!(files(&hooked.path()), Vec::<String>::new());
    assert_eq!(daemon.call("mgmt.pool.Remove", "dom0", "hooked", b"").ok(), "");
}

/// Each waits for its turn: another change of the same volume is held up.
const WAITING: &[Change] = &[
    Change {
        method: "mgmt.vm.volume.Snapshot",
        of: "work",
        argument: "private",
        payload: b"",
        is_done: |_, daemon| snapshots(daemon).lines().any(|id| id == "s2"),
    },
    Change {
        method: "mgmt.vm.volume.Revert",
        of: "work",
        argument: "private",
        payload: b"s1",
        is_done: |hooked, _| content(hooked, "work").is_some_and(|data| data == OLD),
    },
    Change {
        method: "mgmt.vm.volume.RemoveSnapshot",
        of: "work",
        argument: "private",
        payload: b"s1",
        is_done: |_, daemon| !snapshots(daemon).lines().any(|id| id == "s1"),
    },
    Change {
        method: "mgmt.vm.volume.Clear",
        of: "work",
        argument: "private",
        payload: b"",
        is_done: |hooked, _| content(hooked, "work").is_some_and(|data| data.iter().all(|byte| *byte == 0)),
    },
    Change {
        method: "mgmt.vm.Remove",
        of: "work",
        argument: "",
        payload: b"",
        is_done: |hooked, daemon| {
            !names(daemon).contains(&"work".to_owned()) && files(&hooked.path()).is_empty()
        },
    },
];

#[test]
fn what_waits_for_its_turn_is_done_though_its_client_is_gone() {
    const HOOK: &str = "pre_volume_resize";
    let hooked = Hooked::new();
    let daemon = hooked.start("").start();
    template(&daemon);
    hooked.add(&daemon);
    let payload = b"name=work label=red pool:private=hooked";
    assert_eq!(daemon.call("mgmt.vm.CreateInPool.AppVM", "dom0", "base", payload).ok(), "");
    let import = |data: &[u8]| {
        let payload = [format!("{}\n", data.len()).as_bytes(), data].concat();
        assert_eq!(daemon.call("mgmt.vm.volume.ImportWithSize", "work", "private", &payload).ok(), "");
    };
    import(&OLD);
    assert_eq!(daemon.call("mgmt.vm.volume.Snapshot", "work", "private", b"").ok(), "s1");
    import(&[6; 8192]);
    for change in WAITING {
        println!("{}", change.method);
        let is_done = || (change.is_done)(&hooked, &daemon);
        let size = private(&daemon, "size").parse::<u64>().unwrap() + 4096;
        hooked.hold(HOOK);
        let resize =
            in_background(&daemon, "mgmt.vm.volume.Resize", "work", "private", size.to_string().as_bytes());
        hooked.wait_until_held();
        let stream = change.ask(&daemon);
        let_it_see(&daemon);
        drop(stream);
        let_it_see(&daemon);
        assert!(!is_done(), "{}", change.method);
        hooked.release(HOOK);
        assert_eq!(resize.join().unwrap().ok(), "");
        until(change.method, is_done);
    }
    until("the pool is nobody's", || {
        daemon.call("mgmt.pool.Remove", "dom0", "hooked", b"").0.starts_with(b"0")
    });
}
