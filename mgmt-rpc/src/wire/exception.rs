//! An exception: `32 00 type 00 traceback 00 format 00 (field 00)*`.
//!
//! Clients put the fields into the format with Python's `%` operator, always, also when there are none, and
//! fail when the numbers differ. So an [`Exception`] keeps to that: its format holds `%s` as often as there
//! are fields, and `%%`, and no other `%`.

use std::borrow::Cow;
use std::fmt;

use super::{EXCEPTION, until_nul, without_nul};

macro_rules! classes {
    ($($name:ident),+ $(,)?) => {
        /// The names by which clients know an exception. They are the deployed daemon's, to the letter.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "each name says what it is; docs/calls.md has the table")]
        pub enum Class { $($name),+ }

        impl Class {
            /// Every class that the daemon can answer with.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The name on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }
        }
    };
}

classes! {
    QubesException, QubesVMNotFoundError, QubesVMInvalidUUIDError, QubesVMAlreadyExistsError, QubesVMError,
    QubesVMInUseError, QubesVMNotStartedError, QubesVMNotRunningError, QubesVMNotPausedError,
    QubesVMNotSuspendedError, QubesVMNotHaltedError, QubesVMShutdownTimeoutError, QubesVMCancelledPauseError,
    QubesNoTemplateError, QubesMemoryError, QubesPoolInUseError, QubesValueError, QubesPropertyValueError,
    QubesNoSuchPropertyError, QubesNotImplementedError, QubesBackupProfileNotFoundError, BackupCancelledError,
    BackupAlreadyRunningError, QubesFeatureNotFoundError, QubesTagNotFoundError, QubesLabelNotFoundError,
    QubesLabelInUseError, DeviceNotAssigned, DeviceNotFound, DeviceAlreadyAttached, DeviceAlreadyAssigned,
    UnrecognizedDevice, UnexpectedDeviceProperty, StoragePoolException, QubesVolumeCopyInUseError,
    ProtocolError, QubesInvalidTagError, QubesInvalidLabelError, QubesInvalidLabelValueError,
    QubesUnrecognizedDeviceAssignmentMode, QubesVolumeCopyTokenNotFoundError, PermissionDenied,
}

impl Class {
    /// Whether the deployed releases close the connection without a byte instead of answering with it:
    /// `PermissionDenied`, `ProtocolError` and the classes derived from that.
    pub const fn is_silent_in_releases(self) -> bool {
        matches!(
            self,
            Self::PermissionDenied
                | Self::ProtocolError
                | Self::QubesInvalidTagError
                | Self::QubesInvalidLabelError
                | Self::QubesInvalidLabelValueError
                | Self::QubesUnrecognizedDeviceAssignmentMode
                | Self::QubesVolumeCopyTokenNotFoundError
        )
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error as a client sees it. `Display` gives the class and the message that results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    class: Cow<'static, str>,
    traceback: String,
    format: Cow<'static, str>,
    fields: Vec<String>,
}

impl Exception {
    /// An exception whose format takes no field. A `%` in the text is one in the message.
    pub fn plain(class: Class, message: impl Into<String>) -> Self {
        Self {
            class: class.as_str().into(),
            traceback: String::new(),
            format: escaped(&without_nul(message.into())).into(),
            fields: Vec::new(),
        }
    }

    /// An exception whose format holds one `%s` per field.
    ///
    /// If it does not, the message is format and fields one after the other: clients would fail otherwise.
    pub fn new<F: Into<String>>(
        class: Class,
        format: &'static str,
        fields: impl IntoIterator<Item = F>,
    ) -> Self {
        let fields: Vec<String> = fields.into_iter().map(|field| without_nul(field.into())).collect();
        if placeholders(format) == Some(fields.len()) && !format.contains('\0') {
            return Self {
                class: class.as_str().into(),
                traceback: String::new(),
                format: format.into(),
                fields,
            };
        }
        Self::plain(class, [format.to_owned(), fields.join(", ")].join(": "))
    }

    /// The same exception with the text that debug mode adds.
    #[must_use]
    pub fn with_traceback(mut self, traceback: impl Into<String>) -> Self {
        self.traceback = without_nul(traceback.into());
        self
    }

    /// The class's name as sent. One that was decoded may be none of [`Class`].
    pub fn class(&self) -> &str {
        &self.class
    }

    /// Whether this is an exception of that class.
    pub fn is(&self, class: Class) -> bool {
        self.class == class.as_str()
    }

    /// Whether the deployed releases would have closed the connection without a byte.
    pub fn is_silent_in_releases(&self) -> bool {
        Class::ALL.iter().any(|class| self.is(*class) && class.is_silent_in_releases())
    }

    /// The text of debug mode; empty unless the daemon runs with it.
    pub fn traceback(&self) -> &str {
        &self.traceback
    }

    /// The format, with its `%s` and `%%`.
    pub fn format(&self) -> &str {
        &self.format
    }

    /// What goes into the format, in order.
    pub fn fields(&self) -> &[String] {
        &self.fields
    }

    /// The message: the fields put into the format. `%s` and `%d` take the next field; a `%` that is
    /// neither, nor `%%`, and a field that is not there, stay as they are, because a reader must not fail.
    pub fn message(&self) -> String {
        let mut text = String::with_capacity(self.format.len());
        let mut fields = self.fields.iter();
        let mut rest: &str = &self.format;
        while let Some((before, after)) = rest.split_once('%') {
            text.push_str(before);
            rest = match after.as_bytes().first() {
                Some(b'%') => {
                    text.push('%');
                    after.get(1..).unwrap_or_default()
                }
                Some(b's' | b'd') => match fields.next() {
                    Some(field) => {
                        text.push_str(field);
                        after.get(1..).unwrap_or_default()
                    }
                    None => {
                        text.push('%');
                        after
                    }
                },
                Some(_) | None => {
                    text.push('%');
                    after
                }
            };
        }
        text.push_str(rest);
        text
    }

    /// The bytes of the whole answer.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![EXCEPTION, 0];
        for text in [&*self.class, &*self.traceback, &*self.format] {
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        }
        for field in &self.fields {
            bytes.extend_from_slice(field.as_bytes());
            bytes.push(0);
        }
        bytes
    }

    /// Reads what follows `32 00`; `None` if one of the three texts is not there, or something is not ended
    /// by a NUL, or is not UTF-8.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        let (class, rest) = until_nul(body)?;
        let (traceback, rest) = until_nul(rest)?;
        let (format, mut rest) = until_nul(rest)?;
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let (field, after) = until_nul(rest)?;
            fields.push(text(field)?);
            rest = after;
        }
        Some(Self {
            class: text(class)?.into(),
            traceback: text(traceback)?,
            format: text(format)?.into(),
            fields,
        })
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class, self.message())
    }
}

impl std::error::Error for Exception {}

/// The text between quotes as Python's `repr` writes it: single quotes, or double ones around a text that
/// holds a single quote; what is not printable escaped.
pub fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut quoted = String::with_capacity(text.len().saturating_add(2));
    quoted.push(quote);
    for c in text.chars() {
        match c {
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c == quote => quoted.extend(['\\', c]),
            c if u32::from(c) < 0x20 || c == '\u{7f}' => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push(quote);
    quoted
}

/// The text as a format without fields: `%` doubled.
fn escaped(text: &str) -> String {
    text.replace('%', "%%")
}

/// How many fields the format takes; `None` if it holds a `%` that is neither `%s` nor `%%`.
fn placeholders(format: &str) -> Option<usize> {
    let mut count = 0usize;
    let mut bytes = format.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            match bytes.next() {
                Some(b's') => count = count.saturating_add(1),
                Some(b'%') => {}
                Some(_) | None => return None,
            }
        }
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_exception_is_encoded_as_the_document_shows_it() {
        let not_found = Exception::plain(Class::QubesVMNotFoundError, "No such domain: 'x'");
        assert_eq!(not_found.encode(), b"2\0QubesVMNotFoundError\0\0No such domain: 'x'\0");
        let not_halted =
            Exception::new(Class::QubesVMNotHaltedError, "Domain %s is not powered off", ["work"]);
        assert_eq!(not_halted.encode(), b"2\0QubesVMNotHaltedError\0\0Domain %s is not powered off\0work\0");
        assert_eq!(not_halted.message(), "Domain work is not powered off");
        let traced = not_found.with_traceback("line 1");
        assert_eq!(traced.encode(), b"2\0QubesVMNotFoundError\0line 1\0No such domain: 'x'\0");
    }

    #[test]
    fn a_percent_sign_of_the_text_is_one_of_the_message() {
        let full = Exception::plain(Class::QubesException, "100% of '%s' used, 100%");
        assert_eq!(full.format(), "100%% of '%%s' used, 100%%");
        assert_eq!(full.message(), "100% of '%s' used, 100%");
        let field = Exception::new(Class::QubesException, "%s is %s%% full", ["a%sb", "9"]);
        assert_eq!(field.message(), "a%sb is 9% full");
    }

    #[test]
    fn a_nul_in_a_text_never_reaches_the_wire_as_one() {
        let odd = Exception::new(Class::QubesException, "%s", ["a\0b"]).with_traceback("c\0d");
        assert_eq!(odd.encode().iter().filter(|byte| **byte == 0).count(), 5);
        let plain = Exception::plain(Class::QubesException, "a\0b");
        assert_eq!(plain.encode().iter().filter(|byte| **byte == 0).count(), 4);
    }

    #[test]
    fn a_reader_does_not_fail_on_a_format_that_does_not_fit() {
        for (body, message) in [
            (&b"C\0\0%d of %s\x001\0"[..], "1 of %s"),
            (b"C\0\0of 100%\0", "of 100%"),
            (b"C\0\0%x %\xc3\xa9 %s\0a\0b\0", "%x %\u{e9} a"),
        ] {
            assert_eq!(Exception::decode(body).unwrap().message(), message);
        }
        for body in [&b""[..], b"C", b"C\0", b"C\0\0", b"C\0\0text", b"C\0\0text\0field", b"\xff\0\0\0"] {
            assert_eq!(Exception::decode(body), None);
        }
    }

    #[test]
    fn quoting_is_pythons() {
        for (text, shown) in [
            ("x", "'x'"),
            ("", "''"),
            ("it's", "\"it's\""),
            ("\"it's\"", "'\"it\\'s\"'"),
            ("a\nb\x01\\", "'a\\nb\\x01\\\\'"),
        ] {
            assert_eq!(quoted(text), shown);
        }
    }

    proptest! {
        #[test]
        fn every_exception_decodes_to_itself(
            class in proptest::sample::select(Class::ALL),
            traceback in ".{0,20}",
            fields in proptest::collection::vec(".{0,20}", 2),
            message in ".{0,40}",
        ) {
            let with_fields = Exception::new(class, "%s: 100%% of %s", fields.clone()).with_traceback(traceback);
            prop_assert_eq!(Exception::decode(&with_fields.encode()[2..]), Some(with_fields));
            let plain = Exception::plain(class, message.clone());
            prop_assert_eq!(plain.message(), message.replace('\0', "\u{fffd}"));
            prop_assert_eq!(Exception::decode(&plain.encode()[2..]), Some(plain));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(exception) = Exception::decode(&bytes) {
                prop_assert_eq!(&exception.encode()[2..], &bytes[..]);
                exception.message();
            }
        }
    }
}
