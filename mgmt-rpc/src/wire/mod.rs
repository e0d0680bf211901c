//! Bytes of the management API and the types that they stand for. Pure: no I/O, no clock, no state.
//!
//! Both directions are here, because the daemon, the clients and the tests must agree. A value of one of
//! these types can always be encoded, and what is encoded always decodes to the same value: a text that the
//! format cannot carry (one with a NUL in it) is changed when the value is made, not when it is sent.

pub mod answer;
pub mod event;
pub mod exception;
pub mod header;

pub use answer::{Answer, BadAnswer};
pub use event::Event;
pub use exception::{Class, Exception};
pub use header::{BadHeader, Header, VmRef};

/// First byte of an answer with content.
pub const OK: u8 = b'0';
/// First byte of an event.
pub const EVENT: u8 = b'1';
/// First byte of an exception.
pub const EXCEPTION: u8 = b'2';

/// The text as the format can carry it: a NUL, which ends every text there, becomes U+FFFD.
fn without_nul(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

/// Splits at the first NUL: what is before it, and what is after it.
fn until_nul(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((bytes.get(..end)?, bytes.get(end.saturating_add(1)..)?))
}
