//! A thin pool that is nearly full.

use std::sync::Arc;

use libvirt_qubes::Kind;
use libvirt_qubes::ids::ByteSize;
use libvirt_qubes::storage::lvm::Runner;
use libvirt_qubes::storage::{Driver, Ending, ImportSize, Job, LvmDriver, Resize, Revisions, Tuning};

use super::model::{ModelOfLvm, SIZE};
use super::scenarios::{run, spec};
use super::{id, pool};

fn at_once(lvm: &Arc<ModelOfLvm>) -> LvmDriver {
    // What the pool is like is asked for each time.
    let tuning = Tuning { refresh: std::time::Duration::ZERO, ..Tuning::default() };
    let driver = LvmDriver::with_runner(pool(), tuning, Arc::clone(lvm) as Arc<dyn Runner>);
    driver.setup().unwrap();
    driver
}

#[test]
fn without_data_left_only_what_needs_data_is_refused() {
    let lvm = Arc::new(ModelOfLvm::new());
    let driver = at_once(&lvm);
    let (volume, spec) = (id("appvms/work/private"), spec(2));
    driver.create(&volume, &spec).unwrap();
    run(&driver, &volume, &spec, 1);
    run(&driver, &volume, &spec, 2);
    lvm.fill(100.0, 10.0);
    let refused = driver.begin_import(&volume, &spec, ImportSize::AsItComes).err().unwrap();
    assert_eq!(refused.kind(), Kind::NoSpace);
    assert!(refused.report().contains("lvextend --size"), "{}", refused.report());
    // Virtual size is not refused, nor what frees space or shares it.
    driver.create(&id("appvms/other/private"), &spec).unwrap();
    driver.resize(&volume, &spec, ByteSize::bytes(2 * SIZE)).unwrap();
    run(&driver, &volume, &spec, 3);
    let oldest = driver.revisions(&volume).unwrap().remove(0);
    driver.revert(&volume, &spec, &oldest.id, &Job::default()).unwrap();
    driver.remove(&volume).unwrap();
    assert_eq!(lvm.lvs(), ["vm-other-private"]);
    // Room again only well below the mark.
    lvm.fill(87.0, 10.0);
    assert!(driver.begin_import(&volume, &spec, ImportSize::AsItComes).is_err());
    lvm.fill(84.0, 10.0);
    driver.begin_import(&volume, &spec, ImportSize::AsItComes).unwrap().abort().unwrap();
    lvm.fill(87.0, 10.0);
    driver.begin_import(&volume, &spec, ImportSize::AsItComes).unwrap().abort().unwrap();
}

#[test]
fn without_metadata_left_every_new_lv_is_refused_and_the_error_says_what_helps() {
    let lvm = Arc::new(ModelOfLvm::new());
    let driver = at_once(&lvm);
    let (volume, other, spec) = (id("appvms/work/private"), id("appvms/other/private"), spec(2));
    driver.create(&volume, &spec).unwrap();
    run(&driver, &volume, &spec, 1);
    driver.start(&volume, &spec, &mut || {}, &Job::default()).unwrap();
    lvm.fill(10.0, 95.0);
    let before = lvm.lvs();
    let mut refusals = vec![
        driver.create(&other, &spec).unwrap_err(),
        driver.begin_import(&other, &spec, ImportSize::AsItComes).err().unwrap(),
        driver.keep(&volume, &spec, 1, &Job::default()).unwrap_err(),
    ];
    // What runs is committed all the same, without a new LV.
    driver.stop(&volume, &spec, Ending::Ran).unwrap();
    refusals.push(driver.start(&volume, &spec, &mut || {}, &Job::default()).unwrap_err());
    for refused in refusals {
        assert_eq!(refused.kind(), Kind::NoSpace);
        assert!(
            refused.report().contains("lvextend --poolmetadatasize +SIZE qubes/pool00"),
            "{}",
            refused.report()
        );
    }
    assert_eq!(lvm.lvs().len(), before.len(), "{:?}", lvm.lvs());
    let oldest = driver.revisions(&volume).unwrap().remove(0);
    driver.revert(&volume, &spec, &oldest.id, &Job::default()).unwrap();
    driver.remove(&volume).unwrap();
    assert_eq!(lvm.lvs(), Vec::<String>::new());
    let usage = driver.usage().unwrap().unwrap();
    assert_eq!(usage.metadata.map(|(size, used)| (size.get(), used.get())), Some((4 << 20, 3_984_588)));
}

#[test]
fn where_the_metadata_is_full_all_the_same_the_error_says_what_helps_and_what_only_renames_works() {
    let lvm = Arc::new(ModelOfLvm::new());
    let driver = at_once(&lvm);
    let (volume, spec) = (id("appvms/work/private"), spec(1));
    driver.create(&volume, &spec).unwrap();
    run(&driver, &volume, &spec, 1);
    run(&driver, &volume, &spec, 2);
    driver.start(&volume, &spec, &mut || {}, &Job::default()).unwrap();
    lvm.fill(10.0, 100.0);
    driver.stop(&volume, &spec, Ending::Ran).unwrap();
    driver.prepare(&volume, &spec);
    assert_eq!(driver.revisions(&volume).unwrap().len(), 1);
    assert!(
        lvm.lvs().contains(&"vm-work-private-1-gone".to_owned()),
        "the surplus one waits: {:?}",
        lvm.lvs()
    );
    let newest = driver.revisions(&volume).unwrap().pop().unwrap();
    driver.revert(&volume, &spec, &newest.id, &Job::default()).unwrap();
    let refused = driver.remove(&volume).unwrap_err();
    assert_eq!(refused.kind(), Kind::NoSpace);
    for words in ["Operation not supported", "lvextend --poolmetadatasize +SIZE qubes/pool00"] {
        assert!(refused.report().contains(words), "{}", refused.report());
    }
    lvm.fill(10.0, 50.0);
    driver.remove(&volume).unwrap();
    assert_eq!(lvm.lvs(), Vec::<String>::new());
}
