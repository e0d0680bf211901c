//! The shape of a global property's row in the table.

use super::super::event::ModelEvent;
use super::super::model::Model;
use super::super::property::Effects;
use super::super::refusal::Refusal;
use super::super::snapshot::Snapshot;
use super::super::value::{Type, Value};

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

/// A global property: one row, from which List, Get, Set, Reset and help are made.
pub struct GlobalRow {
    /// Its name.
    pub name: &'static str,
    /// What kind of value it takes.
    pub kind: GlobalKind,
    /// Where its value comes from.
    pub source: GlobalSource,
    /// The default in a few words of reStructuredText; empty where there is none.
    pub default: &'static str,
    /// What it means, in reStructuredText.
    pub help: &'static str,
}

/// Where a global property's value comes from.
pub enum GlobalSource {
    /// It is computed and cannot be set.
    Computed(fn(&Snapshot) -> Option<Value>),
    /// It is stored where it was set, and may have a default elsewhere.
    Stored(GlobalRules),
}

/// The value of a global property where none is set.
pub enum GlobalFallback {
    /// There is none: clients are told that the property has no default.
    Missing,
    /// This one, which may be no value.
    To(fn(&Model) -> Option<Value>),
}

/// Events that announce a change to those whom it concerns, and whether the last of them let it pass.
pub type Announced = (Vec<ModelEvent>, Result<(), Refusal>);

/// The rules of a global property that can be set.
pub struct GlobalRules {
    /// Checks a value by itself and gives the form in which it is kept. Guards Set and loading alike.
    pub canonical: fn(Value) -> Result<Value, Refusal>,
    /// Checks a value against the model, before any event. Guards Set and loading alike; refers to no run state.
    pub fits: fn(&Snapshot, &Value) -> Result<(), Refusal>,
    /// What is said after a change was announced and before it is made, given the values that hold and would hold;
    /// and what vetoes it then.
    pub announce: fn(&Snapshot, Option<&Value>, Option<&Value>) -> Announced,
    /// The value where none is set.
    pub default: GlobalFallback,
    /// What else a change does, given the values that held and that will hold.
    pub effects: fn(&Snapshot, Option<&Value>, Option<&Value>) -> Effects,
}

/// Rules of a property that takes any value of its kind, has no default and touches nothing else.
pub(super) const PLAIN: GlobalRules = GlobalRules {
    canonical: |value| Ok(value),
    fits: |_, _| Ok(()),
    announce: |_, _, _| (Vec::new(), Ok(())),
    default: GlobalFallback::Missing,
    effects: |_, _, _| Effects { writes: Vec::new(), events: Vec::new() },
};

/// A row to write others from.
pub(super) const ROW: GlobalRow = GlobalRow {
    name: "",
    kind: GlobalKind::Vm,
    source: GlobalSource::Stored(GlobalRules { default: NONE, ..PLAIN }),
    default: "",
    help: "",
};

/// A default that is no VM.
pub(super) const NONE: GlobalFallback = GlobalFallback::To(|_| Some(Value::Vm(None)));
