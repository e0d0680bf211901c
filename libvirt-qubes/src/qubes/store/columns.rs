//! How values stand in columns. Writing and loading use the same words.

use rusqlite::types::{ToSqlOutput, Value as SqlValue};

use super::super::pending::VolumeProgress;
use super::super::value::{Type, Value};
use crate::config::Access;
use crate::storage::Sharing;

/// A number as SQLite keeps it.
pub(in super::super) fn integer(number: u64) -> rusqlite::Result<i64> {
    i64::try_from(number).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// The text of a value that is no reference.
pub(in super::super) fn value_text(value: &Value) -> ToSqlOutput<'_> {
    match value {
        Value::Str(text) => ToSqlOutput::from(&**text),
        Value::Int(number) => ToSqlOutput::Owned(SqlValue::Text(number.to_string())),
        Value::Bool(true) => ToSqlOutput::from("True"),
        Value::Bool(false) => ToSqlOutput::from("False"),
        Value::Vm(_) | Value::Label(_) | Value::Pool(_) => ToSqlOutput::Owned(SqlValue::Null),
    }
}

/// The value of a stored text; `None` when it is not what [`value_text`] writes.
pub(super) fn value_of_text(kind: Type, text: &str) -> Option<Value> {
    match kind {
        Type::Str => Some(Value::text(text)),
        Type::Int => {
            let number: i64 = text.parse().ok()?;
            (number.to_string() == text).then_some(Value::Int(number))
        }
        Type::Bool => match text {
            "True" => Some(Value::Bool(true)),
            "False" => Some(Value::Bool(false)),
            _ => None,
        },
        Type::Vm | Type::Label => None,
    }
}

/// A value of another kind than its property: a bug that must not reach a column.
pub(in super::super) fn mismatch(name: &str, value: &Value) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(format!("{value:?} is no value of {name}").into())
}

pub(in super::super) const fn access_word(access: Access) -> &'static str {
    match access {
        Access::ReadOnly => "ro",
        Access::ReadWrite => "rw",
    }
}

pub(super) fn access_of_word(word: &str) -> Option<Access> {
    [Access::ReadOnly, Access::ReadWrite].into_iter().find(|access| access_word(*access) == word)
}

pub(in super::super) const fn sharing_word(sharing: Sharing) -> &'static str {
    match sharing {
        Sharing::Private => "private",
        Sharing::Source => "source",
    }
}

pub(super) fn sharing_of_word(word: &str) -> Option<Sharing> {
    [Sharing::Private, Sharing::Source].into_iter().find(|sharing| sharing_word(*sharing) == word)
}

pub(in super::super) const fn progress_word(progress: VolumeProgress) -> &'static str {
    match progress {
        VolumeProgress::Planned => "planned",
        VolumeProgress::Made => "made",
    }
}

pub(super) fn progress_of_word(word: &str) -> Option<VolumeProgress> {
    [VolumeProgress::Planned, VolumeProgress::Made].into_iter().find(|p| progress_word(*p) == word)
}
