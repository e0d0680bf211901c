//! A client made of bytes: what a test sends and sees is what goes over the socket.

use std::io::{BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longer than anything takes on a busy machine; a hang is an error, not an endless test.
const PATIENCE: Duration = Duration::from_secs(120);

/// The daemon's socket.
#[derive(Debug, Clone)]
pub struct Socket {
    path: PathBuf,
}

/// What came back, to the last byte.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer(pub Vec<u8>);

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl Answer {
    /// The content of an OK message; panics with the answer if it is none.
    pub fn ok(&self) -> String {
        match self.0.strip_prefix(b"0\0") {
            Some(content) => String::from_utf8(content.to_vec()).unwrap(),
            None => panic!("not an OK message: {self:?}"),
        }
    }

    /// Class and text of an EXCEPTION message, the fields put in.
    pub fn exception(&self) -> (String, String) {
        let body =
            self.0.strip_prefix(b"2\0").unwrap_or_else(|| panic!("not an EXCEPTION message: {self:?}"));
        let body = String::from_utf8(body.to_vec()).unwrap();
        let mut parts = body.strip_suffix('\0').unwrap_or_else(|| panic!("no end: {self:?}")).split('\0');
        let class = parts.next().unwrap().to_owned();
        let _traceback = parts.next().unwrap();
        let mut text = parts.next().unwrap().replace("%%", "\u{1}");
        for field in parts {
            let at = text.find("%s").unwrap_or_else(|| panic!("a field too many: {self:?}"));
            text.replace_range(at..at + 2, &field.replace('%', "\u{1}"));
        }
        assert!(!text.contains('%'), "a field too few: {self:?}");
        (class, text.replace('\u{1}', "%"))
    }
}

impl Socket {
    /// The socket of that path.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned() }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A connection on which nothing was sent.
    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends bytes, half-closes, and reads to the end.
    pub fn raw(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect();
        // The daemon may answer, and close, before it has read all.
        let sent = stream.write_all(request).and_then(|()| stream.shutdown(Shutdown::Write));
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert!(sent.is_err() && answer.is_empty(), "reading the answer: {error}");
        }
        Answer(answer)
    }

    /// As [`Socket::raw`]; `None` where the daemon ended before it answered, or was not there.
    pub fn try_raw(&self, request: &[u8]) -> Option<Answer> {
        let mut stream = UnixStream::connect(&self.path).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // Whatever fails, the answer is what counts.
        drop(stream.write_all(request).and_then(|()| stream.shutdown(Shutdown::Write)));
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok().filter(|_| !answer.is_empty())?;
        Some(Answer(answer))
    }

    /// A call from dom0. An empty argument is sent as `METHOD+`, as the deployed clients do.
    pub fn call(&self, method: &str, destination: &str, argument: &str, payload: &[u8]) -> Answer {
        self.call_as("dom0", method, destination, argument, payload)
    }

    /// A call from another source.
    pub fn call_as(
        &self,
        source: &str,
        method: &str,
        destination: &str,
        argument: &str,
        payload: &[u8],
    ) -> Answer {
        let mut request = format!("{method}+{argument} {source} name {destination}\0").into_bytes();
        request.extend_from_slice(payload);
        self.raw(&request)
    }

    /// Subscribes to events and waits for `connection-established`.
    pub fn events(&self, destination: &str) -> Events {
        self.stream("mgmt.Events", destination)
    }

    /// Makes a call that answers with events, and waits for `connection-established`.
    pub fn stream(&self, method: &str, destination: &str) -> Events {
        let mut stream = self.connect();
        stream.write_all(format!("{method}+ dom0 name {destination}\0").as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut events = Events::of(stream);
        assert_eq!(events.next(), "- connection-established");
        events
    }
}

/// A subscription.
#[derive(Debug)]
pub struct Events {
    stream: BufReader<UnixStream>,
}

impl Events {
    /// The events that come over this connection.
    pub fn of(stream: UnixStream) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// The next event, as `SUBJECT EVENT key=value…`, the system's subject being `-`.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator would end; this panics when the stream does"
    )]
    pub fn next(&mut self) -> String {
        let mut kind = [0; 2];
        self.stream.read_exact(&mut kind).expect("the event stream ended");
        assert_eq!(&kind, b"1\0");
        let subject = self.field();
        let mut text = format!("{} {}", if subject.is_empty() { "-" } else { &subject }, self.field());
        loop {
            let key = self.field();
            if key.is_empty() {
                return text;
            }
            text.push_str(&format!(" {key}={}", self.field()));
        }
    }

    /// Events until one begins with `last`, that one included.
    pub fn until(&mut self, last: &str) -> Vec<String> {
        let mut events = Vec::new();
        loop {
            let event = self.next();
            let found = event.starts_with(last);
            events.push(event);
            if found {
                return events;
            }
        }
    }

    /// The events that were sent before the daemon ended; a part of one is left out.
    pub fn rest(mut self) -> Vec<String> {
        let mut bytes = Vec::new();
        // A connection that is reset has said all that it will say.
        drop(self.stream.read_to_end(&mut bytes));
        let mut rest = bytes.as_slice();
        let mut events = Vec::new();
        while let Ok(Some((event, length))) = mgmt_rpc::wire::Event::decode(rest) {
            let subject = if event.subject().is_empty() { "-" } else { event.subject() };
            let pairs: String = event.pairs().iter().map(|(key, value)| format!(" {key}={value}")).collect();
            events.push(format!("{subject} {}{pairs}", event.name()));
            rest = &rest[length..];
        }
        events
    }

    fn field(&mut self) -> String {
        let mut bytes = Vec::new();
        let mut byte = [0];
        loop {
            self.stream.read_exact(&mut byte).expect("the event stream ended inside an event");
            match byte[0] {
                0 => return String::from_utf8(bytes).unwrap(),
                other => bytes.push(other),
            }
        }
    }
}
