//! How domains end.

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Guest, Host, Outcome, fails_with, must, spec_or_skip};
use crate::error::Kind;
use crate::hypervisor::{DomainChange, DomainState, ShutdownReason};

pub(super) async fn a_domain_is_destroyed_in_every_state(host: &Host<'_>) -> Outcome {
    let free = host.free_memory_kib().await;
    let mut ear = host.listen();

    let running = spec_or_skip!(host, "running", Guest::Deaf);
    let running_id = host.start(&running).await;
    let fresh = spec_or_skip!(host, "fresh", Guest::Deaf);
    let fresh_id = host.create(&fresh).await;
    let paused = spec_or_skip!(host, "stopped", Guest::Deaf);
    let paused_id = host.start(&paused).await;
    must(host.hypervisor.pause(paused.uuid).await, "pause");
    let ended = spec_or_skip!(host, "ended", Guest::PowersOff);
    let ended_id = host.create(&ended).await;
    must(host.hypervisor.unpause(ended.uuid).await, "unpause");
    host.reaches(ended.uuid, DomainState::Shutdown(ShutdownReason::Poweroff)).await;

    for (spec, domid) in [(running, running_id), (fresh, fresh_id), (paused, paused_id), (ended, ended_id)] {
        host.destroy(spec.uuid).await;
        host.assert_gone(spec.uuid).await;
        let mut last = None;
        while last != Some(DomainChange::Died) {
            let event = ear.heard(spec.uuid, host.fixture.patience()).await;
            let event = event.unwrap_or_else(|| panic!("no end of {} was told", spec.name));
            assert_eq!(event.domid, domid);
            last = Some(event.change);
        }
        ear.hears_nothing(spec.uuid).await;
    }
    host.gives_back(free).await;
    Outcome::Kept
}

pub(super) async fn what_does_not_exist_is_not_found(host: &Host<'_>) -> Outcome {
    let (hypervisor, none) = (&host.hypervisor, Uuid::new_v4());
    let disk = host.fixture.disk().await;
    let vdev = disk.vdev;
    let missing = &[Kind::NotFound];
    fails_with(hypervisor.info(none).await, missing, "info");
    fails_with(hypervisor.pause(none).await, missing, "pause");
    fails_with(hypervisor.unpause(none).await, missing, "unpause");
    fails_with(hypervisor.request_shutdown(none).await, missing, "shutdown request");
    fails_with(hypervisor.destroy(none).await, missing, "destroy");
    fails_with(hypervisor.disks(none).await, missing, "disks");
    fails_with(hypervisor.attach_disk(none, disk, CancellationToken::new()).await, missing, "attach");
    fails_with(hypervisor.detach_disk(none, vdev, CancellationToken::new()).await, missing, "detach");
    Outcome::Kept
}

pub(super) async fn destroys_at_the_same_time_agree(host: &Host<'_>) -> Outcome {
    let spec = spec_or_skip!(host, "raced", Guest::Deaf);
    let mut ear = host.listen();
    let domid = host.start(&spec).await;
    let (first, second) =
        tokio::join!(host.hypervisor.destroy(spec.uuid), host.hypervisor.destroy(spec.uuid));
    let ends = [first, second];
    assert!(ends.iter().any(Result::is_ok), "{ends:?}");
    for error in ends.into_iter().filter_map(Result::err) {
        assert_eq!(error.kind(), Kind::NotFound, "{}", error.report());
    }
    host.assert_gone(spec.uuid).await;
    ear.hears_at_last(spec.uuid, domid, DomainChange::Died).await;
    ear.hears_nothing(spec.uuid).await;
    Outcome::Kept
}

pub(super) async fn a_name_and_uuid_are_free_after_a_destroy(host: &Host<'_>) -> Outcome {
    let spec = spec_or_skip!(host, "again", Guest::Deaf);
    let mut before = None;
    for _ in 0..3 {
        let domid = host.start(&spec).await;
        assert_ne!(Some(domid), before, "two runs have two numbers");
        before = Some(domid);
        host.destroy(spec.uuid).await;
    }
    host.assert_gone(spec.uuid).await;
    Outcome::Kept
}
