//! What a run of the testbed is given, and what comes back.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::folder::Folder;

/// One boot of the testbed.
pub(crate) struct Job {
    /// Files of the host and their names below dom0's `/files`, where they can only be read.
    pub(crate) files: Vec<(PathBuf, String)>,
    /// Files to be made: their names below `/share`, and what is in them.
    pub(crate) texts: Vec<(String, String)>,
    /// A bash script that runs in dom0 as root, in `/share`, which the host reads too.
    pub(crate) script: String,
    /// Limit for boot and script together.
    pub(crate) timeout: Duration,
    pub(crate) memory: Memory,
    pub(crate) clock: Clock,
    /// Sizes in bytes of empty virtio disks: the first carries `/pool`, the others are `/dev/vdb` and so on: for tests that want a
    /// disk of their own.
    pub(crate) disks: Vec<u64>,
}

/// What the machine's clock goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    /// The host's time. On a busy host a Linux guest with hardware virtualisation can get its next tick before it is done with the
    /// last one, and stand still; or die of one that comes while QEMU leaves or enters it.
    Host,
    /// Instructions, of 4 ns each; the host's time while none runs. Ticks come as often in the machine's work on a busy
    /// host as on an idle one. The machine's processors share one thread: it takes up to three times as long.
    Instructions,
}

/// Memory in MiB.
pub(crate) struct Memory {
    /// Of the whole emulated machine.
    pub(crate) machine: u32,
    /// Of that, dom0's.
    pub(crate) dom0: u32,
}

impl Default for Job {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            texts: Vec::new(),
            script: String::new(),
            timeout: Duration::from_mins(10),
            memory: Memory { machine: 4096, dom0: 1024 },
            clock: Clock::Host,
            disks: vec![8 << 30, 8 << 30],
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The script ended with this status.
    Exited(i32),
    /// dom0 was not ready in time.
    NotBooted(Duration),
    /// The script did not end in time.
    TimedOut(Duration),
    /// dom0 said that it cannot work, and why.
    Failed(String),
    /// The machine ended by itself before the script did.
    Died,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exit status {status}"),
            Self::NotBooted(limit) => write!(f, "dom0 was not ready after {} s", limit.as_secs()),
            Self::TimedOut(limit) => write!(f, "not at its end after {} s", limit.as_secs()),
            Self::Failed(reason) => write!(f, "dom0 gave up: {reason}"),
            Self::Died => write!(f, "the machine ended before the script did"),
        }
    }
}

/// What a run brought back. The run's folder goes with it.
pub(crate) struct Outcome {
    pub(crate) end: End,
    /// The serial line: Xen's and dom0's own messages.
    pub(crate) console: String,
    /// From QEMU's start till dom0 was ready, and till the end.
    pub(crate) booted: Option<Duration>,
    pub(crate) took: Duration,
    pub(super) folder: Folder,
}

impl Outcome {
    /// The file that the script left at `name` below `/share`.
    pub(crate) fn file(&self, name: &str) -> Result<String> {
        let path = self.folder.share().join(name);
        let bytes = std::fs::read(&path).with_context(|| format!("the run left no {name}"))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The console's last lines, for a person who asks why.
    pub(crate) fn tail(&self) -> String {
        tail(&self.console, 40)
    }
}

fn tail(console: &str, count: usize) -> String {
    let clean = |line: &str| line.chars().filter(|c| !c.is_control()).collect::<String>();
    let lines: Vec<_> = console.lines().map(clean).filter(|line| !line.trim().is_empty()).collect();
    lines.iter().skip(lines.len().saturating_sub(count)).map(|line| format!("  | {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_last_lines_without_control_characters() {
        assert_eq!(tail("one\r\n\r\n\x1b[0mtwo\r\nthree", 2), "  | [0mtwo\n  | three\n");
        assert_eq!(tail("", 2), "");
    }
}
