//! Disks of live domains.

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Guest, Host, Outcome, fails_with, must, spec_or_skip};
use crate::config::{Access, DiskSpec, DomainSpec};
use crate::error::Kind;
use crate::ids::Vdev;

impl Host<'_> {
    /// A new disk under this name, counted from `xvda`.
    async fn disk(&self, index: u16, access: Access) -> DiskSpec {
        let vdev = Vdev::new(index).expect("one of the first names");
        DiskSpec { vdev, access, ..self.fixture.disk().await }
    }

    /// Asserts that the domain has these disks and no others besides `before`.
    async fn assert_disks(&self, uuid: Uuid, before: usize, added: &[&DiskSpec]) {
        let disks = must(self.hypervisor.disks(uuid).await, "disks");
        assert!(disks.is_sorted_by_key(|disk| disk.vdev), "not in order: {disks:?}");
        assert_eq!(disks.len(), before + added.len(), "{disks:?}");
        for disk in added {
            let seen = disks.iter().find(|seen| seen.vdev == disk.vdev);
            let seen = seen.unwrap_or_else(|| panic!("no {} in {disks:?}", disk.vdev));
            assert_eq!(seen.access, disk.access);
            if let Some(path) = &seen.path {
                assert_eq!(path, &disk.path);
            }
        }
    }

    async fn attach(&self, uuid: Uuid, disk: &DiskSpec) {
        must(self.hypervisor.attach_disk(uuid, disk.clone(), CancellationToken::new()).await, "attach");
    }

    async fn detach(&self, uuid: Uuid, disk: &DiskSpec) {
        must(self.hypervisor.detach_disk(uuid, disk.vdev, CancellationToken::new()).await, "detach");
    }
}

pub(super) async fn disks_of_a_new_domain_are_listed_in_order(host: &Host<'_>) -> Outcome {
    let spec = spec_or_skip!(host, "disks", Guest::Deaf);
    let before = spec.disks.len();
    let (third, second) = (host.disk(30, Access::ReadOnly).await, host.disk(9, Access::ReadWrite).await);
    let mut disks = spec.disks.clone();
    disks.extend([third.clone(), second.clone()]);
    let spec = DomainSpec { disks, ..spec };
    host.create(&spec).await;
    host.assert_disks(spec.uuid, before, &[&second, &third]).await;
    Outcome::Kept
}

pub(super) async fn a_disk_is_attached_and_detached(host: &Host<'_>) -> Outcome {
    let spec = spec_or_skip!(host, "plug", Guest::Deaf);
    let before = spec.disks.len();
    host.create(&spec).await;
    let (disk, other) = (host.disk(8, Access::ReadWrite).await, host.disk(8, Access::ReadOnly).await);
    for _ in 0..2 {
        host.attach(spec.uuid, &disk).await;
        host.assert_disks(spec.uuid, before, &[&disk]).await;
        let again = host.hypervisor.attach_disk(spec.uuid, other.clone(), CancellationToken::new());
        fails_with(again.await, &[Kind::AlreadyExists], "attach under a name in use");
        host.assert_disks(spec.uuid, before, &[&disk]).await;
        host.detach(spec.uuid, &disk).await;
        host.assert_disks(spec.uuid, before, &[]).await;
        let again = host.hypervisor.detach_disk(spec.uuid, disk.vdev, CancellationToken::new());
        fails_with(again.await, &[Kind::NotFound], "detach of a disk that is not there");
    }
    Outcome::Kept
}

pub(super) async fn a_failed_attach_leaves_nothing(host: &Host<'_>) -> Outcome {
    let spec = spec_or_skip!(host, "misplug", Guest::Deaf);
    let before = spec.disks.len();
    host.create(&spec).await;
    let good = host.disk(8, Access::ReadWrite).await;
    let bad = DiskSpec { path: "/nonexistent/contract".into(), ..good.clone() };
    let attached = host.hypervisor.attach_disk(spec.uuid, bad, CancellationToken::new()).await;
    let kinds = [Kind::Backend, Kind::Invalid, Kind::NotFound, Kind::Io];
    let report = fails_with(attached, &kinds, "attach of a file that is not there");
    assert!(report.contains("/nonexistent/contract"), "it does not name the file: {report}");
    host.assert_disks(spec.uuid, before, &[]).await;
    host.attach(spec.uuid, &good).await;
    Outcome::Kept
}

pub(super) async fn an_attach_that_is_cancelled_leaves_nothing(host: &Host<'_>) -> Outcome {
    let spec = spec_or_skip!(host, "unplug", Guest::Deaf);
    let before = spec.disks.len();
    host.create(&spec).await;
    let disk = host.disk(8, Access::ReadWrite).await;
    let cancel = CancellationToken::new();
    cancel.cancel();
    let attached = host.hypervisor.attach_disk(spec.uuid, disk.clone(), cancel).await;
    fails_with(attached, &[Kind::Cancelled], "attach with a token that was cancelled");
    host.assert_disks(spec.uuid, before, &[]).await;
    host.attach(spec.uuid, &disk).await;
    Outcome::Kept
}

pub(super) async fn a_disk_is_free_again_after_its_domain(host: &Host<'_>) -> Outcome {
    let first = spec_or_skip!(host, "owner", Guest::Deaf);
    let second = spec_or_skip!(host, "heir", Guest::Deaf);
    let disk = host.disk(8, Access::ReadWrite).await;
    let with = |spec: &DomainSpec| {
        let mut spec = spec.clone();
        spec.disks.push(disk.clone());
        spec
    };
    host.create(&with(&first)).await;
    host.destroy(first.uuid).await;
    host.create(&with(&second)).await;
    host.detach(second.uuid, &disk).await;
    host.create(&with(&first)).await;
    Outcome::Kept
}

pub(super) async fn a_running_guest_gets_a_disk_and_gives_it_back(host: &Host<'_>) -> Outcome {
    let spec = spec_or_skip!(host, "frontend", Guest::TakesDisks);
    let before = spec.disks.len();
    host.start(&spec).await;
    let disk = host.disk(8, Access::ReadWrite).await;
    for _ in 0..2 {
        host.attach(spec.uuid, &disk).await;
        host.assert_disks(spec.uuid, before, &[&disk]).await;
        host.detach(spec.uuid, &disk).await;
        host.assert_disks(spec.uuid, before, &[]).await;
    }
    Outcome::Kept
}
