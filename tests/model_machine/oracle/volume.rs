//! Volumes: what they hold, and what they have held.

use std::collections::BTreeMap;

use super::value::Value;
use super::volume_call::no_revision;
use super::{ANY, Answer, Class, Oracle, REST, Refused, UNORDERED, refused};
use crate::call::Dialect;

const GIB: u64 = 1 << 30;

/// What a volume holds: so much, beginning with this, and zeros behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub size: u64,
    pub data: String,
}

impl State {
    pub(super) fn empty(size: u64) -> Self {
        Self { size, data: String::new() }
    }
}

/// A volume that outlives a stop, with its former states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub now: State,
    /// Automatic ones, by number.
    pub revisions: BTreeMap<u64, State>,
    /// Those that somebody asked for.
    pub kept: BTreeMap<u64, State>,
    /// The last number of such a one.
    pub(super) last: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Origin(Origin),
    /// Each start makes it from another.
    Snapshot,
    Volatile(u64),
    Kernel,
}

#[derive(Debug, Clone)]
pub struct Volume {
    pub name: &'static str,
    /// Of a snapshot: its source's.
    pool: String,
    pub kind: Kind,
    pub(super) rw: bool,
    pub(super) keep: Option<i64>,
    pub(super) ephemeral: Option<bool>,
}

/// Where a new VM's volumes are to lie.
pub(super) enum Pools<'a> {
    Default,
    All(&'a str),
    One(&'a str, &'a str),
}

impl Volume {
    fn of(name: &'static str, pool: String, kind: Kind) -> Self {
        let rw = kind != Kind::Kernel;
        Self { name, pool, kind, rw, keep: None, ephemeral: None }
    }

    pub fn origin(&self) -> Option<&Origin> {
        match &self.kind {
            Kind::Origin(origin) => Some(origin),
            _ => None,
        }
    }

    /// The same of a clone.
    pub(super) fn copy(&self) -> Self {
        let mut copy = self.clone();
        if let Kind::Origin(origin) = &mut copy.kind {
            *origin = Origin::new(origin.now.clone());
        }
        copy
    }
}

impl Origin {
    fn new(now: State) -> Self {
        Self { now, revisions: BTreeMap::new(), kept: BTreeMap::new(), last: 0 }
    }

    /// Another state takes the place of this one, which becomes the newest of `keep` revisions.
    pub(super) fn replace(&mut self, new: State, keep: i64) {
        let old = std::mem::replace(&mut self.now, new);
        let number = self.revisions.keys().last().map_or(1, |last| last + 1);
        self.revisions.insert(number, old);
        while self.revisions.len() as i64 > keep.max(0) {
            self.revisions.pop_first();
        }
    }

    pub(super) fn revert(&mut self, id: &str, keep: i64) -> Result<(), Refused> {
        let number = |id: &str| id.parse::<u64>().ok().filter(|number| number.to_string() == id);
        let (new, used_up) = match id.strip_prefix('s') {
            Some(id) => (number(id).and_then(|number| self.kept.get(&number)), None),
            None => {
                let number = number(id);
                (number.and_then(|number| self.revisions.get(&number)), number)
            }
        };
        let Some(new) = new.cloned() else { return no_revision(id) };
        let old = std::mem::replace(&mut self.now, new);
        let next = self.revisions.keys().last().map_or(1, |last| last + 1);
        self.revisions.insert(next, old);
        used_up.map(|number| self.revisions.remove(&number));
        while self.revisions.len() as i64 > keep.max(0) {
            self.revisions.pop_first();
        }
        Ok(())
    }

    pub(super) fn forget(&mut self, id: &str) -> Result<(), Refused> {
        let number = |id: &str| id.parse::<u64>().ok().filter(|number| number.to_string() == id);
        let gone = match id.strip_prefix('s') {
            Some(id) => number(id).and_then(|number| self.kept.remove(&number)),
            None => number(id).and_then(|number| self.revisions.remove(&number)),
        };
        if gone.is_some() { Ok(()) } else { no_revision(id) }
    }
}

impl Oracle {
    pub fn volume(&self, vm: &str, name: &str) -> Option<&Volume> {
        self.vms.get(vm)?.volumes.iter().find(|volume| volume.name == name)
    }

    pub(super) fn volume_mut(&mut self, vm: &str, name: &str) -> &mut Volume {
        self.vm_mut(vm).volumes.iter_mut().find(|volume| volume.name == name).unwrap()
    }

    /// Whose volume each start of a VM makes a snapshot of.
    pub(super) fn source(&self, vm: &str, name: &str) -> Option<(String, &Volume)> {
        let mut at = self.template(vm);
        while let Some(vm) = at {
            match self.volume(&vm, name)? {
                volume if volume.origin().is_some() => return Some((vm, volume)),
                _ => at = self.template(&vm),
            }
        }
        None
    }

    pub fn pool_of<'a>(&'a self, vm: &str, volume: &'a Volume) -> &'a str {
        match volume.kind {
            Kind::Snapshot => &self.source(vm, volume.name).unwrap().1.pool,
            _ => &volume.pool,
        }
    }

    /// A volume's name in its pool.
    pub fn vid(&self, vm: &str, volume: &Volume) -> String {
        match (&volume.kind, self.vms[vm].class) {
            (Kind::Kernel, _) => self.shown(self.value(vm, "kernel").as_ref()),
            (_, Class::Template) => format!("vm-templates/{vm}/{}", volume.name),
            _ => format!("appvms/{vm}/{}", volume.name),
        }
    }

    pub fn size(&self, vm: &str, volume: &Volume) -> u64 {
        match &volume.kind {
            Kind::Origin(origin) => origin.now.size,
            Kind::Snapshot => self.source(vm, volume.name).unwrap().1.origin().unwrap().now.size,
            Kind::Volatile(size) => *size,
            Kind::Kernel => 0,
        }
    }

    pub(super) fn keep(&self, vm: &str, volume: &Volume) -> i64 {
        match (&volume.kind, volume.keep) {
            (Kind::Kernel, _) => 0,
            (_, Some(keep)) => keep,
            (_, None) => self.pools_keep(self.pool_of(vm, volume)),
        }
    }

    /// The volumes of a new VM.
    pub(super) fn new_volumes(
        &self,
        class: Class,
        base: Option<&str>,
        pools: &Pools<'_>,
    ) -> Result<Vec<Volume>, Refused> {
        if let Pools::All(pool) | Pools::One(_, pool) = pools
            && self.pool(pool).is_err()
            && !matches!(pools, Pools::One("root" | "private", _) if class == Class::Disp)
            && !matches!(pools, Pools::One("root", _) if class == Class::App)
        {
            return refused("QubesException", format!("Unknown storage pool {pool}"));
        }
        if !class.is_local_guest() {
            return Ok(Vec::new());
        }
        let own = |size: u64| Kind::Origin(Origin::new(State::empty(size)));
        let kinds = match class {
            Class::App => [Kind::Snapshot, own(2 * GIB), Kind::Volatile(10 * GIB), Kind::Kernel],
            Class::Disp => [Kind::Snapshot, Kind::Snapshot, Kind::Volatile(12 * GIB), Kind::Kernel],
            _ => [own(10 * GIB), own(2 * GIB), Kind::Volatile(10 * GIB), Kind::Kernel],
        };
        let mut volumes = Vec::new();
        for (name, kind) in ["root", "private", "volatile", "kernel"].into_iter().zip(kinds) {
            let named = match pools {
                Pools::All(pool) if matches!(kind, Kind::Origin(_) | Kind::Volatile(_)) => Some(*pool),
                Pools::One(volume, pool) if *volume == name => Some(*pool),
                _ => None,
            };
            if let (Kind::Snapshot, Some(pool)) = (&kind, named) {
                let text = format!(
                    "Snapshot volume {name} must be in the same pool as its origin ({name} volume of \
                     template),cannot move to pool {pool} "
                );
                return refused("QubesException", text);
            }
            // A disposable's are like those of what it is based on.
            let like = base.filter(|_| class == Class::Disp).and_then(|base| self.volume(base, name));
            let by_default = match self.global_value(&format!("default_pool_{name}")) {
                Some(Value::Text(pool)) => pool,
                other => panic!("default_pool_{name}: {other:?}"),
            };
            let pool = named.or(like.map(|like| like.pool.as_str())).unwrap_or(&by_default);
            let mut volume = Volume::of(name, pool.to_owned(), kind);
            if let Some(like) = like {
                (volume.rw, volume.ephemeral) = (like.rw, like.ephemeral);
            }
            volumes.push(volume);
        }
        if let Pools::One("kernel", pool) = pools
            && !self.pool(pool).unwrap().holds_kernels()
        {
            return refused(
                "StoragePoolException",
                format!("Volume kernel cannot lie in storage pool '{pool}'{REST}"),
            );
        }
        let misplaced = |volume: &Volume| {
            matches!(volume.kind, Kind::Origin(_) | Kind::Volatile(_))
                && self.pool(&volume.pool).unwrap().holds_kernels()
        };
        if volumes.iter().any(misplaced) {
            return refused("StoragePoolException", format!("create volume {REST}"));
        }
        Ok(volumes)
    }

    pub(super) fn volume_info(&self, dialect: Dialect, vm: &str, volume: &Volume) -> String {
        let yes = |yes: bool| if yes { "True" } else { "False" };
        let (pool, vid) = (self.pool_of(vm, volume), self.vid(vm, volume));
        let mut lines = vec![
            format!("pool={pool}"),
            format!("vid={vid}"),
            format!("size={}", self.size(vm, volume)),
            format!("usage={ANY}"),
            format!("rw={}", yes(volume.rw)),
        ];
        let (origin, volatile) = (volume.origin().is_some(), matches!(volume.kind, Kind::Volatile(_)));
        if dialect == Dialect::Mgmt {
            lines.push(format!("internal={}", yes(volatile || volume.kind == Kind::Kernel)));
        }
        let source = match volume.kind {
            Kind::Snapshot => {
                self.source(vm, volume.name).map(|(owner, source)| self.vid(&owner, source)).unwrap()
            }
            _ => String::new(),
        };
        lines.push(format!("source={source}"));
        if dialect == Dialect::Admin {
            let file = |which: &str| format!("{}/{vid}{which}.img", self.pool(pool).unwrap().dir);
            lines.push(match volume.kind {
                Kind::Kernel => "path=".into(),
                // With device-mapper it is a device.
                Kind::Snapshot => format!("path={ANY}"),
                Kind::Origin(_) if !volume.rw => format!("path={}", file("")),
                _ => format!("path={}", file("-dirty")),
            });
        }
        lines.push(format!("save_on_stop={}", yes(origin)));
        lines.push(format!("snap_on_start={}", yes(volume.kind == Kind::Snapshot)));
        if dialect == Dialect::Admin {
            let of_pool = volatile && volume.rw && self.pools_ephemeral(pool);
            lines.push(format!("revisions_to_keep={}", self.keep(vm, volume)));
            lines.push(format!("ephemeral={}", yes(volume.ephemeral.unwrap_or(of_pool))));
            lines.push("is_outdated=False".into());
        }
        lines.into_iter().map(|line| line + "\n").collect()
    }

    pub(super) fn volumes_in(&self, pool: &str) -> Answer {
        if self.pool(pool)?.holds_kernels() {
            let installed = pool == "linux-kernel";
            return Ok(if installed { format!("{}\n", super::global::KERNEL) } else { String::new() });
        }
        let mut vids = Vec::new();
        for (vm, of) in &self.vms {
            let here = of
                .volumes
                .iter()
                .filter(|volume| volume.kind != Kind::Kernel && self.pool_of(vm, volume) == pool);
            vids.extend(here.map(|volume| self.vid(vm, volume) + "\n"));
        }
        vids.sort();
        Ok(vids.concat())
    }
}

/// In the order of time, which is not told apart within a second.
pub(super) fn former_states(volume: &Volume) -> String {
    let Some(origin) = volume.origin() else { return String::new() };
    let automatic = origin.revisions.keys().map(|number| format!("{number}\n"));
    let kept = origin.kept.keys().map(|number| format!("s{number}\n"));
    format!("{UNORDERED}{}", automatic.chain(kept).collect::<String>())
}
