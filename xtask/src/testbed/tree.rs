//! A folder of unpacked packages, looked into without chroot: programs, libraries, links as they would lie at `/`.
//!
//! Whether `/bin` is a folder of its own or a link to `usr/bin` differs by release: paths that leave here are
//! always below `usr`.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::cpio::Archive;
use super::elf;

const PROGRAMS: [&str; 4] = ["usr/sbin", "usr/bin", "sbin", "bin"];
const LIBRARIES: [&str; 4] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib", "lib"];
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

/// The unpacked packages.
pub(crate) struct Tree {
    root: PathBuf,
    /// Where Xen's own programs lie, as `usr/lib/xen-4.17/bin`.
    xen_bin: String,
}

impl Tree {
    /// The tree at `root`; it must hold Xen's tools.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let lib = root.join("usr/lib");
        let xen_bin = names(&lib)?
            .into_iter()
            .map(|name| format!("usr/lib/{name}/bin"))
            .find(|path| path.starts_with("usr/lib/xen-") && root.join(path).join("xl").exists())
            .with_context(|| format!("no Xen tools in {}", lib.display()))?;
        Ok(Self { root: root.to_owned(), xen_bin })
    }

    /// Where the tree lies.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where Xen's own programs lie, relative to the root.
    pub(crate) fn xen_bin(&self) -> &str {
        &self.xen_bin
    }

    /// The program `name`, relative to the root.
    pub(crate) fn program(&self, name: &str) -> Result<String> {
        // Xen's own first: Debian's `/usr/sbin/xl` is a script that looks which Xen runs
        [self.xen_bin.as_str()]
            .into_iter()
            .chain(PROGRAMS)
            .map(|folder| format!("{folder}/{name}"))
            .find(|path| self.root.join(path).symlink_metadata().is_ok())
            .with_context(|| format!("the packages hold no program {name}"))
    }

    /// The file behind `path`, links followed as they would be at `/`.
    pub(crate) fn resolve(&self, path: &str) -> Result<PathBuf> {
        let mut at = PathBuf::from(path);
        for _ in 0..16 {
            let Ok(target) = std::fs::read_link(self.root.join(&at)) else {
                let found = self.root.join(&at);
                return if found.exists() { Ok(found) } else { bail!("the packages hold no {path}") };
            };
            at = below(at.parent().unwrap_or(Path::new("")), &target);
        }
        bail!("{path} is a loop of links")
    }

    /// The file of the library `name`, if the tree has it.
    fn library(&self, name: &str) -> Option<PathBuf> {
        LIBRARIES.iter().find_map(|folder| self.resolve(&format!("{folder}/{name}")).ok())
    }

    /// The libraries whose names begin with `prefix`.
    fn libraries_named(&self, prefix: &str) -> Vec<String> {
        let folders = LIBRARIES.iter().filter_map(|folder| names(&self.root.join(folder)).ok());
        folders.flatten().filter(|name| name.starts_with(prefix)).collect()
    }

    /// Adds programs by name to `archive`, what their links point to, and all libraries that they and `libraries`
    /// (prefixes of names) need, with the loader.
    pub(crate) fn add_programs(
        &self,
        archive: &mut Archive,
        programs: &[&str],
        libraries: &[&str],
    ) -> Result<()> {
        let mut files = Vec::new();
        for name in programs {
            let mut path = self.program(name)?;
            loop {
                let full = self.root.join(&path);
                let to = below_usr(&path);
                let Ok(target) = std::fs::read_link(&full) else {
                    archive.file(&to, &full)?;
                    files.push(full);
                    break;
                };
                let next = below(Path::new(&path).parent().unwrap_or(Path::new("")), &target);
                path = next.to_string_lossy().into_owned();
                archive.symlink(&to, &format!("/{}", below_usr(&path)));
            }
        }
        let mut wanted: BTreeSet<String> = BTreeSet::new();
        for prefix in libraries {
            let found = self.libraries_named(prefix);
            if found.is_empty() {
                bail!("the packages hold no library {prefix}*");
            }
            wanted.extend(found);
        }
        for (name, file) in elf::closure(&files, wanted, |name| self.library(name))? {
            archive.file(&format!("usr/lib/x86_64-linux-gnu/{name}"), &file)?;
        }
        archive.file(&format!("usr/{LOADER}"), &self.resolve(LOADER)?)
    }

    /// Adds all files below the folder `path` to `archive`, at the same place.
    pub(crate) fn add_folder(&self, archive: &mut Archive, path: &str) -> Result<()> {
        for name in names(&self.root.join(path))? {
            let inner = format!("{path}/{name}");
            let full = self.root.join(&inner);
            if let Ok(target) = std::fs::read_link(&full) {
                archive.symlink(&inner, &target.to_string_lossy());
            } else if full.is_dir() {
                self.add_folder(archive, &inner)?;
            } else {
                archive.file(&inner, &full)?;
            }
        }
        Ok(())
    }

    /// A command that runs the tree's own `program` under the name `called`, with the tree's own libraries, so that
    /// the host needs neither.
    pub(crate) fn command(&self, program: &str, called: &str) -> Result<Command> {
        let folders: Vec<_> =
            LIBRARIES.iter().map(|folder| self.root.join(folder).to_string_lossy().into_owned()).collect();
        let mut command = Command::new(self.resolve(LOADER)?);
        command.args(["--library-path", &folders.join(":"), "--argv0", called]);
        command.arg(self.resolve(&self.program(program)?)?);
        Ok(command)
    }
}

/// The names in a folder, sorted.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names: Vec<_> =
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

/// Every file of a merged `/usr` lies below it.
fn below_usr(path: &str) -> String {
    if ["bin/", "sbin/", "lib/", "lib64/"].iter().any(|top| path.starts_with(top)) {
        format!("usr/{path}")
    } else {
        path.to_owned()
    }
}

/// `target` seen from `folder`, both relative to the root; `..` ends at the root.
fn below(folder: &Path, target: &Path) -> PathBuf {
    let mut at = if target.is_absolute() { PathBuf::new() } else { folder.to_owned() };
    for part in target.components() {
        match part {
            Component::ParentDir => drop(at.pop()),
            Component::Normal(name) => at.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_inside_the_tree() {
        assert_eq!(below(Path::new("usr/bin"), Path::new("awk2")), Path::new("usr/bin/awk2"));
        assert_eq!(
            below(Path::new("usr/bin"), Path::new("/etc/alternatives/awk")),
            Path::new("etc/alternatives/awk")
        );
        assert_eq!(below(Path::new("usr/bin"), Path::new("../lib/x")), Path::new("usr/lib/x"));
        assert_eq!(below(Path::new("bin"), Path::new("../../../etc/x")), Path::new("etc/x"));
    }

    #[test]
    fn everything_is_placed_below_usr() {
        assert_eq!(below_usr("sbin/lvm"), "usr/sbin/lvm");
        assert_eq!(below_usr("usr/sbin/lvm"), "usr/sbin/lvm");
        assert_eq!(below_usr("etc/passwd"), "etc/passwd");
    }
}
