//! What a failed libxl call says: its code and the line of its log that tells a person why.

use std::fmt;

use xen_sys::libxl_error as E;

use super::telling::telling_line;
use crate::error::{Error, Kind, Op};

/// A failure of libxl: the source of this backend's [`Error`]s.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct LibxlError {
    rc: i32,
    line: Option<String>,
}

impl LibxlError {
    /// From the code and the errors that the call logged, in their order.
    pub(super) fn new(rc: i32, lines: &[String]) -> Self {
        let line = telling_line(lines.iter().map(String::as_str)).map(str::to_owned);
        Self { rc, line }
    }

    /// The call's return code: one of `libxl_error`, or one that this release does not know.
    pub fn rc(&self) -> i32 {
        self.rc
    }

    /// The line of libxl's log that tells what went wrong, without source places; `None` where it logged none.
    pub fn line(&self) -> Option<&str> {
        self.line.as_deref()
    }

    pub(super) fn is(&self, code: E) -> bool {
        self.rc == code.0
    }

    /// What a caller can act on. libxl answers -3 to most things: then its words decide.
    pub(super) fn kind(&self) -> Kind {
        match E(self.rc) {
            E::ERROR_NOMEM => Kind::NoMemory,
            E::ERROR_INVAL => Kind::Invalid,
            E::ERROR_NI | E::ERROR_NOPARAVIRT | E::ERROR_FEATURE_REMOVED => Kind::Unsupported,
            E::ERROR_TIMEDOUT | E::ERROR_GUEST_TIMEDOUT => Kind::TimedOut,
            E::ERROR_DEVICE_EXISTS => Kind::AlreadyExists,
            E::ERROR_DOMAIN_NOTFOUND | E::ERROR_NOTFOUND | E::ERROR_DOMAIN_DESTROYED => Kind::NotFound,
            E::ERROR_ABORTED => Kind::Cancelled,
            E::ERROR_LOCK_FAIL | E::ERROR_NOT_READY => Kind::Busy,
            _ => self.line().map_or(Kind::Backend, kind_of_words),
        }
    }

    /// The backend's error: what failed, on what, and this as its source.
    pub(super) fn at(self, op: Op, target: impl fmt::Display) -> Error {
        Error::new(self.kind(), op, target).because(self)
    }
}

/// Words of failures that libxl gives no code of their own.
fn kind_of_words(line: &str) -> Kind {
    const MEMORY: [&str; 4] = [
        "can't allocate low memory for domain",
        "can't allocate memory for domain",
        "failed to populate memory",
        "failed to allocate memory",
    ];
    if MEMORY.iter().any(|words| line.contains(words)) {
        Kind::NoMemory
    } else if line.starts_with("Domain with name ") && line.contains("already exists") {
        Kind::AlreadyExists
    } else {
        Kind::Backend
    }
}

impl fmt::Display for LibxlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.line {
            Some(line) => f.write_str(line),
            None => write!(f, "libxl answered {}", self.rc),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_comes_from_the_code_and_else_from_the_words() {
        let failed = |rc: E, line: &str| LibxlError::new(rc.0, &[line.to_owned()]).kind();
        assert_eq!(failed(E::ERROR_DEVICE_EXISTS, "device already exists in xenstore"), Kind::AlreadyExists);
        assert_eq!(failed(E::ERROR_ABORTED, "killing execution because of timeout"), Kind::Cancelled);
        assert_eq!(failed(E::ERROR_FAIL, "can't allocate low memory for domain"), Kind::NoMemory);
        assert_eq!(failed(E::ERROR_FAIL, "Domain with name \"a\" already exists."), Kind::AlreadyExists);
        assert_eq!(failed(E::ERROR_FAIL, "failed to open file '/k'"), Kind::Backend);
        assert_eq!(failed(E(-9999), "of a later release"), Kind::Backend);
    }

    #[test]
    fn the_text_is_the_telling_line_or_else_the_code() {
        assert_eq!(LibxlError::new(-3, &[]).to_string(), "libxl answered -3");
        let error = LibxlError::new(-3, &["no kernel".to_owned()]).at(Op::CreateDomain, "work");
        assert_eq!(error.report(), "create domain work: failed: no kernel");
    }
}
