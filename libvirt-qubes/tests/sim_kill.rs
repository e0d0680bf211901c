//! The simulated host outlives a process that is killed: whatever was acknowledged is found again.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use libvirt_qubes::config::{DomainSpec, VirtMode};
use libvirt_qubes::hypervisor::{DomainState, Domains};
use libvirt_qubes::ids::MemoryMib;
use libvirt_qubes::sim::{SimConfig, SimHypervisor, World};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const DIR: &str = "SIM_KILL_DIR";
const DOMAINS: usize = 4;
const ROUNDS: u64 = 25;

fn uuid(n: usize) -> Uuid {
    Uuid::from_u128(1000 + n as u128)
}

fn spec(n: usize) -> DomainSpec {
    DomainSpec {
        name: format!("vm{n}").parse().unwrap(),
        uuid: uuid(n),
        virt_mode: VirtMode::Pvh,
        memory: MemoryMib::new(64),
        max_memory: MemoryMib::new(64),
        vcpus: 1,
        boot: None,
        disks: Vec::new(),
    }
}

async fn open(dir: &Path) -> SimHypervisor {
    SimHypervisor::open(World::on_disk(dir).await.unwrap(), SimConfig::default()).await.unwrap()
}

/// What a domain is, as the lines say it: `0` absent, `p` paused, `r` running.
async fn seen(sim: &SimHypervisor, n: usize) -> char {
    match sim.info(uuid(n)).await.map(|info| (info.name, info.state)) {
        Err(_) => '0',
        Ok((Some(_), DomainState::Paused)) => 'p',
        Ok((Some(_), DomainState::Running)) => 'r',
        // Half built, or half destroyed.
        Ok(_) => 'h',
    }
}

#[tokio::test]
#[ignore = "the process that the other test kills"]
async fn victim() {
    let dir = std::env::var_os(DIR).unwrap();
    let sim = open(Path::new(&dir)).await;
    let mut dice = u64::from(std::process::id());
    loop {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let n = usize::try_from(dice >> 40).unwrap() % DOMAINS;
        let to = match (seen(&sim, n).await, (dice >> 33) % 4) {
            ('0', _) => 'p',
            ('h', _) | (_, 0) => '0',
            ('p', _) => 'r',
            (_, _) => 'p',
        };
        println!("> {n} {to}");
        match (seen(&sim, n).await, to) {
            ('0', _) => drop(sim.create(spec(n), CancellationToken::new()).await.unwrap()),
            (_, '0') => sim.destroy(uuid(n)).await.unwrap(),
            (_, 'r') => sim.unpause(uuid(n)).await.unwrap(),
            (_, _) => sim.pause(uuid(n)).await.unwrap(),
        }
        println!("< {n} {to}");
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_found_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let (mut lines, mut half) = (0, 0);
    for round in 0..ROUNDS {
        let mut expected = [const { Vec::new() }; DOMAINS];
        let sim = open(dir.path()).await;
        for (n, states) in expected.iter_mut().enumerate() {
            states.push(seen(&sim, n).await);
        }
        drop(sim);
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "victim", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(15 + round * 7 % 40)).await;
        victim.kill().unwrap();
        victim.wait().unwrap();
        let mut said = String::new();
        victim.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        // The last line may be cut off.
        let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines().filter(|line| line.starts_with(['<', '>'])) {
            let words: Vec<&str> = line.split(' ').collect();
            let [way, n, to] = words[..] else { panic!("{line}") };
            let (n, to): (usize, char) = (n.parse().unwrap(), to.parse().unwrap());
            if way == ">" {
                expected[n].extend([to, 'h']);
            } else {
                expected[n] = vec![to];
                lines += 1;
            }
        }
        let sim = open(dir.path()).await;
        for (n, states) in expected.iter().enumerate() {
            let state = seen(&sim, n).await;
            assert!(states.contains(&state), "domain {n} is {state:?}, not of {states:?}:\n{said}");
            half += usize::from(state == 'h');
        }
    }
    assert!(lines > 50, "the victim did next to nothing: {lines}");
    eprintln!("{lines} operations acknowledged, {half} found half done");
}
