//! Lists the domains of a simulated host that lives in a folder: `cargo run --example list -- DIR`.
//!
//! The host outlives the program: what `lifecycle` leaves there is listed here.

use std::path::PathBuf;

use libvirt_qubes::hypervisor::{DomainInfo, Domains, HostInfo};
use libvirt_qubes::sim::{SimConfig, SimHypervisor, World};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args_os().nth(1).map(PathBuf::from).ok_or("usage: list DIR")?;
    let sim = SimHypervisor::open(World::on_disk(dir).await?, SimConfig::default()).await?;
    let facts = sim.facts().await?;
    println!("{}: {} of {} KiB free", facts.release, facts.free_memory_kib, facts.total_memory_kib);
    for DomainInfo { domid, name, state, memory_kib, vcpus, .. } in sim.list().await? {
        let name = name.as_deref().unwrap_or("(no name)");
        println!("{domid:>5}  {name:<31}  {state:?}  {memory_kib} KiB  {vcpus} vcpus");
    }
    Ok(())
}
