//! Labels: the colours that tell how far a VM is trusted.

use std::sync::Arc;

use super::ids::{Colour, LabelIndex, LabelName};
use super::model::Model;
use super::refusal::Refusal;

/// A label. Its index never changes; 1 to 8 are built in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Its place in the list.
    pub index: LabelIndex,
    /// Its name.
    pub name: LabelName,
    /// Its colour.
    pub colour: Colour,
}

/// The last index that is built in: these labels cannot be removed.
pub const LAST_BUILT_IN: LabelIndex = LabelIndex::built_in(8);

/// Names and colours of the built-in labels, in the order of their indexes from 1.
pub(crate) const BUILT_IN: [(&str, &str); 8] = [
    ("red", "0xcc0000"),
    ("orange", "0xf57900"),
    ("yellow", "0xedd400"),
    ("green", "0x73d216"),
    ("gray", "0x555555"),
    ("blue", "0x3465a4"),
    ("purple", "0x75507b"),
    ("black", "0x000000"),
];

impl Model {
    /// The label that a client names: by its index in decimal, or by its name.
    ///
    /// # Errors
    /// [`Refusal::LabelNotFound`].
    pub fn find_label(&self, text: &str) -> Result<&Arc<Label>, Refusal> {
        let by_index = || {
            let canonical = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            canonical.then(|| text.parse().ok().and_then(LabelIndex::new)).flatten()
        };
        let found = match by_index() {
            Some(index) => self.label(index),
            None => self.label_named(text),
        };
        found.ok_or_else(|| Refusal::LabelNotFound { label: text.to_owned() })
    }
}
