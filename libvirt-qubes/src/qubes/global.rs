//! The properties of the system: their names, types and the values that defaults of VMs follow.

use std::fmt;

use uuid::Uuid;

use super::model::Model;
use super::value::{Type, Value};
use super::vm::Vm;
use crate::ids::PoolName;

macro_rules! globals {
    ($($(#[$doc:meta])* $variant:ident => $name:literal $kind:ident,)*) => {
        /// A global property that can be stored.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Global { $($(#[$doc])* $variant,)* }

        impl Global {
            /// Every one, in the order of their names.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What kind of value it takes.
            pub const fn kind(self) -> GlobalKind {
                match self { $(Self::$variant => GlobalKind::$kind,)* }
            }
        }
    };
}

/// What kind of value a global property takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GlobalKind {
    /// Text.
    Str,
    /// A number.
    Int,
    /// Yes or no.
    Bool,
    /// A VM, or none.
    Vm,
    /// A pool; text on the wire.
    Pool,
}

impl GlobalKind {
    /// The type that clients see.
    pub const fn wire(self) -> Type {
        match self {
            Self::Str | Self::Pool => Type::Str,
            Self::Int => Type::Int,
            Self::Bool => Type::Bool,
            Self::Vm => Type::Vm,
        }
    }

    /// Whether a value is of this kind.
    pub(crate) const fn takes(self, value: &Value) -> bool {
        matches!(
            (self, value),
            (Self::Str, Value::Str(_))
                | (Self::Int, Value::Int(_))
                | (Self::Bool, Value::Bool(_))
                | (Self::Vm, Value::Vm(_))
                | (Self::Pool, Value::Pool(_))
        )
    }
}

globals! {
    /// `check_updates_vm`
    CheckUpdatesVm => "check_updates_vm" Bool,
    /// `clockvm`
    Clockvm => "clockvm" Vm,
    /// `default_audiovm`
    DefaultAudiovm => "default_audiovm" Vm,
    /// `default_dispvm`
    DefaultDispvm => "default_dispvm" Vm,
    /// `default_guivm`
    DefaultGuivm => "default_guivm" Vm,
    /// `default_kernel`
    DefaultKernel => "default_kernel" Str,
    /// `default_netvm`
    DefaultNetvm => "default_netvm" Vm,
    /// `default_pool`
    DefaultPool => "default_pool" Pool,
    /// `default_pool_kernel`
    DefaultPoolKernel => "default_pool_kernel" Pool,
    /// `default_pool_private`
    DefaultPoolPrivate => "default_pool_private" Pool,
    /// `default_pool_root`
    DefaultPoolRoot => "default_pool_root" Pool,
    /// `default_pool_volatile`
    DefaultPoolVolatile => "default_pool_volatile" Pool,
    /// `default_qrexec_timeout`
    DefaultQrexecTimeout => "default_qrexec_timeout" Int,
    /// `default_shutdown_timeout`
    DefaultShutdownTimeout => "default_shutdown_timeout" Int,
    /// `default_template`
    DefaultTemplate => "default_template" Vm,
    /// `management_dispvm`
    ManagementDispvm => "management_dispvm" Vm,
    /// `stats_interval`
    StatsInterval => "stats_interval" Int,
    /// `updatevm`
    Updatevm => "updatevm" Vm,
}

impl Global {
    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|global| global.name() == name)
    }
}

impl fmt::Display for Global {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Model {
    /// The VM that a global property names, by its value or default; `None` also where it is no VM property.
    pub fn global_vm(&self, global: Global) -> Option<Uuid> {
        match self.global(global) {
            Some(value) => value.as_vm(),
            None if matches!(global, Global::DefaultGuivm | Global::DefaultAudiovm) => Some(Vm::DOM0),
            None => None,
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
        let named = |global| self.global(global).and_then(Value::as_pool);
        own.and_then(named).or_else(|| named(Global::DefaultPool))
    }

    /// The kernel that VMs without their own, or a template's, boot; `None` where it is empty.
    pub fn default_kernel(&self) -> Option<&str> {
        let kernel = self.global(Global::DefaultKernel).and_then(Value::as_str)?;
        (!kernel.is_empty()).then_some(&**kernel)
    }

    /// A global number, by its value or default; `None` where it is no number.
    pub fn global_int(&self, global: Global) -> Option<i64> {
        let default = if matches!(global, Global::DefaultQrexecTimeout | Global::DefaultShutdownTimeout) {
            Some(60)
        } else {
            (global == Global::StatsInterval).then_some(3)
        };
        self.global(global).map_or(default, Value::as_int)
    }
}
