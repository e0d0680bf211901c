//! That nothing adds up: descriptors, threads, domains, loop devices, nodes, and other people's children.

use std::time::{Duration, Instant};

use libvirt_qubes::config::{Access, VirtMode};
use libvirt_qubes::hypervisor::{DomainChange, Domains};

use crate::dom0::{Dom0, PATIENCE, open_fds, says, tiny};

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
async fn six_lives_one_after_the_other_leave_nothing() {
    let mut dom0 = Dom0::open().await;
    let disk = dom0.disk("xvda", Access::ReadWrite);
    let mut after_first = None;
    let begin = Instant::now();
    for round in 0..6 {
        let mut spec = tiny(&format!("again-{round}"), VirtMode::Pvh, "");
        spec.disks.push(disk.clone());
        dom0.start(&spec).await;
        says(spec.name.as_str(), "GUEST-UP").await;
        if round % 2 == 0 {
            dom0.xen.request_shutdown(spec.uuid).await.unwrap();
            while !matches!(dom0.change(spec.uuid).await, DomainChange::Shutdown(_)) {}
        }
        dom0.xen.destroy(spec.uuid).await.unwrap();
        while dom0.change(spec.uuid).await != DomainChange::Died {}
        dom0.assert_clean();
        let first = *after_first.get_or_insert_with(open_fds);
        // A thread that just ended may still be closing its context.
        let until = Instant::now() + PATIENCE;
        while open_fds() > first {
            let now = open_fds();
            assert!(
                Instant::now() < until,
                "file descriptors: {first} after the first life, {now} after {}",
                round + 1
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    println!("6 lives in {:?}, {} descriptors, {} threads", begin.elapsed(), open_fds(), threads());
    dom0.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
async fn opening_and_closing_leaves_no_descriptor_and_no_thread() {
    Dom0::open().await.close().await;
    let (fds, before) = (open_fds(), threads());
    for _ in 0..5 {
        Dom0::open().await.close().await;
    }
    // The last thread may still be on its way out.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!((open_fds(), threads()), (fds, before));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
async fn the_children_of_tokio_are_left_alone() {
    let dom0 = Dom0::open().await;
    let specs: Vec<_> = (0..3)
        .map(|n| {
            let mut spec = tiny(&format!("beside-{n}"), VirtMode::Pvh, "");
            let mut disk = dom0.disk("xvda", Access::ReadWrite);
            let own = disk.path.with_file_name(format!("{}.img", spec.name));
            std::fs::rename(&disk.path, &own).unwrap();
            disk.path = own;
            spec.disks.push(disk);
            spec
        })
        .collect();
    let lives = async {
        for _ in 0..2 {
            tokio::try_join!(dom0.create(&specs[0]), dom0.create(&specs[1]), dom0.create(&specs[2])).unwrap();
            tokio::try_join!(
                dom0.xen.destroy(specs[0].uuid),
                dom0.xen.destroy(specs[1].uuid),
                dom0.xen.destroy(specs[2].uuid),
            )
            .unwrap();
        }
    };
    let mut children = 0;
    let tokio_children = async {
        loop {
            for expected in [0, 1] {
                let program = if expected == 0 { "true" } else { "false" };
                let status = tokio::process::Command::new(program).status().await.unwrap();
                assert_eq!(status.code(), Some(expected));
                let status =
                    tokio::task::spawn_blocking(move || std::process::Command::new(program).status());
                assert_eq!(status.await.unwrap().unwrap().code(), Some(expected));
                children += 2;
            }
        }
    };
    tokio::select! {
        () = lives => {}
        () = tokio_children => unreachable!(),
    }
    println!("{children} children of ours beside 6 builds and ends, each with its own exit status");
    assert!(children > 20);
    dom0.close().await;
}
