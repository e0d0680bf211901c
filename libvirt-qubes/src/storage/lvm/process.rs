//! A process of LVM's: how it is started, and what it says.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::op::LvOp;
use super::report::{Lv, Reply};
use super::runner::Failed;
use crate::said;
use crate::storage::command;

/// `lvm` with the environment that its words and numbers are read in, and in a process group of its own, so that
/// it can be ended with its children. No file but the three streams is inherited: all others are closed at exec.
pub(super) fn lvm(program: &Path) -> Command {
    let mut command = Command::new(program);
    // A home would get a history of commands.
    command.env("LC_ALL", "C.UTF-8").env("HOME", "/nonexistent").process_group(0);
    for name in ["LVM_COMMAND_PROFILE", "LVM_OUT_FD", "LVM_ERR_FD", "LVM_REPORT_FD"] {
        command.env_remove(name);
    }
    command
}

/// One process for one command.
pub(super) fn run(program: &Path, op: &LvOp, limit: Duration) -> Result<Vec<Lv>, Failed> {
    let mut command = lvm(program);
    let mut words = op.argv().into_iter();
    command.args(words.next());
    if op.is_report() {
        command.args(["--config", r#"report/time_format="%s""#]);
    }
    command.args(words);
    let ended = command::output(&mut command, limit, usize::MAX).map_err(|failed| match failed {
        command::Failed::Broken(e) => Failed::Broken(format!("lvm: {e}")),
        command::Failed::TimedOut(errors) => Failed::TimedOut { limit, said: telling(&errors) },
    })?;
    if !ended.status.success() {
        return Err(Failed::Refused(telling(&ended.errors)));
    }
    if !op.is_report() {
        return Ok(Vec::new());
    }
    let reply: Result<Reply, _> = serde_json::from_slice(&ended.out);
    reply.map(Reply::lvs).map_err(|e| Failed::Broken(format!("lvm reported no JSON: {e}")))
}

/// The lines of standard error that tell something, in one line.
fn telling(errors: &[u8]) -> String {
    said::in_one_line(errors, is_noise)
}

/// What LVM says of every thin pool that promises more than it has.
pub(super) fn is_noise(line: &str) -> bool {
    line.contains("exceeds the size of thin pool") || line.starts_with("File descriptor ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_nothing_is_left_out() {
        assert_eq!(telling(b"  File descriptor 7 leaked\n\n why \n because\n"), "why; because");
    }
}
