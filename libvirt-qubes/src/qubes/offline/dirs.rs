//! What of a VM lies in a folder of its own: its firewall rules and its notes.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::super::firewall::{Firewall, xml};
use super::super::model::Model;
use super::super::notes::{Notes, NotesText};
use super::super::qubes_xml::finding::{Finding, Findings};
use super::super::qubes_xml::resolve::Resolved;
use super::super::vm::Vm;
use super::super::write::Write;
use super::files;
use crate::error::{At, Op, Result};

const FIREWALL: &str = "firewall.xml";
const NOTES: &str = "notes.txt";

/// The folder of a VM: `appvms/NAME`, and `vm-templates/NAME` for templates.
fn folder(dir: &Path, vm: &Vm) -> PathBuf {
    dir.join(vm.class.volume_group().as_str()).join(vm.name.as_str())
}

/// Adds to the VMs of a file what lies in their folders. A file that is not there is none.
pub(super) fn add(resolved: &mut Resolved, dir: &Path) -> Result<()> {
    let now = SystemTime::now();
    let mut findings = Findings::default();
    for write in &mut resolved.writes {
        let Write::AddVm(vm) = write else { continue };
        let folder = folder(dir, vm);
        let about = format!("domain '{}'", vm.name);
        let line = resolved.lines.get(&vm.uuid).copied().unwrap_or_default();
        if let Some(bytes) = read(&folder.join(FIREWALL))? {
            let rules = xml::read(&bytes).map_err(|error| error.to_string());
            let list = rules.and_then(|rules| Firewall::new(rules, now).map_err(|error| error.to_string()));
            Arc::make_mut(vm).firewall = match list {
                Ok(list) if vm.class.has_lifecycle() => list,
                Ok(_) => {
                    findings.note(
                        line,
                        &about,
                        format!("a {} has no firewall, {FIREWALL} left out", vm.class),
                    );
                    continue;
                }
                Err(reason) => {
                    findings.problem(line, &about, format!("{FIREWALL}: {reason}"));
                    Firewall::closed()
                }
            };
        }
        if let Some(bytes) = read(&folder.join(NOTES))? {
            match NotesText::sanitised(&bytes) {
                Ok(text) => {
                    if text.as_str().as_bytes() != bytes {
                        let told = format!("{NOTES} has characters that are not safe to show, made _");
                        findings.note(line, &about, told);
                    }
                    Arc::make_mut(vm).notes = Notes::Text(text);
                }
                Err(error) => findings.problem(line, &about, format!("{NOTES}: {error}")),
            }
        }
    }
    resolved.findings.extend(findings.0);
    Ok(())
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at(Op::Store, path.display()),
    }
}

/// Writes what lies in the folders of VMs, and removes what an earlier export left there and is no more.
pub(super) fn write(model: &Model, dir: &Path) -> Result<Vec<Finding>> {
    let now = SystemTime::now();
    let mut findings = Findings::default();
    for vm in model.vms() {
        let folder = folder(dir, vm);
        let about = format!("domain '{}'", vm.name);
        let rules = match vm.firewall.damage() {
            Some(reason) => {
                findings.problem(0, &about, format!("its firewall rules are damaged, left out: {reason}"));
                None
            }
            None if vm.firewall.is_default() => None,
            None => Some(xml::write(vm.firewall.live(now).map(|entry| &*entry.rule))),
        };
        let notes = match &vm.notes {
            Notes::Text(text) => Some(text.as_str()).filter(|text| !text.is_empty()),
            Notes::Damaged(reason) => {
                findings.problem(0, &about, format!("its notes are damaged, left out: {reason}"));
                None
            }
        };
        put(&folder, FIREWALL, rules.as_deref())?;
        put(&folder, NOTES, notes)?;
    }
    Ok(findings.0)
}

fn put(folder: &Path, name: &str, text: Option<&str>) -> Result<()> {
    let path = folder.join(name);
    match text {
        Some(text) => {
            files::make_folder(folder)?;
            files::write(&path, |out| out.write_all(text.as_bytes()))
        }
        None => match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).at(Op::Store, path.display())
            }
            Ok(()) | Err(_) => Ok(()),
        },
    }
}
