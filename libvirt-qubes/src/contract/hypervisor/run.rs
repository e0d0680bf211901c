//! Pausing, and asking a guest to power off.

use super::{Guest, Host, Outcome, fails_with, must, spec_or_skip};
use crate::error::Kind;
use crate::hypervisor::{DomainChange, DomainState, ShutdownReason};

const POWEROFF: ShutdownReason = ShutdownReason::Poweroff;

pub(super) async fn pause_and_unpause_are_idempotent(host: &Host<'_>) -> Outcome {
    let spec = spec_or_skip!(host, "paused", Guest::Deaf);
    host.start(&spec).await;
    must(host.hypervisor.unpause(spec.uuid).await, "unpause of a running domain");
    assert_eq!(host.state(spec.uuid).await, DomainState::Running);
    for _ in 0..3 {
        must(host.hypervisor.pause(spec.uuid).await, "pause");
        assert_eq!(host.state(spec.uuid).await, DomainState::Paused);
    }
    for _ in 0..2 {
        must(host.hypervisor.unpause(spec.uuid).await, "unpause");
        assert_eq!(host.state(spec.uuid).await, DomainState::Running);
    }
    Outcome::Kept
}

pub(super) async fn one_unpause_is_enough_whoever_paused(host: &Host<'_>) -> Outcome {
    let spec = spec_or_skip!(host, "held", Guest::Deaf);
    let other = host.fixture.connect().await;
    host.start(&spec).await;
    must(other.pause(spec.uuid).await, "pause by another");
    must(host.hypervisor.pause(spec.uuid).await, "pause");
    must(other.pause(spec.uuid).await, "pause by another");
    must(host.hypervisor.unpause(spec.uuid).await, "unpause");
    assert_eq!(host.state(spec.uuid).await, DomainState::Running);
    Outcome::Kept
}

pub(super) async fn a_shutdown_request_is_handed_over_and_obeyed(host: &Host<'_>) -> Outcome {
    let spec = spec_or_skip!(host, "asked", Guest::Listens);
    let mut ear = host.listen();
    let domid = host.start(&spec).await;
    must(host.hypervisor.request_shutdown(spec.uuid).await, "shutdown request");
    ear.hears_at_last(spec.uuid, domid, DomainChange::Shutdown(POWEROFF)).await;
    assert_eq!(host.state(spec.uuid).await, DomainState::Shutdown(POWEROFF), "it stays until destroyed");
    let again = host.hypervisor.request_shutdown(spec.uuid).await;
    fails_with(again, &[Kind::Busy], "shutdown request to a domain that has shut down");
    host.destroy(spec.uuid).await;
    ear.hears(spec.uuid, domid, DomainChange::Died).await;
    Outcome::Kept
}

pub(super) async fn a_deaf_guest_holds_nothing(host: &Host<'_>) -> Outcome {
    let spec = spec_or_skip!(host, "deaf", Guest::Deaf);
    let other = spec_or_skip!(host, "beside", Guest::Deaf);
    host.start(&spec).await;
    match tokio::time::timeout(host.fixture.patience(), host.hypervisor.request_shutdown(spec.uuid)).await {
        // A guest may say that it cannot be asked.
        Ok(Err(error)) => assert_eq!(error.kind(), Kind::Unsupported, "{}", error.report()),
        Ok(Ok(())) => {}
        Err(_) => panic!("the request waits for the guest"),
    }
    tokio::time::sleep(host.fixture.quiet()).await;
    assert_eq!(host.state(spec.uuid).await, DomainState::Running);
    host.create(&other).await;
    must(host.hypervisor.pause(spec.uuid).await, "pause of a guest that was asked");
    host.destroy(spec.uuid).await;
    host.assert_gone(spec.uuid).await;
    Outcome::Kept
}

pub(super) async fn a_domain_that_cannot_hear_is_not_asked(host: &Host<'_>) -> Outcome {
    let spec = spec_or_skip!(host, "silent", Guest::Listens);
    host.create(&spec).await;
    let asked = host.hypervisor.request_shutdown(spec.uuid).await;
    fails_with(asked, &[Kind::Busy], "shutdown request to a domain that never ran");
    must(host.hypervisor.unpause(spec.uuid).await, "unpause");
    host.fixture.ready(&spec).await;
    must(host.hypervisor.pause(spec.uuid).await, "pause");
    let asked = host.hypervisor.request_shutdown(spec.uuid).await;
    fails_with(asked, &[Kind::Busy], "shutdown request to a paused domain");
    must(host.hypervisor.unpause(spec.uuid).await, "unpause");
    tokio::time::sleep(host.fixture.quiet()).await;
    assert_eq!(host.state(spec.uuid).await, DomainState::Running, "a refused request does not come later");
    Outcome::Kept
}
