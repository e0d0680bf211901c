//! Where pools have their data, and how the places of two pools lie to each other.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{backing, mounts};
use crate::error::{At, Error, Kind, Op, Result};
use crate::said;

/// Where a pool's data lies: two pools of one place would take each other's volumes for their own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PoolPlace {
    /// A folder, without links in its path.
    Folder(PathBuf),
    /// A thin pool of LVM, `VG/POOL`.
    ThinPool(String),
}

/// How a place lies to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meeting {
    /// They are one.
    Same,
    /// It lies in the other.
    Inside,
    /// The other lies in it.
    Around,
}

impl PoolPlace {
    /// The folder that `path` leads to; of one that is not there yet, where it would be.
    pub(super) fn folder(path: &Path) -> Self {
        let there = std::fs::canonicalize(path).or_else(|error| match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => Ok(std::fs::canonicalize(parent)?.join(name)),
            _ => Err(error),
        });
        Self::Folder(there.unwrap_or_else(|_| path.to_owned()))
    }

    /// How this place lies to another. Looks at the disk: a folder may have two paths.
    pub fn meets(&self, other: &Self) -> Option<Meeting> {
        match (self, other) {
            (Self::Folder(mine), Self::Folder(theirs)) => {
                if mine == theirs || is_one_folder(mine, theirs) {
                    return Some(Meeting::Same);
                }
                meeting(mine, theirs).or_else(|| meet_in_file_system(mine, theirs))
            }
            (Self::ThinPool(mine), Self::ThinPool(theirs)) => (mine == theirs).then_some(Meeting::Same),
            (Self::Folder(_), Self::ThinPool(_)) | (Self::ThinPool(_), Self::Folder(_)) => None,
        }
    }

    /// How deep it lies: the innermost of several that lie in one another is the deepest.
    pub fn depth(&self) -> usize {
        match self {
            Self::Folder(path) => path.components().count(),
            Self::ThinPool(_) => 0,
        }
    }

    /// Whether what lies here takes space of a pool at that other place: it is a folder in there, or its file system
    /// lies on an LV of that thin pool. Looks at the disk and at what the kernel tells of devices.
    pub fn takes_space_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Folder(_), Self::Folder(_)) => self.meets(other) == Some(Meeting::Inside),
            (Self::Folder(mine), Self::ThinPool(pool)) => {
                backing::thin_pools(mine).iter().any(|backing| backing.to_string() == *pool)
            }
            (Self::ThinPool(_), _) => false,
        }
    }
}

fn meeting(mine: &Path, theirs: &Path) -> Option<Meeting> {
    if mine == theirs {
        Some(Meeting::Same)
    } else if mine.starts_with(theirs) {
        Some(Meeting::Inside)
    } else if theirs.starts_with(mine) {
        Some(Meeting::Around)
    } else {
        None
    }
}

/// By where they are in their file system, which may be mounted, whole or in part, at several places.
fn meet_in_file_system(mine: &Path, theirs: &Path) -> Option<Meeting> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let (device, mine) = mounts::position(&mounts, mine)?;
    let (other, theirs) = mounts::position(&mounts, theirs)?;
    if device == other { meeting(&mine, &theirs) } else { None }
}

/// By device and inode: a bind mount shows a folder under a second path.
fn is_one_folder(a: &Path, b: &Path) -> bool {
    let id = |metadata: Metadata| (metadata.dev(), metadata.ino());
    match (std::fs::metadata(a), std::fs::metadata(b)) {
        (Ok(a), Ok(b)) => id(a) == id(b),
        _ => false,
    }
}

/// Of a pool's path at most the last part is made.
pub(super) fn needs_parent(dir: &Path) -> Result<()> {
    match dir.parent() {
        Some(parent) if !parent.is_dir() => {
            let why =
                format!("the folder {} must exist: only the last part of the path is made", parent.display());
            Err(Error::new(Kind::NotFound, Op::SetupPool, dir.display()).because(why))
        }
        _ => Ok(()),
    }
}

/// What is at a pool's path already can only be a folder.
pub(super) fn must_be_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let there = match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        there => there.at(Op::SetupPool, path.display())?,
    };
    let why = if there.is_symlink() {
        let target = std::fs::read_link(path).at(Op::SetupPool, path.display())?;
        format!(
            "it is a link to {}, where no folder is: make that folder, or remove the link",
            said::shown(&target.to_string_lossy())
        )
    } else {
        let what = if there.is_file() { "a file" } else { "a device or the like" };
        format!("it is {what} and no folder: name another path, or move it away")
    };
    Err(Error::new(Kind::Invalid, Op::SetupPool, path.display()).because(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_meet_by_what_their_paths_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| PoolPlace::folder(&dir.path().join(path));
        std::fs::create_dir_all(dir.path().join("pool/appvms")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("pool"), dir.path().join("link")).unwrap();
        for (mine, theirs, meeting) in [
            ("pool", "pool", Some(Meeting::Same)),
            ("link", "pool", Some(Meeting::Same)),
            ("pool/../pool/.", "link", Some(Meeting::Same)),
            ("link/new", "pool", Some(Meeting::Inside)),
            ("pool", "link/appvms", Some(Meeting::Around)),
            ("new", "pool", None),
            ("pool2", "pool", None),
            ("new", "new", Some(Meeting::Same)),
            ("no/parent", "no/parent", Some(Meeting::Same)),
        ] {
            assert_eq!(at(mine).meets(&at(theirs)), meeting, "{mine} {theirs}");
        }
        assert!(at("link/new").takes_space_of(&at("pool")));
        assert!(!at("pool").takes_space_of(&at("pool")));
    }

    #[test]
    fn a_thin_pool_meets_itself_alone() {
        let pool = |name: &str| PoolPlace::ThinPool(name.to_owned());
        assert_eq!(pool("vg/a").meets(&pool("vg/a")), Some(Meeting::Same));
        assert_eq!(pool("vg/a").meets(&pool("vg/ab")), None);
        assert_eq!(pool("vg/a").meets(&PoolPlace::folder(Path::new("/vg/a"))), None);
    }
}
