//! JSON as the deployed daemon writes it: a space after each comma and colon.

use std::io;

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// The value as JSON text.
///
/// # Errors
/// The value's own serialization fails.
pub(crate) fn text(value: &impl Serialize) -> serde_json::Result<String> {
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut bytes, Spaced))?;
    // It is UTF-8: the serializer writes nothing else.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct Spaced;

impl Spaced {
    fn separate<W: ?Sized + io::Write>(writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }
}

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        Self::separate(writer, first)
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        Self::separate(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn separators_are_pythons_and_the_text_is_json_still() {
        let value = json!({ "a": [1, "x, y: z", null], "b": {}, "c": [], "d": true });
        let written = text(&value).unwrap();
        assert_eq!(written, r#"{"a": [1, "x, y: z", null], "b": {}, "c": [], "d": true}"#);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&written).unwrap(), value);
    }
}
