//! What a reader sees at one moment: the model, what runs, and what is known about the host.
//!
//! A snapshot is immutable and cheap to clone; reading never waits for anything.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use uuid::Uuid;

use super::class::VolumeGroup;
use super::model::Model;
use super::pool::Pool;
use super::vm::Vm;
use crate::ids::{DomId, KernelVersion, MemoryMib, PoolName, VmName, VolumeName};

/// The state of a VM's domain. A halted VM has no [`Run`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunState {
    /// It is being started, or has not reported that it is ready.
    Transient,
    /// It runs.
    Running,
    /// Its virtual CPUs are stopped.
    Paused,
    /// The guest suspended itself.
    Suspended,
    /// The guest is shutting down.
    Halting,
    /// The domain has ended; what follows from it is under way.
    Dying,
    /// The guest crashed; what follows from it is under way.
    Crashed,
}

/// What is known of a VM's current run, from its Start's registration to the last step of its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// The domain's number, once it is built.
    pub domid: Option<DomId>,
    /// The number of its device model's domain, if it has one.
    pub stubdom: Option<(DomId, Uuid)>,
    /// Its state.
    pub state: RunState,
    /// When its domain was built.
    pub started_at: Option<SystemTime>,
}

impl Run {
    /// A run at its registration: no domain yet.
    pub fn registered() -> Self {
        Self { domid: None, stubdom: None, state: RunState::Transient, started_at: None }
    }

    /// Whether the domain has ended, and what follows from that is under way.
    pub fn is_over(&self) -> bool {
        matches!(self.state, RunState::Dying | RunState::Crashed)
    }
}

/// A kernel's folder as it was last looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kernel {
    /// Whether `vmlinuz` is there.
    pub image: KernelImage,
    /// The content of `default-kernelopts-nopci.txt`, stripped.
    pub default_kernelopts: Option<Arc<str>>,
    /// The content of `default-kernelopts-pci.txt`, stripped.
    pub default_kernelopts_pci: Option<Arc<str>>,
    /// Whether `memory-hotplug-supported` is there.
    pub memory_hotplug: MemoryHotplug,
}

/// Whether a kernel's folder holds the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum KernelImage {
    /// It does.
    #[default]
    Present,
    /// `vmlinuz` is missing.
    Missing,
}

/// Whether a kernel can take memory while it runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum MemoryHotplug {
    /// It cannot, or does not say.
    #[default]
    Unsupported,
    /// It can.
    Supported,
}

/// What is known about the host, filled by refreshes off the async threads. Rules and defaults read it; they
/// never look at a disk or at Xen themselves.
#[derive(Clone)]
pub struct HostView {
    /// The kernels in each pool of kernels. Whoever sets a kernel looks at the folder first and publishes
    /// what it saw.
    pub kernels: Arc<BTreeMap<PoolName, BTreeMap<KernelVersion, Kernel>>>,
    /// Memory of the machine, once it is known.
    pub total_memory: Option<MemoryMib>,
    /// The most memory that dom0 may have, once it is known.
    pub dom0_max_memory: Option<MemoryMib>,
    /// Processors of the machine, once they are known.
    pub cpus: Option<u32>,
    /// How drivers name volumes.
    pub naming: VolumeNaming,
}

/// How the driver of a pool names a VM's volume. A pure function, given by storage.
#[derive(Clone)]
pub struct VolumeNaming(Arc<NameVolume>);

type NameVolume = dyn Fn(&Pool, VolumeGroup, &VmName, &VolumeName) -> String + Send + Sync;

impl VolumeNaming {
    /// Names volumes with this function; it must depend on nothing but its arguments and not block.
    pub fn new(
        name: impl Fn(&Pool, VolumeGroup, &VmName, &VolumeName) -> String + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(name))
    }

    /// The vid of a VM's volume in a pool.
    pub fn vid(&self, pool: &Pool, group: VolumeGroup, owner: &VmName, volume: &VolumeName) -> String {
        (self.0)(pool, group, owner, volume)
    }
}

impl fmt::Debug for VolumeNaming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VolumeNaming")
    }
}

impl HostView {
    /// A host of which nothing is known yet.
    pub fn unknown(naming: VolumeNaming) -> Self {
        Self { kernels: Arc::default(), total_memory: None, dom0_max_memory: None, cpus: None, naming }
    }
}

impl fmt::Debug for HostView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostView").field("kernels", &self.kernels).finish_non_exhaustive()
    }
}

/// What changes without the store: run states and the view of the host.
#[derive(Debug, Clone)]
pub struct Cells {
    /// The VMs that are not halted.
    pub runs: imbl::HashMap<Uuid, Run>,
    /// What is known about the host.
    pub host: Arc<HostView>,
}

/// Model and cells as they were together when the event `number` had been published.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The number of the last event before this state.
    pub number: u64,
    /// The model.
    pub model: Model,
    /// What changes without the store.
    pub cells: Cells,
}

impl Snapshot {
    /// The current run of a VM; `None` when it is halted.
    pub fn run(&self, vm: Uuid) -> Option<&Run> {
        self.cells.runs.get(&vm)
    }

    /// Whether a VM is halted in the sense of the rules: no domain, and no Start pending. dom0 and remote
    /// VMs never are.
    pub fn is_halted(&self, vm: &Vm) -> bool {
        vm.class.has_lifecycle()
            && !self.cells.runs.contains_key(&vm.uuid)
            && !self.model.start_pending(vm.uuid)
    }

    /// The same for whoever holds the VM's lock and came before every Start of it: one that waits for the lock does not count.
    pub fn is_halted_for_first(&self, vm: &Vm) -> bool {
        vm.class.has_lifecycle()
            && self.run(vm.uuid).is_none_or(|run| run.domid.is_none())
            && !self.model.start_pending(vm.uuid)
    }
}
