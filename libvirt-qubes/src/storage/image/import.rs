//! Data from outside: it goes to `V-import.img`, and is committed as a whole.

use std::path::PathBuf;
use std::sync::Arc;

use mgmt_block::FileId;

use super::Shared;
use super::copy::Copy;
use super::names::{self, Image};
use super::place::{Found, Place};
use crate::error::{At, Kind, Op, Result};
use crate::ids::ByteSize;
use crate::storage::about::About;
use crate::storage::sparse::SparseWriter;
use crate::storage::transfer::LOOK_EACH;
use crate::storage::uses::Importing;
use crate::storage::{Export, ImportSize, ImportWriter, Job, VolumeId, VolumeSpec};

pub(super) struct ImageImport {
    target: Target,
    size: ImportSize,
    /// `None` once all is written, or somebody else writes.
    writer: Option<SparseWriter>,
    /// Bytes that came since the watermark was last looked at.
    unchecked: u64,
    /// The length of the file that somebody else writes.
    handed_out: Option<u64>,
}

/// The claim on a volume, and its import file, which goes unless it is committed.
struct Target {
    shared: Arc<Shared>,
    id: VolumeId,
    spec: VolumeSpec,
    /// The file that was made for it.
    made: FileId,
    /// Synced since its last byte came.
    is_durable: bool,
    committed: bool,
    _claim: Importing,
}

impl Target {
    fn begin(shared: &Arc<Shared>, id: &VolumeId, spec: &VolumeSpec) -> Result<(Self, std::fs::File)> {
        let place = Place::new(shared, id, Op::ImportVolume);
        place.persistent(spec)?;
        if names::is_ambiguous(&id.volume) {
            return Err(place.refuse(Kind::Invalid, "files of this name would be those of another volume"));
        }
        let Some(claim) = shared.uses.import(id) else {
            return Err(place.refuse(Kind::Busy, format!("Import operation in progress on {id}")));
        };
        let found = place.look()?;
        if found.dirty.is_some() {
            let why = format!("Cannot import to dirty volume {id} - start and stop a qube to cleanup");
            return Err(place.refuse(Kind::Busy, why));
        }
        place.remove_unfinished(&found)?;
        place.make_dir()?;
        let path = place.path(&Image::Import);
        let file = shared.disk.create(&path).at(Op::ImportVolume, path.display());
        let file = file.inspect_err(|_| place.drop_empty_dir())?;
        let made = FileId::of(&file.metadata().at(Op::ImportVolume, path.display())?);
        let target = Self {
            shared: Arc::clone(shared),
            id: id.clone(),
            spec: spec.clone(),
            made,
            is_durable: false,
            committed: false,
            _claim: claim,
        };
        Ok((target, file))
    }

    fn place(&self) -> Place<'_> {
        Place::new(&self.shared, &self.id, Op::ImportVolume)
    }

    /// What takes long, done before others have to wait.
    fn make_durable(&mut self, file: &std::fs::File) -> Result<()> {
        let path = self.place().path(&Image::Import);
        self.shared.disk.sync_file(file, &path).at(Op::ImportVolume, path.display())?;
        self.is_durable = true;
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        let place = self.place();
        let found: Found = place.look()?;
        if found.import.as_ref().map(FileId::of) != Some(self.made) {
            let why = "its file was replaced by another while data came";
            return Err(place.refuse(Kind::Corrupt, why));
        }
        if !self.is_durable {
            place.make_durable(&Image::Import)?;
        }
        place.commit(&self.spec, &Image::Import, found)?;
        self.committed = true;
        Ok(())
    }

    fn remove(&mut self) -> Result<()> {
        if self.committed {
            return Ok(());
        }
        self.place().remove(&Image::Import)?;
        self.committed = true;
        // Of a volume that this import would have made, the folder is all that is left.
        let place = self.place();
        place.disk().remove_empty_dir(&place.dir).at(Op::ImportVolume, place.dir.display())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Err(e) = self.remove() {
            tracing::warn!(volume = %self.id, error = %e.report(), "cannot remove a broken-off import");
        }
    }
}

impl ImageImport {
    pub(super) fn begin(
        shared: &Arc<Shared>,
        id: &VolumeId,
        spec: &VolumeSpec,
        size: ImportSize,
    ) -> Result<Self> {
        if let ImportSize::Exactly(size) | ImportSize::Zeros(size) = size {
            Place::new(shared, id, Op::ImportVolume).whole_sectors(size)?;
        }
        if size.takes_space() {
            shared.room(Op::ImportVolume, id)?;
        }
        let (target, file) = Target::begin(shared, id, spec)?;
        Ok(Self { target, size, writer: Some(SparseWriter::new(file)), unchecked: 0, handed_out: None })
    }

    /// The writer, if there is room for `more`.
    fn room(&mut self, more: u64) -> Result<&mut SparseWriter> {
        let place = self.target.place();
        let Some(writer) = &mut self.writer else {
            return Err(place.refuse(Kind::Invalid, "the import has ended"));
        };
        let after = writer.position().saturating_add(more);
        self.size.admits(after).map_err(|why| place.refuse(Kind::Invalid, why))?;
        place.whole_sectors(ByteSize::bytes(after))?;
        Ok(writer)
    }
}

impl ImportWriter for ImageImport {
    fn write(&mut self, data: &[u8]) -> Result<()> {
        let more = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.unchecked = self.unchecked.saturating_add(more);
        if self.unchecked >= LOOK_EACH {
            self.unchecked = 0;
            self.target.shared.room(Op::ImportVolume, &self.target.id)?;
        }
        let written = self.room(more)?.write(data);
        self.target.shared.placed(written.at(Op::ImportVolume, &self.target.id))
    }

    fn skip(&mut self, length: ByteSize) -> Result<()> {
        let skipped = self.room(length.get())?.skip(length.get());
        self.target.shared.placed(skipped.at(Op::ImportVolume, &self.target.id))
    }

    fn hand_out(&mut self) -> Result<PathBuf> {
        let came = self.room(0)?.position();
        let place = self.target.place();
        let size = self.size.to_hand_out(came).map_err(|why| place.refuse(Kind::Invalid, why))?;
        let size = place.whole_sectors(size)?;
        if let Some(writer) = self.writer.take() {
            let finished = writer.finish(size.get()).at(Op::ImportVolume, &self.target.id);
            self.target.shared.placed(finished)?;
        }
        self.handed_out = Some(size.get());
        Ok(place.path(&Image::Import))
    }

    fn settle(&mut self) -> Result<()> {
        if self.handed_out.is_none() {
            return Ok(());
        }
        let durable = self.target.place().make_durable(&Image::Import);
        self.target.shared.placed(durable)
    }

    fn finish(mut self: Box<Self>) -> Result<ByteSize> {
        if let Some(size) = self.handed_out {
            let place = self.target.place();
            let path = place.path(&Image::Import);
            let length = std::fs::metadata(&path).at(Op::ImportVolume, path.display())?.len();
            if length != size {
                let why = format!("its file was left with {length} bytes, {size} were expected");
                return Err(place.refuse(Kind::Invalid, why));
            }
            let committed = self.target.commit();
            self.target.shared.placed(committed)?;
            return Ok(ByteSize::bytes(size));
        }
        let came = ByteSize::bytes(self.room(0)?.position());
        let place = self.target.place();
        self.size.is_met_by(came).map_err(|why| place.refuse(Kind::Invalid, why))?;
        let size = place.whole_sectors(came)?;
        if let Some(writer) = self.writer.take() {
            let finished = writer.finish(size.get()).at(Op::ImportVolume, &self.target.id);
            self.target.shared.placed(finished)?;
        }
        let committed = self.target.commit();
        self.target.shared.placed(committed)?;
        Ok(size)
    }

    fn abort(mut self: Box<Self>) -> Result<()> {
        drop(self.writer.take());
        self.target.remove()
    }
}

/// An import from another volume.
pub(super) fn copy_from(
    shared: &Arc<Shared>,
    id: &VolumeId,
    spec: &VolumeSpec,
    source: &Export,
    job: &Job,
) -> Result<()> {
    let (mut target, file) = Target::begin(shared, id, spec)?;
    let copy = Copy {
        source: source.file(),
        size: source.size().get(),
        method: shared.method(),
        within: Some(shared),
        op: Op::ImportVolume,
        what: id,
        job,
    };
    copy.fill(&file)?;
    let size = target.place().whole_sectors(source.size())?;
    if size != source.size() {
        file.set_len(size.get()).at(Op::ImportVolume, id)?;
    }
    target.make_durable(&file)?;
    drop(file);
    let _turn = job.commit_turn();
    target.commit()
}
