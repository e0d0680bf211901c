//! A program in the place of `lvm` that does not do what it should.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::op::LvOp;
use super::runner::{Failed, Lvm, Runner};
use super::{LvName, LvmDriver, Tuning};
use crate::error::Kind;
use crate::storage::Driver;

/// It speaks as LVM's shell does, and does with commands what the file `mode` beside it says.
const SCRIPT: &str = r#"#!/bin/sh
dir=${0%/*}
echo $$ >> "$dir/shells"
echo $$ >> "$dir/pids"
good='{"log_type":"status","log_object_type":"cmd","log_ret_code":"1"}'
reply() { printf '{\n"report": [{"lv": [%s]}],\n"log": [%s]\n}\n' "$1" "$good" >&2; }
while read -r line; do
    mode=$(cat "$dir/mode")
    case $mode:$line in
        deaf:*) sleep 1000 & echo $! >> "$dir/pids"; wait ;;
        *:version) reply ;;
        good:*) reply '{"lv_name":"a"}' ;;
        hangs:*) echo 'waits for nobody' >&2; echo 'and never ends'; sleep 1000 & echo $! >> "$dir/pids"; wait ;;
        dies:*) echo 'cannot go on' >&2; printf '{\n"report": [\n' >&2; exit 3 ;;
        garbage:*) echo 'what is this' >&2; printf '{\nno JSON\n}\n' >&2 ;;
        floods:*) printf '{\n' >&2; exec tr '\0' x < /dev/zero >&2 ;;
    esac
done
"#;

struct Played {
    dir: tempfile::TempDir,
}

impl Played {
    fn new() -> Self {
        let played = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::write(played.dir.path().join("shells"), "").unwrap();
        // By another process: what this one writes it could not execute while some other test forks.
        let script = "cat > \"$1\" && chmod 700 \"$1\"";
        let mut writer = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(played.program())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        writer.stdin.take().unwrap().write_all(SCRIPT.as_bytes()).unwrap();
        assert!(writer.wait().unwrap().success());
        played.does("good");
        played
    }

    fn program(&self) -> std::path::PathBuf {
        self.dir.path().join("lvm")
    }

    fn does(&self, mode: &str) {
        std::fs::write(self.dir.path().join("mode"), mode).unwrap();
    }

    fn numbers(&self, file: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join(file)).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// None of all that were started runs any more. A child of the one that was killed is reaped by somebody else.
    fn assert_gone(&self) {
        let runs = |pid: &String| {
            let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
            stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
        };
        for _ in 0..1000 {
            if !self.numbers("pids").iter().any(runs) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("some of {:?} run", self.numbers("pids"));
    }
}

fn pool() -> LvName {
    LvName::new("qubes".parse().unwrap(), "pool00").unwrap()
}

fn all() -> LvOp {
    LvOp::All("qubes".parse().unwrap())
}

#[test]
fn whatever_lvm_does_the_error_says_it_and_the_next_command_has_a_new_process() {
    let played = Played::new();
    for (mode, wanted) in [
        ("hangs", vec!["no end after 1 s; killed", "waits for nobody", "and never ends"]),
        ("dies", vec!["ended without an answer", "cannot go on"]),
        ("garbage", vec!["answered no JSON", "what is this"]),
        ("floods", vec!["without an end"]),
    ] {
        let limit = if mode == "hangs" { Duration::from_secs(1) } else { Duration::from_secs(60) };
        let lvm = Lvm::played_by(played.program(), limit);
        let before = played.numbers("shells").len();
        assert_eq!(lvm.run(&all()).unwrap()[0].name, "a");
        assert_eq!(lvm.run(&all()).unwrap()[0].name, "a");
        assert_eq!(played.numbers("shells").len(), before + 1, "one process for both");
        played.does(mode);
        let failed = lvm.run(&all()).unwrap_err();
        assert_eq!(matches!(failed, Failed::TimedOut { .. }), mode == "hangs", "{mode}: {failed:?}");
        assert!(!matches!(failed, Failed::Refused(_)), "{mode}: {failed:?}");
        for words in wanted {
            assert!(failed.to_string().contains(words), "{mode}: {failed}");
        }
        played.assert_gone();
        played.does("good");
        assert_eq!(lvm.run(&all()).unwrap()[0].name, "a", "{mode}");
        assert_eq!(played.numbers("shells").len(), before + 2, "{mode}");
        drop(lvm);
        played.assert_gone();
    }
}

#[test]
fn a_process_that_ended_between_two_commands_fails_none() {
    let played = Played::new();
    let lvm = Lvm::played_by(played.program(), Duration::from_secs(60));
    lvm.run(&all()).unwrap();
    let pid: i32 = played.numbers("shells")[0].parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    // It is ours to reap: dead, it stays a zombie.
    let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
    while !std::fs::read_to_string(&stat).unwrap().contains(") Z ") {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(lvm.run(&all()).unwrap()[0].name, "a");
}

#[test]
fn one_that_does_not_even_greet_is_tried_again_and_the_error_names_the_command() {
    let played = Played::new();
    played.does("deaf");
    let lvm = Lvm::played_by(played.program(), Duration::from_secs(1));
    let driver = LvmDriver::with_runner(pool(), Tuning::default(), Arc::new(lvm));
    let error = driver.setup().unwrap_err();
    assert_eq!(error.kind(), Kind::TimedOut);
    assert!(error.report().contains("lvs: no end after 1 s; killed"), "{}", error.report());
    played.assert_gone();
    played.does("good");
    // An answer, though of no thin pool.
    assert_eq!(driver.setup().unwrap_err().kind(), Kind::NotFound);
    assert_eq!(played.numbers("shells").len(), 2);
}
