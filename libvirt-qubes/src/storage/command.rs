//! Running somebody else's program: with a deadline, ended with its children, and with what it has said.

use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// A child that does not outlive this: killed with its group, and waited for. It was started with a group of its own.
#[derive(Debug)]
pub(super) struct Watched(pub(super) Child);

impl Watched {
    pub(super) fn kill(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            let group = rustix::process::Pid::from_child(&self.0);
            if let Err(e) = rustix::process::kill_process_group(group, rustix::process::Signal::KILL) {
                tracing::warn!(error = %e, "cannot kill a command");
            }
            if let Err(e) = self.0.wait() {
                tracing::warn!(error = %e, "cannot wait for a command");
            }
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) status: ExitStatus,
    pub(super) out: Vec<u8>,
    pub(super) errors: Vec<u8>,
}

/// Why there is no [`Output`].
#[derive(Debug)]
pub(super) enum Failed {
    /// It could not be started, or not be listened to.
    Broken(io::Error),
    /// It had not ended in time, and was killed.
    TimedOut,
}

/// Runs a command with a process group of its own to its end, or kills it after `limit`. Of each of its outputs the
/// first `most` bytes are kept.
pub(super) fn output(command: &mut Command, limit: Duration, most: usize) -> Result<Output, Failed> {
    output_on(command, b"", limit, most)
}

/// The same, with what it reads: at most as much as a pipe holds.
pub(super) fn output_on(
    command: &mut Command,
    input: &[u8],
    limit: Duration,
    most: usize,
) -> Result<Output, Failed> {
    let until = Instant::now() + limit;
    let left = || until.saturating_duration_since(Instant::now());
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    let piped = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Watched(piped.spawn().map_err(Failed::Broken)?);
    if let Some(mut stdin) = child.0.stdin.take() {
        match stdin.write_all(input) {
            // It ended without reading all; its status says why.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
            written => written.map_err(Failed::Broken)?,
        }
    }
    let (out, errors) = (child.0.stdout.take(), child.0.stderr.take());
    let (tell, told) = mpsc::channel();
    let listen = |pipe: Option<Box<dyn Read + Send>>| {
        let tell = tell.clone();
        thread::Builder::new().name("command-output".to_owned()).spawn(move || {
            let read = pipe.map_or(Ok(Vec::new()), |pipe| read_all(pipe, most));
            let (read, data) = match read {
                Ok(data) => (Ok(()), data),
                Err(e) => (Err(e), Vec::new()),
            };
            // Nobody listens any more after the deadline.
            tell.send(read).ok();
            data
        })
    };
    let out = listen(out.map(|pipe| Box::new(pipe) as Box<dyn Read + Send>)).map_err(Failed::Broken)?;
    let errors = listen(errors.map(|pipe| Box::new(pipe) as Box<dyn Read + Send>)).map_err(Failed::Broken)?;
    for _ in 0..2 {
        match told.recv_timeout(left()) {
            Ok(read) => read.map_err(Failed::Broken)?,
            Err(_) => return Err(Failed::TimedOut),
        }
    }
    // It has closed its outputs: usually it has ended.
    let status = loop {
        match child.0.try_wait().map_err(Failed::Broken)? {
            Some(status) => break status,
            None if left().is_zero() => return Err(Failed::TimedOut),
            None => thread::sleep(Duration::from_millis(2).min(left())),
        }
    };
    let data = |listener: thread::JoinHandle<Vec<u8>>| listener.join().unwrap_or_default();
    Ok(Output { status, out: data(out), errors: data(errors) })
}

/// Reads to the end, so that nobody has to wait for room in the pipe.
fn read_all(mut pipe: impl Read, most: usize) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    pipe.by_ref().take(most).read_to_end(&mut data)?;
    io::copy(&mut pipe, &mut io::sink())?;
    Ok(data)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;

    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.process_group(0).args(["-c", script]);
        command
    }

    #[test]
    fn a_command_that_makes_no_progress_is_killed_with_its_children_and_reaped() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        for script in ["sleep 1000 & wait", "exec sleep 1000 >/dev/null 2>&1"] {
            let script = format!("echo $$ > {}; {script}", pid.display());
            let ended = output(&mut sh(&script), Duration::from_secs(1), 100);
            assert!(matches!(ended, Err(Failed::TimedOut)), "{ended:?}");
            let pid = std::fs::read_to_string(&pid).unwrap();
            assert!(!std::path::Path::new("/proc").join(pid.trim()).exists(), "{pid} is not reaped");
        }
    }

    #[test]
    fn input_is_read_and_what_nobody_reads_is_no_error() {
        let ended = output_on(&mut sh("cat"), b"in", Duration::from_secs(60), 100).unwrap();
        assert_eq!(ended.out, b"in");
        let ended = output_on(&mut sh("exit 3"), &[b'x'; 4096], Duration::from_secs(60), 100).unwrap();
        assert_eq!(ended.status.code(), Some(3));
    }

    #[test]
    fn status_and_both_outputs_come_back_as_far_as_they_are_wanted() {
        let script = "echo out; echo why >&2; head -c 1000000 /dev/zero >&2; exit 5";
        let ended = output(&mut sh(script), Duration::from_secs(60), 4).unwrap();
        assert_eq!(
            (ended.status.code(), ended.out.as_slice(), ended.errors.as_slice()),
            (Some(5), b"out\n".as_slice(), b"why\n".as_slice())
        );
    }
}
