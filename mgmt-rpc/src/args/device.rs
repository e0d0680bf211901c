//! A device in an argument: `BACKEND+PORT`, where the port of a file of dom0 is its path.
//!
//! In a path, bytes outside `A-Za-z0-9._/+-` are written `%XX`, with capital letters; every path has one
//! spelling, and lists print that one.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use crate::untrusted::{Parse, ascii};
use crate::wire::{Class, Exception};

/// A device as a request names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Device {
    /// The VM that has it, as it was sent; whether there is one is not known yet.
    pub backend: String,
    /// What it is there.
    pub port: Port,
}

/// What a device is in its backend.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Port {
    /// A file or block device, by its absolute path.
    Path(DevicePath),
    /// A port by its name, as it was sent.
    Name(String),
}

/// An absolute path without empty, `.` or `..` parts and without a NUL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DevicePath(PathBuf);

/// Why a text is no device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadDevice {
    /// There is no `+`, or nothing on one side of it.
    #[error("Device must be BACKEND+PORT")]
    Form,
    /// A path that is not the one spelling of a file.
    #[error("Device path must be absolute, without empty, . or .. parts")]
    Path,
    /// A byte that is written in another way than it must be.
    #[error("Device path must have bytes outside A-Za-z0-9._/+- written %XX, and no others")]
    Escape,
}

impl DevicePath {
    /// A path as the operating system gives it.
    ///
    /// # Errors
    /// It is not absolute, or not the one spelling of its file.
    pub fn new(path: impl Into<PathBuf>) -> Result<Self, BadDevice> {
        let path = path.into();
        let mut clean = PathBuf::new();
        for part in path.components() {
            match part {
                Component::RootDir | Component::Normal(_) => clean.push(part),
                Component::CurDir | Component::ParentDir | Component::Prefix(_) => {
                    return Err(BadDevice::Path);
                }
            }
        }
        // `components` drops what is empty; comparing bytes finds it.
        let same = clean.as_os_str() == path.as_os_str();
        let named = path.is_absolute() && path.file_name().is_some();
        let has_nul = path.as_os_str().as_bytes().contains(&0);
        if same && named && !has_nul { Ok(Self(path)) } else { Err(BadDevice::Path) }
    }

    /// The path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

/// Whether a byte stands for itself in a path.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'/' | b'+' | b'-')
}

impl fmt::Display for DevicePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.as_os_str().as_bytes() {
            match is_plain(*byte) {
                true => write!(f, "{}", char::from(*byte))?,
                false => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for DevicePath {
    type Err = BadDevice;

    fn from_str(text: &str) -> Result<Self, BadDevice> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((byte, after)) = rest.split_first() {
            rest = match byte {
                b'%' => {
                    let (high, low) = (after.first().and_then(nibble), after.get(1).and_then(nibble));
                    let (Some(high), Some(low)) = (high, low) else { return Err(BadDevice::Escape) };
                    let byte = (high << 4) | low;
                    if is_plain(byte) {
                        return Err(BadDevice::Escape);
                    }
                    bytes.push(byte);
                    after.get(2..).unwrap_or_default()
                }
                byte if is_plain(*byte) => {
                    bytes.push(*byte);
                    after
                }
                _ => return Err(BadDevice::Escape),
            };
        }
        Self::new(OsString::from_vec(bytes))
    }
}

/// The value of a hexadecimal digit in capitals.
fn nibble(digit: &u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit.saturating_sub(b'0')),
        b'A'..=b'F' => Some(digit.saturating_sub(b'A').saturating_add(10)),
        _ => None,
    }
}

impl AsRef<OsStr> for DevicePath {
    fn as_ref(&self) -> &OsStr {
        self.0.as_os_str()
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.port {
            Port::Path(path) => write!(f, "{}+{path}", self.backend),
            Port::Name(name) => write!(f, "{}+{name}", self.backend),
        }
    }
}

impl FromStr for Device {
    type Err = BadDevice;

    fn from_str(text: &str) -> Result<Self, BadDevice> {
        let (backend, port) = text.split_once('+').ok_or(BadDevice::Form)?;
        if backend.is_empty() || port.is_empty() {
            return Err(BadDevice::Form);
        }
        let port = match port.starts_with('/') {
            true => Port::Path(port.parse()?),
            false => Port::Name(port.to_owned()),
        };
        Ok(Self { backend: backend.to_owned(), port })
    }
}

impl Parse for Device {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        let parsed = ascii(bytes).ok_or(BadDevice::Form).and_then(str::parse);
        parsed.map_err(|bad: BadDevice| Exception::plain(Class::ProtocolError, bad.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn files_of_dom0_and_ports_of_backends_are_told_apart() {
        let device = |text: &str| text.parse::<Device>();
        let file = device("dom0+/srv/a+b/my%20disk%25.img").unwrap();
        let Port::Path(path) = &file.port else { panic!("{file:?}") };
        assert_eq!((file.backend.as_str(), path.as_path()), ("dom0", Path::new("/srv/a+b/my disk%.img")));
        let odd = DevicePath::new(OsString::from_vec(b"/\xff\n/x".to_vec())).unwrap();
        assert_eq!(odd.to_string(), "/%FF%0A/x");
        let port = Device { backend: "sys-usb".into(), port: Port::Name("2-1+0951+1666".into()) };
        assert_eq!(device("sys-usb+2-1+0951+1666"), Ok(port));
    }

    #[test]
    fn a_device_that_is_spelled_in_another_way_is_refused_with_the_rule() {
        for (text, bad) in [
            ("", BadDevice::Form),
            ("dom0", BadDevice::Form),
            ("+/a", BadDevice::Form),
            ("dom0+", BadDevice::Form),
            ("dom0+/a/../b", BadDevice::Path),
            ("dom0+/a//b", BadDevice::Path),
            ("dom0+//a", BadDevice::Path),
            ("dom0+/a/./b", BadDevice::Path),
            ("dom0+/a/", BadDevice::Path),
            ("dom0+/", BadDevice::Path),
            ("dom0+/a%00", BadDevice::Path),
            ("dom0+/%41", BadDevice::Escape),
            ("dom0+/%2f", BadDevice::Escape),
            ("dom0+/%2", BadDevice::Escape),
            ("dom0+/%", BadDevice::Escape),
            ("dom0+/%+5", BadDevice::Escape),
            ("dom0+/a b", BadDevice::Escape),
        ] {
            assert_eq!(text.parse::<Device>(), Err(bad), "{text}");
        }
        let refused = Device::parse(b"dom0").unwrap_err();
        assert_eq!(refused.encode(), b"2\0ProtocolError\0\0Device must be BACKEND+PORT\0");
    }

    proptest! {
        #[test]
        fn what_parses_prints_the_same(text in "(dom0)?\\+/?[a-c.%0-9A-F/+ -]{0,12}") {
            if let Ok(device) = text.parse::<Device>() { prop_assert_eq!(device.to_string(), text); }
        }

        #[test]
        fn every_path_is_printed_so_that_it_parses(parts in proptest::collection::vec("[^/\0]{1,6}", 1..4)) {
            let path = format!("/{}", parts.join("/"));
            if let Ok(path) = DevicePath::new(&path) {
                prop_assert!(path.to_string().is_ascii());
                prop_assert_eq!(path.to_string().parse::<DevicePath>(), Ok(path));
            }
        }
    }
}
