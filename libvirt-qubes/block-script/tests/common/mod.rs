//! What both test files need.

use std::path::Path;
use std::time::{Duration, Instant};

use mgmt_block::{Status, find};

/// Whether this process may attach loop devices; prints why a test is left out if not.
pub(crate) fn loop_devices_usable(test: &str) -> bool {
    let why = if !rustix::process::geteuid().is_root() {
        "not root"
    } else if !Path::new("/dev/loop-control").exists() {
        "no /dev/loop-control (module loop)"
    } else {
        return true;
    };
    println!("skipped: {test}: {why}");
    false
}

/// Whether no such device is attached, or only until somebody who looks at it now (another test) closes it.
pub(crate) fn none_left(wanted: impl Fn(&Status) -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(5);
    while !find(&wanted).unwrap().is_empty() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}
