//! Folders that are being made for a pool which is not in the model yet: durably noted before they are made.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::commit::Committer;
use super::super::diff::Diff;
use super::super::host::Host;
use super::super::refusal::HostError;
use super::super::snapshot::Snapshot;
use super::super::write::Write;
use crate::error::Kind;
use crate::storage::ImageDriver;

/// Notes that these will be made.
pub(super) async fn begin(committer: &Committer, folders: &[Arc<str>]) -> Result<(), HostError> {
    let folders = folders.to_vec();
    let note = move |_: &Snapshot| {
        Ok(folders.iter().fold(Diff::new(()), |diff, folder| diff.write(Write::BeginFolder(folder.clone()))))
    };
    committer.commit(note).await
}

/// The end of those that are noted: they are a pool's, or gone.
pub(super) fn end<T>(seen: &Snapshot, folders: &[Arc<str>], diff: Diff<T>) -> Diff<T> {
    let noted = folders.iter().filter(|folder| seen.model.folders().any(|noted| noted == *folder));
    noted.fold(diff, |diff, folder| diff.write(Write::EndFolder(folder.clone())))
}

/// Removes folders that were made for nothing, as far as they are empty.
pub(super) async fn undo(committer: &Committer, folders: Vec<Arc<str>>) {
    let paths: Vec<PathBuf> = folders.iter().map(|folder| PathBuf::from(&**folder)).collect();
    let removed = tokio::task::spawn_blocking(move || paths.iter().rev().for_each(|path| remove(path)));
    if removed.await.is_err() {
        tracing::error!("folders that were made for a pool stay until the next start-up");
        return;
    }
    let ended = committer.commit(move |seen| Ok(end(seen, &folders, Diff::new(())).frees_space())).await;
    if let Err(error) = ended {
        tracing::error!(error = error.report(), "folders that were made for a pool stay noted");
    }
}

fn remove(folder: &Path) {
    use std::io::ErrorKind::{DirectoryNotEmpty, NotFound};
    if let Err(error) = ImageDriver::clear_set_up(folder)
        && error.kind() != Kind::NotFound
    {
        tracing::warn!(folder = %folder.display(), error = error.report(), "what a set-up left is not removed");
    }
    match std::fs::remove_dir(folder) {
        Ok(()) => {}
        Err(error) if matches!(error.kind(), NotFound) => {}
        Err(error) if matches!(error.kind(), DirectoryNotEmpty) => {
            tracing::info!(folder = %folder.display(), "made for a pool that was not added; it is in use");
        }
        Err(error) => {
            tracing::error!(folder = %folder.display(), %error, "made for a pool that was not added")
        }
    }
}

/// At start-up: what an interrupted addition has made goes.
pub(in super::super) async fn settle(host: &Host) {
    let folders: Vec<Arc<str>> = host.snapshot().model.folders().cloned().collect();
    if !folders.is_empty() {
        undo(&host.committer, folders).await;
    }
}
