//! A whole answer as a client reads it: `30 00 content`, an exception, or nothing at all.

use super::{EXCEPTION, Exception, OK};

/// What the daemon answered. Events are a stream and read with [`Event::decode`](super::Event::decode).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The call was carried out; the content may be empty.
    Ok(Vec<u8>),
    /// It was not.
    Exception(Exception),
    /// The connection was closed without a byte.
    Nothing,
}

/// Why bytes are no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// Neither `30 00` nor `32 00` at the beginning.
    #[error("answer of an unknown type")]
    UnknownType,
    /// An exception that is cut short, or is not UTF-8.
    #[error("incomplete exception")]
    Exception,
}

/// The bytes of an OK answer.
pub fn encode_ok(content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(content.len().saturating_add(2));
    bytes.extend_from_slice(&[OK, 0]);
    bytes.extend_from_slice(content);
    bytes
}

impl Answer {
    /// Reads everything that came before the connection was closed.
    ///
    /// # Errors
    /// The bytes are no answer.
    pub fn decode(mut bytes: Vec<u8>) -> Result<Self, BadAnswer> {
        match bytes.as_slice() {
            [] => Ok(Self::Nothing),
            [OK, 0, ..] => {
                bytes.drain(..2);
                Ok(Self::Ok(bytes))
            }
            [EXCEPTION, 0, body @ ..] => {
                Exception::decode(body).map(Self::Exception).ok_or(BadAnswer::Exception)
            }
            _ => Err(BadAnswer::UnknownType),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Class;

    #[test]
    fn answers_read_as_they_were_written() {
        assert_eq!(Answer::decode(Vec::new()), Ok(Answer::Nothing));
        assert_eq!(encode_ok(b""), b"0\0");
        assert_eq!(Answer::decode(encode_ok(b"a\0b")), Ok(Answer::Ok(b"a\0b".to_vec())));
        let denied = Exception::plain(Class::PermissionDenied, "Access denied");
        assert_eq!(Answer::decode(denied.encode()), Ok(Answer::Exception(denied)));
        assert_eq!(Answer::decode(b"1\0".to_vec()), Err(BadAnswer::UnknownType));
        assert_eq!(Answer::decode(b"0".to_vec()), Err(BadAnswer::UnknownType));
        assert_eq!(Answer::decode(b"2\0a\0".to_vec()), Err(BadAnswer::Exception));
    }
}
