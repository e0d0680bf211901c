//! What cannot be built: the kind and the words that the caller gets, and that nothing is left.

use std::fs;

use libvirt_qubes::config::{Access, DiskSpec, DomainSpec, VirtMode};
use libvirt_qubes::hypervisor::{Devices, Domains};
use libvirt_qubes::ids::MemoryMib;
use libvirt_qubes::xen::LibxlError;
use libvirt_qubes::{Error, Kind};
use tokio_util::sync::CancellationToken;

use crate::dom0::{Dom0, Unwritable, tiny, xl_list};

async fn refused(dom0: &Dom0, spec: &DomainSpec) -> Error {
    let error = dom0.create(spec).await.unwrap_err();
    println!("{}", error.report());
    assert!(!xl_list().contains_key(spec.name.as_str()), "{}", error.report());
    error
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
async fn what_cannot_be_built_says_why_and_leaves_nothing() {
    let dom0 = Dom0::open().await;
    let good = tiny("never", VirtMode::Pvh, "");

    let mut spec = good.clone();
    spec.boot.as_mut().unwrap().kernel = "/nowhere/vmlinuz".into();
    let error = refused(&dom0, &spec).await;
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.report().contains("/nowhere/vmlinuz"));

    let text = dom0.dir.path().join("no-kernel");
    fs::write(&text, "this is no kernel, but long enough to be looked at".repeat(100)).unwrap();
    spec.boot.as_mut().unwrap().kernel = text;
    let error = refused(&dom0, &spec).await;
    assert_eq!(error.kind(), Kind::Backend);
    assert!(error.report().contains("kernel"), "{}", error.report());
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.downcast_ref::<LibxlError>().is_some_and(|libxl| libxl.line().is_some()));

    let mut spec = good.clone();
    spec.memory = MemoryMib::new(100_000);
    spec.max_memory = spec.memory;
    assert_eq!(refused(&dom0, &spec).await.kind(), Kind::NoMemory);

    let mut spec = good.clone();
    spec.disks.push(dom0.disk("xvda", Access::ReadOnly));
    let missing =
        DiskSpec { vdev: "xvdb".parse().unwrap(), path: "/nowhere/b.img".into(), access: Access::ReadOnly };
    spec.disks.push(missing);
    let error = refused(&dom0, &spec).await;
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.report().contains("/nowhere/b.img"));

    let unwritable = Unwritable::new(&dom0, "xvdb");
    spec.disks[1] = unwritable.disk.clone();
    let error = refused(&dom0, &spec).await;
    assert_eq!(error.kind(), Kind::Backend, "{}", error.report());
    assert!(error.report().contains("unwritable.img"), "{}", error.report());

    dom0.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
async fn a_name_and_a_uuid_belong_to_one_domain() {
    let dom0 = Dom0::open().await;
    let first = tiny("twin", VirtMode::Pvh, "");
    dom0.start(&first).await;

    let same_name = tiny("twin", VirtMode::Pvh, "");
    let error = dom0.create(&same_name).await.unwrap_err();
    assert_eq!(error.kind(), Kind::AlreadyExists, "{}", error.report());

    let same_uuid = DomainSpec { uuid: first.uuid, ..tiny("other", VirtMode::Pvh, "") };
    let error = dom0.create(&same_uuid).await.unwrap_err();
    assert_eq!(error.kind(), Kind::AlreadyExists, "{}", error.report());

    // A build that is cancelled before it began must not take the other's domain for its own.
    let cancel = CancellationToken::new();
    cancel.cancel();
    let error = dom0.xen.create(same_uuid.clone(), cancel).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Cancelled);

    // Two at once: one is built.
    let (one, two) = (tiny("race", VirtMode::Pvh, ""), tiny("race", VirtMode::Pvh, ""));
    let (a, b) = tokio::join!(dom0.create(&one), dom0.create(&two));
    assert!(a.is_ok() ^ b.is_ok(), "{a:?} {b:?}");

    assert_eq!(xl_list().keys().collect::<Vec<_>>(), ["race", "twin"]);
    for info in dom0.xen.list().await.unwrap() {
        dom0.xen.destroy(info.uuid).await.unwrap();
    }
    dom0.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
async fn what_is_asked_of_a_domain_that_is_gone_is_not_found() {
    let dom0 = Dom0::open().await;
    let gone = uuid::Uuid::new_v4();
    let never = CancellationToken::new;
    let disk = dom0.disk("xvdi", Access::ReadOnly);
    let kinds = [
        dom0.xen.info(gone).await.map(drop),
        dom0.xen.pause(gone).await,
        dom0.xen.unpause(gone).await,
        dom0.xen.request_shutdown(gone).await,
        dom0.xen.destroy(gone).await,
        dom0.xen.disks(gone).await.map(drop),
        dom0.xen.attach_disk(gone, disk.clone(), never()).await,
        dom0.xen.detach_disk(gone, disk.vdev, never()).await,
    ]
    .map(|result| result.unwrap_err().kind());
    assert_eq!(kinds, [Kind::NotFound; 8]);
    dom0.close().await;
}
