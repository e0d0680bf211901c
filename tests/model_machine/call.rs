//! One call, as it is sent and as it is shown.

use std::fmt;

/// The names that stand for whatever disposable there is, the first by name.
pub const A_DISPOSABLE: &str = "@disp";

/// Which prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Mgmt,
    Admin,
}

/// A call from dom0.
#[derive(Clone, PartialEq, Eq)]
pub struct Call {
    pub dialect: Dialect,
    /// Without its prefix.
    pub method: String,
    /// Its destination.
    pub vm: String,
    pub argument: String,
    pub payload: String,
}

impl Call {
    pub fn new(method: &str, vm: &str, argument: &str, payload: &str) -> Self {
        Self {
            dialect: Dialect::Admin,
            method: method.into(),
            vm: vm.into(),
            argument: argument.into(),
            payload: payload.into(),
        }
    }

    pub fn full_name(&self) -> String {
        let prefix = match self.dialect {
            Dialect::Mgmt => "mgmt",
            Dialect::Admin => "admin",
        };
        format!("{prefix}.{}", self.method)
    }

    pub fn request(&self) -> Vec<u8> {
        format!("{}+{} dom0 name {}\0{}", self.full_name(), self.argument, self.vm, self.payload).into_bytes()
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let argument = if self.argument.is_empty() { String::new() } else { format!("+{}", self.argument) };
        write!(f, "{}{argument} {}", self.full_name(), self.vm)?;
        if self.payload.is_empty() { Ok(()) } else { write!(f, " {:?}", self.payload) }
    }
}
