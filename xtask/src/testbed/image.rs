//! dom0's image: the hypervisor, a kernel, and an initramfs with Xen's tools and what the tests use.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::kernel;
use super::modules::Modules;
use super::tree::{Tree, names};
use crate::cmd;

const INIT: &str = include_str!("dom0-init");

/// Xen's tools; GNU tools that Xen's scripts and the tests need in place of busybox's; file systems, volumes, devices.
const PROGRAMS: &[&str] = &[
    "xl",
    "xenstored",
    "xenconsoled",
    "xenconsole",
    "xen-init-dom0",
    "libxl-save-helper",
    "xenstore-read",
    "xenstore-write",
    "xenstore-ls",
    "xenstore-list",
    "xenstore-rm",
    "xenstore-watch",
    "xenstore-exists",
    "xenstore-chmod",
    "bash",
    "busybox",
    "kmod",
    "modprobe",
    "insmod",
    "rmmod",
    "lsmod",
    "gawk",
    "cat",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "du",
    "grep",
    "ln",
    "ls",
    "mkdir",
    "mv",
    "pkill",
    "ps",
    "realpath",
    "readlink",
    "rm",
    "sed",
    "setsid",
    "sha256sum",
    "sleep",
    "stat",
    "stty",
    "sync",
    "tail",
    "timeout",
    "touch",
    "tr",
    "truncate",
    "chown",
    "chmod",
    "seq",
    "wc",
    "tee",
    "sort",
    "id",
    "head",
    "env",
    "blkid",
    "blockdev",
    "fallocate",
    "findmnt",
    "flock",
    "fuser",
    "ip",
    "logger",
    "losetup",
    "lsblk",
    "mount",
    "umount",
    "strace",
    "mke2fs",
    "mkfs.ext4",
    "e2fsck",
    "resize2fs",
    "dumpe2fs",
    "mkfs.xfs",
    "xfs_repair",
    "xfs_growfs",
    "xfs_io",
    "mkfs.btrfs",
    "btrfs",
    "cryptsetup",
    "dmsetup",
    "lvm",
    "lvchange",
    "lvcreate",
    "lvextend",
    "lvremove",
    "lvrename",
    "lvs",
    "pvcreate",
    "pvs",
    "vgchange",
    "vgcreate",
    "vgremove",
    "vgs",
    "thin_check",
    "thin_dump",
    "thin_repair",
    "lspci",
    "lsusb",
];

/// What the test programs link, by prefix: the release is part of libxl's name.
const LIBRARIES: &[&str] = &[
    "libxenlight.so.",
    "libxlutil.so.",
    "libxentoollog.so.",
    "libxenstore.so.",
    "libxenevtchn.so.",
    "libxengnttab.so.",
    "libgcc_s.so.",
    "libm.so.",
    "libpthread.so.",
    "libdl.so.",
    "librt.so.",
];

const MODULES: &[&str] = &[
    "xenfs",
    "xen-privcmd",
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "xen-blkback",
    "xen-netback",
    "xen-pciback",
    "virtio_pci",
    "virtio_blk",
    "9p",
    "9pnet_virtio",
    "virtio-rng",
    "loop",
    "bridge",
    "tun",
    "dm-thin-pool",
    "dm-snapshot",
    "dm-mirror",
    "dm-crypt",
    "ext4",
    "xfs",
    "btrfs",
    "overlay",
    "crc32c_generic",
    "crc32c_intel",
    "libcrc32c",
    "xts",
    "cbc",
    "ecb",
    "essiv",
    "sha256_generic",
    "sha512_generic",
    "aes_generic",
    "aesni-intel",
    "algif_skcipher",
    "algif_hash",
    "af_alg",
    "e1000e",
    "xhci_pci",
    "usb-storage",
    "sd_mod",
];

const FOLDERS: &[&str] = &[
    "dev",
    "files",
    "opt",
    "pool",
    "proc",
    "root",
    "run",
    "share",
    "sys",
    "tmp",
    "var/lib/xen",
    "var/log/xen",
];

/// What QEMU boots.
pub(crate) struct Image {
    pub(crate) xen: PathBuf,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
}

impl Image {
    /// The image's files in `dir`, whether or not they are there.
    pub(crate) fn at(dir: &Path) -> Self {
        Self { xen: dir.join("xen"), kernel: dir.join("vmlinux"), initramfs: dir.join("initramfs.cpio") }
    }

    /// Makes the image from the unpacked packages.
    pub(crate) fn build(&self, tree: &Tree) -> Result<()> {
        let (version, boot) = kernel_of(tree, Flavour::Generic)?;
        // QEMU's multiboot loader wants the plain ELF file
        cmd::output_to(cmd::program("gzip").arg("-dc").arg(hypervisor(tree)?), &self.xen)?;
        kernel::extract(&boot, &self.kernel)?;

        let mut archive = Archive::default();
        for folder in FOLDERS {
            archive.folder(folder);
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            archive.symlink(name, &format!("usr/{name}"));
        }
        archive.symlink("var/run", "/run");
        archive.symlink("var/lock", "/run/lock");
        archive.character("dev/console", 5, 1);
        archive.script("init", &INIT.replace("@XEN_BIN@", tree.xen_bin()));
        archive.symlink("usr/bin/sh", "bash");
        archive.symlink("usr/bin/awk", "gawk");
        tree.add_programs(&mut archive, PROGRAMS, LIBRARIES)?;
        for folder in ["etc/xen", "etc/lvm"] {
            tree.add_folder(&mut archive, folder)?;
        }
        archive.text("etc/lvm/lvmlocal.conf", LVM);
        archive.text("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n");
        archive.text("etc/group", "root:x:0:\n");
        archive.text("etc/hosts", "127.0.0.1 localhost\n");
        add_modules(&mut archive, tree, &version)?;
        archive.write(&self.initramfs)
    }
}

/// Nobody runs udev. What LVM locks in memory for each command, 8 MiB and more, costs an emulated machine half of the command's
/// time, and its copies of metadata in `/etc` nobody reads.
const LVM: &str = "activation { monitoring=0 udev_sync=0 udev_rules=0 reserved_memory=64 reserved_stack=64 }
backup { backup=0 archive=0 }
";

/// Which of the two kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// For dom0: it has the backends.
    Generic,
    /// For guests: it is smaller, and unpacks faster.
    Cloud,
}

/// Version and bzImage of a kernel.
pub(crate) fn kernel_of(tree: &Tree, flavour: Flavour) -> Result<(String, PathBuf)> {
    let boot = tree.root().join("boot");
    let version = names(&boot)?
        .iter()
        .filter_map(|name| name.strip_prefix("vmlinuz-"))
        .find(|version| version.ends_with("-cloud-amd64") == (flavour == Flavour::Cloud))
        .map(str::to_owned)
        .with_context(|| format!("the packages hold no kernel ({flavour:?})"))?;
    let file = boot.join(format!("vmlinuz-{version}"));
    Ok((version, file))
}

/// What a kernel's modules depend on; made by `depmod` first where that was not done.
pub(crate) fn modules_of(tree: &Tree, version: &str) -> Result<Modules> {
    let folder = tree.root().join("lib/modules").join(version);
    let (dep, builtin) = (folder.join("modules.dep"), folder.join("modules.builtin"));
    if !dep.exists() {
        cmd::output(tree.command("kmod", "depmod")?.arg("-b").arg(tree.root()).arg(version))?;
    }
    let read = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    Ok(Modules::parse(&read(&dep)?, &read(&builtin)?))
}

fn add_modules(archive: &mut Archive, tree: &Tree, version: &str) -> Result<()> {
    let from = tree.root().join("lib/modules").join(version);
    let to = format!("usr/lib/modules/{version}");
    for path in modules_of(tree, version)?.closure(MODULES)? {
        archive.file(&format!("{to}/{path}"), &from.join(&path))?;
    }
    // the indexes name modules that are left out; modprobe looks at those only when asked for them
    for name in names(&from)?.iter().filter(|name| name.starts_with("modules.")) {
        archive.file(&format!("{to}/{name}"), &from.join(name))?;
    }
    Ok(())
}

fn hypervisor(tree: &Tree) -> Result<PathBuf> {
    let boot = tree.root().join("boot");
    let name = names(&boot)?.into_iter().find(|name| name.starts_with("xen-") && name.ends_with("amd64.gz"));
    Ok(boot.join(name.context("the packages hold no hypervisor")?))
}
