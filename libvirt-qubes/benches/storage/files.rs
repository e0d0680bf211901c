//! The drivers of image files.
//!
//! The bare start of a persistent volume is a rename and `sync -f`, as the bare stop: what a guest syncs later must be found
//! under its name after a power cut, and the data beneath is durable already (of `file-reflink`, a copy that the stop
//! before has made; of `file`, the volume itself). The bare start of a snapshot is a copy without a sync: after a power
//! cut it is worth nothing.

use std::path::Path;
use std::sync::Arc;

use libvirt_qubes::storage::{ImageDriver, SetupCheck, Sharing, Volume};

use crate::bare::{self, Bare};
use crate::pace::Row;
use crate::pool::Pool;

const ROUNDS: usize = 101;
const AT_ONCE: usize = 20;
/// How many volumes the small and the large pool have.
const FEW: usize = 50;
const MANY: usize = 2000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Driver {
    File,
    Reflink,
}

impl Driver {
    /// With the revisions that a pool of the driver keeps where nothing is said.
    fn pool(self, folder: &Path) -> Pool {
        match self {
            Self::File => Pool::new(Arc::new(ImageDriver::file(folder).unwrap()), 0, Sharing::Private),
            Self::Reflink => {
                let driver = ImageDriver::reflink(folder, SetupCheck::Probe).unwrap();
                Pool::new(Arc::new(driver), 1, Sharing::Source)
            }
        }
    }

    /// What the bare start renames.
    fn at_rest(self) -> &'static str {
        match self {
            Self::File => "clean",
            Self::Reflink => "prepared",
        }
    }
}

pub(crate) fn measure(driver: Driver, folder: &Path) {
    let pool = driver.pool(&folder.join("pool"));
    one(driver, &pool, folder);
    at_once(driver, &pool, folder);
    by_number(driver, folder);
}

fn new_volume(pool: &Pool, vm: &str) -> Volume {
    let volume = pool.volume(vm);
    pool.create(&volume);
    bare::fill(&pool.start(&volume));
    pool.stop(&volume);
    pool.wait_for(&volume);
    volume
}

/// One operation after another.
fn one(driver: Driver, pool: &Pool, folder: &Path) {
    let (volume, bare) = (new_volume(pool, "one"), Bare::new(folder.join("bare/one")));
    let (root, copies) = (pool.snapshot("snapshot", &volume), ["copy", "copy2"].map(|vm| pool.volume(vm)));
    let [mut start, mut stop] = ["start", "stop"].map(Row::new);
    let [mut clone, mut snapshot] = ["clone", "start of a snapshot"].map(Row::new);
    let mut whole =
        Row::new("clone, against `cp`, `sync`, `mv`, `sync`: whole or not there after a power cut");
    let settle = || {
        [&volume, &copies[0], &copies[1]].into_iter().for_each(|volume| pool.wait_for(volume));
        bare::sync(folder);
    };
    let copy = |name: &str| {
        bare::copy(&bare.file("clean"), &bare.file(name));
        bare::sync(folder);
    };
    for _ in 0..ROUNDS {
        if driver == Driver::Reflink {
            bare.prepare();
        }
        let path =
            start.turn(settle, || pool.start(&volume), || bare.rename_durably(driver.at_rest(), "dirty"));
        bare::write(&path);
        bare::write(&bare.file("dirty"));
        stop.turn(settle, || pool.stop(&volume), || bare.rename_durably("dirty", "clean"));
        clone.turn(settle, || pool.copy(&volume, &copies[0]), || copy("copy"));
        whole.turn(
            settle,
            || pool.copy(&volume, &copies[1]),
            || {
                copy("unfinished");
                bare.rename_durably("unfinished", "whole");
            },
        );
        let from = bare.file("clean");
        snapshot.turn(settle, || drop(pool.start(&root)), || bare::copy(&from, &bare.file("snapshot")));
        pool.stop(&root);
        copies.iter().for_each(|copy| pool.remove(copy));
        for name in ["copy", "whole", "snapshot"] {
            std::fs::remove_file(bare.file(name)).unwrap();
        }
    }
    for row in [clone, whole, start, stop, snapshot] {
        row.print();
    }
}

/// Many starts, one after another and all at once.
fn at_once(driver: Driver, pool: &Pool, folder: &Path) {
    let volumes: Vec<_> = (0..AT_ONCE).map(|n| new_volume(pool, &format!("many{n}"))).collect();
    let bare: Vec<_> = (0..AT_ONCE).map(|n| Bare::new(folder.join(format!("bare/many{n}")))).collect();
    let mut against_one = Row::new(format!("{AT_ONCE} starts at once, against one after another"));
    let mut against_bare = Row::new(format!("{AT_ONCE} starts at once, against bare ones at once"));
    let settle = || bare::sync(folder);
    let stop_all = || {
        volumes.iter().for_each(|volume| pool.stop(volume));
        volumes.iter().for_each(|volume| pool.wait_for(volume));
    };
    for _ in 0..ROUNDS / 2 {
        settle();
        against_one.other(|| volumes.iter().for_each(|volume| drop(pool.start(volume))));
        stop_all();
        settle();
        against_one.ours(|| against_bare.ours(|| pool.start_at_once(&volumes)));
        stop_all();
        if driver == Driver::Reflink {
            bare.iter().for_each(Bare::prepare);
        }
        settle();
        against_bare.bare(|| {
            std::thread::scope(|scope| {
                for bare in &bare {
                    scope.spawn(|| bare.rename_durably(driver.at_rest(), "dirty"));
                }
            });
        });
        bare.iter().for_each(|bare| bare.rename_durably("dirty", "clean"));
    }
    against_one.print();
    against_bare.print();
}

/// The same operations in a pool with many volumes and in one with few.
fn by_number(driver: Driver, folder: &Path) {
    let [many, few] = [MANY, FEW].map(|count| {
        let pool = driver.pool(&folder.join(format!("pool{count}")));
        pool.create_many(0..count);
        (new_volume(&pool, "one"), pool)
    });
    let row = |what: &str| Row::new(format!("{what}, {MANY} volumes against {FEW}"));
    let mut rows = ["a hundred times usage of one", "clone", "start", "stop"].map(row);
    let copy = few.1.volume("copy");
    for _ in 0..ROUNDS {
        for (index, row) in rows.iter_mut().enumerate() {
            let act = |(volume, pool): &(Volume, Pool)| match index {
                0 => (0..100).for_each(|_| pool.info(volume)),
                1 => pool.copy(volume, &copy),
                2 => drop(pool.start(volume)),
                _ => pool.stop(volume),
            };
            let settle = || {
                for (volume, pool) in [&many, &few] {
                    pool.wait_for(volume);
                    pool.wait_for(&copy);
                }
                bare::sync(folder);
            };
            row.other_turn(settle, || act(&many), || act(&few));
        }
        for (_, pool) in [&many, &few] {
            pool.remove(&copy);
        }
    }
    rows.iter().for_each(Row::print);
}
