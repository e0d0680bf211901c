//! Storage against the bare operation: the program `libvirt-qubes/benches/storage` on a file system of each sort and, in
//! the testbed's dom0, on a thin pool of LVM.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::setup::{self, Need};
use crate::testbed::{End, Job, Testbed};
use crate::{cmd, workspace};

/// A file system to measure on: its name, what makes it, and the driver.
const PLACES: [(&str, &[&str], &str); 3] = [
    ("ext4", &["mkfs.ext4", "-q", "-F"], "file"),
    ("XFS", &["mkfs.xfs", "-q", "-f", "-m", "reflink=1"], "file-reflink"),
    ("btrfs", &["mkfs.btrfs", "-q", "-f"], "file-reflink"),
];

/// Holes included.
const IMAGE: u64 = 16 << 30;

/// Boot, four hundred volumes and all measurements, emulated.
const LIMIT: Duration = Duration::from_mins(60);

/// What was measured in one place.
#[derive(Debug)]
struct Measured {
    place: String,
    rows: Vec<Row>,
}

/// A line of the program's answer.
#[derive(Debug, PartialEq)]
struct Row {
    name: String,
    ours: Duration,
    bare: Duration,
    ratio: f64,
}

/// Measures everywhere; the table.
pub(super) fn table() -> Result<String> {
    setup::ensure(&[Need::Build, Need::FileSystems])?;
    let program = build()?;
    let folder = workspace::target().join("bench");
    workspace::remove(&folder)?;
    let mut measured = Vec::new();
    for (name, mkfs, driver) in PLACES {
        println!("storage: {driver} on {name}");
        let rows = on_file_system(&program, &folder, mkfs, driver);
        measured.push(Measured { place: format!("`{driver}`, {name}"), rows: rows.with_context(|| name)? });
    }
    workspace::remove(&folder)?;
    println!("storage: lvm_thin in the testbed");
    measured.push(Measured { place: "`lvm_thin`, testbed".to_owned(), rows: in_the_testbed(&program)? });
    Ok(render(&measured))
}

/// Of the library as it is shipped, but for libxl.
fn build() -> Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace::root()).args(["bench", "--no-run", "-p", "libvirt-qubes"]);
    cargo.args(["--bench", "storage", "--no-default-features"]);
    let programs = crate::test::executables(&mut cargo, "bench")?;
    let program = programs.into_iter().find(|(name, _)| name == "storage");
    program.map(|(_, path)| path).context("Cargo built no benchmark `storage`")
}

fn on_file_system(program: &Path, folder: &Path, mkfs: &[&str], driver: &str) -> Result<Vec<Row>> {
    let (image, mount) = (folder.join("image"), folder.join("mnt"));
    std::fs::create_dir_all(&mount).with_context(|| format!("cannot make {}", mount.display()))?;
    let file = std::fs::File::create(&image).context("cannot make an image")?;
    file.set_len(IMAGE).context("cannot make an image")?;
    let (name, arguments) = mkfs.split_first().context("no mkfs")?;
    cmd::output(cmd::program(name).args(arguments).arg(&image))?;
    cmd::run(setup::as_root("mount")?.args(["-o", "loop"]).arg(&image).arg(&mount))?;
    let answer = cmd::output(setup::as_root(&program.to_string_lossy())?.arg(driver).arg(&mount));
    cmd::run(setup::as_root("umount")?.arg(&mount))?;
    workspace::remove(&image)?;
    parse(&answer?)
}

fn in_the_testbed(program: &Path) -> Result<Vec<Row>> {
    let testbed = Testbed::prepare()?;
    let job = Job {
        files: vec![(program.to_owned(), "bin/storage".to_owned())],
        script: "$MGMT_BIN_DIR/storage lvm_thin /dev/vdb | tee rows".to_owned(),
        timeout: LIMIT,
        ..Job::default()
    };
    let outcome = testbed.run(&job)?;
    if outcome.end != End::Exited(0) {
        eprint!("{}", outcome.tail());
        bail!("{} (the whole console: {})", outcome.end, testbed.console_log().display());
    }
    parse(&outcome.file("rows")?)
}

fn parse(answer: &str) -> Result<Vec<Row>> {
    let row = |line: &str| {
        let mut words = line.split('\t');
        let [name, ours, bare, ratio] = [(); 4].map(|()| words.next().unwrap_or_default());
        let time = |word: &str| word.parse().map(Duration::from_nanos);
        let (ours, bare) = (time(ours)?, time(bare)?);
        anyhow::Ok(Row { name: name.to_owned(), ours, bare, ratio: ratio.parse()? })
    };
    let rows: Vec<_> = answer
        .lines()
        .map(|line| row(line).with_context(|| format!("no row: {line}")))
        .collect::<Result<_>>()?;
    if rows.is_empty() {
        bail!("nothing was measured");
    }
    Ok(rows)
}

fn render(measured: &[Measured]) -> String {
    let mut text =
        String::from("| driver | what | ours | against it | ratio |\n| --- | --- | --- | --- | --- |\n");
    for Measured { place, rows } in measured {
        for Row { name, ours, bare, ratio } in rows {
            let [ours, bare] = [ours, bare].map(|time| time.as_secs_f64() * 1e3);
            text.push_str(&format!("| {place} | {name} | {ours:.2} ms | {bare:.2} ms | ×{ratio:.2} |\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_says_becomes_rows_of_the_table() {
        let rows = parse("clone\t2500000\t2000000\t1.260\nusage of one\t1000\t2000\t0.500\n").unwrap();
        assert_eq!(rows[1].ours, Duration::from_micros(1));
        let table = render(&[Measured { place: "`file`, ext4".to_owned(), rows }]);
        assert!(table.contains("| `file`, ext4 | clone | 2.50 ms | 2.00 ms | ×1.26 |\n"), "{table}");
        for answer in ["", "clone\t1", "clone\t1\t2\tx\n"] {
            assert!(parse(answer).is_err(), "{answer}");
        }
    }
}
