//! The async front: locks, bounds, and what happens when a caller goes away.

use std::future::Future;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use libvirt_qubes::config::Access;
use libvirt_qubes::ids::{ByteSize, PoolName};
use libvirt_qubes::storage::{
    Contents, Driver, Ending, Export, ImageDriver, ImportSize, ImportWriter, Job, Limits, PoolPlace,
    PoolUsage, Recovered, Revisions, RevisionsToKeep, SetupCheck, Sharing, Started, Storage, Volume,
    VolumeId, VolumeInfo, VolumeKind, VolumeSpec,
};
use libvirt_qubes::{Kind, Result};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::filesystem::{Mkfs, Mounted};

/// A door that slow work waits at.
#[derive(Debug, Default)]
struct Door {
    open: Mutex<bool>,
    changed: Condvar,
    waiting: AtomicUsize,
    most: AtomicUsize,
}

impl Door {
    fn pass(&self) {
        let waiting = self.waiting.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(waiting, Ordering::SeqCst);
        let mut open = self.open.lock().unwrap();
        // A test that has failed opens no door; it must still come to its end.
        let end = Instant::now() + Duration::from_secs(30);
        while !*open && Instant::now() < end {
            open = self.changed.wait_timeout(open, Duration::from_secs(1)).unwrap().0;
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    fn hold(&self) {
        *self.open.lock().unwrap() = false;
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }

    async fn reached_by(&self, count: usize) {
        within(async {
            while self.waiting.load(Ordering::SeqCst) < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

/// The real driver, with doors: after a snapshot's source is released, before a copy, and where the fields say.
#[derive(Debug)]
struct Slow {
    inner: ImageDriver,
    starts: Door,
    copies: Door,
    /// Before a snapshot's source is released; open at first.
    fixing: Door,
    /// Before figures; open at first.
    looks: Door,
    /// Before what somebody else has written is made durable.
    syncs: Arc<Door>,
}

/// The real import, with that door.
struct SlowImport {
    inner: Box<dyn ImportWriter>,
    syncs: Arc<Door>,
}

impl ImportWriter for SlowImport {
    fn write(&mut self, data: &[u8]) -> Result<()> {
        self.inner.write(data)
    }
    fn skip(&mut self, length: ByteSize) -> Result<()> {
        self.inner.skip(length)
    }
    fn hand_out(&mut self) -> Result<PathBuf> {
        self.inner.hand_out()
    }
    fn settle(&mut self) -> Result<()> {
        self.syncs.pass();
        self.inner.settle()
    }
    fn finish(self: Box<Self>) -> Result<ByteSize> {
        self.inner.finish()
    }
    fn abort(self: Box<Self>) -> Result<()> {
        self.inner.abort()
    }
}

impl Driver for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }
    fn setup(&self) -> Result<()> {
        self.inner.setup()
    }
    fn vid(&self, id: &VolumeId, spec: &VolumeSpec) -> String {
        self.inner.vid(id, spec)
    }
    fn pool_place(&self) -> PoolPlace {
        self.inner.pool_place()
    }

    fn vacant(&self, id: &VolumeId) -> Result<()> {
        self.inner.vacant(id)
    }
    fn create(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<()> {
        assert!(!id.owner.as_str().starts_with("panics"), "as a bug would");
        self.inner.create(id, spec)
    }
    fn remove(&self, id: &VolumeId) -> Result<()> {
        self.inner.remove(id)
    }
    fn verify(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<()> {
        self.inner.verify(id, spec)
    }
    fn start(
        &self,
        id: &VolumeId,
        spec: &VolumeSpec,
        release_source: &mut dyn FnMut(),
        job: &Job,
    ) -> Result<Option<Started>> {
        let snapshot = spec.kind.source().is_some();
        let mut release = || {
            self.fixing.pass();
            release_source();
            self.starts.pass();
        };
        self.inner.start(id, spec, if snapshot { &mut release } else { release_source }, job)
    }
    fn stop(&self, id: &VolumeId, spec: &VolumeSpec, ending: Ending) -> Result<()> {
        self.inner.stop(id, spec, ending)
    }
    fn recover(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<Recovered> {
        self.inner.recover(id, spec)
    }
    fn begin_import(
        &self,
        id: &VolumeId,
        spec: &VolumeSpec,
        size: ImportSize,
    ) -> Result<Box<dyn ImportWriter>> {
        let inner = self.inner.begin_import(id, spec, size)?;
        Ok(Box::new(SlowImport { inner, syncs: Arc::clone(&self.syncs) }))
    }
    fn import_from(&self, id: &VolumeId, spec: &VolumeSpec, source: &Export, job: &Job) -> Result<()> {
        self.copies.pass();
        self.inner.import_from(id, spec, source, job)
    }
    fn export(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<Export> {
        self.inner.export(id, spec)
    }
    fn info(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<VolumeInfo> {
        self.looks.pass();
        self.inner.info(id, spec)
    }
    fn as_revisions(&self) -> Option<&dyn Revisions> {
        self.inner.as_revisions()
    }
    fn usage(&self) -> Result<Option<PoolUsage>> {
        self.inner.usage()
    }
    fn contents(&self) -> Result<Contents> {
        self.inner.contents()
    }
}

struct Bench {
    dir: TempDir,
    slow: Arc<Slow>,
    storage: Storage,
}

async fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let inner = ImageDriver::file(&dir.path().join("pool")).unwrap();
    let slow = Arc::new(Slow {
        inner,
        starts: Door::default(),
        copies: Door::default(),
        fixing: Door::default(),
        looks: Door::default(),
        syncs: Arc::default(),
    });
    slow.fixing.open();
    slow.looks.open();
    let storage = Storage::new(Limits { bulk_copies: 2, ..Limits::default() });
    storage.add_pool(pool(), Arc::clone(&slow) as Arc<dyn Driver>).await.unwrap();
    Bench { dir, slow, storage }
}

fn pool() -> PoolName {
    "varlibqubes".parse().unwrap()
}

fn origin(id: &str) -> Volume {
    let spec = VolumeSpec {
        kind: VolumeKind::Origin,
        size: ByteSize::bytes(1 << 20),
        revisions_to_keep: RevisionsToKeep::Newest(1),
        access: Access::ReadWrite,
        sharing: Sharing::Source,
        ephemeral: false,
    };
    Volume { pool: pool(), id: id.parse().unwrap(), spec }
}

fn snapshot(id: &str, source: &Volume) -> Volume {
    let volume = origin(id);
    let kind = VolumeKind::Snapshot { source: source.id.clone() };
    Volume { spec: VolumeSpec { kind, ..volume.spec }, ..volume }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work)
        .await
        .expect("it waits for something that does not come")
}

async fn path_of(storage: &Storage, volume: &Volume) -> PathBuf {
    within(storage.start(volume, Job::default())).await.unwrap().unwrap().path
}

#[tokio::test]
async fn a_slow_start_holds_up_neither_its_source_nor_anybody_else() {
    let Bench { slow, storage, dir: _dir } = bench().await;
    let template = origin("vm-templates/fedora/root");
    storage.create(&template).await.unwrap();
    let (a, b) = (snapshot("appvms/a/root", &template), snapshot("appvms/b/root", &template));
    let starts: Vec<_> = [a.clone(), b.clone()]
        .into_iter()
        .map(|volume| {
            let storage = storage.clone();
            tokio::spawn(async move { storage.start(&volume, Job::default()).await })
        })
        .collect();
    slow.starts.reached_by(2).await;
    // Both are in their copies. The template runs, is committed, exported; other VMs live.
    let path = path_of(&storage, &template).await;
    std::fs::File::options().write(true).open(path).unwrap().write_all_at(b"new", 0).unwrap();
    within(storage.stop(&template, Ending::Ran)).await.unwrap();
    drop(within(storage.export(&template)).await.unwrap());
    let other = origin("appvms/other/private");
    within(storage.create(&other)).await.unwrap();
    within(storage.info(&a)).await.unwrap();
    // But nobody works on a volume that is being started.
    let mut stop = std::pin::pin!(storage.stop(&a, Ending::Ran));
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut stop).await.is_err());
    slow.starts.open();
    for start in starts {
        within(start).await.unwrap().unwrap();
    }
    within(stop).await.unwrap();
}

#[tokio::test]
async fn the_thread_that_polls_is_never_blocked() {
    let Bench { slow, storage, dir: _dir } = bench().await;
    let template = origin("vm-templates/fedora/root");
    storage.create(&template).await.unwrap();
    let volume = snapshot("appvms/a/root", &template);
    let start = storage.start(&volume, Job::default());
    let heart = async {
        slow.starts.reached_by(1).await;
        for _ in 0..20 {
            let before = Instant::now();
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(before.elapsed() < Duration::from_secs(1));
        }
        slow.starts.open();
    };
    // One thread polls both: had the start blocked it, the door would never open.
    let (started, ()) = within(async { tokio::join!(start, heart) }).await;
    started.unwrap();
}

#[tokio::test]
async fn the_last_sync_of_what_somebody_else_has_written_holds_up_nobody() {
    let Bench { slow, storage, dir: _dir } = bench().await;
    slow.starts.open();
    let template = origin("vm-templates/fedora/root");
    storage.create(&template).await.unwrap();
    let size = template.spec.size;
    let mut import = within(storage.import(&template, ImportSize::Exactly(size))).await.unwrap();
    let handed = within(import.hand_out()).await.unwrap();
    std::fs::File::options().write(true).open(handed).unwrap().write_all_at(b"new", 0).unwrap();
    let finish = tokio::spawn(import.finish());
    slow.syncs.reached_by(1).await;
    let old = std::fs::read(path_of(&storage, &snapshot("appvms/a/root", &template)).await).unwrap();
    slow.syncs.open();
    assert_eq!(within(finish).await.unwrap().unwrap(), size);
    let new = std::fs::read(path_of(&storage, &snapshot("appvms/b/root", &template)).await).unwrap();
    assert_eq!((&old[..3], &new[..3]), (&[0; 3][..], &b"new"[..]));
}

#[tokio::test]
async fn copies_have_a_bound_of_their_own() {
    let Bench { slow, storage, dir: _dir } = bench().await;
    let source = origin("vm-templates/fedora/root");
    storage.create(&source).await.unwrap();
    let copies: Vec<_> = (0..5)
        .map(|n| {
            let (storage, source) = (storage.clone(), source.clone());
            tokio::spawn(async move {
                storage.copy(&source, &origin(&format!("appvms/copy{n}/private")), Job::default()).await
            })
        })
        .collect();
    slow.copies.reached_by(2).await;
    // While two copy and three wait, what is short goes on.
    within(storage.create(&origin("appvms/other/private"))).await.unwrap();
    path_of(&storage, &origin("appvms/other/private")).await;
    assert_eq!(slow.copies.most.load(Ordering::SeqCst), 2);
    // One that waits for its turn can be cancelled.
    let cancel = CancellationToken::new();
    let waiting = storage.copy(&source, &source, Job::new(cancel.clone()));
    cancel.cancel();
    assert_eq!(within(waiting).await.unwrap_err().kind(), Kind::Cancelled);
    slow.copies.open();
    for copy in copies {
        within(copy).await.unwrap().unwrap();
    }
    assert_eq!(slow.copies.most.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn what_copies_no_data_waits_for_no_copy() {
    let test = "what_copies_no_data_waits_for_no_copy";
    let Some(xfs) = Mounted::new(Mkfs::Xfs, 512 << 20, test) else { return };
    let Bench { slow, storage, dir: _dir } = bench().await;
    let shares = ImageDriver::reflink(&xfs.path().join("pool"), SetupCheck::Probe).unwrap();
    let elsewhere: PoolName = "elsewhere".parse().unwrap();
    storage.add_pool(elsewhere.clone(), Arc::new(shares)).await.unwrap();
    let source = origin("vm-templates/fedora/root");
    let volume = Volume { pool: elsewhere.clone(), ..origin("appvms/work/private") };
    for volume in [&source, &volume] {
        storage.create(volume).await.unwrap();
    }
    let copies = ["one", "two", "three"].map(|name| {
        let (storage, source) = (storage.clone(), source.clone());
        let copy = Volume { id: format!("appvms/{name}/private").parse().unwrap(), ..source.clone() };
        tokio::spawn(async move { storage.copy(&source, &copy, Job::default()).await })
    });
    slow.copies.reached_by(2).await;
    let kept = within(storage.keep(&volume, 1, Job::default())).await.unwrap();
    within(storage.revert(&volume, &kept, Job::default())).await.unwrap();
    let second = Volume { id: "appvms/second/private".parse().unwrap(), ..volume.clone() };
    within(storage.copy(&volume, &second, Job::default())).await.unwrap();
    let size = volume.spec.size;
    let mut clear = within(storage.import(&volume, ImportSize::Zeros(size))).await.unwrap();
    within(clear.skip(size)).await.unwrap();
    within(clear.finish()).await.unwrap();
    // From another pool it is the data that is copied: that has its turn.
    let third = Volume { id: "appvms/third/private".parse().unwrap(), ..volume.clone() };
    let cancel = CancellationToken::new();
    let waiting = storage.copy(&source, &third, Job::new(cancel.clone()));
    cancel.cancel();
    assert_eq!(within(waiting).await.unwrap_err().kind(), Kind::Cancelled);
    slow.copies.open();
    for copy in copies {
        within(copy).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn what_starts_from_a_volume_waits_for_no_copy_into_it() {
    let Bench { slow, storage, dir: _dir } = bench().await;
    let (template, source) = (origin("vm-templates/fedora/root"), origin("vm-templates/debian/root"));
    for volume in [&template, &source] {
        storage.create(volume).await.unwrap();
    }
    slow.starts.open();
    let copy = tokio::spawn({
        let (storage, template) = (storage.clone(), template.clone());
        async move { storage.copy(&source, &template, Job::default()).await }
    });
    slow.copies.reached_by(1).await;
    // The state until now is what they get.
    let run = snapshot("appvms/a/root", &template);
    path_of(&storage, &run).await;
    assert_eq!(within(storage.info(&run)).await.unwrap().outdated, Some(false));
    drop(within(storage.export(&template)).await.unwrap());
    assert_eq!(within(storage.revisions(&template)).await.unwrap().len(), 0);
    // Whoever would change it as well waits for his turn.
    let mut stop = std::pin::pin!(storage.stop(&template, Ending::NeverRan));
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut stop).await.is_err());
    slow.copies.open();
    within(copy).await.unwrap().unwrap();
    within(stop).await.unwrap();
    assert_eq!(within(storage.info(&run)).await.unwrap().outdated, Some(true));
}

#[tokio::test]
async fn a_copy_commits_when_nobody_needs_the_state_until_then() {
    let Bench { slow, storage, dir: _dir } = bench().await;
    slow.copies.open();
    let (template, source) = (origin("vm-templates/fedora/root"), origin("vm-templates/debian/root"));
    for volume in [&template, &source] {
        storage.create(volume).await.unwrap();
    }
    slow.fixing.hold();
    let run = snapshot("appvms/a/root", &template);
    let start = tokio::spawn({
        let storage = storage.clone();
        async move { storage.start(&run, Job::default()).await }
    });
    slow.fixing.reached_by(1).await;
    let mut copy = std::pin::pin!(storage.copy(&source, &template, Job::default()));
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut copy).await.is_err());
    assert_eq!(within(storage.revisions(&template)).await.unwrap().len(), 0, "nothing is committed");
    slow.fixing.open();
    slow.starts.open();
    within(start).await.unwrap().unwrap();
    within(copy).await.unwrap();
    assert_eq!(within(storage.revisions(&template)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_start_that_waits_for_its_source_is_called_off() {
    let Bench { slow, storage, dir: _dir } = bench().await;
    let template = origin("vm-templates/fedora/root");
    storage.create(&template).await.unwrap();
    slow.fixing.hold();
    let (a, b) = (snapshot("appvms/a/root", &template), snapshot("appvms/b/root", &template));
    let first = tokio::spawn({
        let storage = storage.clone();
        async move { storage.start(&a, Job::default()).await }
    });
    slow.fixing.reached_by(1).await;
    let cancel = CancellationToken::new();
    let mut second = std::pin::pin!(storage.start(&b, Job::new(cancel.clone())));
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut second).await.is_err());
    cancel.cancel();
    assert_eq!(within(second).await.unwrap_err().kind(), Kind::Cancelled);
    slow.fixing.open();
    slow.starts.open();
    within(first).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_pool_that_hangs_holds_up_no_other() {
    let Bench { slow, storage, dir: _dir } = bench().await;
    let template = origin("vm-templates/fedora/root");
    storage.create(&template).await.unwrap();
    let elsewhere: PoolName = "elsewhere".parse().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let plain = ImageDriver::file(&dir.path().join("pool")).unwrap();
    storage.add_pool(elsewhere.clone(), Arc::new(plain)).await.unwrap();
    slow.looks.hold();
    let stuck: Vec<_> = (0..Limits::default().short)
        .map(|_| {
            let (storage, template) = (storage.clone(), template.clone());
            tokio::spawn(async move { storage.info(&template).await })
        })
        .collect();
    slow.looks.reached_by(stuck.len()).await;
    let volume = Volume { pool: elsewhere, ..origin("appvms/work/private") };
    within(storage.create(&volume)).await.unwrap();
    within(storage.info(&volume)).await.unwrap();
    slow.looks.open();
    for look in stuck {
        within(look).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn work_whose_caller_goes_away_comes_to_its_end() {
    let Bench { slow, storage, dir: _dir } = bench().await;
    let template = origin("vm-templates/fedora/root");
    storage.create(&template).await.unwrap();
    let volume = snapshot("appvms/a/root", &template);
    {
        let start = storage.start(&volume, Job::default());
        tokio::select! {
            _ = start => panic!("the door is shut"),
            () = slow.starts.reached_by(1) => {}
        }
    }
    slow.starts.open();
    // The lock is let go of when the start has ended, whole.
    within(storage.verify(&volume)).await.unwrap();
    let info = within(storage.info(&volume)).await.unwrap();
    assert!(info.dirty);
    assert_eq!(std::fs::metadata(info.path.unwrap()).unwrap().len(), 1 << 20);
}

#[tokio::test]
async fn an_import_holds_no_lock_while_it_waits_for_data() {
    let Bench { storage, dir, .. } = bench().await;
    let volume = origin("vm-templates/fedora/root");
    storage.create(&volume).await.unwrap();
    let mut import = storage.import(&volume, ImportSize::AsItComes).await.unwrap();
    let buffer = import.write(vec![7; 300_000]).await.unwrap();
    assert!(buffer.is_empty() && buffer.capacity() >= 300_000, "the buffer comes back");
    let busy = within(storage.start(&volume, Job::default())).await.unwrap_err();
    assert_eq!(busy.kind(), Kind::Busy);
    assert!(
        busy.report().contains("Import operation in progress on vm-templates/fedora/root"),
        "{}",
        busy.report()
    );
    within(storage.export(&volume)).await.unwrap();
    import.skip(ByteSize::bytes(1 << 20)).await.unwrap();
    assert_eq!(import.finish().await.unwrap().get(), (300_000u64 + (1 << 20)).next_multiple_of(512));
    let path = path_of(&storage, &volume).await;
    let mut data = [0; 4];
    std::fs::File::open(path).unwrap().read_exact_at(&mut data, 0).unwrap();
    assert_eq!(data, [7; 4]);
    within(storage.stop(&volume, Ending::Ran)).await.unwrap();

    // Dropped, aborted or past its size: nothing of it is left.
    let folder = dir.path().join("pool/vm-templates/new");
    let new = origin("vm-templates/new/root");
    let mut dropped = storage.import(&new, ImportSize::AsItComes).await.unwrap();
    dropped.write(vec![7; 300_000]).await.unwrap();
    drop(dropped);
    let aborted = within(async {
        loop {
            match storage.import(&new, ImportSize::AsItComes).await {
                // The one that was dropped is removed on another thread.
                Err(e) if e.kind() == Kind::Busy => tokio::time::sleep(Duration::from_millis(1)).await,
                begun => break begun.unwrap(),
            }
        }
    })
    .await;
    aborted.abort().await.unwrap();
    assert!(!folder.exists());
    let mut too_long = storage.import(&new, ImportSize::Exactly(ByteSize::bytes(512))).await.unwrap();
    assert_eq!(too_long.write(vec![1; 513]).await.unwrap_err().kind(), Kind::Invalid);
    assert!(!folder.exists());
    assert_eq!(too_long.write(vec![1]).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(too_long.finish().await.unwrap_err().kind(), Kind::Invalid);
}

#[tokio::test]
async fn a_panic_in_a_driver_fails_that_operation_alone() {
    let Bench { storage, dir: _dir, .. } = bench().await;
    let error = within(storage.create(&origin("appvms/panics/private"))).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Backend);
    within(storage.create(&origin("appvms/work/private"))).await.unwrap();
    // Its lock is free too.
    within(storage.remove(&origin("appvms/panics/private"))).await.unwrap();
}

#[tokio::test]
async fn pools_come_and_go_by_name() {
    let Bench { storage, dir, slow } = bench().await;
    assert_eq!(storage.pools(), [pool()]);
    let again = storage.add_pool(pool(), slow as Arc<dyn Driver>).await.unwrap_err();
    assert_eq!(again.kind(), Kind::AlreadyExists);
    let elsewhere = Volume { pool: "gone".parse().unwrap(), ..origin("appvms/work/private") };
    assert_eq!(storage.create(&elsewhere).await.unwrap_err().kind(), Kind::NotFound);
    assert!(storage.usage(&pool()).await.unwrap().unwrap().size.get() > 0);
    let unsupported = storage.kernels(&pool()).await.unwrap_err();
    assert_eq!(unsupported.kind(), Kind::Unsupported);
    // A driver without the ability says so.
    let volume = origin("appvms/work/private");
    storage.create(&volume).await.unwrap();
    let resized = storage.resize(&volume, ByteSize::bytes(2 << 20)).await.unwrap_err();
    assert_eq!(resized.kind(), Kind::Unsupported);
    assert!(storage.revisions(&volume).await.unwrap().is_empty());
    assert!(storage.remove_pool(&pool()));
    assert!(!storage.remove_pool(&pool()));
    assert!(dir.path().join("pool/appvms/work/private.img").exists());
    let broken = ImageDriver::file(&dir.path().join("no/such")).unwrap();
    assert!(storage.add_pool(pool(), Arc::new(broken)).await.is_err());
    assert!(storage.pools().is_empty());
}
