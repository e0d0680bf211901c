//! Clones and disposables through the socket: the real daemon on the simulator, with real storage.

use std::io::Write;
use std::os::unix::fs::FileExt;

use mgmt_tests::scene::{create, files, left_over, names, pool, start, state, template, until};
use mgmt_tests::{Daemon, Start};

/// A template, and an AppVM `dvm` that allows disposables.
fn with_base(how: Start) -> Daemon {
    let daemon = how.start();
    template(&daemon);
    create(&daemon, "dvm");
    allow(&daemon);
    daemon
}

fn allow(daemon: &Daemon) {
    assert_eq!(daemon.call("mgmt.vm.property.Set", "dvm", "template_for_dispvms", b"True").ok(), "");
}

fn disposable(daemon: &Daemon) -> String {
    daemon.call("mgmt.vm.CreateDisposable", "dvm", "", b"").ok()
}

#[test]
fn a_disposable_is_told_of_from_its_creation_to_its_removal() {
    let daemon = with_base(Start::new());
    let before = files(&pool(&daemon));
    for (method, argument) in [("admin.vm.Shutdown", "wait"), ("mgmt.vm.Kill", "")] {
        let mut events = daemon.socket().events("dom0");
        let name = disposable(&daemon);
        let tag = |tag: &str| format!("{name} domain-tag-add:{tag} tag={tag}");
        assert_eq!(
            events.until(&format!("{name} domain-tag-add:disp-created-by-dom0")),
            [
                format!("- domain-add vm={name}"),
                format!("{name} domain-create-on-disk"),
                // `created-by-dom0` it has from its base.
                tag("disp-created-by-dom0"),
            ]
        );
        assert_eq!(daemon.call("mgmt.vm.property.Get", &name, "label", b"").ok(), "default=no red");
        assert_eq!(daemon.call("mgmt.vm.property.Get", &name, "auto_cleanup", b"").ok(), "default=no True");
        assert_eq!(state(&daemon, &name), "Halted");
        start(&daemon, &name);
        events.until(&format!("{name} domain-start "));
        assert_eq!(daemon.call(method, &name, argument, b"").ok(), "");
        assert_eq!(names(&daemon), ["dom0", "base", "dvm"], "gone when {method} is answered");
        let told = events.until("- domain-delete");
        assert_eq!(
            told[told.len() - 6..],
            [
                format!("{name} property-reset:xid name=xid"),
                format!("{name} property-reset:stubdom_xid name=stubdom_xid"),
                format!("{name} property-reset:start_time name=start_time"),
                format!("{name} domain-shutdown"),
                format!("- domain-pre-delete vm={name}"),
                format!("- domain-delete vm={name}"),
            ]
        );
        assert_eq!(files(&pool(&daemon)), before);
    }
}

#[test]
fn a_disposable_that_ends_by_itself_or_does_not_start_goes() {
    let script = "[[rule]]\nstep = 'create'\ntimes = 1\nfail = { kind = 'backend', text = 'no' }\n\
                  [[rule]]\nstep = 'unpause'\npoweroff_after_ms = 100\n";
    let daemon = with_base(Start::new().script(script));
    let before = files(&pool(&daemon));
    let fails = disposable(&daemon);
    assert_eq!(daemon.call("mgmt.vm.Start", &fails, "", b"").exception().0, "QubesException");
    assert_eq!(names(&daemon), ["dom0", "base", "dvm"], "gone when its Start is answered");
    let ends = disposable(&daemon);
    start(&daemon, &ends);
    until("it is gone", || names(&daemon) == ["dom0", "base", "dvm"]);
    until("its files are gone", || files(&pool(&daemon)) == before);
}

#[test]
fn a_disposable_that_was_never_started_or_still_runs_outlives_the_daemon() {
    let daemon = with_base(Start::new());
    let (halted, runs) = (disposable(&daemon), disposable(&daemon));
    start(&daemon, &runs);
    let daemon = daemon.kill_and_restart();
    assert_eq!((state(&daemon, &halted), state(&daemon, &runs)), ("Halted".into(), "Running".into()));
    // A VM that can be started is one whose recovery is over.
    start(&daemon, &halted);
    for name in [halted, runs] {
        assert_eq!(daemon.call("mgmt.vm.Kill", &name, "", b"").ok(), "");
    }
    assert_eq!(names(&daemon), ["dom0", "base", "dvm"]);
}

#[test]
fn a_disposable_that_ended_while_no_daemon_ran_goes_at_the_next_start() {
    let daemon = with_base(Start::new());
    let before = files(&pool(&daemon));
    let name = disposable(&daemon);
    start(&daemon, &name);
    let world = daemon.state().join("sim");
    let daemon = daemon.kill_and(|| std::fs::remove_dir_all(&world).unwrap());
    until("it is gone", || names(&daemon) == ["dom0", "base", "dvm"]);
    until("its files are gone", || files(&pool(&daemon)) == before);
}

#[test]
fn a_disposable_that_others_use_stays_until_they_do_not() {
    let daemon = with_base(Start::new());
    let name = disposable(&daemon);
    assert_eq!(daemon.call("mgmt.vm.property.Set", &name, "provides_network", b"True").ok(), "");
    assert_eq!(daemon.call("mgmt.vm.property.Set", "dvm", "netvm", name.as_bytes()).ok(), "");
    start(&daemon, &name);
    assert_eq!(daemon.call("mgmt.vm.Kill", &name, "", b"").ok(), "");
    assert_eq!(state(&daemon, &name), "Halted");
    let daemon = daemon.kill_and_restart();
    assert_eq!(daemon.call("mgmt.vm.property.Set", "dvm", "netvm", b"").ok(), "");
    let daemon = daemon.kill_and_restart();
    until("it is gone", || names(&daemon) == ["dom0", "base", "dvm"]);
}

#[test]
fn a_clone_has_the_last_committed_state_of_every_volume() {
    let script =
        "[[rule]]\nstep = 'unpause'\nvm = 'work'\nwrite = { vdev = 'xvdb', offset = 0, text = 'written' }\n";
    let daemon = Start::new().script(script).start();
    template(&daemon);
    create(&daemon, "work");
    let private = |name: &str| pool(&daemon).join(format!("appvms/{name}/private.img"));
    let file = std::fs::OpenOptions::new().write(true).open(private("work")).unwrap();
    file.write_all_at(b"before!", 0).unwrap();
    file.write_all_at(b"the end", 1 << 30).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let content = |name: &str| {
        let (mut start, mut end) = ([0; 7], [0; 7]);
        let file = std::fs::File::open(private(name)).unwrap();
        file.read_exact_at(&mut start, 0).unwrap();
        file.read_exact_at(&mut end, 1 << 30).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 2 << 30);
        [start, end].map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    };
    let clone =
        |of: &str, name: &str| daemon.call("mgmt.vm.Clone", of, "", format!("name={name}").as_bytes());
    let mut events = daemon.socket().events("dom0");
    assert_eq!(clone("work", "first").ok(), "");
    assert_eq!(
        events.until("first domain-create-on-disk"),
        [
            "- domain-add vm=first",
            "first domain-tag-add:created-by-dom0 tag=created-by-dom0",
            "first domain-clone-files src=work",
            "first domain-create-on-disk",
        ]
    );
    assert_eq!(content("first"), ["before!", "the end"]);
    {
        use std::os::unix::fs::MetadataExt;
        let blocks = std::fs::metadata(private("first")).unwrap().blocks();
        assert!(blocks * 512 < 64 << 20, "holes stay holes: {blocks} blocks");
    }
    start(&daemon, "work");
    let info = daemon.call("mgmt.pool.Info", "dom0", "varlibqubes", b"").ok();
    if info.contains("driver=file-reflink") {
        assert_eq!(clone("work", "second").ok(), "");
        assert_eq!(content("second"), ["before!", "the end"]);
    } else {
        let (class, text) = clone("work", "second").exception();
        assert_eq!(
            (class.as_str(), text.as_str()),
            ("QubesVMNotHaltedError", "Domain is not powered off: 'work'")
        );
        assert!(!pool(&daemon).join("appvms/second").exists());
    }
    assert_eq!(daemon.call("mgmt.vm.Kill", "work", "", b"").ok(), "");
    assert_eq!(clone("base", "base2").ok(), "");
    let root = std::fs::read(pool(&daemon).join("vm-templates/base2/root.img")).unwrap();
    assert!(root.starts_with(b"a root image"));
    assert_eq!(clone("work", "third").ok(), "");
    assert_eq!(content("third"), ["written", "the end"]);
    // The copy stands for itself.
    for name in ["work", "base2"] {
        assert_eq!(daemon.call("mgmt.vm.Remove", name, "", b"").ok(), "");
    }
    start(&daemon, "third");
    assert_eq!(state(&daemon, "third"), "Running");
}

#[test]
fn a_clone_runs_to_its_end_though_its_client_leaves() {
    let daemon = Daemon::start();
    template(&daemon);
    let mut stream = daemon.socket().connect();
    stream.write_all(b"mgmt.vm.Clone+ dom0 name base\0name=copy").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    drop(stream);
    until("the clone is there", || names(&daemon) == ["dom0", "base", "copy"]);
}

#[test]
fn a_clone_that_fails_leaves_nothing() {
    let daemon = Daemon::start();
    template(&daemon);
    create(&daemon, "work");
    let before = files(&pool(&daemon));
    let private = pool(&daemon).join("appvms/work/private.img");
    let aside = daemon.dir().join("private.img");
    std::fs::rename(&private, &aside).unwrap();
    let (class, text) = daemon.call("mgmt.vm.Clone", "work", "", b"name=copy").exception();
    assert!(class == "StoragePoolException" && text.contains("private.img"), "{class} {text}");
    std::fs::rename(&aside, &private).unwrap();
    // Something lies in the place of a volume: it is nobody's to remove.
    let foreign = pool(&daemon).join("appvms/copy");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("volatile.img"), b"mine").unwrap();
    let (class, _) = daemon.call("mgmt.vm.Clone", "work", "", b"name=copy").exception();
    assert_eq!(class, "StoragePoolException");
    assert_eq!(std::fs::read(foreign.join("volatile.img")).unwrap(), b"mine");
    std::fs::remove_dir_all(&foreign).unwrap();
    assert_eq!(files(&pool(&daemon)), before);
    assert_eq!(daemon.call("mgmt.vm.Clone", "work", "", b"name=copy").ok(), "");
    assert_eq!(left_over(&daemon), Vec::<String>::new());
}

#[test]
fn a_removal_waits_for_a_start() {
    let daemon = Start::new().script("[[rule]]\nstep = 'create'\ndelay_ms = 700\n").start();
    template(&daemon);
    create(&daemon, "work");
    let mut events = daemon.socket().events("work");
    let socket = daemon.socket().clone();
    let starting = std::thread::spawn(move || socket.call("mgmt.vm.Start", "work", "", b""));
    events.until("work domain-pre-spawn");
    let (class, _) = daemon.call("mgmt.vm.Remove", "work", "", b"").exception();
    assert_eq!(class, "QubesVMNotHaltedError");
    assert!(events.until("work domain-start ").len() > 1, "the removal was answered when the start was over");
    assert_eq!(starting.join().unwrap().ok(), "");
    assert_eq!(state(&daemon, "work"), "Running");
}

#[test]
fn a_volume_that_cannot_be_removed_goes_at_the_next_start() {
    let daemon = Daemon::start();
    template(&daemon);
    let before = files(&pool(&daemon));
    create(&daemon, "work");
    let dir = pool(&daemon).join("appvms/work");
    // A folder where a file should be cannot be removed as one.
    let image = dir.join("private.img");
    std::fs::remove_file(&image).unwrap();
    std::fs::create_dir(&image).unwrap();
    std::fs::write(image.join("x"), b"").unwrap();
    assert_eq!(daemon.call("mgmt.vm.Remove", "work", "", b"").ok(), "");
    assert_eq!(names(&daemon), ["dom0", "base"]);
    until("the log says so", || daemon.log().contains("a volume stays for now"));
    let (class, _) = daemon.call("mgmt.vm.Create.AppVM", "dom0", "base", b"name=work label=red").exception();
    assert_eq!(class, "QubesVMAlreadyExistsError", "its name is reserved");
    let daemon = daemon.kill_and(|| {
        std::fs::remove_dir_all(&image).unwrap();
        std::fs::write(&image, b"").unwrap();
    });
    until("its files are gone", || files(&pool(&daemon)) == before);
    until("its name is free", || {
        daemon.call("mgmt.vm.Create.AppVM", "dom0", "base", b"name=work label=red").0.starts_with(b"0")
    });
}

#[test]
fn the_command_line_clones_and_makes_disposables() {
    let daemon = with_base(Start::new());
    let mgmt = |arguments: &[&str]| {
        let run = std::process::Command::new(mgmt_tests::binary("mgmt"))
            .arg("--socket")
            .arg(daemon.socket().path())
            .args(arguments)
            .output()
            .unwrap();
        (run.status.code(), String::from_utf8(run.stdout).unwrap(), String::from_utf8(run.stderr).unwrap())
    };
    assert_eq!(mgmt(&["vm", "clone", "dvm", "copy"]), (Some(0), String::new(), String::new()));
    let (code, _, words) = mgmt(&["vm", "clone", "dvm", "copy"]);
    assert!(code == Some(1) && words.contains("Qube already exists: copy"), "{words}");
    let (code, name, _) = mgmt(&["vm", "create-disposable", "dvm"]);
    assert!(code == Some(0) && names(&daemon).contains(&name.trim_end().to_owned()), "{name}");
    let (code, _, words) = mgmt(&["vm", "create-disposable"]);
    assert!(code == Some(1) && words.contains("Refusing to create disposable"), "{words}");
    let far = ["vm", "create", "far", "--class", "RemoteVM", "--label", "red", "--pool", "varlibqubes"];
    assert_eq!(mgmt(&far).0, Some(0));
    assert_eq!(state(&daemon, "far"), "Running");
}
