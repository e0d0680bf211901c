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

use mgmt_tests::scene::{create, examine, files, names, pool, start, template, until};
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
    /// It may change the size of a volume.
    is_of_volume: bool,
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

/// Without what says nothing: prepared copies, automatic revisions, and the numbers of disposables. Files with their lengths
/// and first bytes.
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
    let held = |name: &String| {
        let mut first = [0; 8];
        let opened = std::fs::File::open(pool(daemon).join(name));
        let length = opened.map_or(0, |mut file| {
            file.read_exact(&mut first).ok();
            file.metadata().map_or(0, |file| file.len())
        });
        format!("{length} {}", first.escape_ascii())
    };
    let sized = |name: String| format!("{} {}", nameless(name.clone()), held(&name));
    (
        names(daemon).into_iter().map(nameless).collect(),
        files(&pool(daemon)).into_iter().filter(kept).map(sized).collect(),
        pools.lines().chain(folders).map(str::to_owned).collect(),
    )
}

/// Asks, and gives what came until the connection ended, however it did. `STATE` is the state folder, `TOKEN` a token for
/// the private volume of `work`; `HANDED DATA` imports into that volume as the script of the deployed client does.
fn ask(socket: &Socket, request: &str) -> Vec<u8> {
    if let Some(data) = request.strip_prefix("HANDED ") {
        return import_by_script(socket, data.as_bytes());
    }
    let state = socket.path().with_file_name("state");
    let mut request = request.replace("STATE", state.to_str().unwrap());
    if request.contains("TOKEN") {
        let token = ask(socket, "mgmt.vm.volume.CloneFrom+private dom0 name work\0");
        let token = token.strip_prefix(b"0\0").map(String::from_utf8_lossy).unwrap_or_default();
        request = request.replace("TOKEN", &token);
    }
    // It may be gone before it is asked.
    let Ok(mut stream) = UnixStream::connect(socket.path()) else { return Vec::new() };
    let mut answer = Vec::new();
    let asked = stream.write_all(request.as_bytes()).and_then(|()| stream.shutdown(Shutdown::Write));
    if asked.is_ok() && stream.read_to_end(&mut answer).is_err() {
        answer.clear();
    }
    answer
}

/// `ImportBegin`, what `dd conv=sparse,notrunc,nocreat` does, `ImportEnd`; the answer to the last.
fn import_by_script(socket: &Socket, data: &[u8]) -> Vec<u8> {
    let internal = Socket::new(socket.path().with_file_name("internal.sock"));
    let begun =
        ask(&internal, &format!("internal.vm.volume.ImportBegin+private dom0 name work\0{}", data.len()));
    let told = begun.strip_prefix(b"0\0").map(|told| String::from_utf8(told.to_vec()).unwrap());
    let Some((_, path)) = told.as_deref().and_then(|told| told.split_once(' ')) else { return Vec::new() };
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, data, 0).unwrap();
    ask(&internal, "internal.vm.volume.ImportEnd+private dom0 name work\0ok")
}

/// As the daemon is always started, in its folder.
fn configured(dir: &Path) -> Start {
    let internal = dir.join("internal.sock");
    Start::new().config(&format!("[sockets]\ninternal = {:?}\n", internal.to_str().unwrap()))
}

/// The store has the sizes that private volumes have on disk.
fn sizes_agree(state: &Path) {
    let db = rusqlite::Connection::open(state.join("state.db")).unwrap();
    let sql = "SELECT vid, size FROM volume WHERE pool = 'varlibqubes' AND name = 'private' AND vid LIKE 'appvms/%'";
    let mut rows = db.prepare(sql).unwrap();
    let rows = rows.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))).unwrap();
    let mut seen = 0;
    for (vid, size) in rows.map(Result::unwrap) {
        let image = |form: &str| state.join("varlibqubes").join(format!("{vid}{form}.img")).metadata();
        let image = image("-dirty").or_else(|_| image("")).unwrap();
        assert_eq!(i64::try_from(image.len()).unwrap(), size, "{vid}");
        seen += 1;
    }
    assert!(seen > 0);
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
    let how = configured(daemon.dir());
    let mut daemon = daemon.kill_and_as(how.clone(), || copy(&state, &saved));
    assert!(ask(daemon.socket(), scenario.act).starts_with(b"0\0"), "without a crash");
    let after = seen(&daemon);
    assert_ne!(before, after);
    for at in 1..=MOST {
        daemon = daemon.kill_and_as(how.clone().faults(&faults), || copy(&saved, &state));
        faults.arm(On::Step, at, Fate::KilledBefore);
        let answer = ask(daemon.socket(), scenario.act);
        faults.disarm();
        daemon = daemon.kill_and_restart_as(how.clone());
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
        daemon = daemon.kill_and_as(how.clone(), || {
            examine(&state);
            if scenario.is_of_volume {
                sizes_agree(&state);
            }
        });
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
    sweep(&Scenario {
        prepare,
        act,
        otherwise: act,
        after: "mgmt.vm.Start+ dom0 name new\0",
        is_of_volume: false,
    });
}

#[test]
fn clone_vm() {
    let act = "mgmt.vm.Clone+ dom0 name work\0name=new";
    sweep(&Scenario {
        prepare,
        act,
        otherwise: act,
        after: "mgmt.vm.Start+ dom0 name new\0",
        is_of_volume: false,
    });
}

#[test]
fn clone_template() {
    let act = "mgmt.vm.Clone+ dom0 name base\0name=new";
    sweep(&Scenario {
        prepare,
        act,
        otherwise: act,
        after: "mgmt.vm.Remove+ dom0 name new\0",
        is_of_volume: false,
    });
}

#[test]
fn create_disposable() {
    let act = "mgmt.vm.CreateDisposable+ dom0 name work\0";
    sweep(&Scenario { prepare, act, otherwise: act, after: act, is_of_volume: false });
}

#[test]
fn remove_vm() {
    let act = "mgmt.vm.Remove+ dom0 name work\0";
    let after = "mgmt.vm.Create.AppVM+base dom0 name dom0\0name=work label=red";
    sweep(&Scenario { prepare, act, otherwise: act, after, is_of_volume: false });
}

#[test]
fn add_pool() {
    let act = "mgmt.pool.Add+file dom0 name dom0\0name=fast\ndir_path=STATE/fast\n";
    sweep(&Scenario {
        prepare,
        act,
        otherwise: act,
        after: "mgmt.pool.Remove+fast dom0 name dom0\0",
        is_of_volume: false,
    });
}

#[test]
fn remove_pool() {
    let add = "mgmt.pool.Add+file dom0 name dom0\0name=fast\ndir_path=STATE/fast\n";
    let prepare = |daemon: &Daemon| {
        let add = "mgmt.pool.Add+file dom0 name dom0\0name=fast\ndir_path=STATE/fast\n";
        assert!(ask(daemon.socket(), add).starts_with(b"0\0"));
    };
    let act = "mgmt.pool.Remove+fast dom0 name dom0\0";
    sweep(&Scenario { prepare, act, otherwise: act, after: add, is_of_volume: false });
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
    sweep(&Scenario { prepare, act, otherwise: act, after, is_of_volume: false });
}

const START: &str = "mgmt.vm.Start+ dom0 name work\0";

#[test]
fn snapshot_volume() {
    let act = "mgmt.vm.volume.Snapshot+private dom0 name work\0";
    sweep(&Scenario { prepare, act, otherwise: act, after: START, is_of_volume: true });
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
    sweep(&Scenario { prepare, act, otherwise: act, after: START, is_of_volume: true });
}

#[test]
fn resize_volume() {
    let act = "mgmt.vm.volume.Resize+private dom0 name work\x003221225472";
    sweep(&Scenario { prepare, act, otherwise: act, after: START, is_of_volume: true });
}

#[test]
fn import_into_volume() {
    let act = "mgmt.vm.volume.ImportWithSize+private dom0 name work\x005\nhello";
    // Exactly as much as it has: the model's size is that of the data.
    let after = "mgmt.vm.volume.Clear+private dom0 name work\0";
    sweep(&Scenario { prepare, act, otherwise: act, after, is_of_volume: true });
}

/// `work` with data, and `mail` beside it.
fn prepare_data(daemon: &Daemon) {
    prepare(daemon);
    create(daemon, "mail");
    let request = "mgmt.vm.volume.ImportWithSize+private dom0 name work\x005\nhello";
    assert!(ask(daemon.socket(), request).starts_with(b"0\0"));
}

#[test]
fn clone_into_volume() {
    let act = "mgmt.vm.volume.CloneTo+private dom0 name mail\0TOKEN";
    let after = "mgmt.vm.Start+ dom0 name mail\0";
    sweep(&Scenario { prepare: prepare_data, act, otherwise: act, after, is_of_volume: true });
}

#[test]
fn clear_volume() {
    let act = "mgmt.vm.volume.Clear+private dom0 name work\0";
    sweep(&Scenario { prepare: prepare_data, act, otherwise: act, after: START, is_of_volume: true });
}

#[test]
fn import_by_the_deployed_script() {
    let act = "HANDED hello world";
    let after = "mgmt.vm.volume.Clear+private dom0 name work\0";
    sweep(&Scenario { prepare, act, otherwise: act, after, is_of_volume: true });
}

#[test]
fn remove_snapshot() {
    let prepare = |daemon: &Daemon| {
        prepare_data(daemon);
        let request = "mgmt.vm.volume.Snapshot+private dom0 name work\0";
        assert!(ask(daemon.socket(), request).starts_with(b"0\0"));
    };
    let act = "mgmt.vm.volume.RemoveSnapshot+private dom0 name work\0s1";
    sweep(&Scenario { prepare, act, otherwise: act, after: START, is_of_volume: true });
}
