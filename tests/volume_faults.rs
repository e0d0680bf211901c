//! A disk that is full, or broken, at each change that a call makes in a pool: the caller is told what and why, and
//! everything is as before or as after. What follows works, and after a restart nothing is left over.
//!
//! The drivers' own sweep, in more states, is `libvirt-qubes/tests/storage/faults.rs`.

use std::hash::{DefaultHasher, Hasher};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use mgmt_tests::scene::{self, create, examine, files, left_over, names, pool, template};
use mgmt_tests::{Answer, Daemon, Fate, Faults, Hooked, Mounted, On, Start};

const ENOSPC: i32 = 28;
const EIO: i32 = 5;
/// More changes than any of these calls makes.
const MOST: u32 = 200;

/// A call, and how to have things again as they were before it, whether it has done its work or not.
struct Act {
    name: &'static str,
    act: fn(&Daemon) -> Answer,
    reset: fn(&Daemon),
}

const ACTS: &[Act] = &[
    Act {
        name: "Create",
        act: |d| d.call("mgmt.vm.Create.AppVM", "dom0", "base", b"name=new label=red"),
        reset: |d| remove(d, "new"),
    },
    Act {
        name: "CreateTemplate",
        act: |d| d.call("mgmt.vm.CreateTemplate", "dom0", "new", &data(b't')),
        reset: |d| remove(d, "new"),
    },
    Act {
        name: "Clone",
        act: |d| d.call("mgmt.vm.Clone", "work", "", b"name=new"),
        reset: |d| remove(d, "new"),
    },
    Act {
        name: "Start",
        act: |d| d.call("mgmt.vm.Start", "work", "", b""),
        reset: |d| {
            if scene::state(d, "work") != "Halted" {
                ok(d, "mgmt.vm.Kill", "work", "", b"");
            }
        },
    },
    Act { name: "ImportWithSize", act: |d| import(d, "work", b'c'), reset: import_again },
    Act {
        name: "Clear",
        act: |d| d.call("mgmt.vm.volume.Clear", "work", "private", b""),
        reset: import_again,
    },
    Act {
        name: "CloneTo",
        act: |d| {
            let token = ok(d, "mgmt.vm.volume.CloneFrom", "far", "private", b"");
            d.call("mgmt.vm.volume.CloneTo", "work", "private", token.as_bytes())
        },
        reset: import_again,
    },
    Act {
        name: "Revert",
        act: |d| d.call("mgmt.vm.volume.Revert", "work", "private", snapshots(d)[0].as_bytes()),
        reset: import_again,
    },
    Act {
        name: "Resize",
        act: |d| d.call("mgmt.vm.volume.Resize", "work", "private", b"1048576"),
        reset: import_again,
    },
    Act {
        name: "Snapshot",
        act: |d| d.call("mgmt.vm.volume.Snapshot", "work", "private", b""),
        reset: |d| {
            for id in &snapshots(d)[1..] {
                ok(d, "mgmt.vm.volume.RemoveSnapshot", "work", "private", id.as_bytes());
            }
        },
    },
    Act {
        name: "RemoveSnapshot",
        act: |d| {
            d.call("mgmt.vm.volume.RemoveSnapshot", "mail", "private", snapshots_of(d, "mail")[0].as_bytes())
        },
        reset: |d| {
            if snapshots_of(d, "mail").is_empty() {
                ok(d, "mgmt.vm.volume.Snapshot", "mail", "private", b"");
            }
        },
    },
];

fn ok(daemon: &Daemon, method: &str, vm: &str, argument: &str, payload: &[u8]) -> String {
    daemon.call(method, vm, argument, payload).ok()
}

/// Three stretches of data with holes between them.
fn data(byte: u8) -> Vec<u8> {
    let mut data = vec![0; 6 << 17];
    data.chunks_mut(1 << 17).step_by(2).for_each(|chunk| chunk.fill(byte));
    data
}

fn import(daemon: &Daemon, vm: &str, byte: u8) -> Answer {
    let data = data(byte);
    let payload = [format!("{}\n", data.len()).as_bytes(), &data].concat();
    daemon.call("mgmt.vm.volume.ImportWithSize", vm, "private", &payload)
}

fn import_again(daemon: &Daemon) {
    assert_eq!(import(daemon, "work", b'a').ok(), "");
}

fn remove(daemon: &Daemon, vm: &str) {
    if names(daemon).contains(&vm.to_owned()) {
        ok(daemon, "mgmt.vm.Remove", vm, "", b"");
    }
}

fn snapshots_of(daemon: &Daemon, vm: &str) -> Vec<String> {
    let listed = ok(daemon, "mgmt.vm.volume.ListSnapshots", vm, "private", b"");
    listed.lines().filter(|id| id.starts_with('s')).map(str::to_owned).collect()
}

fn snapshots(daemon: &Daemon) -> Vec<String> {
    snapshots_of(daemon, "work")
}

/// What a client can see, and what lies in the pool: files with their lengths and data. Without automatic revisions and prepared
/// copies, and without the numbers of snapshots.
fn seen(daemon: &Daemon) -> Vec<String> {
    let held = |name: &String| {
        let (mut length, mut first) = (0, Vec::new());
        if let Ok(file) = std::fs::File::open(pool(daemon).join(name)) {
            length = file.metadata().unwrap().len();
            file.take(1 << 20).read_to_end(&mut first).unwrap();
        }
        let mut digest = DefaultHasher::new();
        digest.write(&first);
        format!("{length} {:x}", digest.finish())
    };
    let numberless = |name: &str| match name.split_once("-keep.") {
        Some((volume, _)) => format!("{volume}-keep.N.img"),
        None => name.to_owned(),
    };
    // A copy has its source's link to tell that it is outdated, and does without where that cannot be made.
    let is_hint = |name: &str| name.starts_with("appvms/") && name.ends_with("/root.img");
    let kept = |name: &&String| !name.contains("precache") && !name.contains('@') && !is_hint(name);
    let lying = files(&pool(daemon));
    let lying = lying.iter().filter(kept).map(|name| format!("{} {}", numberless(name), held(name)));
    let mut seen: Vec<_> = names(daemon).into_iter().chain(lying).collect();
    seen.push(scene::state(daemon, "work"));
    seen.push(
        ok(daemon, "mgmt.vm.volume.Info", "work", "private", b"")
            .lines()
            .filter(|l| l.starts_with("size="))
            .collect(),
    );
    seen
}

/// With a few VMs, one of which has its private volume on another file system.
fn scene(faults: &Faults, start: Start) -> (Daemon, tempfile::TempDir) {
    let other = tempfile::tempdir_in("/dev/shm").unwrap();
    let daemon = start.faults(faults).start();
    faults.set_place(&pool(&daemon));
    template(&daemon);
    for name in ["work", "mail", "gone"] {
        create(&daemon, name);
    }
    let options = format!("name=other\ndir_path={}\n", other.path().join("pool").display());
    assert_eq!(daemon.call("mgmt.pool.Add", "dom0", "file", options.as_bytes()).ok(), "");
    let payload = b"name=far label=red pool:private=other";
    assert_eq!(daemon.call("mgmt.vm.CreateInPool.AppVM", "dom0", "base", payload).ok(), "");
    for (vm, byte) in [("work", b'k'), ("far", b'b'), ("mail", b'm'), ("gone", b'g')] {
        assert_eq!(import(&daemon, vm, byte).ok(), "");
    }
    ok(&daemon, "mgmt.vm.volume.Set.revisions_to_keep", "work", "private", b"1");
    for vm in ["work", "mail"] {
        ok(&daemon, "mgmt.vm.volume.Snapshot", vm, "private", b"");
    }
    import_again(&daemon);
    (daemon, other)
}

fn told(answer: &Answer, errno: i32, context: &str) {
    let (class, text) = answer.exception();
    assert_eq!(class, "StoragePoolException", "{context}: {text}");
    let why = if errno == EIO { "nput/output error" } else { "o space left" };
    assert!(text.contains(why), "{context}: does not say why: {text}");
    assert!(
        ["appvms/", "vm-templates/"].iter().any(|what| text.contains(what)),
        "{context}: does not say what: {text}"
    );
}

fn fail_each(daemon: &Daemon, faults: &Faults, act: &Act) {
    let before = seen(daemon);
    assert!((act.act)(daemon).0.starts_with(b"0\0"), "{}", act.name);
    let after = seen(daemon);
    assert_ne!(before, after, "{}", act.name);
    (act.reset)(daemon);
    for errno in [ENOSPC, EIO] {
        for at in 1.. {
            assert!(at < MOST, "{}: no end", act.name);
            assert_eq!(seen(daemon), before, "{}", act.name);
            faults.changes();
            faults.arm(On::Change, at, Fate::Errno(errno));
            let answer = (act.act)(daemon);
            faults.disarm();
            let changes = faults.changes();
            let Some(change) = changes.get(usize::try_from(at).unwrap() - 1) else {
                assert!(answer.0.starts_with(b"0\0"), "{}: {:?}", act.name, answer.exception());
                assert!(at > 1, "{} makes no change", act.name);
                (act.reset)(daemon);
                break;
            };
            let context = format!("{}, change {at} failed with {errno}: {change}", act.name);
            let acknowledged = answer.0.starts_with(b"0\0");
            if !acknowledged {
                told(&answer, errno, &context);
            }
            if act.name == "Revert" && errno == ENOSPC && change.starts_with("link ") {
                assert!(acknowledged, "{context}");
                let said = daemon.log();
                assert!(said.contains("no room to keep the present state as a revision"), "{context}");
            }
            let found = seen(daemon);
            let is_before = found == before && !acknowledged;
            assert!(is_before || found == after, "{context}:\n{found:#?}\n{before:#?}\n{after:#?}");
            (act.reset)(daemon);
            nothing_is_left(daemon, &context);
        }
    }
}

/// A copy may be being prepared for the next start.
fn nothing_is_left(daemon: &Daemon, context: &str) {
    scene::until(&format!("{context}: nothing is left over"), || left_over(daemon).is_empty());
}

/// A removal is not taken back: what could not be removed goes at the next start of the daemon.
fn fail_each_removal(mut daemon: Daemon, faults: &Faults) -> Daemon {
    let gone =
        |daemon: &Daemon| files(&pool(daemon)).into_iter().filter(|name| name.contains("/gone/")).count();
    for (at, errno) in (1..MOST).zip([ENOSPC, EIO].into_iter().cycle()) {
        faults.changes();
        faults.arm(On::Change, at, Fate::Errno(errno));
        let answer = daemon.call("mgmt.vm.Remove", "gone", "", b"");
        faults.disarm();
        let changes = faults.changes();
        let context = format!("change {at} failed with {errno}: {changes:?}");
        assert!(!names(&daemon).contains(&"gone".to_owned()), "{context}");
        let acknowledged = answer.0.starts_with(b"0\0");
        if usize::try_from(at).unwrap() > changes.len() {
            assert!(acknowledged && gone(&daemon) == 0 && at > 3, "{context}");
            return daemon;
        }
        if !acknowledged {
            told(&answer, errno, &context);
        }
        daemon = daemon.kill_and_restart();
        scene::until("what is left of the removed VM goes", || gone(&daemon) == 0);
        scene::until("its name is free", || {
            let payload = b"name=gone label=red";
            daemon.call("mgmt.vm.Create.AppVM", "dom0", "base", payload).0.starts_with(b"0\0")
        });
        assert_eq!(import(&daemon, "gone", b'g').ok(), "");
    }
    panic!("no end");
}

/// A run whose end fails: what was written is there after the next one.
fn fail_each_stop(daemon: &Daemon, faults: &Faults) {
    let private = |form: &str| pool(daemon).join(format!("appvms/work/private{form}.img"));
    let first = |path: &Path| std::fs::read(path).unwrap()[0];
    let mut written = b'0';
    for errno in [ENOSPC, EIO] {
        for at in 1.. {
            assert!(at < MOST, "no end");
            written += 1;
            scene::start(daemon, "work");
            let file = std::fs::File::options().write(true).open(private("-dirty")).unwrap();
            file.write_all_at(&[written], 0).unwrap();
            faults.changes();
            faults.arm(On::Change, at, Fate::Errno(errno));
            daemon.call("mgmt.vm.Kill", "work", "", b"");
            scene::until("the VM halts", || scene::state(daemon, "work") == "Halted");
            faults.disarm();
            let changes = faults.changes();
            let context = format!("change {at} failed with {errno}: {changes:?}");
            if usize::try_from(at).unwrap() > changes.len() {
                assert_eq!(first(&private("")), written);
                assert!(at > 3, "{context}");
                break;
            }
            scene::start(daemon, "work");
            assert_eq!(first(&private("-dirty")), written, "{context}");
            ok(daemon, "mgmt.vm.Kill", "work", "", b"");
            assert_eq!(first(&private("")), written, "{context}");
            nothing_is_left(daemon, &context);
        }
    }
}

fn sweep(start: Start) {
    let faults = match Faults::new() {
        Ok(faults) => faults.within(Path::new("/nowhere")),
        Err(why) => return println!("skipped: changes that fail: {why}"),
    };
    let (daemon, _other) = scene(&faults, start);
    for act in ACTS {
        fail_each(&daemon, &faults, act);
    }
    fail_each_stop(&daemon, &faults);
    let daemon = fail_each_removal(daemon, &faults);
    scene::start(&daemon, "work");
    let state = daemon.state();
    let daemon = daemon.kill_and_restart();
    // It runs on.
    ok(&daemon, "mgmt.vm.Kill", "work", "", b"");
    scene::until("all volumes are at rest", || left_over(&daemon).is_empty());
    drop(daemon.kill_and(|| examine(&state)));
}

#[test]
fn whichever_change_fails_in_a_pool_of_files_everything_is_as_before_or_as_after() {
    sweep(Start::new().in_memory());
}

#[test]
fn whichever_change_fails_where_blocks_are_shared_everything_is_as_before_or_as_after() {
    let Some(xfs) = Mounted::in_memory(&["mkfs.xfs", "-q", "-f", "-m", "reflink=1"]) else { return };
    sweep(Start::new().inside(&xfs.path()));
}

/// A command behind it fails, when the new data is there already: the size of what is on disk is what clients see.
#[test]
fn after_an_import_that_failed_last_the_size_is_that_of_the_data_that_is_there() {
    let hooked = Hooked::new();
    let mut daemon = hooked.start("").start();
    template(&daemon);
    hooked.add(&daemon);
    for (vm, pool) in [("work", "hooked"), ("far", "varlibqubes")] {
        let payload = format!("name={vm} label=red pool:private={pool}");
        ok(&daemon, "mgmt.vm.CreateInPool.AppVM", "dom0", "base", payload.as_bytes());
    }
    let payload = |length: usize| [format!("{length}\n").into_bytes(), vec![7; length]].concat();
    ok(&daemon, "mgmt.vm.volume.ImportWithSize", "far", "private", &payload(12288));
    let sizes = |daemon: &Daemon| {
        let facts = ok(daemon, "mgmt.vm.volume.Info", "work", "private", b"");
        let told = facts.lines().find_map(|line| line.strip_prefix("size=")).unwrap().parse::<u64>().unwrap();
        (told, std::fs::metadata(hooked.path().join("appvms/work/private.img")).unwrap().len())
    };
    for (hook, method, length) in [
        ("post_volume_import_data_end", "mgmt.vm.volume.ImportWithSize", 8192),
        ("post_volume_import", "mgmt.vm.volume.CloneTo", 12288),
    ] {
        let payload = match method {
            "mgmt.vm.volume.CloneTo" => {
                ok(&daemon, "mgmt.vm.volume.CloneFrom", "far", "private", b"").into_bytes()
            }
            _ => payload(8192),
        };
        hooked.fail(hook);
        let (class, text) = daemon.call(method, "work", "private", &payload).exception();
        hooked.mend(hook);
        assert!(class == "StoragePoolException" && text.contains("as a test wants it"), "{class}: {text}");
        assert_eq!(sizes(&daemon), (length, length), "{method}");
        // Before the pool's first use clients see what the model has.
        daemon = daemon.kill_and_restart();
        assert_eq!(sizes(&daemon), (length, length), "{method}, after a restart");
    }
    ok(&daemon, "mgmt.vm.Start", "work", "", b"");
}
