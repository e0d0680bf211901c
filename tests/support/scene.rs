//! What tests of VMs do again and again.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use crate::{Answer, Daemon};

/// Everything that lies below a folder, by its path in it.
pub fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The folder of the first start's pool.
pub fn pool(daemon: &Daemon) -> PathBuf {
    daemon.state().join("varlibqubes")
}

/// What only a running VM has: working copies, snapshots, unfinished steps.
pub fn left_over(daemon: &Daemon) -> Vec<String> {
    let working = |name: &String| {
        name.contains("dirty") || name.contains('~') || name.contains("import") || name.contains("volatile")
    };
    files(&pool(daemon)).into_iter().filter(working).collect()
}

/// Lets `mgmtd doctor` examine a state that no daemon uses: nothing may be wrong with it.
pub fn examine(state: &Path) {
    let mut doctor = std::process::Command::new(crate::binary("mgmtd"));
    let examined = doctor.arg("--state").arg(state).arg("doctor").output().unwrap();
    assert!(examined.status.success(), "{}", String::from_utf8_lossy(&examined.stdout));
}

/// Makes the template `base`.
pub fn template(daemon: &Daemon) {
    assert_eq!(daemon.call("mgmt.vm.CreateTemplate", "dom0", "base", b"a root image").ok(), "");
}

/// Makes an AppVM based on it.
pub fn create(daemon: &Daemon, name: &str) {
    let payload = format!("name={name} label=red");
    assert_eq!(daemon.call("mgmt.vm.Create.AppVM", "dom0", "base", payload.as_bytes()).ok(), "");
}

/// A VM's state.
pub fn state(daemon: &Daemon, name: &str) -> String {
    let line = daemon.call("mgmt.vm.List", name, "", b"").ok();
    line.trim_end().rsplit_once("state=").unwrap().1.to_owned()
}

/// The names of all VMs.
pub fn names(daemon: &Daemon) -> Vec<String> {
    let list = daemon.call("mgmt.vm.List", "dom0", "", b"").ok();
    list.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

/// Starts a VM.
pub fn start(daemon: &Daemon, name: &str) {
    assert_eq!(daemon.call("mgmt.vm.Start", name, "", b"").ok(), "");
}

/// Makes a call while others are made.
pub fn in_background(
    daemon: &Daemon,
    method: &str,
    vm: &str,
    argument: &str,
    payload: &[u8],
) -> JoinHandle<Answer> {
    let (socket, method, vm) = (daemon.socket().clone(), method.to_owned(), vm.to_owned());
    let (argument, payload) = (argument.to_owned(), payload.to_vec());
    std::thread::spawn(move || socket.call(&method, &vm, &argument, &payload))
}

/// Waits for what events cannot be awaited for, by asking; the answers themselves wait for nothing.
pub fn until(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if is() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("this did not happen: {what}");
}
