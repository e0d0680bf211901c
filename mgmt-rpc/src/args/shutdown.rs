//! The argument of `admin.vm.Shutdown`: nothing, `force`, `wait`, or both joined by `+`.

use crate::untrusted::Parse;
use crate::wire::{Class, Exception};

/// How a VM is shut down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShutdownOptions {
    /// Whether what speaks against it is left out of account.
    pub force: bool,
    /// Whether the answer comes when the VM has ended, not when it was asked.
    pub wait: bool,
}

impl Parse for ShutdownOptions {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        let mut options = Self::default();
        if bytes.is_empty() {
            return Ok(options);
        }
        for word in bytes.split(|byte| *byte == b'+') {
            let option = match word {
                b"force" => &mut options.force,
                b"wait" => &mut options.wait,
                _ => return Err(refused()),
            };
            if std::mem::replace(option, true) {
                return Err(refused());
            }
        }
        Ok(options)
    }
}

fn refused() -> Exception {
    Exception::plain(Class::ProtocolError, "Argument must match: force, wait")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_option_is_taken_once_in_any_order() {
        for (text, force, wait) in [
            ("", false, false),
            ("force", true, false),
            ("wait", false, true),
            ("force+wait", true, true),
            ("wait+force", true, true),
        ] {
            assert_eq!(
                ShutdownOptions::parse(text.as_bytes()),
                Ok(ShutdownOptions { force, wait }),
                "{text}"
            );
        }
        for text in ["+", "force+", "now", "wait+wait", "Force", "force wait"] {
            assert_eq!(ShutdownOptions::parse(text.as_bytes()), Err(refused()), "{text}");
        }
    }
}
