//! The driver of kernels.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libvirt_qubes::Kind;
use libvirt_qubes::config::Access;
use libvirt_qubes::ids::ByteSize;
use libvirt_qubes::storage::{
    Driver, Ending, Job, KernelDriver, RevisionsToKeep, Sharing, Started, VolumeId, VolumeKind, VolumeSpec,
};
use tempfile::TempDir;

fn spec(version: &str) -> VolumeSpec {
    VolumeSpec {
        kind: VolumeKind::Kernel { version: version.parse().ok() },
        size: ByteSize::bytes(0),
        revisions_to_keep: RevisionsToKeep::Newest(0),
        access: Access::ReadOnly,
        sharing: Sharing::Private,
        ephemeral: false,
    }
}

fn volume() -> VolumeId {
    "appvms/work/kernel".parse().unwrap()
}

fn pool() -> (TempDir, KernelDriver) {
    let dir = tempfile::tempdir().unwrap();
    let driver = KernelDriver::new(&dir.path().join("vm-kernels")).unwrap();
    driver.setup().unwrap();
    driver.setup().unwrap();
    (dir, driver)
}

fn add(dir: &Path, version: &str, files: &[&str]) {
    let folder = dir.join("vm-kernels").join(version);
    std::fs::create_dir(&folder).unwrap();
    for file in files {
        std::fs::write(folder.join(file), "x".repeat(1000)).unwrap();
    }
}

#[test]
fn a_kernel_is_a_folder_with_an_image_and_perhaps_more() {
    let (dir, driver) = pool();
    add(dir.path(), "6.1", &["vmlinuz", "initramfs", "modules.img"]);
    add(dir.path(), "5.15-small", &["vmlinuz"]);
    add(dir.path(), "broken", &["modules.img"]);
    std::fs::write(dir.path().join("vm-kernels/file"), "").unwrap();
    // Nobody could name these, and in a list one would be two.
    for odd in [&b"6.1\n6.2"[..], b"6\x1b[2J", b"\xff"] {
        let folder = dir.path().join("vm-kernels").join(OsStr::from_bytes(odd));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("vmlinuz"), "x").unwrap();
    }
    let kernels = driver.as_kernels().unwrap();
    let versions: Vec<_> = kernels.versions().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(versions, ["5.15-small", "6.1", "broken"]);
    let folder = dir.path().join("vm-kernels/6.1");
    let kernel = kernels.kernel(&"6.1".parse().unwrap()).unwrap();
    assert_eq!(kernel.vmlinuz, folder.join("vmlinuz"));
    assert_eq!(kernel.initramfs, Some(folder.join("initramfs")));
    assert_eq!(kernel.modules, Some(folder.join("modules.img")));
    let small = kernels.kernel(&"5.15-small".parse().unwrap()).unwrap();
    assert_eq!((small.initramfs, small.modules), (None, None));
    for missing in ["broken", "6.2"] {
        let error = kernels.kernel(&missing.parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.report().contains(&format!("{missing}/vmlinuz")), "{}", error.report());
    }
}

#[test]
fn a_kernel_volume_is_its_modules_read_only_or_no_device() {
    let (dir, driver) = pool();
    add(dir.path(), "6.1", &["vmlinuz", "modules.img"]);
    add(dir.path(), "small", &["vmlinuz"]);
    let start = |version: &str| driver.start(&volume(), &spec(version), &mut || {}, &Job::default());
    let path = dir.path().join("vm-kernels/6.1/modules.img");
    assert_eq!(start("6.1").unwrap(), Some(Started { path: path.clone(), access: Access::ReadOnly }));
    assert_eq!(start("small").unwrap(), None);
    assert_eq!(start("").unwrap(), None);
    assert_eq!(start("gone").unwrap_err().kind(), Kind::NotFound);
    assert_eq!(driver.vid(&volume(), &spec("6.1")), "6.1");
    assert_eq!(driver.vid(&volume(), &spec("")), "");
    for version in ["6.1", "small", ""] {
        driver.create(&volume(), &spec(version)).unwrap();
        driver.verify(&volume(), &spec(version)).unwrap();
        driver.stop(&volume(), &spec(version), Ending::Ran).unwrap();
        driver.recover(&volume(), &spec(version)).unwrap();
    }
    assert_eq!(driver.verify(&volume(), &spec("gone")).unwrap_err().kind(), Kind::NotFound);
    let info = driver.info(&volume(), &spec("6.1")).unwrap();
    assert_eq!((info.size.get(), info.path), (1000, Some(path.clone())));
    assert_eq!(driver.info(&volume(), &spec("gone")).unwrap().size.get(), 0);
    driver.remove(&volume()).unwrap();
    assert!(path.exists(), "removing a VM's volume removed the kernel");
    assert_eq!(driver.usage().unwrap(), None);
}

#[test]
fn no_other_volume_lies_among_kernels() {
    let (_dir, driver) = pool();
    let origin = VolumeSpec { kind: VolumeKind::Origin, ..spec("") };
    assert_eq!(driver.create(&volume(), &origin).unwrap_err().kind(), Kind::Unsupported);
    let started = driver.start(&volume(), &origin, &mut || {}, &Job::default());
    assert_eq!(started.unwrap_err().kind(), Kind::Unsupported);
    assert_eq!(driver.export(&volume(), &spec("")).unwrap_err().kind(), Kind::Unsupported);
}
