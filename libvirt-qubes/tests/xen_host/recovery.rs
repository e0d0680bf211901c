//! What a process that is killed leaves, the next one finds by its UUID and removes.

use std::process::Command;
use std::time::Duration;

use libvirt_qubes::Kind;
use libvirt_qubes::config::{Access, VirtMode};
use libvirt_qubes::hypervisor::Domains;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::dom0::{Dom0, linux, loops, xl_list};

/// Tells this program that it is to build the domain of this UUID, and be killed.
const BUILD: &str = "XEN_HOST_BUILD";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
async fn a_build_whose_process_was_killed_is_found_by_its_uuid_and_removed() {
    if let Ok(uuid) = std::env::var(BUILD) {
        return build(uuid.parse().unwrap()).await;
    }
    let dom0 = Dom0::open().await;
    let mut found = 0;
    for delay in [300, 600, 900, 1200, 1600, 2500] {
        let uuid = Uuid::new_v4();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "--test-threads=1"])
            .arg("recovery::a_build_whose_process_was_killed_is_found_by_its_uuid_and_removed")
            .env(BUILD, uuid.to_string())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(delay)).await;
        child.kill().unwrap();
        child.wait().unwrap();

        // As a daemon does that starts again.
        let again = Dom0::connect();
        let info = again.info(uuid).await;
        let left = xl_list().len();
        match again.destroy(uuid).await {
            Ok(()) => found += 1,
            Err(error) => assert_eq!(error.kind(), Kind::NotFound, "{}", error.report()),
        }
        println!("killed after {delay} ms: left {left} domain, named {:?}", info.map(|info| info.name));
        assert!(xl_list().is_empty(), "{:?}", xl_list());
        assert_eq!(loops(), Vec::<String>::new());
        dom0.assert_clean();
        again.close().await;
    }
    assert!(found > 0, "every build was killed before it began, or after its process ended");
    dom0.close().await;
}

async fn build(uuid: Uuid) {
    let xen = Dom0::connect();
    let dir = tempfile::tempdir().unwrap();
    let mut spec = linux(dir.path(), "killed", VirtMode::Pv);
    spec.uuid = uuid;
    for vdev in ["xvdb", "xvdc", "xvdd"] {
        let path = dir.path().join(vdev);
        std::fs::write(&path, vec![0; 1 << 16]).unwrap();
        let mut disk = spec.disks[0].clone();
        (disk.vdev, disk.path, disk.access) = (vdev.parse().unwrap(), path, Access::ReadWrite);
        spec.disks.push(disk);
    }
    xen.create(spec, CancellationToken::new()).await.unwrap();
    std::future::pending().await
}
