//! `cargo xtask bench`: what calls cost with 10, 1,000 and 10,000 VMs, over the socket of a release build; and what storage
//! costs against the bare operation.
//!
//! Times of one machine mean nothing elsewhere; what counts is how they grow from one size to the next within one run, and
//! how they relate to what is measured in turns with them. The tables go to standard output and into
//! `docs/performance.md`.

mod storage;
mod system;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::setup::{self, Need};
use crate::{cmd, workspace};

/// VMs, dom0 among them.
const SIZES: [usize; 3] = [10, 1_000, 10_000];

/// How often a call is made; the middle of the times counts.
const TIMES: usize = 200;

/// How many clients write at once, and how often each.
const CLIENTS: usize = 64;
const ROUNDS: usize = 10;

const PAGE: &str = "docs/performance.md";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Calls of the daemon, on the simulator.
    Calls,
    /// Volumes on each driver. Needs root to mount file systems; LVM is measured in the testbed.
    Storage,
}

impl Part {
    const ALL: [Self; 2] = [Self::Calls, Self::Storage];

    /// The lines of the page between which its table stands.
    fn marks(self) -> [String; 2] {
        let name = match self {
            Self::Calls => "calls",
            Self::Storage => "storage",
        };
        ["begin", "end"].map(|mark| format!("<!-- cargo xtask bench {name}: {mark} -->"))
    }
}

/// What was measured with one number of VMs.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    import: Duration,
    start: Duration,
    list: Duration,
    get_all: Duration,
    get: Duration,
    set: Duration,
    /// One of many at once.
    set_shared: Duration,
    /// Both.
    create_remove: Duration,
}

/// A row of the table: its name, and the figure.
type Row = (&'static str, fn(&Figures) -> Duration);

const ROWS: [Row; 8] = [
    ("`mgmtd import`", |figures| figures.import),
    ("start to ready", |figures| figures.start),
    ("`vm.List`, every VM", |figures| figures.list),
    ("`vm.property.GetAll`, one VM", |figures| figures.get_all),
    ("`vm.property.Get`", |figures| figures.get),
    ("`vm.property.Set`, durable", |figures| figures.set),
    ("the same, 64 clients at once, each", |figures| figures.set_shared),
    ("`vm.Create.AppVM` and `vm.Remove`", |figures| figures.create_remove),
];

/// Measures one part or each, prints, and writes the page.
pub(crate) fn run(part: Option<Part>) -> Result<ExitCode> {
    for part in Part::ALL.into_iter().filter(|of| part.is_none_or(|part| part == *of)) {
        let table = match part {
            Part::Calls => calls()?,
            Part::Storage => storage::table()?,
        };
        println!("\n{table}");
        let page = workspace::root().join(PAGE);
        let text = std::fs::read_to_string(&page).with_context(|| format!("cannot read {PAGE}"))?;
        std::fs::write(&page, with_table(&text, part, &format!("{table}\n{}\n", machine()))?)?;
        println!("written to {PAGE}");
    }
    Ok(ExitCode::SUCCESS)
}

fn calls() -> Result<String> {
    setup::ensure(&[Need::Build])?;
    let mgmtd = build()?;
    let folder = workspace::target().join("bench");
    let mut measured = Vec::new();
    for size in SIZES {
        workspace::remove(&folder)?;
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        println!("{size} VMs");
        measured.push(measure(&mgmtd, &folder, size).with_context(|| format!("with {size} VMs"))?);
    }
    workspace::remove(&folder)?;
    Ok(table(&measured))
}

/// The daemon as it is shipped, but for libxl, which the simulator does not need.
fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    cmd::run(
        Command::new(cargo)
            .current_dir(workspace::root())
            .args(["build", "--release", "-p", "mgmt-rpc", "--bin", "mgmtd"])
            .args(["--no-default-features", "--features", "qubes"]),
    )?;
    Ok(workspace::target().join("release/mgmtd"))
}

fn measure(mgmtd: &Path, folder: &Path, size: usize) -> Result<Figures> {
    let file = folder.join("qubes.xml");
    for pool in ["pool", "kernels"] {
        std::fs::create_dir_all(folder.join(pool)).with_context(|| format!("cannot make {pool}"))?;
    }
    std::fs::write(&file, system::qubes_xml(size, folder))?;
    let daemon = |folder: &Path| {
        let mut command = Command::new(mgmtd);
        command.args(["--hypervisor", "sim", "--config", "/dev/null", "--log", "error", "--state"]);
        command.arg(folder.join("state")).arg("--socket").arg(folder.join("socket"));
        command
    };
    let begun = Instant::now();
    cmd::run(
        Command::new(mgmtd)
            .args(["--config", "/dev/null", "--state"])
            .arg(folder.join("state"))
            .arg("import")
            .arg(&file),
    )?;
    let import = begun.elapsed();
    // The first start has the disk's cache to fill.
    drop(Running::start(daemon(folder))?);
    let mut starts = Vec::new();
    for _ in 0..4 {
        starts.push(Running::start(daemon(folder))?.took);
    }
    let running = Running::start(daemon(folder))?;
    let socket = folder.join("socket");
    let call = |request: &str| call(&socket, request);
    let listed = call("admin.vm.List+ dom0 name dom0\0")?;
    let lines = listed.iter().filter(|byte| **byte == b'\n').count();
    if lines != size {
        bail!("{lines} VMs after the import");
    }
    let vm = system::some_vm(size);
    // There are 10,000 numbers for VMs.
    call(&format!("admin.vm.Remove+ dom0 name {}\0", system::some_vm(size - 1)))?;
    let mut number = 400;
    let figures = Figures {
        import,
        start: middle(starts),
        list: timed(|| call("admin.vm.List+ dom0 name dom0\0"))?,
        get_all: timed(|| call(&format!("admin.vm.property.GetAll+ dom0 name {vm}\0")))?,
        get: timed(|| call(&format!("admin.vm.property.Get+memory dom0 name {vm}\0")))?,
        set: timed(|| {
            number += 1;
            call(&format!("admin.vm.property.Set+memory dom0 name {vm}\0{number}"))
        })?,
        set_shared: at_once(&socket, &vm)?,
        create_remove: timed(|| {
            call("admin.vm.Create.AppVM+template-1 dom0 name dom0\0name=new label=red")?;
            call("admin.vm.Remove+ dom0 name new\0")
        })?,
    };
    drop(running);
    Ok(figures)
}

/// A daemon that is ready; it is killed when this goes.
struct Running {
    child: Child,
    took: Duration,
}

impl Running {
    fn start(mut command: Command) -> Result<Self> {
        let begun = Instant::now();
        let mut child =
            command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().context("cannot start mgmtd")?;
        let errors = child.stderr.take().context("no standard error")?;
        let mut said = String::new();
        for line in BufReader::new(errors).lines() {
            let line = line?;
            if line.starts_with("mgmtd: ready on ") {
                return Ok(Self { took: begun.elapsed(), child });
            }
            said.push_str(&line);
            said.push('\n');
        }
        bail!("mgmtd did not get ready:\n{said}")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One call; an answer other than OK is an error.
fn call(socket: &Path, request: &str) -> Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket).context("cannot connect")?;
    stream.write_all(request.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if !answer.starts_with(b"0\0") {
        bail!("{}: {}", request.escape_debug(), answer.escape_ascii());
    }
    Ok(answer)
}

fn timed(mut once: impl FnMut() -> Result<Vec<u8>>) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let begun = Instant::now();
        once()?;
        times.push(begun.elapsed());
    }
    Ok(middle(times))
}

/// The time of all divided by their number.
fn at_once(socket: &Path, vm: &str) -> Result<Duration> {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                scope.spawn(move || -> Result<()> {
                    for round in 0..ROUNDS {
                        let value = 1000 + client * ROUNDS + round;
                        call(socket, &format!("admin.vm.property.Set+memory dom0 name {vm}\0{value}"))?;
                    }
                    Ok(())
                })
            })
            .collect();
        clients
            .into_iter()
            .try_for_each(|client| client.join().unwrap_or_else(|_| bail!("a client's thread ended")))
    })?;
    let calls = u32::try_from(CLIENTS * ROUNDS)?;
    Ok(begun.elapsed() / calls)
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Times, and in brackets how many times those of the first size they are.
fn table(measured: &[Figures]) -> String {
    let mut text = String::from("| |");
    for size in SIZES {
        text.push_str(&format!(" {size} VMs |"));
    }
    text.push_str("\n| --- |");
    text.push_str(&" --- |".repeat(SIZES.len()));
    text.push('\n');
    for (name, figure) in ROWS {
        text.push_str(&format!("| {name} |"));
        let first = measured.first().map(figure).unwrap_or_default().as_secs_f64();
        for figures in measured {
            let time = figure(figures).as_secs_f64();
            let ratio = if first > 0.0 { time / first } else { 0.0 };
            text.push_str(&format!(" {:.3} ms (×{ratio:.1}) |", time * 1e3));
        }
        text.push('\n');
    }
    text
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo");
    let processor = processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let processor = processor.map_or("unknown", |(_, name)| name);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    format!("Measured on {processors} × {processor}, load {load}.")
}

/// The page with a new table between the part's marks.
fn with_table(page: &str, part: Part, table: &str) -> Result<String> {
    let [begin, end] = part.marks();
    let (before, rest) = page.split_once(&begin).with_context(|| format!("{PAGE} has no line {begin}"))?;
    let (_, after) = rest.split_once(&end).with_context(|| format!("{PAGE} has no line {end}"))?;
    Ok(format!("{before}{begin}\n{table}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_replaces_the_one_before_and_nothing_else() {
        let own = std::fs::read_to_string(workspace::root().join(PAGE)).unwrap();
        for part in Part::ALL {
            let [begin, end] = part.marks();
            let page = format!("before\n{begin}\nold\n{end}\nafter\n");
            let expected = format!("before\n{begin}\nnew\n{end}\nafter\n");
            assert_eq!(with_table(&page, part, "new\n").unwrap(), expected);
            assert!(with_table("no marks", part, "new").is_err());
            assert!(with_table(&own, part, "").is_ok());
        }
    }

    #[test]
    fn times_are_shown_beside_how_they_grow() {
        let figures = |ms| Figures { get: Duration::from_millis(ms), ..Figures::default() };
        let table = table(&[figures(2), figures(3), figures(8)]);
        assert!(
            table.contains("| `vm.property.Get` | 2.000 ms (×1.0) | 3.000 ms (×1.5) | 8.000 ms (×4.0) |\n"),
            "{table}"
        );
    }
}
