//! File systems to try drivers on: the one of the temporary folder, and images of others, mounted for a test.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A file system of its own in an image file. Unmounted when dropped.
pub(crate) struct Mounted {
    dir: TempDir,
    mkfs: Mkfs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mkfs {
    Xfs,
    /// XFS whose files cannot share blocks.
    OldXfs,
    Btrfs,
    Ext4,
}

impl Mkfs {
    fn command(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Xfs => ("mkfs.xfs", &["-q", "-f", "-m", "reflink=1"]),
            Self::OldXfs => ("mkfs.xfs", &["-q", "-f", "-m", "reflink=0"]),
            Self::Btrfs => ("mkfs.btrfs", &["-q", "-f"]),
            Self::Ext4 => ("mkfs.ext4", &["-q", "-F"]),
        }
    }
}

impl Mounted {
    /// `None`, with the reason printed, where this machine or user cannot mount one.
    pub(crate) fn new(mkfs: Mkfs, size: u64, test: &str) -> Option<Self> {
        Self::within(&std::env::temp_dir(), mkfs, size, test)
    }

    /// The same with the image file in memory: for what syncs often and shows nothing by it.
    pub(crate) fn in_memory(mkfs: Mkfs, size: u64, test: &str) -> Option<Self> {
        Self::within(Path::new("/dev/shm"), mkfs, size, test)
    }

    fn within(parent: &Path, mkfs: Mkfs, size: u64, test: &str) -> Option<Self> {
        let skip = |why: String| {
            println!("skipped: {test} on {mkfs:?}: {why}");
            None
        };
        if !rustix::process::geteuid().is_root() {
            return skip("not root".into());
        }
        let dir = tempfile::tempdir_in(parent).unwrap();
        let image = dir.path().join("image");
        std::fs::File::create_new(&image).unwrap().set_len(size).unwrap();
        let (program, arguments) = mkfs.command();
        let made = match Command::new(program).args(arguments).arg(&image).output() {
            Err(e) => return skip(format!("{program}: {e}")),
            Ok(made) => made,
        };
        assert!(made.status.success(), "{program}: {}", String::from_utf8_lossy(&made.stderr));
        std::fs::create_dir(dir.path().join("mnt")).unwrap();
        let mounted = Self { dir, mkfs };
        match mounted.mount() {
            Ok(()) => Some(mounted),
            Err(why) => skip(why),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn mount(&self) -> Result<(), String> {
        run(Command::new("mount").args(["-o", "loop"]).arg(self.dir.path().join("image")).arg(self.path()))
    }

    /// Everything that was not made durable is lost: the file system is stopped without its log, and mounted anew.
    pub(crate) fn cut_power(&self) {
        assert!(matches!(self.mkfs, Mkfs::Xfs | Mkfs::OldXfs), "only XFS is stopped in this way");
        run(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(self.path())).unwrap();
        run(Command::new("umount").arg(self.path())).unwrap();
        self.mount().unwrap();
    }

    pub(crate) fn sync(&self) {
        run(Command::new("sync").arg("-f").arg(self.path())).unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(why) = run(Command::new("umount").arg("-l").arg(self.path())) {
            eprintln!("{why}");
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let error = || format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    output.status.success().then_some(()).ok_or_else(error)
}

/// Space that is really allocated below `dir`, in bytes, each file once.
pub(crate) fn allocated(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).unwrap().blocks() * 512
}
