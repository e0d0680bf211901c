//! LVM's own shell: one process that is fed commands.
//!
//! It reads a line for each command, and with the profile that LVM ships for its D-Bus daemon it answers each with
//! one object of JSON that holds the report, if there is one, and last the command's return code. That object is the
//! frame: it is complete when its braces are. The messages of a command that failed come by the command `lastlog`.
//! Reports go to standard error, so that a shell that echoes its input does no harm. What else it says is for the error, if
//! no answer comes.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::op::LvOp;
use super::process;
use super::report::{Lv, Reply};
use super::runner::Failed;
use crate::said;
use crate::storage::command::Watched;

/// Its return code of success and its name are LVM's since 2017.
const PROFILE: &str = "lvmdbusd";
/// For its first answer.
const START_LIMIT: Duration = Duration::from_secs(60);
/// LVM reads its configuration when it starts; a change of it takes effect after this time without a command.
const IDLE: Duration = Duration::from_secs(60);
/// A new process now and then: whatever the old one may have kept is gone.
const COMMANDS: u32 = 1000;
/// No answer is longer; a volume group's metadata is at most a few MiB.
const LONGEST: usize = 64 << 20;

#[derive(Debug)]
pub(super) struct Shell {
    process: Watched,
    commands: Option<ChildStdin>,
    replies: Receiver<Result<Reply, String>>,
    said: Said,
    used: Instant,
    count: u32,
}

/// Why there is no shell.
pub(super) enum NoShell {
    /// It does not do here.
    Unsuited(String),
    /// It may do another time.
    Failed(Failed),
}

impl Shell {
    pub(super) fn start(program: &Path, limit: Duration) -> Result<Self, NoShell> {
        let mut command = process::lvm(program);
        command.env("LVM_COMMAND_PROFILE", PROFILE);
        command.env("LVM_REPORT_FD", "2").env("LVM_OUT_FD", "1").env("LVM_ERR_FD", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let spawned = command.spawn().map_err(|e| NoShell::Unsuited(format!("lvm: {e}")))?;
        let mut process = Watched::new(spawned);
        let commands = process.child().stdin.take();
        let (words, reports) = (process.child().stdout.take(), process.child().stderr.take());
        let (tell, replies) = mpsc::channel();
        let said = Said::default();
        if let (Some(words), Some(reports)) = (words, reports) {
            let (heard, to) = (said.clone(), said.clone());
            std::thread::spawn(move || listen(words, &heard));
            std::thread::spawn(move || read(reports, &tell, &to));
        }
        let mut shell = Self { process, commands, replies, said, used: Instant::now(), count: 0 };
        match shell.ask("version", limit.min(START_LIMIT)) {
            Ok(hello) if hello.succeeded() == Some(true) => Ok(shell),
            Ok(_) => Err(NoShell::Unsuited("it does not tell return codes".to_owned())),
            Err(hung @ Failed::TimedOut { .. }) => Err(NoShell::Failed(hung)),
            Err(why) => Err(NoShell::Unsuited(why.to_string())),
        }
    }

    /// Time for a new one.
    pub(super) fn is_worn(&mut self) -> bool {
        let has_ended = !matches!(self.process.try_wait(), Ok(None));
        has_ended || self.count >= COMMANDS || self.used.elapsed() > IDLE
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
        self.said.clear();
        let sent = match &mut self.commands {
            Some(commands) => commands.write_all(format!("{line}\n").as_bytes()),
            None => Ok(()),
        };
        sent.map_err(|e| Failed::Broken(format!("lvm takes no commands: {e}")))?;
        let reply = match self.replies.recv_timeout(limit) {
            Ok(reply) => reply.map_err(|why| Failed::Broken(self.said.after(&why))),
            Err(RecvTimeoutError::Timeout) => {
                self.process.kill();
                Err(Failed::TimedOut { limit, said: self.said.after("") })
            }
            Err(RecvTimeoutError::Disconnected) => {
                let why = "lvm ended without an answer; what it was doing may be done";
                Err(Failed::Broken(self.said.after(why)))
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
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The last lines that are no answer.
#[derive(Debug, Clone, Default)]
struct Said(Arc<Mutex<VecDeque<String>>>);

impl Said {
    fn lines(&self) -> std::sync::MutexGuard<'_, VecDeque<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clear(&self) {
        self.lines().clear();
    }

    fn hear(&self, line: &str) {
        let line = line.trim();
        // The prompt comes with what was asked.
        if line.is_empty() || process::is_noise(line) || line.starts_with("lvm>") {
            return;
        }
        tracing::debug!(line, "lvm says");
        let mut lines = self.lines();
        if lines.len() == 8 {
            lines.pop_front();
        }
        lines.push_back(said::shown(line).chars().take(300).collect());
    }

    /// Why, and what was said.
    fn after(&self, why: &str) -> String {
        std::iter::once(why)
            .chain(self.lines().iter().map(String::as_str))
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
            .join("; ")
    }
}

/// A line with its end, or as much as there is until the end; `None`: the end, or a line without one.
fn line(from: &mut impl BufRead, most: usize) -> Option<String> {
    let mut line = Vec::new();
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    match from.take(most).read_until(b'\n', &mut line) {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(String::from_utf8_lossy(&line).into_owned()),
    }
}

fn listen(words: impl Read, said: &Said) {
    let mut words = BufReader::new(words);
    while let Some(line) = line(&mut words, 4096) {
        said.hear(&line);
    }
}

/// Reads objects until the end. Lines between them are of libraries and children.
fn read(reports: impl Read, tell: &mpsc::Sender<Result<Reply, String>>, said: &Said) {
    let mut lines = BufReader::new(reports);
    let mut object = String::new();
    let mut depth = Depth::default();
    while let Some(line) = line(&mut lines, LONGEST) {
        if object.is_empty() && line.trim() != "{" {
            said.hear(&line);
            continue;
        }
        if object.len() + line.len() >= LONGEST {
            // Nobody listens to this one any more.
            tell.send(Err("lvm answers without an end".to_owned())).ok();
            return;
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
