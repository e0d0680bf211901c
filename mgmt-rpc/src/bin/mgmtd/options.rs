//! The command line. Flags win over the environment, that over the file.

use std::path::PathBuf;

use clap::Parser;
use mgmt_rpc::config::{Config, HypervisorChoice};

/// Serves the Qubes management API on this host's hypervisor.
#[derive(Debug, Parser)]
#[command(name = "mgmtd", version)]
pub(crate) struct Options {
    /// Read this file; the default one need not exist
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the configuration that is in force, and end
    #[arg(long)]
    pub(crate) print_config: bool,
    /// Keep what must survive in this folder
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Listen on this socket; may be given several times
    #[arg(long, value_name = "PATH")]
    socket: Vec<PathBuf>,
    /// Drive this hypervisor
    #[arg(long, value_enum)]
    hypervisor: Option<HypervisorChoice>,
    /// Log what passes this filter
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Send tracebacks with exceptions
    #[arg(long)]
    debug: bool,
}

impl Options {
    /// What is in force.
    pub(crate) fn configuration(&self) -> anyhow::Result<Config> {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let mut config = Config::read(self.config.as_deref())?.with_environment(variables)?;
        if let Some(state) = &self.state {
            config.state.clone_from(state);
        }
        if !self.socket.is_empty() {
            config.sockets.main.clone_from(&self.socket);
        }
        if let Some(hypervisor) = self.hypervisor {
            config.hypervisor = hypervisor;
        }
        if let Some(log) = &self.log {
            config.log.clone_from(log);
        }
        config.debug |= self.debug;
        Ok(config)
    }
}
