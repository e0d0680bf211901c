//! Whether xenstored lives, and what libxl's disk lists leave out.
//!
//! libxl cannot tell that xenstored is gone: a new context opens, a pause succeeds (and cannot be undone), a read
//! hangs for ever. The socket tells at once, and every read on it has a limit.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use mgmt_block::xenstore::{Connection, Error as StoreError, socket_path};

use crate::error::{Error, Kind, Op, Result};

/// A xenstored that takes longer for one read is not alive.
const LIMIT: Duration = Duration::from_secs(1);

/// A connection to xenstored.
pub(super) struct Store(Connection);

impl Store {
    /// `Kind::Unavailable` when there is none.
    pub(super) fn open() -> Result<Self> {
        let socket = socket_path();
        let opened = Connection::open(&socket, LIMIT);
        opened.map(Self).map_err(|error| unavailable(error, socket.display().to_string()))
    }

    fn read(&mut self, node: &str) -> Result<Option<Vec<u8>>> {
        self.0.read(node).map_err(|error| unavailable(error, node.to_owned()))
    }

    /// The path behind a disk of a domain, as the toolstack wrote it. (libxl's own list cuts a path at its
    /// first colon.) `None` where there is none.
    pub(super) fn disk_path(&mut self, domid: u32, devid: u32) -> Result<Option<PathBuf>> {
        let value = self.read(&format!("/libxl/{domid}/device/vbd/{devid}/params"))?;
        Ok(value.map(|bytes| PathBuf::from(OsStr::from_bytes(&bytes))).filter(|path| path.is_absolute()))
    }

    /// A node that is a decimal number.
    pub(super) fn number(&mut self, node: &str) -> Result<Option<u64>> {
        Ok(self.read(node)?.as_deref().and_then(decimal))
    }

    /// Whether the guest has never touched a disk: the state of its side is as libxl wrote it. (The guest can
    /// write it, and lie to its own harm alone.)
    pub(super) fn disk_is_untouched(&mut self, domid: u32, devid: u32) -> Result<bool> {
        let state = self.read(&format!("/local/domain/{domid}/device/vbd/{devid}/state"))?;
        Ok(state.as_deref() == Some(INITIALISING))
    }
}

/// `XenbusStateInitialising` (xen/include/public/io/xenbus.h): what libxl writes for a new frontend.
const INITIALISING: &[u8] = b"1";

/// Digits alone, as far as they make a number: a guest may have written them.
fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits).and_then(|text| text.parse().ok())
}

fn unavailable(error: StoreError, target: String) -> Error {
    Error::new(Kind::Unavailable, Op::Xenstore, target).because(error)
}

/// Asks xenstored for one node. Blocks for at most about a second. `Kind::Unavailable` when it does not answer:
/// then nothing that needs xenstore may be begun.
pub(super) fn check() -> Result<()> {
    Store::open()?.read("/local/domain/0/name").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digits_are_a_number() {
        for (text, number) in [
            (&b"0"[..], Some(0)),
            (b"4096", Some(4096)),
            (b"18446744073709551616", None),
            (b"+1", None),
            (b" 1", None),
            (b"1\n", None),
            (b"", None),
            (b"\xff", None),
        ] {
            assert_eq!(decimal(text), number, "{text:?}");
        }
    }
}
