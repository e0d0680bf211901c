//! The daemon on a real Xen: each step of a VM's life through its socket, with `xl list` and the guest's console
//! agreeing.
//!
//! Runs in dom0: `MGMT_GUESTS` is the folder of the guests, `MGMT_BIN_DIR` that of the programs.

use std::thread::sleep;
use std::time::Duration;

use mgmt_tests::xen::{Host, guests, host_has, output, says, until, xl_state};

fn tiny_life(kind: &str) {
    let host = Host::new();
    host.template();
    let name = format!("whole-{kind}");
    host.tiny(&name, kind, "");
    host.is_gone(&name);
    let before = host_has();

    host.start(&name);
    says(&name, &format!("GUEST-UP name={name}"));
    assert_eq!(host.state(&name), "Running");
    let domid = output("xl", &["domid", &name]).trim().to_owned();
    assert_eq!(host.ok("mgmt.vm.property.Get", &name, "xid", ""), format!("default=yes {domid}"));
    assert!(xl_state(&name).is_some_and(|letters| !letters.contains(['p', 's', 'd'])));

    host.ok("mgmt.vm.Pause", &name, "", "");
    assert_eq!(host.state(&name), "Paused");
    assert!(xl_state(&name).is_some_and(|letters| letters.contains('p')));
    host.ok("mgmt.vm.Unpause", &name, "", "");
    assert_eq!(host.state(&name), "Running");
    assert!(xl_state(&name).is_some_and(|letters| !letters.contains('p')));

    // Somebody else's pause is seen too.
    output("xl", &["pause", &name]);
    until("the pause by xl is seen", || host.state(&name) == "Paused");
    output("xl", &["unpause", &name]);
    until("the unpause by xl is seen", || host.state(&name) == "Running");

    host.ok("mgmt.vm.Shutdown", &name, "", "");
    until("the guest shuts down", || host.state(&name) == "Halted");
    host.is_gone(&name);

    host.start(&name);
    host.ok("mgmt.vm.Pause", &name, "", "");
    host.ok("mgmt.vm.Kill", &name, "", "");
    host.is_gone(&name);
    assert_eq!(host_has(), before);
    host.ok("mgmt.vm.Remove", &name, "", "");
}

#[test]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
fn a_tiny_pv_guests_life_agrees_with_xl() {
    tiny_life("pv");
}

#[test]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
fn a_tiny_pvh_guests_life_agrees_with_xl() {
    tiny_life("pvh");
}

#[test]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
fn a_guest_that_ends_by_itself_is_noticed_and_cleaned_up_after() {
    let host = Host::new();
    host.template();
    let before = host_has();
    for how in ["poweroff", "reboot", "crash"] {
        let name = format!("own-{how}");
        host.tiny(&name, "pvh", &format!("tiny.after={how} tiny.delay_ms=2000"));
        let mut events = host.0.socket().events(&name);
        host.start(&name);
        let told = events.until(&format!("{name} domain-shutdown"));
        assert!(told.iter().any(|event| event.starts_with(&format!("{name} domain-start "))), "{told:?}");
        host.is_gone(&name);
    }
    // Destroyed behind our back.
    host.tiny("outside", "pv", "");
    let mut events = host.0.socket().events("outside");
    host.start("outside");
    output("xl", &["destroy", "outside"]);
    events.until("outside domain-shutdown");
    host.is_gone("outside");
    assert_eq!(host_has(), before);
}

#[test]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
fn a_deaf_guest_keeps_running_and_is_killed_at_once() {
    let host = Host::new();
    host.template();
    host.tiny("deaf", "pvh", "tiny.deaf");
    host.start("deaf");
    says("deaf", "GUEST-UP name=deaf");
    host.ok("mgmt.vm.Shutdown", "deaf", "", "");
    host.ok("mgmt.vm.Shutdown", "deaf", "", "");
    assert_eq!(host.state("deaf"), "Running");
    host.ok("mgmt.vm.Kill", "deaf", "", "");
    host.is_gone("deaf");
}

#[test]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
fn a_start_that_fails_says_why_and_leaves_nothing() {
    let host = Host::new();
    host.template();
    host.tiny("fails", "pvh", "");
    let before = host_has();
    let fails = |host: &Host| host.0.call("mgmt.vm.Start", "fails", "", b"").exception();

    let broken = host.0.state().join("vm-kernels/broken");
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("vmlinuz"), "this is no kernel").unwrap();
    host.set("fails", "kernel", "broken");
    let (class, text) = fails(&host);
    assert!(class == "QubesException" && text.contains("create domain"), "{class}: {text}");
    assert!(text.contains("no loader found") || text.contains("Invalid kernel"), "libxl's own words: {text}");
    host.is_gone("fails");

    host.set("fails", "kernel", "");
    let (_, text) = fails(&host);
    assert!(text.contains("'kernel'"), "{text}");

    host.set("fails", "kernel", "tiny-pvh");
    host.set("fails", "memory", "100000");
    let (class, text) = fails(&host);
    assert_eq!(class, "QubesMemoryError", "{text}");
    host.is_gone("fails");
    host.set("fails", "memory", "16");

    assert_eq!(host_has(), before);
    host.start("fails");
    says("fails", "GUEST-UP name=fails");
    host.ok("mgmt.vm.Kill", "fails", "", "");
    assert_eq!(host_has(), before);
}

#[test]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
fn a_kill_ends_a_start_that_is_under_way() {
    let host = Host::new();
    host.template();
    host.tiny("hasty", "pvh", "");
    let before = host_has();
    let mut cancelled = 0;
    for round in 0..6 {
        let mut events = host.0.socket().events("hasty");
        let socket = host.0.socket().clone();
        let starting = std::thread::spawn(move || socket.call("mgmt.vm.Start", "hasty", "", b""));
        events.until("hasty domain-pre-spawn");
        sleep(Duration::from_millis(150 * round));
        host.ok("mgmt.vm.Kill", "hasty", "", "");
        if starting.join().unwrap().0.starts_with(b"2\0") {
            cancelled += 1;
        }
        host.is_gone("hasty");
    }
    assert!(cancelled > 0, "no kill came while the start was under way");
    assert_eq!(host_has(), before);
}

#[test]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
fn running_guests_outlive_the_daemon_and_are_adopted() {
    let host = Host::new();
    host.template();
    for (name, kind) in [("runs", "pvh"), ("waits", "pv")] {
        host.tiny(name, kind, "");
        host.start(name);
        says(name, &format!("GUEST-UP name={name}"));
    }
    host.ok("mgmt.vm.Pause", "waits", "", "");
    let xid = host.ok("mgmt.vm.property.Get", "runs", "xid", "");

    let host = Host(host.0.kill_and_restart());
    assert_eq!((host.state("runs").as_str(), host.state("waits").as_str()), ("Running", "Paused"));
    assert_eq!(host.ok("mgmt.vm.property.Get", "runs", "xid", ""), xid);
    host.ok("mgmt.vm.Unpause", "waits", "", "");
    // The end of an adopted domain is noticed, whether asked for or not.
    host.ok("mgmt.vm.Shutdown", "runs", "", "");
    until("the adopted guest shuts down", || host.state("runs") == "Halted");
    output("xl", &["destroy", "waits"]);
    until("the end of the other is noticed", || host.state("waits") == "Halted");
    host.is_gone("runs");
    host.is_gone("waits");
}

#[test]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
fn twenty_vms_one_after_the_other_leak_nothing() {
    let host = Host::new();
    host.template();
    host.is_tiny("base", "pv");
    let life = |number: usize| {
        let name = format!("vm{number}");
        host.ok("mgmt.vm.Create.AppVM", "dom0", "base", &format!("name={name} label=red"));
        if number.is_multiple_of(2) {
            host.set(&name, "kernel", "tiny-pvh");
            host.set(&name, "virt_mode", "pvh");
        }
        host.start(&name);
        host.ok("mgmt.vm.Kill", &name, "", "");
        host.ok("mgmt.vm.Remove", &name, "", "");
    };
    life(0);
    let (before, open) = (host_has(), host.0.open_files());
    (1..21).for_each(life);
    assert_eq!(host_has(), before);
    until("descriptors are as before", || host.0.open_files() <= open);
}

/// A template of the real root image, and a VM on it with a kernel that finds it.
fn linux_life(kind: &str) {
    let host = Host::new();
    let image = std::fs::read(guests().join("root.img")).unwrap();
    assert_eq!(host.0.call("mgmt.vm.CreateTemplate", "dom0", "base", &image).ok(), "");
    let name = format!("linux-{kind}");
    host.ok("mgmt.vm.Create.AppVM", "dom0", "base", &format!("name={name} label=green"));
    host.linux(&name, kind);
    let before = host_has();

    if !host.start_linux(&name, kind) {
        return;
    }
    says(&name, &format!("GUEST-UP name={name}"));
    for line in ["GUEST-ROOT-BOOTS 1", "GUEST-BOOTS 1"] {
        says(&name, line);
    }

    let disk = host.0.dir().join("disk.img");
    let mut bytes = b"HELLO from dom0".to_vec();
    bytes.resize(1 << 20, 0);
    std::fs::write(&disk, bytes).unwrap();
    let device = format!("dom0+{}", disk.display());
    host.ok("mgmt.vm.device.block.Attach", &name, &device, "");
    assert_eq!(host.ok("mgmt.vm.device.block.List", &name, "", ""), format!("{device}\n"));
    says(&name, "GUEST-DISK + xvdi 2048");
    says(&name, "GUEST-DATA xvdi rw HELLO from dom0");
    host.ok("mgmt.vm.device.block.Detach", &name, &device, "");
    says(&name, "GUEST-DISK - xvdi");
    assert_eq!(host.ok("mgmt.vm.device.block.List", &name, "", ""), "");

    host.ok("mgmt.vm.Shutdown", &name, "", "");
    until("the guest shuts down", || host.state(&name) == "Halted");
    says(&name, "GUEST-DOWN poweroff");
    host.is_gone(&name);
    assert_eq!(host_has(), before);
    if kind == "pvh" {
        return;
    }

    // What it wrote on its private volume was committed; what it wrote on its root was thrown away.
    host.start(&name);
    says(&name, &format!("GUEST-UP name={name}"));
    for line in ["GUEST-ROOT-BOOTS 1", "GUEST-BOOTS 2"] {
        says(&name, line);
    }
    host.ok("mgmt.vm.Kill", &name, "", "");
    host.is_gone(&name);
    assert_eq!(host_has(), before);
}

#[test]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
fn a_linux_pv_guests_life_with_its_volumes_and_a_disk() {
    linux_life("pv");
}

#[test]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
fn a_linux_pvh_guests_life_with_its_volumes_and_a_disk() {
    linux_life("pvh");
}
