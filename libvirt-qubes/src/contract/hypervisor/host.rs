//! Figures and the list.

use uuid::Uuid;

use super::{Guest, Host, Outcome, must, spec_or_skip};

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

pub(super) async fn usage_is_dom0s_and_that_of_every_domain_in_the_order_of_numbers(
    host: &Host<'_>,
) -> Outcome {
    let spec = spec_or_skip!(host, "used", Guest::Deaf);
    host.create(&spec).await;
    let list = must(host.hypervisor.list().await, "list");
    let usage = must(host.hypervisor.usage().await, "usage");
    let numbers: Vec<_> = usage.iter().map(|usage| usage.domid.get()).collect();
    assert!(numbers.is_sorted() && numbers.first() == Some(&0), "{numbers:?}");
    assert!(usage.first().is_some_and(|dom0| dom0.uuid.is_nil() && dom0.vcpus > 0), "{usage:?}");
    let own = usage.iter().find(|usage| usage.uuid == spec.uuid);
    let listed = list.iter().find(|info| info.uuid == spec.uuid);
    let (Some(own), Some(listed)) = (own, listed) else { panic!("{list:?} {usage:?}") };
    assert_eq!((own.domid, own.vcpus), (listed.domid, listed.vcpus));
    assert_eq!(own.memory_kib, listed.memory_kib);
    assert!(own.max_memory_kib >= own.memory_kib, "{own:?}");
    Outcome::Kept
}
