//! An import as async callers see it.

use std::path::PathBuf;

use super::lanes::{Lane, Lanes};
use super::pool::Storage;
use super::{ImportWriter, Job, Volume};
use crate::error::{Error, Kind, Op, Result};
use crate::ids::ByteSize;

/// Data on its way into a volume. It becomes the volume's state at [`finish`](Import::finish), as a whole. Dropped
/// before, or while one of its futures is under way, the import is given up and leaves nothing.
pub struct Import {
    storage: Storage,
    lanes: Lanes,
    volume: Volume,
    writer: Option<OffThread>,
    is_handed_out: bool,
}

/// A writer that is never dropped on an async thread: to remove a large file takes its time.
struct OffThread(Option<Box<dyn ImportWriter>>);

impl OffThread {
    fn into_inner(mut self) -> Option<Box<dyn ImportWriter>> {
        self.0.take()
    }
}

impl Drop for OffThread {
    fn drop(&mut self) {
        let Some(writer) = self.0.take() else { return };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(writer))),
            Err(_) => drop(writer),
        }
    }
}

impl Import {
    pub(super) fn new(storage: Storage, lanes: Lanes, volume: Volume, writer: Box<dyn ImportWriter>) -> Self {
        Self { storage, lanes, volume, writer: Some(OffThread(Some(writer))), is_handed_out: false }
    }

    /// Writes the next bytes and gives the buffer back, empty. A piece of 256 KiB to 1 MiB is cheapest.
    ///
    /// # Errors
    /// As [`ImportWriter::write`]; the import is given up then.
    pub async fn write(&mut self, mut data: Vec<u8>) -> Result<Vec<u8>> {
        self.with_writer(Lane::Bulk, move |writer| {
            writer.write(&data)?;
            data.clear();
            Ok(data)
        })
        .await
    }

    /// So many zeros next, without writing them.
    ///
    /// # Errors
    /// As [`ImportWriter::skip`]; the import is given up then.
    pub async fn skip(&mut self, length: ByteSize) -> Result<()> {
        // No data is written.
        self.with_writer(Lane::Short, move |writer| writer.skip(length)).await
    }

    /// Lets somebody else write, and gives the path to write to; see [`ImportWriter::hand_out`].
    ///
    /// # Errors
    /// As there; the import is given up then.
    pub async fn hand_out(&mut self) -> Result<PathBuf> {
        self.is_handed_out = true;
        self.with_writer(Lane::Short, |writer| writer.hand_out()).await
    }

    /// Makes what came the volume's state and returns its size. Waits for the volume's lock; what takes long is done before.
    ///
    /// # Errors
    /// As [`ImportWriter::finish`]; the volume is as it was then.
    pub async fn finish(mut self) -> Result<ByteSize> {
        if self.is_handed_out {
            self.with_writer(Lane::Bulk, |writer| writer.settle()).await?;
        }
        let writer = self.writer.take();
        let ended = self.ended();
        let (storage, volume) = (self.storage.clone(), self.volume.clone());
        let finish =
            storage.changed(Lane::Short, Job::default(), Op::ImportVolume, &volume, move |_, _, _| {
                writer.and_then(OffThread::into_inner).ok_or(ended)?.finish()
            });
        finish.await
    }

    /// Gives up and waits until nothing is left.
    ///
    /// # Errors
    /// As [`ImportWriter::abort`].
    pub async fn abort(mut self) -> Result<()> {
        let writer = self.writer.take();
        let abort = move || writer.and_then(OffThread::into_inner).map_or(Ok(()), ImportWriter::abort);
        self.run(Lane::Short, abort).await
    }

    /// A writer that failed, or whose future was dropped, does not come back.
    async fn with_writer<T: Send + 'static>(
        &mut self,
        lane: Lane,
        work: impl FnOnce(&mut dyn ImportWriter) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let writer = self.writer.take().ok_or_else(|| self.ended())?;
        let ended = self.ended();
        let (writer, result) = self
            .run(lane, move || {
                let mut inner = writer.into_inner().ok_or(ended)?;
                // On failure it is dropped here, so that nothing is left once the caller knows.
                let result = work(&mut *inner)?;
                Ok((OffThread(Some(inner)), result))
            })
            .await?;
        self.writer = Some(writer);
        Ok(result)
    }

    fn ended(&self) -> Error {
        Error::new(Kind::Invalid, Op::ImportVolume, &self.volume.id).because("the import was given up")
    }

    /// The future holds nothing of `self`: a writer cannot be shared between threads.
    fn run<T: Send + 'static, W: FnOnce() -> Result<T> + Send + 'static>(
        &self,
        lane: Lane,
        work: W,
    ) -> impl Future<Output = Result<T>> + Send + use<T, W> {
        let (storage, lanes, id) = (self.storage.clone(), self.lanes.clone(), self.volume.id.to_string());
        async move { storage.run(&lanes, lane, &Job::default(), Op::ImportVolume, id, work).await }
    }
}

impl std::fmt::Debug for Import {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Import").field("volume", &self.volume).finish_non_exhaustive()
    }
}
