//! The payload of a streaming call, read as it arrives.
//!
//! Nothing is read ahead: a handler that does not read lets the client's socket fill up, so memory stays flat
//! and a slow disk slows the client. The client's half-close is the end; its close without one is the end of calls that
//! know how much is to come, and breaks the others off: the two look the same to whoever reads after both.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::is_gone;
use super::socket::Socket;

/// A payload that is still coming. As a reader it fails with an [`UploadError`] inside an [`io::Error`].
pub struct Upload {
    socket: Socket,
    /// What had come with the header and has not been read yet.
    head: io::Cursor<Vec<u8>>,
    close: Close,
    timeout: Duration,
    silence: Pin<Box<Sleep>>,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    state: State,
}

/// What a client's full close says of its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Close {
    /// That is all.
    Ends,
    /// It will never be complete.
    BreaksOff,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Open,
    Ended,
    Failed(UploadError),
}

/// Why a payload did not come whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UploadError {
    /// The client closed the connection, or died, before it said that it was done.
    #[error("the client broke off before the end of the data")]
    BrokenOff,
    /// The client sent nothing for this long.
    #[error("limit reached: no data for read_timeout_s = {}", .0.as_secs())]
    TimedOut(Duration),
    /// The daemon is ending.
    #[error("the daemon is shutting down")]
    Stopped,
    /// The socket failed.
    #[error("reading from the client failed: {0}")]
    Io(io::ErrorKind),
}

impl From<UploadError> for io::Error {
    fn from(error: UploadError) -> Self {
        let kind = match error {
            UploadError::BrokenOff => io::ErrorKind::UnexpectedEof,
            UploadError::TimedOut(_) => io::ErrorKind::TimedOut,
            UploadError::Stopped => io::ErrorKind::ConnectionAborted,
            UploadError::Io(kind) => kind,
        };
        Self::new(kind, error)
    }
}

impl Upload {
    /// The payload of a connection: first `head`, then what the socket brings.
    pub(super) fn new(
        socket: Socket,
        (head, close): (Vec<u8>, Close),
        timeout: Duration,
        stop: CancellationToken,
    ) -> Self {
        Self {
            socket,
            head: io::Cursor::new(head),
            close,
            timeout,
            silence: Box::pin(sleep(timeout)),
            stopped: Box::pin(stop.cancelled_owned()),
            state: State::Open,
        }
    }

    /// Reads into the buffer; 0 means that the payload is complete.
    ///
    /// # Errors
    /// It will never be complete; every later read says the same. Dropping the future loses nothing.
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, UploadError> {
        let mut buffer = ReadBuf::new(buffer);
        std::future::poll_fn(|cx| self.poll(cx, &mut buffer)).await?;
        Ok(buffer.filled().len())
    }

    fn poll(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<(), UploadError>> {
        match self.state {
            State::Open => {}
            State::Ended => return Poll::Ready(Ok(())),
            State::Failed(error) => return Poll::Ready(Err(error)),
        }
        let result = ready!(self.poll_open(cx, buffer));
        if let Err(error) = result {
            self.state = State::Failed(error);
        }
        Poll::Ready(result)
    }

    fn poll_open(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<(), UploadError>> {
        if self.stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(UploadError::Stopped));
        }
        let head = io::Read::read(&mut self.head, buffer.initialize_unfilled()).unwrap_or(0);
        if head > 0 {
            buffer.advance(head);
            return Poll::Ready(Ok(()));
        }
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        match self.socket.poll_read(cx, buffer) {
            Poll::Ready(Ok(0)) if self.close == Close::BreaksOff && self.socket.is_hung_up() => {
                Poll::Ready(Err(UploadError::BrokenOff))
            }
            Poll::Ready(Ok(0)) => {
                self.state = State::Ended;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(_)) => {
                self.silence.as_mut().reset(Instant::now() + self.timeout);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) if is_gone(&error) => Poll::Ready(Err(UploadError::BrokenOff)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(UploadError::Io(error.kind()))),
            Poll::Pending => {
                ready!(self.silence.as_mut().poll(cx));
                Poll::Ready(Err(UploadError::TimedOut(self.timeout)))
            }
        }
    }
}

impl AsyncRead for Upload {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll(cx, buffer).map_err(io::Error::from)
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("state", &self.state).finish_non_exhaustive()
    }
}
