//! What happens to domains without our doing.

use std::time::{Duration, Instant};

use libvirt_qubes::Kind;
use libvirt_qubes::config::VirtMode;
use libvirt_qubes::hypervisor::{DomainChange, DomainState, Domains, EventSource, ShutdownReason};
use uuid::Uuid;

use crate::dom0::{Dom0, run, says, tiny};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
async fn a_guest_that_ends_by_itself_is_told_once_with_its_reason() {
    let mut dom0 = Dom0::open().await;
    for (mode, after, reason) in [
        (VirtMode::Pvh, "poweroff", ShutdownReason::Poweroff),
        (VirtMode::Pvh, "reboot", ShutdownReason::Reboot),
        (VirtMode::Pvh, "crash", ShutdownReason::Crash),
        (VirtMode::Pv, "crash", ShutdownReason::Crash),
    ] {
        let spec = tiny(&format!("self-{after}"), mode, &format!("tiny.after={after}"));
        dom0.start(&spec).await;
        let mut change = dom0.change(spec.uuid).await;
        if change == DomainChange::Unpaused {
            change = dom0.change(spec.uuid).await;
        }
        assert_eq!(change, DomainChange::Shutdown(reason));
        assert_eq!(dom0.xen.info(spec.uuid).await.unwrap().state, DomainState::Shutdown(reason));
        dom0.assert_quiet(spec.uuid, Duration::from_millis(1500)).await;
        dom0.xen.destroy(spec.uuid).await.unwrap();
        assert_eq!(dom0.change(spec.uuid).await, DomainChange::Died);
    }
    dom0.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
async fn what_xl_does_to_a_domain_is_told() {
    let mut dom0 = Dom0::open().await;
    let spec = tiny("meddled", VirtMode::Pvh, "");
    dom0.start(&spec).await;
    assert_eq!(dom0.change(spec.uuid).await, DomainChange::Unpaused);
    says("meddled", "GUEST-UP").await;

    run("xl", &["pause", "meddled"]);
    let paused = Instant::now();
    assert_eq!(dom0.change(spec.uuid).await, DomainChange::Paused);
    let noticed = paused.elapsed();
    run("xl", &["unpause", "meddled"]);
    assert_eq!(dom0.change(spec.uuid).await, DomainChange::Unpaused);

    run("xl", &["destroy", "meddled"]);
    let destroyed = Instant::now();
    let mut change = dom0.change(spec.uuid).await;
    // A destroy begins with a pause; of somebody else's we may see it.
    if change == DomainChange::Paused {
        change = dom0.change(spec.uuid).await;
    }
    assert_eq!(change, DomainChange::Died);
    println!("xl pause noticed {noticed:?} after it, xl destroy {:?} after it", destroyed.elapsed());
    dom0.assert_quiet(spec.uuid, Duration::from_millis(1500)).await;
    dom0.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
async fn domains_of_an_earlier_run_are_adopted_with_what_happened_meanwhile() {
    let dom0 = Dom0::open().await;
    let lives = tiny("lives", VirtMode::Pvh, "");
    let ends = tiny("ends", VirtMode::Pv, "tiny.after=poweroff tiny.delay_ms=200");
    let waits = tiny("waits", VirtMode::Pvh, "");
    dom0.start(&lives).await;
    dom0.start(&ends).await;
    dom0.create(&waits).await.unwrap();
    says("lives", "GUEST-UP").await;
    dom0.xen.close().await;
    tokio::time::sleep(Duration::from_secs(2)).await;

    let mut dom0 = Dom0::reopen().await;
    for spec in [&lives, &ends, &waits] {
        dom0.xen.watch(spec.uuid).await.unwrap();
        dom0.xen.watch(spec.uuid).await.unwrap();
    }
    assert_eq!(dom0.xen.watch(Uuid::new_v4()).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(dom0.change(ends.uuid).await, DomainChange::Shutdown(ShutdownReason::Poweroff));
    let state = async |dom0: &Dom0, uuid| dom0.xen.info(uuid).await.unwrap().state;
    assert_eq!(state(&dom0, lives.uuid).await, DomainState::Running);
    assert_eq!(state(&dom0, waits.uuid).await, DomainState::Paused);

    dom0.xen.request_shutdown(lives.uuid).await.unwrap();
    assert_eq!(dom0.change(lives.uuid).await, DomainChange::Shutdown(ShutdownReason::Poweroff));
    for spec in [&lives, &ends, &waits] {
        dom0.xen.destroy(spec.uuid).await.unwrap();
        assert_eq!(dom0.change(spec.uuid).await, DomainChange::Died);
    }
    dom0.close().await;
}
