//! The simulated hypervisor: what it adds to the contract that every hypervisor keeps.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use std::time::Duration;

use libvirt_qubes::config::{Access, DiskSpec, DomainSpec, VirtMode};
use libvirt_qubes::hypervisor::{
    Devices, DomainChange, DomainEvent, DomainState, Domains, EventSource, HostInfo, HypervisorEvent,
    ShutdownReason,
};
use libvirt_qubes::ids::MemoryMib;
use libvirt_qubes::sim::{GuestAct, Rule, SimConfig, SimHypervisor, World};
use libvirt_qubes::{Kind, Op};
use tokio::sync::broadcast::Receiver;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

fn spec(name: &str) -> DomainSpec {
    DomainSpec {
        name: name.parse().unwrap(),
        uuid: Uuid::new_v4(),
        virt_mode: VirtMode::Pvh,
        memory: MemoryMib::new(400),
        max_memory: MemoryMib::new(400),
        vcpus: 1,
        boot: None,
        disks: Vec::new(),
    }
}

fn disk(dir: &Path, name: &str) -> DiskSpec {
    let path = dir.join(name);
    std::fs::write(&path, vec![0; 4096]).unwrap();
    DiskSpec { vdev: "xvda".parse().unwrap(), path, access: Access::ReadWrite }
}

async fn open(world: &World, config: SimConfig) -> SimHypervisor {
    SimHypervisor::open(world.clone(), config).await.unwrap()
}

async fn memory() -> SimHypervisor {
    open(&World::memory(), SimConfig::default()).await
}

fn none() -> CancellationToken {
    CancellationToken::new()
}

/// A domain that runs.
async fn running(sim: &SimHypervisor, spec: &DomainSpec) {
    sim.create(spec.clone(), none()).await.unwrap();
    sim.unpause(spec.uuid).await.unwrap();
}

async fn next(events: &mut Receiver<HypervisorEvent>) -> DomainChange {
    match tokio::time::timeout(Duration::from_secs(10), events.recv()).await.unwrap().unwrap() {
        HypervisorEvent::Domain(DomainEvent { change, .. }) => change,
        other @ (HypervisorEvent::Lost | HypervisorEvent::Unavailable) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_guest_that_powers_off_keeps_its_memory_until_it_is_destroyed() {
    let sim = memory().await;
    let mut events = sim.subscribe();
    let work = spec("work");
    let all = sim.facts().await.unwrap().free_memory_kib;
    running(&sim, &work).await;
    assert_eq!(next(&mut events).await, DomainChange::Unpaused);
    sim.world().poweroff(work.uuid).await.unwrap();
    assert_eq!(next(&mut events).await, DomainChange::Shutdown(ShutdownReason::Poweroff));
    let info = sim.info(work.uuid).await.unwrap();
    assert_eq!(info.state, DomainState::Shutdown(ShutdownReason::Poweroff));
    assert_eq!(sim.facts().await.unwrap().free_memory_kib, all - 400 * 1024);
    sim.destroy(work.uuid).await.unwrap();
    assert_eq!(next(&mut events).await, DomainChange::Died);
    assert_eq!(sim.facts().await.unwrap().free_memory_kib, all);
}

#[tokio::test(start_paused = true)]
async fn a_slow_start_delays_neither_a_list_nor_the_start_of_another() {
    let sim = memory().await;
    let (slow, fast) = (spec("slow"), spec("fast"));
    let begin = tokio::time::Instant::now();
    let rule = Rule::at(Op::CreateDomain).vm(slow.name.clone()).delay(Duration::from_secs(2));
    sim.world().inject(rule).await.unwrap();
    let (made, ()) = tokio::join!(sim.create(slow.clone(), none()), async {
        running(&sim, &fast).await;
        while sim.list().await.unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(sim.info(slow.uuid).await.unwrap().name, None, "it is being built");
        assert_eq!(sim.info(fast.uuid).await.unwrap().state, DomainState::Running);
        assert_eq!(begin.elapsed(), Duration::ZERO);
    });
    made.unwrap();
    assert_eq!(begin.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_create_cancelled_at_any_moment_leaves_nothing() {
    let config = SimConfig { start_ms: 50, ..SimConfig::default() };
    let sim = open(&World::memory(), config).await;
    let free = sim.facts().await.unwrap().free_memory_kib;
    for after in [0, 1, 25, 49] {
        let cancel = none();
        let (made, ()) = tokio::join!(sim.create(spec("work"), cancel.clone()), async {
            tokio::time::sleep(Duration::from_millis(after)).await;
            cancel.cancel();
        });
        assert_eq!(made.unwrap_err().kind(), Kind::Cancelled);
        assert_eq!(sim.list().await.unwrap(), []);
        assert_eq!(sim.facts().await.unwrap().free_memory_kib, free);
    }
}

#[tokio::test]
async fn a_create_that_hangs_ends_by_its_cancel_or_by_a_destroy() {
    let sim = memory().await;
    let world = sim.world();
    let work = spec("work");
    let present = || async {
        while sim.list().await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    world.hang_next(Op::CreateDomain).await.unwrap();
    let cancel = none();
    let (made, ()) = tokio::join!(sim.create(work.clone(), cancel.clone()), async {
        present().await;
        assert_eq!(sim.unpause(work.uuid).await.unwrap_err().kind(), Kind::Busy);
        cancel.cancel();
    });
    assert_eq!(made.unwrap_err().kind(), Kind::Cancelled);
    world.hang_next(Op::CreateDomain).await.unwrap();
    let (made, ()) = tokio::join!(sim.create(work.clone(), none()), async {
        present().await;
        sim.destroy(work.uuid).await.unwrap();
    });
    assert!(made.unwrap_err().report().contains("destroyed while it was built"));
    assert_eq!(sim.list().await.unwrap(), []);
}

#[tokio::test]
async fn a_create_goes_on_when_its_caller_has_gone() {
    let sim = memory().await;
    let work = spec("work");
    sim.world().hang_next(Op::CreateDomain).await.unwrap();
    {
        let mut create = sim.create(work.clone(), none());
        tokio::select! {
            biased;
            _ = &mut create => panic!("it hangs"),
            () = async { while sim.list().await.unwrap().is_empty() { tokio::task::yield_now().await } } => {}
        }
    }
    sim.world().release().await.unwrap();
    while sim.info(work.uuid).await.unwrap().name.is_none() {
        tokio::task::yield_now().await;
    }
    sim.unpause(work.uuid).await.unwrap();
}

#[tokio::test]
async fn a_destroy_that_hangs_ends_with_the_next_one() {
    let sim = memory().await;
    let work = spec("work");
    running(&sim, &work).await;
    sim.world().hang_next(Op::DestroyDomain).await.unwrap();
    let (first, ()) = tokio::join!(sim.destroy(work.uuid), async {
        while sim.info(work.uuid).await.unwrap().state != DomainState::Dying {
            tokio::task::yield_now().await;
        }
        sim.destroy(work.uuid).await.unwrap();
    });
    first.unwrap();
    assert_eq!(sim.destroy(work.uuid).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn the_death_of_a_domain_found_dying_is_told_once() {
    let world = World::memory();
    let (ours, theirs) = (open(&world, SimConfig::default()).await, open(&world, SimConfig::default()).await);
    let work = spec("work");
    running(&ours, &work).await;
    world.hang_next(Op::DestroyDomain).await.unwrap();
    let mut events = theirs.subscribe();
    let (destroyed, ()) = tokio::join!(ours.destroy(work.uuid), async {
        while ours.info(work.uuid).await.unwrap().state != DomainState::Dying {
            tokio::task::yield_now().await;
        }
        theirs.watch(work.uuid).await.unwrap();
        assert_eq!(next(&mut events).await, DomainChange::Died);
        world.release().await.unwrap();
    });
    destroyed.unwrap();
    theirs.list().await.unwrap();
    assert!(events.try_recv().is_err());
}

#[tokio::test]
async fn pauses_count_for_others_and_one_unpause_of_ours_ends_them_all() {
    let sim = memory().await;
    let work = spec("work");
    running(&sim, &work).await;
    let mut events = sim.subscribe();
    let state = || async { sim.info(work.uuid).await.unwrap().state };
    for _ in 0..3 {
        sim.world().pause(work.uuid).await.unwrap();
    }
    sim.pause(work.uuid).await.unwrap();
    sim.world().unpause(work.uuid).await.unwrap();
    assert_eq!(state().await, DomainState::Paused);
    for _ in 0..2 {
        sim.unpause(work.uuid).await.unwrap();
        assert_eq!(state().await, DomainState::Running);
    }
    assert!(sim.world().unpause(work.uuid).await.is_err(), "Xen refuses one unpause too many");
    assert_eq!(next(&mut events).await, DomainChange::Paused);
    assert_eq!(next(&mut events).await, DomainChange::Unpaused);
    assert!(events.try_recv().is_err(), "each change is told once");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_listens_powers_off_in_its_time_and_a_deaf_one_never_does() {
    let config = SimConfig { shutdown_ms: 3000, ..SimConfig::default() };
    let sim = open(&World::memory(), config).await;
    let (good, deaf) = (spec("good"), spec("deaf"));
    sim.world().inject(Rule::at(Op::ShutdownDomain).vm(deaf.name.clone()).deaf()).await.unwrap();
    running(&sim, &good).await;
    running(&sim, &deaf).await;
    let mut events = sim.subscribe();
    let begin = tokio::time::Instant::now();
    for uuid in [deaf.uuid, good.uuid, good.uuid] {
        sim.request_shutdown(uuid).await.unwrap();
    }
    assert_eq!(begin.elapsed(), Duration::ZERO, "a request is handed over, not waited for");
    assert_eq!(next(&mut events).await, DomainChange::Shutdown(ShutdownReason::Poweroff));
    assert_eq!(begin.elapsed(), Duration::from_secs(3));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(sim.info(deaf.uuid).await.unwrap().state, DomainState::Running);
    assert!(events.try_recv().is_err());
    sim.destroy(deaf.uuid).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_guest_does_at_a_time_waits_while_it_is_paused() {
    let sim = memory().await;
    let work = spec("work");
    let crash = GuestAct::ShutDown(ShutdownReason::Crash);
    let rule = Rule::at(Op::CreateDomain).guest(Duration::from_millis(100), crash);
    sim.world().inject(rule).await.unwrap();
    sim.create(work.clone(), none()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    sim.unpause(work.uuid).await.unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    sim.pause(work.uuid).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(sim.info(work.uuid).await.unwrap().state, DomainState::Paused);
    let mut events = sim.subscribe();
    sim.unpause(work.uuid).await.unwrap();
    let begin = tokio::time::Instant::now();
    assert_eq!(next(&mut events).await, DomainChange::Unpaused);
    assert_eq!(next(&mut events).await, DomainChange::Shutdown(ShutdownReason::Crash));
    assert_eq!(begin.elapsed(), Duration::from_millis(40));
}

#[tokio::test(start_paused = true)]
async fn a_paused_guest_that_has_run_does_not_let_go_of_a_disk() {
    let dir = tempfile::tempdir().unwrap();
    let sim = memory().await;
    let mut work = spec("work");
    let root = disk(dir.path(), "root");
    work.disks.push(root.clone());
    sim.create(work.clone(), none()).await.unwrap();
    sim.detach_disk(work.uuid, root.vdev, none()).await.expect("no frontend yet");
    sim.attach_disk(work.uuid, root.clone(), none()).await.unwrap();
    sim.unpause(work.uuid).await.unwrap();
    sim.pause(work.uuid).await.unwrap();
    let error = sim.detach_disk(work.uuid, root.vdev, none()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TimedOut);
    assert_eq!(sim.disks(work.uuid).await.unwrap().len(), 1, "it is attached still");
    let (detached, ()) = tokio::join!(sim.detach_disk(work.uuid, root.vdev, none()), async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        sim.unpause(work.uuid).await.unwrap();
    });
    detached.unwrap();
    assert_eq!(sim.disks(work.uuid).await.unwrap(), []);
}

#[tokio::test]
async fn a_file_that_one_domain_writes_is_refused_to_another() {
    let dir = tempfile::tempdir().unwrap();
    let sim = memory().await;
    let (mut first, mut second) = (spec("first"), spec("second"));
    let shared = disk(dir.path(), "shared");
    first.disks.push(shared.clone());
    second.disks.push(DiskSpec { access: Access::ReadOnly, ..shared.clone() });
    sim.create(first.clone(), none()).await.unwrap();
    let error = sim.create(second.clone(), none()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    assert!(error.report().contains("xvda of first"), "{}", error.report());
    sim.destroy(first.uuid).await.unwrap();
    sim.create(second.clone(), none()).await.unwrap();
    first.disks[0].access = Access::ReadOnly;
    sim.create(first.clone(), none()).await.expect("readers share");
}

#[tokio::test]
async fn a_script_breaks_what_it_says_and_writes_into_a_guests_disk() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script.toml");
    std::fs::write(
        &script,
        r#"
        [[rule]]
        vm = "work"
        step = "create"
        times = 1
        fail = { kind = "no-memory", text = "not today" }
        [[rule]]
        vm = "work"
        step = "unpause"
        write = { vdev = "xvda", offset = 100, text = "I was here" }
        poweroff_after_ms = 1
        "#,
    )
    .unwrap();
    let config = SimConfig { script: Some(script.clone()), ..SimConfig::default() };
    let sim = open(&World::memory(), config).await;
    let mut events = sim.subscribe();
    let mut work = spec("work");
    work.disks.push(disk(dir.path(), "root"));
    let error = sim.create(work.clone(), none()).await.unwrap_err();
    assert_eq!(error.report(), "create domain work: not enough memory: not today");
    running(&sim, &work).await;
    assert_eq!(next(&mut events).await, DomainChange::Unpaused);
    assert_eq!(next(&mut events).await, DomainChange::Shutdown(ShutdownReason::Poweroff));
    let content = std::fs::read(dir.path().join("root")).unwrap();
    assert_eq!(&content[100..110], b"I was here");

    std::fs::write(&script, "[[rule]]\nstep = \"create\"\nfial = 1\n").unwrap();
    let config = SimConfig { script: Some(script), ..SimConfig::default() };
    let error = SimHypervisor::open(World::memory(), config).await.unwrap_err();
    let report = error.report();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(report.contains("script.toml") && report.contains("line 3"), "{report}");
}

#[tokio::test]
async fn a_guest_reads_and_writes_its_disk_only_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let sim = memory().await;
    let world = sim.world();
    let mut work = spec("work");
    let root = disk(dir.path(), "root");
    work.disks.push(root.clone());
    sim.create(work.clone(), none()).await.unwrap();
    let write = || world.write(work.uuid, root.vdev, 8, b"data".to_vec());
    assert_eq!(write().await.unwrap_err().kind(), Kind::Busy);
    sim.unpause(work.uuid).await.unwrap();
    write().await.unwrap();
    assert_eq!(world.read(work.uuid, root.vdev, 7, 6).await.unwrap(), b"\0data\0");
    let more = DiskSpec { vdev: "xvdi".parse().unwrap(), ..disk(dir.path(), "more") };
    sim.attach_disk(work.uuid, more.clone(), none()).await.unwrap();
    world.write(work.uuid, more.vdev, 0, b"too".to_vec()).await.unwrap();
    assert!(std::fs::read(&more.path).unwrap().starts_with(b"too"));
    sim.detach_disk(work.uuid, more.vdev, none()).await.unwrap();
    assert!(world.write(work.uuid, more.vdev, 0, b"no".to_vec()).await.is_err());
    sim.destroy(work.uuid).await.unwrap();
    assert_eq!(write().await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn a_world_on_disk_is_found_again_as_it_was_left() {
    let dir = tempfile::tempdir().unwrap();
    let specs: Vec<DomainSpec> =
        ["runs", "paused", "ended", "dying", "half", "asked"].into_iter().map(spec).collect();
    let [runs, paused, ended, dying, half, asked] = &specs[..] else { panic!() };
    {
        let config = SimConfig { shutdown_ms: 30, ..SimConfig::default() };
        let sim = open(&World::on_disk(dir.path()).await.unwrap(), config).await;
        for one in [runs, paused, ended, dying, asked] {
            running(&sim, one).await;
        }
        sim.pause(paused.uuid).await.unwrap();
        sim.world().crash(ended.uuid).await.unwrap();
        sim.world().hang_next(Op::DestroyDomain).await.unwrap();
        sim.world().hang_next(Op::CreateDomain).await.unwrap();
        sim.request_shutdown(asked.uuid).await.unwrap();
        // Both are under way when the process ends.
        let wait = Duration::from_millis(20);
        assert!(tokio::time::timeout(wait, sim.destroy(dying.uuid)).await.is_err());
        assert!(tokio::time::timeout(wait, sim.create(half.clone(), none())).await.is_err());
    }
    tokio::time::sleep(Duration::from_millis(30)).await;
    let sim = open(&World::on_disk(dir.path()).await.unwrap(), SimConfig::default()).await;
    let list = sim.list().await.unwrap();
    let seen: Vec<_> = list.iter().map(|info| (info.uuid, info.name.as_deref(), info.state)).collect();
    assert_eq!(
        seen,
        [
            (runs.uuid, Some("runs"), DomainState::Running),
            (paused.uuid, Some("paused"), DomainState::Paused),
            (ended.uuid, Some("ended"), DomainState::Shutdown(ShutdownReason::Crash)),
            (dying.uuid, None, DomainState::Dying),
            (asked.uuid, Some("asked"), DomainState::Shutdown(ShutdownReason::Poweroff)),
            (half.uuid, None, DomainState::Paused),
        ]
    );
    for one in &specs {
        sim.destroy(one.uuid).await.unwrap();
    }
    let after = sim.create(spec("later"), none()).await.unwrap();
    assert_eq!(after.get(), 7, "numbers go on");
}

#[tokio::test]
async fn a_removed_folder_is_a_host_that_was_rebooted() {
    let dir = tempfile::tempdir().unwrap();
    {
        let sim = open(&World::on_disk(dir.path()).await.unwrap(), SimConfig::default()).await;
        running(&sim, &spec("work")).await;
    }
    std::fs::remove_dir_all(dir.path().join("sim")).unwrap();
    let sim = open(&World::on_disk(dir.path()).await.unwrap(), SimConfig::default()).await;
    assert_eq!(sim.list().await.unwrap(), []);
    assert_eq!(sim.create(spec("work"), none()).await.unwrap().get(), 1);
}

#[tokio::test]
async fn a_guest_keeps_its_disk_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut work = spec("work");
    let root = disk(dir.path(), "root");
    work.disks.push(root.clone());
    running(&open(&World::on_disk(dir.path()).await.unwrap(), SimConfig::default()).await, &work).await;
    let sim = open(&World::on_disk(dir.path()).await.unwrap(), SimConfig::default()).await;
    sim.world().write(work.uuid, root.vdev, 0, b"still here".to_vec()).await.unwrap();
    assert!(std::fs::read(&root.path).unwrap().starts_with(b"still here"));
    let mut thief = spec("thief");
    thief.disks.push(root);
    assert_eq!(sim.create(thief, none()).await.unwrap_err().kind(), Kind::Busy);
}

#[tokio::test]
async fn what_cannot_be_written_down_does_not_happen() {
    let dir = tempfile::tempdir().unwrap();
    let sim = open(&World::on_disk(dir.path()).await.unwrap(), SimConfig::default()).await;
    let work = spec("work");
    running(&sim, &work).await;
    let mut events = sim.subscribe();
    std::fs::remove_dir_all(dir.path().join("sim")).unwrap();
    assert!(sim.pause(work.uuid).await.is_err());
    assert!(sim.create(spec("other"), none()).await.is_err());
    assert_eq!(sim.info(work.uuid).await.unwrap().state, DomainState::Running);
    assert_eq!(sim.list().await.unwrap().len(), 1);
    assert!(events.try_recv().is_err());
}

#[tokio::test]
async fn a_second_toolstack_is_told_once_of_what_happened_before_it_watched() {
    let world = World::memory();
    let (ours, theirs) = (open(&world, SimConfig::default()).await, open(&world, SimConfig::default()).await);
    let work = spec("work");
    running(&ours, &work).await;
    world.reboot(work.uuid).await.unwrap();
    let mut events = theirs.subscribe();
    theirs.watch(work.uuid).await.unwrap();
    theirs.watch(work.uuid).await.unwrap();
    assert_eq!(next(&mut events).await, DomainChange::Shutdown(ShutdownReason::Reboot));
    world.destroy(work.uuid).await.unwrap();
    assert_eq!(next(&mut events).await, DomainChange::Died);
    assert!(events.try_recv().is_err());
    assert_eq!(theirs.watch(work.uuid).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn without_xenstore_only_lists_and_pauses_work() {
    let sim = memory().await;
    let work = spec("work");
    running(&sim, &work).await;
    let mut events = sim.subscribe();
    sim.world().lose_services().await.unwrap();
    assert_eq!(events.recv().await.unwrap(), HypervisorEvent::Unavailable);
    sim.pause(work.uuid).await.unwrap();
    assert_eq!(sim.list().await.unwrap().len(), 1);
    let kinds = [
        sim.unpause(work.uuid).await.unwrap_err().kind(),
        sim.create(spec("other"), none()).await.unwrap_err().kind(),
        sim.destroy(work.uuid).await.unwrap_err().kind(),
    ];
    assert_eq!(kinds, [Kind::Unavailable; 3]);
}

#[tokio::test]
async fn every_connection_is_told_of_lost_events() {
    let sim = memory().await;
    let work = spec("work");
    running(&sim, &work).await;
    let mut events = sim.subscribe();
    sim.world().mute().await.unwrap();
    sim.pause(work.uuid).await.unwrap();
    sim.world().lose_events().await.unwrap();
    assert_eq!(events.recv().await.unwrap(), HypervisorEvent::Lost);
    sim.unpause(work.uuid).await.unwrap();
    assert_eq!(next(&mut events).await, DomainChange::Unpaused);
}
