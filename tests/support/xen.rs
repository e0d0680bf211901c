//! The daemon on a real Xen, in dom0: `MGMT_GUESTS` is the folder of the guests, `MGMT_BIN_DIR` that of the programs.

use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::{Daemon, Start};

/// On a busy machine that emulates Xen, a Linux guest has taken a minute to come up.
const PATIENCE: Duration = Duration::from_mins(4);

/// Standard output of a program that succeeds.
pub fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Waits until something is so.
pub fn until(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < PATIENCE, "{what}: not after {} s", PATIENCE.as_secs());
        sleep(Duration::from_millis(100));
    }
}

/// The letters of `xl list` (`r b p s c d`) for a domain; `None` when Xen has none of that name.
pub fn xl_state(name: &str) -> Option<String> {
    let list = output("xl", &["list"]);
    let line = list.lines().find(|line| line.split_whitespace().next() == Some(name))?;
    line.split_whitespace().nth(4).map(str::to_owned)
}

/// Domains, loop devices, and nodes of xenstore but for those that the first domain of a boot leaves for all others: of
/// backends of a kind, without a number.
pub fn host_has() -> (usize, usize, Vec<String>) {
    let domains = output("xl", &["list"]).lines().count();
    let loops = output("losetup", &["-n", "-O", "NAME"]).lines().count();
    let nodes = output("xenstore-ls", &["-f"]);
    let paths = nodes.lines().filter_map(|line| line.split(" = ").next());
    let stays = |path: &str| match path.strip_prefix("/local/domain/0/backend") {
        Some(below) => below.split('/').count() <= 2,
        None => path.matches('/').count() == 1,
    };
    (domains, loops, paths.filter(|path| !stays(path)).map(str::to_owned).collect())
}

/// The folder of the guests.
pub fn guests() -> PathBuf {
    std::env::var_os("MGMT_GUESTS").expect("MGMT_GUESTS is set in the testbed").into()
}

/// What a guest has said on its console.
pub fn console(name: &str) -> String {
    let bytes = std::fs::read(format!("/var/log/xen/guest-{name}.log")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\r', "")
}

/// Waits until a guest has said this line.
pub fn says(name: &str, line: &str) {
    let start = Instant::now();
    while !console(name).lines().any(|said| said == line) {
        assert!(start.elapsed() < PATIENCE, "no line {line:?} on the console of {name}:\n{}", console(name));
        sleep(Duration::from_millis(100));
    }
}

/// A daemon on this Xen, and short words for its calls.
#[derive(Debug)]
pub struct Host(pub Daemon);

impl Host {
    /// With the tiny guests and the Linux guest as kernels.
    #[expect(clippy::new_without_default, reason = "a default daemon is none on Xen")]
    pub fn new() -> Self {
        let host = Self(Start::new().hypervisor("libxl").start());
        for kind in ["pv", "pvh"] {
            let folder = host.0.state().join(format!("vm-kernels/tiny-{kind}"));
            std::fs::create_dir(&folder).unwrap();
            std::fs::copy(guests().join(format!("tiny-{kind}")), folder.join("vmlinuz")).unwrap();
        }
        let folder = host.0.state().join("vm-kernels/linux");
        std::fs::create_dir(&folder).unwrap();
        for name in ["vmlinuz", "initramfs"] {
            std::fs::copy(guests().join("linux").join(name), folder.join(name)).unwrap();
        }
        host
    }

    /// Content of the answer to a call of dom0's that succeeds.
    pub fn ok(&self, method: &str, destination: &str, argument: &str, payload: &str) -> String {
        self.0.call(method, destination, argument, payload.as_bytes()).ok()
    }

    /// Sets a VM's property.
    pub fn set(&self, vm: &str, property: &str, value: &str) {
        self.ok("mgmt.vm.property.Set", vm, property, value);
    }

    /// Makes the template `base`, whose root holds nothing that boots.
    pub fn template(&self) {
        self.ok("mgmt.vm.CreateTemplate", "dom0", "base", "a small root");
    }

    /// A VM that boots a tiny guest.
    pub fn tiny(&self, name: &str, kind: &str, options: &str) {
        self.ok("mgmt.vm.Create.AppVM", "dom0", "base", &format!("name={name} label=red"));
        self.is_tiny(name, kind);
        self.set(name, "kernelopts", &format!("mgmt.name={name} {options}"));
    }

    /// Has a VM boot a tiny guest, or those that are based on it.
    pub fn is_tiny(&self, name: &str, kind: &str) {
        let kernel = format!("tiny-{kind}");
        for (property, value) in
            [("kernel", &*kernel), ("virt_mode", kind), ("memory", "16"), ("maxmem", "16"), ("vcpus", "1")]
        {
            self.set(name, property, value);
        }
    }

    /// Has a VM boot the Linux guest from its root.
    pub fn linux(&self, name: &str, kind: &str) {
        for (property, value) in
            [("kernel", "linux"), ("virt_mode", kind), ("memory", "160"), ("maxmem", "160"), ("vcpus", "1")]
        {
            self.set(name, property, value);
        }
        let options = format!("quiet mitigations=off random.trust_cpu=on mgmt.name={name}");
        self.set(name, "kernelopts", &options);
    }

    /// Starts a VM, with an empty log of its console.
    pub fn start(&self, name: &str) {
        // The console's log goes on over domains of one name.
        drop(std::fs::remove_file(format!("/var/log/xen/guest-{name}.log")));
        self.ok("mgmt.vm.Start", name, "", "");
    }

    /// Starts a Linux guest until it has come up as far as its init. A PVH one sometimes stays silent for ever under
    /// QEMU's emulation, or dies: it is tried again, and `false` says that it never came up.
    pub fn start_linux(&self, name: &str, kind: &str) -> bool {
        for _ in 0..3 {
            self.start(name);
            let start = Instant::now();
            while kind == "pvh"
                && !console(name).contains("GUEST-")
                && self.state(name) != "Halted"
                && start.elapsed() < Duration::from_secs(80)
            {
                sleep(Duration::from_millis(100));
            }
            if kind == "pv" || console(name).contains("GUEST-") {
                return true;
            }
            let killed = self.0.call("mgmt.vm.Kill", name, "", b"");
            if killed.0.first() != Some(&b'0') {
                assert_eq!(killed.exception().0, "QubesVMNotStartedError", "it died");
            }
        }
        println!(
            "\nskipped: the Linux PVH guest stayed silent three times, as it does at times under emulation"
        );
        false
    }

    /// A VM's state.
    pub fn state(&self, name: &str) -> String {
        let line = self.ok("mgmt.vm.List", name, "", "");
        line.trim_end().rsplit_once("state=").unwrap().1.to_owned()
    }

    /// The VM is halted for the daemon, and Xen has no such domain.
    pub fn is_gone(&self, name: &str) {
        assert_eq!((self.state(name).as_str(), xl_state(name)), ("Halted", None));
    }
}
