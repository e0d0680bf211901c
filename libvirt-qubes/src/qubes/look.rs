//! Looking at a host: figures of what runs and of pools. They come from caches that are refreshed off the calls'
//! way; a look waits for nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use uuid::Uuid;

use super::class::VmClass;
use super::host::Host;
use super::pools::watch::PoolFigures;
use super::property::Property;
use super::refusal::HostError;
use super::snapshot::{RunState, Snapshot};
use super::stats::Samples;
use super::vm::Vm;
use crate::hypervisor::DomainInfo;
use crate::ids::{MemoryMib, VmName};

/// How old figures of running domains may be.
const DOMAINS_EVERY: Duration = Duration::from_secs(1);

/// What a VM is doing, as clients know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PowerState {
    /// It has no domain.
    Halted,
    /// It has a run in this state.
    Live(RunState),
}

impl PowerState {
    /// The word that clients know.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Halted => "Halted",
            Self::Live(RunState::Transient) => "Transient",
            Self::Live(RunState::Running) => "Running",
            Self::Live(RunState::Paused) => "Paused",
            Self::Live(RunState::Suspended) => "Suspended",
            Self::Live(RunState::Halting) => "Halting",
            Self::Live(RunState::Dying) => "Dying",
            Self::Live(RunState::Crashed) => "Crashed",
        }
    }
}

impl Snapshot {
    /// What a VM is doing. dom0 and remote VMs always run.
    pub fn power_state(&self, vm: &Vm) -> PowerState {
        match vm.class {
            VmClass::AdminVm | VmClass::RemoteVm => PowerState::Live(RunState::Running),
            VmClass::AppVm | VmClass::DispVm | VmClass::StandaloneVm | VmClass::TemplateVm => {
                self.run(vm.uuid).map_or(PowerState::Halted, |run| PowerState::Live(run.state))
            }
        }
    }
}

/// Figures of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmFigures {
    /// What it is doing.
    pub state: PowerState,
    /// Memory that it has, in KiB; 0 when halted.
    pub memory_kib: u64,
    /// The most memory that it may have in this run, in KiB, whatever its properties say by now; 0 when halted.
    pub max_memory_kib: u64,
    /// Processor time that it has used in this run, in nanoseconds.
    pub cpu_time_ns: u64,
}

/// What was last seen of domains and pools.
#[derive(Debug, Default)]
pub(super) struct Figures {
    domains: ArcSwap<HashMap<Uuid, DomainInfo>>,
    pub(super) pools: PoolFigures,
    pub(super) samples: Samples,
}

impl Host {
    /// Figures of a VM, at most a second old. Those of dom0 may have to be asked for; others wait for nothing.
    ///
    /// # Errors
    /// No such VM.
    pub async fn vm_figures(&self, name: &VmName) -> Result<VmFigures, HostError> {
        let seen = self.snapshot();
        let vm = seen.model.find_vm(name)?;
        let state = seen.power_state(vm);
        if vm.class == VmClass::AdminVm {
            return Ok(self.figures_of_dom0(&seen, vm, state).await);
        }
        let domains = self.figures.domains.load();
        let info = seen
            .run(vm.uuid)
            .and_then(|run| domains.get(&vm.uuid).filter(|info| Some(info.domid) == run.domid));
        Ok(VmFigures {
            state,
            memory_kib: info.map_or(0, |info| info.memory_kib),
            max_memory_kib: info.map_or(0, |info| info.max_memory_kib),
            cpu_time_ns: info.map_or(0, |info| info.cpu_time_ns),
        })
    }

    async fn figures_of_dom0(&self, seen: &Snapshot, vm: &Vm, state: PowerState) -> VmFigures {
        let max_memory = Property::Maxmem.int(seen, vm).and_then(|mib| u32::try_from(mib).ok()).unwrap_or(0);
        let sample = self.sample().await;
        if let Err(error) = &sample {
            tracing::warn!(error = error.report(), "what dom0 uses is not known");
        }
        let own = sample.as_ref().ok().and_then(|sample| sample.domain(Vm::DOM0));
        VmFigures {
            state,
            memory_kib: own.map_or(0, |own| own.memory_kib),
            max_memory_kib: MemoryMib::new(max_memory).kib(),
            cpu_time_ns: own.map_or(0, |own| own.cpu_time_ns),
        }
    }

    /// Looks at one VM's domain now.
    pub(super) async fn refresh_figures(&self, vm: Uuid) {
        if let Ok(info) = self.hypervisor.info(vm).await {
            self.figures.domains.rcu(|domains| {
                let mut domains = HashMap::clone(domains);
                domains.insert(vm, info.clone());
                domains
            });
        }
    }

    /// Keeps figures of domains young, for the host's life.
    pub(super) async fn refresh_domains(self: Arc<Self>) {
        let mut every = ticks(DOMAINS_EVERY);
        while self.next(&mut every).await {
            if self.snapshot().cells.runs.is_empty() {
                self.figures.domains.store(Arc::default());
            } else if let Ok(list) = self.hypervisor.list().await {
                let list = list.into_iter().map(|info| (info.uuid, info)).collect();
                self.figures.domains.store(Arc::new(list));
            }
        }
    }

    /// Keeps figures of pools and kernels young, for the host's life.
    pub(super) async fn refresh_storage(self: Arc<Self>) {
        let mut every = ticks(self.config.tuning.refresh.max(Duration::from_secs(1)));
        {
            let _alone = self.pool_changes.lock().await;
            self.look_at_surroundings().await;
        }
        while self.next(&mut every).await {
            self.settle_waiting();
            self.refresh_pools();
            self.look_at_kernels().await;
        }
    }

    /// `false`: the host is being closed.
    async fn next(&self, every: &mut tokio::time::Interval) -> bool {
        tokio::select! {
            () = self.closing.cancelled() => false,
            _ = every.tick() => true,
        }
    }
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}
