//! The properties of the system: one declarative table, and Get, List, Set and Reset made from it.
//!
//! As with the properties of VMs, everything here is a pure function of a snapshot.

mod change;
mod followed;
mod row;
mod rows;
#[cfg(test)]
mod tests;

use std::fmt;

use uuid::Uuid;

pub use change::{reset, set, set_value};
pub use row::{Announced, GlobalFallback, GlobalKind, GlobalRow, GlobalRules, GlobalSource};

use super::model::Model;
use super::property::{Answer, Origin, shown};
use super::refusal::{Owner, Refusal};
use super::snapshot::Snapshot;
use super::value::{Shown, Value};
use crate::ids::PoolName;

macro_rules! globals {
    ($($(#[$doc:meta])* $variant:ident => $row:path,)*) => {
        /// A global property.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Global { $($(#[$doc])* $variant,)* }

        impl Global {
            /// Every one, in the order of their names, in which they are listed.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its row in the table.
            pub fn row(self) -> &'static GlobalRow {
                match self { $(Self::$variant => &$row,)* }
            }
        }
    };
}

globals! {
    /// `check_updates_vm`
    CheckUpdatesVm => rows::CHECK_UPDATES_VM,
    /// `clockvm`
    Clockvm => followed::CLOCKVM,
    /// `default_audiovm`
    DefaultAudiovm => followed::DEFAULT_AUDIOVM,
    /// `default_dispvm`
    DefaultDispvm => followed::DEFAULT_DISPVM,
    /// `default_guivm`
    DefaultGuivm => followed::DEFAULT_GUIVM,
    /// `default_kernel`
    DefaultKernel => rows::DEFAULT_KERNEL,
    /// `default_netvm`
    DefaultNetvm => followed::DEFAULT_NETVM,
    /// `default_pool`
    DefaultPool => rows::DEFAULT_POOL,
    /// `default_pool_kernel`
    DefaultPoolKernel => rows::DEFAULT_POOL_KERNEL,
    /// `default_pool_private`
    DefaultPoolPrivate => rows::DEFAULT_POOL_PRIVATE,
    /// `default_pool_root`
    DefaultPoolRoot => rows::DEFAULT_POOL_ROOT,
    /// `default_pool_volatile`
    DefaultPoolVolatile => rows::DEFAULT_POOL_VOLATILE,
    /// `default_qrexec_timeout`
    DefaultQrexecTimeout => rows::DEFAULT_QREXEC_TIMEOUT,
    /// `default_shutdown_timeout`
    DefaultShutdownTimeout => rows::DEFAULT_SHUTDOWN_TIMEOUT,
    /// `default_template`
    DefaultTemplate => rows::DEFAULT_TEMPLATE,
    /// `management_dispvm`
    ManagementDispvm => rows::MANAGEMENT_DISPVM,
    /// `maxmem`
    Maxmem => rows::MAXMEM,
    /// `no_cpus`
    NoCpus => rows::NO_CPUS,
    /// `stats_interval`
    StatsInterval => rows::STATS_INTERVAL,
    /// `updatevm`
    Updatevm => rows::UPDATEVM,
}

impl Global {
    /// Its name.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// What kind of value it takes.
    pub fn kind(self) -> GlobalKind {
        self.row().kind
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|global| global.name() == name)
    }

    /// The one that a client names.
    ///
    /// # Errors
    /// [`Refusal::NoSuchProperty`].
    pub fn find(name: &str) -> Result<Self, Refusal> {
        Self::named(name)
            .ok_or_else(|| Refusal::NoSuchProperty { property: name.to_owned(), of: Owner::System })
    }

    /// The rules of one that can be set; `None` for those that are computed.
    pub(super) fn rules(self) -> Option<&'static GlobalRules> {
        match &self.row().source {
            GlobalSource::Stored(rules) => Some(rules),
            GlobalSource::Computed(_) => None,
        }
    }
}

impl fmt::Display for Global {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The value that holds where none is set; for computed properties, the value.
fn default(snapshot: &Snapshot, global: Global) -> Option<Value> {
    match &global.row().source {
        GlobalSource::Computed(compute) => compute(snapshot),
        GlobalSource::Stored(_) => snapshot.model.global_default(global),
    }
}

/// The value of a global property as it holds now, set or not; `None` where there is none.
pub fn value(snapshot: &Snapshot, global: Global) -> Option<Value> {
    snapshot.model.global(global).cloned().or_else(|| default(snapshot, global))
}

/// The default as clients see it: it may be none; `None` for a property that has no default at all.
pub fn default_shown(snapshot: &Snapshot, global: Global) -> Option<Shown> {
    let has = global.rules().is_none_or(|rules| matches!(rules.default, GlobalFallback::To(_)));
    has.then(|| shown(&snapshot.model, default(snapshot, global).as_ref()))
}

/// What holds now as clients see it; `None` where there is neither a value nor a default.
fn value_shown(snapshot: &Snapshot, global: Global) -> Option<Shown> {
    match snapshot.model.global(global) {
        Some(value) => Some(shown(&snapshot.model, Some(value))),
        None => default_shown(snapshot, global),
    }
}

/// What Get answers.
pub fn answer(snapshot: &Snapshot, global: Global) -> Answer {
    let (origin, value) = match snapshot.model.global(global) {
        Some(value) => (Origin::Explicit, Some(value.clone())),
        None => (Origin::Default, default(snapshot, global)),
    };
    Answer { origin, kind: global.kind().wire(), value: shown(&snapshot.model, value.as_ref()) }
}

impl Model {
    fn global_default(&self, global: Global) -> Option<Value> {
        match global.rules()?.default {
            GlobalFallback::Missing => None,
            GlobalFallback::To(default) => default(self),
        }
    }

    /// The VM that a global property names, by its value or default; `None` also where it is no VM property.
    pub fn global_vm(&self, global: Global) -> Option<Uuid> {
        match self.global(global) {
            Some(value) => value.as_vm(),
            None => self.global_default(global)?.as_vm(),
        }
    }

    /// The pool for new volumes of this name: the pool named for them, else `default_pool`.
    pub fn default_pool_of(&self, volume: &str) -> Option<&PoolName> {
        let own = match volume {
            "root" => Some(Global::DefaultPoolRoot),
            "private" => Some(Global::DefaultPoolPrivate),
            "volatile" => Some(Global::DefaultPoolVolatile),
            "kernel" => Some(Global::DefaultPoolKernel),
            _ => None,
        };
        own.and_then(|global| self.global(global)?.as_pool()).or_else(|| self.default_pool())
    }

    /// The pool for new volumes, by `default_pool` or its default.
    fn default_pool(&self) -> Option<&PoolName> {
        match self.global(Global::DefaultPool) {
            Some(value) => value.as_pool(),
            None => self.usual_pool(),
        }
    }

    /// The pool of a first start, if it is there.
    fn usual_pool(&self) -> Option<&PoolName> {
        self.pool("varlibqubes").map(|pool| &pool.name)
    }

    /// The kernel that VMs without their own, or a template's, boot; `None` where it is empty.
    pub fn default_kernel(&self) -> Option<&str> {
        let kernel = self.global(Global::DefaultKernel).and_then(Value::as_str)?;
        (!kernel.is_empty()).then_some(&**kernel)
    }

    /// A global number, by its value or default; `None` where it is no number, or computed.
    pub fn global_int(&self, global: Global) -> Option<i64> {
        match self.global(global) {
            Some(value) => value.as_int(),
            None => self.global_default(global)?.as_int(),
        }
    }
}
