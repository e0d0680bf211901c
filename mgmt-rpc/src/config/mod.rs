//! `mgmtd.toml`: what the daemon is told by its file, its environment and its flags, and what holds where
//! they are silent.
//!
//! Every key is optional; a key that is not known is an error that names file and line. Flags win over the
//! environment (of `[sim]` alone), that over the file. Paths that follow from `state` are settled last, by
//! [`Config::storage_dir`], so that `--state` moves them too.

mod flags;
mod log_filter;
mod sections;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::flags::{Flags, Offline};
pub use self::log_filter::{BadLogFilter, LogFilter};
pub use self::sections::{
    Audit, Backup, Buses, Compat, Enforce, HypervisorChoice, Limits, Metrics, Percent, Policy, Ready, Sim,
    Sockets, Storage, Stubdom, Xen,
};

/// Where the file is looked for when no flag names one.
pub const DEFAULT_FILE: &str = "/etc/mgmtd/mgmtd.toml";

/// Where the daemon listens when nothing says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/mgmtd/mgmtd.sock";

/// Which variable of the environment tells `mgmt` and `mgmt-qrexec` of another socket.
pub const SOCKET_VARIABLE: &str = "MGMT_SOCKET";

/// The socket that clients connect to when no flag names one.
pub fn client_socket() -> PathBuf {
    std::env::var_os(SOCKET_VARIABLE).map_or_else(|| DEFAULT_SOCKET.into(), PathBuf::from)
}

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the daemon keeps what must survive.
    pub state: PathBuf,
    /// Which hypervisor is driven.
    pub hypervisor: HypervisorChoice,
    /// What is logged.
    pub log: LogFilter,
    /// Whether exceptions carry tracebacks.
    pub debug: bool,
    /// What is listened on.
    pub sockets: Sockets,
    /// Pools and their figures.
    pub storage: Storage,
    /// Policy for sources other than dom0.
    pub policy: Policy,
    /// Behaviour of older releases.
    pub compat: Compat,
    /// Bounds on what clients can use.
    pub limits: Limits,
    /// How VMs are built and when they count as started.
    pub xen: Xen,
    /// Backup profiles.
    pub backup: Backup,
    /// Figures for monitoring; off where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
    /// A log of decisions besides the journal; off where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<Audit>,
    /// The simulated Xen.
    pub sim: Sim,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state: "/var/lib/mgmtd".into(),
            hypervisor: HypervisorChoice::Auto,
            log: LogFilter::default(),
            debug: false,
            sockets: Sockets::default(),
            storage: Storage::default(),
            policy: Policy::default(),
            compat: Compat::default(),
            limits: Limits::default(),
            xen: Xen::default(),
            backup: Backup::default(),
            metrics: None,
            audit: None,
            sim: Sim::default(),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file says something that is not understood.
    #[error("{}:{line}: {message}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// A variable of the environment says something that is not understood.
    #[error("{variable}: {message}")]
    Environment {
        /// The variable.
        variable: String,
        /// What is wrong with its value.
        message: String,
    },
    /// The configuration cannot be printed.
    #[error("cannot print the configuration: {0}")]
    Print(#[from] toml::ser::Error),
}

impl Config {
    /// Reads the file. One that is not at the default place is as good as an empty one.
    ///
    /// # Errors
    /// It cannot be read, or says something that is not understood.
    pub fn read(file: Option<&Path>) -> Result<Self, ConfigError> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) if error.kind() == ErrorKind::NotFound && file.is_none() => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    /// Reads a file's text; the path is for messages.
    ///
    /// # Errors
    /// It says something that is not understood.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            ConfigError::Syntax {
                path: path.to_owned(),
                line: before.matches('\n').count().saturating_add(1),
                message: error.message().to_owned(),
            }
        })
    }

    /// Takes the `MGMTD_SIM_*` variables of an environment into `[sim]`.
    ///
    /// # Errors
    /// A variable of that beginning is none of the keys, or its value is not understood.
    pub fn with_environment(
        mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        for (variable, value) in variables {
            let Some(key) = variable.strip_prefix("MGMTD_SIM_").map(str::to_ascii_lowercase) else {
                continue;
            };
            // Read as the file would read it, so that both know the same keys and values.
            let plain = format!("{key} = {value}");
            let quoted = format!("{key} = {}", toml::Value::String(value));
            let table = toml::from_str(&plain).or_else(|_not_plain| toml::from_str(&quoted));
            self.sim = table
                .map_err(|error: toml::de::Error| error.message().to_owned())
                .and_then(|table| self.sim.with(table))
                .map_err(|message| ConfigError::Environment { variable, message })?;
        }
        Ok(self)
    }

    /// Where the first start's pool lies.
    pub fn storage_dir(&self) -> PathBuf {
        self.storage.dir.clone().unwrap_or_else(|| self.state.join("varlibqubes"))
    }

    /// What is in force, as a file that could be given back.
    ///
    /// # Errors
    /// A path is not UTF-8.
    pub fn print(&self) -> Result<String, ConfigError> {
        let mut settled = self.clone();
        settled.storage.dir = Some(self.storage_dir());
        Ok(toml::to_string(&settled)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("m.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_printed_reads_back_as_the_same() {
        let mut config = Config {
            state: "/tmp/x".into(),
            metrics: Some(Metrics { socket: "/run/m".into() }),
            audit: Some(Audit { file: "/var/log/a".into() }),
            ..Config::default()
        };
        config.sim.script = Some("f.toml".into());
        config.xen.ready = Ready::Xenstore("data/ready".into());
        let mut read = parse(&config.print().unwrap()).unwrap();
        assert_eq!(read.storage.dir.take().unwrap(), Path::new("/tmp/x/varlibqubes"));
        assert_eq!(read, config);
    }

    #[test]
    fn every_key_of_the_documentation_is_known() {
        let text = r#"
            state = "/var/lib/mgmtd"
            hypervisor = "auto"
            log = "info"
            debug = false
            [sockets]
            main = ["/run/mgmtd/mgmtd.sock"]
            [storage]
            near_full_percent = 90
            refresh_s = 10
            command_timeout_s = 120
            callback_config = "/etc/qubes_callback.json"
            [policy]
            directories = ["/etc/qubes/policy.d", "/run/qubes/policy.d"]
            constraints = "/etc/mgmtd/constraints.d"
            enforce = "calls"
            [compat]
            silent_refusals = false
            [limits]
            request_bytes = 65536
            connections = 4096
            connections_per_source = 128
            read_timeout_s = 30
            operations_per_vm = 16
            subscribers = 256
            event_queue = 4096
            event_history = 65536
            bulk_copies = 4
            [xen]
            stubdom = "linux"
            ready = "qrexec"
            block_script = "mgmt-block"
            [backup]
            profiles = "/etc/qubes/backup"
            [sim]
            memory_mb = 16384
            cpus = 8
            start_ms = 0
            shutdown_ms = 0
            buses = "host"
            seed = 1
        "#;
        assert_eq!(parse(text), Ok(Config::default()));
        assert_eq!(parse(""), Ok(Config::default()));
        let more = "[sockets]\ninternal='/a'\nmisc='/b'\n[metrics]\nsocket='/c'\n[audit]\nfile='/d'\n[sim]\nscript='e'\n[storage]\ndir='/f'";
        assert!(parse(more).is_ok());
    }

    #[test]
    fn a_key_or_value_that_is_not_known_is_an_error_with_file_and_line() {
        for (text, start) in [
            ("log = 'debug'\nlogs = 1\n", "m.toml:2: unknown field `logs`"),
            ("[limits]\n\nrequest_byte = 1\n", "m.toml:3: unknown field `request_byte`"),
            ("[limits]\nconnections = 0\n", "m.toml:2: "),
            ("[storage]\nnear_full_percent = 101\n", "m.toml:2: a percentage from 1 to 100"),
            ("hypervisor = 'kvm'\n", "m.toml:1: unknown variant `kvm`"),
            ("\n[xen]\nready = 'xenstore:'\n", "m.toml:3: qrexec, create or xenstore:"),
            ("[sockets]\nmain = []\n", "m.toml:2: at least one path is needed"),
            ("[limits]\nrequest_bytes = 10\n", "m.toml:2: 1024 bytes at least"),
            ("log =\n", "m.toml:1: "),
            ("debug = true\nlog = 'nope'\n", "m.toml:2: log filter \"nope\": "),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(start), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn the_environment_wins_over_the_file_in_sim_alone() {
        let variables =
            [("MGMTD_SIM_START_MS", "2000"), ("MGMTD_SIM_BUSES", "empty"), ("MGMTD_SIM_SCRIPT", "a b")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = parse("[sim]\nstart_ms = 5\nseed = 7").unwrap().with_environment(variables).unwrap();
        assert_eq!((config.sim.start_ms, config.sim.seed, config.sim.buses), (2000, 7, Buses::Empty));
        assert_eq!(config.sim.script.as_deref(), Some(Path::new("a b")));
        let bad = Config::default().with_environment([("MGMTD_SIM_CPU".to_owned(), "1".to_owned())]);
        assert!(bad.unwrap_err().to_string().starts_with("MGMTD_SIM_CPU: unknown field `cpu`"));
        let bad = Config::default().with_environment([("MGMTD_SIM_CPUS".to_owned(), "many".to_owned())]);
        assert!(bad.unwrap_err().to_string().starts_with("MGMTD_SIM_CPUS: "));
    }

    #[test]
    fn a_missing_file_is_an_error_only_where_one_was_named() {
        let missing = Path::new("/nonexistent/mgmtd.toml");
        assert!(matches!(Config::read(Some(missing)), Err(ConfigError::Read { .. })));
    }
}
