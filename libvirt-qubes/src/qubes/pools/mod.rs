//! Pools: from the model to storage, and what changes them.
//!
//! Adding one makes its folders, outside the database: a row of [`folders`] comes before they do and goes with the
//! commit that puts the pool in; a start that finds one removes what was made and is empty. Removing one, and changing
//! its options, touches nothing on disk. A later start makes no folder: where they are not, the pool is away, and what is
//! due in it waits ([`waiting`](super::waiting)).

pub(super) mod adding;
mod folders;
mod options;
mod removing;
mod settings;
#[cfg(test)]
mod tests;
pub(super) mod watch;

use std::path::Path;
use std::sync::Arc;

pub(super) use folders::settle as settle_folders;
pub use options::{DriverInfo, NewPool, drivers};
pub use watch::{PoolView, UsageKind};

use super::pool::Pool;
use super::store::FirstStart;
use crate::error::{At, Error, Kind, Op, Result};
use crate::storage::{CopyOnWrite, Driver, DriverKind, ImageDriver, SetupCheck, Storage, Tuning};

/// The driver of a pool of the model. It touches nothing of the pool yet, and may read a file: it blocks.
fn driver(pool: &Pool, tuning: Tuning) -> Result<(DriverKind, Arc<dyn Driver>)> {
    let kind: DriverKind = pool.driver.parse().map_err(|bad: crate::ids::BadId| {
        Error::new(Kind::Unsupported, Op::SetupPool, &pool.name).because(bad)
    })?;
    let options = pool.options.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    Ok((kind, kind.open(&pool.name, &options, tuning)?))
}

/// Takes a pool of the model into storage. What keeps it from that is told to whoever asks for it.
pub(super) async fn add(storage: &Storage, pool: &Pool) -> Result<()> {
    let added = open(storage, pool).await;
    added.inspect_err(|error| storage.note_unusable(pool.name.clone(), error.report()))
}

async fn open(storage: &Storage, pool: &Pool) -> Result<()> {
    let (name, pool, tuning) = (pool.name.clone(), pool.clone(), storage.tuning());
    let opened = tokio::task::spawn_blocking(move || driver(&pool, tuning)).await;
    let (_, driver) =
        opened.map_err(|join| Error::new(Kind::Backend, Op::SetupPool, &name).because(join))??;
    let resumed = Arc::clone(&driver);
    storage.resume_pool(name.clone(), driver).await?;
    if let Ok(Some(why)) = tokio::task::spawn_blocking(move || resumed.away()).await {
        tracing::warn!(pool = %name, why, "nothing can be done in this pool for now");
    }
    Ok(())
}

/// The pools of a first start: volumes by reflink where the file system can, else as sparse files; and an empty
/// folder for kernels. Blocks.
pub(super) fn first(state: &Path, volumes: &Path) -> Result<FirstStart> {
    let kernels = std::path::absolute(state.join("vm-kernels")).at(Op::SetupPool, state.display())?;
    let volumes = std::path::absolute(volumes).at(Op::SetupPool, volumes.display())?;
    std::fs::create_dir_all(&kernels).at(Op::SetupPool, kernels.display())?;
    let reflink = ImageDriver::reflink(&volumes, SetupCheck::Probe)?;
    let driver = match reflink.setup() {
        Ok(()) => DriverKind::FileReflink,
        Err(error) => {
            tracing::info!(dir = %volumes.display(), error = error.report(), "no reflink here: driver file");
            if let Err(error) = ImageDriver::file(&volumes)?.setup() {
                tracing::error!(dir = %volumes.display(), error = error.report(), "the first pool is not set up");
            }
            DriverKind::File
        }
    };
    Ok(FirstStart { volumes, driver: driver.as_str(), kernels })
}

impl Pool {
    /// The configuration as clients are shown it: what the driver was given, and what every pool has, given or by
    /// default. What only matters when a pool is set up is not shown.
    pub fn shown_options(&self) -> Vec<(String, String)> {
        let given = self.options.iter().filter(|(key, _)| !options::IS_HIDDEN.contains(&&***key));
        let mut shown: Vec<(String, String)> =
            given.map(|(key, value)| (key.to_string(), value.to_string())).collect();
        if &*self.driver == DriverKind::Callback.as_str() {
            shown.retain(|(key, _)| DriverKind::Callback.options().iter().any(|option| option.name == key));
        } else if !self.holds_kernels() {
            let mut default = |key: &str, value: &str| {
                if !shown.iter().any(|(known, _)| known == key) {
                    shown.push((key.to_owned(), value.to_owned()));
                }
            };
            default("ephemeral_volatile", "False");
            let is_file = &*self.driver == DriverKind::File.as_str();
            default("revisions_to_keep", if is_file { "0" } else { "1" });
            if is_file {
                default(options::COW, CopyOnWrite::Auto.as_str());
            }
        }
        shown
    }
}
