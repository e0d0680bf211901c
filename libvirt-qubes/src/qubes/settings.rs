//! Changing properties, through the committer.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::global::{self, Global};
use super::host::Host;
use super::property;
use super::refusal::HostError;
use super::snapshot::{HostView, Kernel, KernelImage, MemoryHotplug};
use crate::error::Kind;
use crate::ids::{KernelVersion, PoolName, VmName};
use crate::storage::Storage;

impl Host {
    /// Sets a property of a VM to a client's bytes. Acknowledged means durable.
    ///
    /// # Errors
    /// Unknown VM or property; a value that breaks a rule; the store cannot be written.
    pub async fn set_property(&self, vm: &VmName, name: &str, bytes: Vec<u8>) -> Result<(), HostError> {
        if name == "kernel" {
            // The rule looks at what was seen of the folders; so look first.
            self.look_at_kernels().await;
        }
        let uuid = self.snapshot().model.find_vm(vm)?.uuid;
        let name = name.to_owned();
        self.committer.commit(move |seen| property::set(seen, uuid, &name, &bytes)).await
    }

    /// Gives a property of a VM its default back.
    ///
    /// # Errors
    /// As [`Host::set_property`].
    pub async fn reset_property(&self, vm: &VmName, name: &str) -> Result<(), HostError> {
        let uuid = self.snapshot().model.find_vm(vm)?.uuid;
        let name = name.to_owned();
        self.committer.commit(move |seen| property::reset(seen, uuid, &name)).await
    }

    /// Sets a global property to a client's bytes. Acknowledged means durable.
    ///
    /// # Errors
    /// Unknown property; a value that breaks a rule; the store cannot be written.
    pub async fn set_global_property(&self, name: &str, bytes: Vec<u8>) -> Result<(), HostError> {
        if name == Global::DefaultKernel.name() {
            self.look_at_kernels().await;
        }
        let name = name.to_owned();
        self.committer.commit(move |seen| global::set(seen, &name, &bytes)).await
    }

    /// Gives a global property its default back.
    ///
    /// # Errors
    /// As [`Host::set_global_property`].
    pub async fn reset_global_property(&self, name: &str) -> Result<(), HostError> {
        let name = name.to_owned();
        self.committer.commit(move |seen| global::reset(seen, &name)).await
    }

    /// Sees what the folders of kernels say now.
    pub(super) async fn look_at_kernels(&self) {
        let kernels = Arc::new(kernels(&self.storage, &self.kernel_pools()).await);
        if self.snapshot().cells.host.kernels == kernels {
            return;
        }
        self.sequencer.update(|_, cells| {
            let view = HostView { kernels, ..HostView::clone(&cells.host) };
            cells.host = Arc::new(view);
            (Vec::new(), ())
        });
    }

    fn kernel_pools(&self) -> Vec<PoolName> {
        let seen = self.snapshot();
        let kernel_pools = seen.model.pools().filter(|pool| pool.holds_kernels());
        kernel_pools.map(|pool| pool.name.clone()).collect()
    }
}

/// The kernels in these pools, as they are now. A pool that cannot be read has none, and the log says why.
pub(super) async fn kernels(
    storage: &Storage,
    pools: &[PoolName],
) -> BTreeMap<PoolName, BTreeMap<KernelVersion, Kernel>> {
    let mut found = BTreeMap::new();
    for pool in pools {
        let versions = match storage.kernels(pool).await {
            Ok(versions) => versions,
            Err(error) => {
                tracing::warn!(%pool, error = error.report(), "the kernels of this pool are not known");
                continue;
            }
        };
        let mut kernels = BTreeMap::new();
        for version in versions {
            let kernel = match storage.kernel(pool, &version).await {
                Ok(files) => match files.vmlinuz.parent().map(Path::to_owned) {
                    Some(folder) => {
                        tokio::task::spawn_blocking(move || facts(&folder)).await.unwrap_or_default()
                    }
                    None => Kernel::default(),
                },
                Err(error) if error.kind() == Kind::NotFound => {
                    Kernel { image: KernelImage::Missing, ..Kernel::default() }
                }
                Err(error) => {
                    tracing::warn!(%pool, %version, error = error.report(), "this kernel cannot be read");
                    continue;
                }
            };
            kernels.insert(version, kernel);
        }
        found.insert(pool.clone(), kernels);
    }
    found
}

/// What a kernel's folder says besides its image. Blocks.
fn facts(folder: &Path) -> Kernel {
    let text =
        |name: &str| std::fs::read_to_string(folder.join(name)).ok().map(|text| Arc::from(text.trim()));
    Kernel {
        image: KernelImage::Present,
        default_kernelopts: text("default-kernelopts-nopci.txt"),
        default_kernelopts_pci: text("default-kernelopts-pci.txt"),
        memory_hotplug: match folder.join("memory-hotplug-supported").exists() {
            true => MemoryHotplug::Supported,
            false => MemoryHotplug::Unsupported,
        },
    }
}
