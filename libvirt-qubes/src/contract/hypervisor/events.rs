//! What is told, to whom, and how often.

use super::{Ear, Guest, Host, Outcome, must, spec_or_skip};
use crate::hypervisor::{DomainChange, DomainState, ShutdownReason};

pub(super) async fn a_guests_own_end_is_told_once_and_the_domain_stays(host: &Host<'_>) -> Outcome {
    for (guest, reason) in [
        (Guest::PowersOff, ShutdownReason::Poweroff),
        (Guest::Reboots, ShutdownReason::Reboot),
        (Guest::Crashes, ShutdownReason::Crash),
    ] {
        let spec = spec_or_skip!(host, "own-end", guest);
        let mut ear = host.listen();
        let domid = host.create(&spec).await;
        must(host.hypervisor.unpause(spec.uuid).await, "unpause");
        ear.hears_at_last(spec.uuid, domid, DomainChange::Shutdown(reason)).await;
        ear.hears_nothing(spec.uuid).await;
        assert_eq!(host.state(spec.uuid).await, DomainState::Shutdown(reason));
        host.destroy(spec.uuid).await;
        ear.hears(spec.uuid, domid, DomainChange::Died).await;
        ear.hears_nothing(spec.uuid).await;
    }
    Outcome::Kept
}

pub(super) async fn pauses_are_told_whoever_caused_them(host: &Host<'_>) -> Outcome {
    let spec = spec_or_skip!(host, "seen", Guest::Deaf);
    let other = host.fixture.connect().await;
    let domid = host.create(&spec).await;
    let mut ear = host.listen();
    must(host.hypervisor.unpause(spec.uuid).await, "unpause");
    ear.hears(spec.uuid, domid, DomainChange::Unpaused).await;
    for hypervisor in [&host.hypervisor, &other] {
        must(hypervisor.pause(spec.uuid).await, "pause");
        ear.hears(spec.uuid, domid, DomainChange::Paused).await;
        must(hypervisor.unpause(spec.uuid).await, "unpause");
        ear.hears(spec.uuid, domid, DomainChange::Unpaused).await;
    }
    ear.hears_nothing(spec.uuid).await;
    Outcome::Kept
}

pub(super) async fn a_domain_made_by_another_process_is_watched(host: &Host<'_>) -> Outcome {
    let live = spec_or_skip!(host, "live", Guest::Deaf);
    let ended = spec_or_skip!(host, "over", Guest::Crashes);
    let live_id = host.start(&live).await;
    let ended_id = host.create(&ended).await;
    must(host.hypervisor.unpause(ended.uuid).await, "unpause");
    let crashed = ShutdownReason::Crash;
    host.reaches(ended.uuid, DomainState::Shutdown(crashed)).await;

    let other = host.fixture.connect().await;
    let mut ear = Ear::new(host.fixture, other.as_ref());
    must(other.watch(live.uuid).await, "watch");
    must(other.watch(ended.uuid).await, "watch of a domain that has shut down");
    ear.hears_at_last(ended.uuid, ended_id, DomainChange::Shutdown(crashed)).await;
    host.destroy(ended.uuid).await;
    ear.hears(ended.uuid, ended_id, DomainChange::Died).await;
    host.destroy(live.uuid).await;
    ear.hears_at_last(live.uuid, live_id, DomainChange::Died).await;
    Outcome::Kept
}

pub(super) async fn watching_twice_tells_once(host: &Host<'_>) -> Outcome {
    let spec = spec_or_skip!(host, "twice", Guest::PowersOff);
    let mut ear = host.listen();
    let domid = host.create(&spec).await;
    for _ in 0..2 {
        must(host.hypervisor.watch(spec.uuid).await, "watch");
    }
    must(host.hypervisor.unpause(spec.uuid).await, "unpause");
    let poweroff = DomainChange::Shutdown(ShutdownReason::Poweroff);
    ear.hears_at_last(spec.uuid, domid, poweroff).await;
    must(host.hypervisor.watch(spec.uuid).await, "watch");
    ear.hears_nothing(spec.uuid).await;
    host.destroy(spec.uuid).await;
    ear.hears(spec.uuid, domid, DomainChange::Died).await;
    ear.hears_nothing(spec.uuid).await;
    Outcome::Kept
}
