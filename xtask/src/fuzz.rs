//! `cargo xtask fuzz`: the fuzz targets of `tests/fuzz` under libFuzzer, on the toolchain that is there.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::setup::{self, Need};
use crate::{cmd, workspace};

/// Runs one target, or each.
pub(crate) fn run(target: Option<&str>, seconds: u64) -> Result<ExitCode> {
    let folder = workspace::root().join("tests/fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).context("the targets")?;
    let all = targets(&manifest);
    let chosen = match target {
        None => all,
        Some(target) if all.contains(&target) => vec![target],
        Some(target) => bail!("no target {target}; there are {}", all.join(", ")),
    };
    setup::ensure(&[Need::Fuzz])?;
    let cargo_fuzz = cargo_fuzz()?;
    let scratch = scratch();
    std::fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    let mut failed = Vec::new();
    for target in chosen {
        println!("\n=== {target}");
        if let Err(error) = cmd::run(&mut fuzz(&cargo_fuzz, &folder, &scratch, target, seconds)?) {
            eprintln!("{error:#}");
            failed.push(target);
        }
    }
    workspace::remove(&scratch)?;
    println!();
    if failed.is_empty() {
        println!("xtask fuzz: nothing found");
        return Ok(ExitCode::SUCCESS);
    }
    println!("xtask fuzz: found something with {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

/// Where targets make their files: in memory, where that can be.
fn scratch() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { workspace::target().join("fuzz") };
    parent.join(format!("mgmt-fuzz-{}", std::process::id()))
}

fn fuzz(cargo_fuzz: &Path, folder: &Path, scratch: &Path, target: &str, seconds: u64) -> Result<Command> {
    let here = workspace::target().join("fuzz");
    let (corpus, artifacts) = (here.join("corpus").join(target), here.join("artifacts").join(target));
    for made in [&corpus, &artifacts] {
        std::fs::create_dir_all(made).with_context(|| format!("cannot make {}", made.display()))?;
    }
    let mut command = Command::new(cargo_fuzz);
    command
        // libFuzzer's coverage takes compiler flags that are not stable yet.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("TMPDIR", scratch)
        // A fuzz target is Rust that may not be unsafe: there is nothing for a sanitizer to find in it.
        .args(["fuzz", "run", "--sanitizer", "none", "--fuzz-dir"])
        .arg(folder)
        .arg("--target-dir")
        .arg(here.join("build"))
        .arg(target)
        .arg(&corpus)
        .arg("--")
        .args(["-max_len=4096", "-timeout=30"])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()));
    Ok(command)
}

/// The names of the manifest's targets, in its order.
fn targets<'a>(manifest: &'a str) -> Vec<&'a str> {
    let name =
        |table: &'a str| table.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    manifest.split("[[bin]]").skip(1).filter_map(name).collect()
}

/// The program, installed by Cargo if it is not there.
fn cargo_fuzz() -> Result<PathBuf> {
    let find = || {
        let own = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let own = own.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
        Some(own.join("bin/cargo-fuzz")).filter(|file| file.is_file())
    };
    if let Some(found) = cmd::which("cargo-fuzz").or_else(find) {
        return Ok(found);
    }
    println!("installing: cargo-fuzz");
    cmd::run(Command::new("cargo").args(["install", "--locked", "cargo-fuzz"]))?;
    cmd::which("cargo-fuzz").or_else(find).context("cargo-fuzz was installed, but is not found")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_targets_are_those_of_the_manifest() {
        let manifest = "[package]\nname = \"mgmt-fuzz\"\n\n[[bin]]\nname = \"header\"\npath = \"x\"\n\n[[bin]]\nname = \"event\"\n";
        assert_eq!(targets(manifest), ["header", "event"]);
        let own = std::fs::read_to_string(workspace::root().join("tests/fuzz/Cargo.toml")).unwrap();
        assert!(targets(&own).contains(&"call"));
    }
}
