//! A real thin pool to try the driver on.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use libvirt_qubes::contract::storage::Fixture;
use libvirt_qubes::storage::lvm::LvName;
use libvirt_qubes::storage::{Driver, LvmDriver, Tuning};

/// A volume group of its own on one device, and thin pools in it. Gone when dropped.
pub(crate) struct ThinPool {
    vg: String,
    device: PathBuf,
    backing: Option<tempfile::TempDir>,
    count: AtomicUsize,
    contracts: OnceLock<LvName>,
}

impl ThinPool {
    /// On a loop device.
    ///
    /// # Errors
    /// Why this machine cannot.
    #[allow(dead_code, reason = "one of the two programs that have this module has a disk")]
    pub(crate) fn on_a_loop_device() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("not root".to_owned());
        }
        if std::fs::File::open("/dev/mapper/control").is_err() {
            return Err("this kernel has no device-mapper".to_owned());
        }
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let image = dir.path().join("disk");
        let file = std::fs::File::create(&image).map_err(|e| e.to_string())?;
        file.set_len(2 << 30).map_err(|e| e.to_string())?;
        let device = run(Command::new("losetup").args(["--find", "--show"]).arg(&image))?;
        Self::on(Path::new(device.trim()), Some(dir))
    }

    /// On a disk whose content is nobody's.
    ///
    /// # Errors
    /// Why this machine cannot.
    #[allow(dead_code, reason = "one of the two programs that have this module has a disk")]
    pub(crate) fn on_disk(device: &Path) -> Result<Self, String> {
        Self::on(device, None)
    }

    fn on(device: &Path, backing: Option<tempfile::TempDir>) -> Result<Self, String> {
        let vg = format!("mgmt-test-{}", std::process::id());
        let pool = Self {
            vg,
            device: device.to_owned(),
            backing,
            count: AtomicUsize::new(0),
            contracts: OnceLock::new(),
        };
        // A test that failed may have left its volume group.
        let wiped = std::fs::File::options().write(true).open(device).and_then(|mut device| {
            device.write_all(&vec![0; 1 << 20])?;
            device.sync_all()
        });
        wiped.map_err(|e| format!("{}: {e}", device.display()))?;
        run(Command::new("lvm").args(["pvcreate", "--yes", "--force"]).arg(device))?;
        run(Command::new("lvm").args(["vgcreate", &pool.vg]).arg(device))?;
        Ok(pool)
    }

    /// A new thin pool of so many MiB, with 4 MiB for metadata unless said otherwise.
    pub(crate) fn make(&self, size: u64, options: &[&str]) -> LvName {
        let name = format!("pool{}", self.count.fetch_add(1, Ordering::SeqCst));
        let mut command = Command::new("lvm");
        command.args(["lvcreate", "--yes", "--type=thin-pool", "--poolmetadatasize=4M"]);
        command.args(options).arg(format!("--size={size}M")).arg(format!("--name={name}")).arg(&self.vg);
        run(&mut command).unwrap();
        LvName::new(self.vg.parse().unwrap(), &name).unwrap()
    }

    /// Names of the LVs that are there.
    #[allow(dead_code, reason = "one of the two programs that have this module looks")]
    pub(crate) fn lvs(&self) -> Vec<String> {
        let out = run(Command::new("lvm").args(["lvs", "--noheadings", "-o", "lv_name", &self.vg])).unwrap();
        out.split_whitespace().map(str::to_owned).collect()
    }
}

impl Fixture for ThinPool {
    /// The same thin pool for one contract after another, emptied: LVM takes its time to make one.
    fn new_pool(&self) -> Arc<dyn Driver> {
        let pool = match self.contracts.get() {
            Some(pool) => {
                let theirs = format!("--select=pool_lv={}", pool.lv());
                run(Command::new("lvm").args(["lvremove", "--yes", "--force", &theirs, &self.vg])).unwrap();
                pool
            }
            None => self.contracts.get_or_init(|| self.make(128, &[])),
        };
        Arc::new(LvmDriver::new(pool.clone(), Tuning::default()))
    }
}

impl Drop for ThinPool {
    fn drop(&mut self) {
        let steps = [
            run(Command::new("lvm").args(["vgremove", "--yes", "--force", &self.vg])),
            run(Command::new("lvm").args(["pvremove", "--yes", "--force"]).arg(&self.device)),
        ];
        for why in steps.into_iter().filter_map(Result::err) {
            eprintln!("{why}");
        }
        if self.backing.is_some()
            && let Err(why) = run(Command::new("losetup").arg("--detach").arg(&self.device))
        {
            eprintln!("{why}");
        }
    }
}

/// Standard output of a command that succeeds.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
