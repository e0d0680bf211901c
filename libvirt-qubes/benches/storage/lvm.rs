//! The driver `lvm_thin`, against commands of LVM, a process each, in the same volume group.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use libvirt_qubes::storage::lvm::LvName;
use libvirt_qubes::storage::{LvmDriver, Sharing, Tuning, Volume};

use crate::bare;
use crate::pace::Row;
use crate::pool::Pool;

/// Few: in an emulated machine a command takes a second.
const ROUNDS: usize = 5;
const AT_ONCE: usize = 20;
/// How many volumes there are besides, one after the other.
const NUMBERS: [usize; 2] = [50, 400];

const VG: &str = "bench";

pub(crate) fn measure(disk: &Path) {
    let disk = disk.to_str().unwrap();
    lvm(&format!("pvcreate --yes --force {disk}"));
    lvm(&format!("vgcreate {VG} {disk}"));
    lvm(&format!("lvcreate --yes --type=thin-pool --poolmetadatasize=128M --size=6G --name=pool {VG}"));
    let name = LvName::new(VG.parse().unwrap(), "pool").unwrap();
    // Who reads figures waits for LVM only there.
    let always = Tuning { refresh: Duration::ZERO, ..Tuning::default() };
    let asking = Pool::new(Arc::new(LvmDriver::new(name.clone(), always)), 1, Sharing::Source);
    let pool = Pool::new(Arc::new(LvmDriver::new(name, Tuning::default())), 1, Sharing::Source);
    let volume = pool.volume("one");
    pool.create(&volume);
    bare::fill(&pool.start(&volume));
    pool.stop(&volume);
    pool.wait_for(&volume);
    lvm(&format!("lvcreate --yes --setactivationskip=n --type=thin --name=bare {VG}/vm-one-private"));
    let mut there = 0;
    for number in NUMBERS {
        pool.create_many(there..number);
        there = number;
        one(&pool, &asking, &volume, number);
    }
    at_once(&pool);
    lvm(&format!("vgremove --yes --force {VG}"));
    lvm(&format!("pvremove --yes --force {disk}"));
}

/// One operation after another.
fn one(pool: &Pool, asking: &Pool, volume: &Volume, number: usize) {
    let row = |what: &str| Row::new(format!("{what}, among {number} volumes"));
    let mut rows =
        ["clone", "start", "stop", "stop, against each of its changes by hand", "usage of one"].map(row);
    let [clone, start, stop, stop_by_hand, usage] = &mut rows;
    let copy = pool.volume("copy");
    for _ in 0..ROUNDS {
        usage.ours(|| asking.info(volume));
        usage.bare(|| lvm(&format!("lvs --options=lv_size,data_percent {VG}/bare")));
        // As the daemon does at short intervals, and as it looks before it makes a VM.
        pool.refresh();
        pool.vacant(&copy);
        clone.ours(|| pool.copy(volume, &copy));
        clone.bare(|| snapshot("bare", "bare-copy"));
        let path = start.ours(|| pool.start(volume));
        start.bare(|| snapshot("bare", "bare-snap"));
        bare::write(&path);
        bare::write(Path::new("/dev/bench/bare-snap"));
        let by_hand = |names: [&str; 2]| lvm(&format!("lvrename {VG} {} {}", names[0], names[1]));
        stop.ours(|| stop_by_hand.ours(|| pool.stop(volume)));
        // The surplus revision is removed after the answer.
        pool.wait_for(volume);
        stop_by_hand.bare(|| {
            stop.bare(|| by_hand(["bare", "bare-back"]));
            by_hand(["bare-snap", "bare"]);
        });
        lvm(&format!("lvremove --yes {VG}/bare-back"));
        pool.remove(&copy);
        lvm(&format!("lvremove --yes {VG}/bare-copy"));
    }
    rows.iter().for_each(Row::print);
}

/// Many starts, one after another and all at once.
fn at_once(pool: &Pool) {
    let volumes: Vec<_> = (0..AT_ONCE).map(|n| pool.volume(&format!("vm{n}"))).collect();
    let mut against_one = Row::new(format!("{AT_ONCE} starts at once, against one after another"));
    let mut against_bare = Row::new(format!("{AT_ONCE} starts at once, against bare ones at once"));
    pool.refresh();
    against_one.other(|| volumes.iter().for_each(|volume| drop(pool.start(volume))));
    volumes.iter().for_each(|volume| {
        pool.stop(volume);
        pool.wait_for(volume);
    });
    pool.refresh();
    against_one.ours(|| against_bare.ours(|| pool.start_at_once(&volumes)));
    against_bare.bare(|| {
        std::thread::scope(|scope| {
            for n in 0..AT_ONCE {
                scope.spawn(move || snapshot(&format!("vm-vm{n}-private"), &format!("bare{n}")));
            }
        });
    });
    against_one.print();
    against_bare.print();
}

/// `lvcreate -s` of a thin LV; active, as ours are.
fn snapshot(of: &str, name: &str) {
    lvm(&format!(
        "lvcreate --yes --setactivationskip=n --activate=y --type=thin --name={VG}/{name} {VG}/{of}"
    ));
}

fn lvm(line: &str) {
    let status =
        Command::new("lvm").args(line.split(' ')).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.unwrap().success(), "lvm {line}");
}
