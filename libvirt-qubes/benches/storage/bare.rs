//! What a person would do by hand on a file system: `cp --reflink`, `mv`, and `sync -f` where what was done is to last.
//! As system calls, without the start of a process.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek, syncfs};
use rustix::io::Errno;

use crate::pool::SIZE;

/// So many stretches of a volume have data, spread over all of it.
pub(crate) const EXTENTS: u64 = 256;
/// Of this many bytes each.
const EXTENT: usize = 64 << 10;

/// The data that every volume has.
pub(crate) fn fill(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    for extent in 0..EXTENTS {
        file.write_all_at(&[0xA5; EXTENT], extent * (SIZE / EXTENTS)).unwrap();
    }
    file.sync_all().unwrap();
}

/// What a guest does, with a last flush as it shuts down.
pub(crate) fn write(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&[0x5A; EXTENT], SIZE / 2).unwrap();
    file.sync_all().unwrap();
}

/// `sync -f`.
pub(crate) fn sync(path: &Path) {
    syncfs(File::open(path).unwrap()).unwrap();
}

/// `mv`.
pub(crate) fn rename(from: &Path, to: &Path) {
    std::fs::rename(from, to).unwrap();
}

/// `cp --reflink`; where blocks cannot be shared, `cp`, which leaves out holes.
pub(crate) fn copy(from: &Path, to: &Path) {
    let (source, mut target) = (File::open(from).unwrap(), File::create_new(to).unwrap());
    match ioctl_ficlone(&target, &source) {
        Ok(()) => return,
        Err(Errno::OPNOTSUPP | Errno::INVAL) => {}
        Err(e) => panic!("{e}"),
    }
    target.set_len(SIZE).unwrap();
    let mut at = 0;
    while let Ok(start) = seek(&source, SeekFrom::Data(at)) {
        at = seek(&source, SeekFrom::Hole(start)).unwrap();
        let (mut from, mut to) = (start, start);
        while from < at {
            let length = usize::try_from(at - from).unwrap();
            assert!(copy_file_range(&source, Some(&mut from), &target, Some(&mut to), length).unwrap() > 0);
        }
    }
    target.flush().unwrap();
}

/// Files with the names and the data of a volume of ours.
pub(crate) struct Bare {
    folder: PathBuf,
}

impl Bare {
    /// A new one, at rest.
    pub(crate) fn new(folder: PathBuf) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        let bare = Self { folder };
        File::create_new(bare.file("clean")).unwrap().set_len(SIZE).unwrap();
        fill(&bare.file("clean"));
        bare
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A copy of the clean state, made ahead of the start.
    pub(crate) fn prepare(&self) {
        copy(&self.file("clean"), &self.file("prepared"));
        sync(&self.folder);
    }

    /// `mv` and `sync -f`.
    pub(crate) fn rename_durably(&self, from: &str, to: &str) {
        rename(&self.file(from), &self.file(to));
        sync(&self.folder);
    }
}
