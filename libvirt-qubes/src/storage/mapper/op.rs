//! Commands of dmsetup, as data.

use std::fmt;
use std::io;

use rustix::rand::{GetRandomFlags, getrandom};
use zeroize::Zeroizing;

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

/// LVM looks for nothing on a device whose UUID begins so: what a guest writes there, nobody in dom0 is to believe.
const PRIVATE: &str = "CRYPT-TEMP-";

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
    /// `device`, encrypted.
    Crypt {
        /// As large.
        device: DeviceNumber,
        /// Whoever has it can read.
        key: Key,
    },
}

/// A key of AES-256 in XTS. It lies in one place, is wiped from there when it is dropped, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Box<Zeroizing<[u8; 64]>>);

impl Key {
    /// A new one.
    ///
    /// # Errors
    /// If the kernel has no random numbers.
    pub fn random() -> io::Result<Self> {
        let mut key = Box::new(Zeroizing::new([0; 64]));
        // So few bytes come whole once the kernel has any.
        let came = getrandom(&mut **key, GetRandomFlags::empty())?;
        if came == key.len() { Ok(Self(key)) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn write_hex(&self, text: &mut String) {
        for byte in self.0.iter() {
            for digit in [byte >> 4, byte & 15] {
                text.extend(char::from_digit(u32::from(digit), 16));
            }
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
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
    pub fn argv(&self) -> Vec<String> {
        let (mut words, name) = match self {
            Self::Create { name, target: Target::Snapshot { .. }, .. } => (vec!["create".to_owned()], name),
            Self::Create { name, target: Target::Crypt { .. }, .. } => {
                (vec!["create".to_owned(), format!("--uuid={PRIVATE}{name}")], name)
            }
            Self::Remove(name) => (vec!["remove".to_owned(), "--retry".to_owned()], name),
        };
        words.extend(["--noudevrules", "--noudevsync", "--", name.as_str()].map(str::to_owned));
        words
    }

    /// What it reads.
    pub fn input(&self) -> Zeroizing<String> {
        // As large as any table is: one that has to grow would leave parts of the key behind.
        let mut text = Zeroizing::new(String::with_capacity(512));
        match self {
            Self::Create { sectors, target: Target::Snapshot { origin, store }, .. } => {
                text.push_str(&format!("0 {sectors} snapshot {origin} {store} N {CHUNK}\n"));
            }
            Self::Create { sectors, target: Target::Crypt { device, key }, .. } => {
                text.push_str(&format!("0 {sectors} crypt aes-xts-plain64 "));
                key.write_hex(&mut text);
                text.push_str(&format!(" 0 {device} 0\n"));
            }
            Self::Remove(_) => {}
        }
        text
    }
}

impl fmt::Display for DmOp {
    /// As somebody would type it, without what it reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dmsetup {}", self.argv().join(" "))
    }
}
