//! The contract of every hypervisor, kept by the simulated one in both of its worlds.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use libvirt_qubes::Op;
use libvirt_qubes::config::{Access, DiskSpec, DomainSpec, VirtMode};
use libvirt_qubes::contract::hypervisor::{CONTRACTS, Fixture, Guest, Outcome, hypervisor_contract};
use libvirt_qubes::hypervisor::{BoxFuture, Hypervisor, ShutdownReason};
use libvirt_qubes::ids::{MemoryMib, VmName};
use libvirt_qubes::sim::{GuestAct, Rule, SimConfig, SimHypervisor, World};
use tempfile::TempDir;
use uuid::Uuid;

struct Sim {
    world: World,
    dir: TempDir,
}

impl Fixture for Sim {
    fn connect(&self) -> BoxFuture<'_, Arc<dyn Hypervisor>> {
        Box::pin(async {
            let config = SimConfig { start_ms: 20, shutdown_ms: 5, ..SimConfig::default() };
            let sim = SimHypervisor::open(self.world.clone(), config).await.unwrap();
            Arc::new(sim) as Arc<dyn Hypervisor>
        })
    }

    fn spec(&self, name: VmName, guest: Guest) -> BoxFuture<'_, Option<DomainSpec>> {
        Box::pin(async move {
            let soon = Duration::from_millis(5);
            let ends = |reason| {
                let start = Rule::at(Op::CreateDomain).times(1);
                Some(start.guest(soon, GuestAct::ShutDown(reason)))
            };
            let rule = match guest {
                Guest::Listens | Guest::TakesDisks => None,
                Guest::Deaf => Some(Rule::at(Op::ShutdownDomain).deaf()),
                Guest::PowersOff => ends(ShutdownReason::Poweroff),
                Guest::Reboots => ends(ShutdownReason::Reboot),
                Guest::Crashes => ends(ShutdownReason::Crash),
            };
            if let Some(rule) = rule {
                self.world.inject(rule.vm(name.clone())).await.unwrap();
            }
            Some(DomainSpec {
                name,
                uuid: Uuid::new_v4(),
                virt_mode: VirtMode::Pvh,
                memory: MemoryMib::new(64),
                max_memory: MemoryMib::new(128),
                vcpus: 2,
                boot: None,
                disks: Vec::new(),
            })
        })
    }

    fn ready<'a>(&'a self, _: &'a DomainSpec) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn disk(&self) -> BoxFuture<'_, DiskSpec> {
        Box::pin(async {
            let path = self.dir.path().join(format!("{}.img", Uuid::new_v4()));
            std::fs::write(&path, vec![0; 65536]).unwrap();
            DiskSpec { vdev: "xvdi".parse().unwrap(), path, access: Access::ReadWrite }
        })
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(20)
    }

    fn quiet(&self) -> Duration {
        Duration::from_millis(30)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_world_in_memory_keeps_the_contract() {
    let sim = Sim { world: World::memory(), dir: tempfile::tempdir().unwrap() };
    hypervisor_contract(&sim).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_world_on_disk_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let sim = Sim { world: World::on_disk(dir.path()).await.unwrap(), dir };
    hypervisor_contract(&sim).await;
}

#[tokio::test]
async fn the_simulated_host_leaves_no_contract_out() {
    let sim = Sim { world: World::memory(), dir: tempfile::tempdir().unwrap() };
    for contract in CONTRACTS {
        assert_eq!(contract.run(&sim).await, Outcome::Kept, "{contract:?}");
    }
}
