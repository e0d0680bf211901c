//! The plan of a Start, as data: what the Qubes model makes of a VM before its domain exists.
//!
//! Pure: it looks at a snapshot and decides; `start.rs` carries it out. States, as clients see them:
//!
//! ```text
//!            Start registered                 ready
//!  Halted ────────────────────► Transient ───────────► Running ◄──── Pause / Unpause ────► Paused
//!    ▲                              │                     │                                  │
//!    │                              │ failed: undone      │ guest powers off, reboots,       │ Kill
//!    │                              ▼                     ▼ crashes; Kill                    ▼
//!    └───────────────────────────────────────── Dying (Crashed) ─────────────────────────────┘
//! ```

use std::sync::Arc;

use uuid::Uuid;

use super::class::VolumeKind;
use super::property::Property;
use super::refusal::Refusal;
use super::snapshot::Snapshot;
use super::vm::Vm;
use super::volumes;
use crate::config::VirtMode;
use crate::ids::{KernelVersion, MemoryMib, PoolName, Vdev, VmName};
use crate::storage::Volume;

/// What a Start does, in order. The undo of a step is what its name reversed says; recording has none, because
/// the whole row goes when a Start fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Make a volume ready; it becomes this disk, if it has a device.
    StartVolume {
        /// The volume.
        volume: Volume,
        /// The disk.
        vdev: Vdev,
    },
    /// Build the domain, paused.
    CreateDomain,
    /// Say in the store that the guest is about to run.
    RecordUnpause,
    /// Let it run.
    Unpause,
}

/// A domain to build, all but the paths that come from its volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DomainPlan {
    pub name: VmName,
    pub uuid: Uuid,
    pub virt_mode: VirtMode,
    pub memory: MemoryMib,
    pub max_memory: MemoryMib,
    pub vcpus: u32,
    /// The kernel's pool and version; `None` for a VM that boots without one.
    pub kernel: Option<(PoolName, KernelVersion)>,
    pub kernelopts: String,
}

/// Everything that a Start takes from the model, fixed when its row was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StartPlan {
    pub vm: Arc<Vm>,
    pub domain: DomainPlan,
    pub steps: Vec<Step>,
}

impl StartPlan {
    /// The volumes that the plan makes ready, in the order of their disks.
    pub(super) fn volumes(&self) -> impl Iterator<Item = &Volume> {
        self.steps.iter().filter_map(|step| match step {
            Step::StartVolume { volume, .. } => Some(volume),
            Step::CreateDomain | Step::RecordUnpause | Step::Unpause => None,
        })
    }
}

/// What to do so that a VM runs.
///
/// `boots_without_kernel` is the hypervisor's word: `sim` boots anything, Xen needs a kernel for PV and PVH.
pub(super) fn plan_start(
    seen: &Snapshot,
    vm: &Arc<Vm>,
    boots_without_kernel: bool,
) -> Result<StartPlan, Refusal> {
    for based in seen.model.with_templates(vm) {
        // One whose row is bad says why.
        if let Some(template) = based.reference(Property::Template).flatten() {
            seen.model.find_uuid(template)?;
        }
    }
    let domain = plan_domain(seen, vm)?;
    if domain.kernel.is_none() && domain.virt_mode != VirtMode::Hvm && !boots_without_kernel {
        return Err(Refusal::NoKernel { vm: vm.name.clone() });
    }
    let mut steps = Vec::new();
    let mut free = (0..).map_while(Vdev::new);
    for volume in &vm.volumes {
        let Some(vdev) = free.next() else { break };
        // The disks after it keep their names.
        if volumes::is_nothing(seen, vm, volume) {
            continue;
        }
        let placed = volumes::place(seen, vm, volume)?;
        steps.push(Step::StartVolume { volume: placed, vdev });
    }
    steps.extend([Step::CreateDomain, Step::RecordUnpause, Step::Unpause]);
    Ok(StartPlan { vm: Arc::clone(vm), domain, steps })
}

fn plan_domain(seen: &Snapshot, vm: &Arc<Vm>) -> Result<DomainPlan, Refusal> {
    let number = |property: Property| property.int(seen, vm).unwrap_or(0);
    let memory = mib(number(Property::Memory));
    // maxmem 0: the memory is fixed.
    let max_memory = mib(number(Property::Maxmem)).max(memory);
    let virt_mode = match Property::VirtMode.text(seen, vm).as_deref() {
        Some("pv") => VirtMode::Pv,
        Some("hvm") => VirtMode::Hvm,
        _ => VirtMode::Pvh,
    };
    let kernel = match Property::Kernel.text(seen, vm).filter(|version| !version.is_empty()) {
        None => None,
        Some(version) => {
            let version: KernelVersion =
                version.parse().map_err(|_| Refusal::KernelNotInstalled { kernel: version.clone() })?;
            let volume = vm.volumes.iter().find(|volume| volume.kind == VolumeKind::Kernel);
            volume.map(|volume| (volume.pool.clone(), version))
        }
    };
    Ok(DomainPlan {
        name: vm.name.clone(),
        uuid: vm.uuid,
        virt_mode,
        memory,
        max_memory,
        vcpus: u32::try_from(number(Property::Vcpus)).unwrap_or(1).max(1),
        kernel,
        kernelopts: Property::Kernelopts.text(seen, vm).unwrap_or_default(),
    })
}

fn mib(number: i64) -> MemoryMib {
    MemoryMib::new(u32::try_from(number).unwrap_or(u32::MAX))
}
