//! File systems that tests make for themselves, as root.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of its own in an image file, which can be taken away and brought back; unmounted when dropped.
#[derive(Debug)]
pub struct Mounted(tempfile::TempDir);

impl Mounted {
    /// Made by a program with its options; `None`, with the reason said, where that cannot be made or mounted.
    pub fn new(mkfs: &[&str]) -> Option<Self> {
        Self::within(&std::env::temp_dir(), mkfs)
    }

    /// The same with the image file in memory: for what syncs often and shows nothing by it.
    pub fn in_memory(mkfs: &[&str]) -> Option<Self> {
        Self::within(Path::new("/dev/shm"), mkfs)
    }

    fn within(parent: &Path, mkfs: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir_in(parent).unwrap();
        let (image, point) = (dir.path().join("image"), dir.path().join("mnt"));
        std::fs::File::create(&image).unwrap().set_len(320 << 20).unwrap();
        std::fs::create_dir(&point).unwrap();
        let done = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let (program, arguments) = mkfs.split_first().unwrap();
        let made = done(Command::new(program).args(arguments).arg(&image))
            && done(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&point));
        if !made {
            println!("skipped: cannot make or mount what {program} makes");
        }
        made.then_some(Self(dir))
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.0.path().join("mnt")
    }

    /// Takes it away; nobody may have a file of it open.
    pub fn unmount(&self) {
        assert!(Command::new("umount").arg(self.path()).status().unwrap().success());
    }

    /// Brings it back.
    pub fn mount(&self) {
        let (image, point) = (self.0.path().join("image"), self.path());
        let mounted = Command::new("mount").args(["-o", "loop"]).arg(image).arg(point).status();
        assert!(mounted.unwrap().success());
    }

    /// Hides it, though files of it are open, under a folder that is empty: as where it is not mounted.
    pub fn cover(&self) -> Covered {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(self.path()).status();
        assert!(mounted.unwrap().success());
        Covered(self.path())
    }

    /// Mounts it in another way.
    pub fn remount(&self, how: &str) {
        let options = format!("remount,{how}");
        assert!(Command::new("mount").args(["-o", &options]).arg(self.path()).status().unwrap().success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.path()).status());
    }
}

/// A file system that is hidden until this is dropped.
#[derive(Debug)]
pub struct Covered(PathBuf);

impl Drop for Covered {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}
