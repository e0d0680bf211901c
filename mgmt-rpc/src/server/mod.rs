//! The daemon's sockets: accepting, who may connect, the bounds of a request, one task per connection, and
//! the end.
//!
//! What a request means is dispatch's. A slow client delays nobody: each connection reads and writes in its
//! own task, under limits of its own.

mod admission;
mod converse;
mod listen;
mod socket;
#[cfg(test)]
mod tests;
mod upload;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::admission::{Admission, Peer};
pub use self::listen::{BindError, Listener};
pub use self::upload::{Upload, UploadError};

use self::socket::Socket;
use crate::cx::Directory;
use crate::dispatch::Service;
use crate::failure::{access_denied, limit_reached};
use crate::table::Door;
use crate::wire::Exception;

/// How long the calls under way have to finish once the daemon is told to end.
pub const GRACE: Duration = Duration::from_secs(25);

/// How long a client that was refused before it was read from has to take its answer.
const REFUSAL_TIME: Duration = Duration::from_secs(2);

/// How many such clients are waited for at a time; more are cut off with the answer unread.
const REFUSALS: usize = 64;

/// Listening sockets and what answers on them.
pub struct Server<H: 'static> {
    service: Arc<Service<H>>,
    listeners: Vec<Listener>,
    admission: Admission,
}

impl<H: Directory> Server<H> {
    /// Serves these sockets.
    pub fn new(service: Arc<Service<H>>, listeners: Vec<Listener>, admission: Admission) -> Self {
        Self { service, listeners, admission }
    }

    /// Where it listens.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.listeners.iter().map(|listener| listener.path().to_owned()).collect()
    }

    /// Serves until it is told to stop. Then nothing more is accepted, the sockets' files go, streams of
    /// events end, copies are cancelled, and other calls have [`GRACE`] to finish.
    pub async fn run(self, stop: CancellationToken) {
        let connections = self.service.limits().connections.get();
        let shared = Arc::new(Shared {
            service: self.service,
            admission: self.admission,
            slots: Arc::new(Semaphore::new(usize::try_from(connections).unwrap_or(Semaphore::MAX_PERMITS))),
            refusals: Arc::new(Semaphore::new(REFUSALS)),
            tasks: TaskTracker::new(),
            stop: stop.clone(),
        });
        let accepting = TaskTracker::new();
        for listener in self.listeners {
            accepting.spawn(accept_all(listener, Arc::clone(&shared)));
        }
        accepting.close();
        accepting.wait().await;
        shared.tasks.close();
        if tokio::time::timeout(GRACE, shared.tasks.wait()).await.is_err() {
            tracing::warn!(calls = shared.tasks.len(), "calls did not finish in time");
        }
    }
}

/// What all connections have in common.
struct Shared<H: 'static> {
    service: Arc<Service<H>>,
    admission: Admission,
    slots: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

async fn accept_all<H: Directory>(listener: Listener, shared: Arc<Shared<H>>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.stop.cancelled() => break,
        };
        match accepted {
            Ok(stream) => accept_one(stream, &shared, &listener),
            Err(error) => {
                // Out of descriptors or memory: nothing but time helps.
                tracing::error!(socket = %listener.path().display(), %error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    listener.remove();
}

fn accept_one<H: Directory>(stream: UnixStream, shared: &Arc<Shared<H>>, listener: &Listener) {
    let (door, path) = (listener.door(), listener.path());
    let peer = match stream.peer_cred() {
        Ok(peer) => Peer { uid: peer.uid(), gid: peer.gid(), pid: peer.pid() },
        Err(error) => {
            tracing::warn!(socket = %path.display(), %error, "cannot tell who connected");
            return;
        }
    };
    let socket = Socket::new(stream);
    let task = Arc::clone(shared);
    match Arc::clone(&shared.slots).try_acquire_owned() {
        Ok(slot) => {
            drop(shared.tasks.spawn(async move {
                match task.admission.admits(peer).await {
                    Ok(true) => converse::converse(&socket, door, &task.service, &task.stop).await,
                    Ok(false) => {
                        tracing::warn!(
                            ?peer,
                            "connection refused: neither root, the daemon's user nor in the group"
                        );
                        task.refuse(&socket, &access_denied()).await;
                    }
                    Err(error) => {
                        tracing::error!(?peer, %error, "connection refused: cannot tell the peer's groups");
                        task.refuse(&socket, &access_denied()).await;
                    }
                }
                drop(slot);
            }));
        }
        Err(_no_permit) => {
            let limit = shared.service.limits().connections;
            tracing::warn!(limit, "connection refused: too many");
            let too_many = limit_reached("connections", limit);
            match Arc::clone(&shared.refusals).try_acquire_owned() {
                Ok(slot) => drop(shared.tasks.spawn(async move {
                    task.refuse(&socket, &too_many).await;
                    drop(slot);
                })),
                Err(_no_permit) => {
                    // The answer fits into an empty buffer; whether the client gets to read it is its luck.
                    if let Some(bytes) = shared.service.encode(&too_many) {
                        drop(socket.write_now(&bytes));
                    }
                }
            }
        }
    }
}

impl<H: Directory> Shared<H> {
    async fn refuse(&self, socket: &Socket, exception: &Exception) {
        if let Some(bytes) = self.service.encode(exception)
            && socket.write_all(&bytes, REFUSAL_TIME).await.is_ok()
        {
            socket.half_close();
            socket.drain(REFUSAL_TIME).await;
        }
    }
}

/// Binds every socket, or none: what was bound is given up again when one cannot be.
///
/// # Errors
/// A path is in use by another daemon, is something else than a socket, or cannot be made.
pub async fn bind(sockets: impl IntoIterator<Item = (Door, &Path)>) -> Result<Vec<Listener>, BindError> {
    let mut listeners: Vec<Listener> = Vec::new();
    for (door, path) in sockets {
        match Listener::bind(door, path).await {
            Ok(listener) => listeners.push(listener),
            Err(error) => {
                listeners.iter().for_each(Listener::remove);
                return Err(error);
            }
        }
    }
    Ok(listeners)
}

/// Whether an error of a socket means no more than that the client has gone.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}
