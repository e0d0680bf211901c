//! Running somebody else's program: with a deadline, ended with its children, and with what it has said.

use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// A child that does not outlive this: killed with its group, and waited for. It was started with a group of its own.
#[derive(Debug)]
pub(super) struct Watched {
    child: Child,
    /// Its number may be somebody else's.
    is_reaped: bool,
}

impl Watched {
    pub(super) fn new(child: Child) -> Self {
        Self { child, is_reaped: false }
    }

    /// Its streams.
    pub(super) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// How it ended, if it has: from then on its group is not killed any more.
    pub(super) fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let ended = self.child.try_wait()?;
        self.is_reaped = ended.is_some();
        Ok(ended)
    }

    /// With its group: also where it has ended by itself and left children behind.
    pub(super) fn kill(&mut self) {
        if self.is_reaped {
            return;
        }
        let group = rustix::process::Pid::from_child(&self.child);
        if let Err(e) = rustix::process::kill_process_group(group, rustix::process::Signal::KILL) {
            tracing::warn!(error = %e, "cannot kill a command");
        }
        match self.child.wait() {
            Ok(_) => self.is_reaped = true,
            Err(e) => tracing::warn!(error = %e, "cannot wait for a command"),
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Between two looks at whether a command is still wanted.
const LOOK: Duration = Duration::from_millis(100);

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
    /// It had not ended in time, and was killed. With what it had written to standard error.
    TimedOut(Vec<u8>),
}

/// Runs a command with a process group of its own to its end, or kills it after `limit`. Of each of its outputs the
/// first `most` bytes are kept.
pub(super) fn output(command: &mut Command, limit: Duration, most: usize) -> Result<Output, Failed> {
    output_on(command, b"", limit, most)
}

/// The same; it is killed as soon as nobody wants it any more, as at its deadline.
pub(super) fn output_while(
    command: &mut Command,
    limit: Duration,
    most: usize,
    is_wanted: &dyn Fn() -> bool,
) -> Result<Output, Failed> {
    run(command, b"", limit, most, is_wanted)
}

/// The same, with what it reads: at most as much as a pipe holds.
pub(super) fn output_on(
    command: &mut Command,
    input: &[u8],
    limit: Duration,
    most: usize,
) -> Result<Output, Failed> {
    run(command, input, limit, most, &|| true)
}

fn run(
    command: &mut Command,
    input: &[u8],
    limit: Duration,
    most: usize,
    is_wanted: &dyn Fn() -> bool,
) -> Result<Output, Failed> {
    let until = Instant::now() + limit;
    let left = || if is_wanted() { until.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    let piped = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watched = Watched::new(piped.spawn().map_err(Failed::Broken)?);
    if let Some(mut stdin) = watched.child().stdin.take() {
        match stdin.write_all(input) {
            // It ended without reading all; its status says why.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
            written => written.map_err(Failed::Broken)?,
        }
    }
    let (tell, told) = mpsc::channel();
    let out = listen(watched.child().stdout.take(), most, &tell).map_err(Failed::Broken)?;
    let errors = listen(watched.child().stderr.take(), most, &tell).map_err(Failed::Broken)?;
    drop(tell);
    // It has closed its outputs: usually it has ended.
    match follow(&mut watched, &told, &left) {
        Ok(Some(status)) => Ok(Output { status, out: taken(&out), errors: taken(&errors) }),
        Ok(None) => {
            watched.kill();
            // What it wrote last is on its way.
            while told.recv_timeout(Duration::from_millis(100)).is_ok() {}
            Err(Failed::TimedOut(taken(&errors)))
        }
        Err(e) => Err(Failed::Broken(e)),
    }
}

/// Waits for the end of both outputs, then of the process. `None`: not in time.
fn follow(
    watched: &mut Watched,
    told: &mpsc::Receiver<io::Result<()>>,
    left: &dyn Fn() -> Duration,
) -> io::Result<Option<ExitStatus>> {
    let mut open = 2;
    while open > 0 {
        match told.recv_timeout(left().min(LOOK)) {
            Ok(read) => {
                read?;
                open -= 1;
            }
            Err(mpsc::RecvTimeoutError::Timeout) if !left().is_zero() => {}
            Err(_) => return Ok(None),
        }
    }
    loop {
        match watched.try_wait()? {
            None if left().is_zero() => return Ok(None),
            None => thread::sleep(Duration::from_millis(2).min(left())),
            ended => return Ok(ended),
        }
    }
}

/// What was read of an output so far.
type Heard = Arc<Mutex<Vec<u8>>>;

fn taken(heard: &Heard) -> Vec<u8> {
    std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Reads an output to its end on a thread of its own, and keeps its first `most` bytes.
fn listen(
    pipe: Option<impl Read + Send + 'static>,
    most: usize,
    tell: &mpsc::Sender<io::Result<()>>,
) -> io::Result<Heard> {
    let heard = Heard::default();
    let (to, tell) = (Arc::clone(&heard), tell.clone());
    thread::Builder::new().name("command-output".to_owned()).spawn(move || {
        let read = pipe.map_or(Ok(()), |pipe| read_all(pipe, most, &to));
        // Nobody listens any more after the deadline.
        tell.send(read).ok();
    })?;
    Ok(heard)
}

/// Reads to the end, so that nobody has to wait for room in the pipe.
fn read_all(mut pipe: impl Read, most: usize, to: &Heard) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = match pipe.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        let mut heard = to.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = read.min(most.saturating_sub(heard.len()));
        heard.extend_from_slice(buffer.get(..wanted).unwrap_or_default());
    }
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
            assert!(matches!(ended, Err(Failed::TimedOut(_))), "{ended:?}");
            let pid = std::fs::read_to_string(&pid).unwrap();
            assert!(!std::path::Path::new("/proc").join(pid.trim()).exists(), "{pid} is not reaped");
        }
    }

    #[test]
    fn children_of_one_that_has_ended_are_killed_too_and_what_was_said_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("echo waits for nobody >&2; sleep 1000 & echo $! > {}", pid.display());
        let ended = output(&mut sh(&script), Duration::from_secs(1), 100);
        let Err(Failed::TimedOut(said)) = ended else { panic!("{ended:?}") };
        assert_eq!(said, b"waits for nobody\n");
        let pid = std::fs::read_to_string(&pid).unwrap();
        // Whoever is its parent now reaps it.
        let stat = format!("/proc/{}/stat", pid.trim());
        let runs = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        while runs() {
            thread::sleep(Duration::from_millis(5));
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
