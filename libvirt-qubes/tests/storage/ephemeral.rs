//! Volumes that are encrypted with a key that nobody keeps, on a model of the kernel's devices.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use libvirt_qubes::Kind;
use libvirt_qubes::config::Access;
use libvirt_qubes::ids::ByteSize;
use libvirt_qubes::storage::{
    Ending, ImageDriver, Job, Limits, Recovered, RevisionsToKeep, Sharing, Storage, Tuning, Volume,
    VolumeKind, VolumeSpec,
};
use tempfile::TempDir;

use crate::kernel_model::ModelOfKernel;

const SIZE: usize = 1 << 20;

struct Bench {
    dir: TempDir,
    kernel: Arc<ModelOfKernel>,
    storage: Storage,
    volume: Volume,
}

impl Bench {
    async fn new(model: fn(&Path) -> ModelOfKernel) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kernel = Arc::new(model(&dir.path().join("devices")));
        let storage = Storage::with_mapper(Limits::default(), Tuning::default(), Arc::clone(&kernel) as _);
        let driver = ImageDriver::file(&dir.path().join("pool")).unwrap();
        storage.add_pool("fast".parse().unwrap(), Arc::new(driver)).await.unwrap();
        let spec = VolumeSpec {
            kind: VolumeKind::Volatile,
            size: ByteSize::bytes(SIZE as u64),
            revisions_to_keep: RevisionsToKeep::Newest(0),
            access: Access::ReadWrite,
            sharing: Sharing::Private,
            ephemeral: true,
        };
        let id = "appvms/my-work/volatile".parse().unwrap();
        let volume = Volume { pool: "fast".parse().unwrap(), id, spec };
        Self { dir, kernel, storage, volume }
    }

    async fn start(&self) -> libvirt_qubes::Result<PathBuf> {
        Ok(self.storage.start(&self.volume, Job::default()).await?.unwrap().path)
    }

    fn assert_nothing_is_left(&self) {
        assert_eq!((self.kernel.devices(), self.kernel.loop_devices()), (Vec::new(), 0));
        let plain = self.dir.path().join("pool/appvms/my-work/volatile-dirty.img");
        assert!(!plain.exists());
    }
}

fn byte(path: &Path, offset: u64) -> u8 {
    let mut byte = [0];
    File::open(path).unwrap().read_exact_at(&mut byte, offset).unwrap();
    byte[0]
}

#[tokio::test]
async fn a_domain_is_given_the_encrypted_device_that_goes_with_the_stop() {
    let bench = Bench::new(ModelOfKernel::new).await;
    for _ in 0..2 {
        let device = bench.start().await.unwrap();
        assert_eq!(device, bench.dir.path().join("devices/vm-volatile-my_dwork-crypt@volatile"));
        // No signature by chance; behind that, what the key makes of nothing.
        assert_eq!((byte(&device, 0), byte(&device, 65535), byte(&device, 65536)), (0, 0, 0xa5));
        let info = bench.storage.info(&bench.volume).await.unwrap();
        assert_eq!((info.path.as_ref(), info.size.get()), (Some(&device), SIZE as u64));
        let grown = ByteSize::bytes(2 * SIZE as u64);
        assert_eq!(bench.storage.resize(&bench.volume, grown).await.unwrap_err().kind(), Kind::Busy);
        bench.storage.stop(&bench.volume, Ending::Ran).await.unwrap();
        bench.assert_nothing_is_left();
        bench.storage.stop(&bench.volume, Ending::Ran).await.unwrap();
    }
}

/// Of a VM's two starts and of another VM's beside it: 64 bytes each, none of them twice.
#[tokio::test]
async fn every_start_has_a_key_of_its_own() {
    let bench = Bench::new(ModelOfKernel::new).await;
    let other = Volume { id: "appvms/other/volatile".parse().unwrap(), ..bench.volume.clone() };
    for volume in [&bench.volume, &other, &bench.volume] {
        bench.storage.start(volume, Job::default()).await.unwrap();
        bench.storage.stop(volume, Ending::Ran).await.unwrap();
    }
    let mut keys = bench.kernel.keys();
    assert_eq!(keys.len(), 3);
    for key in &keys {
        assert!(
            key.len() == 128 && key.bytes().all(|digit| digit.is_ascii_hexdigit()),
            "{} digits",
            key.len()
        );
        // Of 64 random bytes some 57 are different.
        let bytes: std::collections::BTreeSet<_> = key.as_bytes().chunks(2).collect();
        assert!(bytes.len() > 32, "{} bytes are different", bytes.len());
    }
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 3);
}

#[tokio::test]
async fn what_a_killed_process_left_goes_also_when_the_volume_is_plain_by_now() {
    let bench = Bench::new(ModelOfKernel::new).await;
    let plain =
        Volume { spec: VolumeSpec { ephemeral: false, ..bench.volume.spec.clone() }, ..bench.volume.clone() };
    bench.start().await.unwrap();
    assert_eq!(bench.storage.recover(&plain).await.unwrap(), Recovered::Dropped);
    bench.assert_nothing_is_left();
    assert_eq!(bench.storage.recover(&plain).await.unwrap(), Recovered::Clean);
    // A start over what is left, as it was before or plain.
    bench.start().await.unwrap();
    bench.start().await.unwrap();
    let started = bench.storage.start(&plain, Job::default()).await.unwrap().unwrap();
    assert!(started.path.ends_with("pool/appvms/my-work/volatile-dirty.img"));
    assert_eq!(bench.kernel.devices(), Vec::<String>::new());
    bench.start().await.unwrap();
    bench.storage.remove(&plain).await.unwrap();
    bench.assert_nothing_is_left();
}

#[tokio::test]
async fn a_command_that_fails_leaves_nothing() {
    let bench = Bench::new(ModelOfKernel::new).await;
    // Made, but told to have come to no end.
    bench.kernel.fails.store(1, Ordering::SeqCst);
    let why = bench.start().await.unwrap_err();
    assert_eq!(why.kind(), Kind::TimedOut, "{}", why.report());
    bench.assert_nothing_is_left();
    bench.start().await.unwrap();
    bench.kernel.busy.store(true, Ordering::SeqCst);
    assert_eq!(bench.storage.stop(&bench.volume, Ending::Ran).await.unwrap_err().kind(), Kind::Busy);
    bench.kernel.busy.store(false, Ordering::SeqCst);
    bench.storage.stop(&bench.volume, Ending::Ran).await.unwrap();
    bench.assert_nothing_is_left();
}

#[tokio::test]
async fn without_device_mapper_it_is_not_started_and_the_reason_is_said() {
    let bench = Bench::new(ModelOfKernel::absent).await;
    let why = bench.start().await.unwrap_err();
    assert_eq!(why.kind(), Kind::Unsupported);
    assert!(
        why.report().contains("ephemeral") && why.report().contains("/dev/mapper/control"),
        "{}",
        why.report()
    );
    bench.assert_nothing_is_left();
    bench.storage.stop(&bench.volume, Ending::NeverRan).await.unwrap();
    bench.storage.recover(&bench.volume).await.unwrap();
    bench.storage.remove(&bench.volume).await.unwrap();
}

#[tokio::test]
async fn without_dm_crypt_it_is_not_started_either() {
    let bench = Bench::new(ModelOfKernel::new).await;
    bench.kernel.cannot_encrypt.store(true, Ordering::SeqCst);
    let why = bench.start().await.unwrap_err();
    assert_eq!(why.kind(), Kind::Unsupported);
    assert!(why.report().contains("dm-crypt"), "{}", why.report());
    bench.assert_nothing_is_left();
}

/// What was stored by somebody else: a start refuses, before anything is made.
#[tokio::test]
async fn what_outlives_a_stop_or_cannot_be_written_is_never_started_as_ephemeral() {
    let bench = Bench::new(ModelOfKernel::new).await;
    let spec = &bench.volume.spec;
    for spec in [
        VolumeSpec { kind: VolumeKind::Origin, ..spec.clone() },
        VolumeSpec { kind: VolumeKind::Snapshot { source: bench.volume.id.clone() }, ..spec.clone() },
        VolumeSpec { access: Access::ReadOnly, ..spec.clone() },
    ] {
        let volume = Volume { spec, ..bench.volume.clone() };
        let why = bench.storage.start(&volume, Job::default()).await.unwrap_err();
        assert_eq!(why.kind(), Kind::Unsupported);
        assert!(why.report().contains("set ephemeral to False"), "{}", why.report());
        bench.assert_nothing_is_left();
    }
}
