//! The payload of `vm.notes.Set`: UTF-8, made safe to show.

use libvirt_qubes::qubes::notes::{BadNotes, NotesText};

use crate::untrusted::Parse;
use crate::wire::{Class, Exception};

impl Parse for NotesText {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        Self::sanitised(bytes)
            .map_err(|error: BadNotes| Exception::plain(Class::ProtocolError, error.to_string()))
    }
}
