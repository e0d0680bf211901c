//! Labels in arguments and payloads.

use libvirt_qubes::qubes::ids::{BadText, Colour, LabelName, LabelRef};

use crate::untrusted::{Parse, Text, ascii};
use crate::wire::{Class, Exception};

impl Parse for LabelName {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        let Text(text) = Text::parse(bytes)?;
        text.parse().map_err(|bad: BadText| Exception::plain(Class::QubesInvalidLabelError, bad.reason()))
    }
}

impl Parse for LabelRef {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        let Text(text) = Text::parse(bytes)?;
        text.parse().map_err(|bad: BadText| Exception::plain(Class::QubesInvalidLabelError, bad.reason()))
    }
}

/// White space around a colour is no part of it.
impl Parse for Colour {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        let refused = |reason: &str| Exception::plain(Class::QubesInvalidLabelValueError, reason);
        let text = ascii(bytes).ok_or_else(|| refused("Label value must be encoded in ASCII"))?;
        text.trim_matches(is_space).parse().map_err(|bad: BadText| refused(bad.reason()))
    }
}

/// What Python strips of ASCII text.
pub(super) fn is_space(c: char) -> bool {
    matches!(c, '\t'..='\r' | '\x1c'..='\x1f' | ' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colour_may_have_white_space_around_it_and_nothing_else() {
        for text in ["0x00ff00", " 0x00ff00\n", "\x1c0x00ff00\x0b"] {
            assert_eq!(Colour::parse(text.as_bytes()).unwrap().as_str(), "0x00ff00");
        }
        for (bytes, words) in [
            (&b"0x00ff0\xc3\xb6"[..], "Label value must be encoded in ASCII"),
            (b"  \n", "Label value must have length of 8"),
            (
                b"0x 0ff00",
                "Label value must only contain hexadecimal digits after prefix: 0123456789abcdefABCDEF",
            ),
        ] {
            let refused = Colour::parse(bytes).unwrap_err();
            assert_eq!((refused.class(), refused.message().as_str()), ("QubesInvalidLabelValueError", words));
        }
    }
}
