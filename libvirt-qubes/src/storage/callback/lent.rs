//! What is lent for longer than a call, with the hook that is run when it comes back.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Shared;
use super::hook::Hook;
use crate::error::{Error, Kind, Op, Result};
use crate::ids::ByteSize;
use crate::storage::{ImportWriter, VolumeId, VolumeSpec};

/// An import of the driver in the middle.
pub(super) struct CallbackImport {
    shared: Arc<Shared>,
    id: VolumeId,
    spec: VolumeSpec,
    /// `None` once it has ended.
    inner: Option<Box<dyn ImportWriter>>,
}

impl CallbackImport {
    pub(super) fn new(
        shared: Arc<Shared>,
        id: &VolumeId,
        spec: &VolumeSpec,
        inner: Box<dyn ImportWriter>,
    ) -> Self {
        Self { shared, id: id.clone(), spec: spec.clone(), inner: Some(inner) }
    }

    fn writer(&mut self) -> Result<&mut (dyn ImportWriter + 'static)> {
        let ended = || Error::new(Kind::Invalid, Op::ImportVolume, &self.id).because("the import has ended");
        self.inner.as_deref_mut().ok_or_else(ended)
    }

    fn take(&mut self) -> Result<Box<dyn ImportWriter>> {
        let ended = || Error::new(Kind::Invalid, Op::ImportVolume, &self.id).because("the import has ended");
        self.inner.take().ok_or_else(ended)
    }

    fn end(&self, success: bool) -> Result<()> {
        let told = Some(if success { "True" } else { "False" }.to_owned());
        let hook = Hook::PostVolumeImportDataEnd;
        self.shared.hook(Op::ImportVolume, &self.id, &self.spec, hook, told)
    }

    fn end_without_success(&self) {
        if let Err(e) = self.end(false) {
            tracing::error!(volume = %self.id, error = e.report(), "a command after a failed import failed");
        }
    }
}

impl ImportWriter for CallbackImport {
    fn write(&mut self, data: &[u8]) -> Result<()> {
        self.writer()?.write(data)
    }

    fn skip(&mut self, length: ByteSize) -> Result<()> {
        self.writer()?.skip(length)
    }

    fn hand_out(&mut self) -> Result<PathBuf> {
        self.writer()?.hand_out()
    }

    fn settle(&mut self) -> Result<()> {
        self.writer()?.settle()
    }

    fn finish(mut self: Box<Self>) -> Result<ByteSize> {
        let size = self.take()?.finish().inspect_err(|_| self.end_without_success())?;
        self.end(true)?;
        Ok(size)
    }

    fn abort(mut self: Box<Self>) -> Result<()> {
        let aborted = self.take()?.abort();
        let told = self.end(false);
        aborted.and(told)
    }
}

impl Drop for CallbackImport {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            drop(inner);
            self.end_without_success();
        }
    }
}

/// Told when an export is let go.
pub(super) struct ExportEnd(Option<Ended>);

struct Ended {
    shared: Arc<Shared>,
    id: VolumeId,
    spec: VolumeSpec,
    path: String,
}

impl ExportEnd {
    pub(super) fn new(shared: Arc<Shared>, id: &VolumeId, spec: &VolumeSpec, path: &Path) -> Self {
        let path = path.to_string_lossy().into_owned();
        Self(Some(Ended { shared, id: id.clone(), spec: spec.clone(), path }))
    }
}

impl Drop for ExportEnd {
    fn drop(&mut self) {
        let Some(Ended { shared, id, spec, path }) = self.0.take() else { return };
        let run = move || {
            let hook = Hook::PostVolumeExportEnd;
            shared.hook_if_possible(Op::ExportVolume, &id, &spec, hook, Some(path));
        };
        // Whoever lets it go may be an async thread.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(run)),
            Err(_) => run(),
        }
    }
}
