//! Kernel modules with what they depend on, from a kernel's `modules.dep`.

use std::collections::{HashMap, HashSet};

use anyhow::{Result, bail};

/// What `modules.dep` and `modules.builtin` say.
pub(crate) struct Modules {
    /// Path by name, with `_` for `-`.
    paths: HashMap<String, String>,
    /// What each path depends on, the whole closure, in the reverse of the order of loading.
    depends: HashMap<String, Vec<String>>,
    builtin: HashSet<String>,
}

impl Modules {
    /// Reads the text of both files.
    pub(crate) fn parse(dep: &str, builtin: &str) -> Self {
        let mut modules = Self {
            paths: HashMap::new(),
            depends: HashMap::new(),
            builtin: builtin.lines().map(name).collect(),
        };
        for (path, depends) in dep.lines().filter_map(|line| line.split_once(':')) {
            modules.paths.insert(name(path), path.to_owned());
            modules.depends.insert(path.to_owned(), depends.split_whitespace().map(str::to_owned).collect());
        }
        modules
    }

    /// The paths of the modules `wanted` and all that they depend on, each after what it depends on. What is built
    /// into the kernel is left out; what is neither is an error.
    pub(crate) fn closure(&self, wanted: &[&str]) -> Result<Vec<String>> {
        let mut order = Vec::new();
        for wish in wanted {
            let wish = name(wish);
            let Some(path) = self.paths.get(&wish) else {
                if self.builtin.contains(&wish) {
                    continue;
                }
                bail!("the kernel has no module {wish}");
            };
            let depends = self.depends.get(path).map(Vec::as_slice).unwrap_or_default();
            for path in depends.iter().rev().chain([path]) {
                if !order.contains(path) {
                    order.push(path.clone());
                }
            }
        }
        Ok(order)
    }
}

/// `kernel/fs/xfs/xfs.ko.xz` and `xfs` are `xfs`; the kernel makes no difference between `-` and `_`.
fn name(path: &str) -> String {
    let file = path.rsplit_once('/').map_or(path, |(_, file)| file);
    file.split_once(".ko").map_or(file, |(name, _)| name).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/lib/crc16.ko kernel/fs/mbcache.ko\n\
                       kernel/fs/jbd2/jbd2.ko:\nkernel/lib/crc16.ko:\nkernel/fs/mbcache.ko:\n\
                       kernel/drivers/block/xen-blkfront.ko.xz: kernel/lib/crc16.ko\n";
    const BUILTIN: &str = "kernel/drivers/tty/hvc/hvc_xen.ko\n";

    #[test]
    fn modules_come_once_and_after_what_they_depend_on() {
        let order = Modules::parse(DEP, BUILTIN).closure(&["ext4", "xen_blkfront"]).unwrap();
        assert_eq!(
            order,
            [
                "kernel/fs/mbcache.ko",
                "kernel/lib/crc16.ko",
                "kernel/fs/jbd2/jbd2.ko",
                "kernel/fs/ext4/ext4.ko",
                "kernel/drivers/block/xen-blkfront.ko.xz",
            ]
        );
    }

    #[test]
    fn what_is_built_in_is_left_out_and_what_is_nowhere_is_named() {
        let modules = Modules::parse(DEP, BUILTIN);
        assert_eq!(modules.closure(&["hvc-xen"]).unwrap(), Vec::<String>::new());
        assert!(modules.closure(&["btrfs"]).unwrap_err().to_string().contains("btrfs"));
    }
}
