//! One long-lived `lvm` that is fed commands, and a process for each: both see what others do.

use std::time::Duration;

use libvirt_qubes::ids::ByteSize;
use libvirt_qubes::storage::lvm::{Failed, LvOp, Lvm, Resizing, Runner};

use crate::thin_pool::run;
use crate::{MIB, disk, lv};

const LIMIT: Duration = Duration::from_secs(120);

#[test]
#[ignore = "needs the testbed's disk; run by cargo xtask test"]
fn the_shell_sees_what_others_change_and_tells_failures_in_lvms_words() {
    let disk = disk();
    let pool = disk.make(64, &[]);
    // A process for each command has the same words: a report, a change and a refusal show it.
    for (lvm, is_shell) in [(Lvm::new(LIMIT), true), (Lvm::single(LIMIT), false)] {
        let names = LvOp::Names { vg: pool.vg().clone(), bases: vec!["vm-a.b-root".to_owned()] };
        assert!(lvm.run(&names).unwrap().is_empty());
        let (mine, theirs) = (lv(&pool, "vm-a.b-root"), lv(&pool, "vm-a.b-root-snap"));
        let create = LvOp::Create { lv: mine.clone(), pool: pool.clone(), size: ByteSize::bytes(4 * MIB) };
        lvm.run(&create).unwrap();
        assert!(mine.device().exists());
        match lvm.run(&create) {
            Err(Failed::Refused(why)) => assert!(why.contains("already exists"), "{why}"),
            other => panic!("{other:?}"),
        }
        if !is_shell {
            let seen = lvm.run(&names).unwrap();
            assert_eq!((seen.len(), seen[0].name.as_str(), seen[0].size), (1, "vm-a.b-root", 4 * MIB));
            lvm.run(&LvOp::Remove(vec![mine])).unwrap();
            continue;
        }
        let other = ["lvcreate", "--yes", "--setactivationskip=n", "--type=thin", "--name=vm-a.b-root-snap"];
        run(std::process::Command::new("lvm").args(other).arg(mine.to_string())).unwrap();
        let seen = lvm.run(&names).unwrap();
        let seen: Vec<_> =
            seen.iter().map(|lv| (lv.name.as_str(), lv.origin.as_str(), lv.pool.as_str())).collect();
        assert_eq!(seen, [("vm-a.b-root", "", pool.lv()), ("vm-a.b-root-snap", "vm-a.b-root", pool.lv())]);
        let figures = lvm.run(&LvOp::Figures(vec![mine.clone()])).unwrap();
        assert_eq!((figures[0].size, figures[0].data_percent), (4 * MIB, Some(0.0)));
        let report = lvm.run(&LvOp::Pool(pool.clone())).unwrap();
        assert!(report[0].attributes.starts_with('t') && report[0].zeroes && report[0].extent == 4 * MIB);
        assert_eq!(report[0].metadata.unwrap().0, 4 * MIB);

        let held = std::fs::File::open(theirs.device()).unwrap();
        match lvm.run(&LvOp::Remove(vec![theirs.clone()])) {
            Err(Failed::Refused(why)) => assert!(why.contains("in use") || why.contains("used by"), "{why}"),
            other => panic!("{other:?}"),
        }
        drop(held);
        // Inactive ones are removed too.
        run(std::process::Command::new("lvm").args(["lvchange", "--activate=n", &theirs.to_string()]))
            .unwrap();
        assert!(!theirs.device().exists());
        lvm.run(&LvOp::Remove(vec![theirs])).unwrap();
        lvm.run(&LvOp::Resize { lv: mine.clone(), size: ByteSize::bytes(12 * MIB), how: Resizing::Grow })
            .unwrap();
        lvm.run(&LvOp::Resize { lv: mine.clone(), size: ByteSize::bytes(8 * MIB), how: Resizing::Trim })
            .unwrap();
        let renamed = lv(&pool, "vm-c-root");
        lvm.run(&LvOp::Rename { from: mine, to: renamed.clone() }).unwrap();
        run(std::process::Command::new("lvm").args(["lvchange", "--activate=n", &renamed.to_string()]))
            .unwrap();
        lvm.run(&LvOp::Activate(renamed.clone())).unwrap();
        let file = std::fs::File::options().write(true).open(renamed.device()).unwrap();
        assert_eq!(lvm.lv_of(&file).as_ref(), Some(&renamed));
        std::os::unix::fs::FileExt::write_all_at(&file, &[1; 65536], 0).unwrap();
        file.sync_all().unwrap();
        assert!(lvm.discard(&renamed).is_ok(), "an open device is not held exclusively: it can be discarded");
        drop(file);
        assert_eq!(lvm.run(&LvOp::Figures(vec![renamed.clone()])).unwrap()[0].data_percent, Some(0.0));
        lvm.run(&LvOp::Remove(vec![renamed])).unwrap();
    }
}
