//! The guests, in the layout that the tests find them in: `tiny-pv`, `tiny-pvh`, `linux/vmlinuz`, `linux/initramfs`
//! (a folder as pool `linux-kernel` wants it) and `root.img`. Their sources lie in `tests/guests/`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::image::{Flavour, kernel_of, modules_of};
use super::kernel;
use super::tree::Tree;
use crate::{cmd, workspace};

/// What there is, below the guests' folder.
pub(crate) const FILES: [&str; 5] = ["tiny-pv", "tiny-pvh", "linux/vmlinuz", "linux/initramfs", ROOT_IMAGE];

const ROOT_IMAGE: &str = "root.img";
const ROOT_IMAGE_SIZE: &str = "16M";
const LINUX_MODULES: &[&str] = &["crc32c_generic", "xen-blkfront", "xen-netfront", "ext4"];

const TINY_SOURCES: [&str; 5] = ["main.c", "events.c", "console.c", "xenstore.c", "text.c"];
const TINY_FLAGS: &str = "-std=c11 -Wall -Wextra -Werror -Os -s -ffreestanding -fno-builtin -fno-pic -no-pie -static \
    -nostdlib -fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables -mgeneral-regs-only \
    -Wl,--build-id=none -Wl,-z,noexecstack";

/// Where the sources are.
pub(crate) fn sources() -> PathBuf {
    workspace::root().join("tests/guests")
}

/// Builds all guests in `dir`.
pub(crate) fn build(tree: &Tree, dir: &Path) -> Result<()> {
    let folder = dir.join("linux");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    tiny("pv", "-m64 -mcmodel=kernel -mno-red-zone", dir)?;
    tiny("pvh", "-m32", dir)?;
    let (version, boot) = kernel_of(tree, Flavour::Cloud)?;
    kernel::extract(&boot, &folder.join("vmlinuz"))?;
    linux_initramfs(tree, &version, &folder.join("initramfs"))?;
    linux_root(tree, dir)
}

fn tiny(kind: &str, flags: &str, dir: &Path) -> Result<()> {
    let mut command = cmd::program("gcc");
    command
        .current_dir(sources().join("tiny"))
        .args(TINY_FLAGS.split_whitespace())
        .args(flags.split_whitespace())
        .args(["-T", &format!("{kind}.ld"), &format!("{kind}.S"), &format!("{kind}.c")])
        .args(TINY_SOURCES)
        .arg("-o")
        .arg(dir.join(format!("tiny-{kind}")));
    cmd::output(&mut command).map(drop)
}

fn linux_initramfs(tree: &Tree, version: &str, to: &Path) -> Result<()> {
    let from = tree.root().join("lib/modules").join(version);
    let mut archive = Archive::default();
    let mut order = Vec::new();
    for path in modules_of(tree, version)?.closure(LINUX_MODULES)? {
        let name = path.rsplit_once('/').map_or(path.as_str(), |(_, name)| name).to_owned();
        archive.file(&format!("modules/{name}"), &from.join(&path))?;
        order.push(name);
    }
    for folder in ["dev", "proc", "root", "sys"] {
        archive.folder(folder);
    }
    archive.character("dev/console", 5, 1);
    archive.file("bin/busybox", &busybox(tree)?)?;
    archive.script("init", &read("linux/initramfs-init")?.replace("@MODULES@", &order.join(" ")));
    archive.write(to)
}

/// The root file system, made without root or a loop device.
fn linux_root(tree: &Tree, dir: &Path) -> Result<()> {
    let staging = dir.join("root.staging");
    let image = dir.join(ROOT_IMAGE);
    workspace::remove(&staging)?;
    workspace::remove(&image)?;
    for folder in ["bin", "dev", "etc", "mnt", "proc", "sbin", "sys", "tmp", "var"] {
        let folder = staging.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let busybox_to = staging.join("bin/busybox");
    fs::copy(busybox(tree)?, &busybox_to)
        .with_context(|| format!("cannot write {}", busybox_to.display()))?;
    for (name, source) in
        [("init", "linux/root-init"), ("poweroff", "linux/root-shutdown"), ("reboot", "linux/root-shutdown")]
    {
        executable(&staging.join("sbin").join(name), &read(source)?)?;
    }
    let mut command = tree.command("mke2fs", "mke2fs")?;
    command
        .args([
            "-q",
            "-t",
            "ext4",
            "-b",
            "1024",
            "-J",
            "size=1",
            "-m",
            "0",
            "-L",
            "root",
            "-E",
            "root_owner=0:0",
        ])
        .arg("-d")
        .arg(&staging)
        .arg(&image)
        .arg(ROOT_IMAGE_SIZE);
    cmd::output(&mut command)?;
    workspace::remove(&staging)
}

fn busybox(tree: &Tree) -> Result<PathBuf> {
    tree.resolve(&tree.program("busybox")?)
}

fn read(source: &str) -> Result<String> {
    let path = sources().join(source);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

fn executable(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let write = || {
        fs::write(path, text)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
