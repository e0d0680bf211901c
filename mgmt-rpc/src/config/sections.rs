//! The sections of `mgmtd.toml`, each with its defaults.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::DEFAULT_SOCKET;

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
    /// For `mgmt.*` and `admin.*`; one at least.
    #[serde(deserialize_with = "one_at_least")]
    pub main: Vec<PathBuf>,
    /// For `internal.*`; not opened unless named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internal: Option<PathBuf>,
    /// For the services that any VM calls; not opened unless named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub misc: Option<PathBuf>,
}

/// A daemon that nobody can call is no use to anybody.
fn one_at_least<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    let paths = Vec::deserialize(deserializer)?;
    if paths.is_empty() { Err(D::Error::custom("at least one path is needed")) } else { Ok(paths) }
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
    /// Bytes of a request, header included; of streaming calls, bytes of the header. 1,024 at least.
    #[serde(deserialize_with = "room_for_a_call")]
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

/// In bytes: any shorter, and there are calls that nobody could make, be it to put the limit right.
const SHORTEST_LIMIT: u32 = 1024;

fn room_for_a_call<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NonZeroU32, D::Error> {
    let bytes = NonZeroU32::deserialize(deserializer)?;
    if bytes.get() < SHORTEST_LIMIT {
        return Err(D::Error::custom(format_args!("{SHORTEST_LIMIT} bytes at least")));
    }
    Ok(bytes)
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

impl Sim {
    /// The same with other values for the keys in the table.
    pub(super) fn with(&self, table: toml::Table) -> Result<Self, String> {
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
