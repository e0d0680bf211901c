//! What is mounted where: `/proc/self/mountinfo`.

use std::path::{Path, PathBuf};

/// A mount: what of which file system is seen where.
struct Mount<'a> {
    /// `MAJOR:MINOR`, alike for all mounts of one file system.
    device: &'a str,
    /// What of the file system is mounted.
    root: PathBuf,
    point: PathBuf,
    source: String,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, rest) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(2);
        let (device, root, point) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Self {
            device,
            root: unescaped(root).into(),
            point: unescaped(point).into(),
            source: unescaped(rest.split(' ').nth(1)?),
        })
    }
}

/// The last of the innermost mounts that `dir` lies in.
fn around<'a>(mountinfo: &'a str, dir: &Path) -> Option<Mount<'a>> {
    let around = mountinfo.lines().filter_map(Mount::parse).filter(|mount| dir.starts_with(&mount.point));
    around.max_by_key(|mount| mount.point.components().count())
}

/// What is mounted where `dir` lies.
pub(super) fn source(mountinfo: &str, dir: &Path) -> Option<PathBuf> {
    around(mountinfo, dir).map(|mount| mount.source.into())
}

/// Which file system a path leads to, and where in it: the same however often it is mounted.
pub(super) fn position(mountinfo: &str, path: &Path) -> Option<(String, PathBuf)> {
    let mount = around(mountinfo, path)?;
    let below = path.strip_prefix(&mount.point).ok()?;
    Some((mount.device.to_owned(), mount.root.join(below)))
}

/// The kernel writes blanks and backslashes as octal numbers.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (written, meant)| text.replace(written, meant))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
        30 22 0:45 /vol /srv/my\\040pool rw shared:1 - btrfs /dev/mapper/vg-lv rw\n\
        31 22 0:46 / /srv rw - tmpfs none rw\n\
        32 22 0:45 /vol/appvms /mnt rw - btrfs /dev/mapper/vg-lv rw\n\
        33 22 8:1 /var /mnt/deep rw - ext4 /dev/sda1 rw\n";

    #[test]
    fn the_innermost_mount_tells_the_device() {
        let source = |dir: &str| source(MOUNTS, Path::new(dir)).unwrap();
        assert_eq!(source("/srv/my pool/appvms"), Path::new("/dev/mapper/vg-lv"));
        assert_eq!(source("/srv/my"), Path::new("none"));
        assert_eq!(source("/home"), Path::new("/dev/sda1"));
    }

    #[test]
    fn a_place_is_the_same_however_it_is_mounted() {
        let position = |path: &str| position(MOUNTS, Path::new(path)).unwrap();
        assert_eq!(position("/mnt/work"), ("0:45".to_owned(), "/vol/appvms/work".into()));
        assert_eq!(position("/mnt/work"), position("/srv/my pool/appvms/work"));
        assert_eq!(position("/mnt/deep/lib"), position("/var/lib"));
        assert_ne!(position("/srv/lib"), position("/lib"));
    }
}
