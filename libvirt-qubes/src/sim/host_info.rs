//! Figures about the simulated host.

use super::connection::SimHypervisor;
use crate::error::{Op, Result};
use crate::hypervisor::{BoxFuture, HostFacts, HostInfo};
use crate::ids::MemoryMib;

impl HostInfo for SimHypervisor {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn boots_without_kernel(&self) -> bool {
        true
    }

    fn facts(&self) -> BoxFuture<'_, Result<HostFacts>> {
        let link = self.link.clone();
        Box::pin(async move {
            let total = MemoryMib::new(link.config.memory_mb).kib();
            let cpus = link.config.cpus;
            let facts = move |state: &mut super::state::State| {
                let taken: u64 = state.records().map(|record| record.spec.memory.kib()).sum();
                Ok(HostFacts {
                    total_memory_kib: total,
                    free_memory_kib: total.saturating_sub(taken),
                    cpus,
                    release: concat!("sim ", env!("CARGO_PKG_VERSION")).into(),
                })
            };
            link.world.with(Op::HostInfo, "sim", facts).await
        })
    }
}
