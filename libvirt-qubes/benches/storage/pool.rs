//! A pool behind the library's front, called as the daemon calls it.

use std::sync::Arc;

use libvirt_qubes::config::Access;
use libvirt_qubes::ids::ByteSize;
use libvirt_qubes::storage::{
    Driver, Ending, Job, Limits, RevisionsToKeep, Sharing, Storage, Volume, VolumeId, VolumeKind, VolumeSpec,
};
use tokio::runtime::Runtime;

/// What every VM sees of its volume.
pub(crate) const SIZE: u64 = 10 << 30;

pub(crate) struct Pool {
    runtime: Runtime,
    storage: Storage,
    keep: i64,
    sharing: Sharing,
}

impl Pool {
    /// Persistent volumes keep so many revisions and are shared like this.
    pub(crate) fn new(driver: Arc<dyn Driver>, keep: i64, sharing: Sharing) -> Self {
        let runtime = Runtime::new().unwrap();
        let storage = Storage::new(Limits::default());
        runtime.block_on(storage.add_pool("pool".parse().unwrap(), driver)).unwrap();
        Self { runtime, storage, keep, sharing }
    }

    pub(crate) fn volume(&self, vm: &str) -> Volume {
        self.with_kind(vm, "private", VolumeKind::Origin)
    }

    pub(crate) fn snapshot(&self, vm: &str, source: &Volume) -> Volume {
        self.with_kind(vm, "root", VolumeKind::Snapshot { source: source.id.clone() })
    }

    fn with_kind(&self, vm: &str, volume: &str, kind: VolumeKind) -> Volume {
        let id: VolumeId = format!("appvms/{vm}/{volume}").parse().unwrap();
        let spec = VolumeSpec {
            kind,
            size: ByteSize::bytes(SIZE),
            revisions_to_keep: RevisionsToKeep::try_from(self.keep).unwrap(),
            access: Access::ReadWrite,
            sharing: self.sharing,
            ephemeral: false,
        };
        Volume { pool: "pool".parse().unwrap(), id, spec }
    }

    pub(crate) fn create(&self, volume: &Volume) {
        self.runtime.block_on(self.storage.create(volume)).unwrap();
    }

    pub(crate) fn vacant(&self, volume: &Volume) {
        self.runtime.block_on(self.storage.vacant(volume)).unwrap();
    }

    /// Asks how full the pool is, unless that is known.
    pub(crate) fn refresh(&self) {
        self.runtime.block_on(self.storage.usage(&"pool".parse().unwrap())).unwrap();
    }

    /// `vmN` for each of these numbers, several at a time.
    pub(crate) fn create_many(&self, numbers: std::ops::Range<usize>) {
        let tasks: Vec<_> = numbers
            .map(|n| {
                let (storage, volume) = (self.storage.clone(), self.volume(&format!("vm{n}")));
                self.runtime.spawn(async move { storage.create(&volume).await })
            })
            .collect();
        for task in tasks {
            self.runtime.block_on(task).unwrap().unwrap();
        }
    }

    /// Where the data is.
    pub(crate) fn start(&self, volume: &Volume) -> std::path::PathBuf {
        self.runtime.block_on(self.storage.start(volume, Job::default())).unwrap().unwrap().path
    }

    pub(crate) fn start_at_once(&self, volumes: &[Volume]) {
        let tasks: Vec<_> = volumes
            .iter()
            .map(|volume| {
                let (storage, volume) = (self.storage.clone(), volume.clone());
                self.runtime.spawn(async move { storage.start(&volume, Job::default()).await })
            })
            .collect();
        for task in tasks {
            self.runtime.block_on(task).unwrap().unwrap();
        }
    }

    pub(crate) fn stop(&self, volume: &Volume) {
        self.runtime.block_on(self.storage.stop(volume, Ending::Ran)).unwrap();
    }

    /// Until nobody works on the volume any more, be it there or not: what an operation has left to do after its answer would take time of
    /// whatever is measured next.
    pub(crate) fn wait_for(&self, volume: &Volume) {
        drop(self.runtime.block_on(self.storage.verify(volume)));
    }

    pub(crate) fn copy(&self, source: &Volume, target: &Volume) {
        self.runtime.block_on(self.storage.copy(source, target, Job::default())).unwrap();
    }

    pub(crate) fn remove(&self, volume: &Volume) {
        self.runtime.block_on(self.storage.remove(volume)).unwrap();
    }

    pub(crate) fn info(&self, volume: &Volume) {
        let info = self.runtime.block_on(self.storage.info(volume)).unwrap();
        assert_eq!(info.size.get(), SIZE);
    }
}
