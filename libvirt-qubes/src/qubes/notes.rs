//! What people write down about a VM.

use std::sync::Arc;

use uuid::Uuid;

use super::diff::{Diff, Refused};
use super::display;
use super::host::Host;
use super::refusal::{HostError, Refusal};
use super::snapshot::Snapshot;
use super::write::Write;
use crate::ids::VmName;

/// Notes: text whose every character is safe to show, a tab or a newline; at most [`NotesText::LONGEST`] bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NotesText(Arc<str>);

/// Why bytes are no notes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadNotes {
    /// More than [`NotesText::LONGEST`] bytes.
    #[error("Maximum note size is {} bytes ({length} bytes received)", NotesText::LONGEST)]
    TooLong {
        /// How many.
        length: usize,
    },
    /// They are not UTF-8.
    #[error("Unable to sanitise qube notes: invalid UTF-8 at byte {at}")]
    NotUtf8 {
        /// Where they stop to be.
        at: usize,
    },
}

impl NotesText {
    /// As long as notes may be, in bytes.
    pub const LONGEST: usize = 256_000;

    /// The notes for these bytes, with `_` in the place of each character that is not safe to show.
    ///
    /// # Errors
    /// [`BadNotes`].
    pub fn sanitised(bytes: &[u8]) -> Result<Self, BadNotes> {
        if bytes.len() > Self::LONGEST {
            return Err(BadNotes::TooLong { length: bytes.len() });
        }
        let text =
            std::str::from_utf8(bytes).map_err(|error| BadNotes::NotUtf8 { at: error.valid_up_to() })?;
        let text: String = text.chars().map(|c| if is_kept(c) { c } else { '_' }).collect();
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_kept(character: char) -> bool {
    matches!(character, '\t' | '\n') || display::is_safe(character)
}

/// The notes of a VM, or that what the store held of them is damaged. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notes {
    /// The notes, maybe empty.
    Text(NotesText),
    /// What is wrong with them; new ones replace them.
    Damaged(Arc<str>),
}

impl Default for Notes {
    fn default() -> Self {
        Self::Text(NotesText::default())
    }
}

impl Notes {
    /// The notes as the store has them.
    pub(super) fn stored(text: &str) -> Self {
        match NotesText::sanitised(text.as_bytes()) {
            Ok(good) if good.as_str() == text => Self::Text(good),
            Ok(_) => Self::Damaged("they hold a character that is not safe to show".into()),
            Err(error) => Self::Damaged(error.to_string().into()),
        }
    }
}

/// Gives a VM other notes; an empty text is none.
///
/// # Errors
/// No such VM.
pub fn set(snapshot: &Snapshot, vm: Uuid, text: &NotesText) -> Result<Diff<()>, Refused> {
    let vm = snapshot.model.find_uuid(vm)?;
    Ok(Diff::new(()).write(Write::SetNotes(vm.uuid, text.clone())))
}

impl Host {
    /// The notes of a VM; empty if it has none.
    ///
    /// # Errors
    /// No such VM; what the store holds of them is damaged.
    pub fn notes(&self, vm: &VmName) -> Result<NotesText, HostError> {
        match &self.snapshot().model.find_vm(vm)?.notes {
            Notes::Text(text) => Ok(text.clone()),
            Notes::Damaged(reason) => Err(Refusal::NotesDamaged { reason: reason.to_string() }.into()),
        }
    }

    /// Gives a VM other notes. Acknowledged means durable.
    ///
    /// # Errors
    /// No such VM; the store cannot be written.
    pub async fn set_notes(&self, vm: &VmName, text: NotesText) -> Result<(), HostError> {
        let uuid = self.snapshot().model.find_vm(vm)?.uuid;
        self.committer.commit(move |seen| set(seen, uuid, &text)).await
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sanitised(text: &str) -> String {
        NotesText::sanitised(text.as_bytes()).unwrap().as_str().to_owned()
    }

    #[test]
    fn each_unsafe_character_becomes_one_underscore() {
        assert_eq!(sanitised("a\tb\nc"), "a\tb\nc");
        assert_eq!(sanitised("a\r\n\0\u{1b}[31m"), "a_\n__[31m");
        assert_eq!(sanitised("größe \u{202e}x\u{200b} \u{1f642}"), "größe _x_ _");
        assert_eq!(sanitised(""), "");
    }

    #[test]
    fn what_is_too_long_or_no_utf_8_is_refused() {
        let long = "x".repeat(NotesText::LONGEST);
        assert!(NotesText::sanitised(long.as_bytes()).is_ok());
        let longer = long + "x";
        let refused = NotesText::sanitised(longer.as_bytes()).unwrap_err();
        assert_eq!(refused.to_string(), "Maximum note size is 256000 bytes (256001 bytes received)");
        let refused = NotesText::sanitised(b"ab\xff").unwrap_err();
        assert_eq!(refused.to_string(), "Unable to sanitise qube notes: invalid UTF-8 at byte 2");
    }

    proptest! {
        #[test]
        fn what_was_sanitised_stays_as_it_is(text in any::<String>()) {
            let once = sanitised(&text);
            prop_assert_eq!(once.chars().count(), text.chars().count());
            prop_assert_eq!(Notes::stored(&once), Notes::Text(NotesText::sanitised(once.as_bytes()).unwrap()));
        }
    }
}
