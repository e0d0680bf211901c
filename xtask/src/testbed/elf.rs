//! Which shared libraries programs need, and which those need in turn, from what `readelf -d` prints.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cmd;

/// All libraries, by name, that `files` and the libraries `wanted` need, those included. Files that are no ELF files
/// need none. A library that `find` does not know is an error.
pub(crate) fn closure(
    files: &[PathBuf],
    wanted: BTreeSet<String>,
    find: impl Fn(&str) -> Option<PathBuf>,
) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut names = wanted;
    let mut look: Vec<PathBuf> = files.to_vec();
    loop {
        names.extend(needed(&look)?);
        look.clear();
        for name in std::mem::take(&mut names) {
            if found.contains_key(&name) {
                continue;
            }
            let Some(file) = find(&name) else { bail!("the packages hold no library {name}") };
            look.push(file.clone());
            found.insert(name, file);
        }
        if look.is_empty() {
            return Ok(found);
        }
    }
}

/// The libraries that `files` name as needed.
fn needed(files: &[PathBuf]) -> Result<Vec<String>> {
    let mut elves = Vec::new();
    for file in files {
        if is_elf(file).with_context(|| format!("cannot read {}", file.display()))? {
            elves.push(file);
        }
    }
    if elves.is_empty() {
        return Ok(Vec::new());
    }
    let text = cmd::output(cmd::program("readelf").arg("-d").args(elves).env("LC_ALL", "C"))?;
    Ok(parse_needed(&text))
}

fn is_elf(file: &Path) -> Result<bool> {
    let mut magic = [0; 4];
    let read = File::open(file)?.read(&mut magic)?;
    Ok(magic.get(..read) == Some(b"\x7fELF"))
}

/// ` 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]`
fn parse_needed(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.contains("(NEEDED)"));
    lines.filter_map(|line| Some(line.rsplit_once('[')?.1.split_once(']')?.0.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needed_libraries_are_read_from_readelf() {
        let text = "\nFile: a\n\nDynamic section at offset 0x2da0 contains 27 entries:\n  \
                    Tag        Type                         Name/Value\n \
                    0x0000000000000001 (NEEDED)             Shared library: [libtinfo.so.6]\n \
                    0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]\n \
                    0x000000000000000e (SONAME)             Library soname: [libx.so.1]\n";
        assert_eq!(parse_needed(text), ["libtinfo.so.6", "libc.so.6"]);
    }

    #[test]
    fn the_closure_of_this_program_holds_the_c_library_and_its_loader() {
        let own = std::env::current_exe().unwrap();
        let system = |name: &str| {
            let folders = ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64"];
            folders.iter().map(|folder| Path::new(folder).join(name)).find(|file| file.exists())
        };
        let found = closure(std::slice::from_ref(&own), BTreeSet::new(), system).unwrap();
        assert!(found.contains_key("libc.so.6"));
        assert!(found.keys().any(|name| name.starts_with("ld-linux")), "libc.so.6 needs it: {found:?}");
        let error = closure(&[own], BTreeSet::from(["libnone.so.9".to_owned()]), system).unwrap_err();
        assert!(error.to_string().contains("libnone.so.9"));
    }

    #[test]
    fn scripts_need_no_library() {
        assert_eq!(needed(&[PathBuf::from("/etc/passwd")]).unwrap(), Vec::<String>::new());
    }
}
