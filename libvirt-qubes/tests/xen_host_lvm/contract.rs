//! The contract of every storage driver, kept by `lvm_thin` on a real thin pool. LVM takes its time in an emulated machine: what every
//! run tries is the sentences that ask most of LVM and that no VM of another test shows; `whole` has a test for each.

use std::time::Instant;

use libvirt_qubes::contract::storage::CONTRACTS;

use crate::disk;

fn keep(names: &[&str]) {
    let disk = disk();
    for name in names {
        let contract = CONTRACTS.iter().find(|contract| contract.name == *name).unwrap();
        let start = Instant::now();
        contract.run(&disk);
        println!("{name}: {} ms", start.elapsed().as_millis());
    }
}

#[test]
#[ignore = "needs the testbed's disk; run by cargo xtask test"]
fn starts_former_states_and_imports_keep_the_contract() {
    keep(&[
        "a_start_that_no_domain_used_is_taken_back",
        "a_volume_left_dirty_continues_on_what_it_has",
        "an_export_stays_what_it_is",
        "a_revert_goes_back_and_keeps_what_was",
        "an_import_of_unknown_length_gives_the_volume_its_size",
    ]);
}

#[test]
fn every_contract_has_its_test() {
    let names: Vec<&str> = CONTRACTS.iter().map(|contract| contract.name).collect();
    assert_eq!(crate::whole::TRIED, names);
}
