//! Which disks the live domains have: taken before a domain is made, given back when it is gone.

use std::path::PathBuf;
use std::sync::PoisonError;

use uuid::Uuid;

use super::{Inner, Toolstack};
use crate::config::DiskSpec;
use crate::device::{Claim, DiskId};
use crate::error::{Error, Kind, Op, Result};
use crate::ids::DomId;

impl Toolstack {
    /// Takes disks for a domain, all or none. `Kind::Busy` when another domain's use is in the way.
    pub(crate) async fn claim_disks(&self, uuid: Uuid, disks: &[DiskSpec]) -> Result<()> {
        let (toolstack, disks) = (self.clone(), disks.to_vec());
        off_thread(uuid, move || {
            let mut taken: Vec<DiskId> = Vec::with_capacity(disks.len());
            let failed = disks.iter().find_map(|disk| toolstack.inner.claim(uuid, disk, &mut taken).err());
            match failed {
                None => Ok(()),
                Some(error) => {
                    taken.into_iter().for_each(|id| toolstack.inner.claims.release(id, uuid));
                    Err(error)
                }
            }
        })
        .await
    }

    /// Gives disks of a domain back.
    pub(crate) async fn unclaim_disks(&self, uuid: Uuid, disks: &[DiskSpec]) -> Result<()> {
        if !self.inner.holders.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&uuid) {
            // There is no domain: nothing of it remains.
            self.forget(uuid);
            return Ok(());
        }
        self.unclaim(uuid, disks.iter().map(|disk| disk.path.clone()).collect()).await;
        Ok(())
    }

    /// As [`Toolstack::unclaim_disks`]. What is gone meanwhile cannot be told from others: its claim goes with
    /// the domain.
    pub(super) async fn unclaim(&self, uuid: Uuid, paths: Vec<PathBuf>) {
        let toolstack = self.clone();
        let freed = off_thread(uuid, move || {
            for id in paths.iter().filter_map(|path| DiskId::of(path).ok()) {
                toolstack.inner.claims.release(id, uuid);
            }
            Ok(())
        });
        if let Err(error) = freed.await {
            tracing::warn!(error = error.report(), "disks stay claimed until their domain is gone");
        }
    }

    /// The claims of a domain belong to this run of it, until it is gone.
    pub(super) async fn holds(&self, uuid: Uuid, domid: DomId) -> Result<()> {
        self.inner.holders.lock().unwrap_or_else(PoisonError::into_inner).insert(uuid, domid);
        // Its end may have been told before this.
        match self.hypervisor().info(uuid).await {
            Err(error) if error.kind() == Kind::NotFound => {
                self.forget(uuid);
                Err(error)
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Gives everything of a domain back: it is gone.
    pub(super) fn forget(&self, uuid: Uuid) {
        self.inner.holders.lock().unwrap_or_else(PoisonError::into_inner).remove(&uuid);
        self.inner.claims.release_all(uuid);
    }

    /// Watches the domains that are there and takes their disks.
    pub(super) async fn adopt(&self) -> Result<()> {
        for info in self.hypervisor().list().await? {
            match self.adopt_one(info.uuid, info.domid).await {
                // It went meanwhile.
                Err(error) if error.kind() == Kind::NotFound => self.forget(info.uuid),
                Err(error) => {
                    tracing::warn!(domain = %info.uuid, error = error.report(), "its disks are not known");
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    async fn adopt_one(&self, uuid: Uuid, domid: DomId) -> Result<()> {
        self.hypervisor().watch(uuid).await?;
        let disks = self.hypervisor().disks(uuid).await?;
        let toolstack = self.clone();
        off_thread(uuid, move || {
            for disk in disks {
                let Some(path) = disk.path else { continue };
                let disk = DiskSpec { vdev: disk.vdev, path, access: disk.access };
                if let Err(error) = toolstack.inner.claim(uuid, &disk, &mut Vec::new()) {
                    tracing::warn!(domain = %uuid, error = error.report(), "a disk of a live domain");
                }
            }
            Ok(())
        })
        .await?;
        self.holds(uuid, domid).await
    }
}

impl Inner {
    /// Takes one disk. Blocks.
    fn claim(&self, uuid: Uuid, disk: &DiskSpec, taken: &mut Vec<DiskId>) -> Result<()> {
        let id = DiskId::of(&disk.path)?;
        self.claims.claim(id, Claim { domain: uuid, access: disk.access }).map_err(|held| {
            let words = format!("domain {} uses it", held.domain);
            Error::new(Kind::Busy, Op::AttachDisk, disk.path.display()).because(words)
        })?;
        taken.push(id);
        Ok(())
    }
}

async fn off_thread<T: Send + 'static>(
    uuid: Uuid,
    f: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(f)
        .await
        .unwrap_or_else(|lost| Err(Error::new(Kind::Backend, Op::AttachDisk, uuid).because(lost)))
}
