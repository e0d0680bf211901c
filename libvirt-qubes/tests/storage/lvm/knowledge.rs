//! What the driver acts on without asking, and what it does when that is wrong.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use libvirt_qubes::Kind;
use libvirt_qubes::storage::lvm::{Failed, Lv, LvName, LvOp, Runner};
use libvirt_qubes::storage::{
    Driver, Ending, Job, LvmDriver, Recovered, Revisions, Tuning, VolumeId, VolumeKind, VolumeSpec,
};

use super::model::ModelOfLvm;
use super::scenarios::{run, runs, spec, start};
use super::{driver, id, pool};

fn lv(name: &str) -> LvName {
    LvName::new("qubes".parse().unwrap(), name).unwrap()
}

fn revisions(driver: &LvmDriver, volume: &VolumeId) -> Vec<String> {
    driver.revisions(volume).unwrap().into_iter().map(|revision| revision.id.to_string()).collect()
}

#[test]
fn at_start_up_volumes_at_rest_cost_no_command_each() {
    let lvm = Arc::new(ModelOfLvm::new());
    let earlier = driver(&lvm);
    earlier.setup().unwrap();
    let mut volumes: Vec<(VolumeId, VolumeSpec)> = Vec::new();
    for vm in 0..20 {
        let private = id(&format!("appvms/vm{vm}/private"));
        earlier.create(&private, &spec(1)).unwrap();
        run(&earlier, &private, &spec(1), 1);
        let source = id("vm-templates/t/root");
        volumes.push((private, spec(1)));
        let snapshot = VolumeSpec { kind: VolumeKind::Snapshot { source }, ..spec(0) };
        volumes.push((id(&format!("appvms/vm{vm}/root")), snapshot));
        let volatile = VolumeSpec { kind: VolumeKind::Volatile, ..spec(0) };
        volumes.push((id(&format!("appvms/vm{vm}/volatile")), volatile));
    }
    let (running, _) = &volumes[0];
    start(&earlier, running, &spec(1), 7);
    drop(earlier);

    let driver = driver(&lvm);
    driver.setup().unwrap();
    let before = lvm.commands();
    for (volume, spec) in &volumes[1..] {
        assert_eq!(driver.recover(volume, spec).unwrap(), Recovered::Clean);
    }
    assert_eq!(lvm.commands(), before, "what set-up has listed is asked for again");
    // What was left running is not at rest.
    assert_eq!(driver.recover(running, &spec(1)).unwrap(), Recovered::Committed);
    assert_eq!(lvm.byte("vm-vm0-private"), 7);
    // Nor is what this process has started since.
    let (other, _) = &volumes[3];
    start(&driver, other, &spec(1), 8);
    assert_eq!(driver.recover(other, &spec(1)).unwrap(), Recovered::Committed);
    assert_eq!(lvm.byte("vm-vm1-private"), 8);
}

/// How many commands something takes of a pool whose fullness is known.
fn commands(lvm: &ModelOfLvm, driver: &LvmDriver, work: impl FnOnce()) -> usize {
    driver.usage().unwrap();
    let before = lvm.commands();
    work();
    lvm.commands() - before
}

#[test]
fn of_volumes_that_are_known_a_start_and_a_copy_are_one_command() {
    let lvm = Arc::new(ModelOfLvm::new());
    let driver = driver(&lvm);
    driver.setup().unwrap();
    let (template, work, copy) =
        (id("vm-templates/t/root"), id("appvms/work/root"), id("appvms/copy/private"));
    runs(&driver, &template, &spec(1), &[3]);
    let private = id("appvms/work/private");
    runs(&driver, &private, &spec(1), &[4]);
    let snapshot = VolumeSpec { kind: VolumeKind::Snapshot { source: template }, ..spec(0) };
    run(&driver, &work, &snapshot, 5);
    driver.vacant(&copy).unwrap();
    assert_eq!(commands(&lvm, &driver, || start(&driver, &work, &snapshot, 6)), 1);
    assert_eq!(commands(&lvm, &driver, || start(&driver, &private, &spec(1), 6)), 1);
    driver.stop(&private, &spec(1), Ending::Ran).unwrap();
    let export = driver.export(&private, &spec(1)).unwrap();
    let copies = || driver.import_from(&copy, &spec(1), &export, &Job::default()).unwrap();
    assert_eq!(commands(&lvm, &driver, copies), 1);
    assert_eq!(lvm.byte("vm-copy-private"), 6);
}

#[test]
fn a_start_that_goes_by_what_is_known_goes_on_where_somebody_else_has_changed_names() {
    let private = id("appvms/work/private");
    let known = |lvm: &Arc<ModelOfLvm>| {
        let driver = driver(lvm);
        driver.setup().unwrap();
        runs(&driver, &private, &spec(1), &[1, 2]);
        driver
    };
    let rename = |lvm: &ModelOfLvm, from: &str, to: &str| {
        lvm.run(&LvOp::Rename { from: lv(from), to: lv(to) }).unwrap();
    };
    // Gone back by hand: the start takes what has the name now.
    let lvm = Arc::new(ModelOfLvm::new());
    let by_hand = known(&lvm);
    let back = revisions(&by_hand, &private).remove(0);
    rename(&lvm, "vm-work-private", "away");
    rename(&lvm, &format!("vm-work-private-{back}"), "vm-work-private");
    by_hand.start(&private, &spec(1), &mut || {}, &Job::default()).unwrap();
    assert_eq!(lvm.byte("vm-work-private-snap"), 1);
    // Nothing has the name: as after a crash, the newest revision.
    let lvm = Arc::new(ModelOfLvm::new());
    let by_hand = known(&lvm);
    rename(&lvm, "vm-work-private", "away");
    by_hand.start(&private, &spec(1), &mut || {}, &Job::default()).unwrap();
    assert_eq!(lvm.byte("vm-work-private-snap"), 1);
    // A run that nobody knew of: it is continued.
    let lvm = Arc::new(ModelOfLvm::new());
    let by_hand = known(&lvm);
    let (of, made) = (lv("vm-work-private"), lv("vm-work-private-snap"));
    lvm.run(&LvOp::Snapshot { of, lv: made }).unwrap();
    by_hand.start(&private, &spec(1), &mut || {}, &Job::default()).unwrap();
    by_hand.stop(&private, &spec(1), Ending::NeverRan).unwrap();
    assert!(lvm.lvs().contains(&"vm-work-private-snap".to_owned()), "it may have been written");
}

#[test]
fn a_copy_is_as_large_as_what_it_is_of_though_somebody_else_has_made_that_larger() {
    let lvm = Arc::new(ModelOfLvm::new());
    let driver = driver(&lvm);
    driver.setup().unwrap();
    let private = id("appvms/work/private");
    runs(&driver, &private, &spec(1), &[1]);
    let size = libvirt_qubes::ids::ByteSize::bytes(2 * super::model::SIZE);
    let how = libvirt_qubes::storage::lvm::Resizing::Grow;
    lvm.run(&LvOp::Resize { lv: lv("vm-work-private"), size, how }).unwrap();
    assert_eq!(driver.export(&private, &spec(1)).unwrap().size(), size);
}

#[test]
fn what_was_copied_is_not_committed_under_a_run_that_somebody_else_has_begun() {
    let lvm = Arc::new(ModelOfLvm::new());
    let driver = driver(&lvm);
    driver.setup().unwrap();
    let (private, source) = (id("appvms/work/private"), id("appvms/source/private"));
    runs(&driver, &private, &spec(1), &[1]);
    runs(&driver, &source, &spec(1), &[2]);
    let (of, made) = (lv("vm-work-private"), lv("vm-work-private-snap"));
    lvm.run(&LvOp::Snapshot { of, lv: made }).unwrap();
    let export = driver.export(&source, &spec(1)).unwrap();
    let refused = driver.import_from(&private, &spec(1), &export, &Job::default()).unwrap_err();
    assert_eq!(refused.kind(), Kind::Busy);
    assert_eq!(lvm.byte("vm-work-private"), 1);
    assert!(!lvm.lvs().contains(&"vm-work-private-import".to_owned()));
}

#[test]
fn a_stop_commits_also_where_somebody_else_has_changed_names() {
    for is_clean_gone in [false, true] {
        let lvm = Arc::new(ModelOfLvm::new());
        let driver = driver(&lvm);
        driver.setup().unwrap();
        let (volume, spec) = (id("appvms/work/private"), spec(3));
        runs(&driver, &volume, &spec, &[1]);
        start(&driver, &volume, &spec, 2);
        if is_clean_gone {
            lvm.run(&LvOp::Rename { from: lv("vm-work-private"), to: lv("somewhere-else") }).unwrap();
        } else {
            // The name of the next revision is taken.
            let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
            for second in now + 1..now + 100 {
                lvm.add(&format!("vm-work-private-{second}-back"));
            }
        }
        driver.stop(&volume, &spec, Ending::Ran).unwrap();
        driver.prepare(&volume, &spec);
        assert_eq!(lvm.byte("vm-work-private"), 2);
        assert!(!lvm.lvs().contains(&"vm-work-private-snap".to_owned()));
    }
}

#[test]
fn surplus_revisions_are_told_no_more_at_once_and_go_after_the_answer() {
    let lvm = Arc::new(ModelOfLvm::new());
    let driver = driver(&lvm);
    driver.setup().unwrap();
    let (volume, spec) = (id("appvms/work/private"), spec(1));
    runs(&driver, &volume, &spec, &[1, 2]);
    let old = revisions(&driver, &volume);
    start(&driver, &volume, &spec, 3);
    driver.stop(&volume, &spec, Ending::Ran).unwrap();
    let told = revisions(&driver, &volume);
    assert_eq!(told.len(), 1);
    assert_ne!(told, old);
    assert!(lvm.lvs().contains(&format!("vm-work-private-{}", old[0])), "it was removed before the answer");
    driver.prepare(&volume, &spec);
    assert_eq!(revisions(&driver, &volume), told);
    assert_eq!(lvm.lvs(), ["vm-work-private".to_owned(), format!("vm-work-private-{}", told[0])]);
}

#[test]
fn recovery_of_a_run_that_may_have_written_nothing_costs_no_revision() {
    let lvm = Arc::new(ModelOfLvm::new());
    let earlier = driver(&lvm);
    earlier.setup().unwrap();
    let (volume, spec) = (id("appvms/work/private"), spec(1));
    runs(&earlier, &volume, &spec, &[1, 2]);
    let old = revisions(&earlier, &volume);
    earlier.start(&volume, &spec, &mut || {}, &Job::default()).unwrap();
    drop(earlier);
    let driver = driver(&lvm);
    driver.setup().unwrap();
    assert_eq!(driver.recover(&volume, &spec).unwrap(), Recovered::Committed);
    driver.prepare(&volume, &spec);
    assert!(revisions(&driver, &volume).contains(&old[0]), "{:?}", lvm.lvs());
    // The next commit is under the usual retention.
    run(&driver, &volume, &spec, 3);
    assert_eq!(revisions(&driver, &volume).len(), 1);
}

/// Fails the change whose words are these, once.
#[derive(Debug)]
struct Failing {
    lvm: Arc<ModelOfLvm>,
    words: &'static str,
    is_armed: AtomicBool,
}

impl Failing {
    fn new(words: &'static str) -> (LvmDriver, Arc<Self>) {
        let lvm = Arc::new(ModelOfLvm::new());
        let failing = Arc::new(Self { lvm, words, is_armed: AtomicBool::new(false) });
        let runner = Arc::clone(&failing) as Arc<dyn Runner>;
        let driver = LvmDriver::with_runner(pool(), Tuning::default(), runner);
        driver.setup().unwrap();
        (driver, failing)
    }
}

impl Runner for Failing {
    fn run(&self, op: &LvOp) -> Result<Vec<Lv>, Failed> {
        if op.to_string().contains(self.words) && self.is_armed.load(Ordering::SeqCst) {
            return Err(Failed::Refused("device-mapper: no".to_owned()));
        }
        self.lvm.run(op)
    }

    fn device(&self, lv: &LvName) -> PathBuf {
        self.lvm.device(lv)
    }

    fn lv_of(&self, file: &File) -> Option<LvName> {
        self.lvm.lv_of(file)
    }

    fn is_large(&self, lv: &LvName) -> bool {
        self.lvm.is_large(lv)
    }

    fn discard(&self, lv: &LvName) -> std::io::Result<()> {
        self.lvm.discard(lv)
    }
}

#[test]
fn what_a_failed_revert_leaves_as_the_newest_revision_cannot_be_forgotten() {
    let (driver, failing) = Failing::new("-back qubes/vm-work-private");
    let (volume, spec) = (id("appvms/work/private"), spec(2));
    runs(&driver, &volume, &spec, &[1, 2]);
    let oldest = driver.revisions(&volume).unwrap().remove(0);
    // The present state has become a revision already.
    failing.is_armed.store(true, Ordering::SeqCst);
    driver.revert(&volume, &spec, &oldest.id, &Job::default()).unwrap_err();
    failing.is_armed.store(false, Ordering::SeqCst);
    let newest = driver.revisions(&volume).unwrap().pop().unwrap();
    assert!(!failing.lvm.lvs().contains(&"vm-work-private".to_owned()));
    assert_eq!(driver.forget(&volume, &newest.id).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(failing.lvm.byte("vm-work-private"), 2, "the state is lost");
    driver.forget(&volume, &oldest.id).unwrap();
}

#[test]
fn an_lv_that_somebody_has_open_is_neither_emptied_nor_removed() {
    let lvm = Arc::new(ModelOfLvm::new());
    let driver = driver(&lvm);
    driver.setup().unwrap();
    let (volume, spec) = (id("appvms/work/private"), spec(1));
    runs(&driver, &volume, &spec, &[5]);
    let device = File::open(lvm.device(&lv("vm-work-private"))).unwrap();
    assert_eq!(driver.remove(&volume).unwrap_err().kind(), Kind::Busy);
    assert_eq!(lvm.byte("vm-work-private"), 5);
    drop(device);
    driver.remove(&volume).unwrap();
    assert_eq!(lvm.lvs(), Vec::<String>::new());
}

#[test]
fn a_pool_without_a_device_is_activated_before_it_is_said_how_full_it_is() {
    let lvm = Arc::new(ModelOfLvm::new());
    lvm.fill(50.0, 10.0);
    lvm.deactivate(false);
    let driver = driver(&lvm);
    driver.setup().unwrap();
    let usage = driver.usage().unwrap().unwrap();
    assert_eq!(usage.usage.get() * 2, usage.size.get());
    // One that stays without is not empty, and away.
    lvm.deactivate(true);
    let refused = driver.setup().unwrap_err();
    assert_eq!(refused.kind(), Kind::Unavailable);
    assert!(refused.report().contains("lvs -a qubes/pool00"), "{}", refused.report());
    assert!(driver.away().is_some_and(|why| why.contains("qubes/pool00")));
}

#[test]
fn one_lv_that_cannot_be_read_leaves_others_their_figures() {
    let (driver, failing) = Failing::new("qubes/vm-bad-private");
    let names = ["first", "bad", "a", "b", "c"].map(|vm| id(&format!("appvms/{vm}/private")));
    for volume in &names {
        failing.lvm.add(&format!("vm-{}-private", volume.owner));
    }
    failing.is_armed.store(true, Ordering::SeqCst);
    failing.lvm.slow_down(std::time::Duration::from_millis(200));
    let (driver, spec, before) = (&driver, &spec(1), failing.lvm.commands());
    std::thread::scope(|scope| {
        let [first, together @ ..] = &names;
        let first = scope.spawn(move || driver.info(first, spec).is_ok());
        while failing.lvm.commands() == before {
            std::thread::yield_now();
        }
        // What waits meanwhile is asked for together, and would fail together.
        let asked = together.each_ref().map(|volume| scope.spawn(move || driver.info(volume, spec).is_ok()));
        let [_bad, others @ ..] = asked.map(|asked| asked.join().unwrap());
        assert_eq!((first.join().unwrap(), others), (true, [true; 3]));
    });
}
