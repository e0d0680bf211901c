//! Figures and the list.

use uuid::Uuid;

use super::{Host, Outcome, must};

pub(super) async fn a_host_tells_its_name_and_figures(host: &Host<'_>) -> Outcome {
    let facts = must(host.hypervisor.facts().await, "facts");
    assert!(!host.hypervisor.name().is_empty());
    assert!(facts.cpus > 0 && !facts.release.is_empty(), "{facts:?}");
    assert!(facts.total_memory_kib > 0 && facts.free_memory_kib <= facts.total_memory_kib, "{facts:?}");
    Outcome::Kept
}

pub(super) async fn dom0_is_not_listed(host: &Host<'_>) -> Outcome {
    let list = must(host.hypervisor.list().await, "list");
    assert!(list.iter().all(|info| info.domid.get() != 0 && info.uuid != Uuid::nil()), "{list:?}");
    Outcome::Kept
}
