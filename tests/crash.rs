//! kill -9 of the real daemon between any two steps of what makes and removes VMs: nothing half done, nothing
//! orphaned, and nothing lost that was acknowledged.
//!
//! Each scenario runs again and again on the same state, and the daemon is killed before step 1, 2, 3 and so on, a step
//! being a change of names or a sync, of the store or of a volume, until the scenario comes to its end.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use mgmt_tests::scene::{create, files, names, pool, start, template, until};
use mgmt_tests::{Daemon, Fate, Faults, On, Socket, Start};

/// More steps than any scenario has.
const MOST: u32 = 500;

/// What a client can see: the VMs, what of them lies on disk, and the pools with the folders in the state folder.
type Seen = (Vec<String>, Vec<String>, Vec<String>);

struct Scenario {
    /// Before: at rest.
    prepare: fn(&Daemon),
    /// The request.
    act: &'static str,
    /// What must succeed when the act has not happened, and when it has, to show that nothing is held on to.
    otherwise: &'static str,
    after: &'static str,
}

fn command(program: &str, arguments: &[&std::ffi::OsStr]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

fn copy(from: &Path, to: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).unwrap();
    }
    let options = ["-a", "--sparse=always", "--reflink=auto"].map(AsRef::as_ref);
    command("cp", &[&options[..], &[from.as_os_str(), to.as_os_str()]].concat());
}

/// Without what says nothing: prepared copies, automatic revisions, and the numbers of disposables. Files with their lengths.
fn seen(daemon: &Daemon) -> Seen {
    let nameless = |text: String| {
        text.split('/')
            .map(|part| match part.strip_prefix("disp").map(str::parse::<u16>) {
                Some(Ok(_)) => "dispN",
                Some(Err(_)) | None => part,
            })
            .collect::<Vec<_>>()
            .join("/")
    };
    let pools = daemon.call("mgmt.pool.List", "dom0", "", b"").ok();
    let folders = ["fast", "fast/appvms", "fast/vm-templates"];
    let folders = folders.into_iter().filter(|folder| daemon.state().join(folder).exists());
    let kept = |name: &String| !name.contains("precache") && !name.contains('@');
    // A file may go while it is looked at: then it is looked at again.
    let length = |name: &String| pool(daemon).join(name).metadata().map_or(0, |file| file.len());
    let sized = |name: String| format!("{} {}", nameless(name.clone()), length(&name));
    (
        names(daemon).into_iter().map(nameless).collect(),
        files(&pool(daemon)).into_iter().filter(kept).map(sized).collect(),
        pools.lines().chain(folders).map(str::to_owned).collect(),
    )
}

/// Asks, and gives what came until the connection ended, however it did. `STATE` is the state folder.
fn ask(socket: &Socket, request: &str) -> Vec<u8> {
    let state = socket.path().with_file_name("state");
    let request = request.replace("STATE", state.to_str().unwrap());
    // It may be gone before it is asked.
    let Ok(mut stream) = UnixStream::connect(socket.path()) else { return Vec::new() };
    let mut answer = Vec::new();
    let asked = stream.write_all(request.as_bytes()).and_then(|()| stream.shutdown(Shutdown::Write));
    if asked.is_ok() && stream.read_to_end(&mut answer).is_err() {
        answer.clear();
    }
    answer
}

fn sweep(scenario: &Scenario) {
    let faults = match Faults::new() {
        Ok(faults) => faults,
        Err(why) => return eprintln!("skipped: kills between two steps: {why}"),
    };
    let daemon = Daemon::start();
    let saved = daemon.dir().join("saved");
    (scenario.prepare)(&daemon);
    let before = seen(&daemon);
    let state = daemon.state();
    let mut daemon = daemon.kill_and(|| copy(&state, &saved));
    assert!(ask(daemon.socket(), scenario.act).starts_with(b"0\0"), "without a crash");
    let after = seen(&daemon);
    assert_ne!(before, after);
    for at in 1..=MOST {
        daemon = daemon.kill_and_as(Start::new().faults(&faults), || copy(&saved, &state));
        faults.arm(On::Step, at, Fate::KilledBefore);
        let answer = ask(daemon.socket(), scenario.act);
        faults.disarm();
        daemon = daemon.kill_and_restart_as(Start::new());
        let mut found = seen(&daemon);
        let mut settled = || {
            found = seen(&daemon);
            found == after || (found == before && answer.is_empty())
        };
        for _ in 0..1000 {
            if settled() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(
            found == after || (found == before && answer.is_empty()),
            "step {at}, answered {:?}:\nfound {found:?}\nbefore {before:?}\nafter {after:?}",
            answer.escape_ascii().to_string()
        );
        let request = if found == after { scenario.after } else { scenario.otherwise };
        until("what was held is free", || ask(daemon.socket(), request).starts_with(b"0\0"));
        if answer.starts_with(b"0\0") {
            assert!(at > 1, "the steps were not counted");
            return;
        }
    }
    panic!("more than {MOST} steps");
}

fn prepare(daemon: &Daemon) {
    template(daemon);
    create(daemon, "work");
    assert_eq!(daemon.call("mgmt.vm.property.Set", "work", "template_for_dispvms", b"True").ok(), "");
}

#[test]
fn create_vm() {
    let act = "mgmt.vm.Create.AppVM+base dom0 name dom0\0name=new label=red";
    sweep(&Scenario { prepare, act, otherwise: act, after: "mgmt.vm.Start+ dom0 name new\0" });
}

#[test]
fn clone_vm() {
    let act = "mgmt.vm.Clone+ dom0 name work\0name=new";
    sweep(&Scenario { prepare, act, otherwise: act, after: "mgmt.vm.Start+ dom0 name new\0" });
}

#[test]
fn clone_template() {
    let act = "mgmt.vm.Clone+ dom0 name base\0name=new";
    sweep(&Scenario { prepare, act, otherwise: act, after: "mgmt.vm.Remove+ dom0 name new\0" });
}

#[test]
fn create_disposable() {
    let act = "mgmt.vm.CreateDisposable+ dom0 name work\0";
    sweep(&Scenario { prepare, act, otherwise: act, after: act });
}

#[test]
fn remove_vm() {
    let act = "mgmt.vm.Remove+ dom0 name work\0";
    let after = "mgmt.vm.Create.AppVM+base dom0 name dom0\0name=work label=red";
    sweep(&Scenario { prepare, act, otherwise: act, after });
}

#[test]
fn add_pool() {
    let act = "mgmt.pool.Add+file dom0 name dom0\0name=fast\ndir_path=STATE/fast\n";
    sweep(&Scenario { prepare, act, otherwise: act, after: "mgmt.pool.Remove+fast dom0 name dom0\0" });
}

#[test]
fn remove_pool() {
    let add = "mgmt.pool.Add+file dom0 name dom0\0name=fast\ndir_path=STATE/fast\n";
    let prepare = |daemon: &Daemon| {
        let add = "mgmt.pool.Add+file dom0 name dom0\0name=fast\ndir_path=STATE/fast\n";
        assert!(ask(daemon.socket(), add).starts_with(b"0\0"));
    };
    let act = "mgmt.pool.Remove+fast dom0 name dom0\0";
    sweep(&Scenario { prepare, act, otherwise: act, after: add });
}

#[test]
fn end_of_a_disposable() {
    let prepare = |daemon: &Daemon| {
        prepare(daemon);
        let request = "mgmt.vm.Create.DispVM+work dom0 name dom0\0name=goes label=red";
        assert!(ask(daemon.socket(), request).starts_with(b"0\0"));
        assert_eq!(daemon.call("mgmt.vm.property.Set", "goes", "auto_cleanup", b"True").ok(), "");
        start(daemon, "goes");
    };
    let after = "mgmt.vm.Create.DispVM+work dom0 name dom0\0name=goes label=red";
    // Before its end it still runs: the same Kill.
    let act = "mgmt.vm.Kill+ dom0 name goes\0";
    sweep(&Scenario { prepare, act, otherwise: act, after });
}

const START: &str = "mgmt.vm.Start+ dom0 name work\0";

#[test]
fn snapshot_volume() {
    let act = "mgmt.vm.volume.Snapshot+private dom0 name work\0";
    sweep(&Scenario { prepare, act, otherwise: act, after: START });
}

#[test]
fn revert_volume() {
    let prepare = |daemon: &Daemon| {
        prepare(daemon);
        for request in [
            "mgmt.vm.volume.Set.revisions_to_keep+private dom0 name work\x001",
            "mgmt.vm.volume.Snapshot+private dom0 name work\0",
            "mgmt.vm.volume.ImportWithSize+private dom0 name work\x005\nhello",
        ] {
            assert!(ask(daemon.socket(), request).starts_with(b"0\0"), "{request}");
        }
    };
    let act = "mgmt.vm.volume.Revert+private dom0 name work\0s1";
    sweep(&Scenario { prepare, act, otherwise: act, after: START });
}

#[test]
fn resize_volume() {
    let act = "mgmt.vm.volume.Resize+private dom0 name work\x003221225472";
    sweep(&Scenario { prepare, act, otherwise: act, after: START });
}

#[test]
fn import_into_volume() {
    let act = "mgmt.vm.volume.ImportWithSize+private dom0 name work\x005\nhello";
    // Exactly as much as it has: the model's size is that of the data.
    let after = "mgmt.vm.volume.Clear+private dom0 name work\0";
    sweep(&Scenario { prepare, act, otherwise: act, after });
}
