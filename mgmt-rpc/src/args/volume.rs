//! Volumes in payloads: names in a pool, revisions, sizes and other numbers.

use libvirt_qubes::ids::ByteSize;

use super::label::is_space;
use crate::untrusted::{Parse, Text, ascii};
use crate::wire::{Class, Exception};

/// A volume's name in its pool, white space around it stripped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vid(pub String);

/// The name of a revision, white space around it stripped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionText(pub String);

/// A new size, white space around it stripped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewSize(pub ByteSize);

/// How many revisions to keep; no white space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RevisionsToKeep(pub i64);

/// Yes or no, as a property has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flag(pub bool);

/// A token of `vm.volume.CloneFrom`, white space around it stripped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token(pub String);

/// A volume's name in its pool, one space, and something of it; no other white space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VidAnd<T>(pub Vid, pub T);

/// Letters and digits, then these.
const REVISION_MARKS: &str = ":-_.";

/// The most digits of a number.
pub const MOST_DIGITS: usize = 19;

fn stripped(bytes: &[u8]) -> Result<&str, Exception> {
    let refused =
        || Exception::plain(Class::ProtocolError, "malformed request: non-ASCII byte where ASCII is asked");
    Ok(ascii(bytes).ok_or_else(refused)?.trim_matches(is_space))
}

/// The digits of a number that `what` is; `-` may stand before them if `signed`.
fn digits<'a>(bytes: &'a [u8], what: &str, signed: bool) -> Result<(bool, &'a str), Exception> {
    let refused = |why: &str| Exception::plain(Class::ProtocolError, format!("{what} {why}"));
    let text = ascii(bytes).ok_or_else(|| refused("contains non ASCII digits"))?;
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) if signed => (true, rest),
        Some(_) | None => (false, text),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        Err(refused("contains non ASCII digits"))
    } else if digits.len() > MOST_DIGITS {
        Err(refused("is bigger than 19 decimal digits"))
    } else if digits.len() > 1 && digits.starts_with('0') {
        Err(refused("contains spurious leading zeros"))
    } else {
        Ok((negative, digits))
    }
}

fn size(bytes: &[u8], what: &str) -> Result<ByteSize, Exception> {
    let (_, digits) = digits(bytes, what, false)?;
    // 19 digits fit.
    let too_big =
        |_| Exception::plain(Class::ProtocolError, format!("{what} is bigger than 19 decimal digits"));
    digits.parse().map(ByteSize::bytes).map_err(too_big)
}

impl Parse for Vid {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        stripped(bytes).map(|text| Self(text.to_owned()))
    }
}

impl Parse for RevisionText {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        let safe = |c: char| c.is_ascii_alphanumeric() || REVISION_MARKS.contains(c);
        match ascii(bytes).map(|text| text.trim_matches(is_space)) {
            Some(text) if text.chars().all(safe) => Ok(Self(text.to_owned())),
            Some(_) | None => {
                let set = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.";
                Err(Exception::plain(
                    Class::ProtocolError,
                    format!("Revision name must be in safe set: {set}"),
                ))
            }
        }
    }
}

impl Parse for NewSize {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        let stripped = ascii(bytes).map_or(bytes, |text| text.trim_matches(is_space).as_bytes());
        size(stripped, "Volume size").map(Self)
    }
}

impl Parse for RevisionsToKeep {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        let (negative, digits) = digits(bytes, "Revisions to keep", true)?;
        // What does not fit is no number of revisions either.
        let number = digits.parse().unwrap_or(i64::MAX);
        Ok(Self(if negative { -number } else { number }))
    }
}

impl Parse for Flag {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        let text = ascii(bytes).map(str::to_ascii_lowercase);
        match text.as_deref() {
            Some("1" | "yes" | "true" | "on") => Ok(Self(true)),
            Some("0" | "no" | "false" | "off") => Ok(Self(false)),
            Some(_) | None => Err(Exception::plain(Class::ProtocolError, "Payload is not boolean ASCII")),
        }
    }
}

/// What is no token is one that nobody has.
impl Parse for Token {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        stripped(bytes).map(|text| Self(text.to_owned()))
    }
}

impl<T: Parse> Parse for VidAnd<T> {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        let Text(text) = Text::parse(bytes)?;
        let parted = text.split_once(' ');
        let exact = |(vid, rest): &(&str, &str)| {
            [vid, rest].iter().all(|part| !part.is_empty() && !part.contains(is_space))
        };
        let (vid, rest) = parted.filter(exact).ok_or_else(|| {
            Exception::plain(
                Class::ProtocolError,
                "malformed request: the payload must be a volume and a value, separated by one space",
            )
        })?;
        Ok(Self(Vid(vid.to_owned()), T::parse(rest.as_bytes())?))
    }
}

/// The payload of `internal.vm.volume.ImportBegin`: the size of the data; nothing: the volume's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportSize(pub Option<ByteSize>);

/// The payload of `internal.vm.volume.ImportEnd`: `ok`, or `fail` and, on the next line, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportEnd(pub Result<(), String>);

impl Parse for ImportSize {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        match bytes.strip_suffix(b"\n").unwrap_or(bytes) {
            b"" => Ok(Self(None)),
            digits => size_of_new_data(digits).map(Some).map(Self),
        }
    }
}

impl Parse for ImportEnd {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        let Text(text) = Text::parse(bytes)?;
        match text.split_once('\n') {
            None if text == "ok" => Ok(Self(Ok(()))),
            None if text == "fail" => Ok(Self(Err("error copying data".to_owned()))),
            // Words of a program that saw the data: control characters are no part of them.
            Some(("fail", words)) => Ok(Self(Err(words.trim().replace(|c: char| c.is_ascii_control(), " ")))),
            Some(("ok", "")) => Ok(Self(Ok(()))),
            None | Some(_) => Err(Exception::plain(
                Class::ProtocolError,
                "malformed request: the payload must be ok, or fail",
            )),
        }
    }
}

/// The size that stands before the data of an import.
///
/// # Errors
/// As a client sees it.
pub fn size_of_new_data(bytes: &[u8]) -> Result<ByteSize, Exception> {
    size(bytes, "Size of new data")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_digits_without_zeros_before_them() {
        for (text, number) in [
            ("0", 0),
            ("1", 1),
            (" 21474836480\n", 21_474_836_480),
            ("9999999999999999999", 9_999_999_999_999_999_999),
        ] {
            assert_eq!(NewSize::parse(text.as_bytes()), Ok(NewSize(ByteSize::bytes(number))), "{text}");
        }
        for (text, words) in [
            ("", "contains non ASCII digits"),
            ("-1", "contains non ASCII digits"),
            ("1 0", "contains non ASCII digits"),
            ("\u{663}", "contains non ASCII digits"),
            ("10000000000000000000", "is bigger than 19 decimal digits"),
            ("01", "contains spurious leading zeros"),
        ] {
            let refused = NewSize::parse(text.as_bytes()).unwrap_err();
            assert_eq!(refused.to_string(), format!("ProtocolError: Volume size {words}"), "{text}");
            let refused = size_of_new_data(text.as_bytes()).unwrap_err();
            assert_eq!(refused.to_string(), format!("ProtocolError: Size of new data {words}"), "{text}");
        }
        for (text, number) in [("-1", -1), ("0", 0), ("-9999999999999999999", -i64::MAX), ("7", 7)] {
            assert_eq!(RevisionsToKeep::parse(text.as_bytes()), Ok(RevisionsToKeep(number)), "{text}");
        }
        for text in ["1\n", "--1", "-", "+1", "-01"] {
            let refused = RevisionsToKeep::parse(text.as_bytes()).unwrap_err();
            assert!(refused.to_string().starts_with("ProtocolError: Revisions to keep contains "), "{text}");
        }
    }

    #[test]
    fn a_volume_and_a_value_have_a_space_between_them() {
        let vid = Vid("appvms/work/private".to_owned());
        let parsed = VidAnd::<RevisionText>::parse(b"appvms/work/private s1");
        assert_eq!(parsed, Ok(VidAnd(vid.clone(), RevisionText("s1".to_owned()))));
        let sized = VidAnd::<NewSize>::parse(b"appvms/work/private 512");
        assert_eq!(sized, Ok(VidAnd(vid, NewSize(ByteSize::bytes(512)))));
        for text in [&b"appvms/work/private"[..], b"", b"a b/c", b"a\xff s1"] {
            assert!(VidAnd::<RevisionText>::parse(text).unwrap_err().is(Class::ProtocolError), "{text:?}");
        }
        for text in [&b" a s1"[..], b"a  s1", b"a s1 ", b"a s1\n", b"a\n s1", b" s1", b"a "] {
            let refused = VidAnd::<RevisionText>::parse(text).unwrap_err();
            assert!(refused.message().ends_with("separated by one space"), "{text:?}: {refused}");
        }
    }

    #[test]
    fn an_import_ends_well_or_says_why_not() {
        assert_eq!(ImportEnd::parse(b"ok"), Ok(ImportEnd(Ok(()))));
        assert_eq!(ImportEnd::parse(b"fail\nno\x1b space\n"), Ok(ImportEnd(Err("no  space".to_owned()))));
        for text in [&b""[..], b"okay", b"ok\nno", b"fail\n\xff"] {
            assert!(ImportEnd::parse(text).unwrap_err().is(Class::ProtocolError), "{text:?}");
        }
        assert_eq!(ImportSize::parse(b""), Ok(ImportSize(None)));
        assert_eq!(ImportSize::parse(b"512\n"), Ok(ImportSize(Some(ByteSize::bytes(512)))));
        assert!(ImportSize::parse(b"512 ").unwrap_err().is(Class::ProtocolError));
    }

    #[test]
    fn yes_and_no_have_the_words_of_properties() {
        for (text, flag) in [("True", true), ("1", true), ("ON", true), ("no", false), ("false", false)] {
            assert_eq!(Flag::parse(text.as_bytes()), Ok(Flag(flag)));
        }
        for text in ["", "True\n", "2", "\u{e9}"] {
            let refused = Flag::parse(text.as_bytes()).unwrap_err();
            assert_eq!(refused.to_string(), "ProtocolError: Payload is not boolean ASCII");
        }
    }
}
