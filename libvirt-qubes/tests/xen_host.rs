//! The libxl backend on a real Xen. Needs dom0, root, `mgmt-block` in `$MGMT_BIN_DIR` and the guests in
//! `$MGMT_GUESTS`; run by `cargo xtask test` in the testbed, one test at a time (each looks at the whole host).
#![cfg(feature = "xen")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends at the first surprise"
)]

#[path = "xen_host/aborts.rs"]
mod aborts;
#[path = "xen_host/children.rs"]
mod children;
#[path = "xen_host/contract.rs"]
mod contract;
#[path = "xen_host/disks.rs"]
mod disks;
#[path = "xen_host/dom0.rs"]
mod dom0;
#[path = "xen_host/events.rs"]
mod events;
#[path = "xen_host/leaks.rs"]
mod leaks;
#[path = "xen_host/lifecycle.rs"]
mod lifecycle;
#[path = "xen_host/recovery.rs"]
mod recovery;
#[path = "xen_host/refusals.rs"]
mod refusals;

/// Not in every run.
mod whole {
    use libvirt_qubes::config::VirtMode;

    // Both live under the daemon in every run, with their disks.
    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs dom0 on Xen; run by cargo xtask test"]
    async fn disks_come_and_go_as_a_pv_guest_sees_them() {
        crate::disks::disks_come_and_go(VirtMode::Pv, "disks-pv").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs dom0 on Xen; run by cargo xtask test"]
    async fn disks_come_and_go_as_a_pvh_guest_sees_them() {
        crate::disks::disks_come_and_go(VirtMode::Pvh, "disks-pvh").await;
    }
}
