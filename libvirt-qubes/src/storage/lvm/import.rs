//! Data from outside, and from other volumes: it goes to the LV `-import`, and is committed as a whole.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::Shared;
use super::names::{LvName, Role};
use super::op::{LvOp, Resizing};
use super::place::{Found, Place, Worth};
use super::room::Need;
use crate::error::{At, Error, Kind, Op, Result};
use crate::ids::ByteSize;
use crate::storage::about::About;
use crate::storage::sparse::{self, SparseWriter};
use crate::storage::transfer::LOOK_EACH;
use crate::storage::uses::Importing;
use crate::storage::{Export, ImportSize, ImportWriter, Job, Progress, VolumeId, VolumeSpec};

/// Between two looks at the cancel token.
const CHUNK: usize = 1 << 20;

pub(super) struct LvmImport {
    /// `None` once all is written. It is closed before the target goes.
    writer: Option<SparseWriter>,
    target: Target,
    size: ImportSize,
    /// Of the LV; it grows with what comes.
    room: u64,
    /// Bytes that came since the watermark was last looked at.
    unchecked: u64,
    /// Somebody else writes.
    is_handed_out: bool,
}

/// The claim on a volume, and the LV with its new state, which goes unless it is committed.
struct Target {
    shared: Arc<Shared>,
    id: VolumeId,
    spec: VolumeSpec,
    /// Nothing of the volume was there before.
    is_new: bool,
    made: Option<Role>,
    _claim: Importing,
}

impl Target {
    /// Without an LV yet.
    fn begin(shared: &Arc<Shared>, id: &VolumeId, spec: &VolumeSpec) -> Result<Self> {
        let place = Place::new(shared, id, Op::ImportVolume)?;
        place.persistent(spec)?;
        if place.names.is_ambiguous() {
            return Err(place.refuse(Kind::Invalid, "an LV of this name would be one of another volume"));
        }
        let Some(claim) = shared.uses.import(id) else {
            return Err(place.refuse(Kind::Busy, format!("Import operation in progress on {id}")));
        };
        let mut found = place.known().map_or_else(|| place.look(), Ok)?;
        if found.snap.is_some() {
            return Err(dirty(&place));
        }
        if let Some(foreign) = &found.foreign {
            return Err(place.refuse(Kind::AlreadyExists, format!("{foreign} is not in this thin pool")));
        }
        place.heal(&mut found)?;
        place.remove_unfinished(&mut found)?;
        Ok(Self {
            shared: Arc::clone(shared),
            id: id.clone(),
            spec: spec.clone(),
            is_new: found.is_vacant(),
            made: None,
            _claim: claim,
        })
    }

    fn place(&self) -> Result<Place<'_>> {
        Place::new(&self.shared, &self.id, Op::ImportVolume)
    }

    /// The LV, empty and open.
    fn make(&mut self, size: ByteSize, need: Need) -> Result<SparseWriter> {
        let place = self.place()?;
        let geometry = self.shared.geometry(Op::ImportVolume)?;
        self.shared.room(Op::ImportVolume, &self.id, need)?;
        place.make(Role::Import, size)?;
        self.made = Some(Role::Import);
        let file = self.open()?;
        // What a chunk had before shows around the first thing that is written to it, if the pool does not wipe it.
        let unit = if geometry.zeroes {
            sparse::BLOCK
        } else {
            usize::try_from(geometry.chunk).unwrap_or(sparse::BLOCK)
        };
        Ok(SparseWriter::in_units(file, unit))
    }

    fn open(&self) -> Result<File> {
        let path = self.shared.runner.device(&self.place()?.names.lv(Role::Import));
        OpenOptions::new().read(true).write(true).open(&path).at(Op::ImportVolume, path.display())
    }

    /// The file's data is all written.
    fn commit(&mut self, file: File) -> Result<()> {
        file.sync_all().at(Op::ImportVolume, &self.id)?;
        drop(file);
        self.commit_made()
    }

    fn commit_made(&mut self) -> Result<()> {
        // What was made at once under the name of the volume's state is committed.
        if self.made != Some(Role::Clean) {
            let place = self.place()?;
            let found: Found = place.look()?;
            if found.snap.is_some() {
                return Err(dirty(&place));
            }
            place.commit(&self.spec, Role::Import, found)?;
        }
        self.made = None;
        Ok(())
    }

    fn remove(&mut self) -> Result<()> {
        if let Some(role) = self.made.take() {
            let place = self.place()?;
            let mut found = place.look()?;
            if role == Role::Clean && found.clean.is_some() {
                return place.remove(&[Role::Clean], Worth::Nothing);
            }
            // A commit that was cut off between its two renames is taken back first.
            place.heal(&mut found)?;
            if found.import.is_some() {
                place.remove(&[Role::Import], Worth::Nothing)?;
            }
        }
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Err(e) = self.remove() {
            tracing::warn!(volume = %self.id, error = %e.report(), "cannot remove a broken-off import");
        }
    }
}

impl LvmImport {
    pub(super) fn begin(
        shared: &Arc<Shared>,
        id: &VolumeId,
        spec: &VolumeSpec,
        size: ImportSize,
    ) -> Result<Self> {
        let place = Place::new(shared, id, Op::ImportVolume)?;
        place.persistent(spec)?;
        let room = place.whole_extents(match size {
            ImportSize::Exactly(size) | ImportSize::Zeros(size) => size,
            ImportSize::AsItComes => spec.size,
        })?;
        let mut target = Target::begin(shared, id, spec)?;
        let need = if size.takes_space() { Need::Data } else { Need::Metadata };
        let writer = target.make(room, need)?;
        let room = room.get();
        Ok(Self { target, size, room, writer: Some(writer), unchecked: 0, is_handed_out: false })
    }

    /// The writer, when the LV has room for `more`.
    fn room(&mut self, more: u64) -> Result<&mut SparseWriter> {
        let place = self.target.place()?;
        let Some(writer) = &mut self.writer else {
            return Err(place.refuse(Kind::Invalid, "the import has ended"));
        };
        let after = writer.position().saturating_add(more);
        self.size.admits(after).map_err(|why| place.refuse(Kind::Invalid, why))?;
        if after > self.room {
            let size = place.whole_extents(ByteSize::bytes(after.max(self.room.saturating_mul(2))))?;
            let lv = place.names.lv(Role::Import);
            place.change(&LvOp::Resize { lv, size, how: Resizing::Grow })?;
            self.room = size.get();
        }
        Ok(writer)
    }
}

impl ImportWriter for LvmImport {
    fn write(&mut self, data: &[u8]) -> Result<()> {
        let more = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.unchecked = self.unchecked.saturating_add(more);
        if self.unchecked >= LOOK_EACH {
            self.unchecked = 0;
            self.target.shared.room(Op::ImportVolume, &self.target.id, Need::Data)?;
        }
        let written = self.room(more)?.write(data);
        written.at(Op::ImportVolume, &self.target.id)
    }

    fn skip(&mut self, length: ByteSize) -> Result<()> {
        let skipped = self.room(length.get())?.skip(length.get());
        skipped.at(Op::ImportVolume, &self.target.id)
    }

    fn hand_out(&mut self) -> Result<PathBuf> {
        let came = self.room(0)?.position();
        let place = self.target.place()?;
        self.size.to_hand_out(came).map_err(|why| place.refuse(Kind::Invalid, why))?;
        if !self.target.shared.geometry(Op::ImportVolume)?.zeroes {
            let why = "the thin pool does not wipe its chunks: only the daemon itself writes to it, send the data there";
            return Err(place.refuse(Kind::Unsupported, why));
        }
        let path = self.target.shared.runner.device(&place.names.lv(Role::Import));
        drop(self.writer.take());
        self.is_handed_out = true;
        Ok(path)
    }

    fn settle(&mut self) -> Result<()> {
        if self.is_handed_out {
            self.target.open()?.sync_all().at(Op::ImportVolume, &self.target.id)?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<ByteSize> {
        if self.is_handed_out {
            let file = self.target.open()?;
            self.target.commit(file)?;
            return Ok(ByteSize::bytes(self.room));
        }
        let came = ByteSize::bytes(self.room(0)?.position());
        let place = self.target.place()?;
        self.size.is_met_by(came).map_err(|why| place.refuse(Kind::Invalid, why))?;
        let size = place.whole_extents(came)?;
        let Some(writer) = self.writer.take() else {
            return Err(place.refuse(Kind::Invalid, "the import has ended"));
        };
        let file = writer.flush().at(Op::ImportVolume, &self.target.id)?;
        if size.get() < self.room {
            file.sync_all().at(Op::ImportVolume, &self.target.id)?;
            let lv = place.names.lv(Role::Import);
            place.change(&LvOp::Resize { lv, size, how: Resizing::Trim })?;
        }
        self.target.commit(file)?;
        Ok(size)
    }

    fn abort(mut self: Box<Self>) -> Result<()> {
        drop(self.writer.take());
        self.target.remove()
    }
}

fn dirty(place: &Place<'_>) -> Error {
    let why = format!("Cannot import to dirty volume {} - start and stop a qube to cleanup", place.id);
    place.refuse(Kind::Busy, why)
}

/// An import from another volume.
pub(super) fn copy_from(
    shared: &Arc<Shared>,
    id: &VolumeId,
    spec: &VolumeSpec,
    source: &Export,
    job: &Job,
) -> Result<()> {
    let mut target = Target::begin(shared, id, spec)?;
    job.check(Op::ImportVolume, id)?;
    if share(&mut target, source)? {
        job.report(Progress { done: source.size().get(), total: source.size().get() });
        let _turn = job.commit_turn();
        return target.commit_made();
    }
    let mut writer = target.make(source.size(), Need::Data)?;
    copy(shared, &mut writer, source, id, job)?;
    let file = writer.flush().at(Op::ImportVolume, id)?;
    // What takes long is done before others have to wait.
    file.sync_all().at(Op::ImportVolume, id)?;
    let _turn = job.commit_turn();
    target.commit(file)
}

/// Makes the import a snapshot of the source, if that is an LV of the same thin pool; a volume that is not there yet, at
/// once. `false`: it is not.
fn share(target: &mut Target, source: &Export) -> Result<bool> {
    let shared = Arc::clone(&target.shared);
    // Meanwhile its volume may be committed, which gives the LV another name: twice is enough by far.
    for _ in 0..3 {
        let Some(lv) = shared.runner.lv_of(source.file()) else { return Ok(false) };
        if !is_of_pool(target, &lv)? {
            return Ok(false);
        }
        let place = target.place()?;
        shared.room(Op::ImportVolume, &target.id, Need::Metadata)?;
        let role = if target.is_new { Role::Clean } else { Role::Import };
        let made = place.change(&LvOp::Snapshot { of: lv.clone(), lv: place.names.lv(role) });
        // An LV of the volume's own name that is in the way is somebody else's.
        target.made = (made.is_ok() || role == Role::Import).then_some(role);
        if shared.runner.lv_of(source.file()).as_ref() == Some(&lv) {
            return made.map(|()| true);
        }
        target.remove()?;
    }
    Ok(false)
}

fn is_of_pool(target: &Target, lv: &LvName) -> Result<bool> {
    let pool = &target.shared.pool;
    if lv.vg() != pool.vg() {
        return Ok(false);
    }
    if target.shared.figures.is_known(lv) {
        return Ok(true);
    }
    let command = LvOp::Names { vg: pool.vg().clone(), bases: vec![lv.lv().to_owned()] };
    let lvs = target.shared.runner.run(&command);
    let lvs = lvs.map_err(|failed| match target.place() {
        Ok(place) => place.failed(&command, failed),
        Err(e) => e,
    })?;
    Ok(lvs.iter().any(|found| found.name == lv.lv() && found.pool == pool.lv()))
}

fn copy(shared: &Shared, writer: &mut SparseWriter, source: &Export, id: &VolumeId, job: &Job) -> Result<()> {
    let op = Op::ImportVolume;
    let total = source.size().get();
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    let mut unchecked = 0;
    while offset < total {
        let next = sparse::next_data(source.file(), offset, total).at(op, source.path().display())?;
        let (start, end) = next.unwrap_or((total, total));
        writer.skip(start - offset).at(op, id)?;
        offset = start;
        while offset < end {
            job.check(op, id)?;
            let wanted = usize::try_from(end - offset).unwrap_or(CHUNK).min(CHUNK);
            let part = buffer.get_mut(..wanted).unwrap_or_default();
            source.file().read_exact_at(part, offset).at(op, source.path().display())?;
            writer.write(part).at(op, id)?;
            let copied = u64::try_from(wanted).unwrap_or(0);
            offset += copied;
            unchecked += copied;
            if unchecked >= LOOK_EACH {
                unchecked = 0;
                shared.room(op, id, Need::Data)?;
            }
            job.report(Progress { done: offset, total });
        }
    }
    job.report(Progress { done: total, total });
    Ok(())
}
