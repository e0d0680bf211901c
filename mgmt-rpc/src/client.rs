//! Calls from outside: what the command-line tool, the qrexec service and the tests use.
//!
//! An answer can come before the payload is sent (a refusal); so both directions go on at the same time. A
//! payload that cannot be read to its end is broken off by closing the connection without a half-close, which
//! is how the daemon tells it from one that is complete. Dropping any of these futures does the same.

use std::io;
use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::wire::event::BadEvent;
use crate::wire::{Answer, BadAnswer, EXCEPTION, Event, Exception};

/// How much is taken from a payload or an answer at a time.
const CHUNK: usize = 64 * 1024;

/// Where the daemon is, and who calls.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    source: String,
}

/// What is called.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The method, with its prefix.
    pub method: &'a str,
    /// The argument; empty for none.
    pub argument: &'a str,
    /// The VM that it is about.
    pub destination: &'a str,
}

impl<'a> Call<'a> {
    /// A call without an argument.
    pub fn new(method: &'a str, destination: &'a str) -> Self {
        Self { method, argument: "", destination }
    }

    /// The same call with an argument.
    #[must_use]
    pub fn with(self, argument: &'a str) -> Self {
        Self { argument, ..self }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers at the socket.
    #[error("cannot connect to {}", .socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A text that a request cannot hold.
    #[error("the {0} holds a character that a request cannot hold")]
    Unsendable(&'static str),
    /// The payload cannot be read; the call is broken off.
    #[error("cannot read the payload")]
    Payload(#[source] io::Error),
    /// What came cannot be passed on.
    #[error("cannot write the answer")]
    Output(#[source] io::Error),
    /// The connection failed.
    #[error("the connection to the daemon failed")]
    Connection(#[from] io::Error),
    /// What came is no answer.
    #[error("the daemon's answer is not understood: {0}")]
    BadAnswer(#[from] BadAnswer),
    /// What came is no event.
    #[error("the daemon's events are not understood: {0}")]
    BadEvent(#[from] BadEvent),
    /// The daemon refused to send events.
    #[error("{0}")]
    Refused(Exception),
}

impl Client {
    /// A client of the daemon that listens on this socket, calling as dom0.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), source: "dom0".to_owned() }
    }

    /// The same, calling as another VM.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<String>) -> Self {
        self.source = source.into();
        self
    }

    /// Whether somebody listens at the socket.
    pub async fn reaches(&self) -> bool {
        UnixStream::connect(&self.socket).await.is_ok()
    }

    /// Makes a call and waits for the whole answer.
    ///
    /// # Errors
    /// There is no answer. An exception is an answer.
    pub async fn call(&self, call: Call<'_>, payload: &[u8]) -> Result<Answer, ClientError> {
        self.call_streaming(call, payload).await
    }

    /// Makes a call whose payload is read as it is sent.
    ///
    /// # Errors
    /// There is no answer, or the payload cannot be read.
    pub async fn call_streaming(
        &self,
        call: Call<'_>,
        payload: impl AsyncRead,
    ) -> Result<Answer, ClientError> {
        let mut bytes = Vec::new();
        self.exchange(call, payload, |part| {
            bytes.extend_from_slice(part);
            Ok(())
        })
        .await?;
        Ok(Answer::decode(bytes)?)
    }

    /// Makes a call and gives the bytes of the answer, message type included, to `output` as they come.
    ///
    /// # Errors
    /// The daemon cannot be reached, the payload cannot be read, or `output` fails.
    pub async fn exchange(
        &self,
        call: Call<'_>,
        payload: impl AsyncRead,
        mut output: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ClientError> {
        let header = self.header(call)?;
        let mut stream = self.connect().await?;
        // Borrowed halves: those that own would half-close when they are dropped.
        let (mut incoming, mut outgoing) = stream.split();
        let sending = async {
            let mut payload = std::pin::pin!(payload);
            let mut chunk = header;
            loop {
                outgoing.write_all(&chunk).await?;
                chunk.resize(CHUNK, 0);
                match payload.read(&mut chunk).await.map_err(ClientError::Payload)? {
                    0 => break Ok(outgoing.shutdown().await?),
                    length => chunk.truncate(length),
                }
            }
        };
        let receiving = async {
            let mut chunk = vec![0; CHUNK];
            loop {
                match incoming.read(&mut chunk).await {
                    Ok(0) => return Ok(()),
                    Ok(length) => {
                        output(chunk.get(..length).unwrap_or_default()).map_err(ClientError::Output)?;
                    }
                    // The daemon closed with something of ours unread; what it said has been read.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                    Err(error) => return Err(ClientError::Connection(error)),
                }
            }
        };
        let mut receiving = std::pin::pin!(receiving);
        tokio::select! {
            received = &mut receiving => received,
            sent = sending => match sent {
                // The daemon takes no more: it has answered.
                Ok(()) | Err(ClientError::Connection(_)) => receiving.await,
                Err(error) => Err(error),
            },
        }
    }

    /// Makes a call that is answered with events.
    ///
    /// # Errors
    /// The daemon cannot be reached. A refusal comes from [`Events::next`].
    pub async fn events(&self, call: Call<'_>) -> Result<Events, ClientError> {
        let header = self.header(call)?;
        let mut stream = self.connect().await?;
        stream.write_all(&header).await?;
        stream.shutdown().await?;
        Ok(Events { stream, buffer: Vec::new() })
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Connect { socket: self.socket.clone(), source })
    }

    /// The header as given, so that it is the daemon that says what is wrong with a name.
    fn header(&self, call: Call<'_>) -> Result<Vec<u8>, ClientError> {
        let Call { method, argument, destination } = call;
        for (what, text, forbidden) in [
            ("method", method, &['\0', ' ', '+'][..]),
            ("argument", argument, &['\0', ' ']),
            ("source", &self.source, &['\0', ' ']),
            ("destination", destination, &['\0']),
        ] {
            if text.contains(forbidden) {
                return Err(ClientError::Unsendable(what));
            }
        }
        Ok(format!("{method}+{argument} {} name {destination}\0", self.source).into_bytes())
    }
}

/// A stream of events. Closed when it is dropped.
#[derive(Debug)]
pub struct Events {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event; `None` when the daemon has closed the stream. The first is `connection-established`.
    /// Dropping the future loses none.
    ///
    /// # Errors
    /// The daemon refuses, or what came is no event.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            if let [EXCEPTION, ..] = self.buffer.as_slice() {
                return Err(self.refusal().await?);
            }
            if let Some((event, length)) = Event::decode(&self.buffer)? {
                self.buffer.drain(..length);
                return Ok(Some(event));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn refusal(&mut self) -> Result<ClientError, ClientError> {
        while self.stream.read_buf(&mut self.buffer).await? > 0 {}
        match Answer::decode(std::mem::take(&mut self.buffer))? {
            Answer::Exception(exception) => Ok(ClientError::Refused(exception)),
            Answer::Ok(_) | Answer::Nothing => Err(BadAnswer::UnknownType.into()),
        }
    }
}
