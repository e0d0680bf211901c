//! From the model's pools to storage's, and the pools of a first start.

use std::path::Path;

use super::pool::Pool;
use super::store::FirstStart;
use crate::error::{At, Op, Result};
use crate::storage::{DriverKind, ImageDriver, SetupCheck, Storage};

/// Takes a pool of the model into storage.
pub(super) async fn add(storage: &Storage, pool: &Pool) -> Result<()> {
    let kind: DriverKind = pool.driver.parse().map_err(|bad: crate::ids::BadId| {
        crate::Error::new(crate::Kind::Unsupported, Op::SetupPool, &pool.name).because(bad)
    })?;
    let options = pool.options.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    storage.add_pool(pool.name.clone(), kind.open(&options, storage.tuning())?).await
}

/// The pools of a first start: volumes by reflink where the file system can, else as sparse files; and an empty
/// folder for kernels. Blocks.
pub(super) fn first(state: &Path, volumes: &Path) -> Result<FirstStart> {
    let kernels = std::path::absolute(state.join("vm-kernels")).at(Op::SetupPool, state.display())?;
    let volumes = std::path::absolute(volumes).at(Op::SetupPool, volumes.display())?;
    std::fs::create_dir_all(&kernels).at(Op::SetupPool, kernels.display())?;
    let reflink = ImageDriver::reflink(&volumes, SetupCheck::Probe)?;
    let driver = match crate::storage::Driver::setup(&reflink) {
        Ok(()) => DriverKind::FileReflink,
        Err(error) => {
            tracing::info!(dir = %volumes.display(), error = error.report(), "no reflink here: driver file");
            DriverKind::File
        }
    };
    Ok(FirstStart { volumes, driver: driver.as_str(), kernels })
}

impl Pool {
    /// The configuration as clients are shown it: every option that the driver has, given or by default.
    pub fn shown_options(&self) -> Vec<(String, String)> {
        let mut shown: Vec<(String, String)> =
            self.options.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        if &*self.driver != "linux-kernel" {
            let mut default = |key: &str, value: &str| {
                if !shown.iter().any(|(known, _)| known == key) {
                    shown.push((key.to_owned(), value.to_owned()));
                }
            };
            default("ephemeral_volatile", "False");
            default("revisions_to_keep", if &*self.driver == "file" { "0" } else { "1" });
        }
        shown
    }
}
