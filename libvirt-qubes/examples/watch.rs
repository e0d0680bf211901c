//! Prints the events of a toolstack while two guests live and one of them crashes.

use std::sync::Arc;
use std::time::Duration;

use libvirt_qubes::Op;
use libvirt_qubes::config::{DomainSpec, VirtMode};
use libvirt_qubes::domain::Begin;
use libvirt_qubes::event::Event;
use libvirt_qubes::hypervisor::{DomainChange, DomainEvent, ShutdownReason};
use libvirt_qubes::ids::MemoryMib;
use libvirt_qubes::sim::{GuestAct, Rule, SimConfig, SimHypervisor, World};
use libvirt_qubes::toolstack::Toolstack;
use uuid::Uuid;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let world = World::memory();
    let sim = SimHypervisor::open(world.clone(), SimConfig::default()).await?;
    let toolstack = Toolstack::open(Arc::new(sim)).await?;
    let mut events = toolstack.subscribe();

    let crash = GuestAct::ShutDown(ShutdownReason::Crash);
    let unlucky = "unlucky".parse()?;
    world.inject(Rule::at(Op::CreateDomain).vm(unlucky).guest(Duration::from_millis(300), crash)).await?;
    let mut living = 0;
    for name in ["lucky", "unlucky"] {
        let spec = DomainSpec {
            name: name.parse()?,
            uuid: Uuid::new_v4(),
            virt_mode: VirtMode::Pvh,
            memory: MemoryMib::new(400),
            max_memory: MemoryMib::new(4000),
            vcpus: 2,
            boot: None,
            disks: Vec::new(),
        };
        println!("{name} is {}", spec.uuid);
        toolstack.start(spec, Begin::Running).await?;
        living += 1;
    }
    // Nothing of a domain goes by itself: the program decides what a crash means.
    while let Some(event) = events.next().await {
        println!("{event:?}");
        match event {
            Event::Changed(DomainEvent { uuid, change: DomainChange::Shutdown(reason), .. }) => {
                println!("{uuid} ended ({reason:?}); destroying what is left");
                toolstack.kill(uuid).await?;
                for other in toolstack.hypervisor().list().await? {
                    toolstack.request_shutdown(other.uuid).await?;
                }
            }
            Event::Changed(DomainEvent { change: DomainChange::Died, .. }) => {
                living -= 1;
                if living == 0 {
                    break;
                }
            }
            Event::Changed(_)
            | Event::Created { .. }
            | Event::DiskAttached { .. }
            | Event::DiskDetached { .. }
            | Event::Lost
            | Event::Unavailable => {}
        }
    }
    Ok(())
}
