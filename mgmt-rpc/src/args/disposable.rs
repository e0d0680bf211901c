//! Argument and payload of `vm.CreateDisposable`.

use crate::untrusted::Parse;
use crate::wire::{Class, Exception};

/// The argument: nothing, or `preload`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preload {
    /// A disposable is wanted now.
    Now,
    /// One is to be made ahead of its use.
    Ahead,
}

/// The payload: what the answer names the disposable by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisposableAnswer {
    /// Nothing: by its name.
    Name,
    /// `uuid`.
    Uuid,
}

impl Parse for Preload {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        match bytes {
            b"" => Ok(Self::Now),
            b"preload" => Ok(Self::Ahead),
            _ => Err(Exception::plain(Class::PermissionDenied, "Argument not in \"'', 'preload'\"")),
        }
    }
}

impl Parse for DisposableAnswer {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        match bytes {
            b"" => Ok(Self::Name),
            b"uuid" => Ok(Self::Uuid),
            _ => {
                let words = "Invalid payload, expected empty string or 'uuid'";
                Err(Exception::plain(Class::ProtocolError, words))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_words_of_the_document_are_taken() {
        assert_eq!((Preload::parse(b""), Preload::parse(b"preload")), (Ok(Preload::Now), Ok(Preload::Ahead)));
        assert_eq!(DisposableAnswer::parse(b""), Ok(DisposableAnswer::Name));
        assert_eq!(DisposableAnswer::parse(b"uuid"), Ok(DisposableAnswer::Uuid));
        for bad in [&b"preload-autostart"[..], b"uuid", b"\xff"] {
            assert!(Preload::parse(bad).unwrap_err().is(Class::PermissionDenied));
        }
        for bad in [&b"uuid\n"[..], b"name", b"\xff"] {
            assert!(DisposableAnswer::parse(bad).unwrap_err().is(Class::ProtocolError));
        }
    }
}
