//! How an operation comes to its volume's locks, to a thread that may block, and to its turn among others.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::lanes::{Lane, Lanes};
use super::locks::Held;
use super::pool::{Pool, Storage, Volume};
use super::{Driver, Job};
use crate::error::{Error, Kind, Op, Result};
use crate::ids::PoolName;

impl Storage {
    pub(super) async fn on_pool<T: Send + 'static>(
        &self,
        pool: &PoolName,
        work: impl FnOnce(&dyn Driver) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let Pool { driver, lanes } = self.pool(pool)?;
        let run = move || work(&*driver);
        self.run(&lanes, Lane::Short, &Job::default(), Op::InspectStorage, pool.to_string(), run).await
    }

    pub(super) async fn short<T: Send + 'static>(
        &self,
        op: Op,
        volume: &Volume,
        work: impl FnOnce(&dyn Driver, &Volume) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.locked(Lane::Short, Job::default(), op, volume, move |driver, v, _| work(driver, v)).await
    }

    pub(super) async fn locked<T: Send + 'static>(
        &self,
        lane: Lane,
        job: Job,
        op: Op,
        volume: &Volume,
        work: impl FnOnce(&dyn Driver, &Volume, &Job) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.held(lane, job, op, volume, work).await.map(|(done, ..)| done)
    }

    /// The same for what changes a volume's state. Once there is an answer the driver prepares the next start, before anybody
    /// else works on the volume; of a future that was dropped, it does not.
    pub(super) async fn changed<T: Send + 'static>(
        &self,
        lane: Lane,
        job: Job,
        op: Op,
        volume: &Volume,
        work: impl FnOnce(&dyn Driver, &Volume, &Job) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (done, Pool { driver, lanes }, mut held) = self.held(lane, job, op, volume, work).await?;
        held.release_state();
        let (storage, v) = (self.clone(), volume.clone());
        tokio::spawn(async move {
            let prepare = move || {
                let _held = held;
                driver.prepare(&v.id, &v.spec);
                Ok(())
            };
            // It is tried, no more: the driver has told what failed.
            let (job, op) = (Job::default(), Op::StartVolume);
            storage.run(&lanes, Lane::Short, &job, op, String::new(), prepare).await.ok();
        });
        Ok(done)
    }

    /// Runs work under its volume's locks, and gives them back with what came of it. A copy of data has the state's only
    /// from its [turn to commit](Job::commit_turn) on.
    pub(super) async fn held<T: Send + 'static>(
        &self,
        lane: Lane,
        job: Job,
        op: Op,
        volume: &Volume,
        work: impl FnOnce(&dyn Driver, &Volume, &Job) -> Result<T> + Send + 'static,
    ) -> Result<(T, Pool, Held)> {
        let pool = self.pool(&volume.pool)?;
        let locks = self.inner.locks.of(&volume.key());
        let (held, job) = match lane {
            Lane::Bulk => (Arc::clone(&locks).work().await, job.with_commit_turn(locks)),
            Lane::Short | Lane::Start => (locks.whole().await, job),
        };
        let (driver, v) = (Arc::clone(&pool.driver), volume.clone());
        let (done, held) = self
            .run(&pool.lanes, lane, &job.clone(), op, volume.id.to_string(), move || {
                let done = work(&*driver, &v, &job)?;
                Ok((done, held))
            })
            .await?;
        Ok((done, pool, held))
    }

    /// Where what copies a volume within its pool waits for its turn.
    pub(super) fn copying(&self, pool: &PoolName) -> Result<Lane> {
        Ok(if self.driver(pool)?.shares_blocks() { Lane::Short } else { Lane::Bulk })
    }

    /// Runs `work` on a thread that may block. Cancelled while it waits for one, it has done nothing.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        lanes: &Lanes,
        lane: Lane,
        job: &Job,
        op: Op,
        target: String,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let turn = lanes.turn(lane, job, op, &target).await?;
        if !matches!(op, Op::InspectStorage | Op::ReadKernel | Op::VerifyVolume) {
            self.inner.changes.fetch_add(1, Ordering::Relaxed);
        }
        let ran = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        ran.await.unwrap_or_else(|panicked| Err(Error::new(Kind::Backend, op, target).because(panicked)))
    }
}
