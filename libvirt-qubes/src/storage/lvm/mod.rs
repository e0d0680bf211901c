//! The driver `lvm_thin`: a volume is a handful of thin LVs of one thin pool, with the names of [`names`](self).
//!
//! ## Order of steps
//!
//! Each step is one command of LVM, which is atomic and durable when it returns ([`LvOp`]). A *commit* of `-snap` or
//! `-import` makes its data durable, renames the clean LV to a revision, and renames the new one to be clean. There is a whole
//! committed state at every moment: without a clean LV it is the newest revision. Revisions that are then more than are to be
//! kept are told no more, and removed once the commit is answered; recovery removes none, and what a crash left of them goes
//! after the next commit.
//!
//! | operation | steps | after a crash, and what recovery makes of it |
//! |---|---|---|
//! | create | create clean | nothing, or the volume |
//! | start, persistent | snapshot clean → `-snap` | `-snap` that nobody wrote: committed, one revision more, and none less |
//! | start, in place (`revisions_to_keep = -1`) | remove revisions; rename clean → `-snap` | fewer revisions; `-snap` alone: renamed back |
//! | start, snapshot | remove `-snap`; snapshot the source's → `-snap` | dropped |
//! | start, volatile | remove clean; create clean | dropped |
//! | stop, persistent | rename clean → `-NOW-back`; rename `-snap` → clean; after the answer: remove surplus | `-snap`: committed, in the second case by the second rename alone |
//! | stop, snapshot or volatile | remove `-snap`, or clean | dropped |
//! | stop, never ran | remove `-snap`, or rename it back | as a start |
//! | import, copy | create (or snapshot) `-import`; data; then as a stop with `-import` | `-import` is removed; without clean the newest revision is renamed back: the state before |
//! | copy of an LV of the pool to a new volume | snapshot the source → clean | nothing, or the volume |
//! | revert to a revision | rename clean → `-NOW-back`; rename the revision → clean; after the answer: remove surplus | without clean: the newest revision, which is the state before, is renamed back |
//! | revert to a kept state | snapshot it → `-import`; then as an import | as an import |
//! | keep | snapshot → `-sN-keep` | nothing, or the kept state |
//! | resize | extend | before or after |
//! | forget (a revision or kept state) | remove it | it is there or not |
//! | remove | remove all, the volume's own last | some are left: remove again |
//! | pool add | remove `-N-gone` | the caller's row, which is one commit, is there or not: nothing is made in the thin pool |
//! | pool remove | none | likewise: nothing of it goes |
//!
//! `NOW` is the present second, or one more than the newest revision's, so that two commits in one second, or a clock
//! that was set back, do no harm. A large LV that is worth something is renamed to `-N-gone`
//! before it is discarded and removed: a crash in between leaves no state that has lost its data under its old name, and
//! `-N-gone`, which goes likewise.
//! A read-only persistent volume is given out as it is and never committed. Only what
//! is *imported* needs data; what makes a new LV needs metadata; [`room`](self) refuses both in time.
//!
//! One thing is not in the names: whether a `-snap` was made by a start that no domain has used. That is known for
//! starts of this process; for others a `-snap` counts as written.
//!
//! ## An LV that is being read
//!
//! An LV that is open cannot be removed. An export keeps its LV open; if the volume is committed or removed meanwhile
//! and that LV has to go, it is renamed to `-N-gone` and goes with the export; after a crash, when the pool is next set up,
//! or earlier, with a start, recovery or removal of the volume.

mod figures;
mod gone;
mod import;
mod known;
mod lifecycle;
#[cfg(test)]
mod misbehaving;
mod names;
mod op;
mod place;
mod process;
mod report;
mod revisions;
mod room;
mod runner;
mod shell;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use names::{LvName, VgName};
pub use op::{LvOp, Resizing};
pub use report::Lv;
pub use runner::{Failed, Lvm, Runner};

use self::figures::{Cache, share};
use self::names::Role;
use self::place::{Place, failure};
use self::room::{Geometry, Room};
use super::uses::Uses;
use super::{
    Contents, Driver, Ending, Export, ImportSize, ImportWriter, Job, PoolPlace, PoolUsage, Recovered, Resize,
    Revisions, Started, VolumeId, VolumeInfo, VolumeSpec,
};
use crate::error::{Error, Kind, Op, Result};
use crate::ids::ByteSize;
use crate::storage::about::About;

/// The largest chunk that an import holds in memory, of pools that do not wipe chunks.
const LARGEST_CHUNK: u64 = 16 << 20;

/// What holds for all pools, from the caller's configuration.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// From here on, in percent of data or metadata, what takes space is refused.
    pub near_full_percent: u8,
    /// Figures that are older are asked for again; what changes a pool looks no further back. Zero: whoever reads figures waits for them.
    pub refresh: Duration,
    /// A command that takes longer is killed.
    pub command_limit: Duration,
    /// The configuration of the driver `callback`.
    pub callback_config: Arc<Path>,
    /// Once it is cancelled, commands around pools are killed as at their deadline, and none is run any more: the caller ends.
    pub end_commands: CancellationToken,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            near_full_percent: 90,
            refresh: Duration::from_secs(10),
            command_limit: Duration::from_secs(120),
            callback_config: Path::new("/etc/qubes_callback.json").into(),
            end_commands: CancellationToken::new(),
        }
    }
}

/// A pool of LVs in one thin pool, which an administrator has made.
#[derive(Debug, Clone)]
pub struct LvmDriver {
    shared: Arc<Shared>,
}

/// What imports and exports hold on to.
#[derive(Debug)]
struct Shared {
    pool: LvName,
    tuning: Tuning,
    runner: Arc<dyn Runner>,
    uses: Uses,
    figures: Cache,
    room: Room,
    geometry: OnceLock<Geometry>,
    /// Volumes whose `-snap` this process made, and no start since has found it there.
    starts: Mutex<HashSet<VolumeId>>,
    /// Volumes of which commits of this process have left revisions over, and how many are to be kept.
    surplus: Mutex<HashMap<VolumeId, usize>>,
    /// LVs that wait for their last reader.
    left: Mutex<Vec<LvName>>,
}

impl LvmDriver {
    /// The thin pool `pool`, driven by LVM's own commands.
    pub fn new(pool: LvName, tuning: Tuning) -> Self {
        let runner = Lvm::new(tuning.command_limit);
        Self::with_runner(pool, tuning, Arc::new(runner))
    }

    /// The same, with somebody else to execute commands. For tests: a model of LVM, or faults.
    pub fn with_runner(pool: LvName, tuning: Tuning, runner: Arc<dyn Runner>) -> Self {
        let shared = Shared {
            figures: Cache::new(tuning.refresh, &pool),
            pool,
            tuning,
            runner,
            uses: Uses::default(),
            room: Room::default(),
            geometry: OnceLock::new(),
            starts: Mutex::default(),
            surplus: Mutex::default(),
            left: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    fn place<'a>(&'a self, id: &'a VolumeId, op: Op) -> Result<Place<'a>> {
        Place::new(&self.shared, id, op)
    }
}

impl Shared {
    fn note_start(&self, id: &VolumeId) {
        self.starts.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
    }

    /// Whether this process's last start made the volume's `-snap`.
    fn forget_start(&self, id: &VolumeId) -> bool {
        self.starts.lock().unwrap_or_else(PoisonError::into_inner).remove(id)
    }

    /// A commit was made: so many revisions there are, and so many are to be kept.
    fn note_surplus(&self, id: &VolumeId, backs: usize, keep: usize) {
        if backs > keep {
            self.surplus.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), keep);
        } else {
            self.forget_surplus(id);
        }
    }

    /// How many revisions are to be kept, if some are left over.
    fn surplus(&self, id: &VolumeId) -> Option<usize> {
        self.surplus.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied()
    }

    fn forget_surplus(&self, id: &VolumeId) {
        self.surplus.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

impl Driver for LvmDriver {
    fn name(&self) -> &'static str {
        "lvm_thin"
    }

    fn setup(&self) -> Result<()> {
        let pool = &self.shared.pool;
        let op = Op::SetupPool;
        let absent = |e: Error| {
            if e.kind() == Kind::NotFound {
                Error::new(Kind::NotFound, op, pool).because(format!("Thin pool {pool} does not exist"))
            } else {
                e
            }
        };
        let found = self.shared.ask_pool(op).map_err(absent)?;
        if !found.is_thin_pool() {
            let why = format!("Volume {pool} is not a thin pool");
            return Err(Error::new(Kind::Unsupported, op, pool).because(why));
        }
        if !found.zeroes && found.chunk > LARGEST_CHUNK {
            let why = format!(
                "it does not wipe its chunks (-Z n) and they have {} bytes: at most {LARGEST_CHUNK}",
                found.chunk
            );
            return Err(Error::new(Kind::Unsupported, op, pool).because(why));
        }
        self.shared.geometry(op)?;
        self.shared.sweep_what_was_left();
        Ok(())
    }

    fn away(&self) -> Option<String> {
        let why = self.shared.ask_pool(Op::InspectStorage).err()?;
        Some(format!("its thin pool {} is not there: {}", self.shared.pool, why.report()))
    }

    fn vid(&self, id: &VolumeId, _spec: &VolumeSpec) -> String {
        format!("{}/vm-{}-{}", self.shared.pool.vg(), id.owner, id.volume)
    }

    fn pool_place(&self) -> PoolPlace {
        PoolPlace::ThinPool(self.shared.pool.to_string())
    }

    fn vacant(&self, id: &VolumeId) -> Result<()> {
        self.place(id, Op::CreateVolume)?.vacant()
    }

    fn create(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<()> {
        self.place(id, Op::CreateVolume)?.create(spec)
    }

    fn remove(&self, id: &VolumeId) -> Result<()> {
        self.place(id, Op::RemoveVolume)?.remove_all()
    }

    fn verify(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<()> {
        self.place(id, Op::VerifyVolume)?.verify(spec)
    }

    fn start(
        &self,
        id: &VolumeId,
        spec: &VolumeSpec,
        release_source: &mut dyn FnMut(),
        job: &Job,
    ) -> Result<Option<Started>> {
        self.place(id, Op::StartVolume)?.start(spec, release_source, job).map(Some)
    }

    fn stop(&self, id: &VolumeId, spec: &VolumeSpec, ending: Ending) -> Result<()> {
        self.place(id, Op::StopVolume)?.stop(spec, ending)
    }

    fn prepare(&self, id: &VolumeId, spec: &VolumeSpec) {
        match self.place(id, Op::StopVolume) {
            Ok(place) => place.prune_surplus(spec),
            Err(e) => tracing::warn!(volume = %id, error = %e.report(), "has no name here"),
        }
    }

    fn recover(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<Recovered> {
        self.place(id, Op::Recover)?.recover(spec)
    }

    fn begin_import(
        &self,
        id: &VolumeId,
        spec: &VolumeSpec,
        size: ImportSize,
    ) -> Result<Box<dyn ImportWriter>> {
        Ok(Box::new(import::LvmImport::begin(&self.shared, id, spec, size)?))
    }

    fn import_from(&self, id: &VolumeId, spec: &VolumeSpec, source: &Export, job: &Job) -> Result<()> {
        import::copy_from(&self.shared, id, spec, source, job)
    }

    fn export(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<Export> {
        let place = self.place(id, Op::ExportVolume)?;
        place.persistent(spec)?;
        place.open_current()
    }

    fn info(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<VolumeInfo> {
        self.place(id, Op::InspectStorage)?.info(spec)
    }

    fn usage(&self) -> Result<Option<PoolUsage>> {
        let pool = self.shared.pool_now(Op::InspectStorage)?;
        let part = |size: u64, percent: f64| (ByteSize::bytes(size), ByteSize::bytes(share(size, percent)));
        let (size, usage) = part(pool.size, pool.data_percent.unwrap_or_default());
        Ok(Some(PoolUsage {
            size,
            usage,
            available: None,
            metadata: pool.metadata.map(|(size, percent)| part(size, percent)),
        }))
    }

    fn usage_is_cheap(&self) -> bool {
        false
    }

    fn shares_blocks(&self) -> bool {
        true
    }

    fn contents(&self) -> Result<Contents> {
        let pool = &self.shared.pool;
        let command = LvOp::All(pool.vg().clone());
        let lvs = self.shared.runner.run(&command);
        let lvs = lvs.map_err(|failed| failure(Op::InspectStorage, pool, pool, &command, failed))?;
        let mut found = Contents::default();
        for lv in lvs.iter().filter(|lv| lv.pool == pool.lv()) {
            match names::volume_of(&lv.name) {
                Some((_, Role::Gone(_))) | None => {
                    found.unknown.push(PathBuf::from(format!("/dev/{}/{}", pool.vg(), lv.name)));
                }
                Some((id, _)) => found.volumes.push(id),
            }
        }
        found.volumes.sort();
        found.volumes.dedup();
        found.unknown.sort();
        Ok(found)
    }

    fn as_resize(&self) -> Option<&dyn Resize> {
        Some(self)
    }

    fn as_revisions(&self) -> Option<&dyn Revisions> {
        Some(self)
    }
}

impl Resize for LvmDriver {
    fn resize(&self, id: &VolumeId, spec: &VolumeSpec, size: ByteSize) -> Result<()> {
        self.place(id, Op::ResizeVolume)?.resize(spec, size)
    }
}
