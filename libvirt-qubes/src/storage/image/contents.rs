//! What lies in the pool.

use std::path::{Path, PathBuf};

use super::{Shared, names};
use crate::error::{At, Op, Result};
use crate::ids::VmName;
use crate::storage::{Contents, VolumeGroup, VolumeId};

impl Shared {
    pub(super) fn contents(&self) -> Result<Contents> {
        self.is_there(Op::InspectStorage, &self.dir.display())?;
        let mut found = Contents::default();
        for group in VolumeGroup::ALL {
            for (name, path) in entries(&self.dir.join(group.as_str()))? {
                match name.as_deref().and_then(|n| n.parse::<VmName>().ok()) {
                    Some(owner) if path.is_dir() => images_of(group, &owner, &path, &mut found)?,
                    _ => found.unknown.push(path),
                }
            }
        }
        found.volumes.sort();
        found.volumes.dedup();
        found.unknown.sort();
        Ok(found)
    }
}

fn images_of(group: VolumeGroup, owner: &VmName, dir: &Path, found: &mut Contents) -> Result<()> {
    for (name, path) in entries(dir)? {
        match name.as_deref().and_then(names::volume_of) {
            Some(volume) => found.volumes.push(VolumeId::new(group, owner.clone(), volume)),
            None => found.unknown.push(path),
        }
    }
    Ok(())
}

/// Names that are no UTF-8 are `None`.
fn entries(dir: &Path) -> Result<Vec<(Option<String>, PathBuf)>> {
    let at = dir.display();
    let listing = match std::fs::read_dir(dir) {
        // The folder of a VM that has gone meanwhile.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.at(Op::InspectStorage, &at)?,
    };
    listing
        .map(|entry| {
            let entry = entry.at(Op::InspectStorage, &at)?;
            Ok((entry.file_name().into_string().ok(), entry.path()))
        })
        .collect()
}
