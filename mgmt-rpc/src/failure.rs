//! Why a call was not carried out, before it is decided who may read how much of that.

use std::error::Error as StdError;

use crate::wire::header::malformed;
use crate::wire::{Class, Exception};

/// The failure of a call. Handlers make it; dispatch turns it into an answer.
#[derive(Debug)]
pub enum Failure {
    /// Said to everybody as it is.
    Exception(Exception),
    /// Tells that something does not exist: dom0 reads it as it is, everybody else gets the refusal.
    Absent(Exception),
    /// Policy does not allow it.
    Denied,
    /// A bug, or an error of the machine: the cause goes to the log, the client gets the log's id.
    Internal(Box<dyn StdError + Send + Sync>),
}

impl Failure {
    /// An error inside the daemon that no client can do anything about.
    pub fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Internal(cause.into())
    }

    /// `QubesVMNotFoundError`, for a VM that a request names.
    pub fn no_such_domain(named: &str) -> Self {
        Self::Absent(Exception::new(
            Class::QubesVMNotFoundError,
            "No such domain: %s",
            [crate::wire::exception::quoted(named)],
        ))
    }
}

impl From<Exception> for Failure {
    fn from(exception: Exception) -> Self {
        Self::Exception(exception)
    }
}

/// The refusal that has the same bytes whatever its cause.
pub fn access_denied() -> Exception {
    Exception::plain(Class::PermissionDenied, "Access denied")
}

/// The answer to a bug or an I/O error.
pub fn internal_error(log_id: &str) -> Exception {
    Exception::new(Class::QubesException, "internal error, log id %s", [log_id])
}

/// The answer where a limit of the configuration is reached: its key and its value.
pub fn limit_reached(key: &str, value: impl std::fmt::Display) -> Exception {
    Exception::new(Class::QubesException, "limit reached: %s = %s", [key.to_owned(), value.to_string()])
}

/// The answer to a request of more bytes than are taken.
pub fn too_long(limit: usize) -> Exception {
    malformed(&format!("more than {limit} bytes"))
}

/// An error and its causes, in one line.
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_has_the_bytes_of_the_document() {
        assert_eq!(access_denied().encode(), b"2\0PermissionDenied\0\0Access denied\0");
    }

    #[test]
    fn a_limit_is_named_with_its_value() {
        assert_eq!(limit_reached("connections", 4096).message(), "limit reached: connections = 4096");
    }
}
