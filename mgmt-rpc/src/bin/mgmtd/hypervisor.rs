//! Which hypervisor is driven.

#[cfg(feature = "xen")]
use std::path::Path;
use std::sync::Arc;

use libvirt_qubes::qubes::Backend;
use libvirt_qubes::sim::{self, SimHypervisor, World};
use mgmt_rpc::config::{Buses, Config, HypervisorChoice};

/// Opens the one that the configuration names. `auto` is Xen where dom0 runs on it, else the simulated one;
/// a build without libxl that finds itself in a real dom0 ends with an error.
pub(crate) async fn open(config: &Config) -> anyhow::Result<Backend> {
    match config.hypervisor {
        HypervisorChoice::Sim => simulated(config).await,
        HypervisorChoice::Libxl => libxl(config),
        HypervisorChoice::Auto if is_dom0() => libxl(config),
        HypervisorChoice::Auto => simulated(config).await,
    }
}

/// Whether this is the control domain of a real Xen.
fn is_dom0() -> bool {
    ["/proc/xen/capabilities", "/sys/hypervisor/properties/capabilities"]
        .iter()
        .any(|path| std::fs::read_to_string(path).is_ok_and(|text| text.contains("control_d")))
}

async fn simulated(config: &Config) -> anyhow::Result<Backend> {
    let sim = &config.sim;
    let config_of_sim = sim::SimConfig {
        memory_mb: sim.memory_mb.get(),
        cpus: sim.cpus.get(),
        start_ms: u64::from(sim.start_ms),
        shutdown_ms: u64::from(sim.shutdown_ms),
        buses: match sim.buses {
            Buses::Host => sim::Buses::Host,
            Buses::Empty => sim::Buses::Empty,
        },
        seed: sim.seed,
        script: sim.script.clone(),
    };
    // The world makes its own folder `sim` there.
    let world = World::on_disk(&config.state).await?;
    let sim = Arc::new(SimHypervisor::open(world, config_of_sim).await?);
    Ok(Backend { hypervisor: Arc::<SimHypervisor>::clone(&sim), qrexec: sim })
}

#[cfg(not(feature = "xen"))]
fn libxl(_config: &Config) -> anyhow::Result<Backend> {
    anyhow::bail!(
        "this mgmtd was built without libxl (feature `xen`): take another build, or --hypervisor sim"
    )
}

#[cfg(feature = "xen")]
fn libxl(config: &Config) -> anyhow::Result<Backend> {
    use libvirt_qubes::qrexec::QrexecClient;
    use libvirt_qubes::xen::{LibxlHypervisor, LibxlOptions};
    let script = block_script(&config.xen.block_script)?;
    let hypervisor = Arc::new(LibxlHypervisor::open(LibxlOptions::new(script))?);
    Ok(Backend { hypervisor, qrexec: Arc::new(QrexecClient::default()) })
}

/// The disks' hotplug program: beside this one, then where it is installed.
#[cfg(feature = "xen")]
fn block_script(named: &Path) -> anyhow::Result<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let usable = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|seen| seen.is_file() && seen.permissions().mode() & 0o111 != 0)
    };
    let own = std::env::current_exe()?;
    let places = match named.is_absolute() {
        true => vec![named.to_owned()],
        false => vec![own.with_file_name(named), Path::new("/usr/libexec/mgmt").join(named)],
    };
    if let Some(found) = places.iter().find(|path| usable(path)) {
        return Ok(found.clone());
    }
    let looked: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
    anyhow::bail!(
        "the disks' hotplug program is not there, or not executable: {}; see xen.block_script",
        looked.join(", ")
    )
}
