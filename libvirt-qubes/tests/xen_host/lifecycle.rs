//! The life of a domain, each step compared with what `xl` and the guest's console say.

use std::time::{Duration, Instant};

use libvirt_qubes::Kind;
use libvirt_qubes::config::VirtMode;
use libvirt_qubes::hypervisor::{DomainChange, DomainState, Domains, HostInfo, ShutdownReason};

use crate::dom0::{Dom0, console, run, says, tiny, xl_list};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
async fn a_domain_lives_as_xl_and_its_console_see_it() {
    let mut dom0 = Dom0::open().await;
    for (mode, name) in [(VirtMode::Pv, "life-pv"), (VirtMode::Pvh, "life-pvh")] {
        let spec = tiny(name, mode, "");
        let uuid = spec.uuid;
        let state = async |dom0: &Dom0| dom0.xen.info(uuid).await.unwrap().state;

        let domid = dom0.create(&spec).await.unwrap();
        assert_eq!(state(&dom0).await, DomainState::Paused);
        assert_eq!(xl_list()[name], "--p---");
        assert!(!console(name).contains("GUEST-UP"));
        let listed = dom0.xen.list().await.unwrap();
        let [info] = listed.as_slice() else { panic!("{listed:?}") };
        assert_eq!((info.uuid, info.domid, info.name.as_deref()), (uuid, domid, Some(name)));
        assert!(info.memory_kib > 8 << 10 && info.memory_kib <= 18 << 10, "{info:?}");

        dom0.xen.unpause(uuid).await.unwrap();
        dom0.xen.unpause(uuid).await.unwrap();
        assert_eq!(dom0.change(uuid).await, DomainChange::Unpaused);
        says(name, &format!("GUEST-UP name={name}")).await;
        assert_eq!(state(&dom0).await, DomainState::Running);
        assert!(["r-----", "-b----", "------"].contains(&xl_list()[name].as_str()));

        // Xen counts pauses; we do not.
        dom0.xen.pause(uuid).await.unwrap();
        dom0.xen.pause(uuid).await.unwrap();
        assert_eq!(dom0.change(uuid).await, DomainChange::Paused);
        assert_eq!(xl_list()[name].as_bytes()[2], b'p');
        assert_eq!(dom0.xen.request_shutdown(uuid).await.unwrap_err().kind(), Kind::Busy);
        run("xl", &["pause", name]);
        dom0.xen.unpause(uuid).await.unwrap();
        assert_eq!(dom0.change(uuid).await, DomainChange::Unpaused);
        assert_eq!(xl_list()[name].as_bytes()[2], b'-');

        let asked = Instant::now();
        dom0.xen.request_shutdown(uuid).await.unwrap();
        assert_eq!(dom0.change(uuid).await, DomainChange::Shutdown(ShutdownReason::Poweroff));
        assert!(asked.elapsed() < Duration::from_secs(45), "{:?}", asked.elapsed());
        assert_eq!(state(&dom0).await, DomainState::Shutdown(ShutdownReason::Poweroff));
        assert_eq!(xl_list()[name].as_bytes()[3], b's');
        assert_eq!(dom0.xen.request_shutdown(uuid).await.unwrap_err().kind(), Kind::Busy);

        dom0.xen.destroy(uuid).await.unwrap();
        assert_eq!(dom0.change(uuid).await, DomainChange::Died);
        for again in [dom0.xen.destroy(uuid).await, dom0.xen.pause(uuid).await, dom0.xen.unpause(uuid).await]
        {
            assert_eq!(again.unwrap_err().kind(), Kind::NotFound);
        }
        assert_eq!(dom0.xen.info(uuid).await.unwrap_err().kind(), Kind::NotFound);
        assert!(xl_list().is_empty());
    }
    dom0.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
async fn a_domain_is_killed_in_every_state() {
    let mut dom0 = Dom0::open().await;
    for state in ["new", "running", "paused", "down"] {
        let spec = tiny(&format!("kill-{state}"), VirtMode::Pvh, "");
        let uuid = spec.uuid;
        dom0.create(&spec).await.unwrap();
        if state != "new" {
            dom0.xen.unpause(uuid).await.unwrap();
            says(spec.name.as_str(), "GUEST-UP").await;
            assert_eq!(dom0.change(uuid).await, DomainChange::Unpaused);
        }
        if state == "paused" {
            dom0.xen.pause(uuid).await.unwrap();
            assert_eq!(dom0.change(uuid).await, DomainChange::Paused);
        }
        if state == "down" {
            dom0.xen.request_shutdown(uuid).await.unwrap();
            assert_eq!(dom0.change(uuid).await, DomainChange::Shutdown(ShutdownReason::Poweroff));
        }
        dom0.xen.destroy(uuid).await.unwrap();
        assert_eq!(dom0.change(uuid).await, DomainChange::Died, "{state}");
    }
    dom0.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
async fn a_guest_that_never_answers_holds_nobody_up_and_is_killed_at_once() {
    let dom0 = Dom0::open().await;
    let spec = tiny("deaf", VirtMode::Pvh, "tiny.deaf");
    dom0.start(&spec).await;
    says("deaf", "GUEST-UP").await;
    let asked = Instant::now();
    for _ in 0..3 {
        dom0.xen.request_shutdown(spec.uuid).await.unwrap();
    }
    assert!(asked.elapsed() < Duration::from_secs(45), "{:?}", asked.elapsed());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(dom0.xen.info(spec.uuid).await.unwrap().state, DomainState::Running);
    let kill = Instant::now();
    dom0.xen.destroy(spec.uuid).await.unwrap();
    assert!(kill.elapsed() < Duration::from_secs(45), "{:?}", kill.elapsed());
    dom0.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
async fn the_backend_can_be_closed_while_a_guest_has_not_answered() {
    let dom0 = Dom0::open().await;
    let spec = tiny("deaf", VirtMode::Pvh, "tiny.deaf");
    dom0.start(&spec).await;
    dom0.xen.request_shutdown(spec.uuid).await.unwrap();
    dom0.xen.close().await;
    assert!(xl_list().contains_key("deaf"));
    let dom0 = Dom0::open().await;
    dom0.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
async fn the_host_is_what_xl_says() {
    let dom0 = Dom0::open().await;
    let facts = dom0.xen.facts().await.unwrap();
    let xl = run("xl", &["info"]);
    let value = |key: &str| {
        let line =
            xl.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key)).unwrap();
        line.split_once(':').unwrap().1.trim().to_owned()
    };
    assert_eq!(facts.release, value("xen_version"));
    assert_eq!(facts.cpus.to_string(), value("nr_cpus"));
    assert_eq!((facts.total_memory_kib >> 10).to_string(), value("total_memory"));
    let free: u64 = value("free_memory").parse().unwrap();
    assert!((facts.free_memory_kib >> 10).abs_diff(free) < 64, "{facts:?} {free}");
    assert_eq!(dom0.xen.name(), "libxl");
    dom0.close().await;
}

/// libxl holds a context's lock while it builds a domain: on contexts of their own nothing waits.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
async fn pausing_one_domain_does_not_wait_for_others_that_are_built() {
    let dom0 = Dom0::open().await;
    let watched = tiny("quick", VirtMode::Pvh, "");
    dom0.start(&watched).await;
    let pause_once = async || {
        let begin = Instant::now();
        dom0.xen.pause(watched.uuid).await.unwrap();
        let took = begin.elapsed();
        dom0.xen.unpause(watched.uuid).await.unwrap();
        took
    };
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(pause_once().await);
    }
    let specs: Vec<_> =
        (0..2).map(|n| crate::dom0::linux(dom0.dir.path(), &format!("build-{n}"), VirtMode::Pv)).collect();
    let begin = Instant::now();
    let building = async {
        tokio::try_join!(dom0.create(&specs[0]), dom0.create(&specs[1])).unwrap();
        begin.elapsed()
    };
    let mut busy = Vec::new();
    let sampling = async {
        // At least a few, and for as long as the builds take.
        loop {
            busy.push(pause_once().await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let took = tokio::select! {
        took = building => took,
        () = sampling => unreachable!(),
    };
    let worst = *busy.iter().max().unwrap();
    println!(
        "pause: idle median {:?}, while 2 domains are built in {took:?}: median {:?}, worst {worst:?}, {} samples",
        median(idle),
        median(busy.clone()),
        busy.len()
    );
    assert!(worst < took, "a pause waited for the builds: {worst:?} of {took:?}");
    for spec in &specs {
        dom0.xen.destroy(spec.uuid).await.unwrap();
    }
    dom0.xen.destroy(watched.uuid).await.unwrap();
    dom0.close().await;
}
