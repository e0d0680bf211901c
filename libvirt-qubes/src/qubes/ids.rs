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
    ($(#[$doc:meta])* $name:ident, $rule:expr, $reason:expr) => {
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
                let rule: fn(&str) -> bool = $rule;
                if rule(text) { Ok(Self(text.into())) } else { Err(BadText($reason)) }
            }
        }
    };
}

/// Why a text is not the identifier that it was meant to be: the rule, without the text.
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

fn all(text: &str, good: fn(u8) -> bool) -> bool {
    !text.is_empty() && text.bytes().all(good)
}

text_newtype!(
    /// The name of a label: `[A-Za-z0-9_.-]+`, not digits alone.
    LabelName,
    |text| all(text, |b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && !text.bytes().all(|b| b.is_ascii_digit()),
    "label name must be made of A-Z a-z 0-9 _ . - and not be a number"
);

text_newtype!(
    /// A label's colour: `0x` and six hexadecimal digits, kept in the case in which it was given.
    Colour,
    |text| text.strip_prefix("0x").is_some_and(|hex| hex.len() == 6 && all(hex, |b| b.is_ascii_hexdigit())),
    "label value must be 0x and six hexadecimal digits"
);

text_newtype!(
    /// A tag: `[A-Za-z0-9_-]+`.
    Tag,
    |text| all(text, |b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')),
    "tag must be made of A-Z a-z 0-9 _ -"
);

text_newtype!(
    /// The name of a feature: `[A-Za-z0-9_.-]+`.
    FeatureName,
    |text| all(text, |b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-')),
    "feature name must be made of A-Z a-z 0-9 _ . -"
);

text_newtype!(
    /// The value of a feature: printable ASCII, maybe empty.
    FeatureValue,
    |text| text.bytes().all(|b| (0x20..=0x7e).contains(&b)),
    "feature value must be printable ASCII"
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_breaks_a_rule_is_no_identifier() {
        for bad in ["", "12", "a b", "\u{e9}", "a/b"] {
            assert!(bad.parse::<LabelName>().is_err(), "{bad}");
        }
        for bad in ["", "0x12345", "0x1234567", "0X123456", "0x12345g", "123456"] {
            assert!(bad.parse::<Colour>().is_err(), "{bad}");
        }
        assert!("a.b".parse::<Tag>().is_err() && "".parse::<Tag>().is_err());
        assert!("a/b".parse::<FeatureName>().is_err() && "a\n".parse::<FeatureValue>().is_err());
        assert_eq!((Qid::new(10_000).map(Qid::get), Qid::new(10_001)), (Some(10_000), None));
        assert_eq!((Dispid::new(9999).map(Dispid::get), Dispid::new(10_000)), (Some(9999), None));
        assert_eq!(LabelIndex::new(0), None);
    }

    proptest! {
        #[test]
        fn what_parses_prints_the_same(text in "\\PC{0,20}") {
            if let Ok(name) = text.parse::<LabelName>() { prop_assert_eq!(name.as_str(), &text); }
            if let Ok(colour) = text.parse::<Colour>() { prop_assert_eq!(colour.as_str(), &text); }
            if let Ok(tag) = text.parse::<Tag>() { prop_assert_eq!(tag.as_str(), &text); }
            if let Ok(name) = text.parse::<FeatureName>() { prop_assert_eq!(name.as_str(), &text); }
            if let Ok(value) = text.parse::<FeatureValue>() { prop_assert_eq!(value.as_str(), &text); }
        }
    }
}
