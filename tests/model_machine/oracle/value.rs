//! Values of properties, from a client's text and to it.

use super::{Answer, Oracle, Refused, refused};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Int(i64),
    Bool(bool),
    Vm(Option<String>),
    Label(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Str,
    Int,
    Bool,
    Vm,
    Label,
}

impl Type {
    pub fn name(self) -> &'static str {
        match self {
            Self::Str => "str",
            Self::Int => "int",
            Self::Bool => "bool",
            Self::Vm => "vm",
            Self::Label => "label",
        }
    }
}

pub fn text(text: impl Into<String>) -> Value {
    Value::Text(text.into())
}

impl Oracle {
    /// As Get has it: nothing for none.
    pub(super) fn shown(&self, value: Option<&Value>) -> String {
        match value {
            None | Some(Value::Vm(None)) => String::new(),
            Some(Value::Text(text)) => text.clone(),
            Some(Value::Int(number)) => number.to_string(),
            Some(Value::Bool(true)) => "True".into(),
            Some(Value::Bool(false)) => "False".into(),
            Some(Value::Vm(Some(name))) => name.clone(),
            Some(Value::Label(index)) => self.labels[index].0.clone(),
        }
    }

    /// As events have it: `None` for none.
    pub(super) fn told(&self, value: &Value) -> String {
        match value {
            Value::Vm(None) => "None".into(),
            value => self.shown(Some(value)),
        }
    }

    /// A client's text as a value of a property `of` somebody, before the property's own rules.
    pub(super) fn parse(&self, property: &str, kind: Type, payload: &str) -> Result<Value, Refused> {
        match kind {
            Type::Str if payload.bytes().all(|b| matches!(b, 0x20..=0x7e | 0x09..=0x0d)) => Ok(text(payload)),
            Type::Str => refused("QubesValueError", "Invalid characters in property value"),
            Type::Int => match payload.trim().replace('_', "").parse() {
                Ok(number) => Ok(Value::Int(number)),
                Err(_) => refused("QubesValueError", "Failed to parse property value as int"),
            },
            Type::Bool => match payload.to_ascii_lowercase().as_str() {
                "0" | "no" | "false" | "off" => Ok(Value::Bool(false)),
                "1" | "yes" | "true" | "on" => Ok(Value::Bool(true)),
                _ => refused("QubesValueError", format!("Invalid literal for boolean property: '{payload}'")),
            },
            Type::Vm if payload.is_empty() => Ok(Value::Vm(None)),
            Type::Vm => {
                super::name::check(payload)?;
                if self.vms.contains_key(payload) {
                    return Ok(Value::Vm(Some(payload.into())));
                }
                let text = format!("Can't set {property} to non-existing qube {payload}");
                refused("QubesPropertyValueError", text)
            }
            Type::Label => {
                self.find_label(payload.strip_prefix("label-").unwrap_or(payload)).map(Value::Label)
            }
        }
    }

    pub(super) fn find_label(&self, wanted: &str) -> Result<u32, Refused> {
        let by_name = self.labels.iter().find(|(_, (name, _))| name == wanted).map(|(index, _)| *index);
        let by_index = wanted.parse().ok().filter(|index| self.labels.contains_key(index));
        by_index
            .or(by_name)
            .map_or_else(|| refused("QubesLabelNotFoundError", format!("Label does not exist: {wanted}")), Ok)
    }

    /// The content of Get, without `default=`.
    pub(super) fn typed(&self, kind: Type, value: Option<&Value>) -> String {
        format!("type={} {}", kind.name(), self.shown(value))
    }
}

/// `default=`, in the words of the dialect.
pub fn default_word(dialect: super::Dialect, explicit: bool) -> &'static str {
    match (dialect, explicit) {
        (super::Dialect::Mgmt, true) => "default=no",
        (super::Dialect::Mgmt, false) => "default=yes",
        (super::Dialect::Admin, true) => "default=False",
        (super::Dialect::Admin, false) => "default=True",
    }
}

/// A line of GetAll.
pub fn line(name: &str, content: &str) -> String {
    format!("{name} {}\n", content.replace('\\', "\\\\").replace('\n', "\\n"))
}

/// What refuses an unknown property.
pub fn unknown(property: &str, of: &str) -> Answer {
    refused("QubesNoSuchPropertyError", format!("Invalid property '{property}' of {of}"))
}
