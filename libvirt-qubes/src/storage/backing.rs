//! What a folder's file system lies on, as far as LVM is concerned.
//!
//! The kernel names every device of device-mapper in sysfs, with those beneath it: a thin LV lies on `VG-POOL-tpool`.
//! No command is executed, and nothing is asked of LVM.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::lvm::LvName;
use super::mounts;

/// As many devices lie on one another at most; sysfs has no loops.
const DEEPEST: usize = 16;

/// The thin pools whose space a folder's file system takes; none where that cannot be found out.
pub(super) fn thin_pools(dir: &Path) -> BTreeSet<LvName> {
    let sys = Path::new("/sys");
    let device = std::fs::metadata(dir).ok().map(|metadata| metadata.dev());
    let device = device.filter(|device| rustix::fs::major(*device) != 0).or_else(|| mounted_device(dir));
    let mut found = BTreeSet::new();
    if let Some(device) = device {
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        beneath(&sys.join(format!("dev/block/{major}:{minor}")), DEEPEST, &mut found);
    }
    found
}

/// The device that a file system without a number of its own (btrfs) was mounted from.
fn mounted_device(dir: &Path) -> Option<u64> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let metadata = std::fs::metadata(mounts::source(&mounts, dir)?).ok()?;
    (metadata.mode() & 0o170_000 == 0o060_000).then(|| metadata.rdev())
}

fn beneath(device: &Path, deep: usize, found: &mut BTreeSet<LvName>) {
    let read = |name: &str| std::fs::read_to_string(device.join(name)).unwrap_or_default();
    if read("dm/uuid").starts_with("LVM-")
        && let Some(pool) = read("dm/name").trim_end().strip_suffix("-tpool")
    {
        found.extend(LvName::from_mapped(pool));
        return;
    }
    let Some(deep) = deep.checked_sub(1) else { return };
    for below in std::fs::read_dir(device.join("slaves")).into_iter().flatten().flatten() {
        beneath(&below.path(), deep, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thin_pool_is_found_beneath_an_encrypted_lv() {
        let sys = tempfile::tempdir().unwrap();
        let device = |name: &str, dm: Option<(&str, &str)>, below: &[&str]| {
            let path = sys.path().join(name);
            std::fs::create_dir_all(path.join("slaves")).unwrap();
            if let Some((name, uuid)) = dm {
                std::fs::create_dir_all(path.join("dm")).unwrap();
                std::fs::write(path.join("dm/name"), format!("{name}\n")).unwrap();
                std::fs::write(path.join("dm/uuid"), format!("{uuid}\n")).unwrap();
            }
            for other in below {
                std::os::unix::fs::symlink(sys.path().join(other), path.join("slaves").join(other)).unwrap();
            }
            path
        };
        device("sda", None, &[]);
        device("dm-1", Some(("qubes_dom0-vm--pool-tpool", "LVM-abc-tpool")), &["sda"]);
        device("dm-2", Some(("qubes_dom0-data", "LVM-abd")), &["dm-1"]);
        let crypt = device("dm-3", Some(("secret-tpool", "CRYPT-PLAIN-x")), &["dm-2"]);
        let disk = device("sdb", None, &[]);
        let pools = |device: &Path| {
            let mut found = BTreeSet::new();
            beneath(device, DEEPEST, &mut found);
            found.iter().map(LvName::to_string).collect::<Vec<_>>()
        };
        assert_eq!(pools(&crypt), ["qubes_dom0/vm-pool"]);
        assert!(pools(&disk).is_empty());
        assert!(pools(Path::new("/nowhere")).is_empty());
    }
}
