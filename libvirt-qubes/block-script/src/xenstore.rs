//! A client of xenstored's wire protocol (`xen/include/public/io/xs_wire.h`) over its unix socket: read a node,
//! write a node. No transactions, no watches, no library.
//!
//! It needs the socket of a xenstored in this domain: `/dev/xen/xenbus` is left alone, because a read from it
//! hangs where xenstored is dead, while the socket refuses at once.

use std::env;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

const XS_READ: u32 = 2;
const XS_WRITE: u32 = 11;
const XS_ERROR: u32 = 16;

/// `XENSTORE_PAYLOAD_MAX`.
const PAYLOAD_MAX: usize = 4096;
const HEADER: usize = 16;

/// Why a request had no answer.
#[derive(Debug)]
pub enum Error {
    /// The socket cannot be reached, or the connection broke or was silent for too long.
    Io(io::Error),
    /// xenstored refused, with the name of an errno: `EACCES`, `EINVAL`, ...
    Refused(String),
    /// What came back is not the answer to what was asked.
    Malformed(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io(_) => f.write_str("no connection to xenstored"),
            Error::Refused(errno) => write!(f, "xenstored answered {errno}"),
            Error::Malformed(what) => write!(f, "xenstored's answer is malformed: {what}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io(e) => Some(e),
            Error::Refused(_) | Error::Malformed(_) => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Error {
        Error::Io(e)
    }
}

/// Where xenstored listens: `XENSTORED_PATH`, else `XENSTORED_RUNDIR/socket`, else `/run/xenstored/socket`, as
/// libxenstore has it.
pub fn socket_path() -> PathBuf {
    if let Some(path) = env::var_os("XENSTORED_PATH") {
        return path.into();
    }
    let rundir =
        env::var_os("XENSTORED_RUNDIR").map_or_else(|| PathBuf::from("/run/xenstored"), PathBuf::from);
    rundir.join("socket")
}

/// A connection of its own; requests go one at a time.
#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
    last_id: u32,
}

impl Connection {
    /// Connects; `limit` bounds each later read and write.
    ///
    /// # Errors
    /// Those of connecting: `ECONNREFUSED` if xenstored is dead.
    pub fn open(socket: &Path, limit: Duration) -> Result<Connection, Error> {
        let socket = UnixStream::connect(socket)?;
        socket.set_read_timeout(Some(limit))?;
        socket.set_write_timeout(Some(limit))?;
        Ok(Connection { socket, last_id: 0 })
    }

    /// The value of `path` (absolute, or below this domain's own directory); `None` if there is no such node.
    ///
    /// # Errors
    /// [`Error`]; after `Io` and `Malformed` the connection is of no more use.
    pub fn read(&mut self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        match self.request(XS_READ, &[path.as_bytes(), b"\0"]) {
            Ok(value) => Ok(Some(value)),
            Err(Error::Refused(errno)) if errno == "ENOENT" => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Writes `value` to `path` and makes the node if there is none.
    ///
    /// # Errors
    /// As [`read`](Connection::read).
    pub fn write(&mut self, path: &str, value: &[u8]) -> Result<(), Error> {
        self.request(XS_WRITE, &[path.as_bytes(), b"\0", value]).map(drop)
    }

    fn request(&mut self, kind: u32, parts: &[&[u8]]) -> Result<Vec<u8>, Error> {
        let payload = parts.concat();
        let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= PAYLOAD_MAX);
        let Some(length) = length else {
            return Err(
                io::Error::new(io::ErrorKind::InvalidInput, "more than 4096 bytes for one request").into()
            );
        };
        self.last_id = self.last_id.wrapping_add(1);
        let mut message: Vec<u8> =
            [kind, self.last_id, 0, length].iter().flat_map(|n| n.to_ne_bytes()).collect();
        message.extend_from_slice(&payload);
        self.socket.write_all(&message)?;
        self.answer(kind)
    }

    fn answer(&mut self, asked: u32) -> Result<Vec<u8>, Error> {
        let mut header = [0; HEADER];
        self.socket.read_exact(&mut header)?;
        let mut fields = header.chunks_exact(4).map(|c| c.try_into().map_or(0, u32::from_ne_bytes));
        let mut field = || fields.next().unwrap_or(0);
        let (kind, id, _transaction, length) = (field(), field(), field(), field());
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > PAYLOAD_MAX {
            return Err(Error::Malformed("more than 4096 bytes"));
        }
        let mut payload = vec![0; length];
        self.socket.read_exact(&mut payload)?;
        if id != self.last_id {
            return Err(Error::Malformed("it belongs to another request"));
        }
        if kind == XS_ERROR {
            let errno = payload.split(|b| *b == 0).next().unwrap_or_default();
            return Err(Error::Refused(String::from_utf8_lossy(errno).into_owned()));
        }
        if kind != asked {
            return Err(Error::Malformed("it is of another type"));
        }
        Ok(payload)
    }
}
