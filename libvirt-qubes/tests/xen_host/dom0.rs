//! What every test here needs: the host in a known state, guests, and a look at it that does not go through us.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use libvirt_qubes::config::{Access, Boot, DiskSpec, DomainSpec, VirtMode};
use libvirt_qubes::hypervisor::{DomainChange, Domains, EventSource, HypervisorEvent};
use libvirt_qubes::ids::MemoryMib;
use libvirt_qubes::xen::{LibxlHypervisor, LibxlOptions};
use tempfile::TempDir;
use tokio::sync::broadcast::Receiver;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// On a busy machine that emulates Xen, a Linux PVH guest has taken more than a minute to come up.
pub(crate) const PATIENCE: Duration = Duration::from_mins(4);

pub(crate) struct Dom0 {
    pub(crate) xen: LibxlHypervisor,
    pub(crate) events: Receiver<HypervisorEvent>,
    pub(crate) dir: TempDir,
    loops: usize,
    nodes: usize,
}

impl Dom0 {
    /// Opens the backend, and removes the domains of a test that failed before.
    pub(crate) async fn open() -> Self {
        let dom0 = Self::reopen().await;
        for left in dom0.xen.list().await.unwrap() {
            drop(dom0.xen.destroy(left.uuid).await);
        }
        Self { loops: loops().len(), nodes: nodes(), ..dom0 }
    }

    /// A connection of its own.
    pub(crate) fn connect() -> LibxlHypervisor {
        LibxlHypervisor::open(LibxlOptions::new(program("mgmt-block"))).unwrap()
    }

    /// Opens the backend on a host where domains run; the host is expected to be empty at the end.
    pub(crate) async fn reopen() -> Self {
        let xen = Self::connect();
        let events = xen.subscribe();
        Self { xen, events, dir: tempfile::tempdir().unwrap(), loops: 0, nodes: 0 }
    }

    /// The host must be as it was at the begin.
    pub(crate) async fn close(self) {
        assert_eq!(xl_list(), BTreeMap::new(), "domains are left");
        self.assert_clean();
        self.xen.close().await;
    }

    pub(crate) fn assert_clean(&self) {
        assert_eq!(loops().len(), self.loops, "loop devices are left: {:?}", loops());
        assert_eq!(nodes(), self.nodes, "xenstore nodes are left:\n{}", xenstore_tree());
    }

    pub(crate) async fn create(&self, spec: &DomainSpec) -> libvirt_qubes::Result<libvirt_qubes::ids::DomId> {
        self.xen.create(spec.clone(), CancellationToken::new()).await
    }

    /// Creates and unpauses.
    pub(crate) async fn start(&self, spec: &DomainSpec) {
        self.create(spec).await.unwrap();
        self.xen.unpause(spec.uuid).await.unwrap();
    }

    /// A file for a disk, with these words at its begin.
    pub(crate) fn disk_file(&self, name: &str, words: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        let mut bytes = words.as_bytes().to_vec();
        bytes.resize(1 << 20, 0);
        fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn disk(&self, vdev: &str, access: Access) -> DiskSpec {
        let path = self.disk_file(&format!("{vdev}.img"), &format!("this is {vdev}"));
        DiskSpec { vdev: vdev.parse().unwrap(), path, access }
    }

    /// The next change of this domain; others are passed over.
    pub(crate) async fn change(&mut self, uuid: Uuid) -> DomainChange {
        let next = async {
            loop {
                match self.events.recv().await.unwrap() {
                    HypervisorEvent::Domain(event) if event.uuid == uuid => return event.change,
                    HypervisorEvent::Domain(_) => {}
                    lost @ (HypervisorEvent::Lost | HypervisorEvent::Unavailable) => panic!("{lost:?}"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("an event")
    }

    /// Fails if anything happens to this domain within `time`.
    pub(crate) async fn assert_quiet(&mut self, uuid: Uuid, time: Duration) {
        if let Ok(change) = tokio::time::timeout(time, self.change(uuid)).await {
            panic!("{change:?}");
        }
    }
}

fn program(name: &str) -> PathBuf {
    let folder = std::env::var_os("MGMT_BIN_DIR").expect("MGMT_BIN_DIR names the folder of mgmt-block");
    PathBuf::from(folder).join(name)
}

/// A guest's file, on a disk of dom0: libxl maps kernels, and each page of a shared folder is a round trip.
pub(crate) fn guest_file(name: &str) -> PathBuf {
    let local = std::env::temp_dir().join("xen-host-guests").join(name);
    if !local.exists() {
        let guests = std::env::var_os("MGMT_GUESTS").expect("MGMT_GUESTS names the folder of the guests");
        fs::create_dir_all(local.parent().unwrap()).unwrap();
        fs::copy(PathBuf::from(guests).join(name), &local).unwrap();
    }
    local
}

/// The guest of a few KiB. `words` are added to its command line.
pub(crate) fn tiny(name: &str, virt_mode: VirtMode, words: &str) -> DomainSpec {
    let kernel = guest_file(if virt_mode == VirtMode::Pv { "tiny-pv" } else { "tiny-pvh" });
    DomainSpec {
        name: name.parse().unwrap(),
        uuid: Uuid::new_v4(),
        virt_mode,
        memory: MemoryMib::new(16),
        max_memory: MemoryMib::new(16),
        vcpus: 1,
        boot: Some(Boot { kernel, ramdisk: None, cmdline: format!("mgmt.name={name} {words}") }),
        disks: Vec::new(),
    }
}

/// The Linux guest with its root disk, a copy of its own.
pub(crate) fn linux(dir: &Path, name: &str, virt_mode: VirtMode) -> DomainSpec {
    let root = dir.join(format!("{name}-root.img"));
    fs::copy(guest_file("root.img"), &root).unwrap();
    let boot = Boot {
        kernel: guest_file("linux/vmlinuz"),
        ramdisk: Some(guest_file("linux/initramfs")),
        cmdline: format!("console=hvc0 quiet mitigations=off random.trust_cpu=on mgmt.name={name}"),
    };
    let xvda = DiskSpec { vdev: "xvda".parse().unwrap(), path: root, access: Access::ReadWrite };
    DomainSpec {
        memory: MemoryMib::new(192),
        max_memory: MemoryMib::new(192),
        boot: Some(boot),
        disks: vec![xvda],
        ..tiny(name, virt_mode, "")
    }
}

/// A disk that only the hotplug program finds to be unusable: its file system cannot be written.
pub(crate) struct Unwritable {
    folder: PathBuf,
    pub(crate) disk: DiskSpec,
}

impl Unwritable {
    pub(crate) fn new(dom0: &Dom0, vdev: &str) -> Self {
        let folder = dom0.dir.path().join("read-only");
        fs::create_dir(&folder).unwrap();
        let at = folder.to_str().unwrap();
        run("mount", &["-t", "tmpfs", "tmpfs", at]);
        let path = folder.join("unwritable.img");
        fs::write(&path, vec![0; 1 << 20]).unwrap();
        run("mount", &["-o", "remount,ro", at]);
        let disk = DiskSpec { vdev: vdev.parse().unwrap(), path, access: Access::ReadWrite };
        Self { folder, disk }
    }
}

impl Drop for Unwritable {
    fn drop(&mut self) {
        run("umount", &[self.folder.to_str().unwrap()]);
    }
}

/// What the guest of this name has said on its console so far, in all its lives.
pub(crate) fn console(name: &str) -> String {
    fs::read(format!("/var/log/xen/guest-{name}.log"))
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// Waits until the guest says so.
pub(crate) async fn says(name: &str, words: &str) {
    let until = Instant::now() + PATIENCE;
    while !console(name).contains(words) {
        assert!(Instant::now() < until, "{name} does not say {words:?} but:\n{}", console(name));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What `xl list` says: the state letters of each domain, by name.
pub(crate) fn xl_list() -> BTreeMap<String, String> {
    run("xl", &["list"])
        .lines()
        .skip(1)
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            Some(((*words.first()?).to_owned(), (*words.get(4)?).to_owned()))
        })
        .filter(|(name, _)| name != "Domain-0")
        .collect()
}

/// The files that are attached to loop devices.
pub(crate) fn loops() -> Vec<String> {
    let mut files = Vec::new();
    for entry in fs::read_dir("/sys/block").unwrap() {
        if let Ok(file) = fs::read_to_string(entry.unwrap().path().join("loop/backing_file")) {
            files.push(file.trim().to_owned());
        }
    }
    files
}

pub(crate) fn xenstore_tree() -> String {
    run("xenstore-ls", &["-f"])
}

/// Nodes below what belongs to domains, dom0's own left out.
fn nodes() -> usize {
    let ours = |line: &&str| {
        ["/local/domain/", "/libxl/", "/vm/"].iter().any(|start| line.starts_with(start))
            && !line.starts_with("/local/domain/0/")
            && !line.starts_with("/local/domain/0 ")
            && !line.starts_with("/libxl/0")
            || line.starts_with("/local/domain/0/backend/")
    };
    // A backend kind's own folder stays when its last device goes.
    let lasting = |line: &&str| line.split(" = ").next().is_some_and(|path| path.split('/').count() <= 6);
    xenstore_tree().lines().filter(ours).filter(|line| !(line.contains("/backend/") && lasting(line))).count()
}

pub(crate) fn open_fds() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}
