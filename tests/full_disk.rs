//! The daemon on a full file system, and on files that are taken from under it.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use mgmt_tests::{Daemon, Start};

/// A small ext4 of its own, unmounted at the end.
struct Small(tempfile::TempDir);

impl Small {
    /// `None`, and why, where it cannot be mounted.
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        let at = dir.path().join("at");
        std::fs::create_dir(&at).unwrap();
        File::create(&image).unwrap().set_len(24 << 20).unwrap();
        // Nothing reserved for root, whom the daemon runs as.
        let made = Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image).output();
        if !made.is_ok_and(|made| made.status.success()) {
            println!("skipped: no mkfs.ext4");
            return None;
        }
        let mounted = Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at).output().unwrap();
        if !mounted.status.success() {
            println!("skipped: {}", String::from_utf8_lossy(&mounted.stderr).trim());
            return None;
        }
        Some(Self(dir))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("at")
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.path().join("fill")).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            let block = vec![0xa5; size];
            let error = std::iter::repeat_with(|| file.write_all(&block).and_then(|()| file.sync_data()))
                .find_map(Result::err);
            assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::StorageFull));
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.path().join("fill")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

fn ok(daemon: &Daemon, method: &str, vm: &str, argument: &str, payload: &str) -> String {
    daemon.call(method, vm, argument, payload.as_bytes()).ok()
}

fn create(daemon: &Daemon, name: &str) {
    ok(daemon, "mgmt.vm.Create.AppVM", "dom0", "base", &format!("name={name} label=red"));
}

fn names(daemon: &Daemon) -> Vec<String> {
    let list = ok(daemon, "mgmt.vm.List", "dom0", "", "");
    list.lines().filter_map(|line| line.split(' ').next().map(str::to_owned)).collect()
}

/// Whatever takes space, until it does not go in any more; how that is told.
fn until_full(daemon: &Daemon, vm: &str) -> (String, String) {
    for n in 0..3000 {
        let value = "x".repeat(100 + n % 400);
        let answer = daemon.call("mgmt.vm.property.Set", vm, "kernelopts", value.as_bytes());
        if answer.0.first() != Some(&b'0') {
            return answer.exception();
        }
    }
    panic!("the file system was never full");
}

fn told_as_full((class, text): &(String, String), state: &Path) {
    assert_eq!(class, "QubesException", "{text}");
    assert!(text.contains("no space") && text.contains(state.to_str().unwrap()), "{text}");
}

#[test]
fn on_a_full_disk_vms_are_removed_one_after_the_other_and_the_daemon_starts() {
    let Some(small) = Small::mount() else { return };
    let state = small.path().join("state");
    let mut daemon = Start::new().state(state.clone()).start();
    ok(&daemon, "mgmt.vm.CreateTemplate", "dom0", "base", "a root image");
    for n in 0..8 {
        create(&daemon, &format!("vm{n}"));
    }
    ok(&daemon, "mgmt.vm.property.Set", "vm7", "kernelopts", "before");
    let ballast = state.join("ballast");
    assert!(ballast.exists());

    small.fill();
    told_as_full(&until_full(&daemon, "vm7"), &state);
    for n in 0..5 {
        ok(&daemon, "mgmt.vm.Remove", &format!("vm{n}"), "", "");
        small.fill();
        let refused = daemon.call("mgmt.vm.Create.AppVM", "dom0", "base", b"name=late label=red");
        told_as_full(&refused.exception(), &state);
        if n == 2 {
            // With a log that is new, and as short as can be.
            assert_eq!(daemon.terminate(), Some(0));
            small.fill();
            daemon = Start::new().state(state.clone()).start();
        } else {
            daemon = daemon.kill_and_restart();
        }
        assert_eq!(names(&daemon).len(), 9 - n, "{:?}", names(&daemon));
        assert!(ok(&daemon, "mgmt.vm.property.Get", "vm7", "kernelopts", "").starts_with("default=no "));
    }

    small.free();
    ok(&daemon, "mgmt.vm.property.Set", "vm7", "kernelopts", "quiet");
    assert!(ballast.exists(), "it is back");
    create(&daemon, "late");
    let before = names(&daemon);
    let daemon = daemon.kill_and_restart();
    assert_eq!(names(&daemon), before);
    assert_eq!(ok(&daemon, "mgmt.vm.property.Get", "vm7", "kernelopts", ""), "default=no quiet");
}

#[test]
fn on_a_full_disk_a_volume_goes_back_and_snapshots_are_removed() {
    let Some(small) = Small::mount() else { return };
    let state = small.path().join("state");
    let daemon = Start::new().state(state.clone()).start();
    ok(&daemon, "mgmt.vm.CreateTemplate", "dom0", "base", "a root image");
    create(&daemon, "work");
    ok(&daemon, "mgmt.vm.volume.Set.revisions_to_keep", "work", "private", "2");
    let import = |data: &str| {
        ok(&daemon, "mgmt.vm.volume.ImportWithSize", "work", "private", &format!("{}\n{data}", data.len()))
    };
    let holds = |data: &str| {
        let image = std::fs::read(state.join("varlibqubes/appvms/work/private.img")).unwrap();
        assert_eq!(String::from_utf8_lossy(&image[..data.len()]), data);
    };
    import("first");
    import("second");
    let kept = ok(&daemon, "mgmt.vm.volume.Snapshot", "work", "private", "");
    import("third");
    small.fill();
    told_as_full(&until_full(&daemon, "work"), &state);

    let listed = ok(&daemon, "mgmt.vm.volume.ListSnapshots", "work", "private", "");
    let last = listed.lines().rfind(|id| *id != kept).unwrap();
    ok(&daemon, "mgmt.vm.volume.Revert", "work", "private", last);
    holds("second");
    small.fill();
    ok(&daemon, "mgmt.vm.volume.RemoveSnapshot", "work", "private", &kept);
    let daemon = daemon.kill_and_restart();
    holds("second");
    let listed = ok(&daemon, "mgmt.vm.volume.ListSnapshots", "work", "private", "");
    assert!(!listed.contains(&kept), "{listed}");
}

#[test]
fn a_store_that_was_taken_away_or_replaced_takes_no_change() {
    let daemon = Daemon::start();
    ok(&daemon, "mgmt.vm.CreateTemplate", "dom0", "base", "a root image");
    let set = |value: &str| daemon.call("mgmt.vm.property.Set", "base", "memory", value.as_bytes());
    let database = daemon.state().join("state.db");
    let aside = daemon.state().join("aside");
    set("300").ok();
    std::fs::rename(&database, &aside).unwrap();
    let refused = || {
        let (class, text) = set("400").exception();
        assert_eq!(class, "QubesException", "{text}");
        assert!(text.contains("removed or replaced") && text.contains("state.db"), "{text}");
        assert_eq!(ok(&daemon, "mgmt.vm.property.Get", "base", "memory", ""), "default=no 300");
    };
    refused();
    std::fs::copy(&aside, &database).unwrap();
    refused();
    std::fs::rename(&aside, &database).unwrap();
    set("500").ok();
    let daemon = daemon.kill_and_restart();
    assert_eq!(ok(&daemon, "mgmt.vm.property.Get", "base", "memory", ""), "default=no 500");
}
