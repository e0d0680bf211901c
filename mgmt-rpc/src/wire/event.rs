//! An event: `31 00 subject 00 event 00 (key 00 value 00)* 00`.
//!
//! The end is an empty *key*: a value may be empty, so a reader takes pairs and never looks for two NULs.

use super::{EVENT, until_nul, without_nul};

/// One event as it is sent. The subject is a VM's name, or empty for the system as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    subject: String,
    name: String,
    pairs: Vec<(String, String)>,
}

/// Why bytes are no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadEvent {
    /// The bytes do not begin with `31 00`.
    #[error("not an event")]
    NotAnEvent,
    /// A text is not UTF-8.
    #[error("event with text that is not UTF-8")]
    NotUtf8,
}

impl Event {
    /// An event without keys.
    pub fn new(subject: impl Into<String>, name: impl Into<String>) -> Self {
        Self { subject: without_nul(subject.into()), name: without_nul(name.into()), pairs: Vec::new() }
    }

    /// What every stream begins with.
    pub fn connection_established() -> Self {
        Self::new("", "connection-established")
    }

    /// What stands for events that were dropped because the reader was too slow: it must read anew what it
    /// wants to know.
    pub fn lost() -> Self {
        Self::new("", "events-lost")
    }

    /// The same event with one more pair at its end. A pair with an empty key cannot be sent and is left out.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        let key = without_nul(key.into());
        if !key.is_empty() {
            self.pairs.push((key, without_nul(value.into())));
        }
        self
    }

    /// The VM that the event is about; empty for the system as a whole.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The event's name, such as `property-set:netvm`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Keys and values in the order in which they are sent.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }

    /// The value of the first pair with that key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|pair| pair.0 == key).map(|pair| pair.1.as_str())
    }

    /// The bytes of the message.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![EVENT, 0];
        self.encode_into(&mut bytes);
        bytes
    }

    fn encode_into(&self, bytes: &mut Vec<u8>) {
        let mut put = |text: &str| {
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        };
        put(&self.subject);
        put(&self.name);
        for (key, value) in &self.pairs {
            put(key);
            put(value);
        }
        put("");
    }

    /// Takes one event off the front of what has arrived: the event and its length in bytes, or `None` if
    /// more bytes are needed.
    ///
    /// # Errors
    /// The bytes are no event; the stream cannot go on.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, BadEvent> {
        let body = match bytes {
            [] | [EVENT] => return Ok(None),
            [EVENT, 0, body @ ..] => body,
            _ => return Err(BadEvent::NotAnEvent),
        };
        let Some((texts, rest)) = texts(body) else { return Ok(None) };
        let mut texts = texts
            .into_iter()
            .map(|text| String::from_utf8(text.to_vec()).map_err(|_not_utf8| BadEvent::NotUtf8));
        let mut next = || texts.next().transpose();
        let (subject, name) = (next()?.unwrap_or_default(), next()?.unwrap_or_default());
        let mut pairs = Vec::new();
        while let (Some(key), Some(value)) = (next()?, next()?) {
            pairs.push((key, value));
        }
        Ok(Some((Self { subject, name, pairs }, bytes.len().saturating_sub(rest.len()))))
    }
}

/// Subject, name, and keys and values in turn, up to the empty key; then what follows it.
fn texts(body: &[u8]) -> Option<(Vec<&[u8]>, &[u8])> {
    let (subject, rest) = until_nul(body)?;
    let (name, mut rest) = until_nul(rest)?;
    let mut texts = vec![subject, name];
    loop {
        let (key, after) = until_nul(rest)?;
        if key.is_empty() {
            return Some((texts, after));
        }
        let (value, after) = until_nul(after)?;
        texts.extend([key, value]);
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn events_are_encoded_as_the_document_shows_them() {
        assert_eq!(Event::connection_established().encode(), b"1\0\0connection-established\0\0");
        assert_eq!(
            Event::new("", "domain-add").with("vm", "work").encode(),
            b"1\0\0domain-add\0vm\0work\0\0"
        );
        let set = Event::new("work", "property-set:netvm")
            .with("name", "netvm")
            .with("newvalue", "None")
            .with("oldvalue", "sys-net");
        assert_eq!(
            set.encode(),
            b"1\0work\0property-set:netvm\0name\0netvm\0newvalue\0None\0oldvalue\0sys-net\0\0"
        );
    }

    #[test]
    fn an_empty_value_does_not_end_an_event() {
        let set = Event::new("work", "domain-feature-set:gui").with("feature", "gui").with("value", "");
        let bytes = [set.encode(), Event::connection_established().encode()].concat();
        assert_eq!(Event::decode(&bytes), Ok(Some((set.clone(), set.encode().len()))));
    }

    #[test]
    fn what_is_no_event_is_refused() {
        assert_eq!(Event::decode(b"0\0"), Err(BadEvent::NotAnEvent));
        assert_eq!(Event::decode(b"11"), Err(BadEvent::NotAnEvent));
        assert_eq!(Event::decode(b"1\0\xff\0a\0\0"), Err(BadEvent::NotUtf8));
    }

    proptest! {
        #[test]
        fn every_event_decodes_to_itself_and_never_from_a_part(
            subject in ".{0,10}",
            name in ".{0,10}",
            pairs in proptest::collection::vec((".{0,5}", ".{0,5}"), 0..4),
        ) {
            let event = pairs.into_iter().fold(Event::new(subject, name), |e, (key, value)| e.with(key, value));
            let bytes = event.encode();
            for length in 0..bytes.len() {
                prop_assert_eq!(Event::decode(&bytes[..length]), Ok(None));
            }
            prop_assert_eq!(Event::decode(&bytes), Ok(Some((event, bytes.len()))));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(0u8..5, 0..32)) {
            let bytes = [&b"1\0"[..], &bytes].concat();
            if let Ok(Some((event, length))) = Event::decode(&bytes) {
                prop_assert_eq!(event.encode(), &bytes[..length]);
            }
        }
    }
}
