//! Who executes what is asked of LVM.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::names::LvName;
use super::op::LvOp;
use super::process;
use super::report::Lv;
use super::shell::{NoShell, Shell};
use crate::sys;

/// Executes commands, one after another for each caller. Tests put a model of LVM, and faults, behind it.
pub trait Runner: fmt::Debug + Send + Sync {
    /// Executes one command; a report's rows, none for a change.
    ///
    /// # Errors
    /// In LVM's own words.
    fn run(&self, op: &LvOp) -> Result<Vec<Lv>, Failed>;

    /// Where the data of an active LV is read and written.
    fn device(&self, lv: &LvName) -> PathBuf {
        lv.device()
    }

    /// The LV that an open file is, by the name that it has now.
    fn lv_of(&self, file: &File) -> Option<LvName> {
        let device = file.metadata().ok()?.rdev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let name = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/dm/name")).ok()?;
        LvName::from_mapped(name.trim_end())
    }

    /// Whether removing an LV at once could hold up the pool.
    fn is_large(&self, lv: &LvName) -> bool {
        let size = File::open(self.device(lv)).and_then(|mut device| device.seek(SeekFrom::End(0)));
        size.is_ok_and(|size| size > sys::DISCARD_STEP)
    }

    /// Gives back the blocks of an LV that nobody has open, in steps: removing a large LV at once would hold up
    /// the whole pool.
    ///
    /// # Errors
    /// If it is open, inactive, or cannot; its removal gives them back too.
    fn discard(&self, lv: &LvName) -> io::Result<()> {
        let exclusively = i32::try_from(rustix::fs::OFlags::EXCL.bits()).unwrap_or(0);
        let file = OpenOptions::new().write(true).custom_flags(exclusively).open(self.device(lv))?;
        sys::discard_device(&file)
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// LVM said no.
    #[error("{0}")]
    Refused(String),
    /// It made no progress and was killed.
    #[error("no end after {} s; killed{}{said}", limit.as_secs(), if said.is_empty() { "" } else { "; " })]
    TimedOut {
        /// The deadline.
        limit: Duration,
        /// What it had said meanwhile.
        said: String,
    },
    /// It could not be started, or went away without an answer.
    #[error("{0}")]
    Broken(String),
}

/// LVM itself: one long-lived `lvm`, fed with commands. Where its shell is not to be had, a process for each.
pub struct Lvm {
    program: PathBuf,
    limit: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Idle,
    Running(Shell),
    /// The shell does not do here.
    Single,
}

impl Lvm {
    /// Commands that take longer than `limit` are killed.
    pub fn new(limit: Duration) -> Self {
        Self::of_program("lvm".into(), limit, State::Idle)
    }

    /// With a process for each command.
    pub fn single(limit: Duration) -> Self {
        Self::of_program("lvm".into(), limit, State::Single)
    }

    /// Somebody else in the place of `lvm`.
    #[cfg(test)]
    pub(super) fn played_by(program: PathBuf, limit: Duration) -> Self {
        Self::of_program(program, limit, State::Idle)
    }

    fn of_program(program: PathBuf, limit: Duration, state: State) -> Self {
        Self { program, limit, state: Mutex::new(state) }
    }

    fn with_shell(&self, op: &LvOp, state: &mut State) -> Option<Result<Vec<Lv>, Failed>> {
        if let State::Running(shell) = state
            && shell.is_worn()
        {
            *state = State::Idle;
        }
        if let State::Idle = state {
            match Shell::start(&self.program, self.limit) {
                Ok(shell) => *state = State::Running(shell),
                Err(NoShell::Failed(why)) => return Some(Err(why)),
                Err(NoShell::Unsuited(why)) => {
                    tracing::warn!(why, "lvm's shell does not do here: a process for each command");
                    *state = State::Single;
                }
            }
        }
        let State::Running(shell) = state else { return None };
        let result = shell.run(op, self.limit);
        if matches!(result, Err(Failed::TimedOut { .. } | Failed::Broken(_))) {
            // Dropped, it is killed and waited for.
            *state = State::Idle;
        }
        Some(result)
    }
}

impl Runner for Lvm {
    fn run(&self, op: &LvOp) -> Result<Vec<Lv>, Failed> {
        tracing::debug!(command = %op, "lvm");
        // LVM takes a lock for each change of a volume group: commands side by side would only wait there.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(result) = self.with_shell(op, &mut state) {
            return result;
        }
        drop(state);
        process::run(&self.program, op, self.limit)
    }
}

impl fmt::Debug for Lvm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lvm").field("limit", &self.limit).finish_non_exhaustive()
    }
}
