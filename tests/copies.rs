//! Copies of data: with whom they end, and what is told of them while they last.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::Path;

use mgmt_tests::scene::{self, files, in_background, template, until};
use mgmt_tests::{Daemon, Events, Hooked};
use rustix::process::{Pid, Signal, kill_process};

const DATA: [u8; 4096] = [5; 4096];

/// With VMs whose private volumes lie in the pool `hooked`; the first has data.
fn scene(hooked: &Hooked, more: &str, vms: &[&str]) -> Daemon {
    let daemon = hooked.start("").config(more).start();
    template(&daemon);
    hooked.add(&daemon);
    for name in vms {
        let payload = format!("name={name} label=red pool:private=hooked");
        let created = daemon.call("mgmt.vm.CreateInPool.AppVM", "dom0", "base", payload.as_bytes());
        assert_eq!(created.ok(), "");
    }
    let payload = [format!("{}\n", DATA.len()).as_bytes(), &DATA].concat();
    assert_eq!(daemon.call("mgmt.vm.volume.ImportWithSize", vms[0], "private", &payload).ok(), "");
    daemon
}

fn token(daemon: &Daemon, vm: &str) -> String {
    daemon.call("mgmt.vm.volume.CloneFrom", vm, "private", b"").ok()
}

/// Under one dialect a client that is gone calls a copy off, under the other it runs on.
#[test]
fn a_copy_ends_with_its_client_or_without() {
    let hooked = Hooked::new();
    let daemon = scene(&hooked, "", &["work", "mail"]);
    let image = || std::fs::read(hooked.path().join("appvms/mail/private.img")).unwrap();
    let before = image();
    for (dialect, after) in [("mgmt", &before), ("admin", &DATA.to_vec())] {
        hooked.hold("pre_volume_import");
        let mut stream = daemon.socket().connect();
        let request =
            format!("{dialect}.vm.volume.CloneTo+private dom0 name mail\0{}", token(&daemon, "work"));
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        hooked.wait_until_held();
        drop(stream);
        // The daemon has seen that nobody is there any more when it has answered others.
        for _ in 0..20 {
            daemon.call("mgmt.vm.volume.Info", "work", "private", b"").ok();
        }
        hooked.release("pre_volume_import");
        // A change of the volume waits for the copy's end.
        daemon.call("mgmt.vm.volume.Snapshot", "mail", "private", b"").ok();
        assert!(image() == *after, "{dialect}");
    }
}

/// One copy is held up in the only turn that copies of data have: those behind it would wait for ever.
#[test]
fn a_daemon_that_is_asked_to_end_calls_copies_off_at_once_and_leaves_all_as_it_was() {
    const HOOK: &str = "pre_volume_import";
    let hooked = Hooked::new();
    let mut daemon = scene(&hooked, "[limits]\nbulk_copies = 1\n", &["work", "mail", "more"]);
    let before = (files(&hooked.path()), scene::names(&daemon));
    let content =
        |vm: &str| std::fs::read(hooked.path().join("appvms").join(vm).join("private.img")).unwrap();
    let contents = [content("mail"), content("more")];
    let mut events = daemon.socket().events("dom0");
    let copy = |vm: &str| {
        in_background(&daemon, "admin.vm.volume.CloneTo", vm, "private", token(&daemon, "work").as_bytes())
    };
    hooked.hold(HOOK);
    let first = copy("mail");
    hooked.wait_until_held();
    let second = copy("more");
    events.until("more volume-progress volume=private done=0 ");
    let clone = in_background(&daemon, "mgmt.vm.Clone", "work", "", b"name=copy");
    // Whichever is first, the name or the label that does not exist: this makes nothing.
    until("the clone's name is taken", || {
        let probe = daemon.call("mgmt.vm.Create.AppVM", "dom0", "base", b"name=copy label=none");
        probe.exception().0 == "QubesVMAlreadyExistsError"
    });

    kill_process(Pid::from_raw(daemon.pid().cast_signed()).unwrap(), Signal::TERM).unwrap();
    let told = |call: std::thread::JoinHandle<mgmt_tests::Answer>| {
        let (class, text) = call.join().unwrap().exception();
        assert_eq!(class, "StoragePoolException", "{text}");
        assert!(text.contains("the daemon is shutting down"), "{text}");
    };
    told(second);
    told(clone);
    assert_eq!(hooked.runs(HOOK, "private"), 1, "the first still waits");
    hooked.release(HOOK);
    told(first);
    daemon.wait_for_its_end();
    // No call was waited for as long as a call may take that is not called off.
    for words in ["calls did not finish in time", "something did not end"] {
        assert!(!daemon.log().contains(words), "{words}");
    }
    let daemon = daemon.kill_and_restart();
    assert_eq!((files(&hooked.path()), scene::names(&daemon)), before);
    assert!([content("mail"), content("more")] == contents);
    for vm in ["mail", "more"] {
        let copied = daemon.call("mgmt.vm.volume.CloneTo", vm, "private", token(&daemon, "work").as_bytes());
        assert_eq!(copied.ok(), "");
        assert!(content(vm) == DATA);
    }
}

/// What it was run for is settled by the next daemon.
#[test]
fn a_command_that_hangs_does_not_outlive_the_daemon() {
    let hooked = Hooked::new();
    let mut daemon = scene(&hooked, "", &["work"]);
    let before = (files(&hooked.path()), scene::names(&daemon));
    hooked.hold("pre_volume_create");
    // Whether the answer still comes, the machine's speed decides.
    let mut stream = daemon.socket().connect();
    let request = b"mgmt.vm.CreateInPool.AppVM+base dom0 name dom0\0name=new label=red pool:private=hooked";
    stream.write_all(request).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    hooked.wait_until_held();
    assert_ne!(hooked.processes(), Vec::<String>::new());
    kill_process(Pid::from_raw(daemon.pid().cast_signed()).unwrap(), Signal::TERM).unwrap();
    daemon.wait_for_its_end();
    assert_eq!(hooked.processes(), Vec::<String>::new());
    hooked.release("pre_volume_create");
    let daemon = daemon.kill_and_restart();
    until("the creation is undone", || (files(&hooked.path()), scene::names(&daemon)) == before);
}

/// The events of a volume's progress until another one, that one included: what is done, and in all.
fn progress(events: &mut Events, of: &str, last: &str) -> Vec<(u64, u64)> {
    let begins = format!("{of} done=");
    let told = events.until(last);
    let figures = told.iter().filter_map(|event| event.strip_prefix(&begins)?.split_once(" total="));
    figures.map(|(done, total)| (done.parse().unwrap(), total.parse().unwrap())).collect()
}

fn size(file: &Path) -> u64 {
    std::fs::metadata(file).unwrap().len()
}

/// However long it lasts: it is held up when the data is copied.
#[test]
fn progress_is_told_of_a_clone_and_of_a_start_that_take_their_time() {
    let hooked = Hooked::new();
    let daemon = scene(&hooked, "", &["work"]);
    let keep = daemon.call("mgmt.vm.volume.Set.revisions_to_keep", "work", "private", b"1");
    assert_eq!(keep.ok(), "");
    let image = size(&hooked.path().join("appvms/work/private.img"));
    let mut events = daemon.socket().events("dom0");
    for (hook, method, payload, of, end) in [
        ("post_volume_import", "mgmt.vm.Clone", &b"name=copy"[..], "copy", "- domain-add vm=copy"),
        ("post_volume_start", "mgmt.vm.Start", b"", "work", "work domain-start "),
    ] {
        let of = format!("{of} volume-progress volume=private");
        hooked.hold(hook);
        let call = in_background(&daemon, method, "work", "", payload);
        let mut told = progress(&mut events, &of, &of);
        hooked.release(hook);
        assert_eq!(call.join().unwrap().ok(), "");
        told.extend(progress(&mut events, &of, end));
        assert!(told.iter().all(|(done, total)| done <= total && *total == image), "{of}: {told:?}");
        assert!(told.len() > 1 && told.last() == Some(&(image, image)), "{of}: {told:?}");
    }
}

/// How much is to come nobody knows, so that the total is 0.
#[test]
fn progress_is_told_of_an_image_that_takes_its_time() {
    const SIZE: usize = 3 << 20;
    let daemon = Daemon::start();
    let mut events = daemon.socket().events("dom0");
    let mut stream = daemon.socket().connect();
    stream.write_all(b"mgmt.vm.CreateTemplate+big dom0 name dom0\0").unwrap();
    stream.write_all(&vec![7; SIZE / 2]).unwrap();
    let of = "big volume-progress volume=root";
    let begun = progress(&mut events, of, of);
    assert!(
        begun.iter().all(|(done, total)| (1..=SIZE as u64 / 2).contains(done) && *total == 0),
        "{begun:?}"
    );
    stream.write_all(&vec![7; SIZE - SIZE / 2]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"0\0");
    let rest = progress(&mut events, of, "- domain-add vm=big");
    assert_eq!(rest.last(), Some(&(SIZE as u64, 0)));
}
