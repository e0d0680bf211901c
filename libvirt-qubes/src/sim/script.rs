//! The script: rules written by a person, in TOML, as the module `sim` describes.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::record::GuestAct;
use super::rules::Rule;
use crate::error::{At, Error, Kind, Op, Result};
use crate::hypervisor::ShutdownReason;
use crate::ids::Vdev;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    #[serde(default)]
    rule: Vec<Written>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default = "everyone")]
    vm: String,
    step: Step,
    times: Option<u32>,
    percent: Option<u8>,
    delay_ms: Option<u64>,
    #[serde(default)]
    hang: bool,
    fail: Option<Fail>,
    #[serde(default)]
    deaf: bool,
    poweroff_after_ms: Option<u64>,
    reboot_after_ms: Option<u64>,
    crash_after_ms: Option<u64>,
    write: Option<Write>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fail {
    kind: FailKind,
    text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Write {
    vdev: Vdev,
    #[serde(default)]
    offset: u64,
    text: String,
    #[serde(default)]
    after_ms: u64,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Step {
    Create,
    Pause,
    Unpause,
    Shutdown,
    Destroy,
    AttachDisk,
    DetachDisk,
    Service,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum FailKind {
    NotFound,
    AlreadyExists,
    Busy,
    Invalid,
    Unsupported,
    Denied,
    NoMemory,
    NoSpace,
    TimedOut,
    Cancelled,
    Unavailable,
    Io,
    Corrupt,
    Backend,
}

fn everyone() -> String {
    "*".into()
}

/// Reads a script. Blocks on its file.
pub(super) fn read(path: &Path) -> Result<Vec<Rule>> {
    let text = std::fs::read_to_string(path).at(Op::OpenHypervisor, path.display())?;
    parse(&text).map_err(|why| Error::new(Kind::Invalid, Op::OpenHypervisor, path.display()).because(why))
}

/// The rules of a script, or what is wrong with it and where.
fn parse(text: &str) -> Result<Vec<Rule>, String> {
    let script: Script = toml::from_str(text).map_err(|error| error.to_string())?;
    let number = |index: usize| index.saturating_add(1);
    script
        .rule
        .into_iter()
        .enumerate()
        .map(|(index, written)| written.rule().map_err(|why| format!("rule number {}: {why}", number(index))))
        .collect()
}

impl Written {
    fn rule(self) -> Result<Rule, String> {
        let op = self.step.op();
        let plain = Rule::at(op);
        let mut rule = plain.clone();
        if self.hang {
            rule = rule.hang();
        }
        if self.deaf {
            if self.step != Step::Shutdown {
                return Err("deaf belongs to the step shutdown".into());
            }
            rule = rule.deaf();
        }
        if let Some(ms) = self.delay_ms {
            rule = rule.delay(Duration::from_millis(ms));
        }
        if let Some(fail) = self.fail {
            rule = rule.fail(fail.kind.kind(), fail.text);
        }
        let endings = [
            (self.poweroff_after_ms, ShutdownReason::Poweroff),
            (self.reboot_after_ms, ShutdownReason::Reboot),
            (self.crash_after_ms, ShutdownReason::Crash),
        ];
        let endings = endings.into_iter().filter_map(|(ms, reason)| Some((ms?, GuestAct::ShutDown(reason))));
        let writes = self
            .write
            .map(|Write { vdev, offset, text, after_ms }| (after_ms, GuestAct::Write { vdev, offset, text }));
        for (ms, act) in endings.chain(writes) {
            if matches!(self.step, Step::Destroy | Step::Pause | Step::Service) {
                return Err("a guest does nothing after the steps pause, destroy and service".into());
            }
            rule = rule.guest(Duration::from_millis(ms), act);
        }
        if rule == plain {
            return Err("it says nothing of what happens".into());
        }
        if self.vm != "*" {
            rule = rule.vm(self.vm.parse().map_err(|bad| format!("vm '{}': {bad}", self.vm))?);
        }
        if let Some(times) = self.times {
            rule = rule.times(times);
        }
        match self.percent {
            Some(percent @ 0..=100) => Ok(rule.percent(percent)),
            Some(percent) => Err(format!("percent = {percent} is more than 100")),
            None => Ok(rule),
        }
    }
}

impl Step {
    fn op(self) -> Op {
        match self {
            Self::Create => Op::CreateDomain,
            Self::Pause => Op::PauseDomain,
            Self::Unpause => Op::UnpauseDomain,
            Self::Shutdown => Op::ShutdownDomain,
            Self::Destroy => Op::DestroyDomain,
            Self::AttachDisk => Op::AttachDisk,
            Self::DetachDisk => Op::DetachDisk,
            Self::Service => Op::CallService,
        }
    }
}

impl FailKind {
    fn kind(self) -> Kind {
        match self {
            Self::NotFound => Kind::NotFound,
            Self::AlreadyExists => Kind::AlreadyExists,
            Self::Busy => Kind::Busy,
            Self::Invalid => Kind::Invalid,
            Self::Unsupported => Kind::Unsupported,
            Self::Denied => Kind::Denied,
            Self::NoMemory => Kind::NoMemory,
            Self::NoSpace => Kind::NoSpace,
            Self::TimedOut => Kind::TimedOut,
            Self::Cancelled => Kind::Cancelled,
            Self::Unavailable => Kind::Unavailable,
            Self::Io => Kind::Io,
            Self::Corrupt => Kind::Corrupt,
            Self::Backend => Kind::Backend,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_says_the_same_as_rules_made_in_code() {
        let script = r#"
            [[rule]]
            vm = "work"
            step = "create"
            times = 1
            delay_ms = 20
            fail = { kind = "no-memory", text = "all gone" }
            [[rule]]
            step = "unpause"
            percent = 5
            crash_after_ms = 7
            write = { vdev = "xvdb", offset = 512, text = "hello", after_ms = 3 }
        "#;
        let write = GuestAct::Write { vdev: "xvdb".parse().unwrap(), offset: 512, text: "hello".into() };
        let expected = vec![
            Rule::at(Op::CreateDomain)
                .vm("work".parse().unwrap())
                .times(1)
                .delay(Duration::from_millis(20))
                .fail(Kind::NoMemory, "all gone"),
            Rule::at(Op::UnpauseDomain)
                .percent(5)
                .guest(Duration::from_millis(7), GuestAct::ShutDown(ShutdownReason::Crash))
                .guest(Duration::from_millis(3), write),
        ];
        assert_eq!(parse(script).unwrap(), expected);
    }

    #[test]
    fn what_is_wrong_with_a_script_is_said_with_its_place() {
        for (script, words) in [
            ("[[rule]]\nstep = \"create\"\n\n\n", "rule number 1: it says nothing of what happens"),
            ("[[rule]]\nstep = \"craete\"\nhang = true", "line 2"),
            ("[[rule]]\nstep = \"create\"\nhangs = true", "line 3"),
            ("[[rule]]\nstep = \"create\"\nhang = true\nvm = \"a/b\"", "vm 'a/b'"),
            ("[[rule]]\nstep = \"create\"\nhang = true\npercent = 101", "more than 100"),
            ("[[rule]]\nstep = \"create\"\ndeaf = true", "deaf belongs to the step shutdown"),
            ("[[rule]]\nstep = \"destroy\"\ncrash_after_ms = 1", "does nothing after"),
        ] {
            let error = parse(script).unwrap_err();
            assert!(error.contains(words), "{script}: {error}");
        }
    }
}
