//! Taking a system in.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::super::model::SetAside;
use super::super::pool::Pool;
use super::super::pools;
use super::super::qubes_xml::finding::{Finding, Weight};
use super::super::qubes_xml::read::{self, NotXml};
use super::super::qubes_xml::resolve::{self, Surroundings};
use super::super::snapshot::VolumeNaming;
use super::super::store::{self, Filled, NotEmpty, Store};
use super::super::volumes;
use super::{dirs, pci};
use crate::error::{At, Error, Op};
use crate::storage::{DriverKind, Tuning, VolumeId};

/// What to take in.
#[derive(Debug, Clone)]
pub struct ImportRequest {
    /// The state directory; made if it is not there.
    pub state: PathBuf,
    /// Where the pool of a first start lies.
    pub storage_dir: PathBuf,
    /// The `qubes.xml`.
    pub file: PathBuf,
    /// Where the VMs' folders lie, for their firewall rules and notes.
    pub vm_dirs: Option<PathBuf>,
    /// What happens to what is bad in it.
    pub bad: Bad,
}

/// What happens to what is bad in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    /// The whole file is refused.
    Refused,
    /// It is set aside, or left out where not even that can be done.
    SetAside,
}

/// What was taken in.
#[derive(Debug)]
pub struct Imported {
    /// VMs, dom0 included.
    pub vms: usize,
    /// Rows that were set aside.
    pub set_aside: usize,
    /// What there is to say.
    pub findings: Vec<Finding>,
}

/// Why nothing was taken in.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The state has a content already.
    #[error("{0}")]
    NotEmpty(NotEmpty),
    /// The file cannot be read as XML.
    #[error("{0}")]
    NotXml(#[from] NotXml),
    /// The file has problems; each is named, and the notes with them.
    #[error("the file has problems")]
    Problems(Vec<Finding>),
    /// The state or the file cannot be read or written.
    #[error("{}", .0.report())]
    Failed(#[from] Error),
}

/// Takes a `qubes.xml` into an empty state, all or nothing. What a first start left there (labels, pools, globals)
/// is replaced.
///
/// # Errors
/// As said for [`ImportError`]; nothing has changed then.
pub fn import(request: &ImportRequest) -> Result<Imported, ImportError> {
    let first = || pools::first(&request.state, &request.storage_dir);
    let mut opened = Store::open(&request.state, first)?;
    if let Some(filled) = opened.is_filled() {
        return Err(ImportError::NotEmpty(filled));
    }
    let bytes = std::fs::read(&request.file).at(Op::Store, request.file.display())?;
    let (document, mut findings) = read::read(&bytes)?;
    drop(bytes);
    let place = Surroundings {
        pools: store::pools(&first()?)?.into(),
        pci_port: &|address| pci::port(Path::new("/sys"), address),
        naming: naming(),
    };
    let mut resolved = resolve::resolve(&document, &place);
    drop(document);
    if let Some(dir) = &request.vm_dirs {
        dirs::add(&mut resolved, dir)?;
    }
    findings.extend(resolved.findings.iter().cloned());
    if request.bad == Bad::Refused && has_problems(&findings) {
        return Err(ImportError::Problems(findings));
    }
    let accept = |filled: &Filled| {
        let told =
            |row: &&SetAside| !findings.iter().any(|f| f.weight == Weight::Problem && f.about == about(row));
        let more: Vec<Finding> = filled
            .unexpected
            .iter()
            .filter(told)
            .map(|row| Finding {
                weight: Weight::Problem,
                line: row.uuid.and_then(|uuid| resolved.lines.get(&uuid).copied()),
                about: about(row),
                text: row.reason.clone(),
            })
            .collect();
        findings.extend(more);
        match request.bad {
            Bad::Refused if has_problems(&findings) => {
                Err(ImportError::Problems(std::mem::take(&mut findings)))
            }
            Bad::Refused | Bad::SetAside => Ok(()),
        }
    };
    let model = opened.store.fill(&resolved, accept)?;
    let imported = Imported { vms: model.vm_count(), set_aside: model.set_aside().count(), findings };
    opened.store.close()?;
    Ok(imported)
}

/// What findings call a row.
fn about(row: &SetAside) -> String {
    match row.table {
        "vm" => format!("domain '{}'", row.name),
        "global" => format!("property {}", row.name),
        table => format!("{table} {:?}", row.name),
    }
}

fn has_problems(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.weight == Weight::Problem)
}

/// Names volumes as the pool's driver does, without touching the pool; as the drivers of files do where there is no
/// such driver.
pub(super) fn naming() -> VolumeNaming {
    let drivers = Mutex::new(HashMap::new());
    VolumeNaming::new(move |pool: &Pool, group, owner, volume| {
        let id = VolumeId::new(group, owner.clone(), volume.clone());
        let mut drivers = drivers.lock().unwrap_or_else(PoisonError::into_inner);
        let driver = drivers.entry(pool.name.clone()).or_insert_with(|| {
            let options =
                pool.options.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
            pool.driver
                .parse::<DriverKind>()
                .ok()
                .and_then(|kind| kind.open(&pool.name, &options, Tuning::default()).ok())
        });
        driver.as_ref().map_or_else(|| id.to_string(), |driver| driver.vid(&id, &volumes::any_spec()))
    })
}
