//! One accepted connection as a byte stream: reads and writes with deadlines, half-close, and the end of the
//! peer.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::io::{Interest, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout, timeout_at};

/// The most that is taken from the kernel at a time while a request is read.
const CHUNK: usize = 8192;

/// A connection. Clones are the same connection, so that an upload can be read elsewhere than the answer is
/// written.
#[derive(Clone)]
pub(super) struct Socket(Arc<UnixStream>);

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// More bytes.
    Bytes,
    /// The peer will send no more.
    End,
}

impl Socket {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self(Arc::new(stream))
    }

    /// Appends what has come, at most up to `limit` bytes in all. `TimedOut` after the deadline.
    pub(super) async fn read_into(
        &self,
        buffer: &mut Vec<u8>,
        limit: usize,
        deadline: Instant,
    ) -> io::Result<Arrival> {
        let room = limit.saturating_sub(buffer.len()).min(CHUNK);
        let before = buffer.len();
        loop {
            timeout_at(deadline, self.0.readable()).await??;
            buffer.resize(before.saturating_add(room), 0);
            let read = self.0.try_read(buffer.get_mut(before..).unwrap_or_default());
            buffer.truncate(before.saturating_add(*read.as_ref().unwrap_or(&0)));
            match read {
                Ok(0) => return Ok(Arrival::End),
                Ok(_) => return Ok(Arrival::Bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads what has come; nothing read means that the peer will send no more.
    pub(super) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(read));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Writes all of it. `TimedOut` if the peer takes nothing for as long as `stall`.
    pub(super) async fn write_all(&self, mut bytes: &[u8], stall: Duration) -> io::Result<()> {
        while !bytes.is_empty() {
            timeout(stall, self.0.writable()).await??;
            match self.0.try_write(bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes what the kernel takes without waiting.
    pub(super) fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    /// Says that no more will be written.
    pub(super) fn half_close(&self) {
        if let Err(error) = rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Write) {
            tracing::debug!(%error, "cannot half-close a connection");
        }
    }

    /// Reads and forgets until the peer's end, or for so long: a socket that is closed with bytes unread
    /// takes an answer that the peer has not read yet along with it.
    pub(super) async fn drain(&self, time: Duration) {
        let deadline = Instant::now() + time;
        let mut rest = Vec::new();
        while let Ok(Arrival::Bytes) = self.read_into(&mut rest, CHUNK, deadline).await {
            rest.clear();
        }
    }

    /// Whether the peer is gone in both directions. A half-close alone is not that.
    pub(super) fn is_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(&*self.0, PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut fds, Some(&at_once)).is_ok()
            && fds.iter().any(|fd| fd.revents().intersects(PollFlags::HUP | PollFlags::ERR))
    }

    /// Waits until the peer is gone in both directions.
    pub(super) async fn hung_up(&self) -> io::Result<()> {
        // A registration of its own: readiness is cleared below to wait for the next change, and a writer on
        // the connection's own registration would then wait for a change that has already been.
        let watch = std::os::unix::net::UnixStream::from(self.0.as_fd().try_clone_to_owned()?);
        let watch = UnixStream::from_std(watch)?;
        loop {
            if watch.ready(Interest::WRITABLE).await?.is_write_closed() || self.is_hung_up() {
                return Ok(());
            }
            // Always an error: this is how tokio is told to wait for the next change.
            drop(watch.try_io::<()>(Interest::WRITABLE, || Err(io::ErrorKind::WouldBlock.into())));
        }
    }
}
