//! The driver `lvm_thin`: its contract and every crash on a model of LVM, and the contract on a real thin pool where
//! this machine has device-mapper.

mod crash;
mod full;
mod knowledge;
mod model;
mod scenarios;
#[path = "../../thin_pool/mod.rs"]
mod thin_pool;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use libvirt_qubes::Kind;
use libvirt_qubes::contract::storage::{Fixture, storage_contract};
use libvirt_qubes::storage::lvm::{LvName, LvOp, Runner};
use libvirt_qubes::storage::{Driver, LvmDriver, PoolPlace, RevisionsToKeep, Tuning, VolumeId, VolumeKind};

use self::model::ModelOfLvm;
use self::thin_pool::ThinPool;

struct OnModel;

impl Fixture for OnModel {
    fn new_pool(&self) -> Arc<dyn Driver> {
        Arc::new(driver(&Arc::new(ModelOfLvm::new())))
    }
}

fn pool() -> LvName {
    LvName::new("qubes".parse().unwrap(), "pool00").unwrap()
}

fn driver(lvm: &Arc<ModelOfLvm>) -> LvmDriver {
    LvmDriver::with_runner(pool(), Tuning::default(), Arc::clone(lvm) as Arc<dyn Runner>)
}

#[test]
fn lvm_thin_keeps_the_contract_on_a_model_of_lvm() {
    storage_contract(&OnModel);
}

#[test]
fn lvm_thin_keeps_the_contract_on_a_real_thin_pool() {
    match ThinPool::on_a_loop_device() {
        Ok(pool) => storage_contract(&pool),
        Err(why) => println!("skipped: {why}"),
    }
}

#[test]
fn lvm_itself_takes_every_command_that_needs_no_device_mapper() {
    // Reports alone: whatever else is asked for ends at the kernel that has no device-mapper.
    use libvirt_qubes::storage::lvm::{Failed, Lvm};
    let limit = std::time::Duration::from_secs(120);
    if std::process::Command::new("lvm").arg("version").output().is_err() {
        println!("skipped: there is no lvm");
        return;
    }
    for lvm in [Lvm::new(limit), Lvm::single(limit)] {
        for _ in 0..2 {
            let nowhere = "no-such-group-of-mgmt".parse().unwrap();
            match lvm.run(&LvOp::All(nowhere)) {
                Err(Failed::Refused(why)) => {
                    assert!(why.contains("Volume group \"no-such-group-of-mgmt\" not found"), "{why}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

fn id(text: &str) -> VolumeId {
    text.parse().unwrap()
}

#[test]
fn names_that_lead_to_one_lv_are_refused_to_whoever_comes_second() {
    let lvm = Arc::new(ModelOfLvm::new());
    let driver = driver(&lvm);
    driver.setup().unwrap();
    driver.create(&id("appvms/a-b/root"), &scenarios::spec(1)).unwrap();
    for (volume, kind) in [
        ("appvms/a/b-root", Kind::AlreadyExists),
        ("vm-templates/a-b/root", Kind::AlreadyExists),
        ("appvms/a-b-root/snap", Kind::Invalid),
        ("appvms/a-b/root-import", Kind::Invalid),
        ("appvms/my_tmeta/root", Kind::Invalid),
    ] {
        assert_eq!(driver.vacant(&id(volume)).unwrap_err().kind(), kind, "{volume}");
        assert_eq!(driver.create(&id(volume), &scenarios::spec(1)).unwrap_err().kind(), kind, "{volume}");
    }
    // Neither is what somebody else has under that name outside the thin pool.
    lvm.add_foreign("vm-c-root");
    assert_eq!(driver.vacant(&id("appvms/c/root")).unwrap_err().kind(), Kind::AlreadyExists);
    assert_eq!(driver.verify(&id("appvms/c/root"), &scenarios::spec(1)).unwrap_err().kind(), Kind::NotFound);
    driver.remove(&id("appvms/c/root")).unwrap();
    assert!(lvm.lvs().contains(&"vm-c-root".to_owned()), "an LV outside the pool was removed");
}

#[test]
fn commits_within_one_second_and_after_a_clock_was_set_back_have_names_of_their_own() {
    let lvm = Arc::new(ModelOfLvm::new());
    let driver = driver(&lvm);
    driver.setup().unwrap();
    let (volume, spec) = (id("appvms/a/private"), scenarios::spec(9));
    driver.create(&volume, &spec).unwrap();
    lvm.add("vm-a-private-4102444800-back");
    let driver = self::driver(&lvm);
    for byte in 1..5 {
        scenarios::run(&driver, &volume, &spec, byte);
    }
    let ids: Vec<_> = driver.as_revisions().unwrap().revisions(&volume).unwrap();
    let ids: Vec<_> = ids.iter().map(|revision| revision.id.as_str().to_owned()).collect();
    assert_eq!(ids, (0..5).map(|n| format!("{}-back", 4_102_444_800u64 + n)).collect::<Vec<_>>());
}

#[test]
fn what_the_deployed_system_left_is_taken_over() {
    let lvm = Arc::new(ModelOfLvm::new());
    let driver = driver(&lvm);
    driver.setup().unwrap();
    for lv in
        ["vm-work-private", "vm-work-private-1700000000-back", "vm-work-private-1600000000-back", "root"]
    {
        lvm.add(lv);
    }
    let volume = id("appvms/work/private");
    let revisions = driver.as_revisions().unwrap().revisions(&volume).unwrap();
    let seen: Vec<_> = revisions.iter().map(|r| (r.id.as_str(), r.committed_at)).collect();
    assert_eq!(seen, [("1600000000-back", 1_600_000_000), ("1700000000-back", 1_700_000_000)]);
    let contents = driver.contents().unwrap();
    assert_eq!(contents.volumes, std::slice::from_ref(&volume));
    assert_eq!(contents.unknown, [std::path::PathBuf::from("/dev/qubes/root")]);
    assert_eq!(driver.vid(&volume, &scenarios::spec(1)), "qubes/vm-work-private");
    scenarios::run(&driver, &volume, &scenarios::spec(2), 3);
    assert_eq!(driver.as_revisions().unwrap().revisions(&volume).unwrap().len(), 2);
}

#[test]
fn one_volumes_figures_cost_as_many_commands_in_a_large_pool_and_none_while_they_are_fresh() {
    for others in [1, 300] {
        let lvm = Arc::new(ModelOfLvm::new());
        let driver = driver(&lvm);
        driver.setup().unwrap();
        for n in 0..others {
            lvm.add(&format!("vm-other{n}-private"));
        }
        let (volume, spec) = (id("appvms/a/private"), scenarios::spec(1));
        driver.create(&volume, &spec).unwrap();
        // Another, who knows nothing yet.
        let driver = self::driver(&lvm);
        driver.setup().unwrap();
        let before = lvm.commands();
        driver.info(&volume, &spec).unwrap();
        assert_eq!(lvm.commands() - before, 2, "names, then the mapped part of the one LV");
        for _ in 0..10 {
            driver.info(&volume, &spec).unwrap();
        }
        assert_eq!(lvm.commands() - before, 2);
        // An own change is seen at once.
        driver.start(&volume, &spec, &mut || {}, &libvirt_qubes::storage::Job::default()).unwrap();
        assert!(driver.info(&volume, &spec).unwrap().dirty);
    }
}

#[test]
fn many_who_ask_at_once_share_the_commands() {
    let lvm = Arc::new(ModelOfLvm::new());
    let driver = driver(&lvm);
    driver.setup().unwrap();
    for n in 0..32 {
        lvm.add(&format!("vm-vm{n}-private"));
    }
    lvm.slow_down(std::time::Duration::from_millis(20));
    let before = lvm.commands();
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for n in 0..32 {
            let (driver, done) = (&driver, &done);
            scope.spawn(move || {
                let volume = id(&format!("appvms/vm{n}/private"));
                assert_eq!(driver.info(&volume, &scenarios::spec(1)).unwrap().size.get(), model::SIZE);
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
    });
    assert_eq!(done.load(Ordering::SeqCst), 32);
    let asked = lvm.commands() - before;
    assert!(asked < 32, "{asked} commands for 32 volumes");
}

#[test]
fn a_start_and_a_stop_take_as_few_commands_as_can_be() {
    let lvm = Arc::new(ModelOfLvm::new());
    let driver = driver(&lvm);
    driver.setup().unwrap();
    lvm.has_only_small_lvs();
    let (source, volume) = (id("vm-templates/t/root"), id("appvms/a/private"));
    let spec = scenarios::spec(1);
    driver.create(&source, &spec).unwrap();
    driver.create(&volume, &spec).unwrap();
    scenarios::run(&driver, &volume, &spec, 1);
    let snapshot = libvirt_qubes::storage::VolumeSpec {
        kind: VolumeKind::Snapshot { source },
        revisions_to_keep: RevisionsToKeep::Newest(0),
        ..spec.clone()
    };
    let root = id("appvms/a/root");
    let start = |volume: &VolumeId, spec| {
        let before = lvm.commands();
        driver.start(volume, spec, &mut || {}, &libvirt_qubes::storage::Job::default()).unwrap();
        lvm.commands() - before
    };
    let stop = |volume: &VolumeId, spec| {
        let before = lvm.commands();
        driver.stop(volume, spec, libvirt_qubes::storage::Ending::Ran).unwrap();
        lvm.commands() - before
    };
    assert_eq!(start(&volume, &spec), 1, "snapshot");
    assert_eq!(start(&root, &snapshot), 2, "look, as nothing is known of it yet; snapshot");
    assert_eq!(stop(&volume, &spec), 2, "two renames");
    let before = lvm.commands();
    driver.prepare(&volume, &spec);
    driver.prepare(&volume, &spec);
    assert_eq!(lvm.commands() - before, 2, "look, one removal, after the answer");
    assert_eq!(stop(&root, &snapshot), 1, "removal");
}

#[test]
fn two_pools_of_one_thin_pool_have_one_place() {
    let lvm = Arc::new(ModelOfLvm::new());
    assert_eq!(driver(&lvm).pool_place(), driver(&lvm).pool_place());
    assert_eq!(driver(&lvm).pool_place(), PoolPlace::ThinPool("qubes/pool00".to_owned()));
}
