//! Memory during an import. A binary of its own: the figure is the whole process's.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use libvirt_qubes::config::Access;
use libvirt_qubes::ids::ByteSize;
use libvirt_qubes::storage::{
    Driver, ImageDriver, ImportSize, Job, RevisionsToKeep, Sharing, VolumeKind, VolumeSpec,
};

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn memory_stays_flat_however_much_comes() {
    let dir = tempfile::tempdir().unwrap();
    let driver = ImageDriver::file(dir.path()).unwrap();
    driver.setup().unwrap();
    let spec = VolumeSpec {
        kind: VolumeKind::Origin,
        size: ByteSize::bytes(0),
        revisions_to_keep: RevisionsToKeep::Newest(0),
        access: Access::ReadWrite,
        sharing: Sharing::Source,
        ephemeral: false,
    };
    let (id, copy) = ("vm-templates/a/root".parse().unwrap(), "vm-templates/b/root".parse().unwrap());
    let piece = vec![0xa5; 1_000_003];
    let before = peak_kib();
    let mut import = driver.begin_import(&id, &spec, ImportSize::AsItComes).unwrap();
    for _ in 0..200 {
        import.write(&piece).unwrap();
    }
    import.finish().unwrap();
    let export = driver.export(&id, &spec).unwrap();
    driver.import_from(&copy, &spec, &export, &Job::default()).unwrap();
    let grown = peak_kib() - before;
    assert!(grown < 8 * 1024, "200 MB of data took {grown} KiB of memory");
}
