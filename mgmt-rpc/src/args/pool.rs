//! Payloads of `pool.Add` and `pool.Set.*`.

use std::collections::BTreeMap;

use libvirt_qubes::ids::{BadId, PoolName};
use libvirt_qubes::storage::RevisionsToKeep;

use super::create::SAFE_CHARACTERS;
use crate::untrusted::{Parse, Text, ascii};
use crate::wire::{Class, Exception};

/// The payload of `pool.Add`, `KEY=VALUE` lines: a pool that is to be added, as far as the bytes tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolOptions {
    /// Its name.
    pub name: PoolName,
    /// What else was given.
    pub options: BTreeMap<String, String>,
}

impl Parse for PoolOptions {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        let Text(text) = Text::parse(bytes)?;
        let mut options = BTreeMap::new();
        for line in text.strip_suffix('\n').unwrap_or(&text).split('\n') {
            let (key, value) =
                line.split_once('=').ok_or_else(|| protocol("Options must be separated by equal sign"))?;
            if options.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(protocol("Options must be unique"));
            }
        }
        let name = options.remove("name");
        let name = name.ok_or_else(|| protocol("Pool configuration must contain key: name"))?;
        if !name.chars().all(|c| SAFE_CHARACTERS.contains(c)) {
            return Err(protocol(format!("Pool name must be in safe set: {SAFE_CHARACTERS}")));
        }
        let name = name.parse().map_err(|bad: BadId| protocol(bad.reason()))?;
        Ok(Self { name, options })
    }
}

/// The payload of `pool.Set.revisions_to_keep`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolRevisions(pub RevisionsToKeep);

impl Parse for PoolRevisions {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        let wrong = |what: &str| protocol(format!("Revisions to keep {what}"));
        let text = ascii(bytes).unwrap_or_default();
        let digits = text.strip_prefix('-').unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong("contains non ASCII digits"));
        }
        if digits.len() > 19 {
            return Err(wrong("is bigger than 19 decimal digits"));
        }
        if digits.len() > 1 && digits.starts_with('0') {
            return Err(wrong("contains spurious leading zeros"));
        }
        let number: i128 = text.parse().map_err(|_| wrong("contains non ASCII digits"))?;
        if number < -1 {
            return Err(protocol("Value can't be lower than -1"));
        }
        let keep = i64::try_from(number).ok().and_then(|number| RevisionsToKeep::try_from(number).ok());
        keep.map(Self)
            .ok_or_else(|| Exception::plain(Class::QubesValueError, "Invalid value for revisions_to_keep"))
    }
}

/// A boolean payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flag(pub bool);

impl Parse for Flag {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        match ascii(bytes).map(str::to_ascii_lowercase).as_deref() {
            Some("0" | "no" | "false" | "off") => Ok(Self(false)),
            Some("1" | "yes" | "true" | "on") => Ok(Self(true)),
            Some(_) | None => Err(protocol("Payload is not boolean ASCII")),
        }
    }
}

fn protocol(message: impl Into<String>) -> Exception {
    Exception::plain(Class::ProtocolError, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_lines_of_a_pool_are_its_name_and_its_options() {
        let read = PoolOptions::parse(b"dir_path=/srv/a=b\nname=fast\nrevisions_to_keep=\n").unwrap();
        assert_eq!(read.name.as_str(), "fast");
        let options: Vec<_> = read.options.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(options, ["dir_path=/srv/a=b", "revisions_to_keep="]);
    }

    #[test]
    fn a_number_of_revisions_is_digits_alone() {
        for (text, keep) in [("0", 0), ("-1", -1), ("7", 7), ("4294967295", 4_294_967_295)] {
            let expected = RevisionsToKeep::try_from(keep).unwrap();
            assert_eq!(PoolRevisions::parse(text.as_bytes()), Ok(PoolRevisions(expected)), "{text}");
        }
        for (text, message) in [
            ("", "Revisions to keep contains non ASCII digits"),
            ("-", "Revisions to keep contains non ASCII digits"),
            ("1\n", "Revisions to keep contains non ASCII digits"),
            ("+1", "Revisions to keep contains non ASCII digits"),
            ("\u{661}", "Revisions to keep contains non ASCII digits"),
            ("12345678901234567890", "Revisions to keep is bigger than 19 decimal digits"),
            ("01", "Revisions to keep contains spurious leading zeros"),
            ("-2", "Value can't be lower than -1"),
            ("-9999999999999999999", "Value can't be lower than -1"),
            ("9999999999999999999", "Invalid value for revisions_to_keep"),
            ("4294967296", "Invalid value for revisions_to_keep"),
        ] {
            assert_eq!(PoolRevisions::parse(text.as_bytes()).unwrap_err().message(), message, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_lines_are_read_or_refused(text in "((name|dir_path|x)?=?[a-z0-9_./-]{0,4}\n?){0,5}") {
            if let Ok(read) = PoolOptions::parse(text.as_bytes()) {
                let name = format!("name={}", read.name);
                prop_assert!(text.lines().any(|line| line == name));
            }
        }
    }
}
