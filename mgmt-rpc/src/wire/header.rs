//! The header of a request: `METHOD[+ARG] SP SOURCE SP ("name"|"keyword") SP DEST`, before the first NUL.
//!
//! Only the grammar is checked here; whether source, destination and method exist is dispatch's.

use std::fmt;
use std::str::FromStr;

use libvirt_qubes::ids::VmName;
use uuid::Uuid;

use super::{Class, Exception, exception::quoted};

/// A VM as a request names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum VmRef {
    /// By its name.
    Name(VmName),
    /// As `uuid:` and the canonical, lower-case UUID. dom0's is all zeros.
    Uuid(Uuid),
}

impl VmRef {
    /// The administrative domain.
    pub fn dom0() -> Self {
        Self::Name(VmName::dom0())
    }

    /// Whether this names dom0, in either form.
    pub fn is_dom0(&self) -> bool {
        match self {
            Self::Name(name) => name.is_dom0(),
            Self::Uuid(uuid) => uuid.is_nil(),
        }
    }
}

impl fmt::Display for VmRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Uuid(uuid) => write!(f, "uuid:{}", uuid.hyphenated()),
        }
    }
}

/// Why a text names no VM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadVmRef {
    /// The rule for names that was broken.
    #[error("{0}")]
    Name(&'static str),
    /// A text after `uuid:` that is not a canonical UUID; the whole text.
    #[error("VM UUID is not valid: {}", quoted(.0))]
    Uuid(String),
}

impl BadVmRef {
    /// What a client sees.
    pub fn exception(&self) -> Exception {
        match self {
            Self::Name(reason) => Exception::plain(Class::QubesValueError, *reason),
            Self::Uuid(text) => {
                Exception::new(Class::QubesVMInvalidUUIDError, "VM UUID is not valid: %s", [quoted(text)])
            }
        }
    }
}

impl FromStr for VmRef {
    type Err = BadVmRef;

    fn from_str(text: &str) -> Result<Self, BadVmRef> {
        let Some(uuid) = text.strip_prefix("uuid:") else {
            return text
                .parse()
                .map(Self::Name)
                .map_err(|bad: libvirt_qubes::ids::BadId| BadVmRef::Name(bad.reason()));
        };
        match Uuid::try_parse(uuid) {
            // No second spelling: upper case, braces and the form without hyphens are refused.
            Ok(parsed) if parsed.hyphenated().to_string() == uuid => Ok(Self::Uuid(parsed)),
            Ok(_) | Err(_) => Err(BadVmRef::Uuid(text.to_owned())),
        }
    }
}

/// A header whose four fields keep to the grammar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What is called, up to the first `+`. ASCII.
    pub method: String,
    /// What follows the first `+`; empty if there is none. ASCII.
    pub argument: String,
    /// Who calls.
    pub source: VmRef,
    /// What the call is about, as it was requested: qrexec's `target=dom0` does not change it.
    pub destination: VmRef,
}

/// Why bytes are no header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    /// The request ended, and there was no NUL.
    #[error("no NUL after the header")]
    NoEnd,
    /// Fewer than four fields.
    #[error("the header is not METHOD[+ARGUMENT] SOURCE TYPE DESTINATION")]
    Fields,
    /// A destination type other than `name`, or a keyword other than `adminvm`.
    #[error("the destination is neither \"name NAME\" nor \"keyword adminvm\"")]
    DestinationType,
    /// A byte outside ASCII in the field that is named.
    #[error("non-ASCII byte in the {0}")]
    NotAscii(&'static str),
    /// The source or the destination cannot be a VM's name.
    #[error(transparent)]
    Vm(#[from] BadVmRef),
}

impl BadHeader {
    /// What a client sees.
    pub fn exception(&self) -> Exception {
        match self {
            Self::NoEnd | Self::Fields | Self::DestinationType | Self::NotAscii(_) => {
                malformed(&self.to_string())
            }
            Self::Vm(bad) => bad.exception(),
        }
    }
}

/// The answer to bytes that are no request.
pub fn malformed(what: &str) -> Exception {
    Exception::new(Class::ProtocolError, "malformed request: %s", [what])
}

impl Header {
    /// Reads what was before the NUL.
    ///
    /// # Errors
    /// The first rule that is broken: number of fields, type, source, destination, method, argument.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadHeader> {
        let mut fields = bytes.splitn(4, |byte| *byte == b' ');
        let (Some(call), Some(source), Some(kind), Some(destination)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(BadHeader::Fields);
        };
        let destination = match (kind, destination) {
            (b"name", name) => name,
            (b"keyword", b"adminvm") => VmName::DOM0.as_bytes(),
            _ => return Err(BadHeader::DestinationType),
        };
        let source = ascii(source, "source")?.parse()?;
        let destination = ascii(destination, "destination")?.parse()?;
        let (method, argument) = match call.iter().position(|byte| *byte == b'+') {
            Some(plus) => call.split_at(plus),
            None => (call, &b""[..]),
        };
        let method = ascii(method, "method")?.to_owned();
        let argument = ascii(argument.get(1..).unwrap_or_default(), "argument")?.to_owned();
        Ok(Self { method, argument, source, destination })
    }

    /// The bytes before the payload, the NUL included. Always with a `+`, as local clients send it.
    pub fn encode(&self) -> Vec<u8> {
        let Self { method, argument, source, destination } = self;
        format!("{method}+{argument} {source} name {destination}\0").into_bytes()
    }
}

fn ascii<'a>(bytes: &'a [u8], field: &'static str) -> Result<&'a str, BadHeader> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => Ok(text),
        Ok(_) | Err(_) => Err(BadHeader::NotAscii(field)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(method: &str, argument: &str, source: &str, destination: &str) -> Header {
        Header {
            method: method.into(),
            argument: argument.into(),
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    #[test]
    fn headers_read_as_the_document_shows_them() {
        for (bytes, expected) in [
            ("admin.vm.List+ dom0 name dom0", header("admin.vm.List", "", "dom0", "dom0")),
            ("admin.vm.List dom0 name dom0", header("admin.vm.List", "", "dom0", "dom0")),
            (
                "admin.vm.property.Set+memory dom0 name work",
                header("admin.vm.property.Set", "memory", "dom0", "work"),
            ),
            ("admin.label.List+ mgmt keyword adminvm", header("admin.label.List", "", "mgmt", "dom0")),
            (
                "mgmt.vm.device.block.Attach+dom0+/a+b dom0 name work",
                header("mgmt.vm.device.block.Attach", "dom0+/a+b", "dom0", "work"),
            ),
            (
                "a+ uuid:00000000-0000-0000-0000-000000000000 name uuid:0a1b2c3d-0a1b-2c3d-4e5f-0123456789ab",
                header(
                    "a",
                    "",
                    "uuid:00000000-0000-0000-0000-000000000000",
                    "uuid:0a1b2c3d-0a1b-2c3d-4e5f-0123456789ab",
                ),
            ),
        ] {
            assert_eq!(Header::decode(bytes.as_bytes()).as_ref(), Ok(&expected), "{bytes}");
        }
        assert_eq!(header("admin.vm.List", "", "dom0", "dom0").encode(), b"admin.vm.List+ dom0 name dom0\0");
    }

    #[test]
    fn a_broken_header_is_answered_with_the_rule_that_it_breaks() {
        let long = "a".repeat(32);
        for (bytes, class, message) in [
            (
                "",
                "ProtocolError",
                "malformed request: the header is not METHOD[+ARGUMENT] SOURCE TYPE DESTINATION",
            ),
            (
                "a dom0 name",
                "ProtocolError",
                "malformed request: the header is not METHOD[+ARGUMENT] SOURCE TYPE DESTINATION",
            ),
            (
                "a dom0 nome work",
                "ProtocolError",
                "malformed request: the destination is neither \"name NAME\" nor \"keyword adminvm\"",
            ),
            (
                "a dom0 keyword default",
                "ProtocolError",
                "malformed request: the destination is neither \"name NAME\" nor \"keyword adminvm\"",
            ),
            ("a dom\u{f6} name work", "ProtocolError", "malformed request: non-ASCII byte in the source"),
            (
                "a dom0 name w\u{f6}rk",
                "ProtocolError",
                "malformed request: non-ASCII byte in the destination",
            ),
            ("\u{f6} dom0 name work", "ProtocolError", "malformed request: non-ASCII byte in the method"),
            ("a+\u{f6} dom0 name work", "ProtocolError", "malformed request: non-ASCII byte in the argument"),
            (
                "a dom0 name 1work",
                "QubesValueError",
                "VM name cannot start with hyphen, underscore, dot or numbers",
            ),
            ("a dom0 name work more", "QubesValueError", "VM name contains illegal characters"),
            ("a  name work", "QubesValueError", "VM name contains illegal characters"),
            ("a dom0 name none", "QubesValueError", "VM name cannot be 'none' nor 'default'"),
            ("a dom0 name Domain-0", "QubesValueError", "VM name cannot be 'Domain-0'"),
            ("a dom0 name a-dm", "QubesValueError", "VM name cannot end with -dm"),
            (&format!("a {long} name work"), "QubesValueError", "VM name must be shorter than 32 characters"),
            ("a dom0 name uuid:x", "QubesVMInvalidUUIDError", "VM UUID is not valid: 'uuid:x'"),
            (
                "a uuid:0A1B2C3D-0A1B-2C3D-4E5F-0123456789AB name work",
                "QubesVMInvalidUUIDError",
                "VM UUID is not valid: 'uuid:0A1B2C3D-0A1B-2C3D-4E5F-0123456789AB'",
            ),
        ] {
            let exception = Header::decode(bytes.as_bytes()).unwrap_err().exception();
            assert_eq!((exception.class(), exception.message().as_str()), (class, message), "{bytes}");
        }
        assert_eq!(Header::decode(b"a dom0 name \xff"), Err(BadHeader::NotAscii("destination")));
    }

    proptest! {
        #[test]
        fn every_header_decodes_to_itself(
            method in "[ -*,-~&&[^ ]]{0,20}",
            argument in "[!-~]{0,20}",
            source in "[a-z][a-z0-9]{0,10}x",
            uuid in any::<u128>(),
        ) {
            let header = Header {
                method, argument,
                source: source.parse().unwrap(),
                destination: VmRef::Uuid(Uuid::from_u128(uuid)),
            };
            let bytes = header.encode();
            prop_assert_eq!(Header::decode(&bytes[..bytes.len() - 1]), Ok(header));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in "[a+ :\u{e9}]{0,10} [a0:]{0,4} (name|keyword|) [a-z-]{0,9}") {
            match Header::decode(bytes.as_bytes()) {
                Ok(header) => prop_assert!(header.source.to_string().len() <= 41),
                Err(bad) => { bad.exception().encode(); }
            }
        }

        #[test]
        fn a_vm_is_written_in_one_way_only(text in "(uuid:[0-9a-fA-F{}-]{32,38}|\\PC{0,12})") {
            if let Ok(vm) = text.parse::<VmRef>() { prop_assert_eq!(vm.to_string(), text); }
        }
    }
}
