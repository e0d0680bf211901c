//! What `mgmtd doctor` says of volumes: nothing of what runs, and of what is due what it waits for.

use std::path::Path;
use std::process::Command;

use mgmt_tests::scene::{create, examine, files, start, template, until};
use mgmt_tests::{Daemon, Mounted, Start, binary};

/// What it finds, as `KIND ABOUT: TEXT`.
fn findings(state: &Path) -> Vec<String> {
    let doctor = Command::new(binary("mgmtd")).arg("--state").arg(state).args(["doctor", "--json"]).output();
    let report: serde_json::Value = serde_json::from_slice(&doctor.unwrap().stdout).unwrap();
    let text = |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let found = report["findings"].as_array().unwrap().iter();
    found.map(|f| format!("{} {}: {}", text(f, "kind"), text(f, "about"), text(f, "text"))).collect()
}

fn ok(daemon: &Daemon, method: &str, of: &str, argument: &str, payload: &[u8]) {
    assert_eq!(daemon.call(method, of, argument, payload).ok(), "", "{method}");
}

/// Its state stays when it is killed.
fn daemon(dir: &tempfile::TempDir) -> Daemon {
    Start::new().config("[storage]\nrefresh_s = 1\n").state(dir.path().join("state")).start()
}

/// An AppVM, one whose root is a snapshot in its template's pool, and a disposable; each with a volatile volume, and a private one
/// whose former states are kept.
#[test]
fn what_runs_is_no_finding() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = daemon(&dir);
    template(&daemon);
    create(&daemon, "work");
    let second = format!("name=second\ndir_path={}\n", dir.path().join("second").display());
    ok(&daemon, "mgmt.pool.Add", "dom0", "file", second.as_bytes());
    ok(&daemon, "mgmt.vm.CreateInPool.TemplateVM", "dom0", "", b"name=far label=black pool=second");
    ok(&daemon, "mgmt.vm.Create.AppVM", "dom0", "far", b"name=roots label=red");
    ok(&daemon, "mgmt.vm.property.Set", "work", "template_for_dispvms", b"True");
    let disposable = daemon.call("mgmt.vm.CreateDisposable", "work", "", b"").ok();
    ok(&daemon, "mgmt.vm.volume.Set.revisions_to_keep", "work", "private", b"2");
    for vm in ["work", "roots", &disposable] {
        start(&daemon, vm);
    }
    let lie = [files(&dir.path().join("second")), files(&dir.path().join("state"))].concat();
    let lies = |of: &str, volume: &str| {
        assert!(lie.iter().any(|f| f.contains(&format!("/{of}/{volume}-dirty"))), "{of} {volume}: {lie:?}");
    };
    for vm in ["work", "roots", &disposable] {
        lies(vm, "root");
        lies(vm, "private");
        lies(vm, "volatile");
    }
    let state = daemon.state();
    drop(daemon);
    examine(&state);
    // The world has ended with them: what the next start does about that, it knows by itself.
    std::fs::remove_dir_all(state.join("sim")).unwrap();
    examine(&state);
}

#[test]
fn a_removal_that_waits_for_its_pool_is_told_with_what_keeps_it() {
    let Some(disk) = Mounted::new(&["mkfs.ext4", "-q", "-F"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let daemon = daemon(&dir);
    template(&daemon);
    let options = format!("name=away\ndir_path={}\n", disk.path().display());
    ok(&daemon, "mgmt.pool.Add", "dom0", "file", options.as_bytes());
    ok(&daemon, "mgmt.vm.CreateInPool.AppVM", "dom0", "base", b"name=work label=red pool:private=away");
    ok(&daemon, "mgmt.vm.CreateInPool.AppVM", "dom0", "base", b"name=mail label=red pool:private=away");
    let image = disk.path().join("appvms/work/private.img");
    disk.unmount();
    ok(&daemon, "mgmt.vm.Remove", "work", "", b"");
    let state = daemon.state();
    assert_eq!(daemon.terminate(), Some(0));

    let folder = disk.path().join("appvms");
    let away = format!(
        "pool away: inspect storage {}: not available: storage pool 'away': {} is not there; its file system is probably not mounted: mount it and try again",
        disk.path().display(),
        folder.display()
    );
    let removal = "unfinished work: remove; settled once the pool away can be used";
    assert_eq!(findings(&state), [removal, &away]);
    // The pool is back, and no daemon has run since: the volume is nobody's mistake.
    disk.mount();
    assert!(image.exists());
    assert_eq!(findings(&state), ["unfinished work: remove; settled at the next start"]);
    let daemon = Start::new().state(state.clone()).start();
    until("the image to go", || !image.exists());
    assert_eq!(daemon.terminate(), Some(0));
    examine(&state);
}

/// A root that a run has left in its template's pool, which was away at the next start; by now the VM has another template.
#[test]
fn what_a_run_has_left_in_a_pool_that_is_away_is_told_and_no_volume_of_nobody() {
    let Some(disk) = Mounted::new(&["mkfs.ext4", "-q", "-F"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let daemon = daemon(&dir);
    template(&daemon);
    let options = format!("name=away\ndir_path={}\n", disk.path().display());
    ok(&daemon, "mgmt.pool.Add", "dom0", "file", options.as_bytes());
    ok(&daemon, "mgmt.vm.CreateInPool.TemplateVM", "dom0", "", b"name=far label=black pool=away");
    ok(&daemon, "mgmt.vm.Create.AppVM", "dom0", "far", b"name=roots label=red");
    start(&daemon, "roots");
    let left = || files(&disk.path().join("appvms/roots"));
    let domains = daemon.state().join("sim");
    let daemon = daemon.kill_and(|| {
        std::fs::remove_dir_all(domains).unwrap();
        assert_ne!(left(), Vec::<String>::new());
        disk.unmount();
    });
    ok(&daemon, "mgmt.vm.property.Set", "roots", "template", b"base");
    let state = daemon.state();
    assert_eq!(daemon.terminate(), Some(0));
    let found = findings(&state);
    assert_eq!(found.len(), 2, "{found:#?}");
    let due = "unfinished roots: its volume root was started in the pool away: what a run has left there is settled once that can be used";
    assert_eq!(found[0], due);
    assert!(found[1].starts_with("pool away: "), "{found:#?}");
    disk.mount();
    assert_ne!(left(), Vec::<String>::new());
    examine(&state);
    let daemon = Start::new().state(state.clone()).start();
    until("the root to go", || left().is_empty());
    assert_eq!(daemon.terminate(), Some(0));
    examine(&state);
}
