//! The toolstack as an embedder uses it, over the simulated hypervisor and without the Qubes model.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use libvirt_qubes::config::{Access, DiskSpec, DomainSpec, VirtMode};
use libvirt_qubes::domain::Begin;
use libvirt_qubes::event::{Event, Subscription};
use libvirt_qubes::hypervisor::{DomainChange, DomainState, ShutdownReason};
use libvirt_qubes::ids::{MemoryMib, Vdev};
use libvirt_qubes::sim::{Rule, SimConfig, SimHypervisor, World};
use libvirt_qubes::toolstack::{Failed, Toolstack};
use libvirt_qubes::{Kind, Op};
use uuid::Uuid;

async fn toolstack(world: &World) -> Toolstack {
    let config = SimConfig { shutdown_ms: 20, ..SimConfig::default() };
    let sim = SimHypervisor::open(world.clone(), config).await.unwrap();
    Toolstack::open(Arc::new(sim)).await.unwrap()
}

fn spec(name: &str, disks: Vec<DiskSpec>) -> DomainSpec {
    DomainSpec {
        name: name.parse().unwrap(),
        uuid: Uuid::new_v4(),
        virt_mode: VirtMode::Pvh,
        memory: MemoryMib::new(400),
        max_memory: MemoryMib::new(400),
        vcpus: 1,
        boot: None,
        disks,
    }
}

fn disk(dir: &Path, name: &str, vdev: &str) -> DiskSpec {
    let path = dir.join(name);
    std::fs::write(&path, vec![0; 4096]).unwrap();
    DiskSpec { vdev: vdev.parse().unwrap(), path, access: Access::ReadWrite }
}

async fn state(toolstack: &Toolstack, uuid: Uuid) -> Option<DomainState> {
    toolstack.hypervisor().info(uuid).await.ok().map(|info| info.state)
}

async fn seen(events: &mut Subscription, wanted: impl Fn(&Event) -> bool) {
    let wait = async {
        while let Some(event) = events.next().await {
            if wanted(&event) {
                return;
            }
        }
        panic!("no more events");
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap();
}

fn is(change: DomainChange) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Changed(event) if event.change == change)
}

fn kind<T: std::fmt::Debug>(end: Result<T, Failed>) -> Kind {
    end.unwrap_err().error().kind()
}

#[tokio::test]
async fn a_bare_domain_lives_a_whole_life() {
    let dir = tempfile::tempdir().unwrap();
    let ours = toolstack(&World::memory()).await;
    let mut events = ours.subscribe();
    let work = spec("work", vec![disk(dir.path(), "root", "xvda")]);
    let uuid = work.uuid;
    let domid = ours.start(work.clone(), Begin::Paused).await.unwrap();
    seen(&mut events, |event| *event == Event::Created { uuid, domid }).await;
    assert_eq!(state(&ours, uuid).await, Some(DomainState::Paused));
    assert_eq!(kind(ours.start(work, Begin::Running).await), Kind::AlreadyExists);
    assert_eq!(kind(ours.request_shutdown(uuid).await), Kind::Busy);
    ours.unpause(uuid).await.unwrap();
    ours.unpause(uuid).await.unwrap();
    let data = disk(dir.path(), "data", "xvdi");
    ours.attach_disk(uuid, data.clone()).await.unwrap();
    seen(&mut events, |event| *event == Event::DiskAttached { uuid, vdev: data.vdev }).await;
    ours.detach_disk(uuid, data.vdev).await.unwrap();
    seen(&mut events, |event| *event == Event::DiskDetached { uuid, vdev: data.vdev }).await;
    ours.stop(uuid, Duration::from_secs(10)).await.unwrap();
    seen(&mut events, is(DomainChange::Shutdown(ShutdownReason::Poweroff))).await;
    seen(&mut events, is(DomainChange::Died)).await;
    assert_eq!(kind(ours.kill(uuid).await), Kind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_stop_gives_up_on_a_deaf_guest_and_a_kill_does_not() {
    let world = World::memory();
    let ours = toolstack(&world).await;
    world.inject(Rule::at(Op::ShutdownDomain).deaf()).await.unwrap();
    let work = spec("work", Vec::new());
    let uuid = work.uuid;
    ours.start(work, Begin::Running).await.unwrap();
    let (stopped, ()) = tokio::join!(ours.stop(uuid, Duration::from_secs(60)), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        ours.pause(uuid).await.unwrap();
        ours.unpause(uuid).await.unwrap();
    });
    assert_eq!(kind(stopped), Kind::TimedOut);
    assert_eq!(state(&ours, uuid).await, Some(DomainState::Running));
    ours.kill(uuid).await.unwrap();
    assert_eq!(state(&ours, uuid).await, None);
}

#[tokio::test]
async fn a_failed_start_says_which_step_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::memory();
    let ours = toolstack(&world).await;
    let root = disk(dir.path(), "root", "xvda");
    let work = spec("work", vec![root.clone()]);
    world.fail_next(Op::CreateDomain, Kind::Backend, "xc: panic").await.unwrap();
    match ours.start(work.clone(), Begin::Running).await.unwrap_err() {
        Failed::Step(failed) => {
            assert_eq!(failed.step, "create domain work");
            assert!(failed.not_undone.is_empty());
        }
        Failed::Refused(error) => panic!("{}", error.report()),
    }
    world.fail_next(Op::UnpauseDomain, Kind::Backend, "no qmp").await.unwrap();
    assert_eq!(kind(ours.start(work.clone(), Begin::Running).await), Kind::Backend);
    assert_eq!(state(&ours, work.uuid).await, None, "what was created is destroyed");
    // Its disk is free for another.
    ours.start(spec("other", vec![root]), Begin::Running).await.unwrap();
}

#[tokio::test]
async fn no_disk_is_given_to_two_domains_and_each_is_free_when_its_domain_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::memory();
    let ours = toolstack(&world).await;
    let root = disk(dir.path(), "root", "xvda");
    let (first, second) = (spec("first", vec![root.clone()]), spec("second", vec![root.clone()]));
    ours.start(first.clone(), Begin::Running).await.unwrap();
    for _ in 0..2 {
        let failed = ours.start(second.clone(), Begin::Running).await.unwrap_err();
        assert_eq!(failed.error().kind(), Kind::Busy);
        assert!(failed.error().report().contains(&first.uuid.to_string()));
    }
    // What was claimed for a start that is refused is free again.
    let free = disk(dir.path(), "free", "xvdb");
    let both = spec("both", vec![free.clone(), root.clone()]);
    assert_eq!(kind(ours.start(both, Begin::Running).await), Kind::Busy);
    ours.start(spec("frees", vec![free]), Begin::Running).await.unwrap();
    let as_other = DiskSpec { vdev: Vdev::new(9).unwrap(), ..root.clone() };
    assert_eq!(kind(ours.attach_disk(first.uuid, as_other).await), Kind::Busy);
    // Destroyed by somebody else: its end is told, and its disk was given back before.
    let mut events = ours.subscribe();
    world.destroy(first.uuid).await.unwrap();
    seen(&mut events, is(DomainChange::Died)).await;
    ours.start(second.clone(), Begin::Running).await.unwrap();
    ours.kill(second.uuid).await.unwrap();
    // By the same UUID at once, before the old run's end can be told.
    for _ in 0..20 {
        ours.start(first.clone(), Begin::Running).await.unwrap();
        world.destroy(first.uuid).await.unwrap();
    }
    ours.start(first.clone(), Begin::Running).await.unwrap();
    assert_eq!(kind(ours.start(second.clone(), Begin::Running).await), Kind::Busy);
}

#[tokio::test]
async fn a_toolstack_adopts_what_runs_and_guards_its_disks() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::memory();
    let root = disk(dir.path(), "root", "xvda");
    let work = spec("work", vec![root.clone()]);
    toolstack(&world).await.start(work.clone(), Begin::Running).await.unwrap();
    let ours = toolstack(&world).await;
    let mut events = ours.subscribe();
    let failed = ours.start(spec("other", vec![root]), Begin::Running).await.unwrap_err();
    assert!(matches!(&failed, Failed::Step(failed) if failed.step.starts_with("claim")), "{failed:?}");
    world.crash(work.uuid).await.unwrap();
    seen(&mut events, is(DomainChange::Shutdown(ShutdownReason::Crash))).await;
    ours.kill(work.uuid).await.unwrap();
}

#[tokio::test]
async fn a_kill_cancels_a_start_under_way_and_what_waits_behind_it() {
    let world = World::memory();
    let ours = toolstack(&world).await;
    let work = spec("work", Vec::new());
    let uuid = work.uuid;
    world.hang_next(Op::CreateDomain).await.unwrap();
    let kill = async {
        while state(&ours, uuid).await.is_none() {
            tokio::task::yield_now().await;
        }
        tokio::join!(ours.pause(uuid), async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            ours.kill(uuid).await
        })
    };
    let (started, (paused, killed)) = tokio::join!(ours.start(work.clone(), Begin::Running), kill);
    assert_eq!(kind(started), Kind::Cancelled);
    assert_eq!(kind(paused), Kind::Cancelled);
    killed.unwrap();
    assert_eq!(state(&ours, uuid).await, None);
    ours.start(work, Begin::Running).await.unwrap();
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_no_half_domain() {
    let world = World::memory();
    let ours = toolstack(&world).await;
    let work = spec("work", Vec::new());
    world.delay_next(Op::CreateDomain, Duration::from_millis(30)).await.unwrap();
    world.fail_next(Op::UnpauseDomain, Kind::Backend, "broken").await.unwrap();
    let start = ours.start(work.clone(), Begin::Running);
    assert!(tokio::time::timeout(Duration::from_millis(5), start).await.is_err());
    let gone = async {
        // Made, failed and undone, with nobody waiting.
        let mut events = ours.subscribe();
        seen(&mut events, is(DomainChange::Died)).await;
    };
    gone.await;
    assert_eq!(state(&ours, work.uuid).await, None);
}

#[tokio::test]
async fn lost_events_are_passed_on_and_give_back_what_the_dead_held() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::memory();
    let ours = toolstack(&world).await;
    let mut events = ours.subscribe();
    let root = disk(dir.path(), "root", "xvda");
    let work = spec("work", vec![root.clone()]);
    ours.start(work.clone(), Begin::Running).await.unwrap();
    let other = spec("other", vec![root]);
    world.mute().await.unwrap();
    world.destroy(work.uuid).await.unwrap();
    assert_eq!(kind(ours.start(other.clone(), Begin::Running).await), Kind::Busy, "nobody told it");
    world.lose_events().await.unwrap();
    seen(&mut events, |event| *event == Event::Lost).await;
    ours.start(other, Begin::Running).await.unwrap();
    world.lose_services().await.unwrap();
    seen(&mut events, |event| *event == Event::Unavailable).await;
    assert_eq!(kind(ours.start(spec("third", Vec::new()), Begin::Running).await), Kind::Unavailable);
}
