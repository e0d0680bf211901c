//! The payload of `property.Set`: text, whose meaning depends on the property and is the model's.

use crate::untrusted::{Parse, ascii};
use crate::wire::{Class, Exception};

/// The text of a value; empty for none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PropertyText(pub String);

impl Parse for PropertyText {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        ascii(bytes)
            .map(|text| Self(text.to_owned()))
            .ok_or_else(|| Exception::plain(Class::QubesValueError, "Non-ASCII bytes in property value"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_ascii_and_may_be_empty() {
        for text in ["", "500", "a\nb\0"] {
            assert_eq!(PropertyText::parse(text.as_bytes()), Ok(PropertyText(text.into())));
        }
        let refused = PropertyText::parse("\u{f6}".as_bytes()).unwrap_err();
        assert_eq!(refused.encode(), b"2\0QubesValueError\0\0Non-ASCII bytes in property value\0");
    }
}
