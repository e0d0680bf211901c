//! Names and numbers that come from outside, each parsed once into a type that cannot hold a bad value.
//!
//! Every type has private fields and one constructor (`FromStr`, `TryFrom` or `new`); `Display` prints what
//! the constructor accepts, and nothing else is accepted.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not the identifier that it was meant to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct BadId {
    reason: &'static str,
}

impl BadId {
    pub(crate) const fn new(reason: &'static str) -> Self {
        Self { reason }
    }

    /// The rule that was broken, as one line without the offending text.
    pub fn reason(&self) -> &'static str {
        self.reason
    }
}

macro_rules! text_id {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

/// The name of a VM, and of its domain: `[a-zA-Z][a-zA-Z0-9_.-]*`, at most 31 characters, not `Domain-0`,
/// `none` or `default`, not ending in `-dm` (the suffix of stub domains).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmName(std::sync::Arc<str>);

text_id!(VmName);

impl VmName {
    /// The name of the administrative domain.
    pub const DOM0: &'static str = "dom0";

    /// Whether this is the administrative domain.
    pub fn is_dom0(&self) -> bool {
        &*self.0 == Self::DOM0
    }

    /// `dom0`.
    pub fn dom0() -> Self {
        Self(Self::DOM0.into())
    }
}

impl FromStr for VmName {
    type Err = BadId;

    /// Checks in the order in which the deployed daemon does, so that the reason is the same.
    fn from_str(text: &str) -> Result<Self, BadId> {
        let Some(first) = text.chars().next() else {
            return Err(BadId::new("VM name contains illegal characters"));
        };
        if text.chars().count() > 31 {
            return Err(BadId::new("VM name must be shorter than 32 characters"));
        }
        if first.is_ascii_digit() || matches!(first, '_' | '.' | '-') {
            return Err(BadId::new("VM name cannot start with hyphen, underscore, dot or numbers"));
        }
        if !first.is_ascii_alphabetic()
            || !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        {
            return Err(BadId::new("VM name contains illegal characters"));
        }
        if text == "Domain-0" {
            return Err(BadId::new("VM name cannot be 'Domain-0'"));
        }
        if text == "none" || text == "default" {
            return Err(BadId::new("VM name cannot be 'none' nor 'default'"));
        }
        if text.ends_with("-dm") {
            return Err(BadId::new("VM name cannot end with -dm"));
        }
        Ok(Self(text.into()))
    }
}

/// The name of a volume of a VM: `[a-z0-9][a-z0-9_.-]*`, at most 64 characters; `root`, `private`,
/// `volatile` and `kernel` are the usual ones. It is a file name's first part on some drivers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeName(std::sync::Arc<str>);

text_id!(VolumeName);

impl FromStr for VolumeName {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-');
        let starts = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !starts || text.len() > 64 || !text.bytes().all(good) {
            return Err(BadId::new(
                "volume name must be 1 to 64 characters of a-z 0-9 _ . - and start with a letter or digit",
            ));
        }
        Ok(Self(text.into()))
    }
}

/// The name of a storage pool: `[A-Za-z0-9_.-]+`, at most 255 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PoolName(std::sync::Arc<str>);

text_id!(PoolName);

impl FromStr for PoolName {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        if text.is_empty() {
            return Err(BadId::new("Pool name must be set"));
        }
        if text.len() > 255
            || !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        {
            return Err(BadId::new("Pool name must be at most 255 characters of A-Z a-z 0-9 _ . -"));
        }
        Ok(Self(text.into()))
    }
}

/// The version of a kernel, which is the name of its folder: no `/`, no control character, not `.` or `..`, not empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KernelVersion(std::sync::Arc<str>);

text_id!(KernelVersion);

impl FromStr for KernelVersion {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        if text.contains('/') {
            return Err(BadId::new("Kernel name cannot contain '/'"));
        }
        if text.is_empty() || text == "." || text == ".." || text.contains('\0') || text.len() > 255 {
            return Err(BadId::new("Kernel name must be the name of a folder"));
        }
        // In a list it would be two.
        if text.chars().any(char::is_control) {
            return Err(BadId::new("Kernel name cannot contain control characters"));
        }
        Ok(Self(text.into()))
    }
}

/// The number that Xen gives a domain. It is never reused soon, and says nothing across a restart: a
/// domain's identity is its UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DomId(u32);

impl DomId {
    /// Numbers from 0x7ff0 on mean something else to Xen (`DOMID_FIRST_RESERVED`, xen/include/public/xen.h).
    pub const FIRST_RESERVED: u32 = 0x7ff0;

    /// A domain's number; `None` for the reserved ones.
    pub fn new(raw: u32) -> Option<Self> {
        (raw < Self::FIRST_RESERVED).then_some(Self(raw))
    }

    /// The number as Xen's interfaces take it.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An amount of storage in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ByteSize(u64);

impl ByteSize {
    /// So many bytes.
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many GiB.
    pub const fn gib(gib: u32) -> Self {
        Self((gib as u64) << 30)
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Filled up to whole sectors of 512 bytes; `None` on overflow.
    pub fn whole_sectors(self) -> Option<Self> {
        self.0.checked_next_multiple_of(512).map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An amount of memory in MiB, as Qubes counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MemoryMib(u32);

impl MemoryMib {
    /// So many MiB.
    pub const fn new(mib: u32) -> Self {
        Self(mib)
    }

    /// The number of MiB.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The same amount in KiB, libxl's unit.
    pub const fn kib(self) -> u64 {
        (self.0 as u64) << 10
    }
}

impl fmt::Display for MemoryMib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name under which a guest sees a virtual disk: `xvda` to `xvdz`, then `xvdaa` to `xvdzz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Vdev(u16);

impl Vdev {
    /// 26 one-letter names and 676 two-letter ones.
    const COUNT: u16 = 26 + 26 * 26;

    /// The disk with this index, 0 being `xvda`; `None` past `xvdzz`.
    pub const fn new(index: u16) -> Option<Self> {
        if index < Self::COUNT { Some(Self(index)) } else { None }
    }

    /// The index, 0 being `xvda`.
    pub const fn index(self) -> u16 {
        self.0
    }

    /// Names for disks attached to a running domain: `xvdi` on to `xvdzz`, then `xvda` to `xvdh`.
    pub fn hotplug_order() -> impl Iterator<Item = Self> {
        (8..Self::COUNT).chain(0..8).map(Self)
    }
}

impl fmt::Display for Vdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |n: u16| char::from(b'a'.saturating_add(u8::try_from(n).unwrap_or(0)));
        match self.0.checked_sub(26) {
            None => write!(f, "xvd{}", letter(self.0)),
            Some(rest) => write!(f, "xvd{}{}", letter(rest / 26), letter(rest % 26)),
        }
    }
}

impl FromStr for Vdev {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        let bad = BadId::new("disk name must be xvda to xvdz or xvdaa to xvdzz");
        let number = |b: &u8| b.is_ascii_lowercase().then(|| u16::from(*b - b'a'));
        let index = match text.strip_prefix("xvd").map(str::as_bytes) {
            Some([one]) => number(one),
            Some([one, two]) => number(one).zip(number(two)).map(|(one, two)| 26 + one * 26 + two),
            _ => None,
        };
        index.and_then(Self::new).ok_or(bad)
    }
}

impl TryFrom<String> for Vdev {
    type Error = BadId;
    fn try_from(text: String) -> Result<Self, BadId> {
        text.parse()
    }
}

impl From<Vdev> for String {
    fn from(vdev: Vdev) -> String {
        vdev.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn vm_names_are_refused_with_the_reason_of_the_first_broken_rule() {
        for (text, reason) in [
            ("", "VM name contains illegal characters"),
            ("a23456789012345678901234567890ab", "VM name must be shorter than 32 characters"),
            ("1a", "VM name cannot start with hyphen, underscore, dot or numbers"),
            ("-a", "VM name cannot start with hyphen, underscore, dot or numbers"),
            ("a/b", "VM name contains illegal characters"),
            ("Domain-0", "VM name cannot be 'Domain-0'"),
            ("none", "VM name cannot be 'none' nor 'default'"),
            ("default", "VM name cannot be 'none' nor 'default'"),
            ("work-dm", "VM name cannot end with -dm"),
        ] {
            assert_eq!(text.parse::<VmName>().unwrap_err().reason(), reason, "{text}");
        }
        assert!("a234567890123456789012345678901".parse::<VmName>().is_ok());
    }

    #[test]
    fn hotplugged_disks_begin_at_xvdi_and_use_every_name_once() {
        let names: Vec<String> = Vdev::hotplug_order().map(|vdev| vdev.to_string()).collect();
        assert_eq!(names.first().map(String::as_str), Some("xvdi"));
        assert_eq!(names.last().map(String::as_str), Some("xvdh"));
        assert_eq!(names.iter().collect::<std::collections::HashSet<_>>().len(), 702);
    }

    proptest! {
        #[test]
        fn what_parses_prints_the_same(text in "\\PC{0,40}") {
            if let Ok(name) = text.parse::<VmName>() { prop_assert_eq!(name.to_string(), text.clone()); }
            if let Ok(name) = text.parse::<VolumeName>() { prop_assert_eq!(name.to_string(), text.clone()); }
            if let Ok(name) = text.parse::<PoolName>() { prop_assert_eq!(name.to_string(), text.clone()); }
            if let Ok(name) = text.parse::<KernelVersion>() { prop_assert_eq!(name.to_string(), text.clone()); }
            if let Ok(name) = text.parse::<Vdev>() { prop_assert_eq!(name.to_string(), text.clone()); }
        }

        #[test]
        fn every_disk_name_parses_back(index in 0u16..702) {
            let vdev = Vdev::new(index).unwrap();
            prop_assert_eq!(vdev.to_string().parse::<Vdev>().unwrap(), vdev);
        }
    }
}
