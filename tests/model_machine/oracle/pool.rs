//! Pools: which there are, what they are told, and who keeps them from being removed.

use std::collections::BTreeMap;

use super::value::Value;
use super::{ANY, Answer, Oracle, REST, Refused, refused};
use crate::call::Dialect;

/// The folder that all pools lie in, and what its file system can do.
#[derive(Debug, Clone)]
pub struct Ground {
    pub dir: String,
    pub shares_blocks: bool,
}

#[derive(Debug, Clone)]
pub struct Pool {
    pub name: String,
    pub driver: &'static str,
    pub dir: String,
    keep: i64,
    ephemeral: bool,
    cow: &'static str,
}

impl Pool {
    fn new(name: &str, driver: &'static str, dir: &str) -> Self {
        let keep = i64::from(driver == "file-reflink");
        Self { name: name.into(), driver, dir: dir.into(), keep, ephemeral: false, cow: "auto" }
    }

    pub fn holds_kernels(&self) -> bool {
        self.driver == "linux-kernel"
    }
}

/// The drivers, and what a pool of each may be told; the last is what clients of `mgmt` alone see.
const DRIVERS: [(&str, &[&str]); 5] = [
    ("callback", &["conf_id"]),
    ("file", &["revisions_to_keep", "dir_path", "cow", "ephemeral_volatile"]),
    ("file-reflink", &["revisions_to_keep", "dir_path", "setup_check", "ephemeral_volatile"]),
    ("linux-kernel", &["dir_path"]),
    ("lvm_thin", &["revisions_to_keep", "volume_group", "thin_pool", "ephemeral_volatile"]),
];

const DEFAULTS: [&str; 5] = [
    "default_pool",
    "default_pool_kernel",
    "default_pool_private",
    "default_pool_root",
    "default_pool_volatile",
];

pub fn first_start(ground: &Ground) -> Vec<Pool> {
    let driver = if ground.shares_blocks { "file-reflink" } else { "file" };
    vec![
        Pool::new("varlibqubes", driver, &format!("{}/state/varlibqubes", ground.dir)),
        Pool::new("linux-kernel", "linux-kernel", &format!("{}/state/vm-kernels", ground.dir)),
    ]
}

impl Oracle {
    pub(super) fn pool(&self, name: &str) -> Result<&Pool, Refused> {
        match self.pools.iter().find(|pool| pool.name == name) {
            Some(pool) => Ok(pool),
            None => refused("PermissionDenied", "Argument not in 'pools'"),
        }
    }

    /// What a pool's volumes get that say nothing themselves.
    pub(super) fn pools_keep(&self, pool: &str) -> i64 {
        self.pool(pool).unwrap().keep
    }

    pub(super) fn pools_ephemeral(&self, pool: &str) -> bool {
        self.pool(pool).unwrap().ephemeral
    }

    pub(super) fn pool_call(
        &mut self,
        dialect: Dialect,
        verb: &str,
        name: &str,
        payload: &str,
        events: &mut Vec<String>,
    ) -> Answer {
        match verb {
            "List" => return Ok(self.pools.iter().map(|pool| format!("{}\n", pool.name)).collect()),
            "ListDrivers" => return Ok(drivers(dialect)),
            "Add" => return self.add_pool(name, payload, events),
            _ => {}
        }
        let setting = match verb {
            "Set.revisions_to_keep" => Some(Setting::Keep(revisions_to_keep(payload)?)),
            "Set.ephemeral_volatile" => Some(Setting::Ephemeral(super::volume_call::boolean(payload)?)),
            _ => None,
        };
        let pool = self.pool(name)?;
        match (verb, setting) {
            ("Info", _) => Ok(self.pool_info(dialect, pool)),
            ("UsageDetails", _) if pool.holds_kernels() => Ok(String::new()),
            ("UsageDetails", _) => Ok(format!("data_size={ANY}\ndata_usage={ANY}\n")),
            ("Remove", _) => self.remove_pool(name, events),
            (_, Some(setting)) => self.set_pool(name, setting),
            (verb, None) => panic!("pool.{verb}"),
        }
    }

    fn pool_info(&self, dialect: Dialect, pool: &Pool) -> String {
        let mut lines = vec![
            format!("dir_path={}", pool.dir),
            format!("driver={}", pool.driver),
            format!("name={}", pool.name),
        ];
        if pool.holds_kernels() {
            let around = |other: &&Pool| pool.dir.starts_with(&format!("{}/", other.dir));
            lines.extend(self.pools.iter().find(around).map(|other| format!("included_in={}", other.name)));
        } else {
            let ephemeral = if pool.ephemeral { "True" } else { "False" };
            lines.insert(2, format!("ephemeral_volatile={ephemeral}"));
            lines.push(format!("revisions_to_keep={}", pool.keep));
            lines.extend([format!("size={ANY}"), format!("usage={ANY}")]);
            if pool.driver == "file" && dialect == Dialect::Mgmt {
                lines.insert(0, format!("cow={}", pool.cow));
            }
        }
        lines.into_iter().map(|line| line + "\n").collect()
    }

    fn set_pool(&mut self, name: &str, setting: Setting) -> Answer {
        let pool = self.pools.iter_mut().find(|pool| pool.name == name).unwrap();
        match setting {
            Setting::Keep(0) | Setting::Ephemeral(false) if pool.holds_kernels() => {}
            Setting::Keep(_) if pool.holds_kernels() => {
                return refused("QubesValueError", "LinuxKernel supports only revisions_to_keep=0");
            }
            Setting::Ephemeral(_) if pool.holds_kernels() => {
                return refused("QubesValueError", "LinuxKernel supports only ephemeral_volatile=False");
            }
            Setting::Keep(number) => pool.keep = number,
            Setting::Ephemeral(true) => return cannot_encrypt(format!("set up pool {name}")),
            Setting::Ephemeral(false) => pool.ephemeral = false,
        }
        Ok(String::new())
    }

    fn remove_pool(&mut self, name: &str, events: &mut Vec<String>) -> Answer {
        let by_default = |global: &&&str| match self.globals.get(**global) {
            Some(value) => *value == Value::Text(name.to_owned()),
            None => **global == "default_pool" && name == "varlibqubes",
        };
        let mut reasons: Vec<String> =
            DEFAULTS.iter().filter(by_default).map(|global| format!("set as {global}")).collect();
        let users: Vec<&str> = self
            .vms
            .iter()
            .filter(|(vm, of)| of.volumes.iter().any(|volume| self.pool_of(vm, volume) == name))
            .map(|(vm, _)| vm.as_str())
            .collect();
        if !users.is_empty() {
            reasons.push(format!("volumes of {}", users.join(", ")));
        }
        if !reasons.is_empty() {
            let reasons = reasons.join("; ");
            return refused("QubesPoolInUseError", format!("Storage pool is in use: {reasons}"));
        }
        events.push(format!("- pool-pre-delete pool={name}"));
        self.pools.retain(|pool| pool.name != name);
        events.push(format!("- pool-delete pool={name}"));
        Ok(String::new())
    }

    fn add_pool(&mut self, driver: &str, payload: &str, events: &mut Vec<String>) -> Answer {
        if payload.is_empty() {
            return refused("ProtocolError", "expected payload");
        }
        let Some((driver, known)) = DRIVERS.into_iter().find(|(name, _)| *name == driver) else {
            return refused("PermissionDenied", "Argument not in 'available drivers'");
        };
        let mut options = BTreeMap::new();
        for line in payload.strip_suffix('\n').unwrap_or(payload).split('\n') {
            let Some((key, value)) = line.split_once('=') else {
                return refused("ProtocolError", "Options must be separated by equal sign");
            };
            if options.insert(key, value).is_some() {
                return refused("ProtocolError", "Options must be unique");
            }
        }
        let name = match options.remove("name") {
            None => return refused("ProtocolError", "Pool configuration must contain key: name"),
            Some("") => return refused("ProtocolError", "Pool name must be set"),
            Some(name) if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) => {
                return refused("ProtocolError", format!("Pool name must be in safe set: {REST}"));
            }
            Some(name) => name,
        };
        let unknown: Vec<&str> = options.keys().filter(|key| !known.contains(key)).copied().collect();
        if !unknown.is_empty() {
            let text = format!("Unexpected driver options found: {}", unknown.join(", "));
            return refused("ProtocolError", text);
        }
        let Some(dir) = options.get("dir_path") else {
            return refused("QubesException", "missing required driver options: dir_path");
        };
        let mut pool = Pool::new(name, driver, dir.trim_end_matches(['.', '/']));
        self.tell(&mut pool, &options)?;
        if self.pools.iter().any(|other| other.name == name) {
            return refused("QubesPoolInUseError", format!("Storage pool is in use: '{name}'"));
        }
        self.check_place(&pool)?;
        self.folders.insert(pool.dir.clone());
        self.pools.push(pool);
        events.push(format!("- pool-add pool={name}"));
        Ok(String::new())
    }

    /// Gives a new pool its options.
    fn tell(&self, pool: &mut Pool, options: &BTreeMap<&str, &str>) -> Result<(), Refused> {
        for (key, value) in options {
            let flag = super::volume_call::boolean(value);
            let good = match *key {
                "dir_path" => value.starts_with('/') && !value.contains(".."),
                "revisions_to_keep" => value.parse().is_ok_and(|number| {
                    pool.keep = number;
                    number >= -1
                }),
                "ephemeral_volatile" => {
                    pool.ephemeral = flag == Ok(true);
                    flag.is_ok()
                }
                "setup_check" => flag.is_ok(),
                "cow" if *value == "copy" => {
                    pool.cow = "copy";
                    true
                }
                _ => *value == "auto",
            };
            if !good {
                return refused("QubesValueError", format!("Invalid value for {key}: '{value}'"));
            }
        }
        Ok(())
    }

    fn check_place(&self, new: &Pool) -> Result<(), Refused> {
        let within = |inner: &Pool, outer: &Pool| inner.dir.starts_with(&format!("{}/", outer.dir));
        // A pool of kernels may lie beside the folders of VMs.
        let beside = |inner: &Pool, outer: &Pool| {
            let below = inner.dir.strip_prefix(&format!("{}/", outer.dir)).unwrap();
            let group = below.split('/').next().unwrap();
            inner.holds_kernels() && !outer.holds_kernels() && !["appvms", "vm-templates"].contains(&group)
        };
        for other in &self.pools {
            let how = if other.dir == new.dir {
                format!("same place as pool '{}'", other.name)
            } else if within(new, other) && !beside(new, other) {
                format!("the place lies inside that of pool '{}'", other.name)
            } else if within(other, new) && !beside(other, new) {
                format!("the place of pool '{}' lies inside it", other.name)
            } else {
                continue;
            };
            return refused("QubesPoolInUseError", format!("Storage pool is in use: {how}"));
        }
        if new.ephemeral {
            return cannot_encrypt(format!("set up pool {}", new.name));
        }
        let parent = new.dir.rsplit_once('/').unwrap().0;
        let fails = |why: &str| {
            let text = format!("set up pool {}: {why}{}", new.dir, REST);
            refused("StoragePoolException", text)
        };
        if parent != self.ground.dir && !self.folders.contains(parent) {
            return fails(&format!("not found: the folder {parent} must exist"));
        }
        if new.driver == "file-reflink" && !self.ground.shares_blocks {
            return fails("not supported here: the file system does not support reflinks");
        }
        Ok(())
    }
}

/// The daemon finds no `dmsetup`, so that it can encrypt as little as any machine without dm-crypt.
fn cannot_encrypt<T>(what: String) -> Result<T, Refused> {
    refused("StoragePoolException", format!("{what}: not supported here: {REST}"))
}

enum Setting {
    Keep(i64),
    Ephemeral(bool),
}

fn drivers(dialect: Dialect) -> String {
    let shown = |option: &&&str| dialect == Dialect::Mgmt || **option != "cow";
    DRIVERS
        .iter()
        .map(|(driver, options)| {
            let options: Vec<&str> = options.iter().filter(shown).copied().collect();
            format!("{driver} {}\n", options.join(" "))
        })
        .collect()
}

fn revisions_to_keep(payload: &str) -> Result<i64, Refused> {
    match super::volume_call::number("Revisions to keep", payload)? {
        ..-1 => refused("ProtocolError", "Value can't be lower than -1"),
        number if number > i32::MAX.into() => {
            refused("QubesValueError", "Invalid value for revisions_to_keep")
        }
        number => Ok(i64::try_from(number).unwrap()),
    }
}
