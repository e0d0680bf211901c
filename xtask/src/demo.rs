//! `cargo xtask demo`: the life of a VM through the daemon, as a transcript.
//!
//! The steps are data. They become one bash script, which runs here on the simulated hypervisor or, the same one, in
//! the testbed's dom0 on a real Xen.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::setup::{self, Need};
use crate::testbed::{End, Job, Testbed};
use crate::{cmd, workspace};

/// On what the demo is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// The simulated hypervisor of this machine.
    Sim,
    /// The real Xen of the testbed.
    Xen,
}

/// One step of the demo.
enum Step {
    /// What comes now, for the reader.
    Say(&'static str),
    /// A command of the CLI, shown with its answer. A step that fails ends the demo. Words of the shell: `$ROOT_IMAGE`
    /// (a disk image), `$STATE` (the daemon's state), `$KERNEL` (a folder with a kernel; real Xen only).
    Mgmt(&'static str),
    /// A command of the CLI that the daemon refuses, shown with the reason.
    Refused(&'static str),
    /// A command of dom0, shown with its output.
    Shell(&'static str),
    /// Waits up to four minutes (Xen is emulated) until the command succeeds; shows only the last.
    Until(&'static str),
    /// A step on one kind of host alone.
    Only(Host, &'static Step),
}

const STEPS: &[Step] = &[
    Step::Say("A new host: dom0, eight labels, two pools, and nothing else"),
    Step::Mgmt("info"),
    Step::Mgmt("vm list"),
    Step::Mgmt("call mgmt.pool.List dom0"),
    Step::Only(Host::Xen, &Step::Say("A kernel for its VMs is a folder in the pool of kernels")),
    Step::Only(Host::Xen, &Step::Shell("cp -r $KERNEL $STATE/vm-kernels/linux")),
    Step::Say("A template, made of a disk image that is streamed to the default pool"),
    Step::Mgmt("call mgmt.vm.CreateTemplate dom0 base < $ROOT_IMAGE"),
    Step::Only(Host::Xen, &Step::Mgmt("call mgmt.vm.property.Set base kernel < <(printf linux)")),
    Step::Only(
        Host::Xen,
        &Step::Mgmt(
            "call mgmt.vm.property.Set base kernelopts < <(printf 'console=hvc0 quiet mitigations=off mgmt.name=work')",
        ),
    ),
    Step::Only(Host::Xen, &Step::Mgmt("call mgmt.vm.property.Set base virt_mode < <(printf pv)")),
    Step::Mgmt("call mgmt.vm.property.Set base memory < <(printf 200)"),
    Step::Mgmt("call mgmt.vm.property.Set base maxmem < <(printf 200)"),
    Step::Say("A VM on it"),
    Step::Mgmt("call mgmt.vm.Create.AppVM dom0 base < <(printf 'name=work label=red')"),
    Step::Mgmt("call mgmt.vm.property.Set work vcpus < <(printf 1)"),
    Step::Mgmt("vm start work"),
    Step::Mgmt("vm list"),
    Step::Only(Host::Xen, &Step::Shell("xl list")),
    Step::Only(Host::Xen, &Step::Say("The guest mounts its root and tells its name")),
    Step::Only(Host::Xen, &Step::Until("grep GUEST-UP /var/log/xen/guest-work.log")),
    Step::Say("It is paused, and goes on"),
    Step::Mgmt("vm pause work"),
    Step::Mgmt("call mgmt.vm.CurrentState work"),
    Step::Only(Host::Xen, &Step::Shell("xl list work")),
    Step::Mgmt("vm unpause work"),
    Step::Only(Host::Xen, &Step::Shell("xl list work")),
    Step::Say("It is given a disk, and the disk is taken again"),
    Step::Shell("truncate -s 4M $DISK"),
    Step::Mgmt("call mgmt.vm.device.block.Attach work dom0+$DISK"),
    Step::Mgmt("call mgmt.vm.device.block.List work"),
    Step::Only(Host::Xen, &Step::Until("grep 'GUEST-DISK + xvdi' /var/log/xen/guest-work.log")),
    Step::Mgmt("call mgmt.vm.device.block.Detach work dom0+$DISK"),
    Step::Mgmt("call mgmt.vm.device.block.List work"),
    Step::Say("What is wrong is said"),
    Step::Refused("vm remove work"),
    Step::Refused("call mgmt.vm.device.block.Attach work dom0+/no/such/file"),
    Step::Say("It shuts down, starts again, is killed and removed"),
    Step::Mgmt("vm shutdown work"),
    Step::Until("mgmt vm list | grep 'work.*Halted'"),
    Step::Only(Host::Xen, &Step::Shell("xl list")),
    Step::Mgmt("vm start work"),
    Step::Only(Host::Xen, &Step::Shell("xl list work")),
    Step::Mgmt("vm kill work"),
    Step::Mgmt("vm list"),
    Step::Only(Host::Xen, &Step::Shell("xl list")),
    Step::Mgmt("vm remove work"),
    Step::Mgmt("vm remove base"),
    Step::Mgmt("vm list"),
    Step::Only(Host::Xen, &Step::Shell("xl list; losetup --list")),
];

/// Builds the programs and plays the demo.
pub(crate) fn run(host: Host) -> Result<ExitCode> {
    setup::ensure(&[Need::Build])?;
    let mut build = cmd::program("cargo");
    build.current_dir(workspace::root()).args(["build", "-q", "--workspace", "--bins", "--exclude", "xtask"]);
    println!("building: {}", cmd::line(&build));
    cmd::run(&mut build)?;
    let folder = workspace::target().join("debug");
    let status = match host {
        Host::Sim => here(&folder)?,
        Host::Xen => in_the_testbed(&folder)?,
    };
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)))
}

/// The programs that the demo uses.
const PROGRAMS: [&str; 4] = ["mgmtd", "mgmt", "mgmt-qrexec", "mgmt-block"];

fn here(programs: &Path) -> Result<i32> {
    let script = format!("bin={}\n{}", cmd::quote(&programs.to_string_lossy()), script(Host::Sim));
    let mut command = Command::new("bash");
    let status = command.args(["-c", &script]).status().context("cannot start bash")?;
    status.code().context("the demo was ended by a signal")
}

fn in_the_testbed(programs: &Path) -> Result<i32> {
    let testbed = Testbed::prepare()?;
    let file = |name: &str| -> (PathBuf, String) { (programs.join(name), format!("bin/{name}")) };
    let job = Job {
        files: PROGRAMS.map(file).to_vec(),
        script: format!("bin=$MGMT_BIN_DIR\n{}", script(Host::Xen)),
        timeout: Duration::from_mins(10),
        ..Job::default()
    };
    println!("booting Xen in the testbed ...");
    let outcome = testbed.run(&job)?;
    let End::Exited(status) = outcome.end else {
        eprint!("{}", outcome.tail());
        bail!("{} (the whole console: {})", outcome.end, testbed.console_log().display());
    };
    Ok(status)
}

/// What comes before the steps: the daemon in a state of its own. `$bin` is set.
const START: &str = r#"
export PATH="$bin:$PATH"
STATE=$(mktemp -d) || exit 1
DISK=$STATE-disk.img
SOCKET=$STATE/socket
clean_up() {
    status=$?
    trap - EXIT
    if kill -TERM "$daemon" 2>/dev/null; then
        wait "$daemon"
        ended=$?
        printf '\nmgmtd ended with status %s\n' $ended
        [ $status != 0 ] || status=$ended
    fi
    [ $status = 0 ] || sed 's/^/mgmtd: /' "$STATE/log"
    rm -rf "$STATE" "$DISK"
    exit $status
}
trap clean_up EXIT

say() {
    printf '\n# %s\n' "$1"
}
show() {
    printf '\n$ %s\n' "$1"
    eval "$1" || { printf 'failed with status %s\n' $?; exit 1; }
}
refused() {
    printf '\n$ %s\n' "$1"
    eval "$1" 2>&1 && { echo 'this should have been refused'; exit 1; }
    [ $? = 1 ] || { echo 'this is no refusal'; exit 1; }
}
until_true() {
    local end=$((SECONDS + 240)) answer
    printf '\n$ %s\n' "$1"
    until answer=$(eval "$1"); do
        [ $SECONDS -lt $end ] || { printf 'not true after 240 s\n'; exit 1; }
        sleep 0.2
    done
    printf '%s\n' "$answer"
}
mgmt() {
    command mgmt --socket "$SOCKET" "$@"
}

say "mgmtd --hypervisor $hypervisor --state $STATE --socket $SOCKET"
mgmtd --hypervisor "$hypervisor" --state "$STATE" --socket "$SOCKET" 2>"$STATE/log" </dev/null &
daemon=$!
until grep 'mgmtd: ready' "$STATE/log"; do
    kill -0 $daemon 2>/dev/null || { echo 'mgmtd ended'; exit 1; }
    sleep 0.1
done
"#;

const IMAGE_HERE: &str = "ROOT_IMAGE=$STATE/image\ntruncate -s 16M \"$ROOT_IMAGE\"\n";
const IMAGE_THERE: &str = "ROOT_IMAGE=$MGMT_GUESTS/root.img KERNEL=$MGMT_GUESTS/linux\n";

/// The whole script.
fn script(host: Host) -> String {
    let (hypervisor, image) = match host {
        Host::Sim => ("sim", IMAGE_HERE),
        Host::Xen => ("libxl", IMAGE_THERE),
    };
    let mut script = format!("hypervisor={hypervisor}\n{START}{image}");
    for step in STEPS {
        step.write(host, &mut script);
    }
    script
}

impl Step {
    fn write(&self, host: Host, script: &mut String) {
        let (function, text) = match self {
            Self::Say(text) => ("say", (*text).to_owned()),
            Self::Mgmt(words) => ("show", format!("mgmt {words}")),
            Self::Refused(words) => ("refused", format!("mgmt {words}")),
            Self::Shell(line) => ("show", (*line).to_owned()),
            Self::Until(line) => ("until_true", (*line).to_owned()),
            Self::Only(only, step) => {
                if *only == host {
                    step.write(host, script);
                }
                return;
            }
        };
        script.push_str(&format!("{function} {}\n", cmd::quote(&text)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_scripts_are_bash_and_differ_by_their_own_steps() {
        for host in [Host::Sim, Host::Xen] {
            cmd::output(Command::new("bash").args(["-n", "-c", &script(host)])).unwrap();
        }
        assert!(script(Host::Xen).contains("show 'xl list'") && !script(Host::Sim).contains("xl list"));
    }
}
