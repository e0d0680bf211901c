//! How domains come into being, and that nothing is left where they do not.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Guest, Host, Outcome, fails_with, must, spec_or_skip};
use crate::config::{Boot, DomainSpec, VirtMode};
use crate::error::Kind;
use crate::hypervisor::{DomainChange, DomainState};
use crate::ids::MemoryMib;

pub(super) async fn a_created_domain_is_paused_and_as_asked_for(host: &Host<'_>) -> Outcome {
    let spec = spec_or_skip!(host, "made", Guest::Deaf);
    let domid = host.create(&spec).await;
    let info = host.info(spec.uuid).await;
    assert_eq!((info.uuid, info.domid), (spec.uuid, domid));
    assert_eq!(info.name.as_deref(), Some(spec.name.as_str()));
    assert_eq!(info.state, DomainState::Paused);
    assert_eq!(info.vcpus, spec.vcpus);
    assert!(info.memory_kib > 0 && info.memory_kib <= spec.memory.kib() + 2048, "{info:?}");
    assert!(info.max_memory_kib >= spec.max_memory.kib(), "{info:?}");
    let list = must(host.hypervisor.list().await, "list");
    assert!(list.iter().any(|one| one.domid == domid && one.uuid == spec.uuid), "{list:?}");
    tokio::time::sleep(host.fixture.quiet()).await;
    assert_eq!(host.state(spec.uuid).await, DomainState::Paused, "nothing runs before the unpause");
    Outcome::Kept
}

pub(super) async fn a_domain_is_listed_while_it_is_being_built(host: &Host<'_>) -> Outcome {
    let spec = spec_or_skip!(host, "built", Guest::Deaf);
    let create = host.hypervisor.create(spec.clone(), CancellationToken::new());
    let mut seen = 0;
    tokio::pin!(create);
    let made = loop {
        tokio::select! {
            made = &mut create => break made,
            list = host.hypervisor.list() => {
                let list = must(list, "list");
                let own = list.iter().find(|info| info.uuid == spec.uuid);
                if let Some(info) = own {
                    assert_eq!(info.state, DomainState::Paused, "{info:?}");
                    seen += 1;
                }
            }
        }
    };
    must(made, "create");
    assert!(seen > 0, "it was never listed before its create returned");
    Outcome::Kept
}

pub(super) async fn a_name_or_uuid_of_a_live_domain_is_refused(host: &Host<'_>) -> Outcome {
    let first = spec_or_skip!(host, "first", Guest::Deaf);
    let other = spec_or_skip!(host, "other", Guest::Deaf);
    host.start(&first).await;
    let same_name = DomainSpec { name: first.name.clone(), ..other.clone() };
    let same_uuid = DomainSpec { uuid: first.uuid, ..other.clone() };
    for spec in [same_name, same_uuid] {
        let made = host.hypervisor.create(spec, CancellationToken::new()).await;
        fails_with(made, &[Kind::AlreadyExists], "create of a second one");
    }
    assert_eq!(host.state(first.uuid).await, DomainState::Running, "the first is not touched");
    host.assert_gone(other.uuid).await;
    host.create(&other).await;
    Outcome::Kept
}

pub(super) async fn a_configuration_that_cannot_be_built_is_refused(host: &Host<'_>) -> Outcome {
    let good = spec_or_skip!(host, "bad", Guest::Deaf);
    let disk = host.fixture.disk().await;
    let no_cpu = DomainSpec { vcpus: 0, ..good.clone() };
    let less_most = MemoryMib::new(good.memory.get().saturating_sub(1));
    let less_most = DomainSpec { max_memory: less_most, ..good.clone() };
    let twice = DomainSpec { disks: vec![disk.clone(), disk], ..good.clone() };
    for (spec, what) in
        [(no_cpu, "no CPU"), (less_most, "less at most than at first"), (twice, "a vdev twice")]
    {
        let made = host.hypervisor.create(spec, CancellationToken::new()).await;
        fails_with(made, &[Kind::Invalid, Kind::Unsupported], what);
        host.assert_gone(good.uuid).await;
    }
    Outcome::Kept
}

pub(super) async fn a_domain_without_a_kernel_starts_only_where_the_host_says_so(host: &Host<'_>) -> Outcome {
    let spec = spec_or_skip!(host, "bare", Guest::Deaf);
    let spec = DomainSpec { boot: None, virt_mode: VirtMode::Pvh, ..spec };
    let made = host.hypervisor.create(spec.clone(), CancellationToken::new()).await;
    if host.hypervisor.boots_without_kernel() {
        must(made, "create without a kernel");
    } else {
        fails_with(made, &[Kind::Invalid, Kind::Unsupported], "create without a kernel");
        host.assert_gone(spec.uuid).await;
    }
    Outcome::Kept
}

pub(super) async fn too_much_memory_is_refused(host: &Host<'_>) -> Outcome {
    let spec = spec_or_skip!(host, "huge", Guest::Deaf);
    let facts = must(host.hypervisor.facts().await, "facts");
    let mib = u32::try_from(facts.free_memory_kib / 1024).expect("a host of less than 4 PiB");
    let memory = MemoryMib::new(mib.saturating_add(64));
    let spec = DomainSpec { memory, max_memory: memory, ..spec };
    let made = host.hypervisor.create(spec.clone(), CancellationToken::new()).await;
    fails_with(made, &[Kind::NoMemory], "create with more memory than there is");
    host.assert_gone(spec.uuid).await;
    host.gives_back(facts.free_memory_kib).await;
    Outcome::Kept
}

pub(super) async fn a_failed_create_names_the_file_and_leaves_nothing(host: &Host<'_>) -> Outcome {
    let good = spec_or_skip!(host, "broken", Guest::Deaf);
    let free = host.free_memory_kib().await;
    let missing = Path::new("/nonexistent/contract");
    let mut disk = host.fixture.disk().await;
    let good = DomainSpec { disks: vec![disk.clone()], ..good };
    disk.path = missing.into();
    let kernel = Boot { kernel: missing.into(), ramdisk: None, cmdline: String::new() };
    for spec in
        [DomainSpec { disks: vec![disk], ..good.clone() }, DomainSpec { boot: Some(kernel), ..good.clone() }]
    {
        let mut ear = host.listen();
        let made = host.hypervisor.create(spec, CancellationToken::new()).await;
        let kinds = [Kind::Backend, Kind::Invalid, Kind::NotFound, Kind::Io];
        let report = fails_with(made, &kinds, "create with a file that is not there");
        assert!(report.contains("/nonexistent/contract"), "it does not name the file: {report}");
        host.assert_gone(good.uuid).await;
        host.gives_back(free).await;
        ear.hears_nothing(good.uuid).await;
    }
    host.create(&good).await;
    Outcome::Kept
}

pub(super) async fn a_create_cancelled_before_it_begins_makes_nothing(host: &Host<'_>) -> Outcome {
    let spec = spec_or_skip!(host, "never", Guest::Deaf);
    let cancel = CancellationToken::new();
    cancel.cancel();
    let made = host.hypervisor.create(spec.clone(), cancel).await;
    fails_with(made, &[Kind::Cancelled], "create with a token that was cancelled");
    host.assert_gone(spec.uuid).await;
    Outcome::Kept
}

pub(super) async fn a_create_cancelled_at_any_moment_leaves_nothing(host: &Host<'_>) -> Outcome {
    let bare = spec_or_skip!(host, "cut", Guest::Deaf);
    let free = host.free_memory_kib().await;
    let spec = DomainSpec { disks: vec![host.fixture.disk().await], ..bare };
    let begin = Instant::now();
    host.create(&spec).await;
    let whole = begin.elapsed();
    host.destroy(spec.uuid).await;
    let mut cancelled = 0;
    for tenth in 0..10 {
        let cancel = CancellationToken::new();
        let cut = async {
            tokio::time::sleep(whole * tenth / 10).await;
            cancel.cancel();
        };
        let create = host.hypervisor.create(spec.clone(), cancel.clone());
        let (made, ()) = tokio::join!(create, cut);
        match made {
            // It was whole before the cancel came.
            Ok(_) => host.destroy(spec.uuid).await,
            error => {
                fails_with(error, &[Kind::Cancelled], "a cancelled create");
                cancelled += 1;
            }
        }
        host.assert_gone(spec.uuid).await;
        host.gives_back(free).await;
    }
    assert!(cancelled > 0, "no cancel came in time");
    let mut ear = host.listen();
    let domid = host.create(&spec).await;
    host.destroy(spec.uuid).await;
    ear.hears(spec.uuid, domid, DomainChange::Died).await;
    Outcome::Kept
}

pub(super) async fn a_create_whose_caller_goes_away_runs_to_its_end(host: &Host<'_>) -> Outcome {
    let spec = spec_or_skip!(host, "left", Guest::Deaf);
    let create = host.hypervisor.create(spec.clone(), CancellationToken::new());
    // Long enough to begin it; a host that is faster than this has made it.
    let begun = tokio::time::timeout(Duration::from_millis(5), create).await;
    if let Ok(made) = begun {
        must(made, "create");
    }
    let end = Instant::now() + host.fixture.patience();
    loop {
        // The name comes last.
        let list = must(host.hypervisor.list().await, "list");
        if list.iter().any(|info| info.uuid == spec.uuid && info.name.is_some()) {
            break;
        }
        assert!(Instant::now() < end, "it was not made");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    host.reaches(spec.uuid, DomainState::Paused).await;
    Outcome::Kept
}

pub(super) async fn domains_are_created_side_by_side(host: &Host<'_>) -> Outcome {
    let one = spec_or_skip!(host, "side-1", Guest::Deaf);
    let two = spec_or_skip!(host, "side-2", Guest::Deaf);
    let three = spec_or_skip!(host, "side-3", Guest::Deaf);
    let (a, b, c) = tokio::join!(host.create(&one), host.create(&two), host.create(&three));
    assert!(a != b && b != c && a != c, "{a} {b} {c}");
    let uuids: [Uuid; 3] = [one.uuid, two.uuid, three.uuid];
    tokio::join!(host.destroy(uuids[0]), host.destroy(uuids[1]), host.destroy(uuids[2]));
    for uuid in uuids {
        host.assert_gone(uuid).await;
    }
    Outcome::Kept
}
