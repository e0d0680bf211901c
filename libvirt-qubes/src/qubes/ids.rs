//! Identifiers that only the Qubes model knows. As in [`crate::ids`]: private fields, one strict constructor.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The number of a VM in the model: 0 is dom0, new VMs get the lowest free one of 1 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Qid(u16);

impl Qid {
    /// dom0's.
    pub const DOM0: Self = Self(0);
    /// The highest that a new VM gets: with dom0, 10,000 VMs fit.
    pub const LAST: Self = Self(9999);
    /// The highest that an imported VM may have.
    const HIGHEST: u16 = 10_000;

    /// A number of 0 to 10000; `None` for others.
    pub const fn new(raw: u16) -> Option<Self> {
        if raw <= Self::HIGHEST { Some(Self(raw)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Qid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a disposable, which shows in its address, and in its name where it was given none: 0 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dispid(u16);

impl Dispid {
    /// The highest.
    pub const LAST: Self = Self(9999);

    /// A number of 0 to 9999; `None` for others.
    pub const fn new(raw: u16) -> Option<Self> {
        if raw <= Self::LAST.0 { Some(Self(raw)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Dispid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a row of `pending`; never used twice while the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PendingId(u64);

impl PendingId {
    pub(crate) const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for PendingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The place of a label in the list: 1 to 8 are built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelIndex(u32);

impl LabelIndex {
    /// An index of 1 or more; `None` for 0.
    pub const fn new(raw: u32) -> Option<Self> {
        if raw == 0 { None } else { Some(Self(raw)) }
    }

    pub(crate) const fn built_in(raw: u32) -> Self {
        Self(raw)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for LabelIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! text_newtype {
    ($(#[$doc:meta])* $name:ident, $rule:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadText;

            fn from_str(text: &str) -> Result<Self, BadText> {
                let broken: fn(&str) -> Option<&'static str> = $rule;
                match broken(text) {
                    None => Ok(Self(text.into())),
                    Some(rule) => Err(BadText(rule)),
                }
            }
        }
    };
}

/// Why a text is not the identifier that it was meant to be: the first rule that it breaks, without the text. The
/// words are the deployed daemon's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadText(&'static str);

impl BadText {
    pub(super) const fn new(rule: &'static str) -> Self {
        Self(rule)
    }

    /// The rule that was broken.
    pub fn reason(&self) -> &'static str {
        self.0
    }
}

/// The rule, if the text breaks it.
fn unless(kept: bool, rule: &'static str) -> Option<&'static str> {
    if kept { None } else { Some(rule) }
}

fn all(text: &str, good: fn(u8) -> bool) -> bool {
    text.bytes().all(good)
}

/// `A-Z a-z 0-9 _ . -`
fn is_name(text: &str) -> bool {
    all(text, |b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// A label that a client names, by its name or its index: `[A-Za-z0-9_.-]+`.
fn broken_label(text: &str) -> Option<&'static str> {
    unless(!text.is_empty(), "Label name must be set").or_else(|| {
        let rule =
            "Label must be in safe set: abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
        unless(is_name(text), rule)
    })
}

text_newtype!(
    /// The name of a label: `[A-Za-z0-9_.-]+`, not digits alone, which would be an index.
    LabelName,
    |text| {
        let number = !text.is_empty() && all(text, |b| b.is_ascii_digit());
        unless(!number, "Label must not be a digit").or_else(|| broken_label(text))
    }
);

text_newtype!(
    /// What a client calls a label: its name, or its index in decimal.
    LabelRef,
    broken_label
);

text_newtype!(
    /// A label's colour: `0x` and six hexadecimal digits, kept in the case in which it was given.
    Colour,
    |text| {
        let hex = text.strip_prefix("0x");
        unless(text.chars().count() == 8, "Label value must have length of 8")
            .or_else(|| unless(hex.is_some(), "Label value must start with: 0x"))
            .or_else(|| {
                let digits = hex.is_some_and(|hex| all(hex, |b| b.is_ascii_hexdigit()));
                let rule =
                    "Label value must only contain hexadecimal digits after prefix: 0123456789abcdefABCDEF";
                unless(digits, rule)
            })
    }
);

text_newtype!(
    /// A tag: `[A-Za-z0-9_-]+`.
    Tag,
    |text| unless(!text.is_empty(), "tag cannot be empty").or_else(|| {
        let good = all(text, |b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        unless(good, "disallowed characters")
    })
);

text_newtype!(
    /// The name of a feature: `[A-Za-z0-9_.-]+`.
    FeatureName,
    |text| unless(!text.is_empty() && is_name(text), "feature name contains illegal characters")
);

text_newtype!(
    /// The value of a feature: printable ASCII, maybe empty.
    FeatureValue,
    |text| unless(all(text, |b| (0x20..=0x7e).contains(&b)), "value contains illegal characters")
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reason<T: FromStr<Err = BadText>>(text: &str) -> &'static str {
        text.parse::<T>().map_or_else(|bad| bad.reason(), |_| "none")
    }

    #[test]
    fn a_text_that_breaks_rules_is_told_the_first_in_the_words_that_clients_know() {
        let safe = "Label must be in safe set: \
                    abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
        for (text, rule, as_a_reference) in [
            ("", "Label name must be set", "Label name must be set"),
            ("12", "Label must not be a digit", "none"),
            ("a b", safe, safe),
            ("\u{e9}", safe, safe),
            ("a/b", safe, safe),
            ("Sea-green_2.", "none", "none"),
        ] {
            assert_eq!(
                (reason::<LabelName>(text), reason::<LabelRef>(text)),
                (rule, as_a_reference),
                "{text}"
            );
        }
        let (length, start) = ("Label value must have length of 8", "Label value must start with: 0x");
        let digits = "Label value must only contain hexadecimal digits after prefix: 0123456789abcdefABCDEF";
        for (text, rule) in [
            ("", length),
            ("0x12345", length),
            ("0x1234567", length),
            ("0X123456", start),
            ("12345678", start),
            ("0x12345g", digits),
            ("0x-12345", digits),
            ("0x12345\u{e9}", digits),
            ("0xFFc0cb", "none"),
        ] {
            assert_eq!(reason::<Colour>(text), rule, "{text}");
        }
        for (text, rule) in [("", "tag cannot be empty"), ("a.b", "disallowed characters"), ("A-b_3", "none")]
        {
            assert_eq!(reason::<Tag>(text), rule, "{text}");
        }
        for text in ["", "a/b", "a b", "a\n", "a+b", "\u{e9}"] {
            assert_eq!(reason::<FeatureName>(text), "feature name contains illegal characters", "{text}");
        }
        for text in ["a\n", "\u{7f}", "\u{e9}", "\0"] {
            assert_eq!(reason::<FeatureValue>(text), "value contains illegal characters", "{text}");
        }
        assert_eq!(reason::<FeatureName>("service.a_B-3"), "none");
        assert_eq!((reason::<FeatureValue>(""), reason::<FeatureValue>(" ~")), ("none", "none"));
        assert_eq!((Qid::new(10_000).map(Qid::get), Qid::new(10_001)), (Some(10_000), None));
        assert_eq!((Dispid::new(9999).map(Dispid::get), Dispid::new(10_000)), (Some(9999), None));
        assert_eq!(LabelIndex::new(0), None);
    }

    proptest! {
        #[test]
        fn what_parses_prints_the_same(text in "(\\PC{0,20}|[A-Za-z0-9_.-]{0,6}|0x[0-9a-fA-F]{5,7})") {
            if let Ok(name) = text.parse::<LabelName>() { prop_assert_eq!(name.as_str(), &text); }
            if let Ok(label) = text.parse::<LabelRef>() { prop_assert_eq!(label.as_str(), &text); }
            if let Ok(colour) = text.parse::<Colour>() { prop_assert_eq!(colour.as_str(), &text); }
            if let Ok(tag) = text.parse::<Tag>() { prop_assert_eq!(tag.as_str(), &text); }
            if let Ok(name) = text.parse::<FeatureName>() { prop_assert_eq!(name.as_str(), &text); }
            if let Ok(value) = text.parse::<FeatureValue>() { prop_assert_eq!(value.as_str(), &text); }
        }
    }
}
