//! The world on disk: a small file per domain and one for the host, each replaced by rename.
//!
//! Nothing here is flushed to the medium: the files must outlive the daemon, as Xen's memory does, not the
//! machine. A temporary name that a kill left is removed at the next start.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::record::Record;
use crate::error::{At, Error, Kind, Op, Result};
use crate::ids::DomId;

/// The format of every file; another number is refused.
const FORMAT: u32 = 1;
const HOST: &str = "host.json";
const TEMPORARY: &str = "new";

/// What the host has besides domains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Host {
    /// The number that the next domain gets, if it is free.
    pub(super) next_domid: u32,
    /// Whether the host's services (xenstored) are gone.
    pub(super) services_lost: bool,
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    format: u32,
    content: T,
}

/// The folder of one world.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
}

impl Store {
    /// Opens or makes the folder and reads what is in it. Blocks.
    pub(super) fn open(dir: PathBuf) -> Result<(Self, Option<Host>, Vec<Record>)> {
        let store = Self { dir };
        store.make_dir()?;
        let mut host = None;
        let mut domains = Vec::new();
        for entry in std::fs::read_dir(&store.dir).at(Op::OpenHypervisor, store.dir.display())? {
            let path = entry.at(Op::OpenHypervisor, store.dir.display())?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name == HOST {
                host = Some(read(&path)?);
            } else if name.starts_with("domain-") && name.ends_with(".json") {
                domains.push(read(&path)?);
            } else if path.extension().is_some_and(|extension| extension == TEMPORARY) {
                std::fs::remove_file(&path).at(Op::OpenHypervisor, path.display())?;
            }
        }
        Ok((store, host, domains))
    }

    /// Replaces a domain's file. Blocks.
    pub(super) fn put(&self, op: Op, record: &Record) -> Result<()> {
        self.replace(op, self.domain(record.domid), record)
    }

    /// Replaces the host's file. Blocks.
    pub(super) fn put_host(&self, op: Op, host: &Host) -> Result<()> {
        self.replace(op, self.dir.join(HOST), host)
    }

    /// Removes a domain's file. Blocks.
    pub(super) fn remove(&self, op: Op, domid: DomId) -> Result<()> {
        let path = self.domain(domid);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.at(op, path.display()),
        }
    }

    fn domain(&self, domid: DomId) -> PathBuf {
        self.dir.join(format!("domain-{domid}.json"))
    }

    fn make_dir(&self) -> Result<()> {
        std::fs::create_dir_all(&self.dir).at(Op::OpenHypervisor, self.dir.display())
    }

    fn replace<T: Serialize>(&self, op: Op, path: PathBuf, content: &T) -> Result<()> {
        let text = serde_json::to_vec(&Versioned { format: FORMAT, content })
            .map_err(|error| Error::new(Kind::Corrupt, op, path.display()).because(error))?;
        let temporary = path.with_extension(TEMPORARY);
        std::fs::write(&temporary, text).at(op, temporary.display())?;
        std::fs::rename(&temporary, &path).at(op, path.display())
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let corrupt = |why: String| {
        let advice = "removing the folder ends its domains, as a reboot would";
        Error::new(Kind::Corrupt, Op::OpenHypervisor, path.display()).because(format!("{why}; {advice}"))
    };
    let text = std::fs::read(path).at(Op::OpenHypervisor, path.display())?;
    // The format is looked at first: the content of another one need not parse.
    let raw: Versioned<serde_json::Value> =
        serde_json::from_slice(&text).map_err(|error| corrupt(error.to_string()))?;
    if raw.format != FORMAT {
        return Err(corrupt(format!("format {}, this release reads {FORMAT}", raw.format)));
    }
    serde_json::from_value(raw.content).map_err(|error| corrupt(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    #[test]
    fn what_was_put_is_found_again_and_a_half_written_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (store, host, domains) = Store::open(dir.path().join("sim")).unwrap();
        assert_eq!((host, domains), (None, Vec::new()));
        let host = Host { next_domid: 3, services_lost: false };
        store.put_host(Op::CreateDomain, &host).unwrap();
        for domid in [1, 2] {
            store.put(Op::CreateDomain, &record(domid)).unwrap();
        }
        store.remove(Op::DestroyDomain, DomId::new(1).unwrap()).unwrap();
        store.remove(Op::DestroyDomain, DomId::new(1).unwrap()).unwrap();
        let half = dir.path().join("sim/domain-9.new");
        std::fs::write(&half, "{\"form").unwrap();
        let (_, host_again, domains) = Store::open(dir.path().join("sim")).unwrap();
        assert_eq!((host_again, domains), (Some(host), vec![record(2)]));
        assert!(!half.exists());
    }

    #[test]
    fn another_format_and_damage_are_refused_with_the_file_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("domain-1.json");
        for (text, words) in [
            ("{\"format\":2,\"content\":7}", "format 2, this release reads 1"),
            ("{\"format\":1,\"content\":7}", "invalid type"),
            ("{\"for", "EOF"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Store::open(dir.path().into()).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt);
            let report = error.report();
            assert!(report.contains("domain-1.json") && report.contains(words), "{report}");
            assert!(report.contains("removing the folder"), "{report}");
        }
    }
}
