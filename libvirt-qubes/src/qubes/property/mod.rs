//! The properties of VMs: one declarative table, and Get, List, Set and Reset made from it.
//!
//! The functions here are pure: they read a snapshot and give a value or a
//! [`Diff`](super::diff::Diff) for the committer. Nothing here looks at a disk or at Xen.

mod address;
pub(super) mod boot;
pub(super) mod change;
pub(super) mod desktop;
mod help;
mod identity;
#[cfg(test)]
mod integrity_test;
pub(super) mod network;
pub(super) mod parse;
mod remote;
pub(super) mod resources;
mod row;
mod running;
mod settings;
pub(super) mod template;
#[cfg(test)]
mod tests;

use std::fmt;

pub use change::{reset, set, set_value};
pub use help::plain;
pub use row::{
    Change, CloneRule, Compute, Effects, Fallback, Inherit, Row, Rules, Source, Stage, TakesEffect,
};

use super::class::VmClass;
use super::model::Model;
use super::refusal::{Owner, Refusal};
use super::snapshot::Snapshot;
use super::value::{Shown, Type, Value};
use super::vm::Vm;

macro_rules! properties {
    ($($(#[$doc:meta])* $name:ident => $row:path,)*) => {
        /// A property of VMs, by name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Property { $($(#[$doc])* $name,)* }

        impl Property {
            /// Every property, in no particular order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its row in the table.
            pub fn row(self) -> &'static Row {
                match self { $(Self::$name => &$row,)* }
            }
        }
    };
}

properties! {
    /// `label`
    Label => identity::LABEL,
    /// `name`
    Name => identity::NAME,
    /// `qid`
    Qid => identity::QID,
    /// `uuid`
    Uuid => identity::UUID,
    /// `klass`
    Klass => identity::KLASS,
    /// `dispid`
    Dispid => identity::DISPID,
    /// `is_preload`
    IsPreload => identity::IS_PRELOAD,
    /// `icon`
    Icon => identity::ICON,
    /// `updateable`
    Updateable => identity::UPDATEABLE,
    /// `xid`
    Xid => running::XID,
    /// `stubdom_xid`
    StubdomXid => running::STUBDOM_XID,
    /// `stubdom_uuid`
    StubdomUuid => running::STUBDOM_UUID,
    /// `start_time`
    StartTime => running::START_TIME,
    /// `memory`
    Memory => resources::MEMORY,
    /// `maxmem`
    Maxmem => resources::MAXMEM,
    /// `stubdom_mem`
    StubdomMem => resources::STUBDOM_MEM,
    /// `vcpus`
    Vcpus => resources::VCPUS,
    /// `virt_mode`
    VirtMode => boot::VIRT_MODE,
    /// `kernel`
    Kernel => boot::KERNEL,
    /// `kernelopts`
    Kernelopts => boot::KERNELOPTS,
    /// `bootmode`
    Bootmode => boot::BOOTMODE,
    /// `appvm_default_bootmode`
    AppvmDefaultBootmode => boot::APPVM_DEFAULT_BOOTMODE,
    /// `template`
    Template => template::TEMPLATE,
    /// `template_for_dispvms`
    TemplateForDispvms => template::TEMPLATE_FOR_DISPVMS,
    /// `default_dispvm`
    DefaultDispvm => template::DEFAULT_DISPVM,
    /// `management_dispvm`
    ManagementDispvm => template::MANAGEMENT_DISPVM,
    /// `auto_cleanup`
    AutoCleanup => template::AUTO_CLEANUP,
    /// `netvm`
    Netvm => network::NETVM,
    /// `provides_network`
    ProvidesNetwork => network::PROVIDES_NETWORK,
    /// `mac`
    Mac => network::MAC,
    /// `ip`
    Ip => address::IP,
    /// `ip6`
    Ip6 => address::IP6,
    /// `visible_ip`
    VisibleIp => address::VISIBLE_IP,
    /// `visible_ip6`
    VisibleIp6 => address::VISIBLE_IP6,
    /// `visible_gateway`
    VisibleGateway => address::VISIBLE_GATEWAY,
    /// `visible_gateway6`
    VisibleGateway6 => address::VISIBLE_GATEWAY6,
    /// `visible_netmask`
    VisibleNetmask => address::VISIBLE_NETMASK,
    /// `gateway`
    Gateway => address::GATEWAY,
    /// `gateway6`
    Gateway6 => address::GATEWAY6,
    /// `dns`
    Dns => address::DNS,
    /// `guivm`
    Guivm => desktop::GUIVM,
    /// `audiovm`
    Audiovm => desktop::AUDIOVM,
    /// `keyboard_layout`
    KeyboardLayout => desktop::KEYBOARD_LAYOUT,
    /// `relayvm`
    Relayvm => remote::RELAYVM,
    /// `transport_rpc`
    TransportRpc => remote::TRANSPORT_RPC,
    /// `remote_name`
    RemoteName => remote::REMOTE_NAME,
    /// `autostart`
    Autostart => settings::AUTOSTART,
    /// `backup_timestamp`
    BackupTimestamp => settings::BACKUP_TIMESTAMP,
    /// `debug`
    Debug => settings::DEBUG,
    /// `default_user`
    DefaultUser => settings::DEFAULT_USER,
    /// `include_in_backups`
    IncludeInBackups => settings::INCLUDE_IN_BACKUPS,
    /// `installed_by_rpm`
    InstalledByRpm => settings::INSTALLED_BY_RPM,
    /// `qrexec_timeout`
    QrexecTimeout => settings::QREXEC_TIMEOUT,
    /// `shutdown_timeout`
    ShutdownTimeout => settings::SHUTDOWN_TIMEOUT,
    /// `devices_denied`
    DevicesDenied => settings::DEVICES_DENIED,
}

impl Property {
    /// Its name.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The property of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|property| property.name() == name)
    }

    /// The number that holds for a VM; `None` where there is none, or it is no number.
    pub fn int(self, snapshot: &Snapshot, vm: &Vm) -> Option<i64> {
        if let Some(Value::Int(number)) = value(snapshot, vm, self) { Some(number) } else { None }
    }

    /// The text that holds for a VM.
    pub fn text(self, snapshot: &Snapshot, vm: &Vm) -> Option<String> {
        if let Some(Value::Str(text)) = value(snapshot, vm, self) { Some(text.to_string()) } else { None }
    }

    /// Whether VMs of a class have it.
    pub fn applies_to(self, class: VmClass) -> bool {
        self.row().classes.contains(&class)
    }

    /// Whether the store keeps a value of it in a VM's properties.
    pub(super) fn is_stored(self) -> bool {
        match self.row().source {
            Source::Stored(_) => self != Self::Label,
            Source::Identity(_) => self == Self::Dispid,
            Source::Computed(_) => false,
        }
    }

    /// Checks a value by itself and gives the form in which it is kept.
    pub(super) fn canonical(self, value: Value) -> Result<Value, Refusal> {
        match &self.row().source {
            Source::Stored(rules) => (rules.canonical)(value),
            Source::Identity(_) | Source::Computed(_) => Ok(value),
        }
    }

    /// The property of that name of a VM.
    ///
    /// # Errors
    /// [`Refusal::NoSuchProperty`] when there is none, or VMs of this class do not have it.
    pub fn of(vm: &Vm, name: &str) -> Result<Self, Refusal> {
        Self::named(name).filter(|property| property.applies_to(vm.class)).ok_or_else(|| {
            Refusal::NoSuchProperty { property: name.to_owned(), of: Owner::Vm(vm.name.clone()) }
        })
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a value was set, or is the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// It was set.
    Explicit,
    /// It is the default, or computed.
    Default,
}

/// What Get answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Whether the value was set.
    pub origin: Origin,
    /// The property's type.
    pub kind: Type,
    /// The value.
    pub value: Shown,
}

/// The properties of a class, in the order in which they are listed.
pub fn list(class: VmClass) -> Vec<Property> {
    let mut list: Vec<Property> =
        Property::ALL.iter().copied().filter(|property| property.applies_to(class)).collect();
    list.sort_by_key(|property| (property.row().stage, property.name()));
    list
}

/// The value of a VM's property as it holds now, explicit or not; `None` where there is none.
pub fn value(snapshot: &Snapshot, vm: &Vm, property: Property) -> Option<Value> {
    explicit(vm, property).or_else(|| default(snapshot, vm, property))
}

/// The value that was set; `None` where the default holds.
pub fn explicit(vm: &Vm, property: Property) -> Option<Value> {
    let row = property.row();
    if row.on_dom0.is_some() && vm.class == VmClass::AdminVm {
        return None;
    }
    match &row.source {
        Source::Computed(_) => None,
        Source::Identity(of) => of(vm),
        Source::Stored(_) if property == Property::Label => Some(Value::Label(vm.label)),
        Source::Stored(_) => vm.properties.get(&property).cloned(),
    }
}

/// The value that holds where none is set; for computed properties, the value.
pub fn default(snapshot: &Snapshot, vm: &Vm, property: Property) -> Option<Value> {
    let row = property.row();
    if let (Some(compute), VmClass::AdminVm) = (row.on_dom0, vm.class) {
        return compute(snapshot, vm);
    }
    match &row.source {
        Source::Computed(compute) => compute(snapshot, vm),
        Source::Identity(_) => None,
        Source::Stored(rules) => rules.default.value(snapshot, vm),
    }
}

/// The default as clients see it: it may be none; `None` for a property that has no default at all.
pub fn default_shown(snapshot: &Snapshot, vm: &Vm, property: Property) -> Option<Shown> {
    let row = property.row();
    let computed = row.on_dom0.is_some() && vm.class == VmClass::AdminVm;
    let has = computed
        || match &row.source {
            Source::Computed(_) => true,
            Source::Identity(_) => false,
            Source::Stored(rules) => matches!(rules.default, Fallback::To(_)),
        };
    has.then(|| shown(&snapshot.model, default(snapshot, vm, property).as_ref()))
}

/// What holds now as clients see it; `None` where there is neither a value nor a default.
fn value_shown(snapshot: &Snapshot, vm: &Vm, property: Property) -> Option<Shown> {
    match explicit(vm, property) {
        Some(value) => Some(shown(&snapshot.model, Some(&value))),
        None => default_shown(snapshot, vm, property),
    }
}

/// The value that holds for a VM's template, if it has one with this property.
fn of_template(snapshot: &Snapshot, vm: &Vm, property: Property) -> Option<Value> {
    let template = snapshot.model.template_of(vm)?;
    property.applies_to(template.class).then(|| value(snapshot, template, property)).flatten()
}

/// Checks a value against the rest of the model.
pub(super) fn fits(snapshot: &Snapshot, vm: &Vm, property: Property, value: &Value) -> Result<(), Refusal> {
    match &property.row().source {
        Source::Stored(rules) => (rules.fits)(snapshot, vm, value),
        Source::Identity(_) | Source::Computed(_) => Ok(()),
    }
}

/// What Get answers for a VM's property.
///
/// # Errors
/// [`Refusal::NoSuchProperty`].
pub fn get(snapshot: &Snapshot, vm: &Vm, name: &str) -> Result<Answer, Refusal> {
    Ok(answer(snapshot, vm, Property::of(vm, name)?))
}

/// What Get answers for a property that the VM has.
pub fn answer(snapshot: &Snapshot, vm: &Vm, property: Property) -> Answer {
    let (origin, value) = match explicit(vm, property) {
        Some(value) => (Origin::Explicit, Some(value)),
        None => (Origin::Default, default(snapshot, vm, property)),
    };
    Answer { origin, kind: property.row().kind, value: shown(&snapshot.model, value.as_ref()) }
}

/// A value with the names of what it refers to.
pub fn shown(model: &Model, value: Option<&Value>) -> Shown {
    match value {
        None | Some(Value::Vm(None)) => Shown::None,
        Some(Value::Str(text)) => Shown::Str(text.clone()),
        Some(Value::Int(number)) => Shown::Int(*number),
        Some(Value::Bool(flag)) => Shown::Bool(*flag),
        Some(Value::Pool(pool)) => Shown::Str(pool.as_str().into()),
        Some(Value::Vm(Some(uuid))) => model.name_of(*uuid).map_or(Shown::None, Shown::Vm),
        Some(Value::Label(index)) => {
            model.label(*index).map_or(Shown::None, |label| Shown::Label(label.name.clone()))
        }
    }
}
