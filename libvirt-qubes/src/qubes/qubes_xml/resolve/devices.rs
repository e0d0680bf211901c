//! Devices assigned to a domain, in the forms of all releases.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::super::assignment::{ANY, AssignedDevice, Assignment, AssignmentMode};
use super::super::super::property::parse;
use super::super::super::vm::Vm;
use super::super::{DeviceEntry, Domain};
use super::Resolving;

impl Resolving<'_> {
    pub(super) fn devices(&mut self, vm: &mut Vm, domain: &Domain, about: &str) {
        let mut assignments = BTreeMap::new();
        for entry in &domain.devices {
            let port = entry.port.as_deref().unwrap_or(ANY);
            match self.device(entry, about) {
                Ok(Some((device, assignment))) => {
                    if assignments.insert(device, assignment).is_some() {
                        let text = format!("device {port:?} is assigned twice; the last one counts");
                        self.findings.note(entry.line, about, text);
                    }
                }
                Ok(None) => {}
                Err(reason) => {
                    self.findings.problem(entry.line, about, format!("device {port:?}: {reason}"));
                }
            }
        }
        if !assignments.is_empty() {
            vm.assignments = Arc::new(assignments);
        }
    }

    /// An assignment; `None` for one that is dropped, which was told.
    fn device(
        &mut self,
        entry: &DeviceEntry,
        about: &str,
    ) -> Result<Option<(AssignedDevice, Assignment)>, String> {
        let written = entry.port.as_deref().unwrap_or(ANY);
        let backend = match entry.backend.as_deref() {
            None | Some("" | ANY) => None,
            Some(name) => match self.names.get(name) {
                Some(uuid) => Some(*uuid),
                None => {
                    let text =
                        format!("device {written:?} of domain '{name}', which does not exist, left out");
                    self.findings.note(entry.line, about, text);
                    return Ok(None);
                }
            },
        };
        let Some(mode) = mode(entry) else {
            let mode = entry.mode.as_deref().unwrap_or_default();
            let text = format!("device {written:?} is assigned in an unknown way ({mode:?}), left out");
            self.findings.note(entry.line, about, text);
            return Ok(None);
        };
        let moved = (entry.class == "pci" && is_address(written)).then(|| (self.place.pci_port)(written));
        let port = moved.flatten().unwrap_or_else(|| written.to_owned());
        if port != written {
            self.findings.note(entry.line, about, format!("PCI device {written} lies at {port}"));
        }
        let mut options = BTreeMap::new();
        let mut identity = entry.identity.as_deref();
        for option in &entry.options {
            if option.name == "identity" {
                identity = Some(option.value.as_str());
                continue;
            }
            let bad = |error| format!("option {:?}: {error}", option.name);
            options.insert(option.name.parse().map_err(bad)?, option.value.parse().map_err(bad)?);
        }
        let part = |text: &str| AssignedDevice::part(text).map_err(|error| format!("{error}: {text:?}"));
        let device = AssignedDevice {
            class: entry.class.parse().map_err(|error| format!("{error}: {:?}", entry.class))?,
            backend,
            port: part(&port)?,
            id: part(identity.filter(|id| !id.is_empty()).unwrap_or(ANY))?,
        };
        Ok(Some((device, Assignment { mode, options })))
    }
}

/// The mode; older files say `required` with yes or no, or nothing, which means yes.
fn mode(entry: &DeviceEntry) -> Option<AssignmentMode> {
    match (entry.required.as_deref(), entry.mode.as_deref()) {
        (Some(required), _) if parse::boolean(required) == Some(false) => Some(AssignmentMode::AutoAttach),
        (Some(_), _) | (None, None) => Some(AssignmentMode::Required),
        (None, Some(mode)) => AssignmentMode::named(mode),
    }
}

/// Whether a port is the plain address of older files: `[SSSS_]BB_DD.F`.
fn is_address(port: &str) -> bool {
    let hex = |text: &str, digits: usize| text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
    let Some((bus, function)) = port.rsplit_once('.') else { return false };
    let parts: Vec<&str> = bus.split('_').collect();
    let place = match parts.as_slice() {
        [bus, device] => hex(bus, 2) && hex(device, 2),
        [segment, bus, device] => hex(segment, 4) && hex(bus, 2) && hex(device, 2),
        _ => false,
    };
    place && hex(function, 1)
}
