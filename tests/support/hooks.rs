//! A pool whose hooks wait, or fail, for as long as a test says: what is slow is held up where it is, however fast the
//! machine.

use std::path::{Path, PathBuf};

use crate::scene::until;
use crate::{Daemon, Start};

/// Which hook is run for which volume is noted. A file names the hook that is to wait, another the one that is to fail.
const HOOK: &str = r#"#!/bin/sh
here="$(dirname "$0")"
echo "$3 $6" >> "$here/log"
while [ -e "$here/hold-$3" ]; do touch "$here/held"; sleep 0.02; done
[ ! -e "$here/fail-$3" ] || { echo 'as a test wants it' >&2; exit 1; }
"#;

/// The pool `hooked`: driver `callback` around driver `file`, whose snapshots are copies.
#[derive(Debug)]
pub struct Hooked(tempfile::TempDir);

impl Hooked {
    /// In a folder of its own; the daemon is to be started as [`start`](Self::start) says.
    #[expect(clippy::new_without_default, reason = "it makes a folder")]
    pub fn new() -> Self {
        let new = Self(tempfile::tempdir().unwrap());
        std::fs::write(new.at("hook"), HOOK).unwrap();
        let json = format!(
            r#"{{"c": {{"bdriver": "file", "bdriver_args": {{"dir_path": "{}", "cow": "copy"}}, "cmd": "sh {}"}}}}"#,
            new.path().display(),
            new.at("hook").display()
        );
        std::fs::write(new.at("callback.json"), json).unwrap();
        new
    }

    fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// How a daemon is started that can have this pool; with these keys of `[storage]` besides.
    pub fn start(&self, storage: &str) -> Start {
        let config = self.config();
        Start::new()
            .config(&format!("[storage]\ncallback_config = {:?}\n{storage}", config.to_str().unwrap()))
    }

    /// The file that says what the pool is.
    pub fn config(&self) -> PathBuf {
        self.at("callback.json")
    }

    /// Adds the pool.
    pub fn add(&self, daemon: &Daemon) {
        let added = daemon.call("mgmt.pool.Add", "dom0", "callback", b"name=hooked\nconf_id=c\n");
        assert_eq!(added.ok(), "");
    }

    /// Where its volumes lie.
    pub fn path(&self) -> PathBuf {
        self.at("pool")
    }

    /// From now on this hook waits.
    pub fn hold(&self, hook: &str) {
        drop(std::fs::remove_file(self.at("held")));
        std::fs::write(self.at(format!("hold-{hook}")), "").unwrap();
    }

    /// Waits until something waits in a hook that is held.
    pub fn wait_until_held(&self) {
        until("a hook waits", || self.at("held").exists());
    }

    /// Lets what waits in this hook go on.
    pub fn release(&self, hook: &str) {
        std::fs::remove_file(self.at(format!("hold-{hook}"))).unwrap();
    }

    /// From now on this hook fails.
    pub fn fail(&self, hook: &str) {
        std::fs::write(self.at(format!("fail-{hook}")), "").unwrap();
    }

    /// It succeeds again.
    pub fn mend(&self, hook: &str) {
        std::fs::remove_file(self.at(format!("fail-{hook}"))).unwrap();
    }

    /// The command lines of the hooks that run.
    pub fn processes(&self) -> Vec<String> {
        let hook = self.at("hook");
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let line = std::fs::read(entry.unwrap().path().join("cmdline")).ok()?;
            Some(String::from_utf8_lossy(&line).replace('\0', " "))
        });
        processes.filter(|line| line.contains(hook.to_str().unwrap())).collect()
    }

    /// How often this hook was run for a volume of this name.
    pub fn runs(&self, hook: &str, volume: &str) -> usize {
        let log = std::fs::read_to_string(self.at("log")).unwrap_or_default();
        log.lines().filter(|line| *line == format!("{hook} {volume}")).count()
    }
}
