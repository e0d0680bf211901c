//! Disks, at start and hot-plugged, as the Linux guest sees them.

use std::time::{Duration, Instant};

use libvirt_qubes::Kind;
use libvirt_qubes::config::{Access, DiskSpec, DomainSpec, VirtMode};
use libvirt_qubes::hypervisor::{Devices, DiskInfo, Domains};
use tokio_util::sync::CancellationToken;

use crate::dom0::{Dom0, Unwritable, console, linux, loops, says, tiny};

fn never() -> CancellationToken {
    CancellationToken::new()
}

/// Starts a Linux guest until it has come up as far as its init. A PVH one sometimes stays silent for ever under
/// QEMU's emulation, or dies: it is tried again.
async fn comes_up(dom0: &Dom0, spec: &DomainSpec) -> bool {
    for _ in 0..3 {
        dom0.start(spec).await;
        let begin = Instant::now();
        let silent = || !console(spec.name.as_str()).contains("GUEST-");
        while spec.virt_mode == VirtMode::Pvh && silent() && begin.elapsed() < Duration::from_secs(80) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if spec.virt_mode == VirtMode::Pv || !silent() {
            return true;
        }
        if let Err(error) = dom0.xen.destroy(spec.uuid).await {
            assert_eq!(error.kind(), Kind::NotFound, "{}", error.report());
        }
    }
    false
}

pub(crate) async fn disks_come_and_go(mode: VirtMode, name: &str) {
    let dom0 = Dom0::open().await;
    let before = loops().len();
    let mut spec = linux(dom0.dir.path(), name, mode);
    spec.disks.push(dom0.disk("xvdb", Access::ReadOnly));
    if !comes_up(&dom0, &spec).await {
        println!(
            "\nskipped: the Linux PVH guest stayed silent three times, as it does at times under emulation"
        );
        dom0.close().await;
        return;
    }
    says(name, &format!("GUEST-UP name={name}")).await;
    says(name, "GUEST-DATA xvdb ro this is xvdb").await;
    let info =
        |disk: &DiskSpec| DiskInfo { vdev: disk.vdev, path: Some(disk.path.clone()), access: disk.access };
    let mut expected: Vec<DiskInfo> = spec.disks.iter().map(info).collect();
    assert_eq!(dom0.xen.disks(spec.uuid).await.unwrap(), expected);
    assert_eq!(loops().len(), before + 2);

    // A path with what libxl's own list would cut off.
    let mut extra = dom0.disk("xvdi", Access::ReadWrite);
    let odd = extra.path.with_file_name("odd: name.img");
    std::fs::rename(&extra.path, &odd).unwrap();
    extra.path = odd;
    let begin = Instant::now();
    dom0.xen.attach_disk(spec.uuid, extra.clone(), never()).await.unwrap();
    let attached = begin.elapsed();
    says(name, "GUEST-DATA xvdi rw this is xvdi").await;
    expected.push(info(&extra));
    assert_eq!(dom0.xen.disks(spec.uuid).await.unwrap(), expected);
    assert_eq!(loops().len(), before + 3);

    let again = dom0.xen.attach_disk(spec.uuid, extra.clone(), never()).await.unwrap_err();
    assert_eq!(again.kind(), Kind::AlreadyExists);
    assert_eq!(dom0.xen.disks(spec.uuid).await.unwrap(), expected, "the refused attach took it away");

    let begin = Instant::now();
    dom0.xen.detach_disk(spec.uuid, extra.vdev, never()).await.unwrap();
    println!("{name}: attach {attached:?}, detach {:?}", begin.elapsed());
    says(name, "GUEST-DISK - xvdi").await;
    expected.pop();
    assert_eq!(dom0.xen.disks(spec.uuid).await.unwrap(), expected);
    assert_eq!(loops().len(), before + 2);
    let again = dom0.xen.detach_disk(spec.uuid, extra.vdev, never()).await.unwrap_err();
    assert_eq!(again.kind(), Kind::NotFound);

    // The name is free again.
    dom0.xen.attach_disk(spec.uuid, extra.clone(), never()).await.unwrap();
    dom0.xen.destroy(spec.uuid).await.unwrap();
    assert_eq!(loops().len(), before);
    dom0.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
async fn a_failed_attach_leaves_neither_nodes_nor_a_loop_device() {
    let dom0 = Dom0::open().await;
    let spec = tiny("nodisk", VirtMode::Pvh, "");
    dom0.start(&spec).await;
    let nodes = || crate::dom0::xenstore_tree().lines().filter(|line| line.contains("/vbd/")).count();

    let unwritable = Unwritable::new(&dom0, "xvdi");
    for _ in 0..2 {
        let error = dom0.xen.attach_disk(spec.uuid, unwritable.disk.clone(), never()).await.unwrap_err();
        println!("{}", error.report());
        assert_eq!(error.kind(), Kind::Backend, "{}", error.report());
        assert!(error.report().contains("unwritable.img"), "{}", error.report());
        assert_eq!(nodes(), 0, "{}", crate::dom0::xenstore_tree());
    }
    let good = dom0.disk("xvdi", Access::ReadWrite);
    dom0.xen.attach_disk(spec.uuid, good, never()).await.unwrap();
    dom0.xen.destroy(spec.uuid).await.unwrap();
    dom0.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
async fn a_guest_that_does_not_let_go_keeps_its_disk() {
    let dom0 = Dom0::open().await;
    // It has no frontend, so it never answers.
    let mut spec = tiny("holds", VirtMode::Pvh, "");
    spec.disks.push(dom0.disk("xvda", Access::ReadWrite));
    dom0.start(&spec).await;
    says("holds", "GUEST-UP").await;
    let vdev = spec.disks[0].vdev;

    let begin = Instant::now();
    let error = dom0.xen.detach_disk(spec.uuid, vdev, never()).await.unwrap_err();
    println!("{} after {:?}", error.report(), begin.elapsed());
    assert_eq!(error.kind(), Kind::TimedOut, "{}", error.report());
    assert!(begin.elapsed() >= Duration::from_secs(9));
    assert_eq!(dom0.xen.disks(spec.uuid).await.unwrap().len(), 1);
    assert_eq!(loops().len(), 1);
    dom0.xen.destroy(spec.uuid).await.unwrap();
    dom0.close().await;
}
