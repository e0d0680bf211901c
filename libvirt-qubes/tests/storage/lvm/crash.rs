//! LVM, or the host, that goes away between any two commands: recovery ends in the state of before or of after. And a
//! command that fails while all goes on: the same.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use libvirt_qubes::config::Access;
use libvirt_qubes::ids::ByteSize;
use libvirt_qubes::storage::lvm::{Failed, Lv, LvName, LvOp, Runner};
use libvirt_qubes::storage::{
    Driver, Ending, ImportSize, Job, LvmDriver, Resize, Revisions, RevisionsToKeep, Sharing, Tuning,
    VolumeId, VolumeKind, VolumeSpec,
};

use super::model::{ModelOfLvm, SIZE};
use super::{id, pool};

pub(super) fn spec(keep: i64) -> VolumeSpec {
    VolumeSpec {
        kind: VolumeKind::Origin,
        size: ByteSize::bytes(SIZE),
        revisions_to_keep: RevisionsToKeep::try_from(keep).unwrap(),
        access: Access::ReadWrite,
        sharing: Sharing::Source,
        ephemeral: false,
    }
}

/// A run that makes the first byte this one.
pub(super) fn run(driver: &LvmDriver, id: &VolumeId, spec: &VolumeSpec, byte: u8) {
    start(driver, id, spec, byte);
    driver.stop(id, spec, Ending::Ran).unwrap();
}

fn start(driver: &LvmDriver, id: &VolumeId, spec: &VolumeSpec, byte: u8) {
    let started = driver.start(id, spec, &mut || {}, &Job::default()).unwrap().unwrap();
    std::fs::File::options().write(true).open(started.path).unwrap().write_all_at(&[byte], 0).unwrap();
}

struct Scenario {
    name: &'static str,
    keep: i64,
    prepare: fn(&LvmDriver, &VolumeId, &VolumeSpec),
    act: fn(&LvmDriver, &VolumeId, &VolumeSpec) -> libvirt_qubes::Result<()>,
}

fn runs(driver: &LvmDriver, id: &VolumeId, spec: &VolumeSpec, bytes: &[u8]) {
    driver.create(id, spec).unwrap();
    for byte in bytes {
        run(driver, id, spec, *byte);
    }
}

const SCENARIOS: &[Scenario] = &[
    Scenario { name: "create", keep: 1, prepare: |_, _, _| {}, act: |d, id, spec| d.create(id, spec) },
    Scenario {
        name: "start",
        keep: 1,
        prepare: |d, id, spec| runs(d, id, spec, &[1, 2]),
        act: |d, id, spec| d.start(id, spec, &mut || {}, &Job::default()).map(drop),
    },
    Scenario {
        name: "start in place",
        keep: -1,
        prepare: |d, id, _| runs(d, id, &spec(2), &[1, 2]),
        act: |d, id, spec| d.start(id, spec, &mut || {}, &Job::default()).map(drop),
    },
    Scenario {
        name: "stop",
        keep: 2,
        prepare: |d, id, spec| {
            runs(d, id, spec, &[1, 2, 3]);
            start(d, id, spec, 4);
        },
        act: |d, id, spec| d.stop(id, spec, Ending::Ran),
    },
    Scenario {
        name: "stop without revisions",
        keep: 0,
        prepare: |d, id, spec| {
            runs(d, id, spec, &[1]);
            start(d, id, spec, 2);
        },
        act: |d, id, spec| d.stop(id, spec, Ending::Ran),
    },
    Scenario {
        name: "stop in place",
        keep: -1,
        prepare: |d, id, spec| {
            runs(d, id, spec, &[1]);
            start(d, id, spec, 2);
        },
        act: |d, id, spec| d.stop(id, spec, Ending::Ran),
    },
    Scenario {
        name: "start taken back",
        keep: 1,
        prepare: |d, id, spec| {
            runs(d, id, spec, &[1, 2]);
            d.start(id, spec, &mut || {}, &Job::default()).unwrap();
        },
        act: |d, id, spec| d.stop(id, spec, Ending::NeverRan),
    },
    Scenario {
        name: "recovery",
        keep: 2,
        prepare: |d, id, spec| {
            runs(d, id, spec, &[1, 2]);
            start(d, id, spec, 3);
        },
        act: |d, id, spec| d.recover(id, spec).map(drop),
    },
    Scenario {
        name: "import",
        keep: 1,
        prepare: |d, id, spec| runs(d, id, spec, &[1, 2]),
        act: |d, id, spec| {
            let mut import = d.begin_import(id, spec, ImportSize::AsItComes)?;
            import.write(&[5; 9 << 20])?;
            import.finish().map(drop)
        },
    },
    Scenario {
        name: "import of a new volume",
        keep: 1,
        prepare: |_, _, _| {},
        act: |d, id, spec| {
            let mut import = d.begin_import(id, spec, ImportSize::AsItComes)?;
            import.write(&[5; 4096])?;
            import.finish().map(drop)
        },
    },
    Scenario {
        name: "import broken off",
        keep: 1,
        prepare: |d, id, spec| runs(d, id, spec, &[1, 2]),
        act: |d, id, spec| {
            let mut import = d.begin_import(id, spec, ImportSize::AsItComes)?;
            import.write(&[5; 4096])?;
            import.abort()
        },
    },
    Scenario {
        name: "copy",
        keep: 1,
        prepare: |d, id, spec| {
            runs(d, id, spec, &[1, 2]);
            runs(d, &self::id("appvms/other/private"), spec, &[7]);
        },
        act: |d, id, spec| {
            let export = d.export(&self::id("appvms/other/private"), spec)?;
            d.import_from(id, spec, &export, &Job::default())
        },
    },
    Scenario {
        name: "copy to a new volume",
        keep: 1,
        prepare: |d, _, spec| runs(d, &id("appvms/other/private"), spec, &[7]),
        act: |d, id, spec| {
            let export = d.export(&self::id("appvms/other/private"), spec)?;
            d.import_from(id, spec, &export, &Job::default())
        },
    },
    Scenario {
        name: "revert",
        keep: 3,
        prepare: |d, id, spec| runs(d, id, spec, &[1, 2, 3]),
        act: |d, id, spec| {
            let revision = d.revisions(id)?.into_iter().nth(1).unwrap();
            d.revert(id, spec, &revision.id, &Job::default())
        },
    },
    Scenario {
        name: "revert without revisions to keep",
        keep: 0,
        prepare: |d, id, _| runs(d, id, &spec(2), &[1, 2]),
        act: |d, id, spec| {
            let revision = d.revisions(id)?.pop().unwrap();
            d.revert(id, spec, &revision.id, &Job::default())
        },
    },
    Scenario {
        name: "revert to a kept state",
        keep: 2,
        prepare: |d, id, spec| {
            runs(d, id, spec, &[1]);
            d.keep(id, spec, 1, &Job::default()).unwrap();
            run(d, id, spec, 2);
        },
        act: |d, id, spec| d.revert(id, spec, &"s1".parse().unwrap(), &Job::default()),
    },
    Scenario {
        name: "keep",
        keep: 1,
        prepare: |d, id, spec| runs(d, id, spec, &[1, 2]),
        act: |d, id, spec| d.keep(id, spec, 4, &Job::default()).map(drop),
    },
    Scenario {
        name: "resize",
        keep: 1,
        prepare: |d, id, spec| runs(d, id, spec, &[1, 2]),
        act: |d, id, spec| d.resize(id, spec, ByteSize::bytes(2 * SIZE)),
    },
    Scenario {
        name: "forget",
        keep: 2,
        prepare: |d, id, spec| runs(d, id, spec, &[1, 2]),
        act: |d, id, _| {
            let revision = d.revisions(id)?.remove(0);
            d.forget(id, &revision.id)
        },
    },
];

/// Everything of the volume that a caller could see: content and size of each state.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    clean: Option<(u8, u64)>,
    backs: Vec<(u8, u64)>,
    kept: BTreeMap<String, (u8, u64)>,
    rest: Vec<String>,
}

const BASE: &str = "vm-work-private";

/// Those that a crash left over, which the next commit removes, are passed over.
fn look(lvm: &ModelOfLvm, keep: usize) -> Seen {
    let mut seen = Seen { clean: None, backs: Vec::new(), kept: BTreeMap::new(), rest: Vec::new() };
    for lv in lvm.lvs() {
        let Some(suffix) = lv.strip_prefix(BASE) else { continue };
        let size = std::fs::metadata(lvm.device(&LvName::new("qubes".parse().unwrap(), &lv).unwrap()))
            .unwrap()
            .len();
        let state = (lvm.byte(&lv), size);
        if suffix.is_empty() {
            seen.clean = Some(state);
        } else if suffix.ends_with("-back") {
            seen.backs.push(state);
        } else if suffix.ends_with("-keep") {
            seen.kept.insert(lv, state);
        } else {
            seen.rest.push(lv);
        }
    }
    let surplus = seen.backs.len().saturating_sub(keep);
    seen.backs.drain(..surplus);
    seen
}

/// What becomes of the commands of LVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// After so many changes everything fails: the host is gone.
    Gone(usize),
    /// The change after so many fails, undone; the others do not.
    Once(usize),
}

#[derive(Debug)]
struct Faulty {
    lvm: Arc<ModelOfLvm>,
    fault: Mutex<Option<Fault>>,
    changes: AtomicUsize,
}

impl Faulty {
    fn on(lvm: &Arc<ModelOfLvm>) -> (LvmDriver, Arc<Self>) {
        let faulty =
            Arc::new(Self { lvm: Arc::clone(lvm), fault: Mutex::default(), changes: AtomicUsize::new(0) });
        let driver =
            LvmDriver::with_runner(pool(), Tuning::default(), Arc::clone(&faulty) as Arc<dyn Runner>);
        driver.setup().unwrap();
        (driver, faulty)
    }

    /// From now on, changes counted from now on.
    fn arm(&self, fault: Option<Fault>) {
        self.changes.store(0, Ordering::SeqCst);
        *self.fault.lock().unwrap() = fault;
    }
}

impl Runner for Faulty {
    fn run(&self, op: &LvOp) -> Result<Vec<Lv>, Failed> {
        let done = match op.is_report() {
            true => self.changes.load(Ordering::SeqCst),
            false => self.changes.fetch_add(1, Ordering::SeqCst),
        };
        let fails = match *self.fault.lock().unwrap() {
            None => false,
            Some(Fault::Gone(after)) => done >= after,
            Some(Fault::Once(after)) => !op.is_report() && done == after,
        };
        if fails { Err(Failed::Broken("gone".to_owned())) } else { self.lvm.run(op) }
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
        match *self.fault.lock().unwrap() {
            Some(Fault::Gone(after)) if self.changes.load(Ordering::SeqCst) >= after => {
                Err(std::io::ErrorKind::Other.into())
            }
            _ => self.lvm.discard(lv),
        }
    }
}

impl Scenario {
    /// What is seen after a fault and recovery, how many changes were asked for, and whether the act succeeded.
    fn play(&self, act: bool, fault: Option<Fault>) -> (Seen, usize, bool) {
        let (volume, spec) = (id("appvms/work/private"), spec(self.keep));
        let lvm = Arc::new(ModelOfLvm::new());
        let (driver, faulty) = Faulty::on(&lvm);
        (self.prepare)(&driver, &volume, &spec);
        let (mut changes, mut succeeded) = (0, true);
        if act {
            faulty.arm(fault);
            succeeded = (self.act)(&driver, &volume, &spec).is_ok();
            changes = faulty.changes.load(Ordering::SeqCst);
        }
        drop(driver);
        let (next, _) = Faulty::on(&lvm);
        next.recover(&volume, &spec).unwrap();
        assert_eq!(next.contents().unwrap().unknown, Vec::<PathBuf>::new(), "{}", self.name);
        (look(&lvm, spec.revisions_to_keep.count()), changes, succeeded)
    }
}

#[test]
fn after_a_crash_between_any_two_commands_all_is_as_before_or_as_after() {
    for scenario in SCENARIOS {
        let (before, _, _) = scenario.play(false, None);
        let (after, changes, succeeded) = scenario.play(true, None);
        assert!(succeeded && changes > 0, "{}", scenario.name);
        for step in 0..=changes {
            for fault in [Fault::Gone(step), Fault::Once(step)] {
                let (seen, _, succeeded) = scenario.play(true, Some(fault));
                let name = scenario.name;
                assert_eq!(seen.rest, Vec::<String>::new(), "{name}, {fault:?}: left over");
                assert!(
                    seen == after || seen == before,
                    "{name}, {fault:?}: {seen:?}, {before:?}, {after:?}"
                );
                assert!(!succeeded || seen == after, "{name}, {fault:?}: acknowledged and lost");
            }
        }
    }
}

#[test]
fn a_removal_that_was_cut_off_is_repeated_to_its_end() {
    let (volume, spec) = (id("appvms/work/private"), spec(3));
    for step in 0..15 {
        let lvm = Arc::new(ModelOfLvm::new());
        let (driver, faulty) = Faulty::on(&lvm);
        runs(&driver, &volume, &spec, &[1, 2, 3]);
        driver.keep(&volume, &spec, 1, &Job::default()).unwrap();
        start(&driver, &volume, &spec, 4);
        faulty.arm(Some(Fault::Gone(step)));
        let removed = driver.remove(&volume).is_ok();
        assert_eq!(removed, lvm.lvs().is_empty(), "after {step} changes");
        let (driver, _) = Faulty::on(&lvm);
        driver.remove(&volume).unwrap();
        assert_eq!(lvm.lvs(), Vec::<String>::new());
        driver.vacant(&volume).unwrap();
    }
}
