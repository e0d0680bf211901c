//! The command line of `mgmtd`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::{Config, ConfigError, HypervisorChoice, LogFilter};

/// The daemon of the Qubes management API.
#[derive(Debug, Default, Parser)]
#[command(name = "mgmtd", version)]
pub struct Flags {
    /// The configuration; /etc/mgmtd/mgmtd.toml where it is not given and that exists
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Print the configuration that is in force, and end
    #[arg(long)]
    pub print_config: bool,
    /// Where to keep what must survive
    #[arg(long, value_name = "DIR", global = true)]
    pub state: Option<PathBuf>,
    /// Listen here, and nowhere else; may be given more than once
    #[arg(long, value_name = "PATH")]
    pub socket: Vec<PathBuf>,
    /// Which hypervisor to drive
    #[arg(long, value_enum)]
    pub hypervisor: Option<HypervisorChoice>,
    /// What to log, such as info or mgmt_rpc=debug,info
    #[arg(long, value_name = "FILTER", global = true)]
    pub log: Option<LogFilter>,
    /// Send tracebacks in exceptions
    #[arg(long)]
    pub debug: bool,
    /// What to do with the state instead of serving it
    #[command(subcommand)]
    pub offline: Option<Offline>,
}

/// What is done to a state while no daemon uses it.
#[derive(Debug, Clone, Subcommand)]
pub enum Offline {
    /// Take a system in from its qubes.xml, into an empty state
    Import {
        /// The qubes.xml
        file: PathBuf,
        /// Where the VMs' folders lie (/var/lib/qubes), for their firewall.xml and notes.txt
        #[arg(long, value_name = "DIR")]
        vm_dirs: Option<PathBuf>,
        /// Set aside what is bad in it, instead of refusing the whole file
        #[arg(long)]
        set_aside: bool,
        /// Report in JSON
        #[arg(long)]
        json: bool,
    },
    /// Look for what is not in order in the state and its pools
    Doctor {
        /// Put right what can be without loss; the database is copied first
        #[arg(long)]
        repair: bool,
        /// Report in JSON
        #[arg(long)]
        json: bool,
    },
    /// Write the system as qubes.xml and the VMs' files into a folder
    Export {
        /// The folder
        dir: PathBuf,
        /// Report in JSON
        #[arg(long)]
        json: bool,
    },
}

impl Flags {
    /// The configuration that is in force: file, environment, flags.
    ///
    /// # Errors
    /// The file or the environment is not understood.
    pub fn configuration(
        &self,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, ConfigError> {
        let mut config = Config::read(self.config.as_deref())?.with_environment(environment)?;
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn flags_win_over_the_file_and_leave_the_rest() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text =
            "state = '/a'\nlog = 'warn'\nhypervisor = 'libxl'\n[sockets]\nmain = ['/b']\n[sim]\ncpus = 3\n";
        std::fs::write(file.path(), text).unwrap();
        let flags = |more: &[&str]| {
            let file = file.path().to_str().unwrap();
            Flags::try_parse_from([&["mgmtd", "--config", file], more].concat()).unwrap()
        };
        let config = flags(&[]).configuration([]).unwrap();
        assert_eq!(
            (config.state.as_path(), config.log.as_str(), config.debug),
            (Path::new("/a"), "warn", false)
        );
        let nope = Flags::try_parse_from(["mgmtd", "--log", "nope"]).unwrap_err();
        assert_eq!(nope.exit_code(), 2);
        assert!(nope.to_string().contains("'nope' for '--log <FILTER>'"), "{nope}");
        let given = ["--state", "/c", "--socket", "/d", "--socket", "/e", "--hypervisor", "sim", "--debug"];
        let environment = [("MGMTD_SIM_START_MS".to_owned(), "5".to_owned())];
        let config = flags(&given).configuration(environment).unwrap();
        assert_eq!(config.storage_dir(), Path::new("/c/varlibqubes"));
        assert_eq!(config.sockets.main, [Path::new("/d"), Path::new("/e")]);
        assert_eq!((config.hypervisor, config.debug), (HypervisorChoice::Sim, true));
        assert_eq!((config.log.as_str(), config.sim.cpus.get(), config.sim.start_ms), ("warn", 3, 5));
    }
}
