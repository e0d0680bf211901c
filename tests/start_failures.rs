//! Starts that do not come to their end: what is told, what is left, and what of it is kept.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use mgmt_tests::scene::{
    create, files, in_background, left_over, names, pool, start, state, template, until,
};
use mgmt_tests::{Daemon, Start};

#[test]
fn a_start_that_fails_leaves_nothing_and_says_which_step_and_why() {
    for (step, kind, class) in [
        ("create", "backend", "QubesException"),
        ("create", "no-memory", "QubesMemoryError"),
        ("unpause", "backend", "QubesException"),
    ] {
        let script = format!(
            "[[rule]]\nstep = '{step}'\ntimes = 1\nfail = {{ kind = '{kind}', text = 'the telling line' }}\n"
        );
        let daemon = Start::new().script(&script).start();
        template(&daemon);
        create(&daemon, "work");
        let before = files(&pool(&daemon));
        let mut events = daemon.socket().events("work");
        let (got, text) = daemon.call("mgmt.vm.Start", "work", "", b"").exception();
        assert_eq!(got, class, "{text}");
        assert!(text.contains("the telling line") && text.contains("work"), "{text}");
        assert_eq!(state(&daemon, "work"), "Halted");
        assert_eq!(files(&pool(&daemon)), before, "{step}");
        let told = events.until("work domain-start-failed");
        assert!(told.last().unwrap().contains("the telling line"), "{told:?}");
        // The cause is gone: it starts.
        start(&daemon, "work");
        assert_eq!(state(&daemon, "work"), "Running");
    }
}

#[test]
fn a_missing_disk_or_kernel_is_named_and_nothing_is_left() {
    let daemon = Daemon::start();
    template(&daemon);
    create(&daemon, "work");
    let root = pool(&daemon).join("vm-templates/base/root.img");
    let aside = daemon.dir().join("root.img");
    std::fs::rename(&root, &aside).unwrap();
    let (class, text) = daemon.call("mgmt.vm.Start", "work", "", b"").exception();
    assert_eq!(class, "StoragePoolException");
    assert!(text.contains("root.img"), "{text}");
    assert_eq!((state(&daemon, "work"), left_over(&daemon)), ("Halted".into(), Vec::new()));
    std::fs::rename(&aside, &root).unwrap();

    let kernel = daemon.state().join("vm-kernels/6.1");
    std::fs::create_dir(&kernel).unwrap();
    std::fs::write(kernel.join("vmlinuz"), b"kernel").unwrap();
    assert_eq!(daemon.call("mgmt.vm.property.Set", "work", "kernel", b"6.1").ok(), "");
    std::fs::remove_file(kernel.join("vmlinuz")).unwrap();
    let (class, text) = daemon.call("mgmt.vm.Start", "work", "", b"").exception();
    assert_eq!(class, "StoragePoolException");
    assert!(text.contains("6.1"), "{text}");
    assert_eq!((state(&daemon, "work"), left_over(&daemon)), ("Halted".into(), Vec::new()));
    std::fs::write(kernel.join("vmlinuz"), b"kernel").unwrap();
    start(&daemon, "work");
}

/// A kernel of that name, which is one as far as anybody looks.
fn kernel(daemon: &Daemon, name: &str) -> PathBuf {
    let folder = daemon.state().join("vm-kernels").join(name);
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("vmlinuz"), b"kernel").unwrap();
    folder
}

fn not_started(daemon: &Daemon, vm: &str, words: &str) {
    let (class, text) = daemon.call("mgmt.vm.Start", vm, "", b"").exception();
    assert!(text.contains(words), "{vm}: {class} {text}");
    assert_eq!((state(daemon, vm), left_over(daemon)), ("Halted".into(), Vec::new()));
}

fn removed(daemon: &Daemon, vm: &str) {
    assert_eq!(daemon.call("mgmt.vm.Remove", vm, "", b"").ok(), "");
    assert!(!names(daemon).contains(&vm.to_owned()) && !pool(daemon).join("appvms").join(vm).exists());
}

#[test]
fn a_vm_whose_kernel_or_template_is_gone_is_told_which_and_can_be_removed() {
    let daemon = Daemon::start();
    template(&daemon);
    let before = files(&pool(&daemon));
    for vm in ["own", "follows", "runs", "volume", "row"] {
        create(&daemon, vm);
    }
    let (own, default) = (kernel(&daemon, "6.1"), kernel(&daemon, "6.2"));
    for vm in ["own", "runs"] {
        assert_eq!(daemon.call("mgmt.vm.property.Set", vm, "kernel", b"6.1").ok(), "");
    }
    assert_eq!(daemon.call("mgmt.property.Set", "dom0", "default_kernel", b"6.2").ok(), "");
    start(&daemon, "runs");
    for folder in [own, default] {
        std::fs::remove_dir_all(folder).unwrap();
    }
    assert_eq!(daemon.call("mgmt.vm.Kill", "runs", "", b"").ok(), "");
    for (vm, kernel) in [("own", "6.1"), ("runs", "6.1"), ("follows", "6.2")] {
        not_started(&daemon, vm, kernel);
        removed(&daemon, vm);
    }
    assert_eq!(daemon.call("mgmt.property.Set", "dom0", "default_kernel", b"").ok(), "");

    let root = pool(&daemon).join("vm-templates/base/root.img");
    let aside = daemon.dir().join("root.img");
    std::fs::rename(&root, &aside).unwrap();
    not_started(&daemon, "volume", root.to_str().unwrap());
    removed(&daemon, "volume");
    std::fs::rename(&aside, &root).unwrap();

    let daemon = daemon.kill_and_restart_edited(|state| {
        let db = rusqlite::Connection::open(state.join("state.db")).unwrap();
        db.execute("UPDATE vm SET class = 'CloudVM' WHERE name = 'base'", []).unwrap();
    });
    not_started(&daemon, "row", "CloudVM");
    removed(&daemon, "row");
    assert_eq!(files(&pool(&daemon)), before, "and the template's own are untouched");
}

const CALLED_OFF: &str = "Operation on 'work' cancelled: it was killed, or its domain ended, meanwhile";

#[test]
fn kill_does_not_wait_for_a_start_that_hangs_and_it_is_told_alike_whatever_it_was_at() {
    let hangs = |step: &str| format!("[[rule]]\nvm = 'work'\nstep = '{step}'\nhang = true\n");
    for (script, netvm, at) in [
        (hangs("create"), false, "work domain-pre-spawn"),
        (hangs("unpause"), false, "work domain-pre-unpaused"),
        (hangs("create").replace("work", "net"), true, "work domain-verify-files"),
    ] {
        let daemon = Start::new().script(&script).start();
        template(&daemon);
        create(&daemon, "work");
        if netvm {
            create(&daemon, "net");
            assert_eq!(daemon.call("mgmt.vm.property.Set", "net", "provides_network", b"True").ok(), "");
            assert_eq!(daemon.call("mgmt.vm.property.Set", "work", "netvm", b"net").ok(), "");
        }
        let mut events = daemon.socket().events("work");
        let starting = in_background(&daemon, "mgmt.vm.Start", "work", "", b"");
        events.until(at);
        assert_eq!(state(&daemon, "work"), "Transient");
        assert_eq!(daemon.call("mgmt.vm.Kill", "work", "", b"").ok(), "");
        let (class, text) = starting.join().unwrap().exception();
        assert_eq!((class.as_str(), text.as_str()), ("QubesException", CALLED_OFF), "{at}");
        assert_eq!(state(&daemon, "work"), "Halted");
        if netvm {
            assert_eq!(state(&daemon, "net"), "Transient", "it is nobody else's to end");
            assert_eq!(daemon.call("mgmt.vm.Kill", "net", "", b"").ok(), "");
        }
        assert_eq!(left_over(&daemon), Vec::<String>::new(), "{at}");
        let daemon = daemon.kill_and_restart_as(Start::new());
        start(&daemon, "work");
    }
}

/// Until the unpause nothing can have been written; from then on the guest may have run, whatever came of the call.
#[test]
fn what_a_guest_may_have_written_before_its_start_was_called_off_is_kept() {
    for (step, at, kept) in
        [("create", "work domain-pre-spawn", false), ("unpause", "work domain-pre-unpaused", true)]
    {
        let hangs = format!("[[rule]]\nvm = 'work'\nstep = '{step}'\nhang = true\n");
        let daemon = Start::new().script(&hangs).start();
        template(&daemon);
        create(&daemon, "work");
        let volume = |verb: &str, payload: &[u8]| {
            daemon.call(&format!("mgmt.vm.volume.{verb}"), "work", "private", payload).ok()
        };
        let first = |path: &Path| {
            let mut first = [0; 3];
            std::fs::File::open(path).unwrap().read_exact_at(&mut first, 0).unwrap();
            first
        };
        assert_eq!(volume("Set.revisions_to_keep", b"2"), "");
        assert_eq!(volume("ImportWithSize", b"3\nold"), "");
        let revisions = volume("ListSnapshots", b"");
        let image = pool(&daemon).join("appvms/work/private.img");
        let mut events = daemon.socket().events("work");
        let starting = in_background(&daemon, "mgmt.vm.Start", "work", "", b"");
        events.until(at);
        if kept {
            let file = std::fs::File::options().write(true).open(image.with_file_name("private-dirty.img"));
            file.unwrap().write_all_at(b"new", 0).unwrap();
        }
        assert_eq!(daemon.call("mgmt.vm.Kill", "work", "", b"").ok(), "");
        assert_eq!(starting.join().unwrap().exception().1, CALLED_OFF);
        assert_eq!((state(&daemon, "work"), left_over(&daemon)), ("Halted".into(), Vec::new()), "{step}");
        let now = volume("ListSnapshots", b"");
        if kept {
            assert_eq!(&first(&image), b"new");
            let more = now.strip_prefix(&revisions).unwrap().trim_end();
            assert_eq!(volume("Revert", more.as_bytes()), "");
            assert_eq!(&first(&image), b"old", "the state before is a revision");
        } else {
            assert_eq!((&first(&image), now), (b"old", revisions), "nothing has changed");
        }
    }
}

#[test]
fn a_daemon_killed_in_the_middle_of_a_start_leaves_a_halted_vm_and_nothing_else() {
    let daemon = Start::new().script("[[rule]]\nstep = 'create'\ntimes = 1\ndelay_ms = 600000\n").start();
    template(&daemon);
    create(&daemon, "work");
    let before = files(&pool(&daemon));
    let mut events = daemon.socket().events("work");
    let socket = daemon.socket().clone();
    let starting = std::thread::spawn(move || {
        let mut stream = socket.connect();
        stream.write_all(b"mgmt.vm.Start+ dom0 name work\0").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // The daemon dies while it is at it.
        drop(stream.read_to_end(&mut answer));
        answer
    });
    events.until("work domain-pre-spawn");
    let daemon = daemon.kill_and_restart_as(Start::new());
    assert_eq!(starting.join().unwrap(), b"");
    assert_eq!(state(&daemon, "work"), "Halted");
    until("its volumes are at rest", || files(&pool(&daemon)) == before);
    start(&daemon, "work");
}
