//! Nobody who reads waits for what LVM does for somebody else.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

use libvirt_qubes::ids::ByteSize;
use libvirt_qubes::storage::lvm::{Failed, Lv, LvName, LvOp, Runner};
use libvirt_qubes::storage::{
    Driver, Job, LvmDriver, Resize, Revisions, Tuning, VolumeId, VolumeInfo, VolumeKind, VolumeSpec,
};

use super::model::{ModelOfLvm, SIZE};
use super::scenarios::{run, spec};
use super::{id, pool};

/// The model, one command after another as LVM is driven; a command with this word in it hangs.
#[derive(Debug)]
struct Hanging {
    lvm: ModelOfLvm,
    turn: Mutex<()>,
    word: Mutex<Option<&'static str>>,
    hangs: Mutex<bool>,
    changed: Condvar,
}

impl Hanging {
    fn at(&self, word: &'static str) {
        *self.word.lock().unwrap() = Some(word);
    }

    fn wait_until_it_hangs(&self) {
        let hangs = self.hangs.lock().unwrap();
        drop(self.changed.wait_while(hangs, |hangs| !*hangs).unwrap());
    }

    fn let_go(&self) {
        *self.word.lock().unwrap() = None;
        *self.hangs.lock().unwrap() = false;
        self.changed.notify_all();
    }
}

/// Lets go, also when an assertion fails.
struct LetGo<'a>(&'a Hanging);

impl Drop for LetGo<'_> {
    fn drop(&mut self) {
        self.0.let_go();
    }
}

impl Runner for Hanging {
    fn run(&self, op: &LvOp) -> Result<Vec<Lv>, Failed> {
        let _turn = self.turn.lock().unwrap();
        let word = *self.word.lock().unwrap();
        if word.is_some_and(|word| op.to_string().contains(word)) {
            let mut hangs = self.hangs.lock().unwrap();
            *hangs = true;
            self.changed.notify_all();
            drop(self.changed.wait_while(hangs, |hangs| *hangs).unwrap());
        }
        self.lvm.run(op)
    }

    fn device(&self, lv: &LvName) -> PathBuf {
        self.lvm.device(lv)
    }

    fn lv_of(&self, file: &std::fs::File) -> Option<LvName> {
        self.lvm.lv_of(file)
    }

    fn is_large(&self, lv: &LvName) -> bool {
        self.lvm.is_large(lv)
    }

    fn discard(&self, lv: &LvName) -> std::io::Result<()> {
        self.lvm.discard(lv)
    }
}

/// What a reader sees; it fails if the answer waits for a command that hangs.
fn read(
    hanging: &Hanging,
    driver: &LvmDriver,
    volume: &VolumeId,
    spec: &VolumeSpec,
) -> (VolumeInfo, Vec<String>) {
    let (tell, told) = mpsc::channel();
    let (driver, volume, spec) = (driver.clone(), volume.clone(), spec.clone());
    std::thread::spawn(move || {
        let info = driver.info(&volume, &spec).unwrap();
        let revisions = driver.revisions(&volume).unwrap();
        tell.send((info, revisions.iter().map(|revision| revision.id.to_string()).collect())).ok();
    });
    let seen = told.recv_timeout(Duration::from_secs(60));
    if seen.is_err() {
        hanging.let_go();
    }
    seen.expect("a reader waits for LVM")
}

#[test]
fn what_is_known_is_read_while_lvm_hangs_and_own_changes_are_in_it() {
    let hanging = Arc::new(Hanging {
        lvm: ModelOfLvm::new(),
        turn: Mutex::new(()),
        word: Mutex::new(None),
        hangs: Mutex::new(false),
        changed: Condvar::new(),
    });
    // All that is known is old at once.
    let tuning = Tuning { refresh: Duration::from_nanos(1), ..Tuning::default() };
    let driver = LvmDriver::with_runner(pool(), tuning, Arc::clone(&hanging) as Arc<dyn Runner>);
    driver.setup().unwrap();
    let (source, root, a, b) =
        (id("vm-templates/t/root"), id("appvms/a/root"), id("appvms/a/private"), id("appvms/b/private"));
    let (origin, snapshot) =
        (spec(2), VolumeSpec { kind: VolumeKind::Snapshot { source: source.clone() }, ..spec(0) });
    for volume in [&source, &a, &b] {
        driver.create(volume, &origin).unwrap();
    }
    for (volume, spec) in [(&source, &origin), (&root, &snapshot), (&a, &origin), (&b, &origin)] {
        read(&hanging, &driver, volume, spec);
    }
    // Changes, and nobody has read since.
    run(&driver, &a, &origin, 1);
    driver.keep(&a, &origin, 4, &Job::default()).unwrap();
    driver.resize(&a, &origin, ByteSize::bytes(2 * SIZE)).unwrap();
    driver.start(&root, &snapshot, &mut || {}, &Job::default()).unwrap();
    run(&driver, &source, &origin, 2);

    hanging.at("vm-b-private-snap");
    std::thread::scope(|scope| {
        let released = LetGo(&hanging);
        scope.spawn(|| driver.start(&b, &origin, &mut || {}, &Job::default()).unwrap());
        hanging.wait_until_it_hangs();
        for _ in 0..3 {
            let (info, revisions) = read(&hanging, &driver, &a, &origin);
            assert_eq!((info.size.get(), info.dirty), (2 * SIZE, false));
            assert_eq!(revisions.len(), 2, "{revisions:?}");
            assert!(revisions.iter().any(|id| id == "s4"), "{revisions:?}");
            let (info, _) = read(&hanging, &driver, &root, &snapshot);
            assert_eq!((info.dirty, info.outdated), (true, Some(true)));
            assert!(!read(&hanging, &driver, &b, &origin).0.dirty, "it is not started yet");
        }
        drop(released);
    });
    assert!(read(&hanging, &driver, &b, &origin).0.dirty);

    // What asks behind the readers may hang as well; then it tells what only LVM knows. The change from nothing to what the
    // model's copies have filled is told before.
    while read(&hanging, &driver, &a, &origin).0.usage.get() == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    hanging.at("lvs");
    let before = read(&hanging, &driver, &a, &origin).0.usage;
    hanging.wait_until_it_hangs();
    assert_eq!(read(&hanging, &driver, &a, &origin).0.usage, before);
    let device = hanging.device(&LvName::new("qubes".parse().unwrap(), "vm-a-private").unwrap());
    let file = std::fs::File::options().write(true).open(device).unwrap();
    // Where no copy of the model's has filled it.
    std::os::unix::fs::FileExt::write_all_at(&file, &[1; 1 << 20], SIZE).unwrap();
    hanging.let_go();
    for _ in 0..6000 {
        if read(&hanging, &driver, &a, &origin).0.usage > before {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the usage is never asked for again");
}
