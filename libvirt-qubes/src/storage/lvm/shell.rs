//! LVM's own shell: one process that is fed commands.
//!
//! It reads a line for each command, and with the profile that LVM ships for its D-Bus daemon it answers each with
//! one object of JSON that holds the report, if there is one, and last the command's return code. That object is the
//! frame: it is complete when its braces are. The messages of a command that failed come by the command `lastlog`.
//! Reports go to standard error, so that a shell that echoes its input does no harm.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStderr, ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::op::LvOp;
use super::process;
use super::report::{Lv, Reply};
use super::runner::Failed;
use crate::storage::command::Watched;

/// Its return code of success and its name are LVM's since 2017.
const PROFILE: &str = "lvmdbusd";
/// For its first answer.
const START_LIMIT: Duration = Duration::from_secs(60);
/// LVM reads its configuration when it starts; a change of it takes effect after this time without a command.
const IDLE: Duration = Duration::from_secs(60);
/// A new process now and then: whatever the old one may have kept is gone.
const COMMANDS: u32 = 1000;

#[derive(Debug)]
pub(super) struct Shell {
    process: Watched,
    commands: Option<ChildStdin>,
    replies: Receiver<Result<Reply, String>>,
    used: Instant,
    count: u32,
}

impl Shell {
    /// # Errors
    /// Why it does not do.
    pub(super) fn start() -> Result<Self, String> {
        let mut command = process::lvm();
        command.env("LVM_COMMAND_PROFILE", PROFILE);
        command.env("LVM_REPORT_FD", "2").env("LVM_OUT_FD", "1").env("LVM_ERR_FD", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Watched(command.spawn().map_err(|e| format!("lvm: {e}"))?);
        let (commands, reports) = (process.0.stdin.take(), process.0.stderr.take());
        let (tell, replies) = mpsc::channel();
        if let Some(reports) = reports {
            std::thread::spawn(move || read(reports, &tell));
        }
        let mut shell = Self { process, commands, replies, used: Instant::now(), count: 0 };
        let hello = shell.ask("version", START_LIMIT).map_err(|e| e.to_string())?;
        if hello.succeeded() == Some(true) {
            Ok(shell)
        } else {
            Err("it does not tell return codes".to_owned())
        }
    }

    /// Time for a new one.
    pub(super) fn is_worn(&self) -> bool {
        self.count >= COMMANDS || self.used.elapsed() > IDLE
    }

    /// After `TimedOut` and `Broken` it can only be dropped.
    pub(super) fn run(&mut self, op: &LvOp, limit: Duration) -> Result<Vec<Lv>, Failed> {
        let reply = self.ask(&op.to_string(), limit)?;
        match reply.succeeded() {
            Some(true) => Ok(reply.lvs()),
            Some(false) => {
                let log = self.ask("lastlog", limit)?;
                Err(Failed::Refused(log.complaints()))
            }
            None => Err(Failed::Broken("lvm did not tell how the command ended".to_owned())),
        }
    }

    fn ask(&mut self, line: &str, limit: Duration) -> Result<Reply, Failed> {
        self.used = Instant::now();
        self.count += 1;
        let sent = match &mut self.commands {
            Some(commands) => commands.write_all(format!("{line}\n").as_bytes()),
            None => Ok(()),
        };
        sent.map_err(|e| Failed::Broken(format!("lvm takes no commands: {e}")))?;
        let reply = match self.replies.recv_timeout(limit) {
            Ok(reply) => reply.map_err(Failed::Broken),
            Err(RecvTimeoutError::Timeout) => {
                self.process.kill();
                Err(Failed::TimedOut(limit))
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(Failed::Broken("lvm ended without an answer; what it was doing may be done".to_owned()))
            }
        };
        self.used = Instant::now();
        reply
    }
}

impl Drop for Shell {
    /// Lets it end by itself: it is between two commands. One that does not is killed.
    fn drop(&mut self) {
        drop(self.commands.take());
        let until = Instant::now() + Duration::from_secs(1);
        while matches!(self.process.0.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Reads objects until the end. Lines between them are of libraries and children.
fn read(reports: ChildStderr, tell: &mpsc::Sender<Result<Reply, String>>) {
    let mut lines = BufReader::new(reports);
    let mut object = String::new();
    let mut depth = Depth::default();
    loop {
        let mut line = Vec::new();
        match lines.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line);
        if object.is_empty() && line.trim() != "{" {
            if !line.trim().is_empty() && !process::is_noise(line.trim()) {
                tracing::debug!(line = line.trim(), "lvm says");
            }
            continue;
        }
        object.push_str(&line);
        depth.add(&line);
        if depth.is_closed() {
            let reply = serde_json::from_str(&object).map_err(|e| format!("lvm answered no JSON: {e}"));
            if tell.send(reply).is_err() {
                return;
            }
            object.clear();
        }
    }
}

/// How many braces are open, outside of texts.
#[derive(Debug, Default)]
struct Depth {
    open: u32,
    in_text: bool,
    escaped: bool,
}

impl Depth {
    fn add(&mut self, text: &str) {
        for byte in text.bytes() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_text => self.escaped = true,
                b'"' => self.in_text = !self.in_text,
                b'{' if !self.in_text => self.open += 1,
                b'}' if !self.in_text => self.open = self.open.saturating_sub(1),
                _ => {}
            }
        }
    }

    fn is_closed(&self) -> bool {
        self.open == 0 && !self.in_text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_ends_where_its_braces_do() {
        let mut depth = Depth::default();
        for (line, closed) in [
            ("  {\n", false),
            (r#"  "log": [ {"log_message":"a \"} { \\"}"#, false),
            ("  ]\n", false),
            ("  }\n", true),
            ("{\n", false),
            ("}\n", true),
        ] {
            depth.add(line);
            assert_eq!(depth.is_closed(), closed, "{line}");
        }
    }
}
