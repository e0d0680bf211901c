//! From the bytes of a request to a value of a property's type.

use std::borrow::Cow;

use super::super::model::Model;
use super::super::refusal::{Refusal, ValueRule};
use super::super::value::{Type, Value};
use crate::ids::VmName;

/// Python's white space within ASCII: what its `int()` strips.
fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | 0x1c..=0x1f | b' ')
}

/// A client's bytes as a value of that type, for the property of that name, of a VM or of the system. The rules of
/// the property itself come later.
pub(in super::super) fn parse(
    model: &Model,
    property: &'static str,
    kind: Type,
    bytes: &[u8],
) -> Result<Value, Refusal> {
    let bad = |text: Cow<'static, str>| Refusal::PropertyValue { property, rule: ValueRule::Type, text };
    let text = std::str::from_utf8(bytes)
        .ok()
        .filter(|text| text.is_ascii())
        .ok_or_else(|| bad("Non-ASCII bytes in property value".into()))?;
    match kind {
        Type::Str if text.bytes().all(printable) => Ok(Value::text(text)),
        Type::Str => Err(bad("Invalid characters in property value".into())),
        Type::Int => {
            integer(text).map(Value::Int).ok_or_else(|| bad("Failed to parse property value as int".into()))
        }
        Type::Bool => boolean(text).map(Value::Bool).ok_or_else(|| {
            bad(format!("Invalid literal for boolean property: {}", python_repr(text)).into())
        }),
        Type::Vm if text.is_empty() => Ok(Value::Vm(None)),
        Type::Vm => {
            let name: VmName = text.parse().map_err(|error: crate::ids::BadId| bad(error.reason().into()))?;
            match model.vm_named(name.as_str()) {
                Some(vm) => Ok(Value::Vm(Some(vm.uuid))),
                None => Err(Refusal::ReferenceNotFound { property, name }),
            }
        }
        Type::Label => {
            let by_number = text.strip_prefix("label-").filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
            model.find_label(by_number.unwrap_or(text)).map(|label| Value::Label(label.index))
        }
    }
}

pub(in super::super) fn printable(byte: u8) -> bool {
    (0x20..=0x7e).contains(&byte) || (b'\t'..=b'\r').contains(&byte)
}

/// A decimal number as Python's `int()` reads it: white space around it, a sign, single `_` between digits.
pub(in super::super) fn integer(text: &str) -> Option<i64> {
    let text = text.trim_matches(|c: char| u8::try_from(c).is_ok_and(is_space));
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let mut last_was_digit = false;
    for byte in digits.bytes() {
        match byte {
            b'0'..=b'9' => last_was_digit = true,
            b'_' if last_was_digit => last_was_digit = false,
            _ => return None,
        }
    }
    if !last_was_digit {
        return None;
    }
    text.replace('_', "").parse().ok()
}

pub(in super::super) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "0" | "no" | "false" | "off" => Some(false),
        "1" | "yes" | "true" | "on" => Some(true),
        _ => None,
    }
}

/// ASCII text in quotes, as Python's `repr()` writes it.
pub(in super::super) fn python_repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut shown = String::with_capacity(text.len() + 2);
    shown.push(quote);
    for c in text.chars() {
        match c {
            '\\' => shown.push_str("\\\\"),
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            c if c == quote => shown.extend(['\\', c]),
            c if c.is_ascii_control() => shown.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => shown.push(c),
        }
    }
    shown.push(quote);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_python_reads_them() {
        for (text, number) in [
            ("500", Some(500)),
            (" 500\n", Some(500)),
            ("+5", Some(5)),
            ("-5", Some(-5)),
            ("1_000", Some(1000)),
            ("007", Some(7)),
            ("", None),
            ("-", None),
            ("_1", None),
            ("1_", None),
            ("1__0", None),
            ("0x10", None),
            ("5 5", None),
            ("5.0", None),
            ("- 5", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(integer(text), number, "{text:?}");
        }
    }

    #[test]
    fn texts_are_quoted_as_python_quotes_them() {
        for (text, shown) in
            [("x", "'x'"), ("it's", "\"it's\""), ("'\"", "'\\'\"'"), ("a\\\n\u{1}", "'a\\\\\\n\\x01'")]
        {
            assert_eq!(python_repr(text), shown);
        }
    }
}
