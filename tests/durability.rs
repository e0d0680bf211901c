//! What was acknowledged is there, whatever happens to the daemon, its disk or its database; what was not is there
//! whole or not at all; and a call that cannot be done says why, and works when the cause is gone.
//!
//! The daemon is the one that users get. Faults at an exact write or sync come from a library that is loaded before
//! the C library (`tests/support/faults.c`); full and read-only file systems are real where the test may mount them.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Barrier;

use mgmt_tests::{Answer, Daemon, Fate, Faults, On, Start, binary};

/// Why the test ends here, in the words that the test runner counts.
fn skip(why: &str) {
    eprintln!("\nskipped: {why}");
}

/// A daemon with faults, and a VM `work`.
fn with_faults() -> Option<(Faults, Daemon)> {
    let faults = match Faults::new() {
        Ok(faults) => faults,
        Err(why) => {
            skip(&why);
            return None;
        }
    };
    let daemon = Start::new().in_memory().faults(&faults).start();
    make(&daemon, "work");
    Some((faults, daemon))
}

fn make(daemon: &Daemon, name: &str) {
    let payload = format!("name={name} label=red");
    daemon.call("admin.vm.Create.StandaloneVM", "dom0", "", payload.as_bytes()).ok();
}

fn set_memory(daemon: &Daemon, value: u32) -> Answer {
    daemon.call("admin.vm.property.Set", "work", "memory", value.to_string().as_bytes())
}

fn memory(daemon: &Daemon) -> u32 {
    let answer = daemon.call("mgmt.vm.property.Get", "work", "memory", b"").ok();
    answer.rsplit(' ').next().unwrap().parse().unwrap()
}

fn names(daemon: &Daemon) -> BTreeSet<String> {
    let list = daemon.call("mgmt.vm.List", "dom0", "", b"").ok();
    list.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

/// One request after another, each to a daemon that is killed at the next point of what it writes, before it, in the
/// middle of it and after it, until the request has no more points. `check` looks at what each kill left.
fn kill_at_every_point(
    faults: &Faults,
    mut daemon: Daemon,
    mut request: impl FnMut() -> String,
    mut check: impl FnMut(&Daemon, &str),
) -> (Daemon, u32) {
    let mut kills = 0;
    for fate in [Fate::KilledBefore, Fate::KilledHalfway, Fate::KilledAfter] {
        for nth in 1.. {
            faults.arm(On::Any, nth, fate);
            let answer = daemon.socket().try_raw(request().as_bytes());
            faults.disarm();
            if let Some(answer) = answer {
                answer.ok();
                check(&daemon, &format!("{fate:?} beyond the last point"));
                assert!(nth > 2, "a change that neither writes nor syncs");
                break;
            }
            daemon.wait_for_its_end();
            daemon = daemon.kill_and_restart();
            kills += 1;
            check(&daemon, &format!("{fate:?} at point {nth}"));
        }
    }
    (daemon, kills)
}

#[test]
fn a_kill_at_any_point_of_a_commit_leaves_the_old_value_or_the_new() {
    let Some((faults, daemon)) = with_faults() else { return };
    let (mut value, mut next) = (memory(&daemon), 1000);
    let (mut kept, mut lost) = (0, 0);
    let sent = std::cell::Cell::new(0);
    let (_, kills) = kill_at_every_point(
        &faults,
        daemon,
        || {
            next += 1;
            sent.set(next);
            format!("admin.vm.property.Set+memory dom0 name work\0{next}")
        },
        |daemon, when| {
            let found = memory(daemon);
            assert!([value, sent.get()].contains(&found), "{when}: {value} was there, then {found}");
            if found == value {
                lost += 1
            } else {
                kept += 1
            }
            value = found;
        },
    );
    assert!(kills > 6 && kept > 0 && lost > 0, "{kills} kills: {kept} kept, {lost} lost");
}

/// What lies below a folder, by path.
fn files(dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        found.insert(path.to_str().unwrap().to_owned());
        found.extend(files(&path));
    }
    found
}

#[test]
fn a_kill_at_any_point_of_a_creation_or_removal_leaves_a_whole_vm_or_nothing() {
    let Some((faults, daemon)) = with_faults() else { return };
    let pool = daemon.state().join("varlibqubes");
    let without = files(&pool);
    make(&daemon, "made");
    let with = files(&pool);
    assert!(with.len() > without.len());
    let whole = |daemon: &Daemon, when: &str| {
        let there = names(daemon).contains("made");
        let wanted = if there { &with } else { &without };
        // What a start puts right it does beside its work.
        for _ in 0..3000 {
            if files(&pool) == *wanted {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(files(&pool), *wanted, "{when}: the VM is {}there", if there { "" } else { "not " });
        there
    };
    // The next creation takes the name that the last kill may have left reserved for a moment.
    let again = |daemon: &Daemon| {
        for _ in 0..3000 {
            let answer = daemon.call("admin.vm.Create.StandaloneVM", "dom0", "", b"name=made label=red");
            if !answer.0.starts_with(b"2\0QubesVMAlreadyExistsError\0") {
                answer.ok();
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("the name stays reserved");
    };
    let (daemon, kills) = kill_at_every_point(
        &faults,
        daemon,
        || "admin.vm.Remove+ dom0 name made\0".into(),
        |daemon, when| {
            if !whole(daemon, when) {
                again(daemon);
            }
        },
    );
    assert!(kills > 6, "{kills}");
    daemon.call("admin.vm.Remove", "made", "", b"").ok();
    let (_, kills) = kill_at_every_point(
        &faults,
        daemon,
        || "admin.vm.Create.StandaloneVM+ dom0 name dom0\0name=made label=red".into(),
        |daemon, when| {
            if !whole(daemon, when) {
                // Free again, in all: another may be made under the name.
                again(daemon);
            }
            daemon.call("admin.vm.Remove", "made", "", b"").ok();
        },
    );
    assert!(kills > 6, "{kills}");
}

#[test]
fn a_database_that_cannot_be_written_fails_the_call_and_nothing_else() {
    let Some((faults, mut daemon)) = with_faults() else { return };
    let mut value = 500;
    set_memory(&daemon, value).ok();
    let number = |error: rustix::io::Errno| error.raw_os_error();
    for (on, errno, words) in [
        (On::Write, number(rustix::io::Errno::NOSPC), "no space left"),
        (On::Write, number(rustix::io::Errno::IO), "internal error, log id "),
        (On::Sync, number(rustix::io::Errno::IO), "internal error, log id "),
        (On::Sync, number(rustix::io::Errno::NOSPC), "internal error, log id "),
    ] {
        let case = format!("{on:?} fails with {errno}");
        let mut events = daemon.socket().events("dom0");
        faults.arm(on, 0, Fate::Errno(errno));
        for _ in 0..3 {
            let (class, text) = set_memory(&daemon, value + 1).exception();
            assert_eq!(class, "QubesException", "{case}: {text}");
            assert!(text.contains(words), "{case}: {text}");
            assert_eq!(memory(&daemon), value, "{case}: readers see what is stored");
        }
        faults.disarm();
        // The cause is gone: the next call works, and only that one was announced as done.
        set_memory(&daemon, value + 2).ok();
        value += 2;
        assert_eq!(memory(&daemon), value, "{case}");
        let seen = events.until("work property-set:memory");
        let changes = seen.iter().filter(|event| event.contains("property-set:memory")).count();
        assert_eq!(changes, 1, "{case}: {seen:?}");
        assert!(
            seen.iter()
                .any(|event| event.contains(&format!("property-set:memory name=memory newvalue={value}")))
        );
        daemon = daemon.kill_and_restart();
        assert_eq!(memory(&daemon), value, "{case}: the disk agrees");
    }
}

/// A file system on a loop device, which can be made to turn read-only.
struct Loop(tempfile::TempDir);

impl Loop {
    /// An error says why this machine cannot have one.
    fn mount() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("mounting a file system needs root".into());
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("at")).unwrap();
        let image = std::fs::File::create(dir.path().join("image")).unwrap();
        image.set_len(64 << 20).unwrap();
        run(Command::new("mkfs.ext4").arg("-q").arg(dir.path().join("image")))?;
        let new = Self(dir);
        new.attach()?;
        Ok(new)
    }

    fn attach(&self) -> Result<(), String> {
        let image = self.0.path().join("image");
        run(Command::new("mount").args(["-o", "loop,errors=remount-ro"]).arg(image).arg(self.path()))
    }

    fn detach(&self) {
        run(Command::new("umount").arg(self.path())).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("at")
    }

    /// What ext4 does when it finds an error.
    fn turn_read_only(&self) -> Result<(), String> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let at = self.path();
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == at.to_str()).unwrap();
        let device = line.split(' ').next().unwrap().rsplit('/').next().unwrap();
        let trigger = format!("/sys/fs/ext4/{device}/trigger_fs_error");
        std::fs::write(&trigger, "a test").map_err(|error| format!("{trigger}: {error}"))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.path()).output());
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {}", said.trim())) }
}

#[test]
fn on_a_file_system_that_turned_read_only_changes_fail_clearly_and_reads_go_on() {
    let disk = match Loop::mount() {
        Ok(disk) => disk,
        Err(why) => return skip(&why),
    };
    let daemon = Start::new().inside(&disk.path()).start();
    make(&daemon, "work");
    set_memory(&daemon, 700).ok();
    if let Err(why) = disk.turn_read_only() {
        return skip(&why);
    }
    let (class, text) = set_memory(&daemon, 800).exception();
    assert_eq!(class, "QubesException");
    assert!(text.contains("state.db") && text.ends_with("the file system is read-only"), "{text}");
    assert_eq!(memory(&daemon), 700);
    let (class, _) = daemon.call("admin.vm.Create.RemoteVM", "dom0", "", b"name=far label=red").exception();
    assert_eq!(class, "QubesException");
    assert_eq!(names(&daemon), BTreeSet::from(["dom0".into(), "work".into()]));

    let daemon = daemon.kill_and(|| {
        disk.detach();
        // As an administrator would; it says by its status that it repaired something.
        drop(Command::new("e2fsck").args(["-fy"]).arg(disk.0.path().join("image")).output());
        disk.attach().unwrap();
    });
    assert_eq!(memory(&daemon), 700);
    set_memory(&daemon, 800).ok();
    assert_eq!(memory(&daemon.kill_and_restart()), 800);
}

#[test]
fn reads_wait_for_no_writer_and_what_waits_is_committed_together() {
    const CLIENTS: usize = 64;
    let Some((faults, daemon)) = with_faults() else { return };
    let vm = |n: usize| format!("far{n}");
    for n in 0..CLIENTS {
        let payload = format!("name={} label=red", vm(n));
        daemon.call("admin.vm.Create.RemoteVM", "dom0", "", payload.as_bytes()).ok();
    }
    let label = |n: usize| daemon.call("mgmt.vm.property.Get", &vm(n), "label", b"").ok();
    let all_sent = Barrier::new(CLIENTS + 1);
    faults.hold();
    let before = faults.syncs();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let (socket, all_sent) = (daemon.socket(), &all_sent);
                scope.spawn(move || {
                    let mut stream = socket.connect();
                    write!(stream, "admin.vm.property.Set+label dom0 name far{n}\0blue").unwrap();
                    stream.shutdown(std::net::Shutdown::Write).unwrap();
                    all_sent.wait();
                    let mut answer = Vec::new();
                    std::io::Read::read_to_end(&mut stream, &mut answer).unwrap();
                    answer
                })
            })
            .collect();
        all_sent.wait();
        while faults.syncs() == before {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        // The disk does not answer, so no change may be seen; every read answers all the same.
        let seen: Vec<(String, usize)> = (0..CLIENTS).map(|n| (label(n), names(&daemon).len())).collect();
        let acknowledged = clients.iter().filter(|client| client.is_finished()).count();
        faults.release();
        assert!(seen.iter().all(|seen| *seen == ("default=no red".to_owned(), CLIENTS + 2)), "{seen:?}");
        assert_eq!(acknowledged, 0, "acknowledged before it was on disk");
        for client in clients {
            assert_eq!(client.join().unwrap(), b"0\0");
        }
    });
    let syncs = faults.syncs() - before;
    assert!(syncs < CLIENTS as u64 / 4, "{CLIENTS} changes took {syncs} syncs");
    let daemon = daemon.kill_and_restart();
    for n in 0..CLIENTS {
        assert_eq!(daemon.call("mgmt.vm.property.Get", &vm(n), "label", b"").ok(), "default=no blue");
    }
}

#[test]
fn many_clients_read_and_write_at_once_and_each_finds_what_it_was_told() {
    const CLIENTS: u32 = 64;
    let daemon = Start::new().in_memory().start();
    for n in 0..CLIENTS {
        let payload = format!("name=far{n} label=red");
        daemon.call("admin.vm.Create.RemoteVM", "dom0", "", payload.as_bytes()).ok();
    }
    let labels = ["red", "orange", "yellow", "green", "gray", "blue", "purple", "black"];
    std::thread::scope(|scope| {
        for n in 0..CLIENTS {
            let socket = daemon.socket();
            scope.spawn(move || {
                let vm = format!("far{n}");
                for round in 0..8 {
                    let label = labels[(n as usize + round) % labels.len()];
                    socket.call("admin.vm.property.Set", &vm, "label", label.as_bytes()).ok();
                    let got = socket.call("mgmt.vm.property.Get", &vm, "label", b"").ok();
                    assert_eq!(got, format!("default=no {label}"), "its own change, right after the answer");
                    assert_eq!(socket.call("mgmt.vm.List", "dom0", "", b"").ok().lines().count(), 65);
                }
            });
        }
    });
    let daemon = daemon.kill_and_restart();
    for n in 0..CLIENTS {
        let label = labels[(n as usize + 7) % labels.len()];
        let got = daemon.call("mgmt.vm.property.Get", &format!("far{n}"), "label", b"").ok();
        assert_eq!(got, format!("default=no {label}"));
    }
}

/// A second daemon on the same state, until it ends.
fn second(state: &Path, socket: &Path) -> Output {
    Command::new(binary("mgmtd"))
        .args(["--hypervisor", "sim", "--config", "/dev/null", "--state"])
        .arg(state)
        .arg("--socket")
        .arg(socket)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn a_second_daemon_on_the_same_state_refuses_and_names_the_first() {
    let daemon = Daemon::start();
    make(&daemon, "work");
    let other = second(&daemon.state(), &daemon.dir().join("other.sock"));
    let said = String::from_utf8(other.stderr).unwrap();
    assert_eq!(other.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("in use by process {} (mgmtd)", daemon.pid())), "{said}");
    assert!(said.contains(daemon.state().to_str().unwrap()), "{said}");
    assert!(!daemon.dir().join("other.sock").exists(), "it opened nothing");
    set_memory(&daemon, 700).ok();
    assert_eq!(memory(&daemon.kill_and_restart()), 700);
}

#[test]
fn a_database_that_another_process_locks_keeps_the_daemon_out_until_it_is_free() {
    let daemon = Daemon::start();
    make(&daemon, "work");
    let database = daemon.state().join("state.db");

    // While the daemon runs nobody else gets a lock, and nobody disturbs it.
    let other = rusqlite::Connection::open(&database).unwrap();
    other.busy_timeout(std::time::Duration::ZERO).unwrap();
    let refused = other.execute_batch("BEGIN EXCLUSIVE").unwrap_err();
    assert_eq!(refused.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy), "{refused}");
    set_memory(&daemon, 700).ok();

    let (state, dir) = (daemon.state(), daemon.dir().to_owned());
    let copy = dir.join("copy");
    assert!(Command::new("cp").arg("-a").args([&state, &copy]).status().unwrap().success());
    let held = rusqlite::Connection::open(copy.join("state.db")).unwrap();
    held.execute_batch("PRAGMA locking_mode=exclusive; BEGIN EXCLUSIVE").unwrap();
    let kept_out = second(&copy, &dir.join("other.sock"));
    let said = String::from_utf8(kept_out.stderr).unwrap();
    assert_eq!(kept_out.status.code(), Some(1), "{said}");
    assert!(said.contains("state.db") && said.contains("locked"), "{said}");
    held.execute_batch("ROLLBACK").unwrap();
    drop(held);
    assert_eq!(memory(&daemon.kill_and_restart()), 700);
}
