//! Whether a folder can be a pool: what the driver does there is tried out on files that go at once.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::io::Errno;

use crate::error::{At, Error, Kind, Op, Result};
use crate::storage::VolumeGroup;

/// The names of such files begin so. A crash may leave one.
const NAME: &str = "probe~";

/// Tries out what images need.
///
/// # Errors
/// `Unsupported`, or what the system said; each names what it was needed for. Nothing is left.
pub(super) fn probe(dir: &Path) -> Result<()> {
    for group in VolumeGroup::ALL {
        let folder = dir.join(group.as_str());
        if fs::symlink_metadata(&folder).is_ok_and(|metadata| metadata.is_symlink()) {
            let why = "it is a link: volumes would lie outside the pool";
            return Err(Error::new(Kind::Invalid, Op::SetupPool, folder.display()).because(why));
        }
    }
    let tried = try_out(dir);
    let removed = remove_left(dir).at(Op::SetupPool, dir.display());
    tried.and(removed)
}

/// Removes what a probe has left in a folder.
pub(super) fn remove_left(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(NAME))
            && entry.file_type()?.is_file()
        {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn try_out(dir: &Path) -> Result<()> {
    let refuse = |error: io::Error, why: &str| {
        // What these mean is another thing for a link than for a new file.
        let kind = match Errno::from_io_error(&error) {
            Some(Errno::NOSPC | Errno::DQUOT) => Kind::NoSpace,
            Some(Errno::IO) => Kind::Io,
            Some(_) | None => Kind::Unsupported,
        };
        Error::new(kind, Op::SetupPool, dir.display()).because(format!("{why}: {error}"))
    };
    let random = uuid::Uuid::new_v4().simple().to_string();
    let name = |which: &str| dir.join(format!("{NAME}{random}.{which}"));
    let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(name("a"));
    new.map_err(|e| {
        let is_read_only = e.kind() == io::ErrorKind::ReadOnlyFilesystem;
        refuse(e, if is_read_only { "the file system can only be read" } else { "no file can be made there" })
    })?;
    fs::hard_link(name("a"), name("b"))
        .map_err(|e| refuse(e, "the file system has no hard links, which make a state a revision"))?;
    fs::rename(name("b"), name("c"))
        .map_err(|e| refuse(e, "files cannot be renamed there, which makes a state the present one"))?;
    File::open(dir)
        .and_then(|folder| folder.sync_all())
        .map_err(|e| refuse(e, "names cannot be made durable there"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_as_it_was_after_a_probe() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join("probe~of-a-crash.a");
        fs::write(&left, "").unwrap();
        fs::write(dir.path().join("probe"), "somebody's").unwrap();
        probe(dir.path()).unwrap();
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["probe"]);
        std::os::unix::fs::symlink("/tmp", dir.path().join("appvms")).unwrap();
        assert!(probe(dir.path()).unwrap_err().report().contains("it is a link"));
    }
}
