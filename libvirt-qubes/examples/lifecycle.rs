//! A bare domain from its start to its end, without daemon, database or Qubes model:
//! `cargo run --example lifecycle -- DIR`.
//!
//! The host is simulated and lives in the folder; the disk is a real file there. A second domain is left
//! running, as domains outlive the program that started them: run `list`, or this again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use libvirt_qubes::config::{Access, DiskSpec, DomainSpec, VirtMode};
use libvirt_qubes::domain::Begin;
use libvirt_qubes::ids::MemoryMib;
use libvirt_qubes::sim::{SimConfig, SimHypervisor, World};
use libvirt_qubes::toolstack::{Failed, Toolstack};
use uuid::Uuid;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args_os().nth(1).map(PathBuf::from).ok_or("usage: lifecycle DIR")?;
    let dir = std::path::absolute(dir)?;
    std::fs::create_dir_all(&dir)?;
    let sim = SimHypervisor::open(World::on_disk(&dir).await?, SimConfig::default()).await?;
    let toolstack = Toolstack::open(Arc::new(sim)).await?;

    let image = dir.join("root.img");
    std::fs::write(&image, vec![0; 1 << 20])?;
    let root = DiskSpec { vdev: "xvda".parse()?, path: image, access: Access::ReadWrite };
    let spec = |name: &str, disks| -> Result<DomainSpec, Box<dyn std::error::Error>> {
        Ok(DomainSpec {
            name: name.parse()?,
            uuid: Uuid::new_v4(),
            virt_mode: VirtMode::Pvh,
            memory: MemoryMib::new(400),
            max_memory: MemoryMib::new(4000),
            vcpus: 2,
            boot: None,
            disks,
        })
    };

    for left in toolstack.hypervisor().list().await? {
        println!("found domain {} from an earlier run, destroying it", left.domid);
        toolstack.kill(left.uuid).await?;
    }
    let work = spec("work", vec![root.clone()])?;
    let uuid = work.uuid;
    println!("work is domain {}", toolstack.start(work, Begin::Running).await?);
    match toolstack.start(spec("thief", vec![root.clone()])?, Begin::Running).await {
        Err(Failed::Step(failed)) => {
            println!("refused, as it must be: {}: {}", failed, failed.error.report())
        }
        other => return Err(format!("two domains on one disk: {other:?}").into()),
    }
    toolstack.pause(uuid).await?;
    toolstack.unpause(uuid).await?;
    println!("state: {:?}", toolstack.hypervisor().info(uuid).await?.state);
    toolstack.stop(uuid, Duration::from_secs(10)).await?;
    println!("stopped; its disk is free for the next");
    println!("heir is domain {}", toolstack.start(spec("heir", vec![root])?, Begin::Running).await?);
    Ok(())
}
