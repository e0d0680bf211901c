//! What lies in the folders of pools, against what the model says that volumes hold.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::oracle::{Oracle, Pool, State};
use crate::run::Checked;

/// So much of each file is looked at; behind it are holes.
const LOOKED_AT: usize = 4096;

/// Every file of every pool, and nothing else.
pub fn compare(oracle: &Oracle) -> Checked<()> {
    oracle.pools.iter().filter(|pool| !pool.holds_kernels()).try_for_each(|pool| {
        compare_pool(oracle, pool).map_err(|error| format!("pool {}: {error}", pool.name))
    })
}

fn compare_pool(oracle: &Oracle, pool: &Pool) -> Checked<()> {
    let (mut expected, mut copies) = (BTreeMap::new(), BTreeMap::new());
    for (vm, of) in &oracle.vms {
        for volume in &of.volumes {
            let Some(origin) = volume.origin().filter(|_| oracle.pool_of(vm, volume) == pool.name) else {
                continue;
            };
            let vid = oracle.vid(vm, volume);
            expected.insert(format!("{vid}.img"), &origin.now);
            let automatic = origin.revisions.iter();
            expected.extend(automatic.map(|(number, state)| (format!("{vid}.img.{number}"), state)));
            let kept = origin.kept.iter();
            expected.extend(kept.map(|(number, state)| (format!("{vid}-keep.{number}.img"), state)));
            if pool.driver == "file-reflink" {
                // What a kill spares is made at the next start.
                copies.insert(format!("{vid}-precache.img"), &origin.now);
            }
        }
    }
    for group in ["appvms", "vm-templates"] {
        for owner in listed(&Path::new(&pool.dir).join(group))? {
            let folder = format!("{group}/{owner}");
            let files = listed(&Path::new(&pool.dir).join(&folder))?;
            if files.is_empty() {
                return Err(format!("{folder} is empty"));
            }
            for file in files {
                let path = format!("{folder}/{file}");
                let named = path.split('@').next().unwrap();
                let Some(state) = expected.remove(named).or_else(|| copies.get(named).copied()) else {
                    return Err(format!("{path} is no volume's"));
                };
                holds(&Path::new(&pool.dir).join(&path), state)
                    .map_err(|error| format!("{path}: {error}"))?;
            }
        }
    }
    match expected.keys().next() {
        Some(missing) => Err(format!("{missing} is not there")),
        None => Ok(()),
    }
}

fn listed(folder: &Path) -> Checked<Vec<String>> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().into_string().unwrap());
    }
    names.sort();
    Ok(names)
}

fn holds(path: &Path, state: &State) -> Checked<()> {
    let failed = |error: std::io::Error| error.to_string();
    let file = std::fs::File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if size != state.size {
        return Err(format!("{size} bytes, not {}", state.size));
    }
    let mut expected = state.data.clone().into_bytes();
    expected.resize(usize::try_from(size).map_or(LOOKED_AT, |size| size.min(LOOKED_AT)), 0);
    let mut got = vec![0; expected.len()];
    file.read_exact_at(&mut got, 0).map_err(failed)?;
    if got == expected {
        return Ok(());
    }
    let beginning = |bytes: &[u8]| bytes[..bytes.len().min(8)].escape_ascii().to_string();
    Err(format!("holds {:?}, not {:?}", beginning(&got), beginning(&expected)))
}
