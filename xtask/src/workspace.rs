//! Where things lie: the workspace's folder and its build folder.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The workspace's root folder.
pub(crate) fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// Cargo's build folder.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Removes the file, or the folder with all that is in it, if it is there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Fails unless `bytes` are free where things are built: a compiler that finds no room says so in the middle of its work,
/// and of every test that follows.
pub(crate) fn room_for(bytes: u64) -> Result<()> {
    let root = root();
    // the build folder may not be there yet
    let dir = [target(), root.to_owned()].into_iter().find(|dir| dir.is_dir()).unwrap_or_default();
    let free =
        rustix::fs::statvfs(&dir).with_context(|| format!("cannot ask {} for its room", dir.display()))?;
    let free = free.f_bavail.saturating_mul(free.f_frsize);
    let gib = |bytes: u64| bytes >> 30;
    if free < bytes {
        bail!(
            "{} has {} GiB free, and this takes {}: make room, or set CARGO_TARGET_DIR to a folder on another disk",
            dir.display(),
            gib(free),
            gib(bytes)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_room_the_folder_and_what_to_do_are_named() {
        room_for(1).unwrap();
        let refused = room_for(u64::MAX).unwrap_err().to_string();
        assert!(refused.contains("GiB free") && refused.contains("CARGO_TARGET_DIR"), "{refused}");
    }
}
