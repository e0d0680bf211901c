//! Not in every run: an ephemeral volume of files on the kernel's dm-crypt. A VM has one, on a thin pool, in each.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use libvirt_qubes::config::Access;
use libvirt_qubes::ids::ByteSize;
use libvirt_qubes::storage::{
    Ending, ImageDriver, Job, Limits, Recovered, RevisionsToKeep, Sharing, Storage, Tuning, Volume,
    VolumeKind, VolumeSpec,
};

use crate::{attached, devices, output};

const SIZE: usize = 4 << 20;
const SAID: &[u8; 16] = b"what a guest say";

fn volume() -> Volume {
    let spec = VolumeSpec {
        kind: VolumeKind::Volatile,
        size: ByteSize::bytes(SIZE as u64),
        revisions_to_keep: RevisionsToKeep::Newest(0),
        access: Access::ReadWrite,
        sharing: Sharing::Private,
        ephemeral: true,
    };
    Volume { pool: "fast".parse().unwrap(), id: "appvms/work/volatile".parse().unwrap(), spec }
}

async fn storage(dir: &Path) -> Storage {
    let storage = Storage::tuned(Limits::default(), Tuning::default());
    let driver = ImageDriver::file(&dir.join("pool")).unwrap();
    storage.add_pool("fast".parse().unwrap(), Arc::new(driver)).await.unwrap();
    storage
}

#[tokio::test]
#[ignore = "needs device-mapper; run by cargo xtask test"]
async fn what_is_written_to_an_ephemeral_volume_is_noise_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("pool/appvms/work/volatile-dirty.img");
    let said = std::str::from_utf8(SAID).unwrap();
    let first = storage(dir.path()).await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let device = first.start(&volume(), Job::default()).await.unwrap().unwrap().path;
        assert_eq!(device, Path::new("/dev/mapper/vm-volatile-work-crypt@volatile"));
        let table = output("dmsetup", &["table", "vm-volatile-work-crypt@volatile"]);
        assert!(table.contains(&format!("0 {} crypt aes-xts-plain64 ", SIZE / 512)), "{table}");
        assert_eq!((devices().len(), attached().len()), (1, 1));
        // What a guest writes is nothing for LVM to believe.
        let refused = Command::new("lvm").args(["pvcreate", "--yes"]).arg(&device).output().unwrap();
        let why = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && why.contains("not in a usable state"), "{why}");
        let file = File::options().read(true).write(true).open(&device).unwrap();
        let mut data = vec![1; 64 << 10];
        file.read_exact_at(&mut data, 0).unwrap();
        assert!(data.iter().all(|byte| *byte == 0));
        file.write_all_at(&SAID.repeat(4096), 1 << 20).unwrap();
        file.sync_all().unwrap();
        drop(file);
        output("sync", &[]);
        let raw = std::fs::read(&plain).unwrap();
        // Looked for by a program: in an emulated machine a loop over each byte takes half a minute.
        let found =
            Command::new("grep").args(["-a", "-c", "-F", "-e"]).arg(said).arg(&plain).output().unwrap();
        assert_eq!(found.status.code(), Some(1), "it can be read on the disk: {found:?}");
        let there = raw[1 << 20..][..4096].to_vec();
        assert!(there.iter().any(|byte| *byte != 0));
        seen.push(there);
        first.stop(&volume(), Ending::Ran).await.unwrap();
        assert_eq!((devices(), attached(), plain.exists()), (Vec::new(), Vec::new(), false));
    }
    assert_ne!(seen[0], seen[1], "two starts had one key");
    // A daemon that ends while it runs; the next one finds the VM halted.
    first.start(&volume(), Job::default()).await.unwrap();
    drop(first);
    assert_eq!((devices().len(), attached().len()), (1, 1));
    let next = storage(dir.path()).await;
    assert_eq!(next.recover(&volume()).await.unwrap(), Recovered::Dropped);
    assert_eq!((devices(), attached(), plain.exists()), (Vec::new(), Vec::new(), false));
}
