//! A pool whose file system is not there for a while: before the daemon starts, while it runs, or for some of its
//! volumes' changes.

use std::path::{Path, PathBuf};

use mgmt_tests::{Daemon, Hooked, Mounted, Start, scene};

/// A daemon with a pool `away` on a file system of its own, the template `base` elsewhere, and `work` in the pool.
struct Scene {
    // Before the disk: it is unmounted when nobody uses it.
    daemon: Daemon,
    disk: Mounted,
}

impl Scene {
    fn new(how: Start) -> Option<Self> {
        let disk = Mounted::new(&["mkfs.ext4", "-q", "-F"])?;
        let daemon = how.start();
        scene::template(&daemon);
        let pool = format!("name=away\ndir_path={}\n", disk.path().display());
        assert_eq!(daemon.call("mgmt.pool.Add", "dom0", "file", pool.as_bytes()).ok(), "");
        let scene = Self { daemon, disk };
        assert_eq!(scene.create("work"), "");
        scene.import("work", b"old data");
        Some(scene)
    }

    fn try_create(&self, name: &str) -> mgmt_tests::Answer {
        let payload = format!("name={name} label=red pool:private=away");
        self.daemon.call("mgmt.vm.CreateInPool.AppVM", "dom0", "base", payload.as_bytes())
    }

    fn create(&self, name: &str) -> String {
        self.try_create(name).ok()
    }

    fn import(&self, vm: &str, data: &[u8]) {
        let payload = [format!("{}\n", data.len()).as_bytes(), data].concat();
        assert_eq!(self.daemon.call("mgmt.vm.volume.ImportWithSize", vm, "private", &payload).ok(), "");
    }

    fn image(&self, vm: &str) -> PathBuf {
        self.disk.path().join("appvms").join(vm).join("private.img")
    }

    /// Nothing was made where the file system is not.
    fn nothing_beneath(&self) {
        let beneath: Vec<_> = std::fs::read_dir(self.disk.path()).unwrap().collect();
        assert!(beneath.is_empty(), "{beneath:?}");
    }

    /// Kills the daemon and starts it with nothing but the mount point in the pool's place.
    fn restart_without(self) -> Self {
        let Self { daemon, disk } = self;
        let scene = Self { daemon: daemon.kill_and_restart(), disk };
        scene.nothing_beneath();
        scene
    }
}

/// As root alone, and where there is `mkfs.ext4`.
fn scene() -> Option<Scene> {
    Scene::new(Start::new().config("[storage]\nrefresh_s = 1\n"))
}

fn starts_with(data: &Path, wanted: &[u8]) {
    let data = std::fs::read(data).unwrap();
    assert!(data.starts_with(wanted), "{:?}", data.get(..16));
}

#[test]
fn a_vm_that_is_removed_while_its_pool_is_away_leaves_nothing_once_the_pool_is_back() {
    let daemon = Daemon::start();
    scene::template(&daemon);
    scene::create(&daemon, "work");
    let (pool, away) = (scene::pool(&daemon), daemon.dir().join("away"));
    let private = pool.join("appvms/work/private.img");
    assert!(private.exists());
    std::fs::rename(&pool, &away).unwrap();
    assert_eq!(daemon.call("mgmt.vm.Remove", "work", "", b"").ok(), "");
    scene::until("that is logged", || daemon.log().contains("a volume stays for now"));
    let again = || daemon.call("mgmt.vm.Create.AppVM", "dom0", "base", b"name=work label=red");
    assert_eq!(again().exception().0, "QubesVMAlreadyExistsError");
    std::fs::rename(&away, &pool).unwrap();
    // The name is free as soon as somebody wants it: what waited goes first.
    assert_eq!(again().ok(), "");
    let images = scene::files(&pool.join("appvms"));
    assert_eq!(images.iter().filter(|name| name.ends_with("private.img")).count(), 1, "{images:?}");
}

#[test]
fn a_removal_waits_for_its_pool_over_several_starts() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let how = Start::new().config("[storage]\nrefresh_s = 1\n").state(state.clone());
    let Some(scene) = Scene::new(how) else { return };
    scene.disk.unmount();
    assert_eq!(scene.daemon.call("mgmt.vm.Remove", "work", "", b"").ok(), "");
    let scene = scene.restart_without().restart_without();
    assert_eq!(scene.try_create("work").exception().0, "QubesVMAlreadyExistsError");
    let (class, text) = scene.daemon.call("mgmt.pool.Remove", "dom0", "away", b"").exception();
    assert_eq!(class, "QubesPoolInUseError", "{text}");
    scene.disk.mount();
    assert!(scene.image("work").exists());
    // Nobody asks for it.
    scene::until("the image to go", || !scene.image("work").exists());
    assert_eq!(scene.create("work"), "");
    assert_eq!(scene.daemon.terminate(), Some(0));
    scene::examine(&state);
}

#[test]
fn a_removal_waits_for_a_pool_that_cannot_be_written() {
    let Some(scene) = scene() else { return };
    scene.disk.remount("ro");
    assert_eq!(scene.daemon.call("mgmt.vm.Remove", "work", "", b"").ok(), "");
    scene.disk.unmount();
    let scene = scene.restart_without();
    scene.disk.mount();
    scene::until("the image to go", || !scene.image("work").exists());
}

#[test]
fn a_removal_after_a_start_without_the_pool_is_carried_out_when_it_is_back() {
    let Some(scene) = scene() else { return };
    scene.disk.unmount();
    let scene = scene.restart_without();
    scene.disk.mount();
    assert_eq!(scene.create("mail"), "");
    scene.disk.unmount();
    for vm in ["work", "mail"] {
        assert_eq!(scene.daemon.call("mgmt.vm.Remove", vm, "", b"").ok(), "");
    }
    scene.nothing_beneath();
    scene.disk.mount();
    assert_eq!(scene.create("work"), "");
    assert!(!scene.image("mail").exists());
}

#[test]
fn nothing_is_written_beneath_the_mount_point_and_everybody_is_told_why() {
    let Some(scene) = scene() else { return };
    let token = scene.daemon.call("mgmt.vm.volume.CloneFrom", "work", "private", b"").ok();
    scene::create(&scene.daemon, "other");
    scene.disk.unmount();
    let scene = scene.restart_without();
    let daemon = &scene.daemon;
    let token_here = daemon.call("mgmt.vm.volume.CloneFrom", "other", "private", b"").ok();
    assert_ne!(token, token_here);
    let from_away = daemon.call("mgmt.vm.volume.CloneFrom", "work", "private", b"").ok();
    let folder = scene.disk.path().join("appvms");
    let told = |answer: mgmt_tests::Answer| {
        let (class, text) = answer.exception();
        assert_eq!(class, "StoragePoolException", "{text}");
        let (is_named, says_why) = (text.contains("pool 'away'"), text.contains("not mounted: mount it"));
        assert!(is_named && says_why && text.contains(folder.parent().unwrap().to_str().unwrap()), "{text}");
        scene.nothing_beneath();
    };
    told(scene.try_create("mail"));
    for (method, vm, argument, payload) in [
        ("mgmt.vm.Start", "work", "", &b""[..]),
        ("mgmt.vm.Clone", "work", "", b"name=copy"),
        ("mgmt.vm.volume.ImportWithSize", "work", "private", b"3\nnew"),
        ("mgmt.vm.volume.Clear", "work", "private", b""),
        ("mgmt.vm.volume.Snapshot", "work", "private", b""),
        ("mgmt.vm.volume.Revert", "work", "private", b"1"),
        ("mgmt.vm.volume.Resize", "work", "private", b"1048576"),
        ("mgmt.vm.volume.CloneTo", "work", "private", token_here.as_bytes()),
        ("mgmt.vm.volume.CloneTo", "other", "private", from_away.as_bytes()),
    ] {
        println!("{method}");
        told(daemon.call(method, vm, argument, payload));
    }
    // What the model knows is told.
    let info = daemon.call("mgmt.vm.volume.Info", "work", "private", b"").ok();
    assert!(info.contains("pool=away\n") && info.contains("size=512\n"), "{info}");
    assert_eq!(daemon.call("mgmt.vm.volume.ListSnapshots", "work", "private", b"").ok(), "");
    assert!(daemon.call("mgmt.pool.Info", "dom0", "away", b"").ok().contains("driver=file\n"));
    assert!(
        scene::names(daemon).contains(&"work".to_owned())
            && !scene::names(daemon).contains(&"mail".to_owned())
    );

    scene.disk.mount();
    starts_with(&scene.image("work"), b"old data");
    scene::start(daemon, "work");
    assert_eq!(scene.create("mail"), "");
}

#[test]
fn what_a_run_wrote_is_committed_before_the_volume_is_used_again() {
    let Some(scene) = scene() else { return };
    scene::start(&scene.daemon, "work");
    let Scene { daemon, disk } = scene;
    let dirty = disk.path().join("appvms/work/private-dirty.img");
    let domains = daemon.state().join("sim");
    // The host is started anew, and the pool's file system is not mounted.
    let daemon = daemon.kill_and(|| {
        std::fs::remove_dir_all(domains).unwrap();
        assert!(dirty.exists());
        std::fs::write(&dirty, [7; 512]).unwrap();
        disk.unmount();
    });
    let scene = Scene { daemon, disk }.restart_without();
    scene.disk.mount();
    // At once: nobody waits for the next look at pools.
    assert_eq!(scene.daemon.call("mgmt.vm.Clone", "work", "", b"name=copy").ok(), "");
    starts_with(&scene.image("work"), &[7; 512]);
    let copied = scene.daemon.call("mgmt.vm.volume.Info", "copy", "private", b"").ok();
    let copied = match copied.contains("pool=away\n") {
        true => scene.image("copy"),
        false => scene::pool(&scene.daemon).join("appvms/copy/private.img"),
    };
    starts_with(&copied, &[7; 512]);
}

#[test]
fn a_volume_that_was_lost_gets_new_data_by_an_import() {
    let Some(scene) = scene() else { return };
    std::fs::remove_file(scene.image("work")).unwrap();
    let (class, text) = scene.daemon.call("mgmt.vm.Start", "work", "", b"").exception();
    assert!(class == "StoragePoolException" && text.contains("Missing image file"), "{class}: {text}");
    scene.import("work", b"new data");
    starts_with(&scene.image("work"), b"new data");
    std::fs::remove_file(scene.image("work")).unwrap();
    assert_eq!(scene.daemon.call("mgmt.vm.volume.Clear", "work", "private", b"").ok(), "");
    assert_eq!(std::fs::read(scene.image("work")).unwrap(), [0; 512]);
    scene::start(&scene.daemon, "work");
}

/// The last run's data stays in its working copy, and is committed as soon as the pool is there again: by the daemon that
/// could not do it, and by one that has been started since.
#[test]
fn a_stop_without_its_pool_is_made_up_for_when_it_is_back() {
    for restarted in [false, true] {
        let Some(scene) = scene() else { return };
        let keep = scene.daemon.call("mgmt.vm.volume.Set.revisions_to_keep", "work", "private", b"1");
        assert_eq!(keep.ok(), "");
        scene::start(&scene.daemon, "work");
        let image = scene.image("work");
        let dirty = image.with_file_name("private-dirty.img");
        std::fs::write(&dirty, [7; 512]).unwrap();
        let covered = scene.disk.cover();
        assert_eq!(scene.daemon.call("mgmt.vm.Kill", "work", "", b"").ok(), "");
        assert_eq!(scene::state(&scene.daemon, "work"), "Halted");
        scene::until("that is logged", || scene.daemon.log().contains("volume stays dirty"));
        let scene = if restarted { scene.restart_without() } else { scene };
        scene.nothing_beneath();
        drop(covered);
        // Nobody asks for it.
        scene::until("the run's data is committed", || !dirty.exists());
        starts_with(&image, &[7; 512]);
        let revisions = scene.daemon.call("mgmt.vm.volume.ListSnapshots", "work", "private", b"").ok();
        let reverted =
            scene.daemon.call("mgmt.vm.volume.Revert", "work", "private", revisions.trim().as_bytes());
        assert_eq!(reverted.ok(), "");
        starts_with(&image, b"old data");
        scene::start(&scene.daemon, "work");
    }
}

#[test]
fn a_removal_that_a_command_refuses_is_carried_out_when_it_does_no_more() {
    const HOOK: &str = "post_volume_remove";
    let hooked = Hooked::new();
    let daemon = hooked.start("refresh_s = 1\n").start();
    scene::template(&daemon);
    hooked.add(&daemon);
    let payload = b"name=work label=red pool:private=hooked";
    assert_eq!(daemon.call("mgmt.vm.CreateInPool.AppVM", "dom0", "base", payload).ok(), "");
    hooked.fail(HOOK);
    assert_eq!(daemon.call("mgmt.vm.Remove", "work", "", b"").ok(), "");
    let told = ["a volume stays for now", "as a test wants it"];
    scene::until("that is logged", || told.iter().all(|words| daemon.log().contains(words)));
    let (class, text) = daemon.call("mgmt.pool.Remove", "dom0", "hooked", b"").exception();
    assert_eq!(class, "QubesPoolInUseError", "{text}");
    let refused = hooked.runs(HOOK, "private");
    hooked.mend(HOOK);
    // Nobody asks for it.
    scene::until("it is tried again by itself", || hooked.runs(HOOK, "private") > refused);
    scene::until("the pool is nobody's", || {
        daemon.call("mgmt.pool.Remove", "dom0", "hooked", b"").0.starts_with(b"0")
    });
    scene::create(&daemon, "work");
}

/// `roots` has its root from a template in the pool, and ran when its host went; the pool was not mounted at the next start,
/// and by now it has the template `base`.
fn scene_of_roots() -> Option<Scene> {
    let scene = scene()?;
    let made = |method: &str, argument: &str, payload: &[u8]| {
        assert_eq!(scene.daemon.call(method, "dom0", argument, payload).ok(), "");
    };
    made("mgmt.vm.CreateInPool.TemplateVM", "", b"name=far label=black pool=away");
    made("mgmt.vm.Create.AppVM", "far", b"name=roots label=red");
    scene::start(&scene.daemon, "roots");
    let Scene { daemon, disk } = scene;
    let (left, domains) = (disk.path().join("appvms/roots"), daemon.state().join("sim"));
    let daemon = daemon.kill_and(|| {
        std::fs::remove_dir_all(domains).unwrap();
        assert!(scene::files(&left).iter().any(|name| name.starts_with("root-dirty")));
        disk.unmount();
    });
    let scene = Scene { daemon, disk }.restart_without();
    assert_eq!(scene.daemon.call("mgmt.vm.property.Set", "roots", "template", b"base").ok(), "");
    Some(scene)
}

impl Scene {
    fn left_of_roots(&self) -> Vec<String> {
        scene::files(&self.disk.path().join("appvms/roots"))
    }
}

#[test]
fn what_a_run_has_left_goes_though_its_vm_has_a_template_elsewhere_by_now() {
    let Some(scene) = scene_of_roots() else { return };
    scene.disk.mount();
    assert_ne!(scene.left_of_roots(), Vec::<String>::new());
    scene::start(&scene.daemon, "roots");
    assert_eq!(scene.left_of_roots(), Vec::<String>::new());
    assert_eq!(scene.daemon.call("mgmt.vm.Kill", "roots", "", b"").ok(), "");
    assert_eq!(scene::left_over(&scene.daemon), Vec::<String>::new());
}

#[test]
fn what_a_run_has_left_elsewhere_is_known_over_other_runs_and_starts() {
    let Some(scene) = scene_of_roots() else { return };
    scene::start(&scene.daemon, "roots");
    let (class, text) = scene.daemon.call("mgmt.pool.Remove", "dom0", "away", b"").exception();
    assert!(class == "QubesPoolInUseError" && text.contains("roots"), "{class}: {text}");
    let scene = scene.restart_without().restart_without();
    assert_eq!(scene.daemon.call("mgmt.vm.Kill", "roots", "", b"").ok(), "");
    scene.disk.mount();
    assert_ne!(scene.left_of_roots(), Vec::<String>::new());
    // Nobody asks for it.
    scene::until("the root to go", || scene.left_of_roots().is_empty());
}

#[test]
fn what_a_run_has_left_elsewhere_goes_with_its_vm() {
    let Some(scene) = scene_of_roots() else { return };
    assert_eq!(scene.daemon.call("mgmt.vm.Remove", "roots", "", b"").ok(), "");
    let scene = scene.restart_without();
    scene.disk.mount();
    assert_ne!(scene.left_of_roots(), Vec::<String>::new());
    scene::until("the root to go", || scene.left_of_roots().is_empty());
    scene::create(&scene.daemon, "roots");
}

/// Of a pool that could not be taken in when the daemon started: what is wrong with it, not that it is not there.
#[test]
fn a_pool_that_cannot_be_used_is_refused_with_what_is_wrong_with_it_until_that_is_put_right() {
    let hooked = Hooked::new();
    let daemon = hooked.start("refresh_s = 1\n").start();
    scene::template(&daemon);
    hooked.add(&daemon);
    let payload = b"name=work label=red pool:private=hooked";
    assert_eq!(daemon.call("mgmt.vm.CreateInPool.AppVM", "dom0", "base", payload).ok(), "");
    let config = hooked.config();
    let good = std::fs::read(&config).unwrap();
    std::fs::write(&config, r#"{"c": {"bdriver": "nfs"}}"#).unwrap();
    let daemon = daemon.kill_and_restart();
    let why = "storage pool 'hooked' cannot be used now: ";
    for (method, vm, argument, payload) in [
        ("mgmt.vm.Start", "work", "", &b""[..]),
        ("mgmt.vm.volume.Clear", "work", "private", b""),
        ("mgmt.vm.volume.Snapshot", "work", "private", b""),
        ("mgmt.vm.Clone", "work", "", b"name=copy"),
        ("mgmt.vm.CreateInPool.AppVM", "dom0", "base", b"name=new label=red pool:private=hooked"),
    ] {
        let (class, text) = daemon.call(method, vm, argument, payload).exception();
        assert_eq!(class, "StoragePoolException", "{method}: {text}");
        let says_why = text.contains("The driver nfs was not found on your system.");
        assert!(text.contains(why) && says_why, "{method}: {text}");
    }
    std::fs::write(&config, good).unwrap();
    // Nobody starts the daemon anew.
    scene::until("it is taken in", || daemon.call("mgmt.vm.Start", "work", "", b"").0.starts_with(b"0"));
}
