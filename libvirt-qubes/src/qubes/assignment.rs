//! Device assignments: which devices a VM is given at its start, or offered.
//!
//! An assignment names a device by where it is plugged, by what it is, or by both; what it leaves open fits
//! any. Attachments of running VMs are not here: those are Xen's to know.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use uuid::Uuid;

use super::ids::BadText;
use super::vm::Vm;

/// The class of a device: `block`, `pci`, `usb`, `mic`, or one that an extension brings. `[A-Za-z0-9_-]+`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceClass(Arc<str>);

/// Where a device is plugged in its backend (`2-1`, `00_14.0`, `sda1`), or what it is
/// (`0951:1666::u080650`): printable ASCII, not empty, not `*`, at most 4096 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceText(Arc<str>);

/// The name of an option: printable ASCII without blanks, quotes, backtick and `=`, not empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OptionName(Arc<str>);

/// The value of an option: printable ASCII, maybe empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OptionValue(Arc<str>);

macro_rules! text {
    ($name:ident, $rule:expr, $reason:expr) => {
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

        impl FromStr for $name {
            type Err = BadText;

            fn from_str(text: &str) -> Result<Self, BadText> {
                let rule: fn(&str) -> bool = $rule;
                if rule(text) { Ok(Self(text.into())) } else { Err(BadText::new($reason)) }
            }
        }
    };
}

fn printable(text: &str) -> bool {
    text.bytes().all(|b| (0x20..=0x7e).contains(&b))
}

text!(
    DeviceClass,
    |text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')),
    "device class must be made of A-Z a-z 0-9 _ -"
);
text!(
    DeviceText,
    |text| !matches!(text, "" | ANY) && text.len() <= 4096 && printable(text),
    "a device's port and id must be printable ASCII"
);
text!(
    OptionName,
    |text| !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'\'' | b'"' | b'`' | b'=')),
    "an option's name must be printable ASCII without blanks, quotes and ="
);
text!(OptionValue, printable, "an option's value must be printable ASCII");

/// What stands for a part that an assignment leaves open.
pub const ANY: &str = "*";

/// What an assignment is about. Parts that are `None` fit any.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssignedDevice {
    /// Its class.
    pub class: DeviceClass,
    /// The VM that has it.
    pub backend: Option<Uuid>,
    /// Where it is plugged there.
    pub port: Option<DeviceText>,
    /// What it is.
    pub id: Option<DeviceText>,
}

/// When an assigned device is attached. An attachment that somebody asks for is in no assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AssignmentMode {
    /// When it appears, after a question.
    AskToAttach,
    /// When it appears, and at the start if it is there.
    AutoAttach,
    /// At the start, which fails without it.
    Required,
}

/// How a device is assigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// When it is attached.
    pub mode: AssignmentMode,
    /// The options of the attachment: `read-only`, `frontend-dev`..
    pub options: BTreeMap<OptionName, OptionValue>,
}

impl AssignmentMode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::AskToAttach, Self::AutoAttach, Self::Required];

    /// The word that clients and `qubes.xml` know.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AskToAttach => "ask-to-attach",
            Self::AutoAttach => "auto-attach",
            Self::Required => "required",
        }
    }

    /// The mode of that word; `None` for others, `manual` included.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == word)
    }
}

impl fmt::Display for AssignmentMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl AssignedDevice {
    /// A port or id as it is written: `*` where it fits any.
    pub fn written(part: Option<&DeviceText>) -> &str {
        part.map_or(ANY, DeviceText::as_str)
    }

    /// A port or id from its written form.
    ///
    /// # Errors
    /// It is neither `*` nor a [`DeviceText`].
    pub fn part(text: &str) -> Result<Option<DeviceText>, BadText> {
        if text == ANY { Ok(None) } else { text.parse().map(Some) }
    }
}

impl Vm {
    /// The devices of a class that are assigned to it.
    pub fn assigned<'a>(
        &'a self,
        class: &'a str,
    ) -> impl Iterator<Item = (&'a AssignedDevice, &'a Assignment)> {
        self.assignments.iter().filter(move |(device, _)| device.class.as_str() == class)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_breaks_a_rule_is_no_part_of_an_assignment() {
        for bad in ["", "a b", "a.b", "\u{e9}"] {
            assert!(bad.parse::<DeviceClass>().is_err(), "{bad}");
        }
        for bad in ["", "*", "a\n", "\u{e9}"] {
            assert!(bad.parse::<DeviceText>().is_err(), "{bad}");
        }
        for bad in ["", "a b", "a=b", "a'b", "a`b", "a\"b"] {
            assert!(bad.parse::<OptionName>().is_err(), "{bad}");
        }
        assert!("a\tb".parse::<OptionValue>().is_err() && "it's".parse::<OptionValue>().is_ok());
        assert_eq!(AssignedDevice::part("*"), Ok(None));
        assert!(AssignedDevice::part("").is_err());
        assert_eq!(AssignmentMode::named("manual"), None);
    }

    proptest! {
        #[test]
        fn what_parses_prints_the_same(text in "\\PC{0,20}") {
            if let Ok(class) = text.parse::<DeviceClass>() { prop_assert_eq!(class.as_str(), &text); }
            if let Ok(part) = AssignedDevice::part(&text) {
                prop_assert_eq!(AssignedDevice::written(part.as_ref()), &text);
            }
            if let Ok(name) = text.parse::<OptionName>() { prop_assert_eq!(name.as_str(), &text); }
            if let Ok(value) = text.parse::<OptionValue>() { prop_assert_eq!(value.as_str(), &text); }
            if let Some(mode) = AssignmentMode::named(&text) { prop_assert_eq!(mode.as_str(), &text); }
        }
    }
}
