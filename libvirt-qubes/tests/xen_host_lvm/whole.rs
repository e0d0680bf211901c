//! What takes too long for every run: run when a word names it.

use std::time::{Duration, Instant};

use libvirt_qubes::contract::storage::CONTRACTS;
use libvirt_qubes::ids::ByteSize;
use libvirt_qubes::storage::lvm::{LvOp, Lvm, Runner};

use crate::{MIB, disk, lv};

const LIMIT: Duration = Duration::from_secs(120);

fn keeps(name: &str) {
    let contract = CONTRACTS.iter().find(|contract| contract.name == name).unwrap();
    contract.run(&disk());
}

macro_rules! contracts {
    ($($name:ident)*) => {
        pub(crate) const TRIED: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            #[ignore = "needs the testbed's disk; run by cargo xtask test --on-xen whole::"]
            fn $name() {
                keeps(stringify!($name));
            }
        )*
    };
}

contracts! {
    a_pool_can_be_set_up_again
    a_new_volume_is_empty_and_as_large_as_asked_for
    a_volume_that_is_there_is_not_created_again
    what_a_run_wrote_is_there_after_its_stop
    a_volatile_volume_is_empty_at_each_start
    a_start_that_no_domain_used_is_taken_back
    a_volume_left_dirty_continues_on_what_it_has
    recovery_commits_what_a_crash_left
    stop_and_recovery_of_what_is_at_rest_change_nothing
    a_removed_volume_leaves_nothing_and_others_alone
    what_is_not_there_is_not_found
    a_volume_grows_and_never_shrinks
    a_running_volume_grows
    a_volume_that_is_not_written_is_not_committed
    a_snapshot_holds_its_source_and_is_dropped
    a_snapshot_keeps_what_it_took_and_knows_that_it_is_outdated
    a_source_is_free_once_its_state_is_fixed
    a_cancelled_start_leaves_nothing
    without_snapshots_a_running_volume_is_no_source
    without_snapshots_a_reader_is_not_disturbed_by_a_start
    an_export_stays_what_it_is
    only_persistent_volumes_are_exported_or_imported
    the_newest_revisions_are_kept
    a_revert_goes_back_and_keeps_what_was
    a_state_that_was_gone_back_to_is_the_newest_when_it_is_former_again
    a_kept_state_stays_until_it_is_forgotten
    former_states_are_listed_oldest_first
    a_dirty_volume_is_not_reverted
    an_import_becomes_the_state_as_a_whole
    an_import_of_unknown_length_gives_the_volume_its_size
    an_import_makes_a_volume_that_is_not_there
    what_somebody_else_writes_is_what_has_come
    a_broken_off_import_leaves_nothing
    too_much_and_too_little_data_are_refused
    an_import_excludes_what_would_disturb_it
    a_dirty_volume_takes_no_import
    a_copy_is_the_source_whatever_becomes_of_it
    a_cancelled_copy_changes_nothing
}

#[test]
#[ignore = "needs the testbed's disk; run by cargo xtask test --on-xen whole::"]
fn what_commands_cost_is_told() {
    let disk = disk();
    let pool = disk.make(64, &[]);
    let (shell, single) = (Lvm::new(LIMIT), Lvm::single(LIMIT));
    let (origin, snap) = (lv(&pool, "vm-a-root"), lv(&pool, "vm-a-root-snap"));
    let size = ByteSize::bytes(4 * MIB);
    shell.run(&LvOp::Create { lv: origin.clone(), pool: pool.clone(), size }).unwrap();
    for others in [0, 60] {
        for n in 0..others {
            shell
                .run(&LvOp::Create { lv: lv(&pool, &format!("vm-other{n}-root")), pool: pool.clone(), size })
                .unwrap();
        }
        for (name, lvm) in [("one process for all", &shell), ("a process for each", &single)] {
            let time = |op: LvOp| {
                let start = Instant::now();
                lvm.run(&op).unwrap();
                start.elapsed().as_millis()
            };
            let mut rows = Vec::new();
            for _ in 0..5 {
                rows.push([
                    time(LvOp::Names { vg: pool.vg().clone(), bases: vec!["vm-a-root".to_owned()] }),
                    time(LvOp::Figures(vec![origin.clone()])),
                    time(LvOp::Snapshot { of: origin.clone(), lv: snap.clone() }),
                    time(LvOp::Remove(vec![snap.clone()])),
                ]);
            }
            println!("{others} other LVs, {name}: ms for names, figures, snapshot, removal: {rows:?}");
        }
    }
}
