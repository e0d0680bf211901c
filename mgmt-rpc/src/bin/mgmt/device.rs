//! `mgmt device …`: block devices of VMs. A file of dom0 is given by its path.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use mgmt_rpc::args::device::DevicePath;
use mgmt_rpc::client::Call;

use crate::output::{Exit, Shell};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// List what is attached to a VM
    List {
        /// The VM
        vm: String,
    },
    /// Attach a file or block device of dom0 to a running VM
    Attach {
        /// The VM
        vm: String,
        /// The file or block device
        path: PathBuf,
    },
    /// Detach it
    Detach {
        /// The VM
        vm: String,
        /// The file or block device
        path: PathBuf,
    },
    /// List the classes of devices
    Classes,
}

pub(crate) async fn run(shell: &Shell, verb: Verb) -> Result<(), Exit> {
    match verb {
        Verb::List { vm } => shell.lines(&shell.ask(Call::new("mgmt.vm.device.block.List", &vm), b"").await?),
        Verb::Attach { vm, path } => {
            let device = device(&path)?;
            shell.tell(Call::new("mgmt.vm.device.block.Attach", &vm).with(&device), b"").await
        }
        Verb::Detach { vm, path } => {
            let device = device(&path)?;
            shell.tell(Call::new("mgmt.vm.device.block.Detach", &vm).with(&device), b"").await
        }
        Verb::Classes => shell.lines(&shell.ask(Call::new("mgmt.deviceclass.List", "dom0"), b"").await?),
    }
}

fn device(path: &Path) -> Result<String, Exit> {
    let path = std::path::absolute(path).map_err(|error| Exit::Usage(error.to_string()))?;
    let path = DevicePath::new(path).map_err(|bad| Exit::Usage(bad.to_string()))?;
    Ok(format!("dom0+{path}"))
}
