//! Giving a system out.

use std::path::Path;
use std::sync::Arc;

use super::super::qubes_xml::finding::Finding;
use super::super::qubes_xml::{describe, print};
use super::super::snapshot::{Cells, HostView, Snapshot};
use super::super::store::Store;
use super::import::naming;
use super::{dirs, files};
use crate::error::{Error, Kind, Op, Result};

/// What was given out.
#[derive(Debug)]
pub struct Exported {
    /// VMs, dom0 included.
    pub vms: usize,
    /// What the format cannot hold, and what is not in order.
    pub findings: Vec<Finding>,
}

/// Writes `qubes.xml` into a folder, and each VM's `firewall.xml` and `notes.txt` into folders in it, which are made if
/// they are not there.
///
/// # Errors
/// There is no state, or it cannot be read; the files cannot be written.
pub fn export(state: &Path, dir: &Path) -> Result<Exported> {
    let none = || Error::new(Kind::NotFound, Op::Store, state.display()).because("there is no store here");
    if !state.join("state.db").exists() {
        return Err(none());
    }
    let opened = Store::open(state, || Err(none()))?;
    let cells = Cells { runs: imbl::HashMap::new(), host: Arc::new(HostView::unknown(naming())) };
    let snapshot = Snapshot { number: 0, model: opened.model, cells };
    let (document, mut findings) = describe::describe(&snapshot);
    files::make_folder(dir)?;
    findings.extend(dirs::write(&snapshot.model, dir)?);
    files::write(&dir.join("qubes.xml"), |out| print::print(&document, out))?;
    opened.store.close()?;
    Ok(Exported { vms: document.domains.len(), findings })
}
