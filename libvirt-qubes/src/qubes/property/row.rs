//! The shape of a property's row in the table.

use super::super::class::VmClass;
use super::super::event::ModelEvent;
use super::super::refusal::Refusal;
use super::super::snapshot::Snapshot;
use super::super::value::{Type, Value};
use super::super::vm::Vm;
use super::super::write::Write;

/// When a property is loaded; they are listed in that order, then by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// With the VM itself.
    Early,
    /// When all VMs are there: it refers to them, or its default does.
    Late,
}

/// When a new value counts for a VM that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TakesEffect {
    /// It cannot be changed: it is computed, or fixed when the VM is made.
    Never,
    /// At once.
    AtOnce,
    /// With the next start; the run that is under way goes on with the old value.
    NextStart,
    /// It can be changed only while the VM is halted.
    WhileHalted,
}

impl TakesEffect {
    /// The same for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Never => "fixed",
            Self::AtOnce => "at once",
            Self::NextStart => "next start",
            Self::WhileHalted => "while halted",
        }
    }
}

/// Whether a clone takes the value over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloneRule {
    /// It does.
    Copied,
    /// It belongs to the one VM.
    Own,
}

/// Whether VMs based on a template show the template's value where they have none of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Inherit {
    /// They do not, or no event tells of it.
    Never,
    /// They do, and an event tells of it when it changes.
    FromTemplate,
}

/// A property of VMs: one row, from which List, Get, Set, Reset and help are made.
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Type,
    /// The classes that have it.
    pub classes: &'static [VmClass],
    /// When it is loaded.
    pub stage: Stage,
    /// When a change counts.
    pub takes_effect: TakesEffect,
    /// Whether a clone takes it over.
    pub clone: CloneRule,
    /// Where its value comes from.
    pub source: Source,
    /// Where dom0's value comes from, when that is computed and the other classes' is not.
    pub on_dom0: Option<Compute>,
    /// The default in a few words of reStructuredText; empty where there is none.
    pub default: &'static str,
    /// What it means, in reStructuredText.
    pub help: &'static str,
}

/// Computes a value; `None` where there is none.
pub type Compute = fn(&Snapshot, &Vm) -> Option<Value>;

/// Where a property's value comes from.
pub enum Source {
    /// It is computed and cannot be set.
    Computed(Compute),
    /// It is part of the VM and fixed when that is made.
    Identity(fn(&Vm) -> Option<Value>),
    /// It is stored where it was set, and may have a default elsewhere.
    Stored(Rules),
}

/// The value of a property where none is set.
pub enum Fallback {
    /// There is none: clients are told that the property has no default.
    Missing,
    /// This one, which may be no value.
    To(Compute),
}

impl Fallback {
    /// The value for a VM.
    pub fn value(&self, snapshot: &Snapshot, vm: &Vm) -> Option<Value> {
        match self {
            Self::Missing => None,
            Self::To(compute) => compute(snapshot, vm),
        }
    }
}

/// The rules of a property that can be set.
pub struct Rules {
    /// Checks a value by itself and gives the form in which it is kept. Guards Set and loading alike.
    pub canonical: fn(Value) -> Result<Value, Refusal>,
    /// Checks a value against the rest of the model, before any event. Guards Set and loading alike; refers
    /// to no run state.
    pub fits: fn(&Snapshot, &Vm, &Value) -> Result<(), Refusal>,
    /// Vetoes a Set or a Reset after it was announced.
    pub veto: fn(&Snapshot, &Vm, Change<'_>) -> Result<(), Refusal>,
    /// The value where none is set.
    pub default: Fallback,
    /// Whether VMs based on a template inherit its value.
    pub inherit: Inherit,
    /// What else a change does, given the values that held and that will hold.
    pub effects: fn(&Snapshot, &Vm, Option<&Value>, Option<&Value>) -> Effects,
}

/// What is asked, and the value that would hold.
#[derive(Debug, Clone, Copy)]
pub enum Change<'a> {
    /// Set to this value.
    Set(&'a Value),
    /// Back to this default, if there is one.
    Reset(Option<&'a Value>),
}

impl<'a> Change<'a> {
    /// The value that would hold.
    pub fn value(self) -> Option<&'a Value> {
        match self {
            Self::Set(value) => Some(value),
            Self::Reset(value) => value,
        }
    }
}

/// What a change of a property does besides.
#[derive(Debug, Default)]
pub struct Effects {
    /// Rows.
    pub writes: Vec<Write>,
    /// Events, sent before the property's own.
    pub events: Vec<ModelEvent>,
}

impl Effects {
    /// Events alone.
    pub fn events(events: Vec<ModelEvent>) -> Self {
        Self { writes: Vec::new(), events }
    }
}

/// Rules of a property that takes any value of its type, has no default and touches nothing else.
pub(super) const PLAIN: Rules = Rules {
    canonical: |value| Ok(value),
    fits: |_, _, _| Ok(()),
    veto: |_, _, _| Ok(()),
    default: Fallback::Missing,
    inherit: Inherit::Never,
    effects: |_, _, _, _| Effects::default(),
};

/// A default that is no value.
pub(super) const NONE: Fallback = Fallback::To(|_, _| None);

/// A row of a property that VMs of all local classes but dom0 have, and that a clone takes over.
pub(super) const ROW: Row = Row {
    name: "",
    kind: Type::Str,
    classes: QUBES,
    stage: Stage::Early,
    takes_effect: TakesEffect::AtOnce,
    clone: CloneRule::Copied,
    source: Source::Stored(PLAIN),
    on_dom0: None,
    default: "",
    help: "",
};

/// A row of a property that is computed, or fixed when the VM is made.
pub(super) const FIXED: Row = Row { takes_effect: TakesEffect::Never, clone: CloneRule::Own, ..ROW };

/// All classes.
pub(super) const ALL: &[VmClass] = &VmClass::ALL;

/// The classes of VMs on this host.
pub(super) const LOCAL: &[VmClass] =
    &[VmClass::AdminVm, VmClass::AppVm, VmClass::DispVm, VmClass::StandaloneVm, VmClass::TemplateVm];

/// The classes of VMs that run on this host and can be stopped.
pub(super) const QUBES: &[VmClass] =
    &[VmClass::AppVm, VmClass::DispVm, VmClass::StandaloneVm, VmClass::TemplateVm];
