//! Pools that come and go while the daemon runs, on real folders and file systems.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use mgmt_tests::scene::{create, files, start, state, template, until};
use mgmt_tests::{Answer, Daemon, Hooked, Mounted, Start};

fn add(daemon: &Daemon, driver: &str, name: &str, options: &str) -> Answer {
    let payload = format!("name={name}\n{options}");
    daemon.call("mgmt.pool.Add", "dom0", driver, payload.as_bytes())
}

fn pools(daemon: &Daemon) -> Vec<String> {
    daemon.call("mgmt.pool.List", "dom0", "", b"").ok().lines().map(str::to_owned).collect()
}

fn refused(answer: &Answer, class: &str, text: &str) {
    let (got, message) = answer.exception();
    assert!(got == class && message.contains(text), "{got}: {message}");
}

/// What lies in a folder, folders included.
fn everything(dir: &Path) -> String {
    let listed = Command::new("find").arg(dir).output().unwrap();
    String::from_utf8(listed.stdout).unwrap()
}

#[test]
fn a_place_that_lacks_what_the_driver_needs_is_refused_with_the_reason_and_left_as_it_was() {
    let daemon = Daemon::start();
    let refuses = |driver: &str, dir: &Path, text: &str| {
        let before = everything(dir.parent().unwrap());
        let answer = add(&daemon, driver, "new", &format!("dir_path={}\n", dir.display()));
        refused(&answer, "StoragePoolException", text);
        assert_eq!(everything(dir.parent().unwrap()), before, "{driver} {}", dir.display());
        assert_eq!(pools(&daemon), ["varlibqubes", "linux-kernel"]);
    };
    if let Some(ext4) = Mounted::new(&["mkfs.ext4", "-q", "-F"]) {
        let pool = ext4.path().join("pool");
        refuses("file-reflink", &pool, "the file system does not support reflinks");
        assert_eq!(add(&daemon, "file", "new", &format!("dir_path={}\n", pool.display())).ok(), "");
        assert_eq!(daemon.call("mgmt.pool.Remove", "dom0", "new", b"").ok(), "");
        ext4.remount("ro");
        // Its folders are there, and nothing can be made in them.
        refuses("file", &pool, "the file system can only be read");
        refuses("file", &ext4.path().join("other"), "Read-only file system");
        refuses("linux-kernel", &ext4.path().join("other"), "Read-only file system");
        ext4.remount("rw");
        std::fs::remove_dir(pool.join("appvms")).unwrap();
        std::os::unix::fs::symlink(daemon.dir(), pool.join("appvms")).unwrap();
        refuses("file", &pool, "it is a link: volumes would lie outside the pool");
    }
    if let Some(old) = Mounted::new(&["mkfs.xfs", "-q", "-f", "-m", "reflink=0"]) {
        refuses("file-reflink", &old.path().join("pool"), "the file system does not support reflinks");
    }
    if let Some(vfat) = Mounted::new(&["mkfs.vfat"]) {
        refuses("file", &vfat.path().join("pool"), "the file system has no hard links");
        refuses("file", &vfat.path(), "the file system has no hard links");
    }
}

#[test]
fn a_folder_within_a_pool_is_found_whichever_way_it_is_mounted() {
    let daemon = Daemon::start();
    let Some(ext4) = Mounted::new(&["mkfs.ext4", "-q", "-F"]) else { return };
    std::fs::create_dir_all(ext4.path().join("pool/deep")).unwrap();
    let second = tempfile::tempdir().unwrap();
    let mut bind = Command::new("mount");
    let bound = bind.arg("--bind").arg(ext4.path().join("pool/deep")).arg(second.path()).status();
    assert!(bound.unwrap().success());
    let options = |dir: &Path| format!("dir_path={}\n", dir.display());
    assert_eq!(add(&daemon, "file", "one", &options(&ext4.path().join("pool"))).ok(), "");
    let within = add(&daemon, "file", "two", &options(&second.path().join("more")));
    drop(Command::new("umount").arg("-l").arg(second.path()).status());
    refused(&within, "QubesPoolInUseError", "the place lies inside that of pool 'one'");
}

#[test]
fn a_pool_is_added_behind_a_row_that_was_set_aside() {
    let daemon = Daemon::start();
    let daemon = daemon.kill_and_restart_edited(|state| {
        let db = rusqlite::Connection::open(state.join("state.db")).unwrap();
        db.execute("INSERT INTO pool VALUES ('no name!', 'file', 3)", []).unwrap();
    });
    let options = format!("dir_path={}\n", daemon.dir().join("fast").display());
    assert_eq!(add(&daemon, "file", "fast", &options).ok(), "");
    assert_eq!(pools(&daemon), ["varlibqubes", "linux-kernel", "fast"]);
}

/// A file system in memory; unmounted when dropped.
struct InMemory(tempfile::TempDir);

impl InMemory {
    fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
            .arg(dir.path())
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            println!("skipped: cannot mount a tmpfs");
        }
        mounted.then_some(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.path()).status());
    }
}

/// A command that notes which hook of which volume it is run for.
const HOOK: &str = r#"#!/bin/sh
echo "$3 $6" >> "$(dirname "$0")/log"
"#;

/// A pool of files with a command around it, which notes for what it was run.
struct Commands(tempfile::TempDir);

impl Commands {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (hook, pool) = (dir.path().join("hook"), dir.path().join("pool"));
        std::fs::write(&hook, HOOK).unwrap();
        let json = format!(
            r#"{{"c": {{"bdriver": "file", "bdriver_args": {{"dir_path": "{}"}}, "cmd": "sh {}", "post_volume_export_end": "-"}}}}"#,
            pool.display(),
            hook.display()
        );
        std::fs::write(dir.path().join("callback.json"), json).unwrap();
        Self(dir)
    }

    fn pool(&self) -> std::path::PathBuf {
        self.0.path().join("pool")
    }

    fn config(&self) -> Start {
        let file = self.0.path().join("callback.json");
        Start::new().config(&format!("[storage]\ncallback_config = {:?}\n", file.to_str().unwrap()))
    }

    /// What was run since this was asked last.
    fn ran(&self) -> Vec<String> {
        let log = self.0.path().join("log");
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        std::fs::write(&log, "").unwrap();
        text.lines().map(|line| line.trim_end().to_owned()).collect()
    }
}

/// `work` on a template, with its private volume in the pool.
fn work_behind_commands(daemon: &Daemon) {
    template(daemon);
    assert_eq!(add(daemon, "callback", "cb", "conf_id=c\n").ok(), "");
    let payload = b"name=work label=red pool:private=cb";
    assert_eq!(daemon.call("mgmt.vm.CreateInPool.AppVM", "dom0", "base", payload).ok(), "");
}

#[test]
fn what_a_disposable_leaves_behind_commands_waits_for_the_first_use_of_its_pool() {
    let commands = Commands::new();
    let daemon = commands.config().start();
    work_behind_commands(&daemon);
    let set = |vm: &str, property: &str| {
        assert_eq!(daemon.call("mgmt.vm.property.Set", vm, property, b"True").ok(), "");
    };
    set("work", "template_for_dispvms");
    assert_eq!(daemon.call("mgmt.vm.Create.DispVM", "dom0", "work", b"name=goes label=red").ok(), "");
    set("goes", "auto_cleanup");
    start(&daemon, "goes");
    commands.ran();
    let world = daemon.state().join("sim");
    let daemon = daemon.kill_and_as(commands.config(), || std::fs::remove_dir_all(world).unwrap());
    let is_listed = || daemon.call("mgmt.vm.List", "dom0", "", b"").ok().contains("goes ");
    until("the disposable is gone", || !is_listed());
    let left = || files(&commands.pool()).iter().any(|file| file.starts_with("appvms/goes"));
    assert!(left());
    assert_eq!(commands.ran(), Vec::<String>::new(), "a command is run because the daemon starts");
    start(&daemon, "work");
    until("what it left is gone", || !left());
    until("the command was run", || commands.ran().contains(&"post_volume_remove private".to_owned()));
}

#[test]
fn commands_around_a_pool_are_run_for_a_vms_life_and_before_its_first_use_after_a_restart() {
    let commands = Commands::new();
    let (config, pool, ran) = (commands.config(), commands.pool(), || commands.ran());
    let daemon = config.clone().start();
    work_behind_commands(&daemon);
    let info = daemon.call("mgmt.vm.volume.Info", "work", "private", b"").ok();
    assert!(info.contains("pool=cb\nvid=appvms/work/private\n"), "{info}");
    start(&daemon, "work");
    assert_eq!(
        ran(),
        [
            "pre_setup",
            "pre_volume_create private",
            "post_volume_create private",
            "pre_volume_start private",
            "post_volume_start private"
        ]
    );

    // The VM runs on; its domain ends while no daemon is there; and the pool is not touched before it is used.
    let daemon = daemon.kill_and_as(config.clone(), || {});
    assert_eq!(daemon.call("mgmt.vm.Kill", "work", "", b"").ok(), "");
    until("the volume is stopped", || pool.join("appvms/work/private.img").exists());
    assert_eq!(ran(), ["pre_sinit", "post_volume_stop private"]);
    // To go back is a use, and so is to remove what one could go back to.
    assert_eq!(daemon.call("mgmt.vm.volume.Snapshot", "work", "private", b"").ok(), "s1");
    let daemon = daemon.kill_and_as(config.clone(), || {});
    assert_eq!(daemon.call("mgmt.vm.volume.RemoveSnapshot", "work", "private", b"s1").ok(), "");
    assert_eq!(ran(), ["pre_sinit", "post_volume_stop private"]);
    let daemon =
        daemon.kill_and_as(config, || std::fs::rename(&pool, commands.0.path().join("away")).unwrap());
    let info = daemon.call("mgmt.pool.Info", "dom0", "cb", b"").ok();
    assert_eq!(info, "conf_id=c\ndriver=callback\nname=cb\n");
    assert_eq!(daemon.call("mgmt.pool.UsageDetails", "dom0", "cb", b"").ok(), "");
    assert!(daemon.call("mgmt.pool.volume.List", "dom0", "cb", b"").ok().contains("appvms/work/private"));
    assert_eq!(ran(), Vec::<String>::new());
    std::fs::rename(commands.0.path().join("away"), &pool).unwrap();
    assert_eq!(daemon.call("mgmt.vm.Remove", "work", "", b"").ok(), "");
    assert_eq!(daemon.call("mgmt.pool.Remove", "dom0", "cb", b"").ok(), "");
    assert_eq!(ran(), ["pre_sinit", "post_volume_remove private", "post_destroy"]);
    assert_eq!(files(&pool), Vec::<String>::new());
}

#[test]
fn a_pool_that_is_added_holds_vms_survives_a_restart_and_leaves_its_data_when_it_goes() {
    let daemon = Daemon::start();
    template(&daemon);
    let dir = daemon.dir().join("fast");
    let options = format!("dir_path={}\n", dir.display());
    let mut events = daemon.socket().events("dom0");
    assert_eq!(add(&daemon, "file", "fast", &options).ok(), "");
    let payload = b"name=work label=red pool:private=fast";
    assert_eq!(daemon.call("mgmt.vm.CreateInPool.AppVM", "dom0", "base", payload).ok(), "");
    start(&daemon, "work");
    assert!(dir.join("appvms/work/private-dirty.img").exists());
    let daemon = daemon.terminate_and_restart();
    assert_eq!(pools(&daemon), ["varlibqubes", "linux-kernel", "fast"]);
    assert_eq!(daemon.call("mgmt.vm.Kill", "work", "", b"").ok(), "");
    until("its volumes rest", || !dir.join("appvms/work/private-dirty.img").exists());
    let remove = || daemon.call("mgmt.pool.Remove", "dom0", "fast", b"");
    refused(&remove(), "QubesPoolInUseError", "Storage pool is in use: volumes of work");
    assert_eq!(daemon.call("mgmt.vm.Remove", "work", "", b"").ok(), "");
    std::fs::write(dir.join("appvms/note"), "somebody's").unwrap();
    let mut last = daemon.socket().events("dom0");
    assert_eq!(remove().ok(), "");
    assert_eq!(files(&dir), ["appvms/note"]);
    assert_eq!(pools(&daemon), ["varlibqubes", "linux-kernel"]);
    assert!(events.until("- pool-add").last().unwrap().contains("fast"));
    let seen = last.until("- pool-delete");
    assert!(seen.iter().any(|event| event.contains("pool-pre-delete")), "{seen:?}");
    // The name is free, and the folder is a pool again.
    assert_eq!(add(&daemon, "file", "fast", &options).ok(), "");
}

#[test]
fn a_pool_that_a_damaged_vm_uses_stays() {
    let daemon = Daemon::start();
    template(&daemon);
    let options = format!("dir_path={}\n", daemon.dir().join("fast").display());
    assert_eq!(add(&daemon, "file", "fast", &options).ok(), "");
    let options = format!("dir_path={}\n", daemon.dir().join("kernels").display());
    assert_eq!(add(&daemon, "linux-kernel", "kernels", &options).ok(), "");
    let payload = b"name=work label=red pool:private=fast pool:kernel=kernels";
    assert_eq!(daemon.call("mgmt.vm.CreateInPool.AppVM", "dom0", "base", payload).ok(), "");
    create(&daemon, "other");
    let daemon = daemon.kill_and_restart_edited(|state| {
        let db = rusqlite::Connection::open(state.join("state.db")).unwrap();
        db.execute("UPDATE vm SET class = 'CloudVM' WHERE name = 'work'", []).unwrap();
    });
    for pool in ["fast", "kernels"] {
        let answer = daemon.call("mgmt.pool.Remove", "dom0", pool, b"");
        refused(&answer, "QubesPoolInUseError", "Storage pool is in use: volumes of work");
    }
    assert_eq!(pools(&daemon), ["varlibqubes", "linux-kernel", "fast", "kernels"]);
}

#[test]
fn what_was_not_made_is_not_removed_with_a_command() {
    let hooked = Hooked::new();
    let daemon = hooked.start("refresh_s = 1\n").start();
    template(&daemon);
    hooked.add(&daemon);
    let payload = b"name=work label=red pool=hooked";
    let create = || daemon.call("mgmt.vm.CreateInPool.StandaloneVM", "dom0", "", payload);
    let removals = || ["root", "private", "volatile"].map(|volume| hooked.runs("post_volume_remove", volume));
    hooked.fail("pre_volume_create");
    refused(&create(), "StoragePoolException", "as a test wants it");
    assert_eq!(removals(), [0, 0, 0]);
    hooked.mend("pre_volume_create");
    // Of the one that was made and is refused afterwards, once.
    hooked.fail("post_volume_create");
    refused(&create(), "StoragePoolException", "as a test wants it");
    assert_eq!(removals(), [1, 0, 0]);
    // Until that command succeeds.
    hooked.fail("post_volume_remove");
    refused(&create(), "StoragePoolException", "as a test wants it");
    hooked.mend("post_volume_remove");
    hooked.mend("post_volume_create");
    until("the name is free", || create().0.starts_with(b"0"));
    let before = removals();
    assert!(before[0] >= 3, "{before:?}");
    assert_eq!(daemon.call("mgmt.vm.Remove", "work", "", b"").ok(), "");
    assert_eq!(removals(), before.map(|times| times + 1));
}

#[test]
fn a_refused_pool_leaves_nothing() {
    let daemon = Daemon::start();
    let at = |path: &str| daemon.dir().join(path);
    let options = |path: &str| format!("dir_path={}\n", at(path).display());
    assert_eq!(add(&daemon, "file", "fast", &options("fast")).ok(), "");
    std::fs::create_dir(at("taken")).unwrap();
    std::fs::write(at("taken/vm-templates"), "no folder").unwrap();
    std::os::unix::fs::symlink(at("fast"), at("link")).unwrap();
    std::os::unix::fs::symlink(at("nowhere"), at("dangling")).unwrap();
    for (driver, path, class, text) in [
        ("file", "taken", "StoragePoolException", "taken/vm-templates: invalid: it is a file and no folder"),
        ("file", "link", "QubesPoolInUseError", "same place as pool 'fast'"),
        ("file-reflink", "link/appvms", "QubesPoolInUseError", "lies inside that of pool 'fast'"),
        ("file", "link/deep", "QubesPoolInUseError", "lies inside that of pool 'fast'"),
        (
            "file",
            "dangling",
            "StoragePoolException",
            "where no folder is: make that folder, or remove the link",
        ),
        ("linux-kernel", "dangling", "StoragePoolException", "where no folder is"),
        ("file", "no/deep", "StoragePoolException", "must exist"),
        ("linux-kernel", "no/deep", "StoragePoolException", "must exist"),
        ("file", "state/state.db", "StoragePoolException", "state.db: invalid: it is a file and no folder"),
        ("linux-kernel", "state/state.db", "StoragePoolException", "it is a file and no folder"),
    ] {
        refused(&add(&daemon, driver, "new", &options(path)), class, text);
        assert_eq!(pools(&daemon), ["varlibqubes", "linux-kernel", "fast"], "{driver} {path}");
    }
    assert_eq!(files(&at("taken")), ["vm-templates"]);
    assert!(!at("taken/appvms").exists() && !at("nowhere").exists() && !at("fast/deep").exists());
    let noted = |state: &Path| {
        let db = rusqlite::Connection::open(state.join("state.db")).unwrap();
        db.query_row("SELECT count(*) FROM pending_folder", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    drop(daemon.kill_and_restart_edited(|state| assert_eq!(noted(state), 0)));
}

#[test]
fn a_folder_that_is_mounted_twice_is_one_place() {
    let Some(memory) = InMemory::new("4M") else { return };
    let daemon = Daemon::start();
    let second = daemon.dir().join("second");
    std::fs::create_dir_all(memory.path().join("pool")).unwrap();
    std::fs::create_dir(&second).unwrap();
    let options = |path: &Path| format!("dir_path={}\n", path.display());
    assert_eq!(add(&daemon, "file", "one", &options(&memory.path().join("pool"))).ok(), "");
    let bound = Command::new("mount").arg("--bind").arg(memory.path().join("pool")).arg(&second).status();
    assert!(bound.unwrap().success());
    let answer = add(&daemon, "file", "two", &options(&second));
    drop(Command::new("umount").arg(&second).status());
    refused(&answer, "QubesPoolInUseError", "same place as pool 'one'");
}

#[test]
fn a_pool_that_gets_nearly_full_is_told_of_and_refuses_what_takes_space() {
    let Some(memory) = InMemory::new("32M") else { return };
    let daemon = Start::new().config("[storage]\nrefresh_s = 1\n").start();
    template(&daemon);
    let options = format!("dir_path={}\n", memory.path().join("pool").display());
    assert_eq!(add(&daemon, "file", "small", &options).ok(), "");
    let payload = b"name=work label=red pool=small";
    assert_eq!(daemon.call("mgmt.vm.CreateInPool.AppVM", "dom0", "base", payload).ok(), "");
    let private = memory.path().join("pool/appvms/work/private.img");
    let mut private = std::fs::OpenOptions::new().write(true).open(private).unwrap();
    private.write_all(&[1; 4096]).unwrap();
    let mut events = daemon.socket().events("dom0");
    std::fs::write(memory.path().join("filler"), vec![1; 30 << 20]).unwrap();
    let told = events.until("- pool-usage");
    let told = told.last().unwrap();
    for word in ["small", "data", "percent"] {
        assert!(told.contains(word), "{told}");
    }
    let usage = daemon.call("mgmt.pool.UsageDetails", "dom0", "small", b"").ok();
    assert!(usage.starts_with(&format!("data_size={}\ndata_usage=", 32 << 20)), "{usage}");
    // What copies data is refused, and what does not is done.
    let answer = daemon.call("mgmt.vm.Clone", "work", "", b"name=copy");
    refused(&answer, "StoragePoolException", "on what takes space is refused");
    assert!(!memory.path().join("pool/appvms/copy").exists());
    assert_eq!(daemon.call("mgmt.vm.Remove", "work", "", b"").ok(), "");
    // Room again, and full again: told of again.
    std::fs::remove_file(memory.path().join("filler")).unwrap();
    until("there is room again", || {
        let info = daemon.call("mgmt.pool.UsageDetails", "dom0", "small", b"").ok();
        let usage = info.lines().find_map(|line| line.strip_prefix("data_usage=")).unwrap();
        usage.parse::<u64>().unwrap() < 16 << 20
    });
    std::fs::write(memory.path().join("filler"), vec![1; 30 << 20]).unwrap();
    events.until("- pool-usage");
}

#[test]
fn snapshots_by_device_mapper_are_refused_with_the_reason_where_they_cannot_be_had() {
    let daemon = Daemon::start();
    let dir = daemon.dir().join("fast");
    let answer = add(&daemon, "file", "fast", &format!("dir_path={}\ncow=dm\n", dir.display()));
    if std::fs::File::open("/dev/mapper/control").is_ok() {
        println!("skipped: this machine has device-mapper");
        return;
    }
    refused(&answer, "StoragePoolException", "no snapshots by device-mapper here: /dev/mapper/control");
    assert!(!dir.exists());
    assert_eq!(pools(&daemon), ["varlibqubes", "linux-kernel"]);
    for (name, way) in [("auto", "auto"), ("copies", "copy")] {
        let options = format!("dir_path={}\ncow={way}\n", daemon.dir().join(name).display());
        assert_eq!(add(&daemon, "file", name, &options).ok(), "");
    }
    let daemon = daemon.terminate_and_restart();
    let info = daemon.call("mgmt.pool.Info", "dom0", "copies", b"").ok();
    assert!(info.starts_with("cow=copy\n"), "{info}");
}

/// A file system that answers nothing until this is dropped: there is nobody behind it (FUSE).
struct Hung {
    nobody: Option<File>,
    place: PathBuf,
}

impl Hung {
    /// Over a folder; `None`, with the reason said, where that cannot be had.
    fn over(place: &Path) -> Option<Self> {
        let hung = File::options().read(true).write(true).open("/dev/fuse").ok().and_then(|device| {
            let mut mount = Command::new("mount");
            let options = ["-i", "-t", "fuse", "-o", "fd=0,rootmode=40000,user_id=0,group_id=0", "nobody"];
            let mount = mount.args(options).arg(place).stdin(device.try_clone().unwrap());
            let mounted = mount.status().is_ok_and(|status| status.success());
            mounted.then(|| Self { nobody: Some(device), place: place.to_owned() })
        });
        if hung.is_none() {
            println!("skipped: cannot mount a file system that hangs");
        }
        hung
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // Whatever waits for an answer gets an error now, and what is next does not wait.
        self.nobody = None;
        drop(Command::new("umount").arg("-l").arg(&self.place).status());
    }
}

#[test]
fn a_pool_that_does_not_answer_keeps_no_other_figures_from_being_told() {
    let Some(memory) = InMemory::new("32M") else { return };
    let daemon = Start::new().config("[storage]\nrefresh_s = 1\n").start();
    template(&daemon);
    create(&daemon, "work");
    let hangs = daemon.dir().join("hangs");
    for (name, dir) in [("hangs", &hangs), ("small", &memory.path().join("pool"))] {
        assert_eq!(add(&daemon, "file", name, &format!("dir_path={}\n", dir.display())).ok(), "");
    }
    let usage = |pool: &str| {
        let info = daemon.call("mgmt.pool.UsageDetails", "dom0", pool, b"").ok();
        let usage = info.lines().find_map(|line| line.strip_prefix("data_usage="));
        usage.map(|usage| usage.parse::<u64>().unwrap())
    };
    until("all figures are known", || usage("hangs").is_some() && usage("small").is_some());
    let Some(hung) = Hung::over(&hangs) else { return };
    let mut events = daemon.socket().events("dom0");
    let fill =
        |mib: u64| std::fs::write(memory.path().join("filler"), vec![1; usize::try_from(mib << 20).unwrap()]);
    // Twice: one look may have begun before.
    for mib in [8, 16] {
        fill(mib).unwrap();
        until("its use is known", || usage("small").is_some_and(|usage| usage >= mib << 20));
        assert!(usage("hangs").is_some(), "as it was last seen");
    }
    fill(30).unwrap();
    events.until("- pool-usage pool=small kind=data ");
    start(&daemon, "work");
    let mut stats = daemon.socket().stream("mgmt.vm.Stats", "dom0");
    for _ in 0..2 {
        stats.until("work vm-stats ");
    }
    let used = |key: &str| {
        let state = daemon.call("mgmt.vm.CurrentState", "work", "", b"").ok();
        let used = state.split(' ').find_map(|pair| pair.strip_prefix(key)).unwrap();
        used.parse::<u64>().unwrap()
    };
    let before = used("cputime=");
    until("its processor time is known", || used("cputime=") > before && used("mem=") > 0);
    assert_eq!(daemon.call("mgmt.vm.Kill", "work", "", b"").ok(), "");
    assert_eq!(state(&daemon, "work"), "Halted");
    // It was asked once; and is asked again when it has answered.
    drop(hung);
    until("it is told that there was no answer", || daemon.log().contains("its space is not known"));
    until("there are figures again", || usage("hangs").is_some());
}
