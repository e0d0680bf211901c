//! The thin pool itself: what it is like, how full it is, and what that forbids.
//!
//! A pool whose data is full stops every VM that writes something new; one whose metadata is full has to be repaired.
//! Neither may be reached by what is asked for here: above the watermark, what takes data (an import, a copy from
//! elsewhere) or metadata (every new LV) is refused, until use is five percent below it again. Removals and renames,
//! and with them a stop's commit and a revert, need neither.
//!
//! What running VMs write can fill the metadata all the same. Then the kernel makes the pool read-only: names can still be
//! changed, nothing can be made or removed, and each error says that the metadata has to be made larger.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::Shared;
use super::op::LvOp;
use super::place::failure;
use super::report::Lv;
use crate::error::{Error, Kind, Op, Result};
use crate::storage::VolumeId;
use crate::storage::watermark::Watermark;

/// What an operation takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// A new LV.
    Metadata,
    /// A new LV, and data in it.
    Data,
}

/// What a thin pool does not change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub(super) extent: u64,
    pub(super) chunk: u64,
    pub(super) zeroes: bool,
}

#[derive(Debug, Default)]
pub(super) struct Room {
    pool: Mutex<Option<(Instant, Lv)>>,
    data: Watermark,
    metadata: Watermark,
}

impl Shared {
    /// The thin pool as it was at most `refresh_s` ago.
    pub(super) fn pool_now(&self, op: Op) -> Result<Lv> {
        let mut known = self.room.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, pool)) = &*known
            && at.elapsed() < self.tuning.refresh
        {
            return Ok(pool.clone());
        }
        let pool = self.ask_pool(op)?;
        *known = Some((Instant::now(), pool.clone()));
        Ok(pool)
    }

    /// The thin pool as it is. One without a device, as LVM's configuration may leave it at a boot, is activated: only then
    /// is it known how full it is.
    pub(super) fn ask_pool(&self, op: Op) -> Result<Lv> {
        let run = |command: LvOp| {
            let answer = self.runner.run(&command);
            answer.map_err(|failed| failure(op, &self.pool, &self.pool, &command, failed))
        };
        let is_told = |pool: &Lv| pool.data_percent.is_some() || !pool.is_thin_pool();
        let pool = self.pool_of(op, run(LvOp::Pool(self.pool.clone()))?)?;
        if is_told(&pool) {
            return Ok(pool);
        }
        run(LvOp::Activate(self.pool.clone()))?;
        let pool = self.pool_of(op, run(LvOp::Pool(self.pool.clone()))?)?;
        if is_told(&pool) {
            return Ok(pool);
        }
        let why = format!(
            "LVM does not tell how full the thin pool {} is (attributes {}); look at it with: lvs -a {0}",
            self.pool, pool.attributes
        );
        Err(Error::new(Kind::Unavailable, op, &self.pool).because(why))
    }

    fn pool_of(&self, op: Op, lvs: Vec<Lv>) -> Result<Lv> {
        lvs.into_iter().find(|lv| lv.name == self.pool.lv()).ok_or_else(|| {
            Error::new(Kind::NotFound, op, &self.pool)
                .because(format!("Thin pool {} does not exist", self.pool))
        })
    }

    /// Whether the kernel lets nobody change the thin pool any more.
    pub(super) fn is_read_only(&self) -> bool {
        // The ninth letter is its health.
        self.ask_pool(Op::InspectStorage).is_ok_and(|pool| pool.attributes.as_bytes().get(8) == Some(&b'M'))
    }

    pub(super) fn geometry(&self, op: Op) -> Result<Geometry> {
        if let Some(geometry) = self.geometry.get() {
            return Ok(*geometry);
        }
        let pool = self.pool_now(op)?;
        Ok(*self.geometry.get_or_init(|| Geometry {
            extent: pool.extent,
            chunk: pool.chunk,
            zeroes: pool.zeroes,
        }))
    }

    /// Refuses what a nearly full pool has no room for.
    pub(super) fn room(&self, op: Op, id: &VolumeId, need: Need) -> Result<()> {
        let pool = self.pool_now(op)?;
        let is_full = |mark: &Watermark, percent| mark.is_reached(self.tuning.near_full_percent, percent);
        let refused = |what: &str, percent: f64, advice: String| {
            let why = format!(
                "{what} of the thin pool {} is {percent} % full, from {} % on it is refused; {advice}, or remove volumes",
                self.pool, self.tuning.near_full_percent
            );
            Err(Error::new(Kind::NoSpace, op, id).because(why))
        };
        let data = pool.data_percent.unwrap_or_default();
        let metadata = pool.metadata.map_or(0.0, |(_, percent)| percent);
        if is_full(&self.room.metadata, metadata) {
            let advice = format!("make it larger with lvextend --poolmetadatasize +SIZE {}", self.pool);
            return refused("the metadata", metadata, advice);
        }
        if is_full(&self.room.data, data) && need == Need::Data {
            let advice = format!("make it larger with lvextend --size +SIZE {}", self.pool);
            return refused("the data", data, advice);
        }
        Ok(())
    }
}
