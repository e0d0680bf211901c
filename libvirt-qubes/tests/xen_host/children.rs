//! libxl forks in a process of many threads: what a child is born into must never keep it from its end.

use std::time::Duration;

use libvirt_qubes::Kind;
use libvirt_qubes::config::VirtMode;
use libvirt_qubes::hypervisor::Domains;
use uuid::Uuid;

use crate::dom0::{Dom0, tiny};

/// How many lives each of the domains has; for a longer hunt, `MGMT_ROUNDS`.
fn rounds() -> usize {
    std::env::var("MGMT_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2)
}

/// A lock that another thread holds at the moment of a fork is held in the child for ever. Contexts that open and
/// close take such locks all the time; the child that destroys a domain takes them too.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
async fn ends_beside_a_storm_of_contexts_all_come_to_their_end() {
    let dom0 = Dom0::open().await;
    let xen = &dom0.xen;
    let life = async |number: usize| {
        for _ in 0..rounds() {
            let spec = tiny(&format!("storm-{number}"), VirtMode::Pvh, "tiny.deaf");
            dom0.create(&spec).await.unwrap();
            xen.destroy(spec.uuid).await.unwrap();
        }
    };
    // Each opens a context, finds no such domain and closes it.
    let storm = async || loop {
        let gone = xen.destroy(Uuid::new_v4()).await.unwrap_err();
        assert_eq!(gone.kind(), Kind::NotFound, "{}", gone.report());
        tokio::time::sleep(Duration::from_micros(100)).await;
    };
    let lives = async { tokio::join!(life(0), life(1), life(2)) };
    tokio::select! {
        _ = lives => {}
        () = async { tokio::join!(storm(), storm(), storm(), storm()); } => {}
    }
    dom0.close().await;
}
