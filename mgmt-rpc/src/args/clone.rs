//! The payload of `vm.Clone`: `name=NAME`.

use libvirt_qubes::ids::VmName;

use super::create::{once, parameters, protocol, vm_name};
use crate::untrusted::Parse;
use crate::wire::Exception;

/// What a clone is to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewClone {
    /// Its name; whether it is taken is not known yet.
    pub name: VmName,
}

impl Parse for NewClone {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        let mut name = None;
        for parameter in parameters(bytes)? {
            match parameter? {
                ("name", value) => once(&mut name, vm_name(value)?, "Options must be unique")?,
                (_, _) => return Err(protocol("Options does not match: name")),
            }
        }
        let name = name.ok_or_else(|| protocol("Creation requested without key: name"))?;
        Ok(Self { name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Class;

    #[test]
    fn a_clone_has_a_name_and_nothing_else() {
        let name = "work".parse().unwrap();
        assert_eq!(NewClone::parse(b"name=work"), Ok(NewClone { name }));
        let form = "Parameters must be KEY=VALUE, separated by one space";
        for (text, class, message) in [
            ("", Class::ProtocolError, form),
            ("work", Class::ProtocolError, form),
            ("name=work ", Class::ProtocolError, form),
            ("name=w\u{f6}rk", Class::ProtocolError, "Parameters contains non-ASCII characters"),
            ("name=work label=red", Class::ProtocolError, "Options does not match: name"),
            ("name=a name=b", Class::ProtocolError, "Options must be unique"),
            (
                "name=1a",
                Class::QubesValueError,
                "VM name cannot start with hyphen, underscore, dot or numbers",
            ),
        ] {
            assert_eq!(NewClone::parse(text.as_bytes()), Err(Exception::plain(class, message)), "{text}");
        }
    }
}
