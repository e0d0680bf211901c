//! LVM, or the host, that goes away between any two commands: recovery ends in the state of before or of after. And a
//! command that fails while all goes on, or of which only the report is lost: the same.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use libvirt_qubes::Kind;
use libvirt_qubes::storage::lvm::{Failed, Lv, LvName, LvOp, Runner};
use libvirt_qubes::storage::{
    Driver, Ending, Job, LvmDriver, Revisions, Tuning, VolumeId, VolumeKind, VolumeSpec,
};

use super::model::ModelOfLvm;
use super::scenarios::{SCENARIOS, Scenario, TEMPLATE, What, run, runs, spec, start};
use super::{id, pool};

/// Everything of the volume that a caller could see: content and size of each state.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    clean: Option<(u8, u64)>,
    backs: Vec<(u8, u64)>,
    kept: BTreeMap<String, (u8, u64)>,
    rest: Vec<String>,
    /// The committed states of other volumes.
    others: BTreeMap<String, u8>,
}

const BASE: &str = "vm-work-private";

/// Those that a crash left over, which the next commit removes, are passed over.
fn look(lvm: &ModelOfLvm, keep: usize) -> Seen {
    let mut seen = Seen {
        clean: None,
        backs: Vec::new(),
        kept: BTreeMap::new(),
        rest: Vec::new(),
        others: BTreeMap::new(),
    };
    for lv in lvm.lvs() {
        let Some(suffix) = lv.strip_prefix(BASE) else {
            if !lv.ends_with("-back") {
                seen.others.insert(lv.clone(), lvm.byte(&lv));
            }
            continue;
        };
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
    /// The change after so many is done, and nobody hears of it: `lvm` was killed.
    Lost(usize),
    /// The report after so many fails.
    Report(usize),
}

#[derive(Debug)]
struct Faulty {
    lvm: Arc<ModelOfLvm>,
    fault: Mutex<Option<Fault>>,
    changes: AtomicUsize,
    reports: AtomicUsize,
    /// Reports of all volumes there are.
    listings: AtomicUsize,
}

impl Faulty {
    fn on(lvm: &Arc<ModelOfLvm>) -> (LvmDriver, Arc<Self>) {
        let faulty = Arc::new(Self {
            lvm: Arc::clone(lvm),
            fault: Mutex::default(),
            changes: AtomicUsize::new(0),
            reports: AtomicUsize::new(0),
            listings: AtomicUsize::new(0),
        });
        let driver =
            LvmDriver::with_runner(pool(), Tuning::default(), Arc::clone(&faulty) as Arc<dyn Runner>);
        driver.setup().unwrap();
        (driver, faulty)
    }

    /// From now on, commands counted from now on.
    fn arm(&self, fault: Option<Fault>) {
        self.changes.store(0, Ordering::SeqCst);
        self.reports.store(0, Ordering::SeqCst);
        *self.fault.lock().unwrap() = fault;
    }
}

impl Runner for Faulty {
    fn run(&self, op: &LvOp) -> Result<Vec<Lv>, Failed> {
        if let LvOp::All(_) = op {
            self.listings.fetch_add(1, Ordering::SeqCst);
        }
        let (changes, reports) = match op.is_report() {
            true => (self.changes.load(Ordering::SeqCst), Some(self.reports.fetch_add(1, Ordering::SeqCst))),
            false => (self.changes.fetch_add(1, Ordering::SeqCst), None),
        };
        let fails = match *self.fault.lock().unwrap() {
            None => false,
            Some(Fault::Gone(after)) => changes >= after,
            Some(Fault::Once(after)) => reports.is_none() && changes == after,
            Some(Fault::Lost(after)) if reports.is_none() && changes == after => {
                self.lvm.run(op)?;
                return Err(timed_out());
            }
            Some(Fault::Lost(_)) => false,
            Some(Fault::Report(after)) => reports == Some(after),
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

fn timed_out() -> Failed {
    Failed::TimedOut { limit: std::time::Duration::from_secs(120), said: String::new() }
}

/// What a driver tells of a volume, but for how much of it is mapped.
type Told = (Result<(u64, bool, Option<bool>), Kind>, Vec<String>);

fn told(driver: &LvmDriver, volume: &VolumeId, spec: &VolumeSpec) -> Told {
    let info = driver.info(volume, spec).map(|info| (info.size.get(), info.dirty, info.outdated));
    let mut revisions: Vec<_> = driver.revisions(volume).unwrap().iter().map(|r| r.id.to_string()).collect();
    // When an LV was made LVM says only when it is asked: two of one second may stand the other way round till then.
    revisions.sort_unstable();
    (info.map_err(|e| e.kind()), revisions)
}

/// How often it was asked, and what came of it.
struct Played {
    seen: Seen,
    changes: usize,
    reports: usize,
    succeeded: bool,
}

impl Scenario {
    fn spec(&self) -> VolumeSpec {
        let kind = match self.what {
            What::Origin => VolumeKind::Origin,
            What::Snapshot => VolumeKind::Snapshot { source: id(TEMPLATE) },
            What::Volatile => VolumeKind::Volatile,
        };
        VolumeSpec { kind, ..spec(self.keep) }
    }

    /// What is there after a fault and recovery; or, without recovery, after the next run of what is not kept.
    fn play(&self, act: bool, fault: Option<Fault>, recovers: bool) -> Played {
        let (volume, spec, name) = (id("appvms/work/private"), self.spec(), self.name);
        let lvm = Arc::new(ModelOfLvm::new());
        let (driver, faulty) = Faulty::on(&lvm);
        (self.prepare)(&driver, &volume, &spec);
        let (mut changes, mut reports, mut succeeded) = (0, 0, true);
        if act {
            let listings = faulty.listings.load(Ordering::SeqCst);
            // It is known by now what there is.
            drop(told(&driver, &volume, &spec));
            faulty.arm(fault);
            succeeded = (self.act)(&driver, &volume, &spec).is_ok();
            // What follows the answer may fail too.
            driver.prepare(&volume, &spec);
            driver.prepare(&id(TEMPLATE), &super::scenarios::spec(1));
            assert_eq!(faulty.listings.load(Ordering::SeqCst), listings, "{name} lists all volumes");
            changes = faulty.changes.load(Ordering::SeqCst);
            reports = faulty.reports.load(Ordering::SeqCst);
            faulty.arm(None);
        }
        let (next, _) = Faulty::on(&lvm);
        assert_eq!(
            told(&driver, &volume, &spec),
            told(&next, &volume, &spec),
            "{name}, {fault:?}: what was known is wrong"
        );
        drop(driver);
        if self.what != What::Origin {
            next.recover(&id(TEMPLATE), &super::scenarios::spec(1)).unwrap();
        }
        if recovers {
            next.recover(&volume, &spec).unwrap();
        } else {
            run(&next, &volume, &spec, 8);
        }
        let seen = look(&lvm, spec.revisions_to_keep.count());
        // Nothing holds it.
        if seen.clean.is_some() || self.what != What::Origin && !seen.others.is_empty() {
            next.start(&volume, &spec, &mut || {}, &Job::default()).unwrap();
            next.stop(&volume, &spec, Ending::NeverRan).unwrap();
            assert_eq!(look(&lvm, spec.revisions_to_keep.count()), seen, "{name}, {fault:?}");
        }
        assert_eq!(next.contents().unwrap().unknown, Vec::<PathBuf>::new(), "{name}, {fault:?}");
        Played { seen, changes, reports, succeeded }
    }
}

#[test]
fn after_a_crash_between_any_two_commands_all_is_as_before_or_as_after() {
    for scenario in SCENARIOS {
        let name = scenario.name;
        let before = scenario.play(false, None, true).seen;
        let whole = scenario.play(true, None, true);
        assert!(whole.succeeded && whole.changes > 0, "{name}");
        let after = whole.seen;
        let at_changes =
            (0..=whole.changes).flat_map(|at| [Fault::Gone(at), Fault::Once(at), Fault::Lost(at)]);
        for fault in at_changes.chain((0..whole.reports).map(Fault::Report)) {
            let Played { seen, succeeded, .. } = scenario.play(true, Some(fault), true);
            assert_eq!(seen.rest, Vec::<String>::new(), "{name}, {fault:?}: left over");
            assert!(seen == after || seen == before, "{name}, {fault:?}: {seen:?}, {before:?}, {after:?}");
            assert!(!succeeded || seen == after, "{name}, {fault:?}: acknowledged and lost");
            if scenario.what != What::Origin {
                assert_eq!(seen.clean, None, "{name}, {fault:?}: not dropped");
                let seen = scenario.play(true, Some(fault), false).seen;
                assert!(seen == after || seen == before, "{name}, {fault:?}, and a run: {seen:?}");
            }
        }
    }
}

#[test]
fn a_removal_that_was_cut_off_is_repeated_to_its_end() {
    let (volume, spec) = (id("appvms/work/private"), spec(3));
    for step in 0..15 {
        for fault in [Fault::Gone(step), Fault::Once(step), Fault::Lost(step), Fault::Report(step)] {
            let lvm = Arc::new(ModelOfLvm::new());
            let (driver, faulty) = Faulty::on(&lvm);
            runs(&driver, &volume, &spec, &[1, 2, 3]);
            driver.keep(&volume, &spec, 1, &Job::default()).unwrap();
            start(&driver, &volume, &spec, 4);
            faulty.arm(Some(fault));
            let removed = driver.remove(&volume).is_ok();
            assert!(!removed || lvm.lvs().is_empty(), "{fault:?}: {:?}", lvm.lvs());
            let (driver, _) = Faulty::on(&lvm);
            driver.remove(&volume).unwrap();
            assert_eq!(lvm.lvs(), Vec::<String>::new());
            driver.vacant(&volume).unwrap();
        }
    }
}

#[test]
fn what_an_export_kept_of_a_removed_volume_goes_when_its_pool_is_set_up_after_a_crash() {
    let (volume, spec) = (id("appvms/work/private"), spec(1));
    let lvm = Arc::new(ModelOfLvm::new());
    let (driver, faulty) = Faulty::on(&lvm);
    runs(&driver, &volume, &spec, &[1]);
    // Neither is a name of ours that lost its LV.
    lvm.add("vm-other-gone");
    lvm.add_foreign("vm-other-private-1-gone");
    let export = driver.export(&volume, &spec).unwrap();
    driver.remove(&volume).unwrap();
    assert!(lvm.lvs().contains(&"vm-work-private-1-gone".to_owned()), "{:?}", lvm.lvs());
    // Another who sets it up leaves what is read.
    let (next, _) = Faulty::on(&lvm);
    assert!(lvm.lvs().contains(&"vm-work-private-1-gone".to_owned()), "{:?}", lvm.lvs());
    drop(next);
    faulty.arm(Some(Fault::Gone(0)));
    drop((export, driver));
    Faulty::on(&lvm).0.resume().unwrap();
    assert_eq!(lvm.lvs(), ["vm-other-gone", "vm-other-private-1-gone"]);
}
