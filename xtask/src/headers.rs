//! Another Xen's headers for the bindings, unpacked from Debian's package to the git-ignored `vendor-headers/xen/`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::{self, Need};
use crate::{cmd, workspace};

const PACKAGE: &str = "libxen-dev";

/// Fills `vendor-headers/xen/` and says how to build with it.
pub(crate) fn unpack(release: Option<&str>) -> Result<()> {
    setup::ensure(&[Need::Unpack])?;
    let version = match known(release)? {
        Some(version) => version,
        None => {
            setup::refresh_lists()?;
            known(release)?.with_context(|| unknown(release))?
        }
    };
    let to = workspace::root().join("vendor-headers/xen");
    let work = workspace::target().join("headers");
    workspace::remove(&work)?;
    std::fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
    cmd::run(Command::new("apt-get").current_dir(&work).args([
        "-q",
        "download",
        &format!("{PACKAGE}={version}"),
    ]))?;
    let package = only_file(&work)?;
    let tree = work.join("tree");
    cmd::run(Command::new("dpkg-deb").arg("-x").arg(work.join(package)).arg(&tree))?;
    workspace::remove(&to)?;
    let include = tree.join("usr/include");
    std::fs::rename(&include, &to)
        .with_context(|| format!("cannot move {} to {}", include.display(), to.display()))?;
    workspace::remove(&work)?;
    let hash = hash(&to)?;
    println!("{}: headers of {PACKAGE} {version}\nsha256 of the tree: {hash}", to.display());
    let provenance = workspace::root().join("vendor-headers/PROVENANCE.md");
    let recorded = std::fs::read_to_string(&provenance)
        .with_context(|| format!("cannot read {}", provenance.display()))?
        .contains(&hash);
    println!(
        "{}",
        if recorded {
            "PROVENANCE.md has this hash"
        } else {
            "PROVENANCE.md does not have this hash: not verified"
        }
    );
    println!("build with XEN_INCLUDE_VERSION={}", major_minor(&version));
    Ok(())
}

/// The newest version of that release that apt knows.
fn known(release: Option<&str>) -> Result<Option<String>> {
    let list = cmd::output(Command::new("apt-cache").args(["madison", PACKAGE]))?;
    Ok(pick(&list, release))
}

/// Lines `PACKAGE | VERSION | SOURCE`, the newest first.
fn pick(madison: &str, release: Option<&str>) -> Option<String> {
    let mut versions = madison.lines().filter_map(|line| line.split('|').nth(1).map(str::trim));
    let of = |version: &&str| match release {
        None => true,
        Some(release) => {
            version.strip_prefix(release).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
        }
    };
    versions.find(of).map(str::to_owned)
}

fn unknown(release: Option<&str>) -> String {
    match release {
        Some(release) => format!("this machine's apt sources have no {PACKAGE} of Xen {release}"),
        None => format!("this machine's apt sources have no package {PACKAGE}"),
    }
}

fn only_file(folder: &Path) -> Result<std::ffi::OsString> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let names: Vec<_> = entries.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    match <[_; 1]>::try_from(names) {
        Ok([name]) => Ok(name),
        Err(names) => bail!("expected one package in {}, found {}", folder.display(), names.len()),
    }
}

/// One hash over all files and their names, in the order of the names.
fn hash(tree: &Path) -> Result<String> {
    let script = "set -o pipefail; find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum";
    let text = cmd::output(Command::new("bash").current_dir(tree).args(["-c", script]))?;
    Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
}

/// `4.17.7+13-g2445b30a44-0+deb12u1` is `4.17`.
fn major_minor(version: &str) -> String {
    let numbers: Vec<_> = version.split(|c: char| !c.is_ascii_digit()).take(2).collect();
    numbers.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "libxen-dev | 4.17.7+13-1 | http://a bookworm-security/main amd64 Packages\n\
                        libxen-dev | 4.17.5+72-1 | http://a bookworm/main amd64 Packages\n\
                        libxen-dev | 4.1.0-1 | http://a old/main amd64 Packages\n";

    #[test]
    fn the_newest_version_of_the_release_is_taken() {
        assert_eq!(pick(LIST, None).as_deref(), Some("4.17.7+13-1"));
        assert_eq!(pick(LIST, Some("4.17")).as_deref(), Some("4.17.7+13-1"));
        assert_eq!(pick(LIST, Some("4.17.5")).as_deref(), Some("4.17.5+72-1"));
        assert_eq!(pick(LIST, Some("4.1")).as_deref(), Some("4.1.0-1"), "4.17 is another release");
        assert_eq!(pick(LIST, Some("4.20")), None);
    }

    #[test]
    fn a_release_is_its_first_two_numbers() {
        assert_eq!(major_minor("4.17.7+13-g2445b30a44-0+deb12u1"), "4.17");
        assert_eq!(major_minor("4.20-1"), "4.20");
    }
}
