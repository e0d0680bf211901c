//! Cancelling: at any moment of a build it ends soon, and nothing is left.

use std::time::{Duration, Instant};

use libvirt_qubes::Kind;
use libvirt_qubes::config::{Access, VirtMode};
use libvirt_qubes::hypervisor::{Devices, Domains};
use tokio_util::sync::CancellationToken;

use crate::dom0::{Dom0, linux, loops, says, tiny, xl_list};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
async fn a_build_cancelled_at_any_moment_leaves_nothing() {
    let dom0 = Dom0::open().await;
    let mut cancelled = 0;
    for (round, delay) in [0, 60, 150, 300, 450, 600, 800, 1000].into_iter().enumerate() {
        let mut spec = linux(dom0.dir.path(), &format!("cut-{round}"), VirtMode::Pv);
        for vdev in ["xvdb", "xvdc", "xvdd"] {
            spec.disks.push(dom0.disk(vdev, Access::ReadWrite));
        }
        let token = CancellationToken::new();
        let build = dom0.xen.create(spec.clone(), token.clone());
        let begin = Instant::now();
        let cut = async {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            token.cancel();
            Instant::now()
        };
        let (built, at) = tokio::join!(build, cut);
        match built {
            Ok(domid) => {
                println!("cancel after {delay} ms: built as {domid} in {:?}", begin.elapsed());
                dom0.xen.destroy(spec.uuid).await.unwrap();
            }
            Err(error) => {
                println!("cancel after {delay} ms: over {:?} later: {}", at.elapsed(), error.report());
                assert_eq!(error.kind(), Kind::Cancelled, "{}", error.report());
                cancelled += 1;
            }
        }
        // A domain that was left has nodes.
        dom0.assert_clean();
        for disk in &spec.disks {
            std::fs::remove_file(&disk.path).unwrap();
        }
    }
    assert!(cancelled >= 4, "too few builds were slow enough to be cancelled: {cancelled}");
    assert!(xl_list().is_empty() && loops().is_empty(), "{:?} {:?}", xl_list(), loops());
    dom0.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
async fn a_build_whose_caller_went_away_is_still_cancelled_by_its_token() {
    let dom0 = Dom0::open().await;
    let spec = linux(dom0.dir.path(), "orphan", VirtMode::Pv);
    let token = CancellationToken::new();
    {
        let build = dom0.xen.create(spec.clone(), token.clone());
        drop(tokio::time::timeout(Duration::from_millis(100), build).await);
    }
    token.cancel();
    let until = Instant::now() + crate::dom0::PATIENCE;
    tokio::time::sleep(Duration::from_millis(300)).await;
    while !xl_list().is_empty() {
        assert!(Instant::now() < until, "{:?}", xl_list());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The name and the UUID can be used again.
    dom0.create(&spec).await.unwrap();
    dom0.xen.destroy(spec.uuid).await.unwrap();
    dom0.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
async fn an_attach_cancelled_at_any_moment_leaves_nothing() {
    let dom0 = Dom0::open().await;
    let spec = tiny("cut", VirtMode::Pvh, "");
    dom0.start(&spec).await;
    says("cut", "GUEST-UP").await;
    for delay in [0, 10, 30, 60, 100, 150, 200, 300, 500] {
        let token = CancellationToken::new();
        let disk = dom0.disk("xvdi", Access::ReadWrite);
        let attach = dom0.xen.attach_disk(spec.uuid, disk.clone(), token.clone());
        let cut = async {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            token.cancel();
            Instant::now()
        };
        let (attached, at) = tokio::join!(attach, cut);
        match attached {
            Ok(()) => {
                println!("cancel after {delay} ms: attached");
                // No frontend: only the end of the domain takes it away.
                break;
            }
            Err(error) => {
                println!("cancel after {delay} ms: over {:?} later: {}", at.elapsed(), error.report());
                assert_eq!(error.kind(), Kind::Cancelled, "{}", error.report());
                assert!(dom0.xen.disks(spec.uuid).await.unwrap().is_empty());
                assert_eq!(loops(), Vec::<String>::new());
            }
        }
    }
    dom0.xen.destroy(spec.uuid).await.unwrap();
    dom0.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
async fn a_domain_destroyed_while_it_is_built_is_gone() {
    let dom0 = Dom0::open().await;
    for delay in [0, 50, 150, 300, 500, 800, 1200] {
        let mut spec = linux(dom0.dir.path(), "shot", VirtMode::Pv);
        spec.disks.push(dom0.disk("xvdb", Access::ReadWrite));
        let build = dom0.create(&spec);
        let shot = async {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            dom0.xen.destroy(spec.uuid).await
        };
        let (built, destroyed) = tokio::join!(build, shot);
        println!("destroyed after {delay} ms: {destroyed:?}; built: {built:?}");
        destroyed.unwrap();
        assert!(built.is_ok() || built.is_err_and(|error| error.kind() == Kind::Cancelled));
        assert!(xl_list().is_empty(), "{:?}", xl_list());
        assert_eq!(loops(), Vec::<String>::new());
        dom0.assert_clean();
    }
    dom0.close().await;
}
