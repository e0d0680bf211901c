//! The testbed: Xen and a dom0 in an emulated machine, made of Debian packages, without root.
//!
//! dom0 runs from an initramfs and knows nothing of the host but a folder to read and one to share. `Testbed::prepare` makes what is
//! booted and keeps it under `target/testbed`; `Testbed::run` boots it once per job.

mod cpio;
mod elf;
mod folder;
mod guests;
mod image;
mod job;
mod kernel;
mod machine;
mod modules;
mod packages;
mod tree;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

pub(crate) use job::{Clock, End, Job, Outcome};

use crate::setup::{self, Need};
use crate::{cmd, workspace};
use folder::Folder;
use image::Image;
use machine::Serial;
use tree::Tree;

/// Image and guests, ready to boot.
pub(crate) struct Testbed {
    folder: PathBuf,
    image: Image,
    guests: PathBuf,
}

impl Testbed {
    /// Makes image and guests, or takes those that are there if nothing that they are made of is newer. Takes about
    /// 30 s the first time.
    pub(crate) fn prepare() -> Result<Self> {
        setup::ensure(&[Need::Testbed])?;
        let folder = workspace::target().join("testbed");
        let create = |path: &Path| {
            fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))
        };
        let image_folder = folder.join("image");
        let guests = folder.join("guests");
        create(&image_folder)?;
        create(&guests)?;
        // another xtask may be at it; the lock goes with the file
        let lock = File::create(folder.join("lock")).context("cannot create the testbed's lock")?;
        lock.lock().context("cannot lock the testbed")?;

        let root = packages::unpacked(&folder)?;
        let tree = Tree::open(&root)?;
        let image = Image::at(&image_folder);
        let recipe = newest(&std::env::current_exe().context("cannot find this program")?)?
            .max(newest(&folder.join("root.packages"))?);
        made_since(recipe, &image_folder.join("stamp"), || image.build(&tree))?;
        made_since(recipe.max(newest(&guests::sources())?), &guests.join("stamp"), || {
            guests::build(&tree, &guests)
        })?;
        Ok(Self { folder, image, guests })
    }

    /// Boots, runs the job's script, powers off. Prints what the script prints as it comes.
    pub(crate) fn run(&self, job: &Job) -> Result<Outcome> {
        let folder = self.lay_out(job)?;
        folder.write("run.sh", &job.script)?;
        let disks = disks(&folder, job)?;
        let mut command = machine::command(&self.image, &job.memory, job.clock, &folder, &disks, Serial::Log);
        let run = machine::run(&mut command, &folder, job)?;
        let console = fs::read(folder.console()).context("cannot read the console's log")?;
        fs::write(self.console_log(), &console).context("cannot keep the console's log")?;
        let console = String::from_utf8_lossy(&console).into_owned();
        Ok(Outcome { end: run.end, console, booted: run.booted, took: run.took, folder })
    }

    /// Where the console of the last run is kept.
    pub(crate) fn console_log(&self) -> PathBuf {
        self.folder.join("console.log")
    }

    fn lay_out(&self, job: &Job) -> Result<Folder> {
        let folder = Folder::create(&self.folder)?;
        folder.add_guests(&self.guests)?;
        for (from, name) in &job.files {
            folder.link(from, name)?;
        }
        for (name, text) in &job.texts {
            folder.write(name, text)?;
        }
        Ok(folder)
    }
}

fn disks(folder: &Folder, job: &Job) -> Result<Vec<PathBuf>> {
    job.disks.iter().enumerate().map(|(number, &size)| folder.disk(number, size)).collect()
}

/// When the file, or the newest file below the folder, was written.
fn newest(path: &Path) -> Result<SystemTime> {
    let named = || format!("cannot read {}", path.display());
    let metadata = path.metadata().with_context(named)?;
    let mut newest = metadata.modified().with_context(named)?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path).with_context(named)? {
            newest = newest.max(self::newest(&entry.with_context(named)?.path())?);
        }
    }
    Ok(newest)
}

/// Calls `make` unless `stamp` is newer than `time`, and then writes it.
fn made_since(time: SystemTime, stamp: &Path, make: impl FnOnce() -> Result<()>) -> Result<()> {
    if newest(stamp).is_ok_and(|made| made > time) {
        return Ok(());
    }
    make()?;
    fs::write(stamp, "").with_context(|| format!("cannot write {}", stamp.display()))
}

/// The script that a command line asks for: one word is a line for bash, more are a program with its arguments.
fn script_of(words: &[String]) -> String {
    match words {
        [] => "xl info && xl list".to_owned(),
        [line] => line.clone(),
        words => words.iter().map(|word| cmd::quote(word)).collect::<Vec<_>>().join(" "),
    }
}

/// `cargo xtask testbed -- COMMAND`.
pub(crate) fn command(words: &[String], timeout: Duration) -> Result<ExitCode> {
    let testbed = Testbed::prepare()?;
    let job = Job { script: script_of(words), timeout, ..Job::default() };
    let outcome = testbed.run(&job)?;
    let End::Exited(status) = outcome.end else {
        eprint!("{}", outcome.tail());
        bail!("{} (the whole console: {})", outcome.end, testbed.console_log().display());
    };
    if let Some(booted) = outcome.booted {
        eprintln!(
            "dom0 ready after {:.1} s, powered off after {:.1} s",
            booted.as_secs_f32(),
            outcome.took.as_secs_f32()
        );
    }
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)))
}

/// `cargo xtask testbed --shell`.
pub(crate) fn shell() -> Result<ExitCode> {
    let testbed = Testbed::prepare()?;
    let job = Job::default();
    let folder = testbed.lay_out(&job)?;
    folder.write("shell", "")?;
    let disks = disks(&folder, &job)?;
    let mut command =
        machine::command(&testbed.image, &job.memory, job.clock, &folder, &disks, Serial::Terminal);
    let end = machine::attend(&mut command, &folder.share())?;
    let End::Exited(status) = end else { bail!("{end}") };
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_is_a_line_for_the_shell_and_more_are_a_program_with_arguments() {
        let words =
            |words: &[&str]| script_of(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(words(&["xl list; xl info"]), "xl list; xl info");
        assert_eq!(words(&["echo", "a b", "$x"]), "echo 'a b' '$x'");
        assert!(words(&[]).contains("xl list"));
    }

    #[test]
    fn what_is_older_than_its_sources_is_made_again() {
        let stamp = std::env::temp_dir().join(format!("xtask-stamp-{}", std::process::id()));
        let made = std::cell::Cell::new(0);
        let make = || {
            made.set(made.get() + 1);
            Ok(())
        };
        let now = SystemTime::now();
        made_since(now - Duration::from_secs(9), &stamp, make).unwrap();
        made_since(now - Duration::from_secs(9), &stamp, make).unwrap();
        assert_eq!(made.get(), 1);
        made_since(now + Duration::from_secs(9), &stamp, make).unwrap();
        assert_eq!(made.get(), 2);
        assert!(made_since(now + Duration::from_secs(9), &stamp, || bail!("no")).is_err());
        fs::remove_file(&stamp).unwrap();
    }
}
