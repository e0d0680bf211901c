//! Each storage driver under VMs on a real Xen: what a guest writes, what is kept of it, and what is left in the end.
//!
//! The guest counts its boots in a file on its root and in the first sector of its private volume. Runs in dom0: `/dev/vdb` is the
//! tests' own disk.

#[path = "xen_host_storage/ephemeral.rs"]
mod ephemeral;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use mgmt_tests::scene::{examine, files};
use mgmt_tests::xen::{Host, guests, host_has, output, says, until};

const DISK: &str = "/dev/vdb";
const MIB: usize = 1 << 20;
/// Of the thin pool's volume group.
const VG: &str = "tested";

/// The disk, made into a place for pools of one driver. What was made goes with this.
enum Ground {
    /// The thin pool `tested/pool`.
    Thin,
    /// A file system that is mounted there.
    Files(tempfile::TempDir),
}

impl Ground {
    fn thin() -> Self {
        wipe();
        output("lvm", &["pvcreate", "--yes", DISK]);
        output("lvm", &["vgcreate", VG, DISK]);
        let pool = [
            "lvcreate",
            "--yes",
            "--type=thin-pool",
            "--size=1G",
            "--poolmetadatasize=8M",
            "--name=pool",
            VG,
        ];
        output("lvm", &pool);
        Self::Thin
    }

    fn files(mkfs: &[&str]) -> Self {
        wipe();
        let (program, options) = mkfs.split_first().unwrap();
        output(program, &[options, &[DISK]].concat());
        let dir = tempfile::tempdir().unwrap();
        output("mount", &[DISK, dir.path().to_str().unwrap()]);
        Self::Files(dir)
    }

    /// Of a pool of this driver there.
    fn options(&self) -> String {
        match self {
            Self::Thin => format!("volume_group={VG}\nthin_pool=pool\n"),
            Self::Files(dir) => format!("dir_path={}\n", dir.path().join("pool").display()),
        }
    }

    /// The committed state of a private volume.
    fn private(&self, vm: &str) -> PathBuf {
        match self {
            Self::Thin => format!("/dev/{VG}/vm-{vm}-private").into(),
            Self::Files(dir) => dir.path().join(format!("pool/appvms/{vm}/private.img")),
        }
    }

    /// What volumes have left there.
    fn left(&self) -> Vec<String> {
        match self {
            Self::Thin => {
                let lvs = output("lvm", &["lvs", "--noheadings", "-o", "lv_name", VG]);
                lvs.split_whitespace().filter(|name| *name != "pool").map(str::to_owned).collect()
            }
            Self::Files(dir) => files(&dir.path().join("pool")),
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let end = |program: &str, arguments: &[&str]| {
            let ended = Command::new(program).args(arguments).status();
            if !ended.is_ok_and(|status| status.success()) {
                eprintln!("{program} {arguments:?} failed");
            }
        };
        if std::thread::panicking() {
            for name in ["work", "copy", "base"] {
                end("xl", &["destroy", name]);
            }
        }
        match self {
            Self::Thin => end("lvm", &["vgremove", "--yes", "--force", VG]),
            Self::Files(dir) => end("umount", &[dir.path().to_str().unwrap_or_default()]),
        }
    }
}

/// A test that failed may have left its volume group or file system.
fn wipe() {
    let mut disk = File::options().write(true).open(DISK).unwrap();
    disk.write_all(&vec![0; MIB]).unwrap();
    disk.sync_all().unwrap();
}

/// The devices of device-mapper, by name, but for the thin pool's own.
fn mapped() -> BTreeSet<String> {
    let list = std::fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap().path().join("dm/name"));
    let names = list.filter_map(|name| std::fs::read_to_string(name).ok());
    names.map(|name| name.trim().to_owned()).filter(|name| !name.starts_with("tested-pool")).collect()
}

/// The guest's count in the first sector of a private volume.
fn boots(volume: &Path) -> String {
    let mut start = [0; 40];
    File::open(volume).unwrap().read_exact_at(&mut start, 0).unwrap();
    String::from_utf8_lossy(&start).trim_end().to_owned()
}

struct Scene {
    host: Host,
    begun: Instant,
}

impl Scene {
    /// How far it has come, for who reads why it failed.
    fn step(&self, done: &str) {
        println!("{done}: after {} ms", self.begun.elapsed().as_millis());
    }

    fn volume(&self, verb: &str, vm: &str, payload: &[u8]) -> String {
        self.host.0.call(&format!("mgmt.vm.volume.{verb}"), vm, "private", payload).ok()
    }

    /// Waits until a VM has come up; by what it counts, this is the so-manyeth time for its root and its private volume.
    fn is_up(&self, vm: &str, root: u32, private: u32) {
        says(vm, &format!("GUEST-UP name={vm}"));
        says(vm, &format!("GUEST-ROOT-BOOTS {root}"));
        says(vm, &format!("GUEST-BOOTS {private}"));
        self.step(&format!("boot of {vm}"));
    }

    fn shut_down(&self, vm: &str) {
        self.host.ok("mgmt.vm.Shutdown", vm, "", "");
        until("the guest shuts down", || self.host.state(vm) == "Halted");
        self.host.is_gone(vm);
        self.step(&format!("end of {vm}"));
    }

    fn is_outdated(&self) -> bool {
        let info = self.host.ok("admin.vm.volume.Info", "work", "root", "");
        info.lines().any(|line| line == "is_outdated=True")
    }
}

/// A template and an AppVM of it, in a pool of `driver`.
fn life(driver: &str, ground: &Ground) {
    let running_snapshots = driver != "file";
    let mut scene = Scene { host: Host::new(), begun: Instant::now() };
    let before = (host_has(), mapped());
    let options = format!("name=tested\n{}", ground.options());
    scene.host.ok("mgmt.pool.Add", "dom0", driver, &options);
    let twice = format!("name=again\n{}", ground.options());
    let (class, text) = scene.host.0.call("mgmt.pool.Add", "dom0", driver, twice.as_bytes()).exception();
    assert!(class == "QubesPoolInUseError" && text.contains("tested"), "{class}: {text}");
    scene.host.ok("mgmt.property.Set", "dom0", "default_pool", "tested");
    let image = std::fs::read(guests().join("root.img")).unwrap();
    assert_eq!(scene.host.0.call("mgmt.vm.CreateTemplate", "dom0", "base", &image).ok(), "");
    scene.host.ok("mgmt.vm.Create.AppVM", "dom0", "base", "name=work label=green");
    for vm in ["base", "work"] {
        scene.host.linux(vm, "pv");
        let info = scene.host.ok("mgmt.vm.volume.Info", vm, "root", "");
        assert!(info.starts_with("pool=tested\n"), "{info}");
    }

    scene.step("made");

    // Data from outside, which the guest finds.
    scene.volume("Set.revisions_to_keep", "work", b"2");
    let mut data = b"MGMT-BOOTS 40".to_vec();
    data.resize(512, b' ');
    data.resize(4 * MIB, 0);
    scene.volume("ImportWithSize", "work", &[format!("{}\n", data.len()).as_bytes(), &data].concat());
    scene.step("imported");
    scene.host.start("work");
    scene.is_up("work", 1, 41);
    says("work", "GUEST-DISK + xvdb 8192");
    if driver == "file" {
        assert!(mapped().len() > before.1.len(), "the root is a snapshot by device-mapper: {:?}", mapped());
    }
    let taken = scene.host.0.call("mgmt.vm.volume.Snapshot", "work", "private", b"");
    if !running_snapshots {
        assert_eq!(taken.exception().0, "QubesVMNotHaltedError");
    }
    // Nothing in this guest makes a file system larger, and the answer says so.
    let grown = (8 * MIB).to_string();
    let (class, text) =
        scene.host.0.call("mgmt.vm.volume.Resize", "work", "private", grown.as_bytes()).exception();
    assert!(
        class == "StoragePoolException" && text.contains("resize filesystem manually"),
        "{class}: {text}"
    );
    says("work", "GUEST-DISK = xvdb 16384");
    scene.shut_down("work");
    assert_eq!(boots(&ground.private("work")), "MGMT-BOOTS 41");
    let kept = if running_snapshots { taken.ok() } else { scene.volume("Snapshot", "work", b"") };

    // Private is kept, as large as it has become; root is gone. Meanwhile the template changes, for others.
    scene.host.start("work");
    scene.host.start("base");
    scene.is_up("work", 1, 42);
    says("work", "GUEST-DISK + xvdb 16384");
    assert!(!scene.is_outdated());
    scene.is_up("base", 1, 1);
    scene.shut_down("base");
    assert!(scene.is_outdated());
    // A daemon that was killed knows, too; and nothing is wrong with what it left.
    let state = scene.host.0.state();
    scene.host = Host(scene.host.0.kill_and(|| examine(&state)));
    assert!(scene.is_outdated());
    scene.shut_down("work");
    scene.host.start("work");
    scene.is_up("work", 2, 43);
    assert!(!scene.is_outdated());
    scene.host.ok("mgmt.vm.Kill", "work", "", "");
    scene.host.is_gone("work");

    // Back by one, and back to what was kept.
    assert_eq!(boots(&ground.private("work")), "MGMT-BOOTS 43");
    let listed = scene.volume("ListSnapshots", "work", b"");
    let last = listed.lines().rfind(|id| *id != kept).unwrap().to_owned();
    scene.volume("Revert", "work", last.as_bytes());
    assert_eq!(boots(&ground.private("work")), "MGMT-BOOTS 42");
    scene.volume("Revert", "work", kept.as_bytes());
    assert_eq!(boots(&ground.private("work")), "MGMT-BOOTS 41");
    scene.step("reverted");

    scene.host.ok("mgmt.vm.Create.AppVM", "dom0", "base", "name=copy label=blue");
    let token = scene.volume("CloneFrom", "work", b"");
    scene.volume("CloneTo", "copy", token.as_bytes());
    assert_eq!(boots(&ground.private("copy")), "MGMT-BOOTS 41");

    scene.step("copied");
    for vm in ["copy", "work", "base"] {
        scene.host.ok("mgmt.vm.Remove", vm, "", "");
    }
    assert_eq!(ground.left(), Vec::<String>::new());
    scene.host.ok("mgmt.property.Set", "dom0", "default_pool", "varlibqubes");
    scene.host.ok("mgmt.pool.Remove", "dom0", "tested", "");
    assert_eq!((host_has(), mapped()), before);
}

#[test]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
fn an_appvm_lives_on_a_thin_pool() {
    life("lvm_thin", &Ground::thin());
}

#[test]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
fn an_appvm_lives_on_files_that_share_blocks() {
    life("file-reflink", &Ground::files(&["mkfs.xfs", "-q", "-K", "-m", "reflink=1"]));
}

#[test]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
fn an_appvm_lives_on_files_that_cannot_share_blocks() {
    life("file", &Ground::files(&["mkfs.ext4", "-q", "-E", "nodiscard"]));
}
