//! Commands of dmsetup, as data.

use std::fmt;

use super::DmName;

/// A block device, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceNumber {
    /// Of its driver.
    pub major: u32,
    /// Within it.
    pub minor: u32,
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// Sectors of 512 bytes that a snapshot copies at a time; the deployed daemon's.
pub(in crate::storage) const CHUNK: u64 = 256;

/// What a device is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `origin` with what was written since on `store`. What of `store` is whose is known to the kernel alone: it is
    /// worth nothing without the device.
    Snapshot {
        /// Never written.
        origin: DeviceNumber,
        /// As large as `origin`, in whole chunks.
        store: DeviceNumber,
    },
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DmOp {
    /// Makes a device.
    Create {
        /// No other device's.
        name: DmName,
        /// In sectors of 512 bytes.
        sectors: u64,
        /// What it is.
        target: Target,
    },
    /// Removes a device that nobody has open; waits a little for those who have.
    Remove(DmName),
}

impl DmOp {
    /// The command's words.
    pub fn argv(&self) -> Vec<&str> {
        let plain = ["--noudevrules", "--noudevsync"];
        match self {
            Self::Create { name, .. } => [&["create"], &plain[..], &["--", name.as_str()]].concat(),
            Self::Remove(name) => [&["remove", "--retry"], &plain[..], &["--", name.as_str()]].concat(),
        }
    }

    /// What it reads.
    pub fn input(&self) -> String {
        match self {
            Self::Create { sectors, target: Target::Snapshot { origin, store }, .. } => {
                format!("0 {sectors} snapshot {origin} {store} N {CHUNK}\n")
            }
            Self::Remove(_) => String::new(),
        }
    }
}

impl fmt::Display for DmOp {
    /// As somebody would type it, without what it reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dmsetup {}", self.argv().join(" "))
    }
}
