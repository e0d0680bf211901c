//! The contract of every storage driver, kept by `lvm_thin` on a real thin pool: a test for each sentence, since LVM takes
//! its time in an emulated machine.

use libvirt_qubes::contract::storage::CONTRACTS;

use crate::disk;

fn keeps(name: &str) {
    let contract = CONTRACTS.iter().find(|contract| contract.name == name).unwrap();
    contract.run(&disk());
}

macro_rules! contracts {
    ($($name:ident)*) => {
        const TRIED: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            #[ignore = "needs the testbed's disk; run by cargo xtask test"]
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
    a_kept_state_stays_until_it_is_forgotten
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
fn every_contract_has_its_test() {
    let names: Vec<&str> = CONTRACTS.iter().map(|contract| contract.name).collect();
    assert_eq!(TRIED, names);
}
