//! The classes of devices.

use std::fmt;
use std::str::FromStr;

/// A class of devices that one VM offers to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceClass {
    /// Devices of the PCI bus.
    Pci,
    /// Disks.
    Block,
    /// Devices of USB buses.
    Usb,
    /// The microphone.
    Mic,
}

/// A text that names no class of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such device class")]
pub struct UnknownDeviceClass;

impl DeviceClass {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Self; 4] = [Self::Pci, Self::Block, Self::Usb, Self::Mic];

    /// The name that clients know.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pci => "pci",
            Self::Block => "block",
            Self::Usb => "usb",
            Self::Mic => "mic",
        }
    }
}

impl fmt::Display for DeviceClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DeviceClass {
    type Err = UnknownDeviceClass;

    fn from_str(text: &str) -> Result<Self, UnknownDeviceClass> {
        Self::ALL.into_iter().find(|class| class.as_str() == text).ok_or(UnknownDeviceClass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_parses_from_the_name_that_it_prints() {
        for class in DeviceClass::ALL {
            assert_eq!(class.to_string().parse(), Ok(class));
        }
        assert_eq!("PCI".parse::<DeviceClass>(), Err(UnknownDeviceClass));
    }
}
