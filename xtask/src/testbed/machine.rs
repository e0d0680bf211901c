//! The emulated machine: QEMU's command line, and waiting for what dom0 reports through the share.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::folder::Folder;
use super::image::Image;
use super::job::{Clock, End, Job, Memory};
use crate::cmd;

/// dom0 is ready after 6 to 9 s on an idle machine, and after minutes where others want the same two cores.
const BOOT_LIMIT: Duration = Duration::from_mins(5);
const LOOK: Duration = Duration::from_millis(50);

/// QEMU's processor has neither RDRAND nor nested paging by default: without the one, each `xl create` waits seconds
/// for entropy; without the other, there are no PVH guests.
const PROCESSOR: &str = "qemu64,+svm,+npt,+rdrand";
/// No comma: QEMU parts multiboot modules by it.
const DOM0_OPTIONS: &str = "console=hvc0 quiet mitigations=off random.trust_cpu=on";

/// Where the serial line goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Serial {
    /// To a file, with no input.
    Log,
    /// To this program's terminal.
    Terminal,
}

/// The command line for QEMU. It dies with this program.
pub(crate) fn command(
    image: &Image,
    memory: &Memory,
    clock: Clock,
    folder: &Folder,
    disks: &[PathBuf],
    serial: Serial,
) -> Command {
    let dom0 = memory.dom0;
    let mut command = cmd::program("setpriv");
    command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
    // never `kvm:tcg`: Xen does not start on every KVM there is
    match clock {
        Clock::Host => command.args(["-accel", "tcg,thread=multi"]),
        // one instruction is 2^2 ns
        Clock::Instructions => command.args(["-accel", "tcg,thread=single", "-icount", "shift=2,sleep=on"]),
    };
    command.args(["-machine", "pc", "-cpu", PROCESSOR, "-smp", "2"]);
    command.args(["-m", &format!("{}M", memory.machine), "-display", "none", "-nic", "none", "-no-reboot"]);
    command.arg("-kernel").arg(&image.xen);
    command.args([
        "-append",
        // without `max`, or without dom0_mem, dom0 takes everything
        &format!(
            "console=com1 com1=115200,8n1 dom0_mem={dom0}M,max:{dom0}M loglvl=warning guest_loglvl=warning bootscrub=0"
        ),
    ]);
    command.arg("-initrd");
    command.arg(format!("{} {DOM0_OPTIONS},{}", comma(&image.kernel), comma(&image.initramfs)));
    for (tag, path, options) in [("share", folder.share(), ""), ("files", folder.files(), ",readonly=on")] {
        let path = comma(&path);
        command.args(["-fsdev", &format!("local,id={tag},path={path},security_model=none{options}")]);
        command.args(["-device", &format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}")]);
    }
    command.args(["-device", "virtio-rng-pci"]);
    for disk in disks {
        command
            .arg("-drive")
            .arg(format!("file={},format=raw,if=virtio,cache=unsafe,discard=unmap", comma(disk)));
    }
    match serial {
        Serial::Log => command.args(["-serial", "stdio"]),
        Serial::Terminal => command.args([
            "-chardev",
            "stdio,id=c,mux=on,signal=off",
            "-serial",
            "chardev:c",
            "-mon",
            "chardev=c",
        ]),
    };
    command
}

/// QEMU takes a doubled comma for one.
fn comma(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// A running machine, killed when dropped.
struct Machine(Child);

impl Machine {
    fn start(command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("cannot start `{}`", cmd::line(command)))?;
        Ok(Self(child))
    }

    fn has_ended(&mut self) -> Result<bool> {
        Ok(self.0.try_wait().context("cannot wait for QEMU")?.is_some())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_)))
            && let Err(error) = self.0.kill().and_then(|()| self.0.wait())
        {
            eprintln!("xtask: cannot end QEMU: {error}");
        }
    }
}

/// When things happened, and how it ended.
pub(super) struct Run {
    pub(super) end: End,
    pub(super) booted: Option<Duration>,
    pub(super) took: Duration,
}

/// Boots and waits; what the script prints is printed here as it comes.
pub(super) fn run(command: &mut Command, folder: &Folder, job: &Job) -> Result<Run> {
    let console = File::create(folder.console()).context("cannot write the console's log")?;
    let errors = console.try_clone().context("cannot write the console's log")?;
    let start = Instant::now();
    let mut machine = Machine::start(command.stdin(Stdio::null()).stdout(console).stderr(errors))?;
    let share = folder.share();
    let mut output = Follow::new(share.join("output"));
    let mut booted = None;
    let end = loop {
        // in this order: what was written before the end is then seen
        let ended = machine.has_ended()?;
        output.print_more()?;
        if booted.is_none() && share.join("started").exists() {
            booted = Some(start.elapsed());
        }
        if ended {
            break reported(&share);
        }
        if booted.is_none() && start.elapsed() > BOOT_LIMIT.min(job.timeout) {
            break End::NotBooted(BOOT_LIMIT.min(job.timeout));
        }
        if start.elapsed() > job.timeout {
            break End::TimedOut(job.timeout);
        }
        sleep(LOOK);
    };
    drop(machine);
    output.print_more()?;
    Ok(Run { end, booted, took: start.elapsed() })
}

/// Boots with the console on this terminal and waits for the end.
pub(super) fn attend(command: &mut Command, share: &Path) -> Result<End> {
    let status = command.status().with_context(|| format!("cannot start `{}`", cmd::line(command)))?;
    Ok(if status.success() { reported(share) } else { End::Died })
}

fn reported(share: &Path) -> End {
    if let Ok(reason) = fs::read_to_string(share.join("failed")) {
        return End::Failed(reason.trim().to_owned());
    }
    let status = fs::read_to_string(share.join("exit")).ok().and_then(|text| text.trim().parse().ok());
    status.map_or(End::Died, End::Exited)
}

/// A file that grows.
struct Follow {
    path: PathBuf,
    file: Option<File>,
}

impl Follow {
    fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    /// Prints what has come since the last call.
    fn print_more(&mut self) -> Result<()> {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut more = Vec::new();
        file.read_to_end(&mut more).with_context(|| format!("cannot read {}", self.path.display()))?;
        let mut out = std::io::stdout().lock();
        out.write_all(&more).and_then(|()| out.flush()).context("cannot write to standard output")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(clock: Clock, serial: Serial, disks: &[PathBuf]) -> Vec<String> {
        let image = Image::at(Path::new("/t/a,b"));
        let memory = Memory { machine: 2048, dom0: 512 };
        let place = std::env::temp_dir().join(format!(
            "xtask-{:?}-{}",
            std::thread::current().id(),
            std::process::id()
        ));
        let folder = Folder::create(&place).unwrap();
        let command = command(&image, &memory, clock, &folder, disks, serial);
        drop(folder);
        fs::remove_dir(&place).unwrap();
        command.get_args().map(|word| word.to_string_lossy().into_owned()).collect()
    }

    fn value(arguments: &[String], flag: &str) -> String {
        let at = arguments.iter().position(|word| word == flag).unwrap();
        arguments[at + 1].clone()
    }

    #[test]
    fn the_machine_is_emulated_and_dom0s_memory_is_bounded() {
        let arguments = arguments(Clock::Host, Serial::Log, &[]);
        assert_eq!(value(&arguments, "-accel"), "tcg,thread=multi");
        assert_eq!(value(&arguments, "-m"), "2048M");
        assert!(value(&arguments, "-append").contains("dom0_mem=512M,max:512M"));
        assert!(
            arguments.contains(&"-no-reboot".to_owned())
                && !value(&arguments, "-append").contains("noreboot")
        );
        assert!(!arguments.contains(&"-drive".to_owned()));
    }

    #[test]
    fn a_clock_that_counts_instructions_wants_one_thread() {
        let arguments = arguments(Clock::Instructions, Serial::Log, &[]);
        assert_eq!(value(&arguments, "-accel"), "tcg,thread=single");
        assert_eq!(value(&arguments, "-icount"), "shift=2,sleep=on");
    }

    #[test]
    fn the_one_single_comma_between_modules_parts_kernel_and_initramfs() {
        let modules = value(&arguments(Clock::Host, Serial::Log, &[]), "-initrd");
        let single = modules.replace(",,", "");
        assert_eq!(single.matches(',').count(), 1, "{modules}");
        assert!(
            modules.starts_with("/t/a,,b/vmlinux console=hvc0 ")
                && modules.ends_with("/t/a,,b/initramfs.cpio")
        );
    }

    #[test]
    fn disks_are_attached_in_order_and_the_terminal_gets_a_monitor() {
        let arguments = arguments(Clock::Host, Serial::Terminal, &["/d0".into(), "/d1".into()]);
        let drives: Vec<_> = arguments.iter().filter(|word| word.starts_with("file=")).collect();
        assert!(drives[0].starts_with("file=/d0,") && drives[1].starts_with("file=/d1,"));
        assert_eq!(value(&arguments, "-mon"), "chardev=c");
    }

    #[test]
    fn an_end_is_read_from_what_dom0_left() {
        let share = std::env::temp_dir().join(format!("xtask-share-{}", std::process::id()));
        fs::create_dir_all(&share).unwrap();
        assert_eq!(reported(&share), End::Died);
        fs::write(share.join("exit"), "7\n").unwrap();
        assert_eq!(reported(&share), End::Exited(7));
        fs::write(share.join("failed"), "no share\n").unwrap();
        assert_eq!(reported(&share), End::Failed("no share".to_owned()));
        fs::remove_dir_all(&share).unwrap();
    }
}
