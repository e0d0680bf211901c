//! What counts as an image: a regular file of its own in folders of the pool's own.
//!
//! A link leads to data that is not the pool's, a device is no file whose size could be told, and the open of a FIFO waits for
//! somebody at its other end. None of them is followed, opened or written; only a removal takes them away.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

/// How an image is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Open {
    ToRead,
    ToWrite,
}

/// Opens an image.
pub(super) fn open(path: &Path, how: Open) -> io::Result<File> {
    // Without waiting, whatever is there; of a regular file it changes nothing.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(how == Open::ToRead)
        .write(how == Open::ToWrite)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    match file {
        Ok(file) if file.metadata()?.is_file() => Ok(file),
        // The open of a link that is not to be followed; of a FIFO that nobody reads; of a folder or a socket.
        Err(e)
            if ![Errno::LOOP, Errno::NXIO, Errno::ISDIR]
                .map(|e| Some(e.raw_os_error()))
                .contains(&e.raw_os_error()) =>
        {
            Err(e)
        }
        Ok(_) | Err(_) => Err(no_image()),
    }
}

/// Refuses what a listing shows and is no image.
pub(super) fn check(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_file() { Ok(()) } else { Err(no_image()) }
}

fn no_image() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "this is no regular file but a link, a device or the like; the pool's own files alone are used: put the file itself here",
    )
}

/// Whether there is a folder at `below`, a path in `pool` that no link is part of. The pool's own path may have some.
pub(super) fn has_folder(pool: &Path, below: &Path) -> io::Result<bool> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let found = openat(CWD, pool, flags, Mode::empty()).and_then(|pool| {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        openat2(pool, below, flags, Mode::empty(), resolve)
    });
    match found {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a link, or no folder, is part of this path; the pool's own folders alone are used: put the folder itself there, \
             or mount it",
        )),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn is_refused<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|e| e.kind() == io::ErrorKind::InvalidData)
    }

    #[test]
    fn only_regular_files_are_opened_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "data").unwrap();
        symlink(at("file"), at("link")).unwrap();
        rustix::fs::mknodat(CWD, at("fifo"), rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for how in [Open::ToRead, Open::ToWrite] {
            open(&at("file"), how).unwrap();
            for name in ["link", "fifo", "."] {
                assert!(is_refused(open(&at(name), how)), "{name} {how:?}");
            }
            assert!(is_refused(open(Path::new("/dev/null"), how)));
            assert_eq!(open(&at("none"), how).unwrap_err().kind(), io::ErrorKind::NotFound);
        }
    }

    #[test]
    fn folders_are_reached_without_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let pool = dir.path().join("pool");
        std::fs::create_dir_all(pool.join("appvms/work")).unwrap();
        symlink(pool.join("appvms"), pool.join("vm-templates")).unwrap();
        symlink(&pool, dir.path().join("linked")).unwrap();
        std::fs::write(pool.join("appvms/file"), "").unwrap();
        for pool in [&pool, &dir.path().join("linked")] {
            assert!(has_folder(pool, Path::new("appvms/work")).unwrap());
            assert!(!has_folder(pool, Path::new("appvms/other")).unwrap());
            for below in ["vm-templates/work", "vm-templates", "appvms/file", "appvms/file/x"] {
                assert!(is_refused(has_folder(pool, Path::new(below))), "{below}");
            }
        }
        assert!(!has_folder(&dir.path().join("none"), Path::new("appvms")).unwrap());
    }
}
