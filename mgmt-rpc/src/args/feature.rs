//! Features and tags in arguments and payloads.

use libvirt_qubes::qubes::ids::{BadText, FeatureName, FeatureValue, Tag};

use crate::untrusted::{Parse, Text, ascii};
use crate::wire::{Class, Exception};

/// The name of a feature that is to be set. (Others are only looked up: any text will do.)
impl Parse for FeatureName {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        let Text(text) = Text::parse(bytes)?;
        text.parse().map_err(|bad: BadText| Exception::plain(Class::ProtocolError, bad.reason()))
    }
}

/// The payload of `feature.Set`: ASCII, maybe empty. What else it must be is said with the feature's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureText(String);

impl FeatureText {
    /// The text as the value of this feature.
    ///
    /// # Errors
    /// It holds what no value may.
    pub fn of(self, feature: &FeatureName) -> Result<FeatureValue, Exception> {
        self.0.parse().map_err(|bad: BadText| {
            Exception::new(Class::ProtocolError, "%s %s", [feature.as_str(), bad.reason()])
        })
    }
}

impl Parse for FeatureText {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        ascii(bytes).map(|text| Self(text.to_owned())).ok_or_else(|| {
            Exception::plain(Class::ProtocolError, "Feature value contains non-ASCII characters")
        })
    }
}

impl Parse for Tag {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        let Text(text) = Text::parse(bytes)?;
        text.parse().map_err(|bad: BadText| Exception::plain(Class::QubesInvalidTagError, bad.reason()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(refused: &Exception) -> (&str, String) {
        (refused.class(), refused.message())
    }

    #[test]
    fn what_is_no_name_value_or_tag_is_told_in_the_words_of_the_document() {
        let feature = FeatureName::parse(b"gui").unwrap();
        assert_eq!(FeatureText::parse(b"").unwrap().of(&feature).unwrap().as_str(), "");
        let refused = FeatureText::parse(b"1\n").unwrap().of(&feature).unwrap_err();
        assert_eq!(said(&refused), ("ProtocolError", "gui value contains illegal characters".to_owned()));
        let refused = FeatureText::parse(b"\xff").unwrap_err();
        assert_eq!(
            said(&refused),
            ("ProtocolError", "Feature value contains non-ASCII characters".to_owned())
        );
        let refused = FeatureName::parse(b"a+b").unwrap_err();
        assert_eq!(said(&refused), ("ProtocolError", "feature name contains illegal characters".to_owned()));
        let refused = Tag::parse(b"a.b").unwrap_err();
        assert_eq!(said(&refused), ("QubesInvalidTagError", "disallowed characters".to_owned()));
    }
}
