//! Every target is this file: the entry that has the target's name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mgmt_tests::fuzz::entry;

fuzz_target!(
    init: entry(env!("CARGO_BIN_NAME")).plant(),
    |bytes: &[u8]| (entry(env!("CARGO_BIN_NAME")).run)(bytes)
);
