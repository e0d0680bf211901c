//! From a pool's configuration, as people write it, to its driver.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use super::lvm::{LvName, VgName};
use super::mapper::DeviceMapper;
use super::{CallbackDriver, CopyOnWrite, Driver, ImageDriver, KernelDriver, LvmDriver, SetupCheck, Tuning};
use crate::error::{Error, Kind, Op, Result};
use crate::ids::{BadId, PoolName};

/// The drivers that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DriverKind {
    /// `callback`.
    Callback,
    /// `file`.
    File,
    /// `file-reflink`.
    FileReflink,
    /// `linux-kernel`.
    LinuxKernel,
    /// `lvm_thin`.
    LvmThin,
}

/// An option of a driver. The options that every pool has (`revisions_to_keep`, ..) are the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriverOption {
    /// Its name.
    pub name: &'static str,
    /// Whether a pool needs it.
    pub need: Need,
}

/// Whether a pool needs an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Without it there is no pool.
    Required,
    /// It has a default.
    Optional,
}

const DIR: DriverOption = DriverOption { name: "dir_path", need: Need::Required };
const VOLUME_GROUP: DriverOption = DriverOption { name: "volume_group", need: Need::Required };
const THIN_POOL: DriverOption = DriverOption { name: "thin_pool", need: Need::Required };
const CONF_ID: DriverOption = DriverOption { name: "conf_id", need: Need::Required };
const COW: DriverOption = DriverOption { name: "cow", need: Need::Optional };
const SETUP_CHECK: DriverOption = DriverOption { name: "setup_check", need: Need::Optional };

impl DriverKind {
    /// All of them, sorted by name.
    pub const ALL: [DriverKind; 5] = [
        DriverKind::Callback,
        DriverKind::File,
        DriverKind::FileReflink,
        DriverKind::LinuxKernel,
        DriverKind::LvmThin,
    ];

    /// The name in configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Callback => "callback",
            Self::File => "file",
            Self::FileReflink => "file-reflink",
            Self::LinuxKernel => "linux-kernel",
            Self::LvmThin => "lvm_thin",
        }
    }

    /// Its own options.
    pub const fn options(self) -> &'static [DriverOption] {
        match self {
            Self::Callback => &[CONF_ID],
            Self::File => &[DIR, COW],
            Self::LinuxKernel => &[DIR],
            Self::FileReflink => &[DIR, SETUP_CHECK],
            Self::LvmThin => &[VOLUME_GROUP, THIN_POOL],
        }
    }

    /// The driver of the pool `name` with these options, others ignored. It touches nothing of the pool yet:
    /// `Driver::setup` does. `callback` reads its configuration file.
    ///
    /// # Errors
    /// `Invalid` for an option that is missing or wrong.
    pub fn open(
        self,
        name: &PoolName,
        options: &BTreeMap<String, String>,
        tuning: Tuning,
    ) -> Result<Arc<dyn Driver>> {
        let bad = |why: String| Error::new(Kind::Invalid, Op::SetupPool, self.as_str()).because(why);
        let missing: Vec<_> = self
            .options()
            .iter()
            .filter(|option| option.need == Need::Required)
            .map(|option| option.name)
            .filter(|name| options.get(*name).is_none_or(String::is_empty))
            .collect();
        if !missing.is_empty() {
            return Err(bad(format!("missing required driver options: {}", missing.join(", "))));
        }
        let given = |option: DriverOption| options.get(option.name).map(String::as_str).unwrap_or_default();
        let dir = Path::new(given(DIR));
        Ok(match self {
            Self::Callback => Arc::new(CallbackDriver::open(name, given(CONF_ID), tuning)?),
            Self::File => {
                let way = options.get(COW.name).map(|way| way.parse()).transpose();
                let way =
                    way.map_err(|why| bad(format!("{}: {why}", COW.name)))?.unwrap_or(CopyOnWrite::Auto);
                let mapper = Arc::new(DeviceMapper::new(tuning.command_limit));
                let driver = ImageDriver::file(dir)?.named(name).near_full(tuning.near_full_percent);
                Arc::new(driver.copy_on_write(way, mapper))
            }
            Self::LinuxKernel => Arc::new(KernelDriver::new(dir)?),
            Self::FileReflink => {
                let check = match options.get(SETUP_CHECK.name).map(|v| v.to_ascii_lowercase()).as_deref() {
                    None | Some("1" | "yes" | "true" | "on") => SetupCheck::Probe,
                    Some("0" | "no" | "false" | "off") => SetupCheck::Skip,
                    Some(other) => return Err(bad(format!("{} is no boolean: {other}", SETUP_CHECK.name))),
                };
                Arc::new(ImageDriver::reflink(dir, check)?.named(name).near_full(tuning.near_full_percent))
            }
            Self::LvmThin => {
                let (vg, pool) = (given(VOLUME_GROUP), given(THIN_POOL));
                let wrong = |name: &str, why: BadId| bad(format!("{name}: {why}"));
                let vg: VgName = vg.parse().map_err(|why| wrong(VOLUME_GROUP.name, why))?;
                let pool = LvName::new(vg, pool).map_err(|why| wrong(THIN_POOL.name, why))?;
                Arc::new(LvmDriver::new(pool, tuning))
            }
        })
    }
}

impl FromStr for DriverKind {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(BadId::new("no such storage driver"))
    }
}

impl std::fmt::Display for DriverKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn each_driver_opens_under_its_own_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("callback.json");
        std::fs::write(&file, r#"{"x": {"bdriver": "file", "bdriver_args": {"dir_path": "/nowhere"}}}"#)
            .unwrap();
        let tuning = Tuning { callback_config: file.into(), ..Tuning::default() };
        for kind in DriverKind::ALL {
            assert_eq!(kind.as_str().parse::<DriverKind>().unwrap(), kind);
            let given = options(&[
                ("dir_path", "/nowhere"),
                ("revisions_to_keep", "2"),
                ("volume_group", "qubes_dom0"),
                ("thin_pool", "vm-pool"),
                ("conf_id", "x"),
            ]);
            let driver = kind.open(&"pool".parse().unwrap(), &given, tuning.clone()).unwrap();
            assert_eq!(driver.name(), kind.as_str());
        }
    }

    #[test]
    fn a_missing_or_wrong_option_is_named() {
        for (kind, given, reason) in [
            (DriverKind::File, options(&[]), "missing required driver options: dir_path"),
            (
                DriverKind::LinuxKernel,
                options(&[("dir_path", "")]),
                "missing required driver options: dir_path",
            ),
            (
                DriverKind::FileReflink,
                options(&[("dir_path", "/x"), ("setup_check", "maybe")]),
                "setup_check is no boolean",
            ),
            (
                DriverKind::File,
                options(&[("dir_path", "/x"), ("cow", "maybe")]),
                "cow: must be auto, dm or copy",
            ),
            (DriverKind::LvmThin, options(&[]), "missing required driver options: volume_group, thin_pool"),
            (DriverKind::LvmThin, options(&[("volume_group", "a/b"), ("thin_pool", "p")]), "volume_group: "),
            (DriverKind::LvmThin, options(&[("volume_group", "vg"), ("thin_pool", "-x")]), "thin_pool: "),
        ] {
            let error = kind.open(&"pool".parse().unwrap(), &given, Tuning::default()).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(error.report().contains(reason), "{}", error.report());
        }
    }
}
