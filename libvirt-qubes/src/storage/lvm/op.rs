//! What is asked of LVM: one value for each command, and its arguments.

use std::fmt;

use super::names::{LvName, VgName};
use crate::ids::ByteSize;

/// Which way a size goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resizing {
    /// Larger.
    Grow,
    /// Down to what was written: of an import whose length was not known.
    Trim,
}

/// One command of LVM. The changes are atomic: a crash leaves what was before or what is after; of several LVs to be
/// removed, some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LvOp {
    /// A new, empty thin LV, active.
    Create {
        /// Its name.
        lv: LvName,
        /// The thin pool.
        pool: LvName,
        /// Rounded up to whole extents by LVM.
        size: ByteSize,
    },
    /// A thin LV that shares all blocks of another, active.
    Snapshot {
        /// The other.
        of: LvName,
        /// Its name.
        lv: LvName,
    },
    /// Removes LVs, active or not.
    Remove(Vec<LvName>),
    /// Another name, in the same volume group.
    Rename {
        /// The name before.
        from: LvName,
        /// The name after, which nothing has.
        to: LvName,
    },
    /// Another size.
    Resize {
        /// Of this LV.
        lv: LvName,
        /// Rounded up to whole extents.
        size: ByteSize,
        /// Which way; the other way is refused.
        how: Resizing,
    },
    /// Makes the device of an LV.
    Activate(LvName),
    /// Reports the LVs whose names begin with these; nothing is asked of the kernel.
    Names {
        /// Where.
        vg: VgName,
        /// Names of ours: no character is special to LVM but the dot.
        bases: Vec<String>,
    },
    /// Reports size, mapped part and use of LVs that are there.
    Figures(Vec<LvName>),
    /// Reports a thin pool.
    Pool(LvName),
    /// Reports all LVs; nothing is asked of the kernel.
    All(VgName),
}

/// So many LVs go into one command: LVM's shell takes 63 words.
pub(super) const AT_ONCE: usize = 32;

impl LvOp {
    /// The command and its arguments, as both `lvm` and its shell take them: no word has a blank.
    pub fn argv(&self) -> Vec<String> {
        match self {
            Self::Create { lv, pool, size } => words(
                &["lvcreate", "--yes", "--thin", "--setactivationskip=n", "--activate=y"],
                [
                    format!("--name={}", lv.lv()),
                    format!("--virtualsize={size}B"),
                    "--".into(),
                    pool.to_string(),
                ],
            ),
            // Without `--snapshot`: LVM 2.03 does not take it together with a type.
            Self::Snapshot { of, lv } => words(
                &["lvcreate", "--yes", "--setactivationskip=n", "--activate=y", "--type=thin"],
                [format!("--name={lv}"), "--".into(), of.to_string()],
            ),
            Self::Remove(lvs) => {
                words(&["lvremove", "--yes", "--force", "--"], lvs.iter().map(LvName::to_string))
            }
            Self::Rename { from, to } => {
                words(&["lvrename", "--yes", "--"], [from.to_string(), to.to_string()])
            }
            Self::Resize { lv, size, how } => words(
                match how {
                    Resizing::Grow => &["lvextend", "--yes"],
                    Resizing::Trim => &["lvreduce", "--yes", "--force"],
                },
                [format!("--size={size}B"), "--".into(), lv.to_string()],
            ),
            Self::Activate(lv) => words(
                &["lvchange", "--yes", "--ignoreactivationskip", "--activate=y", "--"],
                [lv.to_string()],
            ),
            Self::Names { vg, bases } => {
                report("lv_name,lv_size,pool_lv,origin,lv_time", [select(bases), "--".into(), vg.to_string()])
            }
            Self::Figures(lvs) => report(
                "lv_name,lv_size,data_percent,lv_device_open",
                std::iter::once("--".to_owned()).chain(lvs.iter().map(LvName::to_string)),
            ),
            Self::Pool(pool) => report(
                "lv_name,lv_attr,lv_size,data_percent,lv_metadata_size,metadata_percent,chunk_size,zero,vg_extent_size",
                ["--".into(), pool.to_string()],
            ),
            Self::All(vg) => report("lv_name,lv_size,pool_lv,origin,lv_time", ["--".into(), vg.to_string()]),
        }
    }

    /// Whether it only reports.
    pub fn is_report(&self) -> bool {
        match self {
            Self::Names { .. } | Self::Figures(_) | Self::Pool(_) | Self::All(_) => true,
            Self::Create { .. }
            | Self::Snapshot { .. }
            | Self::Remove(_)
            | Self::Rename { .. }
            | Self::Resize { .. }
            | Self::Activate(_) => false,
        }
    }
}

impl fmt::Display for LvOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.argv().join(" "))
    }
}

fn words(fixed: &[&str], rest: impl IntoIterator<Item = String>) -> Vec<String> {
    fixed.iter().map(|word| (*word).to_owned()).chain(rest).collect()
}

fn report(columns: &str, rest: impl IntoIterator<Item = String>) -> Vec<String> {
    let fixed = ["lvs", "--reportformat=json", "--units=b", "--nosuffix", "--options"];
    words(&fixed, std::iter::once(columns.to_owned()).chain(rest))
}

fn select(bases: &[String]) -> String {
    let escaped: Vec<_> = bases.iter().map(|base| base.replace('.', "\\.").replace('+', "\\+")).collect();
    format!("--select=lv_name=~\"^({})(-.*)?$\"", escaped.join("|"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lv(name: &str) -> LvName {
        LvName::new("vg".parse().unwrap(), name).unwrap()
    }

    #[test]
    fn commands_are_words_with_the_names_after_the_dashes() {
        let size = ByteSize::bytes(4 << 20);
        for (op, line) in [
            (
                LvOp::Create { lv: lv("vm-a-root"), pool: lv("pool00"), size },
                "lvcreate --yes --thin --setactivationskip=n --activate=y --name=vm-a-root --virtualsize=4194304B -- vg/pool00",
            ),
            (
                LvOp::Snapshot { of: lv("vm-a-root"), lv: lv("vm-a-root-snap") },
                "lvcreate --yes --setactivationskip=n --activate=y --type=thin --name=vg/vm-a-root-snap -- vg/vm-a-root",
            ),
            (LvOp::Remove(vec![lv("a"), lv("b")]), "lvremove --yes --force -- vg/a vg/b"),
            (LvOp::Rename { from: lv("a"), to: lv("b") }, "lvrename --yes -- vg/a vg/b"),
            (
                LvOp::Resize { lv: lv("a"), size, how: Resizing::Grow },
                "lvextend --yes --size=4194304B -- vg/a",
            ),
            (
                LvOp::Resize { lv: lv("a"), size, how: Resizing::Trim },
                "lvreduce --yes --force --size=4194304B -- vg/a",
            ),
            (LvOp::Activate(lv("a")), "lvchange --yes --ignoreactivationskip --activate=y -- vg/a"),
            (
                LvOp::Names {
                    vg: "vg".parse().unwrap(),
                    bases: vec!["vm-a.b-root".into(), "vm-c-root".into()],
                },
                "lvs --reportformat=json --units=b --nosuffix --options lv_name,lv_size,pool_lv,origin,lv_time \
                 --select=lv_name=~\"^(vm-a\\.b-root|vm-c-root)(-.*)?$\" -- vg",
            ),
            (
                LvOp::Figures(vec![lv("a")]),
                "lvs --reportformat=json --units=b --nosuffix --options lv_name,lv_size,data_percent,lv_device_open -- vg/a",
            ),
        ] {
            assert_eq!(op.to_string(), line);
            assert!(op.argv().iter().all(|word| !word.contains(char::is_whitespace)), "{line}");
        }
    }

    #[test]
    fn no_command_has_more_words_than_lvms_shell_takes() {
        let many: Vec<_> = (0..AT_ONCE).map(|n| lv(&format!("lv{n}"))).collect();
        for op in [LvOp::Remove(many.clone()), LvOp::Figures(many)] {
            assert!(op.argv().len() < 60);
        }
    }
}
