//! What the simulated host is like.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Which PCI, USB and block devices the simulated host has. Only disks given by path are modelled so far, so that
/// the two are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Buses {
    /// Those of this machine, and those that the script plugs in.
    #[default]
    Host,
    /// Those that the script plugs in.
    Empty,
}

/// The simulated host's figures and its guests' habits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimConfig {
    /// Memory for domains, in MiB.
    pub memory_mb: u32,
    /// Processors.
    pub cpus: u32,
    /// How long a domain takes to be built, in milliseconds.
    pub start_ms: u64,
    /// How long a guest takes from a shutdown request to its power-off, in milliseconds of its own time.
    pub shutdown_ms: u64,
    /// Which devices there are.
    pub buses: Buses,
    /// Where chance begins, for the script's rules with `percent`: the same seed, the same story.
    pub seed: u64,
    /// The script (TOML) of what fails, hangs, crashes and is written, for which domain and at which step.
    pub script: Option<PathBuf>,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            memory_mb: 16384,
            cpus: 8,
            start_ms: 0,
            shutdown_ms: 0,
            buses: Buses::Host,
            seed: 1,
            script: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_optional_and_an_unknown_one_is_refused() {
        assert_eq!(toml::from_str::<SimConfig>("").unwrap(), SimConfig::default());
        let some: SimConfig = toml::from_str("memory_mb = 512\nbuses = \"empty\"").unwrap();
        assert_eq!((some.memory_mb, some.buses, some.cpus), (512, Buses::Empty, 8));
        assert!(toml::from_str::<SimConfig>("memory = 512").is_err());
    }
}
