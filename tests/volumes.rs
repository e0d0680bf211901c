//! Volumes over the socket, on real storage: former states, data from outside, copies, and crashes in between.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use mgmt_tests::scene::{create, left_over, pool, start, template, until};
use mgmt_tests::{Daemon, Socket, Start};

const MIB: usize = 1 << 20;

/// With the template `base` and `work`, whose private volume is small.
fn scene(how: Start) -> Daemon {
    let daemon = how.start();
    template(&daemon);
    create(&daemon, "work");
    daemon
}

/// The file of the committed state of a private volume.
fn image(daemon: &Daemon, vm: &str) -> PathBuf {
    pool(daemon).join("appvms").join(vm).join("private.img")
}

fn call(daemon: &Daemon, verb: &str, vm: &str, payload: &[u8]) -> String {
    daemon.call(&format!("mgmt.vm.volume.{verb}"), vm, "private", payload).ok()
}

fn refused(daemon: &Daemon, verb: &str, vm: &str, payload: &[u8]) -> (String, String) {
    daemon.call(&format!("mgmt.vm.volume.{verb}"), vm, "private", payload).exception()
}

fn info(daemon: &Daemon, vm: &str, key: &str) -> String {
    let facts = daemon.call("admin.vm.volume.Info", vm, "private", b"").ok();
    let line = facts.lines().find_map(|line| line.strip_prefix(&format!("{key}=")).map(str::to_owned));
    line.unwrap_or_else(|| panic!("no {key}: {facts}"))
}

/// Replaces the private volume's data.
fn import(daemon: &Daemon, vm: &str, data: &[u8]) {
    let payload = [format!("{}\n", data.len()).as_bytes(), data].concat();
    assert_eq!(call(daemon, "ImportWithSize", vm, &payload), "");
}

fn content(daemon: &Daemon, vm: &str) -> Vec<u8> {
    std::fs::read(image(daemon, vm)).unwrap()
}

#[test]
fn revert_brings_old_data_back_and_explicit_snapshots_stay() {
    let daemon = scene(Start::new());
    call(&daemon, "Set.revisions_to_keep", "work", b"1");
    import(&daemon, "work", &[1; 512]);
    assert_eq!(call(&daemon, "Snapshot", "work", b""), "s1");
    import(&daemon, "work", &[2; 1024]);
    import(&daemon, "work", &[3; 2048]);
    let listed = call(&daemon, "ListSnapshots", "work", b"");
    assert_eq!(listed.lines().count(), 2, "one automatic one, and the snapshot: {listed}");
    assert!(listed.lines().any(|line| line == "s1"), "{listed}");

    assert_eq!(call(&daemon, "Revert", "work", b"s1"), "");
    assert_eq!(content(&daemon, "work"), [1; 512]);
    assert_eq!(info(&daemon, "work", "size"), "512");
    let listed = call(&daemon, "ListSnapshots", "work", b"");
    assert!(listed.lines().any(|line| line == "s1"), "it is not used up: {listed}");

    // What was there before the revert became a revision: back again, which uses that one up.
    let automatic = listed.lines().find(|line| *line != "s1").unwrap().to_owned();
    assert_eq!(call(&daemon, "Revert", "work", format!(" {automatic}\n").as_bytes()), "");
    assert_eq!(content(&daemon, "work"), [3; 2048]);
    let (class, text) = refused(&daemon, "Revert", "work", automatic.as_bytes());
    assert_eq!(
        (class.as_str(), text),
        ("StoragePoolException", format!("Revision does not exist: '{automatic}'"))
    );

    assert_eq!(call(&daemon, "RemoveSnapshot", "work", b"s1"), "");
    assert!(!call(&daemon, "ListSnapshots", "work", b"").contains("s1"));
}

#[test]
fn numbers_of_snapshots_are_not_used_again_after_a_restart() {
    let mut daemon = scene(Start::new());
    for number in ["s1", "s2"] {
        assert_eq!(call(&daemon, "Snapshot", "work", b""), number);
        assert_eq!(call(&daemon, "RemoveSnapshot", "work", number.as_bytes()), "");
        daemon = daemon.kill_and_restart();
    }
    let vid = b"appvms/work/private";
    assert_eq!(daemon.call("mgmt.pool.volume.Snapshot", "dom0", "varlibqubes", vid).ok(), "s3");
    let other = daemon.call("mgmt.vm.volume.Snapshot", "base", "root", b"").ok();
    assert_eq!(other, "s1", "each volume counts for itself");
    // A clone has neither the snapshots nor their numbers.
    assert_eq!(daemon.call("mgmt.vm.Clone", "work", "", b"name=copy").ok(), "");
    assert_eq!(call(&daemon, "Snapshot", "copy", b""), "s1");
    // The files of a VM's snapshots go with it.
    assert_eq!(daemon.call("mgmt.vm.Remove", "work", "", b"").ok(), "");
    assert!(!image(&daemon, "work").parent().unwrap().exists());
}

#[test]
fn a_running_vm_is_kept_only_where_blocks_are_shared() {
    let daemon = scene(Start::new());
    let driver = daemon.call("mgmt.pool.Info", "dom0", "varlibqubes", b"").ok();
    start(&daemon, "work");
    if driver.contains("driver=file-reflink") {
        assert_eq!(call(&daemon, "Snapshot", "work", b""), "s1");
    } else {
        let (class, text) = refused(&daemon, "Snapshot", "work", b"");
        assert_eq!(
            (class.as_str(), text.as_str()),
            ("QubesVMNotHaltedError", "Domain is not powered off: 'work'")
        );
    }
    let (class, text) = refused(&daemon, "Revert", "work", b"s1");
    let words = "Cannot revert dirty volume appvms/work/private, stop the qube first";
    assert_eq!((class.as_str(), text.as_str()), ("StoragePoolException", words));
    for (verb, payload) in
        [("Import", &b"x"[..]), ("ImportWithSize", b"1\nx"), ("Clear", b""), ("Set.rw", b"no")]
    {
        assert_eq!(refused(&daemon, verb, "work", payload).0, "QubesVMNotHaltedError", "{verb}");
    }
    assert_eq!(left_over(&daemon).iter().filter(|file| file.contains("import")).count(), 0);
}

#[test]
fn a_running_vms_volume_grows_and_the_guest_is_asked_to_use_it() {
    let script = "[[rule]]\nvm = \"deaf\"\nstep = \"service\"\nfail = { kind = \"backend\", text = \"no such service\" }\n";
    let daemon = scene(Start::new().script(script));
    create(&daemon, "deaf");
    let mut events = daemon.socket().events("work");
    let larger = b"2147484160";
    start(&daemon, "work");
    assert_eq!(call(&daemon, "Resize", "work", larger), "");
    events.until("work domain-cmd-pre-run start_guid=False");
    assert_eq!(info(&daemon, "work", "size"), "2147484160");
    assert_eq!(daemon.call("mgmt.vm.Kill", "work", "", b"").ok(), "");
    assert_eq!(image(&daemon, "work").metadata().unwrap().len(), 2_147_484_160, "it is so after its stop");

    start(&daemon, "deaf");
    let (class, text) = refused(&daemon, "Resize", "deaf", larger);
    assert_eq!(class, "StoragePoolException");
    let words = "Online resize of volume private failed (you need to resize filesystem manually): ";
    assert!(text.starts_with(words) && text.ends_with("no such service"), "{text}");
    assert_eq!(info(&daemon, "deaf", "size"), "2147484160", "the volume is larger all the same");
    let (class, text) = refused(&daemon, "Resize", "deaf", b"512");
    assert_eq!(class, "StoragePoolException");
    assert!(text.starts_with("Can not make volume appvms/deaf/private smaller: "), "{text}");
}

#[test]
fn holes_of_an_import_stay_holes_and_the_size_is_the_datas() {
    let daemon = scene(Start::new());
    let mut data = vec![0; 64 * MIB];
    data[32 * MIB..33 * MIB].fill(7);
    import(&daemon, "work", &data);
    let file = std::fs::File::open(image(&daemon, "work")).unwrap();
    let seek = |from| rustix::fs::seek(&file, from);
    assert_eq!(seek(rustix::fs::SeekFrom::Data(0)).unwrap(), 32 * MIB as u64);
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(32 * MIB as u64)).unwrap(), 33 * MIB as u64);
    let blocks = file.metadata().unwrap().blocks();
    assert!(blocks * 512 < 2 * MIB as u64, "{blocks}");
    let mut byte = [0; 2];
    file.read_exact_at(&mut byte, 33 * MIB as u64 - 1).unwrap();
    assert_eq!(byte, [7, 0]);
    assert_eq!(info(&daemon, "work", "size"), (64 * MIB).to_string());
    // Cleared, it has its size and nothing else.
    assert_eq!(call(&daemon, "Clear", "work", b""), "");
    let cleared = image(&daemon, "work").metadata().unwrap();
    assert_eq!((cleared.len(), cleared.blocks()), (64 * MIB as u64, 0));
}

#[test]
fn an_import_brings_exactly_what_it_says_or_changes_nothing() {
    let daemon = scene(Start::new());
    import(&daemon, "work", &[1; 1024]);
    let mut events = daemon.socket().events("work");
    for (verb, payload, words) in [
        (
            "Import",
            vec![2; 1023],
            "Data import failed: not enough data (copied 1023 bytes, expected 1024 bytes)",
        ),
        ("Import", vec![2; 1025], "Data import failed: too much data (expected 1024 bytes)"),
        ("Import", Vec::new(), "Data import failed: not enough data (copied 0 bytes, expected 1024 bytes)"),
        (
            "ImportWithSize",
            b"600000\nshort".to_vec(),
            "Data import failed: not enough data (copied 5 bytes, expected 600000 bytes)",
        ),
        ("ImportWithSize", b"3\nfour".to_vec(), "Data import failed: too much data (expected 3 bytes)"),
    ] {
        let (class, text) = refused(&daemon, verb, "work", &payload);
        assert_eq!((class.as_str(), text.as_str()), ("QubesException", words));
        events.until("work domain-volume-import-begin volume=private size=");
        events.until("work domain-volume-import-end volume=private success=False");
        assert_eq!(content(&daemon, "work"), [1; 1024]);
        assert!(left_over(&daemon).is_empty(), "{:?}", left_over(&daemon));
    }
    assert_eq!(call(&daemon, "Import", "work", &[3; 1024]), "");
    let told = events.until("work domain-volume-import-end volume=private success=True");
    assert!(told.contains(&"work volume-progress volume=private done=0 total=1024".to_owned()), "{told:?}");
    assert!(
        told.contains(&"work volume-progress volume=private done=1024 total=1024".to_owned()),
        "{told:?}"
    );
    assert_eq!(content(&daemon, "work"), [3; 1024]);
}

/// What comes first of an import, of 64 MiB in all: more than 4 MiB of it can be written at once, however the daemon parts it.
const SENT: usize = 4 * MIB + MIB / 2;

/// A connection on which an import has begun and some of its data has come.
fn begin_import(daemon: &Daemon, vm: &str) -> UnixStream {
    begin(daemon, "ImportWithSize", vm, format!("{}\n", 64 * MIB).as_bytes())
}

fn begin(daemon: &Daemon, verb: &str, vm: &str, first: &[u8]) -> UnixStream {
    let mut stream = daemon.socket().connect();
    let mut sent = format!("mgmt.vm.volume.{verb}+private dom0 name {vm}\0").into_bytes();
    sent.extend_from_slice(first);
    sent.resize(sent.len() + SENT, 9);
    stream.write_all(&sent).unwrap();
    let begun = || left_over(daemon).iter().any(|file| file.ends_with("private-import.img"));
    until("the import has begun", begun);
    stream
}

/// Whether the client knows how much is to come or not, and also when all of it has come but for the client's word.
#[test]
fn a_broken_off_import_leaves_the_old_state() {
    let daemon = scene(Start::new());
    let old = vec![1; SENT];
    import(&daemon, "work", &old);
    let mut events = daemon.socket().events("work");
    let all = format!("{SENT}\n").into_bytes();
    let part = format!("{}\n", 64 * MIB).into_bytes();
    for (verb, first) in
        [("ImportWithSize", &part[..]), ("ImportWithSize", &all), ("Import", b""), ("Import", &[9; 1024])]
    {
        let stream = begin(&daemon, verb, "work", first);
        drop(stream);
        events.until("work domain-volume-import-end volume=private success=False");
        until("nothing is left", || left_over(&daemon).is_empty());
        assert!(content(&daemon, "work") == old, "{verb}");
        assert_eq!(info(&daemon, "work", "size"), SENT.to_string());
    }
    start(&daemon, "work");
}

#[test]
fn a_killed_daemon_leaves_the_old_state_and_an_ended_one_too() {
    let daemon = scene(Start::new());
    import(&daemon, "work", &[1; 1024]);
    let stream = begin_import(&daemon, "work");
    let daemon = daemon.kill_and_restart();
    drop(stream);
    until("nothing is left", || left_over(&daemon).is_empty());
    assert_eq!(content(&daemon, "work"), [1; 1024]);
    let stream = begin_import(&daemon, "work");
    let daemon = daemon.terminate_and_restart();
    drop(stream);
    assert!(left_over(&daemon).is_empty(), "{:?}", left_over(&daemon));
    assert_eq!(content(&daemon, "work"), [1; 1024]);
    start(&daemon, "work");
}

#[test]
fn progress_is_told_while_data_comes_and_to_the_drafts_clients_alone() {
    let daemon = scene(Start::new());
    let mut events = daemon.socket().events("work");
    let mut deployed = daemon.socket().stream("admin.Events", "work");
    let mut stream = begin_import(&daemon, "work");
    events.until("work volume-progress volume=private done=0 total=67108864");
    // It goes on, though nothing comes.
    events.until("work volume-progress volume=private done=4");
    events.until("work volume-progress volume=private done=4");
    stream.write_all(&vec![9; 64 * MIB - SENT]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"0\0");
    events.until("work volume-progress volume=private done=67108864 total=67108864");
    let told = deployed.until("work domain-volume-import-end volume=private success=True");
    assert!(!told.iter().any(|event| event.contains("volume-progress")), "{told:?}");
}

#[test]
fn a_token_copies_one_volume_once() {
    let daemon = scene(Start::new());
    create(&daemon, "mail");
    import(&daemon, "work", &[5; 4096]);
    let token = call(&daemon, "CloneFrom", "work", b"");
    assert_eq!(token.len(), 32);
    let mut events = daemon.socket().events("mail");
    assert_eq!(call(&daemon, "CloneTo", "mail", format!("{token}\n").as_bytes()), "");
    events.until("mail volume-progress volume=private done=4096 total=4096");
    events.until("mail domain-import-volume name=private source=appvms/work/private");
    assert_eq!(content(&daemon, "mail"), [5; 4096]);
    assert_eq!(info(&daemon, "mail", "size"), "4096");

    let unknown = "'Token to clone volume of qube was not found'";
    let lost = |payload: &[u8]| {
        let (class, text) = refused(&daemon, "CloneTo", "mail", payload);
        assert_eq!((class.as_str(), text.as_str()), ("QubesVolumeCopyTokenNotFoundError", unknown));
    };
    lost(token.as_bytes());
    lost(b"00000000000000000000000000000000");
    // Used up before anything else can fail.
    let token = call(&daemon, "CloneFrom", "work", b"");
    start(&daemon, "mail");
    let (class, _) = refused(&daemon, "CloneTo", "mail", token.as_bytes());
    assert_eq!(class, "QubesVMNotHaltedError");
    assert_eq!(daemon.call("mgmt.vm.Kill", "mail", "", b"").ok(), "");
    lost(token.as_bytes());
    // What it stands for may be gone.
    let token = call(&daemon, "CloneFrom", "work", b"");
    assert_eq!(daemon.call("mgmt.vm.Remove", "work", "", b"").ok(), "");
    let (class, text) = refused(&daemon, "CloneTo", "mail", token.as_bytes());
    assert_eq!((class.as_str(), text.as_str()), ("QubesVMNotFoundError", "No such domain: 'work'"));
    assert_eq!(content(&daemon, "mail"), [5; 4096]);
}

#[test]
fn a_volume_that_is_written_in_place_is_no_source_meanwhile() {
    let daemon = scene(Start::new());
    create(&daemon, "mail");
    call(&daemon, "Set.revisions_to_keep", "work", b"-1");
    let token = call(&daemon, "CloneFrom", "work", b"");
    start(&daemon, "work");
    let (class, text) = refused(&daemon, "CloneTo", "mail", token.as_bytes());
    let words = "Volume appvms/work/private must be stopped before importing its data";
    assert_eq!((class.as_str(), text.as_str()), ("StoragePoolException", words));
    let (class, text) = refused(&daemon, "Set.revisions_to_keep", "work", b"2");
    assert_eq!(
        (class.as_str(), text.as_str()),
        ("QubesVMNotHaltedError", "Domain is not powered off: 'work'")
    );
}

#[test]
fn nothing_starts_from_a_volume_that_its_vm_writes_in_place() {
    let daemon = scene(Start::new());
    let set = |number: &[u8]| {
        daemon.call("admin.vm.volume.Set.revisions_to_keep", "base", "root", number).ok();
    };
    set(b"-1");
    start(&daemon, "base");
    let words = "Volume vm-templates/base/root is running";
    for prefix in ["mgmt", "admin"] {
        let (class, text) = daemon.call(&format!("{prefix}.vm.Start"), "work", "", b"").exception();
        assert!(class == "QubesVMError" && text.starts_with(words), "{class} {text}");
    }
    assert_eq!(daemon.call("mgmt.vm.Kill", "base", "", b"").ok(), "");
    start(&daemon, "work");
}

/// A daemon with an internal socket, and that socket.
fn with_internal(dir: &tempfile::TempDir) -> (Daemon, Socket) {
    let path = dir.path().join("internal.sock");
    let daemon = scene(Start::new().config(&format!("[sockets]\ninternal = {path:?}\n")));
    (daemon, Socket::new(path))
}

/// Begins an import as the deployed script does; the file to write to.
fn begin_by_script(internal: &Socket, size: &str) -> (u64, PathBuf) {
    let told = internal.call("internal.vm.volume.ImportBegin", "work", "private", size.as_bytes()).ok();
    let (size, path) = told.split_once(' ').unwrap();
    (size.parse().unwrap(), PathBuf::from(path))
}

#[test]
fn the_deployed_script_writes_the_data_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (daemon, internal) = with_internal(&dir);
    let mut events = daemon.socket().events("work");
    let end = |payload: &[u8]| internal.call("internal.vm.volume.ImportEnd", "work", "private", payload);
    let (size, path) = begin_by_script(&internal, "8192");
    assert_eq!((size, path.metadata().unwrap().len()), (8192, 8192));
    events.until("work domain-volume-import-begin volume=private size=8192");
    // As `dd conv=sparse,notrunc,nocreat` does.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[6; 4096], 4096).unwrap();

    // Meanwhile the volume is in use.
    let busy = "Import operation in progress on appvms/work/private";
    for verb in ["ImportBegin", "Clear", "Revert", "Resize"] {
        let (payload, socket): (&[u8], _) = match verb {
            "ImportBegin" => (b"", &internal),
            "Clear" => (b"", daemon.socket()),
            "Revert" => (b"1", daemon.socket()),
            _ => (b"4294967296", daemon.socket()),
        };
        let prefix = if verb == "ImportBegin" { "internal" } else { "mgmt" };
        let (class, text) =
            socket.call(&format!("{prefix}.vm.volume.{verb}"), "work", "private", payload).exception();
        assert_eq!((class.as_str(), text.as_str()), ("StoragePoolException", busy), "{verb}");
    }
    let (class, text) = daemon.call("mgmt.vm.Start", "work", "", b"").exception();
    assert!(class == "StoragePoolException" && text.contains("Import operation in progress"), "{text}");

    assert_eq!(end(b"ok").ok(), "");
    events.until("work domain-volume-import-end volume=private success=True");
    assert_eq!(content(&daemon, "work"), [[0; 4096], [6; 4096]].concat());
    assert_eq!(info(&daemon, "work", "size"), "8192");
    let (class, text) = end(b"ok").exception();
    let none = "No import operation in progress on appvms/work/private";
    assert_eq!((class.as_str(), text.as_str()), ("StoragePoolException", none));

    // One that fails says why, and leaves the volume as it was.
    let (size, path) = begin_by_script(&internal, "");
    assert_eq!(size, 8192);
    std::fs::write(&path, vec![1; 100]).unwrap();
    let (class, text) = end(b"fail\nnot enough data (copied 100 bytes, expected 8192 bytes)").exception();
    let words = "Data import failed: not enough data (copied 100 bytes, expected 8192 bytes)";
    assert_eq!((class.as_str(), text.as_str()), ("QubesException", words));
    events.until("work domain-volume-import-end volume=private success=False");
    assert_eq!(content(&daemon, "work"), [[0; 4096], [6; 4096]].concat());
    // So does one that says that all is well, and is not.
    let (_, path) = begin_by_script(&internal, "");
    std::fs::write(&path, vec![1; 100]).unwrap();
    assert_eq!(end(b"ok").exception().0, "StoragePoolException");
    assert_eq!(content(&daemon, "work").len(), 8192);
    assert!(left_over(&daemon).is_empty(), "{:?}", left_over(&daemon));
}

#[test]
fn what_a_script_left_goes_with_the_daemon_and_with_the_vm() {
    let dir = tempfile::tempdir().unwrap();
    let (daemon, internal) = with_internal(&dir);
    begin_by_script(&internal, "8192");
    let daemon = daemon.kill_and_restart();
    until("nothing is left", || left_over(&daemon).is_empty());
    begin_by_script(&internal, "8192");
    let daemon = daemon.terminate_and_restart();
    assert!(left_over(&daemon).is_empty(), "{:?}", left_over(&daemon));
    begin_by_script(&internal, "8192");
    assert_eq!(daemon.call("mgmt.vm.Remove", "work", "", b"").ok(), "");
    assert!(!image(&daemon, "work").parent().unwrap().exists());
    create(&daemon, "work");
}

#[test]
fn the_command_line_has_a_verb_for_each() {
    let daemon = scene(Start::new());
    create(&daemon, "mail");
    let mgmt = |arguments: &[&str]| {
        let mut command = std::process::Command::new(mgmt_tests::binary("mgmt"));
        let run = command.arg("--socket").arg(daemon.socket().path()).arg("volume").args(arguments).output();
        let run = run.unwrap();
        let printed = if run.stdout.is_empty() { run.stderr } else { run.stdout };
        (run.status.code().unwrap(), String::from_utf8(printed).unwrap())
    };
    let done = (0, String::new());
    let file = daemon.dir().join("disk.img");
    std::fs::write(&file, [8; 3000]).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(mgmt(&["list", "work"]), (0, "root\nprivate\nvolatile\nkernel\n".into()));
    assert_eq!(mgmt(&["set", "work", "private", "revisions_to_keep", "0"]), done);
    assert_eq!(mgmt(&["import", "work", "private", file]), done);
    assert_eq!(mgmt(&["snapshot", "work", "private"]), (0, "s1\n".into()));
    assert_eq!(mgmt(&["resize", "work", "private", "1MiB"]), done);
    assert!(mgmt(&["info", "work", "private"]).1.contains("size\t1048576\n"));
    assert_eq!(mgmt(&["clone", "work", "private", "mail"]), done);
    assert_eq!(content(&daemon, "mail").len(), MIB);
    assert_eq!(mgmt(&["snapshots", "work", "private"]), (0, "s1\n".into()));
    assert_eq!(mgmt(&["revert", "work", "private"]), done);
    assert_eq!(content(&daemon, "work"), [vec![8; 3000], vec![0; 72]].concat());
    assert_eq!(mgmt(&["clear", "work", "private"]), done);
    assert_eq!(content(&daemon, "work"), [0; 3072]);
    assert_eq!(mgmt(&["set", "work", "private", "revisions_to_keep", "-1"]), done);
    assert_eq!(mgmt(&["remove-snapshot", "work", "private", "s1"]), done);
    let gone = "mgmt: StoragePoolException: Revision does not exist: 's1'\n";
    assert_eq!(mgmt(&["revert", "work", "private", "s1"]), (1, gone.into()));
    assert_eq!(mgmt(&["import", "work", "private", file, "--no-resize"]).0, 1);
    assert_eq!(mgmt(&["import", "work", "private"]).0, 2, "of a pipe the size is not known");
}

/// `/etc/qubes-rpc/METHOD VOLUME` with the image as its input, and no name of the service in the environment.
#[test]
fn the_service_file_that_the_deployed_client_runs_hands_the_data_over() {
    let daemon = scene(Start::new());
    let spawn = |method: &str| {
        let file = daemon.dir().join(method);
        if !file.exists() {
            std::os::unix::fs::symlink(mgmt_tests::binary("mgmt-qrexec"), &file).unwrap();
        }
        std::process::Command::new(file)
            .arg("private")
            .env("MGMT_SOCKET", daemon.socket().path())
            .env("QREXEC_REMOTE_DOMAIN", "dom0")
            .env("QREXEC_REQUESTED_TARGET", "work")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let service = |method: &str, data: &[u8]| {
        let mut child = spawn(method);
        let mut input = child.stdin.take().unwrap();
        // It may be answered before all was read.
        drop(input.write_all(data));
        drop(input);
        child.wait_with_output().unwrap().stdout
    };
    let sized = [b"1048576\n".to_vec(), vec![4; MIB]].concat();
    assert_eq!(service("admin.vm.volume.ImportWithSize", &sized), b"0\0");
    assert_eq!(service("admin.vm.volume.Import", &vec![5; MIB]), b"0\0");
    assert_eq!(content(&daemon, "work"), vec![5; MIB]);
    let refused = service("admin.vm.volume.Import", &vec![6; MIB - 1]);
    assert!(refused.starts_with(b"2\0QubesException\0"), "{}", refused.escape_ascii());
    assert_eq!(content(&daemon, "work"), vec![5; MIB]);

    // One that is killed in the middle leaves what was there.
    let mut child = spawn("admin.vm.volume.Import");
    child.stdin.as_mut().unwrap().write_all(&vec![6; MIB / 2]).unwrap();
    until("data comes", || !left_over(&daemon).is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    until("nothing is left", || left_over(&daemon).is_empty());
    assert_eq!(content(&daemon, "work"), vec![5; MIB]);

    // Holes stay holes.
    let mut large = format!("{}\n", 16 * MIB).into_bytes();
    let data = large.len();
    large.resize(data + 16 * MIB, 0);
    large[data + 8 * MIB] = 7;
    assert_eq!(service("admin.vm.volume.ImportWithSize", &large), b"0\0");
    let found = std::fs::metadata(image(&daemon, "work")).unwrap();
    assert_eq!(found.len(), 16 * MIB as u64);
    assert!(found.blocks() * 512 <= MIB as u64, "{} blocks", found.blocks());
}

#[test]
fn a_volume_that_is_empty_at_each_start_has_whole_sectors_as_others_have() {
    let daemon = scene(Start::new());
    for volume in ["private", "volatile"] {
        assert_eq!(daemon.call("mgmt.vm.volume.Resize", "work", volume, b"12884901889").ok(), "");
        let facts = daemon.call("mgmt.vm.volume.Info", "work", volume, b"").ok();
        assert!(facts.contains("\nsize=12884902400\n"), "{facts}");
    }
}

#[test]
fn a_kernel_that_is_looked_for_in_a_pool_of_volumes_can_be_looked_at_all_the_same() {
    let daemon = scene(Start::new());
    // What the default of the default is.
    assert_eq!(daemon.call("mgmt.property.Reset", "dom0", "default_pool_kernel", b"").ok(), "");
    create(&daemon, "odd");
    let facts = daemon.call("mgmt.vm.volume.Info", "odd", "kernel", b"").ok();
    assert!(facts.starts_with("pool=varlibqubes\nvid=\nsize=0\n"), "{facts}");
}

#[test]
fn an_import_whose_data_is_whole_runs_on_after_the_deployed_clients_close() {
    let daemon = scene(Start::new());
    let send = |method: &str, data: &[u8]| {
        let header = format!("{method}+private dom0 name work\0512\n");
        let mut stream = daemon.socket().connect();
        stream.write_all(&[header.as_bytes(), data].concat()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    };
    // However late the daemon gets to read.
    for n in 1..=50 {
        send("admin.vm.volume.ImportWithSize", &[n; 512]);
        until("the new data is there", || std::fs::read(image(&daemon, "work")).is_ok_and(|d| d == [n; 512]));
    }
    until("nothing is left", || left_over(&daemon).is_empty());
    let mut events = daemon.socket().stream("admin.Events", "work");
    send("admin.vm.volume.ImportWithSize", &[99; 511]);
    events.until("work domain-volume-import-end volume=private success=False");
    until("nothing is left", || left_over(&daemon).is_empty());
    assert_eq!(content(&daemon, "work"), [50; 512]);
}

#[test]
fn what_is_kept_of_a_volume_is_what_held_when_its_run_began() {
    let mut daemon = scene(Start::new());
    let kept = |daemon: &Daemon| -> Vec<String> {
        call(daemon, "ListSnapshots", "work", b"").lines().map(str::to_owned).collect()
    };
    let kill = |daemon: &Daemon| assert_eq!(daemon.call("mgmt.vm.Kill", "work", "", b"").ok(), "");
    call(&daemon, "Set.revisions_to_keep", "work", b"3");
    for data in 1..=4 {
        import(&daemon, "work", &[data; 512]);
    }
    assert_eq!(kept(&daemon).len(), 3);
    // Less, and none at all, however the run comes to its end.
    for end in ["kill", "kill after a restart", "power cut"] {
        call(&daemon, "Set.revisions_to_keep", "work", b"3");
        start(&daemon, "work");
        call(&daemon, "Set.revisions_to_keep", "work", b"0");
        daemon = match end {
            "kill" => daemon,
            "kill after a restart" => daemon.kill_and_restart(),
            _ => {
                let (domains, folder) = (daemon.state().join("sim"), pool(&daemon).join("appvms/work"));
                daemon.kill_and(|| {
                    std::fs::remove_dir_all(domains).unwrap();
                    std::fs::write(folder.join("private-dirty.img"), [9; 512]).unwrap();
                })
            }
        };
        if end == "power cut" {
            // A look at a volume that is being recovered sees what is there just then.
            until("it is recovered", || content(&daemon, "work") == [9; 512] && kept(&daemon).len() < 4);
        } else {
            kill(&daemon);
        }
        let listed = kept(&daemon);
        assert_eq!(listed.len(), 3, "{end}: {listed:?}");
    }
    // More.
    call(&daemon, "Set.revisions_to_keep", "work", b"1");
    start(&daemon, "work");
    call(&daemon, "Set.revisions_to_keep", "work", b"3");
    kill(&daemon);
    assert_eq!(kept(&daemon).len(), 1);
    // From the next start on.
    start(&daemon, "work");
    kill(&daemon);
    assert_eq!(kept(&daemon).len(), 2);
}

#[test]
fn what_is_kept_in_a_pool_is_what_held_when_a_run_began() {
    let daemon = scene(Start::new());
    let set =
        |number: &[u8]| daemon.call("mgmt.pool.Set.revisions_to_keep", "dom0", "varlibqubes", number).ok();
    set(b"3");
    for data in 1..=4 {
        import(&daemon, "work", &[data; 512]);
    }
    start(&daemon, "work");
    set(b"-1");
    assert_eq!(daemon.call("mgmt.vm.Kill", "work", "", b"").ok(), "");
    assert_eq!(call(&daemon, "ListSnapshots", "work", b"").lines().count(), 3);
    start(&daemon, "work");
    assert_eq!(daemon.call("mgmt.vm.Kill", "work", "", b"").ok(), "");
    assert_eq!(call(&daemon, "ListSnapshots", "work", b""), "");
}
