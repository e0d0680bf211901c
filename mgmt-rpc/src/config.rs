//! `mgmtd.toml`: what the daemon is told by its file, its environment and its flags, and what holds where
//! they are silent.
//!
//! Every key is optional; a key that is not known is an error that names file and line. Flags win over the
//! environment (of `[sim]` alone), that over the file. Paths that follow from `state` are settled last, by
//! [`Config::storage_dir`], so that `--state` moves them too.

use std::io::ErrorKind;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

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
    /// A filter of `tracing`.
    pub log: String,
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
            log: "info".into(),
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

/// Which hypervisor is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum HypervisorChoice {
    /// libxl where dom0 runs on Xen, else the simulated one.
    Auto,
    /// Xen, through libxl.
    Libxl,
    /// The simulated one.
    Sim,
}

/// `[sockets]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sockets {
    /// For `mgmt.*` and `admin.*`.
    pub main: Vec<PathBuf>,
    /// For `internal.*`; not opened unless named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internal: Option<PathBuf>,
    /// For the services that any VM calls; not opened unless named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub misc: Option<PathBuf>,
}

impl Default for Sockets {
    fn default() -> Self {
        Self { main: vec![DEFAULT_SOCKET.into()], internal: None, misc: None }
    }
}

/// `[storage]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    /// The folder of the first start's pool; `STATE/varlibqubes` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// From this percentage of data or metadata on, a pool is nearly full.
    pub near_full_percent: Percent,
    /// How old figures about space may be, in seconds.
    pub refresh_s: NonZeroU32,
    /// How long one LVM or copy command may go on without progress, in seconds.
    pub command_timeout_s: NonZeroU32,
    /// The deployed configuration of the driver `callback`.
    pub callback_config: PathBuf,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            dir: None,
            near_full_percent: Percent(90),
            refresh_s: count(10),
            command_timeout_s: count(120),
            callback_config: "/etc/qubes_callback.json".into(),
        }
    }
}

/// A percentage from 1 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Percent(u8);

impl Percent {
    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Percent {
    type Error = &'static str;
    fn try_from(number: u8) -> Result<Self, &'static str> {
        if (1..=100).contains(&number) { Ok(Self(number)) } else { Err("a percentage from 1 to 100") }
    }
}

impl From<Percent> for u8 {
    fn from(percent: Percent) -> u8 {
        percent.0
    }
}

/// `[policy]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Where the qrexec policy lies, the later folder hiding files of the same name in the earlier.
    pub directories: Vec<PathBuf>,
    /// Where the constraints on values lie.
    pub constraints: PathBuf,
    /// What the policy is asked for.
    pub enforce: Enforce,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            directories: vec!["/etc/qubes/policy.d".into(), "/run/qubes/policy.d".into()],
            constraints: "/etc/mgmtd/constraints.d".into(),
            enforce: Enforce::Calls,
        }
    }
}

/// What the policy is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Enforce {
    /// Each call, once more after qrexec.
    Calls,
    /// What answers and events may show, as in the deployed daemon.
    Answers,
}

/// `[compat]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Compat {
    /// Whether `PermissionDenied` and `ProtocolError` close the connection without a byte.
    pub silent_refusals: bool,
}

/// `[limits]`. One that is reached is answered with its name and value, before anything is changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of a request, header included; of streaming calls, bytes of the header.
    pub request_bytes: NonZeroU32,
    /// Connections at a time.
    pub connections: NonZeroU32,
    /// Connections of one source at a time; dom0's are not counted.
    pub connections_per_source: NonZeroU32,
    /// Seconds from a connection's accept to its half-close; of a streaming call, between two reads.
    pub read_timeout_s: NonZeroU32,
    /// Changes that may wait for one VM.
    pub operations_per_vm: NonZeroU32,
    /// Subscribers to events at a time.
    pub subscribers: NonZeroU32,
    /// Events that may wait for one subscriber; past it, it gets `events-lost`.
    pub event_queue: NonZeroU32,
    /// Events kept for those who come back.
    pub event_history: NonZeroU32,
    /// Copies of volumes at a time; more wait.
    pub bulk_copies: NonZeroU32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_bytes: count(65536),
            connections: count(4096),
            connections_per_source: count(128),
            read_timeout_s: count(30),
            operations_per_vm: count(16),
            subscribers: count(256),
            event_queue: count(4096),
            event_history: count(65536),
            bulk_copies: count(4),
        }
    }
}

impl Limits {
    /// [`Limits::request_bytes`] as a length.
    pub fn request_length(&self) -> usize {
        usize::try_from(self.request_bytes.get()).unwrap_or(usize::MAX)
    }

    /// [`Limits::read_timeout_s`] as a duration.
    pub fn read_timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.read_timeout_s.get()))
    }
}

/// `[xen]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Xen {
    /// Where the device model of an HVM runs.
    pub stubdom: Stubdom,
    /// When a VM that was started counts as running.
    pub ready: Ready,
    /// The disks' hotplug program: a name that is looked for, or an absolute path.
    pub block_script: PathBuf,
}

impl Default for Xen {
    fn default() -> Self {
        Self { stubdom: Stubdom::Linux, ready: Ready::Qrexec, block_script: "mgmt-block".into() }
    }
}

/// Where the device model of an HVM runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stubdom {
    /// In a stub domain with Linux.
    Linux,
    /// In dom0.
    None,
}

/// When a VM that was started counts as running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Ready {
    /// When its qrexec agent has connected; at once if it has no feature `qrexec`.
    Qrexec,
    /// When this path below the domain's own directory in xenstore exists.
    Xenstore(String),
    /// At once.
    Create,
}

impl FromStr for Ready {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("xenstore:")) {
            ("qrexec", _) => Ok(Self::Qrexec),
            ("create", _) => Ok(Self::Create),
            (_, Some(path)) if !path.is_empty() && !path.starts_with('/') && !path.contains('\0') => {
                Ok(Self::Xenstore(path.to_owned()))
            }
            _ => Err("qrexec, create or xenstore: and a path that does not begin with /".into()),
        }
    }
}

impl TryFrom<String> for Ready {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Ready> for String {
    fn from(ready: Ready) -> String {
        match ready {
            Ready::Qrexec => "qrexec".into(),
            Ready::Create => "create".into(),
            Ready::Xenstore(path) => format!("xenstore:{path}"),
        }
    }
}

/// `[backup]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backup {
    /// Where the profiles lie.
    pub profiles: PathBuf,
}

impl Default for Backup {
    fn default() -> Self {
        Self { profiles: "/etc/qubes/backup".into() }
    }
}

/// `[metrics]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Where they can be read.
    pub socket: PathBuf,
}

/// `[audit]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// Where they are written, besides the journal.
    pub file: PathBuf,
}

/// `[sim]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sim {
    /// Memory of the simulated host, in MiB.
    pub memory_mb: NonZeroU32,
    /// Its processors.
    pub cpus: NonZeroU32,
    /// How long building a domain takes, in milliseconds.
    pub start_ms: u32,
    /// How long a guest takes to shut down, in milliseconds.
    pub shutdown_ms: u32,
    /// What is plugged into it.
    pub buses: Buses,
    /// Where its chance begins.
    pub seed: u64,
    /// What fails, hangs, crashes or is plugged, and when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script: Option<PathBuf>,
}

impl Default for Sim {
    fn default() -> Self {
        Self {
            memory_mb: count(16384),
            cpus: count(8),
            start_ms: 0,
            shutdown_ms: 0,
            buses: Buses::Host,
            seed: 1,
            script: None,
        }
    }
}

/// The devices of the simulated host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Buses {
    /// What the machine really has, and what the script plugs in.
    Host,
    /// What the script plugs in.
    Empty,
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

impl Sim {
    /// The same with other values for the keys in the table.
    fn with(&self, table: toml::Table) -> Result<Self, String> {
        let mut all = toml::Table::try_from(self).map_err(|error| error.to_string())?;
        all.extend(table);
        all.try_into().map_err(|error: toml::de::Error| error.message().to_owned())
    }
}

const fn count(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(count) => count,
        None => NonZeroU32::MIN,
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
            ("log =\n", "m.toml:1: "),
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
