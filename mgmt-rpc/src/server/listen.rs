//! A listening socket: its file, the file's mode and group, and whether somebody else already listens there.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

use super::admission;
use crate::table::Door;

/// How long another daemon has to accept the connection that asks whether it is there.
const PROBE_TIME: Duration = Duration::from_secs(1);

/// A socket that is listened on.
#[derive(Debug)]
pub struct Listener {
    door: Door,
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket's file, so that another one's is not removed.
    file: (u64, u64),
}

/// Why a socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another daemon answers there.
    #[error("socket already exists: another daemon listens on {}", .0.display())]
    InUse(PathBuf),
    /// There is something, and it is no socket.
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// The operating system does not let us.
    #[error("cannot listen on {}", .path.display())]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Listener {
    /// Listens on a path, for owner and group (mode 0660). The group is `qubes` where that exists and we may
    /// give files to it. The folder is made if it is not there. A socket that nobody listens on is replaced.
    ///
    /// # Errors
    /// Somebody listens there, something else is there, or the socket cannot be made.
    pub async fn bind(door: Door, path: &Path) -> Result<Self, BindError> {
        let io = |source| BindError::Io { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io)?;
        }
        make_way(path).await?;
        let listener = UnixListener::bind(path).map_err(io)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(io)?;
        match admission::qubes_gid() {
            Ok(Some(gid)) => {
                if let Err(error) = std::os::unix::fs::chown(path, None, Some(gid)) {
                    tracing::warn!(socket = %path.display(), %error, "cannot give the socket to group qubes");
                }
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "cannot tell whether group qubes exists"),
        }
        let file = std::fs::symlink_metadata(path).map_err(io)?;
        Ok(Self { door, listener, path: path.to_owned(), file: (file.dev(), file.ino()) })
    }

    /// Which calls come in by it.
    pub fn door(&self) -> Door {
        self.door
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection. Dropping the future loses none.
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    /// Removes the socket's file, if it is still this socket's.
    pub fn remove(&self) {
        let ours =
            std::fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.file);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(socket = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

/// Removes a socket that nobody listens on.
async fn make_way(path: &Path) -> Result<(), BindError> {
    let io = |source| BindError::Io { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => {}
        Ok(_) => return Err(BindError::NotASocket(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
    }
    match tokio::time::timeout(PROBE_TIME, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(io)
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A full queue of connections is one of a daemon that lives.
        Ok(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => Err(io(error)),
        Ok(Ok(_) | Err(_)) | Err(_) => Err(BindError::InUse(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/a.sock");
        let first = Listener::bind(Door::Main, &path).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let in_use = Listener::bind(Door::Main, &path).await.unwrap_err();
        assert!(matches!(&in_use, BindError::InUse(named) if *named == path), "{in_use}");
        drop(first);
        assert!(path.exists());
        let second = Listener::bind(Door::Main, &path).await.unwrap();
        second.remove();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_of_somebody_else_and_a_file_stay_where_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let ours = Listener::bind(Door::Main, &path).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "a file").unwrap();
        ours.remove();
        assert!(path.exists());
        assert!(matches!(Listener::bind(Door::Main, &path).await, Err(BindError::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
    }
}
