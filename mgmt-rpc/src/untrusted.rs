//! Bytes of a request before anybody has looked at them.
//!
//! [`Untrusted`] has one exit, [`Untrusted::parse`], and its `Debug` prints a length, so that what a client
//! sent reaches neither logic nor log unless a type has accepted it.

use std::fmt;

use libvirt_qubes::ids::{BadId, VmName};

use crate::wire::{Class, Exception};

/// An argument or a payload as it came.
#[derive(Clone, Copy)]
pub struct Untrusted<'a>(&'a [u8]);

impl<'a> Untrusted<'a> {
    /// Marks bytes as not looked at.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether there is nothing.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The value that the bytes stand for.
    ///
    /// # Errors
    /// They stand for none; the exception is what a client sees.
    pub fn parse<T: Parse>(self) -> Result<T, Exception> {
        T::parse(self.0)
    }
}

impl fmt::Debug for Untrusted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Untrusted({} bytes)", self.0.len())
    }
}

/// A type of arguments or payloads.
///
/// Parsing is strict: it looks at the bytes alone, never at what exists, and where the type prints, what is
/// printed parses to the same value.
pub trait Parse: Sized {
    /// Reads all of the bytes.
    ///
    /// # Errors
    /// The first rule that is broken, as a client sees it.
    fn parse(bytes: &[u8]) -> Result<Self, Exception>;
}

/// Any ASCII text: a name that is looked up as it is, where "malformed" and "does not exist" are one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(pub String);

impl Parse for VmName {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        let Text(text) = Text::parse(bytes)?;
        text.parse().map_err(|bad: BadId| Exception::plain(Class::QubesValueError, bad.reason()))
    }
}

impl Parse for Text {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        ascii(bytes).map(|text| Self(text.to_owned())).ok_or_else(|| {
            Exception::plain(Class::ProtocolError, "malformed request: non-ASCII byte where ASCII is asked")
        })
    }
}

/// The bytes as a text, if they are ASCII.
pub(crate) fn ascii(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| text.is_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untrusted_bytes_do_not_show_in_debug_output() {
        assert_eq!(format!("{:?}", Untrusted::new(b"secret")), "Untrusted(6 bytes)");
    }

    #[test]
    fn text_is_ascii() {
        assert_eq!(Untrusted::new(b"a+b").parse(), Ok(Text("a+b".into())));
        assert!(Untrusted::new("\u{f6}".as_bytes()).parse::<Text>().unwrap_err().is(Class::ProtocolError));
    }
}
