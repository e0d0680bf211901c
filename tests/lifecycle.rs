//! The life of VMs through the socket: the real daemon on the simulator, with real storage.

use std::io::{Read, Write};
use std::path::Path;

use mgmt_tests::scene::{create, files, in_background, left_over, pool, start, state, template, until};
use mgmt_tests::{Answer, Daemon, Start};

#[test]
fn a_slow_start_delays_no_read_and_no_other_start() {
    let script = "[[rule]]\nvm = 'slow'\nstep = 'create'\ndelay_ms = 2000\n";
    let daemon = Start::new().script(script).start();
    template(&daemon);
    create(&daemon, "slow");
    create(&daemon, "quick");
    let mut events = daemon.socket().events("dom0");
    let slow = in_background(&daemon, "mgmt.vm.Start", "slow", "", b"");
    events.until("slow domain-pre-spawn");
    assert_eq!(state(&daemon, "slow"), "Transient");
    assert_eq!(daemon.call("mgmt.vm.property.Get", "slow", "memory", b"").ok(), "default=yes 400");
    assert_eq!(daemon.call("mgmt.vm.property.Set", "slow", "memory", b"300").ok(), "");
    start(&daemon, "quick");
    assert!(!slow.is_finished(), "the slow start ended before the quick one");
    assert_eq!(slow.join().unwrap().ok(), "");
    let order = events.until("slow domain-start ");
    assert!(order.iter().any(|event| event.starts_with("quick domain-start ")), "{order:?}");
}

#[test]
fn a_start_and_its_end_are_told_in_the_order_of_the_document() {
    let daemon = Daemon::start();
    template(&daemon);
    create(&daemon, "work");
    let mut events = daemon.socket().events("work");
    start(&daemon, "work");
    assert_eq!(
        events.until("work domain-start "),
        [
            "work domain-pre-start start_guid=True mem_required=None",
            "work domain-verify-files",
            "work domain-pre-spawn start_guid=True",
            "work property-reset:xid name=xid",
            "work property-reset:stubdom_xid name=stubdom_xid",
            "work property-reset:start_time name=start_time",
            "work domain-spawn start_guid=True",
            "work domain-qdb-create",
            "work domain-pre-unpaused",
            "work domain-unpaused",
            "work domain-start start_guid=True",
        ]
    );
    assert_eq!(daemon.call("admin.vm.Pause", "work", "", b"").ok(), "");
    assert_eq!(daemon.call("admin.vm.Unpause", "work", "", b"").ok(), "");
    assert_eq!(daemon.call("admin.vm.Shutdown", "work", "wait", b"").ok(), "");
    assert_eq!(
        events.until("work domain-shutdown"),
        [
            "work domain-pre-paused",
            "work domain-paused",
            "work domain-pre-unpaused",
            "work domain-unpaused",
            "work domain-pre-shutdown force=False",
            "work domain-stopped",
            "work property-reset:xid name=xid",
            "work property-reset:stubdom_xid name=stubdom_xid",
            "work property-reset:start_time name=start_time",
            "work domain-shutdown",
        ]
    );
}

#[test]
fn creation_and_removal_are_told() {
    let daemon = Daemon::start();
    let mut events = daemon.socket().events("dom0");
    template(&daemon);
    create(&daemon, "work");
    assert_eq!(daemon.call("mgmt.vm.Remove", "work", "", b"").ok(), "");
    assert_eq!(
        events.until("- domain-delete"),
        [
            "- domain-add vm=base",
            "base domain-tag-add:created-by-dom0 tag=created-by-dom0",
            "base domain-create-on-disk",
            "- domain-add vm=work",
            "work domain-tag-add:created-by-dom0 tag=created-by-dom0",
            "work domain-create-on-disk",
            "- domain-pre-delete vm=work",
            "- domain-delete vm=work",
        ]
    );
}

#[test]
fn a_guest_that_does_not_answer_keeps_running_and_can_be_killed() {
    let daemon = Start::new().script("[[rule]]\nstep = 'shutdown'\ndeaf = true\n").start();
    template(&daemon);
    create(&daemon, "work");
    start(&daemon, "work");
    for _ in 0..20 {
        assert_eq!(daemon.call("mgmt.vm.Shutdown", "work", "", b"").ok(), "");
    }
    assert_eq!(state(&daemon, "work"), "Running");
    assert_eq!(daemon.call("mgmt.vm.Kill", "work", "", b"").ok(), "");
    assert_eq!((state(&daemon, "work"), left_over(&daemon)), ("Halted".into(), Vec::new()));
}

#[test]
fn a_second_start_joins_the_first() {
    let daemon = Start::new().script("[[rule]]\nstep = 'create'\ndelay_ms = 700\n").start();
    template(&daemon);
    create(&daemon, "work");
    let mut events = daemon.socket().events("work");
    let starts = [(); 4].map(|()| in_background(&daemon, "mgmt.vm.Start", "work", "", b""));
    for start in starts {
        assert_eq!(start.join().unwrap().ok(), "");
    }
    assert_eq!(daemon.call("mgmt.vm.Kill", "work", "", b"").ok(), "");
    let told = events.until("work domain-shutdown");
    let built = told.iter().filter(|event| event.starts_with("work domain-spawn")).count();
    assert_eq!(built, 1, "{told:?}");
}

#[test]
fn a_guest_that_ends_by_itself_is_noticed_and_cleaned_up_after() {
    for (how, text) in [("poweroff", "p"), ("reboot", "r"), ("crash", "c")] {
        let script = format!(
            "[[rule]]\nstep = 'unpause'\n{how}_after_ms = 200\n\
             [[rule]]\nstep = 'unpause'\nwrite = {{ vdev = 'xvdb', offset = 0, text = '{text}-private' }}\n\
             [[rule]]\nstep = 'unpause'\nwrite = {{ vdev = 'xvda', offset = 0, text = '{text}-root' }}\n"
        );
        let daemon = Start::new().script(&script).start();
        template(&daemon);
        create(&daemon, "work");
        let mut events = daemon.socket().events("work");
        start(&daemon, "work");
        events.until("work domain-shutdown");
        assert_eq!((state(&daemon, "work"), left_over(&daemon)), ("Halted".into(), Vec::new()));
        let read = |name: &str| {
            let mut bytes = [0; 9];
            std::fs::File::open(pool(&daemon).join(name)).unwrap().read_exact(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        assert_eq!(read("appvms/work/private.img"), format!("{text}-private"), "committed");
        assert_eq!(read("vm-templates/base/root.img"), "a root im", "the template is untouched");
    }
}

#[test]
fn running_vms_outlive_the_daemon_and_are_adopted() {
    let daemon = Daemon::start();
    template(&daemon);
    for name in ["runs", "paused", "halted"] {
        create(&daemon, name);
    }
    start(&daemon, "runs");
    start(&daemon, "paused");
    let disk = daemon.dir().join("disk.img");
    std::fs::write(&disk, [0; 4096]).unwrap();
    let device = format!("dom0+{}", disk.display());
    assert_eq!(daemon.call("mgmt.vm.device.block.Attach", "runs", &device, b"").ok(), "");
    assert_eq!(daemon.call("mgmt.vm.Pause", "paused", "", b"").ok(), "");
    let xid = daemon.call("mgmt.vm.property.Get", "runs", "xid", b"").ok();

    let daemon = daemon.kill_and_restart();
    assert_eq!(state(&daemon, "runs"), "Running");
    assert_eq!(state(&daemon, "paused"), "Paused");
    assert_eq!(state(&daemon, "halted"), "Halted");
    assert_eq!(daemon.call("mgmt.vm.property.Get", "runs", "xid", b"").ok(), xid);
    assert_eq!(daemon.call("mgmt.vm.device.block.List", "runs", "", b"").ok(), format!("{device}\n"));
    let (class, _) = daemon.call("mgmt.vm.device.block.Attach", "paused", &device, b"").exception();
    assert_eq!(class, "DeviceAlreadyAttached", "the claim was adopted too");
    assert_eq!(daemon.call("mgmt.vm.Unpause", "paused", "", b"").ok(), "");
    assert_eq!(daemon.call("admin.vm.Shutdown", "runs", "wait", b"").ok(), "");
    assert_eq!(daemon.call("mgmt.vm.Kill", "paused", "", b"").ok(), "");
    assert_eq!(left_over(&daemon), Vec::<String>::new());
}

#[test]
fn a_guest_that_ended_while_no_daemon_ran_is_found_halted_with_its_data() {
    let script = "[[rule]]\nstep = 'unpause'\ntimes = 1\npoweroff_after_ms = 1500\n\
                  [[rule]]\nstep = 'unpause'\nwrite = { vdev = 'xvdb', offset = 0, text = 'kept' }\n";
    let daemon = Start::new().script(script).start();
    template(&daemon);
    create(&daemon, "work");
    start(&daemon, "work");
    let daemon = daemon.kill_and_restart();
    until("the guest's end is noticed", || state(&daemon, "work") == "Halted");
    until("its volumes are at rest", || left_over(&daemon).is_empty());
    let private = std::fs::read(pool(&daemon).join("appvms/work/private.img")).unwrap();
    assert!(private.starts_with(b"kept"));
}

#[test]
fn right_after_ready_every_answer_is_of_the_last_run_though_volumes_are_still_put_to_rest() {
    const VMS: usize = 24;
    let write = |vdev: &str, text: &str| {
        format!("[[rule]]\nstep = 'unpause'\nwrite = {{ vdev = '{vdev}', offset = 0, text = '{text}' }}\n")
    };
    let daemon = Start::new().script(&(write("xvda", "new-root") + &write("xvdb", "new-private"))).start();
    template(&daemon);
    let names: Vec<String> = (0..VMS).map(|n| format!("vm{n}")).collect();
    for name in &names {
        create(&daemon, name);
    }
    for name in names.iter().map(String::as_str).chain(["base"]) {
        start(&daemon, name);
    }
    // The host is started anew: no domain is left, and every volume is as the power cut left it.
    std::fs::remove_dir_all(daemon.state().join("sim")).unwrap();
    let daemon = daemon.kill_and_restart_as(Start::new());
    let socket = daemon.socket().clone();
    let began: Vec<_> = names
        .iter()
        .rev()
        .enumerate()
        .map(|(n, name)| {
            let (socket, name) = (socket.clone(), name.clone());
            std::thread::spawn(move || {
                let state = socket.call("mgmt.vm.CurrentState", &name, "", b"").ok();
                let method = if n % 3 == 0 { "mgmt.vm.Remove" } else { "mgmt.vm.Start" };
                (state, socket.call(method, &name, "", b"").ok())
            })
        })
        .collect();
    for began in began {
        let (state, done) = began.join().unwrap();
        assert_eq!(done, "");
        assert_eq!(state, "mem=0 mem_static_max=0 cputime=0 power_state=Halted");
    }
    let head = |path: &Path, length: usize| {
        let mut bytes = vec![0; length];
        std::fs::File::open(path).unwrap().read_exact(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    for (n, name) in names.iter().rev().enumerate() {
        let folder = pool(&daemon).join("appvms").join(name);
        if n % 3 == 0 {
            assert!(!folder.exists(), "{name}");
            continue;
        }
        let running: Vec<_> = files(&folder).into_iter().filter(|name| name.contains("dirty")).collect();
        let root = running.iter().find(|file| file.starts_with("root")).unwrap();
        assert_eq!(head(&folder.join(root), 8), "new-root", "{name} has the template's last state");
        assert_eq!(daemon.call("mgmt.vm.Kill", name, "", b"").ok(), "");
        assert_eq!(head(&folder.join("private.img"), 11), "new-private", "{name} has its own");
    }
    until("all is at rest", || left_over(&daemon).is_empty());
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill() {
    let daemon = Daemon::start();
    template(&daemon);
    create(&daemon, "work");
    assert_eq!(daemon.call("mgmt.vm.property.Set", "work", "memory", b"512").ok(), "");
    assert_eq!(daemon.call("mgmt.vm.property.Set", "work", "label", b"blue").ok(), "");
    let list = daemon.call("admin.vm.List", "dom0", "", b"").ok();
    let daemon = daemon.kill_and_restart();
    assert_eq!(daemon.call("admin.vm.List", "dom0", "", b"").ok(), list);
    assert_eq!(daemon.call("mgmt.vm.property.Get", "work", "memory", b"").ok(), "default=no 512");
    assert_eq!(daemon.call("mgmt.vm.property.Get", "work", "label", b"").ok(), "default=no blue");
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn an_upload_that_breaks_off_leaves_nothing() {
    let daemon = Daemon::start();
    let before = files(&pool(&daemon));
    let mut stream = daemon.socket().connect();
    stream.write_all(b"mgmt.vm.CreateTemplate+gone dom0 name dom0\0").unwrap();
    stream.write_all(&vec![1; 3 << 20]).unwrap();
    until("the upload is under way", || files(&pool(&daemon)) != before);
    let (class, _) = daemon.call("mgmt.vm.CreateTemplate", "dom0", "gone", b"x").exception();
    assert_eq!(class, "QubesVMAlreadyExistsError", "the name is reserved");
    drop(stream);
    until("nothing is left", || files(&pool(&daemon)) == before);
    until("the name is free", || {
        daemon.call("mgmt.vm.CreateTemplate", "dom0", "gone", b"x").0.starts_with(b"0")
    });
}

#[test]
fn an_upload_that_the_daemon_did_not_survive_leaves_nothing() {
    let daemon = Daemon::start();
    let before = files(&pool(&daemon));
    let mut stream = daemon.socket().connect();
    stream.write_all(b"mgmt.vm.CreateTemplate+gone dom0 name dom0\0").unwrap();
    stream.write_all(&vec![1; 3 << 20]).unwrap();
    until("the upload is under way", || files(&pool(&daemon)) != before);
    let daemon = daemon.kill_and_restart();
    until("nothing is left", || files(&pool(&daemon)) == before);
    until("the name is free", || {
        daemon.call("mgmt.vm.CreateTemplate", "dom0", "gone", b"x").0.starts_with(b"0")
    });
}

#[test]
fn a_removed_vm_leaves_no_file() {
    let daemon = Daemon::start();
    template(&daemon);
    let before = files(&pool(&daemon));
    create(&daemon, "work");
    start(&daemon, "work");
    assert_eq!(daemon.call("mgmt.vm.Kill", "work", "", b"").ok(), "");
    assert_eq!(daemon.call("mgmt.vm.Remove", "work", "", b"").ok(), "");
    assert_eq!(files(&pool(&daemon)), before);
    assert!(!pool(&daemon).join("appvms/work").exists());
    create(&daemon, "work");
}

#[test]
fn a_disk_is_one_vms_at_a_time() {
    let daemon = Daemon::start();
    template(&daemon);
    for name in ["one", "two"] {
        create(&daemon, name);
        start(&daemon, name);
    }
    let disk = daemon.dir().join("a disk, with 100%.img");
    std::fs::write(&disk, [0; 4096]).unwrap();
    let link = daemon.dir().join("link.img");
    std::fs::hard_link(&disk, &link).unwrap();
    let dir = daemon.dir().display().to_string();
    let device = format!("dom0+{dir}/a%20disk%2C%20with%20100%25.img");
    let attach = |vm: &str, device: &str| daemon.call("mgmt.vm.device.block.Attach", vm, device, b"");
    assert_eq!(attach("one", &device).ok(), "");
    assert_eq!(daemon.call("mgmt.vm.device.block.List", "one", "", b"").ok(), format!("{device}\n"));
    for (vm, device) in [("one", &device), ("two", &device), ("two", &format!("dom0+{dir}/link.img"))] {
        assert_eq!(attach(vm, device).exception().0, "DeviceAlreadyAttached");
    }
    // A volume of any VM, and the daemon's own files, are no disks to attach.
    let own = files(&daemon.state()).into_iter().map(|name| daemon.state().join(name));
    for file in own.filter(|path| path.to_str().is_some_and(|path| !path.contains(['@', '~']))) {
        let (class, text) = attach("two", &format!("dom0+{}", file.display())).exception();
        let expected = format!("Cannot attach ambiguous block device. {}: it is a volume", file.display());
        assert!(class == "ProtocolError" && text.starts_with(&expected), "{class} {text}");
    }
    std::fs::write(daemon.dir().join("empty.img"), b"").unwrap();
    for (port, why) in [
        (format!("{dir}/nothing.img"), "it does not exist"),
        (format!("{dir}/empty.img"), "it is empty"),
        (dir.clone(), "it is neither a regular file nor a block device"),
        ("/proc/self/mem".to_owned(), "the kernel makes it up"),
        ("/sys/kernel/uevent_seqnum".to_owned(), "the kernel makes it up"),
    ] {
        let (class, text) = attach("two", &format!("dom0+{port}")).exception();
        let expected = format!("Cannot attach ambiguous block device. {port}: {why}");
        assert_eq!((class.as_str(), text.as_str()), ("ProtocolError", expected.as_str()));
    }
    assert_eq!(daemon.call("mgmt.vm.device.block.Detach", "one", &device, b"").ok(), "");
    assert_eq!(attach("two", &device).ok(), "");
    assert_eq!(daemon.call("mgmt.vm.Kill", "two", "", b"").ok(), "");
    assert_eq!(attach("one", &format!("dom0+{dir}/link.img")).ok(), "");
}

#[test]
fn everybody_but_dom0_is_refused_in_the_same_bytes() {
    let daemon = Daemon::start();
    template(&daemon);
    let refusal = Answer(b"2\0PermissionDenied\0\0Access denied\0".to_vec());
    for (method, destination) in [
        ("mgmt.vm.List", "dom0"),
        ("mgmt.vm.List", "ghost"),
        ("mgmt.vm.Ghost", "base"),
        ("admin.vm.Kill", "base"),
    ] {
        assert_eq!(daemon.socket().call_as("base", method, destination, "", b""), refusal, "{method}");
    }
}

#[test]
fn a_request_may_be_65536_bytes_long_and_no_longer() {
    let daemon = Daemon::start();
    let request = |length: usize| {
        let mut bytes = b"mgmt.vmclass.List+ dom0 name dom0\0".to_vec();
        bytes.resize(length, b'x');
        bytes
    };
    let (class, text) = daemon.socket().raw(&request(65536)).exception();
    assert_eq!((class.as_str(), text.as_str()), ("ProtocolError", "unexpected payload"));
    let (class, text) = daemon.socket().raw(&request(65537)).exception();
    assert_eq!(class, "ProtocolError");
    assert_eq!(text, "malformed request: more than 65536 bytes");
}

#[test]
fn a_second_daemon_on_the_same_state_is_refused_and_told_of_the_first() {
    let daemon = Daemon::start();
    let second = std::process::Command::new(mgmt_tests::binary("mgmtd"))
        .args(["--hypervisor", "sim", "--config"])
        .arg(daemon.dir().join("mgmtd.toml"))
        .arg("--state")
        .arg(daemon.state())
        .arg("--socket")
        .arg(daemon.dir().join("second.sock"))
        .output()
        .unwrap();
    assert!(!second.status.success());
    let words = String::from_utf8_lossy(&second.stderr);
    assert!(words.contains(&daemon.pid().to_string()), "{words}");
}

#[test]
fn twenty_lives_leak_no_file_and_no_descriptor() {
    let daemon = Daemon::start();
    template(&daemon);
    let life = |number: u32| {
        let name = format!("vm{number}");
        create(&daemon, &name);
        start(&daemon, &name);
        let end = if number.is_multiple_of(2) { ("mgmt.vm.Kill", "") } else { ("admin.vm.Shutdown", "wait") };
        assert_eq!(daemon.call(end.0, &name, end.1, b"").ok(), "");
        assert_eq!(daemon.call("mgmt.vm.Remove", &name, "", b"").ok(), "");
    };
    life(0);
    let (before, open) = (files(&daemon.state().join("varlibqubes")), daemon.open_files());
    (1..21).for_each(life);
    assert_eq!(files(&daemon.state().join("varlibqubes")), before);
    until("descriptors are as before", || daemon.open_files() <= open);
}
