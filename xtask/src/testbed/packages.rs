//! The Debian packages that the testbed is made of, unpacked from the machine's own apt sources.
//!
//! Nothing is installed and no root is needed: `mmdebstrap` only unpacks. The result is kept, beside a text that
//! names packages and versions, until the list changes or apt knows of newer ones.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{cmd, setup, workspace};

/// The metapackages name the kernel and the Xen that the release has now: old ones leave the mirrors.
const PACKAGES: [&str; 26] = [
    "bash",
    "bsdutils",
    "btrfs-progs",
    "busybox-static",
    "coreutils",
    "cryptsetup-bin",
    "e2fsprogs",
    "gawk",
    "grep",
    "iproute2",
    "kmod",
    "linux-image-amd64",
    "linux-image-cloud-amd64",
    "lvm2",
    "mount",
    "pciutils",
    "procps",
    "psmisc",
    "sed",
    "strace",
    "thin-provisioning-tools",
    "usbutils",
    "util-linux",
    "xen-system-amd64",
    "xenstore-utils",
    "xfsprogs",
];

/// Sees to it that the unpacked packages are in `dir`/root and returns that folder.
pub(crate) fn unpacked(dir: &Path) -> Result<PathBuf> {
    let root = dir.join("root");
    let stamp = dir.join("root.packages");
    let kept = fs::read_to_string(&stamp).unwrap_or_default();
    let versions = match known_versions() {
        Ok(versions) => versions,
        // without apt's lists what is there is as good as what might be
        Err(_) if kept.lines().filter_map(|line| line.split(' ').next()).eq(PACKAGES) => return Ok(root),
        Err(error) => {
            println!("apt: {error}; refreshing its lists");
            setup::refresh_lists()?;
            known_versions()?
        }
    };
    if kept == versions {
        return Ok(root);
    }
    println!("unpacking {} Debian packages and what they need (0.8 GB, once) ...", PACKAGES.len());
    workspace::remove(&stamp)?;
    workspace::remove(&root)?;
    let sources = sources(dir)?;
    let mut command = cmd::program("mmdebstrap");
    command
        .args(["--quiet", "--mode=chrootless", "--variant=extract", "--architectures=amd64"])
        .arg(format!("--include={}", PACKAGES.join(",")))
        .args(apt_options()?.iter().map(|option| format!("--aptopt={option}")))
        .arg(codename()?)
        .arg(&root)
        .args(sources);
    cmd::output(&mut command)?;
    fs::write(&stamp, versions).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(root)
}

/// A line `PACKAGE VERSION` for each package. Errors name the packages that apt does not know.
fn known_versions() -> Result<String> {
    let known = setup::candidates(&PACKAGES)?;
    let unknown: Vec<_> = PACKAGES.into_iter().filter(|package| !known.contains_key(*package)).collect();
    if !unknown.is_empty() {
        bail!(
            "this machine's apt sources have no package {}; the testbed is verified on Debian 12",
            unknown.join(", ")
        );
    }
    Ok(known.iter().map(|(package, version)| format!("{package} {version}\n")).collect())
}

fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(line.context("/etc/os-release names no VERSION_CODENAME")?.trim_matches('"').to_owned())
}

/// What the machine's apt is told about proxies, retries and dates of mirrors, as lines of configuration.
fn apt_options() -> Result<Vec<String>> {
    let wanted = ["Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries", "Acquire::Force"];
    let text = cmd::output(cmd::program("apt-config").arg("dump"))?;
    let lines = text.lines().filter(|line| wanted.iter().any(|prefix| line.starts_with(prefix)));
    Ok(lines.filter(|line| !line.ends_with(" \"\";")).map(str::to_owned).collect())
}

/// The machine's sources of its own distribution, as files in `dir` for mmdebstrap: third parties' sources are none
/// of the testbed's business.
fn sources(dir: &Path) -> Result<Vec<PathBuf>> {
    let codename = codename()?;
    let mut lists = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        lists.extend(entries.flatten().map(|entry| entry.path()));
    }
    lists.sort();
    let (mut lines, mut stanzas) = (String::new(), String::new());
    for list in lists {
        let Ok(text) = fs::read_to_string(&list) else { continue };
        match list.extension().and_then(|extension| extension.to_str()) {
            Some("list") => lines.push_str(&own_lines(&text, &codename)),
            Some("sources") => stanzas.push_str(&own_stanzas(&text, &codename)),
            _ => {}
        }
    }
    let mut files = Vec::new();
    for (name, text) in [("apt.list", lines), ("apt.sources", stanzas)] {
        if !text.is_empty() {
            let file = dir.join(name);
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
            files.push(file);
        }
    }
    if files.is_empty() {
        bail!("no apt source of this machine has suite {codename} with component main");
    }
    Ok(files)
}

fn is_own(suite: &str, codename: &str) -> bool {
    suite.strip_prefix(codename).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// Lines `deb [OPTIONS] URI SUITE COMPONENT...`.
fn own_lines(text: &str, codename: &str) -> String {
    let own = |line: &&str| {
        let Some(rest) = line.strip_prefix("deb ").map(str::trim_start) else { return false };
        let rest =
            if rest.starts_with('[') { rest.split_once(']').map_or("", |(_, rest)| rest) } else { rest };
        let mut words = rest.split_whitespace().skip(1);
        words.next().is_some_and(|suite| is_own(suite, codename))
            && words.any(|component| component == "main")
    };
    text.lines().map(str::trim).filter(own).map(|line| format!("{line}\n")).collect()
}

/// Stanzas of `Key: values`, parted by empty lines.
fn own_stanzas(text: &str, codename: &str) -> String {
    let text: String =
        text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    let own = |stanza: &&str| {
        let values = |key: &str| {
            let line = stanza.lines().find_map(|line| {
                let (name, values) = line.split_once(':')?;
                name.eq_ignore_ascii_case(key).then_some(values)
            });
            line.unwrap_or_default().split_whitespace()
        };
        values("Types").any(|kind| kind == "deb")
            && !values("Enabled").any(|word| word == "no")
            && values("Suites").any(|suite| is_own(suite, codename))
            && values("Components").any(|component| component == "main")
    };
    text.split("\n\n").filter(own).map(|stanza| format!("{}\n\n", stanza.trim_matches('\n'))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packages_are_in_the_order_of_their_names_and_named_once() {
        assert!(PACKAGES.is_sorted_by(|left, right| left < right));
    }

    #[test]
    fn only_the_distributions_own_lines_are_taken() {
        let text = "# deb http://a/ bookworm main\ndeb http://a/debian bookworm main contrib\n\
                    deb [arch=amd64 signed-by=/k] http://a/debian bookworm-updates main\n\
                    deb-src http://a/debian bookworm main\ndeb http://b/ bookworm stable\ndeb http://c/ sid main\n\
                    deb http://d/ bookwormish main\n";
        assert_eq!(
            own_lines(text, "bookworm"),
            "deb http://a/debian bookworm main contrib\n\
             deb [arch=amd64 signed-by=/k] http://a/debian bookworm-updates main\n"
        );
    }

    #[test]
    fn only_the_distributions_own_stanzas_are_taken_whole() {
        let text = "Types: deb\n# a mirror\nURIs: http://a/debian\nSuites: bookworm bookworm-updates\n\
                    Components: main\nSigned-By: /k\n\nTypes: deb\nURIs: http://b/\nSuites: nodistro\n\
                    Components: main\n\nTypes: deb\nURIs: http://c/\nSuites: bookworm\nComponents: main\n\
                    Enabled: no\n";
        assert_eq!(
            own_stanzas(text, "bookworm"),
            "Types: deb\nURIs: http://a/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\
             Signed-By: /k\n\n"
        );
    }
}
