//! Devices of device-mapper over files, on the kernel's own. Needs root and device-mapper; run by `cargo xtask test` in the
//! testbed's dom0.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends at the first surprise"
)]

#[path = "xen_host_dm/snapshot.rs"]
mod snapshot;
#[path = "xen_host_dm/whole.rs"]
mod whole;

use std::process::Command;

/// Standard output of a command that succeeds.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The devices that are ours.
fn devices() -> Vec<String> {
    let list = output("dmsetup", &["info", "-c", "--noheadings", "-o", "name"]);
    list.lines()
        .map(str::trim)
        .filter(|name| name.starts_with("mgmt-") || name.contains("-crypt@"))
        .map(str::to_owned)
        .collect()
}

/// Files that are attached to loop devices; one that is being released may be listed for a moment.
fn attached() -> Vec<String> {
    let list = || output("losetup", &["-n", "-O", "BACK-FILE"]);
    for _ in 0..50 {
        if list().is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    list().lines().map(str::to_owned).collect()
}
