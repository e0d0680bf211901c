//! What the subcommands need of the machine, and how it gets there.
//!
//! A need is looked for by what is used of it, not by package: on a machine that has it from elsewhere nothing is
//! installed. With apt what is missing is installed, with sudo where this is not root; without apt it is named.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cmd;

/// What a subcommand needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Builds the workspace, libxl's bindings included.
    Build,
    /// Compiles libFuzzer.
    Fuzz,
    /// Real file systems, which the storage tests make.
    FileSystems,
    /// Builds and boots the testbed.
    Testbed,
    /// Unpacks a Debian package.
    Unpack,
}

/// One thing that is looked for, and the Debian package that has it.
struct Item {
    package: &'static str,
    there: fn() -> bool,
}

macro_rules! program {
    ($name:literal in $package:literal) => {
        Item { package: $package, there: || cmd::which($name).is_some() }
    };
}

impl Need {
    fn items(self) -> &'static [Item] {
        match self {
            Self::Build => &[
                program!("cc" in "gcc"),
                Item { package: "libc6-dev", there: || Path::new("/usr/include/stdio.h").exists() },
                program!("pkg-config" in "pkg-config"),
                Item { package: "libclang-dev", there: has_libclang },
                Item { package: "libxen-dev", there: || Path::new("/usr/include/libxl.h").exists() },
            ],
            Self::Fuzz => &[
                program!("cc" in "gcc"),
                program!("c++" in "g++"),
                Item { package: "libc6-dev", there: || Path::new("/usr/include/stdio.h").exists() },
            ],
            Self::FileSystems => &[
                program!("mkfs.xfs" in "xfsprogs"),
                program!("mkfs.btrfs" in "btrfs-progs"),
                program!("mkfs.ext4" in "e2fsprogs"),
            ],
            Self::Testbed => &[
                program!("qemu-system-x86_64" in "qemu-system-x86"),
                program!("mmdebstrap" in "mmdebstrap"),
                program!("gcc" in "gcc"),
                program!("readelf" in "binutils"),
                program!("lz4" in "lz4"),
                program!("xz" in "xz-utils"),
            ],
            Self::Unpack => &[program!("apt-get" in "apt"), program!("dpkg-deb" in "dpkg")],
        }
    }
}

/// Sees to it that everything in `needs` is there. May install packages, which it prints first.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if cmd::which("apt-get").is_none() {
        bail!("this machine lacks what these Debian packages hold, and has no apt to install them: {names}");
    }
    println!("installing: {names}");
    install(&missing).with_context(|| format!("cannot install {names}"))?;
    let still = self::missing(needs);
    if !still.is_empty() {
        bail!("installed, but what is used of them is still not found: {}", still.join(" "));
    }
    Ok(())
}

fn missing(needs: &[Need]) -> Vec<&'static str> {
    let mut names = Vec::new();
    for item in needs.iter().flat_map(|need| need.items()) {
        if !names.contains(&item.package) && !(item.there)() {
            names.push(item.package);
        }
    }
    names
}

fn install(packages: &[&str]) -> Result<()> {
    refresh_lists()?;
    let known = candidates(packages)?;
    let unknown: Vec<_> = packages.iter().filter(|package| !known.contains_key(**package)).copied().collect();
    if !unknown.is_empty() {
        bail!("this machine's apt sources have no package {}", unknown.join(", "));
    }
    cmd::run(
        as_root("apt-get")?
            .args(["install", "-q", "-y", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

/// The versions that apt would install, by package, of those of `packages` that it knows. (One call for all: where
/// apt keeps no cache, each call reads all lists again.)
pub(crate) fn candidates(packages: &[&str]) -> Result<BTreeMap<String, String>> {
    let mut command = Command::new("apt-cache");
    Ok(parse_candidates(&cmd::output(command.arg("policy").args(packages).env("LC_ALL", "C"))?))
}

fn parse_candidates(policy: &str) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    let mut package = "";
    for line in policy.lines() {
        if let Some(version) = line.trim().strip_prefix("Candidate: ") {
            if version != "(none)" {
                versions.insert(package.to_owned(), version.to_owned());
            }
        } else if !line.starts_with(' ') {
            package = line.trim_end_matches(':');
        }
    }
    versions
}

/// Refreshes apt's lists where this user may.
pub(crate) fn refresh_lists() -> Result<()> {
    cmd::run(as_root("apt-get")?.args(["update", "-q"]))
}

/// A command for `name` as root.
pub(crate) fn as_root(name: &str) -> Result<Command> {
    if cmd::output(Command::new("id").arg("-u"))?.trim() == "0" {
        return Ok(cmd::program(name));
    }
    if cmd::which("sudo").is_none() {
        bail!("{name} needs root, and there is no sudo");
    }
    let mut sudo = Command::new("sudo");
    // sudo clears the environment
    sudo.args(["env", "DEBIAN_FRONTEND=noninteractive", name]);
    Ok(sudo)
}

fn has_libclang() -> bool {
    let mut folders: Vec<PathBuf> =
        std::env::var_os("LIBCLANG_PATH").map(PathBuf::from).into_iter().collect();
    folders.extend(["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"].map(PathBuf::from));
    if let Ok(entries) = std::fs::read_dir("/usr/lib") {
        let llvm = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("llvm-"));
        folders.extend(llvm.map(|entry| entry.path().join("lib")));
    }
    folders
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten()
        .flatten()
        .any(|entry| is_libclang(&entry.file_name().to_string_lossy()))
}

/// Whether a file of this name is the library that bindgen loads: `libclang.so`, `libclang-VERSION.so`, each with or
/// without a number at its end. (`libclang-cpp.so` is another library, and is there without it.)
fn is_libclang(name: &str) -> bool {
    name.strip_prefix("libclang").is_some_and(|rest| {
        rest.starts_with(".so")
            || rest
                .strip_prefix('-')
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()) && rest.contains(".so"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_of_clangs_own_tools_is_not_taken_for_libclang() {
        for name in
            ["libclang.so", "libclang.so.1", "libclang-14.so", "libclang-14.so.1", "libclang-14.so.14.0.6"]
        {
            assert!(is_libclang(name), "{name}");
        }
        for name in
            ["libclang-cpp.so.14", "libclang-cpp.so", "libclangAST.a", "libclang_rt.so", "libclang-14.a"]
        {
            assert!(!is_libclang(name), "{name}");
        }
    }

    #[test]
    fn the_candidates_are_read_from_apts_answer() {
        let policy = "xen:\n  Installed: (none)\n  Candidate: 4.17.7+13-1\n  Version table:\n     4.17.7+13-1 500\n\
                      gone:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n";
        let expected = BTreeMap::from([("xen".to_owned(), "4.17.7+13-1".to_owned())]);
        assert_eq!(parse_candidates(policy), expected);
        assert!(parse_candidates("").is_empty());
    }
}
