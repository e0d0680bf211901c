//! Disks given to a running VM and taken from it: files and block devices of dom0.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

use super::event::{Device, DevicePort, EventKind, ModelEvent};
use super::host::Host;
use super::operation::OperationKind;
use super::refusal::{HostError, Refusal, Verb};
use super::start::{called_off, no_turn};
use super::vm::Vm;
use crate::config::{Access, DiskSpec};
use crate::device::{Claim, DiskId};
use crate::error::{Error, Kind, Op};
use crate::hypervisor::DiskInfo;
use crate::ids::{Vdev, VmName};

/// The class of these devices, as clients know it.
const CLASS: &str = "block";
/// What a device is identified by where nothing is known of it.
const UNKNOWN: &str = "0000:0000::?******";
/// Disks below this one are a VM's volumes.
const FIRST_ATTACHED: u16 = 8;

/// A disk that was attached to a VM while it ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedDisk {
    /// The name that the guest sees.
    pub vdev: Vdev,
    /// The file or block device, as it was named when it was attached.
    pub path: PathBuf,
    /// Whether the guest may write.
    pub access: Access,
}

/// What is attached to whom.
#[derive(Debug, Default)]
pub(super) struct Attached {
    disks: Mutex<HashMap<Uuid, BTreeMap<Vdev, AttachedDisk>>>,
}

impl Attached {
    fn with<R>(&self, change: impl FnOnce(&mut HashMap<Uuid, BTreeMap<Vdev, AttachedDisk>>) -> R) -> R {
        change(&mut self.disks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A VM's disks, in the order of their names.
    fn of(&self, vm: Uuid) -> Vec<AttachedDisk> {
        self.with(|disks| disks.get(&vm).map_or_else(Vec::new, |disks| disks.values().cloned().collect()))
    }

    /// Its run is over.
    pub(super) fn forget(&self, vm: Uuid) {
        self.with(|disks| disks.remove(&vm));
    }

    /// What a domain that is adopted has besides its volumes.
    pub(super) fn adopt(&self, vm: Uuid, found: &[DiskInfo]) {
        let found = found.iter().filter(|disk| disk.vdev.index() >= FIRST_ATTACHED).filter_map(|disk| {
            let path = disk.path.clone()?;
            Some((disk.vdev, AttachedDisk { vdev: disk.vdev, path, access: disk.access }))
        });
        let found = found.collect();
        self.with(|disks| disks.insert(vm, found));
    }
}

impl Host {
    /// The disks that were attached to a VM while it ran, in the order of their names.
    ///
    /// # Errors
    /// No such VM.
    pub fn attached_disks(&self, name: &VmName) -> Result<Vec<AttachedDisk>, HostError> {
        let seen = self.snapshot();
        Ok(self.attached.of(seen.model.find_vm(name)?.uuid))
    }

    /// Attaches a file or block device of dom0 to a running VM, as the first free disk from `xvdi` on, and
    /// returns when the guest can use it.
    ///
    /// # Errors
    /// The VM does not run; the path is no file or block device; the VM, or another, has it already; the
    /// hypervisor fails, then nothing is left of it.
    pub async fn attach_disk(
        self: &Arc<Self>,
        name: &VmName,
        path: &Path,
        access: Access,
    ) -> Result<Vdev, HostError> {
        let vm = self.running_for_devices(name)?;
        let path = path.to_owned();
        self.device_operation(vm, move |host, vm, cancel| async move {
            if host.is_own(&path).await {
                return Err(unknown(&path, "it is a volume, or the daemon's own").into());
            }
            let looked = path.clone();
            let made_up = tokio::task::spawn_blocking(move || made_up(&looked));
            if let Some(why) = made_up.await.map_err(|_| HostError::Bug)? {
                return Err(unknown(&path, why).into());
            }
            let disk_id = host.look_at(&path).await?;
            let shown = format!("dom0:{}:{UNKNOWN}", path.display());
            if host.attached.of(vm.uuid).iter().any(|disk| disk.path == path) {
                let refusal =
                    Refusal::DeviceAlreadyAttached { class: CLASS, device: shown, vm: vm.name.clone() };
                return Err(refusal.into());
            }
            host.claims.claim(disk_id, Claim { domain: vm.uuid, access }).map_err(|held| {
                match host.snapshot().model.name_of(held.domain) {
                    Some(holder) if holder != vm.name => {
                        Refusal::DeviceAttachedElsewhere { device: shown, vm: holder }
                    }
                    _ => Refusal::DeviceAlreadyAttached { class: CLASS, device: shown, vm: vm.name.clone() },
                }
            })?;
            let attached = host.attach_claimed(&vm, path, access, cancel).await;
            if attached.is_err() {
                host.claims.release(disk_id, vm.uuid);
            }
            attached
        })
        .await
    }

    async fn attach_claimed(
        &self,
        vm: &Arc<Vm>,
        path: PathBuf,
        access: Access,
        cancel: tokio_util::sync::CancellationToken,
    ) -> Result<Vdev, HostError> {
        let taken: Vec<Vdev> = self.hypervisor.disks(vm.uuid).await?.iter().map(|disk| disk.vdev).collect();
        let vdev = Vdev::hotplug_order().find(|vdev| !taken.contains(vdev)).ok_or_else(|| {
            Error::new(Kind::NoSpace, Op::AttachDisk, &vm.name).because("all 702 disk names are taken")
        })?;
        let device = Device {
            class: CLASS,
            backend: VmName::dom0(),
            port: path.display().to_string(),
            id: UNKNOWN.to_owned(),
            options: options(access),
        };
        self.sequencer.announce(vec![ModelEvent::of(vm, EventKind::DevicePreAttach(device.clone()))]);
        let spec = DiskSpec { vdev, path: path.clone(), access };
        self.hypervisor.attach_disk(vm.uuid, spec, cancel).await?;
        let disk = AttachedDisk { vdev, path, access };
        self.attached.with(|disks| disks.entry(vm.uuid).or_default().insert(vdev, disk));
        self.sequencer.announce(vec![ModelEvent::of(vm, EventKind::DeviceAttach(device))]);
        Ok(vdev)
    }

    /// Detaches a disk that was attached under this path.
    ///
    /// # Errors
    /// The VM has no such disk; or the guest does not let go of it, then it is attached still.
    pub async fn detach_disk(self: &Arc<Self>, name: &VmName, path: &Path) -> Result<(), HostError> {
        let port = path.display().to_string();
        let vm = match self.running_for_devices(name) {
            Err(HostError::Refused(Refusal::AttachToHalted { vm })) => {
                return Err(Refusal::DeviceNotAttached { class: CLASS, port, vm }.into());
            }
            vm => vm?,
        };
        let path = path.to_owned();
        self.device_operation(vm, move |host, vm, cancel| async move {
            let found = host.attached.of(vm.uuid).into_iter().find(|disk| disk.path == path);
            let Some(disk) = found else {
                return Err(Refusal::DeviceNotAttached { class: CLASS, port, vm: vm.name.clone() }.into());
            };
            let of = |kind| vec![ModelEvent::of(&vm, kind)];
            let port = DevicePort { class: CLASS, backend: VmName::dom0(), port };
            host.sequencer.announce(of(EventKind::DevicePreDetach(port.clone())));
            match host.hypervisor.detach_disk(vm.uuid, disk.vdev, cancel).await {
                Ok(()) => {}
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
            host.attached.with(|disks| disks.get_mut(&vm.uuid).map(|disks| disks.remove(&disk.vdev)));
            // The file may be gone by now; then nobody can claim it either.
            if let Ok(id) = host.look_at(&disk.path).await {
                host.claims.release(id, vm.uuid);
            }
            host.sequencer.announce(of(EventKind::DeviceDetach(port)));
            Ok(())
        })
        .await
    }

    fn running_for_devices(&self, name: &VmName) -> Result<Arc<Vm>, HostError> {
        let seen = self.snapshot();
        match self.live(&seen, name, Verb::Start) {
            Ok((vm, _)) => Ok(vm),
            Err(HostError::Refused(Refusal::NotStarted { vm })) => Err(Refusal::AttachToHalted { vm }.into()),
            Err(HostError::Refused(Refusal::NoLifecycle { class, .. })) => {
                Err(Refusal::NoDevices { class }.into())
            }
            Err(error) => Err(error),
        }
    }

    /// Runs work on a VM's devices under its lock, as a task of its own.
    async fn device_operation<T, F>(
        self: &Arc<Self>,
        vm: Arc<Vm>,
        work: impl FnOnce(Arc<Self>, Arc<Vm>, tokio_util::sync::CancellationToken) -> F + Send + 'static,
    ) -> Result<T, HostError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, HostError>> + Send,
    {
        let registered =
            self.operations.register(vm.uuid, OperationKind::Device).map_err(|no| no_turn(&vm, no))?;
        let host = Arc::clone(self);
        let task = self.tasks.spawn(async move {
            let _held = registered.lock().await.map_err(|no| no_turn(&vm, no))?;
            if host.snapshot().run(vm.uuid).is_none_or(|run| run.domid.is_none()) {
                return Err(Refusal::AttachToHalted { vm: vm.name.clone() }.into());
            }
            let cancel = registered.cancel_token().clone();
            match work(host, Arc::clone(&vm), cancel.clone()).await {
                Err(HostError::Failed(error)) if cancel.is_cancelled() && error.kind() == Kind::Cancelled => {
                    Err(called_off(&vm))
                }
                ended => ended,
            }
        });
        task.await.unwrap_or(Err(HostError::Bug))
    }

    /// Whether a file is the daemon's own: its state, or an image of a pool. Those are volumes, not devices.
    async fn is_own(&self, path: &Path) -> bool {
        let seen = self.snapshot();
        let pools = seen.model.pools().filter_map(|pool| pool.options.get("dir_path"));
        let mut folders: Vec<PathBuf> = pools.map(|dir| PathBuf::from(&**dir)).collect();
        folders.push(self.config.state.clone());
        let path = path.to_owned();
        let below = move || {
            let Ok(path) = path.canonicalize() else { return false };
            folders.iter().filter_map(|dir| dir.canonicalize().ok()).any(|dir| path.starts_with(dir))
        };
        tokio::task::spawn_blocking(below).await.unwrap_or(true)
    }

    /// What a path is, seen off the async threads. What is not there, or can be no disk, is an unknown device.
    async fn look_at(&self, path: &Path) -> Result<DiskId, HostError> {
        let looked = path.to_owned();
        let looked =
            tokio::task::spawn_blocking(move || DiskId::of(&looked)).await.map_err(|_| HostError::Bug)?;
        looked.map_err(|error| {
            if error.kind() == Kind::NotFound {
                unknown(path, "it does not exist").into()
            } else if error.kind() == Kind::Invalid {
                unknown(path, "it is neither a regular file nor a block device").into()
            } else {
                error.into()
            }
        })
    }
}

fn unknown(path: &Path, why: &str) -> Refusal {
    Refusal::UnknownDevice { class: CLASS, why: format!("{}: {why}", path.display()) }
}

/// Why a regular file has no blocks to give to a guest, if it has none. What cannot be looked at is not judged here.
/// Blocks.
fn made_up(path: &Path) -> Option<&'static str> {
    /// statfs(2) of file systems whose files the kernel makes up: proc, sysfs, debugfs, tracefs, cgroup, cgroup2,
    /// securityfs.
    const MADE_UP: [u32; 7] =
        [0x9fa0, 0x6265_6572, 0x6462_6720, 0x7472_6163, 0x0027_e0eb, 0x6367_7270, 0x7363_6673];
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let kind = rustix::fs::statfs(path).ok()?.f_type;
    if MADE_UP.iter().any(|made_up| i64::from(*made_up) == kind) {
        return Some("the kernel makes it up");
    }
    (std::fs::metadata(path).ok()?.len() == 0).then_some("it is empty")
}

fn options(access: Access) -> BTreeMap<String, String> {
    match access {
        Access::ReadWrite => BTreeMap::new(),
        Access::ReadOnly => BTreeMap::from([("read-only".to_owned(), "yes".to_owned())]),
    }
}
