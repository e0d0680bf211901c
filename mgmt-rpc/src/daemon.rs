//! The daemon as a process: sockets, readiness, signals, the end.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cx::Directory;
use crate::dispatch::Service;
use crate::server::{Admission, BindError, Server, bind};

/// Why the daemon does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A socket cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] io::Error),
}

/// Listens, says that it is ready (to systemd, and in one line on standard error), and serves until SIGTERM or
/// SIGINT and the end of the calls under way, for at most [`GRACE`](crate::server::GRACE).
///
/// `hypervisor` is what the daemon runs on: `libxl` or `sim`.
///
/// # Errors
/// It cannot listen. Nothing was served then.
pub async fn serve<H: Directory>(
    service: Service<H>,
    sockets: &[PathBuf],
    hypervisor: &str,
) -> Result<(), ServeError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
    let server = Server::new(Arc::new(service), bind(sockets).await?, Admission::of_this_process());
    let paths: Vec<String> = server.paths().iter().map(|path| path.display().to_string()).collect();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(server.run(stop.clone()));
    notify(&[NotifyState::Ready]);
    eprintln!("mgmtd: ready on {} (hypervisor: {hypervisor})", paths.join(", "));
    let signal = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal, "ending; VMs go on");
    notify(&[NotifyState::Stopping]);
    stop.cancel();
    if let Err(error) = serving.await {
        tracing::error!(%error, "the server ended badly");
    }
    Ok(())
}

/// Tells systemd, if it asked to be told.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}

/// Lets the process open as many files as it may: each connection takes one, each disk of a VM more.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
