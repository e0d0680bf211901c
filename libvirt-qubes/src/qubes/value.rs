//! The values of properties: as they are kept, and as they are shown.

use std::sync::Arc;

use uuid::Uuid;

use super::ids::{LabelIndex, LabelName};
use crate::ids::{PoolName, VmName};

/// The type of a property, as clients know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    /// Text, and whatever has no type of its own on the wire.
    Str,
    /// A whole number.
    Int,
    /// Yes or no.
    Bool,
    /// A VM, or none.
    Vm,
    /// A label.
    Label,
}

impl Type {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Str => "str",
            Self::Int => "int",
            Self::Bool => "bool",
            Self::Vm => "vm",
            Self::Label => "label",
        }
    }
}

/// A value as the model keeps it: other objects by what never changes about them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Value {
    /// Text.
    Str(Arc<str>),
    /// A number.
    Int(i64),
    /// Yes or no.
    Bool(bool),
    /// A VM, or explicitly none.
    Vm(Option<Uuid>),
    /// A label.
    Label(LabelIndex),
    /// A pool.
    Pool(PoolName),
}

impl Value {
    /// Text as a value.
    pub fn text(text: impl AsRef<str>) -> Self {
        Self::Str(text.as_ref().into())
    }

    /// The text; `None` where it is of another kind.
    pub fn as_str(&self) -> Option<&Arc<str>> {
        if let Self::Str(text) = self { Some(text) } else { None }
    }

    /// The number; `None` where it is of another kind.
    pub fn as_int(&self) -> Option<i64> {
        if let Self::Int(number) = self { Some(*number) } else { None }
    }

    /// Yes or no; `None` where it is of another kind.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(flag) = self { Some(*flag) } else { None }
    }

    /// The VM that it names; `None` where it explicitly names none, or is of another kind.
    pub fn as_vm(&self) -> Option<Uuid> {
        if let Self::Vm(target) = self { *target } else { None }
    }

    /// The pool that it names; `None` where it is of another kind.
    pub fn as_pool(&self) -> Option<&PoolName> {
        if let Self::Pool(pool) = self { Some(pool) } else { None }
    }
}

/// A value with the names of what it refers to: what a client or an event shows. How (`None` or empty,
/// `True`), the wire format decides.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Shown {
    /// No value: an unset property without a default, a VM that is none.
    None,
    /// Text, and the name of a pool.
    Str(Arc<str>),
    /// A number.
    Int(i64),
    /// Yes or no.
    Bool(bool),
    /// A VM.
    Vm(VmName),
    /// A label.
    Label(LabelName),
}
