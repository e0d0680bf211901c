//! `HostInfo` on libxl.

use super::LibxlHypervisor;
use super::operation::What;
use crate::error::{Op, Result};
use crate::hypervisor::{BoxFuture, HostFacts, HostInfo};

impl HostInfo for LibxlHypervisor {
    fn name(&self) -> &'static str {
        "libxl"
    }

    fn boots_without_kernel(&self) -> bool {
        false
    }

    fn facts(&self) -> BoxFuture<'_, Result<HostFacts>> {
        let what = What::new("facts", Op::HostInfo, "this host");
        Box::pin(self.inner.short(what, |inner, what| {
            let info = inner.main.physinfo().map_err(|error| what.failed(error))?;
            let (release, page_bytes) = inner.main.version().map_err(|error| what.failed(error))?;
            let kib = |pages: u64| pages.saturating_mul(page_bytes) / 1024;
            Ok(HostFacts {
                total_memory_kib: kib(info.total_pages),
                // Pages that wait to be scrubbed are free; Xen scrubs them when they are asked for.
                free_memory_kib: kib(info.free_pages.saturating_add(info.scrub_pages)),
                cpus: info.nr_cpus,
                release,
            })
        }))
    }
}
