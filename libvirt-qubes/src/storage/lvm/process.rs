//! A process of LVM's: how it is started, watched and ended.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::op::LvOp;
use super::report::{Lv, Reply};
use super::runner::Failed;

/// `lvm` with the environment that its words and numbers are read in, and in a process group of its own, so that
/// it can be ended with its children. No file but the three streams is inherited: all others are closed at exec.
pub(super) fn lvm() -> Command {
    let mut command = Command::new("lvm");
    // A home would get a history of commands.
    command.env("LC_ALL", "C.UTF-8").env("HOME", "/nonexistent").process_group(0);
    for name in ["LVM_COMMAND_PROFILE", "LVM_OUT_FD", "LVM_ERR_FD", "LVM_REPORT_FD"] {
        command.env_remove(name);
    }
    command
}

/// A child that does not outlive this: killed with its group, and waited for.
#[derive(Debug)]
pub(super) struct Watched(pub(super) Child);

impl Watched {
    pub(super) fn kill(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            let group = rustix::process::Pid::from_child(&self.0);
            if let Err(e) = rustix::process::kill_process_group(group, rustix::process::Signal::KILL) {
                tracing::warn!(error = %e, "cannot kill lvm");
            }
            if let Err(e) = self.0.wait() {
                tracing::warn!(error = %e, "cannot wait for lvm");
            }
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One process for one command.
pub(super) fn run(op: &LvOp, limit: Duration) -> Result<Vec<Lv>, Failed> {
    let mut command = lvm();
    let mut words = op.argv().into_iter();
    command.args(words.next());
    if op.is_report() {
        command.args(["--config", r#"report/time_format="%s""#]);
    }
    command.args(words).stdin(Stdio::null());
    let (succeeded, out, errors) = output(&mut command, limit)?;
    if !succeeded {
        return Err(Failed::Refused(telling(&errors)));
    }
    if !op.is_report() {
        return Ok(Vec::new());
    }
    let reply: Result<Reply, _> = serde_json::from_slice(&out);
    reply.map(Reply::lvs).map_err(|e| Failed::Broken(format!("lvm reported no JSON: {e}")))
}

/// Runs a command to its end, or kills it at the deadline: success, standard output, standard error.
fn output(command: &mut Command, limit: Duration) -> Result<(bool, Vec<u8>, Vec<u8>), Failed> {
    let broken = |e: std::io::Error| Failed::Broken(format!("lvm: {e}"));
    let mut child = Watched(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(broken)?);
    let (out, errors) = (child.0.stdout.take(), child.0.stderr.take());
    let (tell, told) = mpsc::channel();
    let read_all = |pipe: Option<Box<dyn Read + Send>>| {
        let tell = tell.clone();
        std::thread::spawn(move || {
            let mut data = Vec::new();
            let read = pipe.map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut data));
            // Nobody listens any more after the deadline.
            tell.send(read.map(|_| ())).ok();
            data
        })
    };
    let out = read_all(out.map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let errors = read_all(errors.map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    for _ in 0..2 {
        match told.recv_timeout(limit) {
            Ok(read) => read.map_err(broken)?,
            Err(_) => return Err(Failed::TimedOut(limit)),
        }
    }
    let status = child.0.wait().map_err(broken)?;
    let data = |thread: std::thread::JoinHandle<Vec<u8>>| thread.join().unwrap_or_default();
    Ok((status.success(), data(out), data(errors)))
}

/// The lines of standard error that tell something, in one line.
fn telling(errors: &[u8]) -> String {
    let text = String::from_utf8_lossy(errors);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !is_noise(line));
    lines.collect::<Vec<_>>().join("; ")
}

/// What LVM says of every thin pool that promises more than it has.
pub(super) fn is_noise(line: &str) -> bool {
    line.contains("exceeds the size of thin pool") || line.starts_with("File descriptor ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_makes_no_progress_is_killed_with_its_children_and_reaped() {
        let mut command = Command::new("sh");
        command.process_group(0).args(["-c", "sleep 1000 & echo $!; wait"]);
        let limit = Duration::from_millis(300);
        assert!(matches!(output(&mut command, limit), Err(Failed::TimedOut(_))));
        // Only this process's own children are looked at.
        let left = rustix::process::waitpid(None, rustix::process::WaitOptions::NOHANG);
        assert!(!matches!(left, Ok(Some(_))), "{left:?}");
    }

    #[test]
    fn success_and_both_outputs_come_back() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo '  File descriptor 7 leaked' >&2; echo ' why ' >&2; exit 5"]);
        let (succeeded, out, errors) = output(&mut command, Duration::from_secs(60)).unwrap();
        assert_eq!(
            (succeeded, out.as_slice(), telling(&errors).as_str()),
            (false, b"out\n".as_slice(), "why")
        );
    }
}
