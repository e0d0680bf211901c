//! Faults in what the daemon writes, by a small library that is loaded before the C library.
//!
//! The daemon is the one that users get: no hook is compiled into it. A rule is armed while it runs, and holds for
//! what it writes from then on.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;

/// Which operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// A write to a file of the database.
    Write,
    /// A sync of one of them.
    Sync,
    /// Either.
    Any,
    /// A change of names, or a sync, in any file system: the daemon can only be killed before it.
    Step,
    /// Whatever can fail for a lack of room or a broken disk, of names and of data, in the folder that
    /// [`within`](Faults::within) has named: it can only fail.
    Change,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It fails with this number.
    Errno(i32),
    /// The daemon is killed before it.
    KilledBefore,
    /// The daemon is killed when half of it is written (a sync: before it).
    KilledHalfway,
    /// The daemon is killed after it, before it does anything else.
    KilledAfter,
}

/// The faults of a daemon, or of several that run one after another; see [`Start::faults`](crate::Start::faults).
#[derive(Debug, Clone)]
pub struct Faults {
    folder: PathBuf,
    /// Goes with the last of whoever made it.
    _own: Option<Arc<TempDir>>,
}

impl Faults {
    /// None yet. An error says why there can be none on this machine.
    pub fn new() -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("mgmt-faults-").tempdir().map_err(|e| e.to_string())?;
        let new = Self { folder: folder.path().to_owned(), _own: Some(Arc::new(folder)) };
        std::fs::write(new.path("faults.c"), include_str!("faults.c")).map_err(|e| e.to_string())?;
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let compiled = Command::new(&compiler)
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(new.path("faults.so"))
            .arg(new.path("faults.c"))
            .output()
            .map_err(|error| format!("no C compiler ({}): {error}", compiler.display()))?;
        let said = String::from_utf8_lossy(&compiled.stderr);
        assert!(compiled.status.success(), "faults.c: {said}");
        Ok(new)
    }

    /// Those that this process was started with.
    pub fn of_this_process() -> Option<Self> {
        std::env::var_os("MGMT_FAULTS").map(|folder| Self { folder: folder.into(), _own: None })
    }

    /// Names the folder in which a [`Change`](On::Change) counts; before the start of whoever makes it.
    #[must_use]
    pub fn within(self, place: &Path) -> Self {
        self.set_place(place);
        self
    }

    /// Names another one.
    pub fn set_place(&self, place: &Path) {
        std::fs::write(self.path("place"), place.to_str().unwrap()).unwrap();
    }

    /// The changes while a rule for changes was there since this was asked last, each with its path.
    pub fn changes(&self) -> Vec<String> {
        let seen = std::fs::read_to_string(self.path("seen")).unwrap_or_default();
        self.remove("seen");
        seen.lines().map(str::to_owned).collect()
    }

    pub(crate) fn environment(&self) -> [(String, String); 2] {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        [("LD_PRELOAD".into(), text(&self.path("faults.so"))), ("MGMT_FAULTS".into(), text(&self.folder))]
    }

    /// Arms a rule: the `nth` such operation from now on (0: each one) has that fate.
    pub fn arm(&self, on: On, nth: u32, fate: Fate) {
        let on = match on {
            On::Write => "write",
            On::Sync => "sync",
            On::Any => "any",
            On::Step => "step",
            On::Change => "change",
        };
        let fate = match fate {
            Fate::Errno(number) => format!("errno {number}"),
            Fate::KilledBefore => "before".into(),
            Fate::KilledHalfway => "half".into(),
            Fate::KilledAfter => "after".into(),
        };
        // A new file each time: its number is how the library knows a new rule.
        let new = self.path("rule.new");
        std::fs::write(&new, format!("{on} {nth} {fate}\n")).unwrap();
        std::fs::rename(new, self.path("rule")).unwrap();
    }

    /// Takes the rule back.
    pub fn disarm(&self) {
        self.remove("rule");
    }

    /// Makes every sync of the database wait until [`Faults::release`].
    pub fn hold(&self) {
        std::fs::write(self.path("hold"), "").unwrap();
    }

    /// Lets what waits go on.
    pub fn release(&self) {
        self.remove("hold");
    }

    /// How many syncs of the database were begun so far.
    pub fn syncs(&self) -> u64 {
        std::fs::metadata(self.path("syncs")).map_or(0, |file| file.len())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn remove(&self, name: &str) {
        match std::fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{name}: {error}"),
            _ => {}
        }
    }
}
