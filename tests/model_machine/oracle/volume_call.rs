//! What calls do with volumes.

use super::volume::{Kind, State, former_states};
use super::{ANY, Answer, Oracle, REST, Refused, refused};
use crate::call::Dialect;

/// Disks are made of these.
const SECTOR: u64 = 512;

const KERNEL: &str = "The volume is a kernel: its files are the administrator's, in the folder of its pool";

pub(super) fn boolean(text: &str) -> Result<bool, Refused> {
    match text.to_ascii_lowercase().as_str() {
        "0" | "no" | "false" | "off" => Ok(false),
        "1" | "yes" | "true" | "on" => Ok(true),
        _ => refused("ProtocolError", "Payload is not boolean ASCII"),
    }
}

/// Digits, before which `Revisions to keep` may have a sign.
pub(super) fn number(what: &str, text: &str) -> Result<i128, Refused> {
    let digits = match text.strip_prefix('-') {
        Some(digits) if what == "Revisions to keep" => digits,
        _ => text,
    };
    let why = if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        "contains non ASCII digits"
    } else if digits.len() > 19 {
        "is bigger than 19 decimal digits"
    } else if digits.len() > 1 && digits.starts_with('0') {
        "contains spurious leading zeros"
    } else {
        return Ok(text.parse().unwrap());
    };
    refused("ProtocolError", format!("{what} {why}"))
}

fn storage<T>(text: impl Into<String>) -> Result<T, Refused> {
    refused("StoragePoolException", text)
}

pub(super) fn no_revision<T>(revision: &str) -> Result<T, Refused> {
    storage(format!("Revision does not exist: '{revision}'"))
}

/// What a call says, once its grammar is right.
enum Said<'a> {
    Nothing,
    Revision(&'a str),
    Size(i128),
    Number(i128),
    Flag(bool),
    /// How much is announced, and what came.
    Data(Option<i128>, &'a str),
    Token(&'a str),
}

fn said<'a>(verb: &str, payload: &'a str) -> Result<Said<'a>, Refused> {
    let needed =
        ["Revert", "RemoveSnapshot", "Resize", "CloneTo"].contains(&verb) || verb.starts_with("Set.");
    if needed && payload.is_empty() {
        return refused("ProtocolError", "expected payload");
    }
    Ok(match verb {
        "Revert" | "RemoveSnapshot" => {
            let name = payload.trim();
            if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b":-_.".contains(&b)) {
                return refused("ProtocolError", format!("Revision name must be in safe set: {}", REST));
            }
            Said::Revision(name)
        }
        "Resize" => Said::Size(number("Volume size", payload.trim())?),
        "Set.revisions_to_keep" => Said::Number(number("Revisions to keep", payload)?),
        "Set.rw" | "Set.ephemeral" => Said::Flag(boolean(payload)?),
        "Import" => Said::Data(None, payload),
        "ImportWithSize" => {
            let (size, data) = match payload.split_once('\n') {
                Some((size, data)) => (size, Some(data)),
                None => (payload, None),
            };
            let size = number("Size of new data", size)?;
            match data {
                Some(data) => Said::Data(Some(size), data),
                None => {
                    let text = "malformed request: the size must end with a newline";
                    return refused("ProtocolError", text);
                }
            }
        }
        "CloneTo" => Said::Token(payload.trim()),
        _ => Said::Nothing,
    })
}

impl Oracle {
    pub(super) fn vm_volume(
        &mut self,
        dialect: Dialect,
        verb: &str,
        vm: &str,
        name: &str,
        payload: &str,
        events: &mut Vec<String>,
    ) -> Answer {
        if verb == "List" {
            return Ok(self.vms[vm].volumes.iter().map(|volume| format!("{}\n", volume.name)).collect());
        }
        // Of an import the volume is named first: its size comes with the data.
        if verb.starts_with("Import") && self.volume(vm, name).is_none() {
            return refused("ProtocolError", format!("Argument not in {vm} volumes"));
        }
        let said = said(verb, payload)?;
        let copied = match said {
            Said::Token(token) => match self.tokens.remove(token) {
                Some(source) => Some(source),
                None => {
                    let text = "'Token to clone volume of qube was not found'";
                    return refused("QubesVolumeCopyTokenNotFoundError", text);
                }
            },
            _ => None,
        };
        if self.volume(vm, name).is_none() {
            return refused("PermissionDenied", format!("Argument not in '{vm} volumes'"));
        }
        self.on_volume(dialect, verb, (vm, name), said, copied, events)
    }

    /// A call of a volume of a VM.
    fn on_volume(
        &mut self,
        dialect: Dialect,
        verb: &str,
        (vm, name): (&str, &str),
        said: Said<'_>,
        copied: Option<(String, String)>,
        events: &mut Vec<String>,
    ) -> Answer {
        let volume = self.volume(vm, name).unwrap();
        let (keep, vid) = (self.keep(vm, volume), self.vid(vm, volume));
        match verb {
            "Info" => return Ok(self.volume_info(dialect, vm, volume)),
            "ListSnapshots" => return Ok(former_states(volume)),
            "Resize" => {
                let Said::Size(size) = said else { panic!("{verb}") };
                return self.resize(vm, name, size);
            }
            "Set.revisions_to_keep" => {
                let Said::Number(number) = said else { panic!("{verb}") };
                return self.set_keep(vm, name, number);
            }
            "Set.rw" | "Set.ephemeral" => {
                let Said::Flag(flag) = said else { panic!("{verb}") };
                return self.set_flag(verb, vm, name, flag);
            }
            _ => {}
        }
        let Kind::Origin(origin) = &mut self.volume_mut(vm, name).kind else {
            return match (&self.volume(vm, name).unwrap().kind, said) {
                (_, Said::Revision(revision)) => no_revision(revision),
                (Kind::Kernel, _) => storage(KERNEL),
                _ => storage(format!(
                    "Volume {vid} keeps nothing when its VM stops: only one that does has states of its own"
                )),
            };
        };
        match (verb, said) {
            ("Snapshot", _) => {
                origin.last += 1;
                origin.kept.insert(origin.last, origin.now.clone());
                return Ok(format!("s{}", origin.last));
            }
            ("Revert", Said::Revision(id)) => origin.revert(id, keep)?,
            ("RemoveSnapshot", Said::Revision(id)) => origin.forget(id)?,
            ("Clear", _) => {
                let size = origin.now.size;
                origin.replace(State::empty(size), keep);
                events.push(format!("{vm} domain-volume-import-begin volume={name} size={size}"));
                events.push(format!("{vm} domain-volume-import-end volume={name} success=True"));
            }
            (_, Said::Data(announced, data)) => {
                if announced == Some(0) {
                    return storage(format!("Volume {vid} cannot be empty: it has at least one byte"));
                }
                let size = announced.unwrap_or_else(|| origin.now.size.into());
                events.push(format!("{vm} domain-volume-import-begin volume={name} size={size}"));
                let came = data.len() as i128;
                if came != size {
                    events.push(format!("{vm} domain-volume-import-end volume={name} success=False"));
                    let why = if came > size {
                        format!("too much data (expected {size} bytes)")
                    } else {
                        format!("not enough data (copied {came} bytes, expected {size} bytes)")
                    };
                    return refused("QubesException", format!("Data import failed: {why}"));
                }
                let size = (data.len() as u64).next_multiple_of(SECTOR);
                origin.replace(State { size, data: data.into() }, keep);
                events.push(format!("{vm} domain-volume-import-end volume={name} success=True"));
            }
            ("CloneFrom", _) => return Ok(super::CHOSEN.into()),
            ("CloneTo", _) => {
                let (uuid, of) = copied.unwrap();
                let source = self.vms.iter().find(|(_, vm)| vm.uuid == uuid).map(|(name, _)| name.clone());
                let Some(source) = source else {
                    return refused("QubesVMNotFoundError", format!("No such domain: {}", REST));
                };
                let volume = self.volume(&source, &of).unwrap();
                let (new, vid) = (volume.origin().unwrap().now.clone(), self.vid(&source, volume));
                let Kind::Origin(origin) = &mut self.volume_mut(vm, name).kind else { panic!("{vm}+{name}") };
                origin.replace(new, keep);
                events.push(format!("{vm} domain-import-volume name={name} source={vid}"));
            }
            (verb, _) => panic!("vm.volume.{verb}"),
        }
        Ok(String::new())
    }

    fn resize(&mut self, vm: &str, name: &str, asked: i128) -> Answer {
        let volume = self.volume(vm, name).unwrap();
        let (vid, size) = (self.vid(vm, volume), self.size(vm, volume));
        match volume.kind {
            Kind::Kernel => return storage(KERNEL),
            _ if !volume.rw => return storage(format!("Can not resize readonly volume {vid}")),
            Kind::Snapshot => {
                let (owner, source) = self.source(vm, name).unwrap();
                let source = self.vid(&owner, source);
                return storage(format!(
                    "Can not resize volume {vid}: each start of its VM makes it from {source}, resize that one"
                ));
            }
            _ => {}
        }
        if asked < size.into() {
            return storage(format!(
                "Can not make volume {vid} smaller: it has {size} bytes, {asked} were asked for"
            ));
        }
        let Ok(asked) = i64::try_from(asked) else {
            return storage(format!("resize volume {vid}: invalid: {}", REST));
        };
        let new = (asked as u64).next_multiple_of(SECTOR);
        match &mut self.volume_mut(vm, name).kind {
            Kind::Origin(origin) => origin.now.size = new,
            Kind::Volatile(size) => *size = new,
            Kind::Snapshot | Kind::Kernel => {}
        }
        Ok(String::new())
    }

    fn set_keep(&mut self, vm: &str, name: &str, number: i128) -> Answer {
        let volume = self.volume_mut(vm, name);
        if number < -1 || number > i32::MAX.into() {
            return refused("QubesValueError", "Invalid value for revisions_to_keep");
        }
        if volume.kind == Kind::Kernel && number != 0 {
            return refused("QubesValueError", "LinuxKernel supports only revisions_to_keep=0");
        }
        volume.keep = Some(i64::try_from(number).unwrap());
        Ok(String::new())
    }

    fn set_flag(&mut self, verb: &str, vm: &str, name: &str, flag: bool) -> Answer {
        let volume = self.volume_mut(vm, name);
        let volatile = matches!(volume.kind, Kind::Volatile(_));
        match verb {
            "Set.rw" if flag && volume.kind == Kind::Kernel => return storage(KERNEL),
            "Set.rw" => volume.rw = flag,
            _ if flag && !(volatile && volume.rw) => {
                let text = "Cannot enable ephemeral on snap_on_start or save_on_stop or non-dom0 or not \
                            writable volume";
                return refused("QubesValueError", text);
            }
            _ if flag => return refused("StoragePoolException", format!("encrypt volume {REST}")),
            _ => volume.ephemeral = Some(false),
        }
        Ok(String::new())
    }

    /// The calls of volumes by their pool.
    pub(super) fn pool_volume(
        &mut self,
        verb: &str,
        pool: &str,
        payload: &str,
        events: &mut Vec<String>,
    ) -> Answer {
        if verb == "List" {
            return self.volumes_in(pool);
        }
        if payload.is_empty() {
            return refused("ProtocolError", "expected payload");
        }
        let (vid, rest) = match verb {
            "Revert" | "RemoveSnapshot" | "Resize" => match payload.split_once(' ') {
                Some((vid, rest))
                    if ![vid, rest].iter().any(|part| part.is_empty() || part.contains([' ', '\n'])) =>
                {
                    (vid, rest)
                }
                _ => {
                    let text = "malformed request: the payload must be a volume and a value, separated by \
                                one space";
                    return refused("ProtocolError", text);
                }
            },
            _ => (payload.trim(), ""),
        };
        let said = said(verb, rest)?;
        if self.pool(pool)?.holds_kernels() {
            return match verb {
                _ if !(pool == "linux-kernel" && vid == super::global::KERNEL) => {
                    storage(format!("Volume does not exist: '{vid}'"))
                }
                "Info" => Ok(format!(
                    "pool={pool}\nvid={vid}\nsize=0\nusage={ANY}\nrw=False\ninternal=True\nsource=\n\
                     save_on_stop=False\nsnap_on_start=False\n"
                )),
                "ListSnapshots" => Ok(String::new()),
                _ => storage(KERNEL),
            };
        }
        let found = self.vms.iter().find_map(|(name, vm)| {
            let named = vm.volumes.iter().find(|volume| {
                volume.kind != Kind::Kernel
                    && self.pool_of(name, volume) == pool
                    && self.vid(name, volume) == vid
            });
            Some((name.clone(), named?.name))
        });
        match found {
            Some((vm, name)) => self.on_volume(Dialect::Mgmt, verb, (&vm, name), said, None, events),
            None => storage(format!("Volume does not exist: '{vid}'")),
        }
    }

    /// What of a volume a token stands for, once it was given.
    pub fn offered(&mut self, token: &str, vm: &str, volume: &str) {
        self.tokens.insert(token.into(), (self.vms[vm].uuid.clone(), volume.into()));
    }

    /// A kill may have used a number up.
    pub fn numbered(&mut self, vm: &str, volume: &str, number: u64) -> Result<(), String> {
        let Kind::Origin(origin) = &mut self.volume_mut(vm, volume).kind else { panic!("{vm}+{volume}") };
        if ![1, 2].contains(&(number - origin.last)) {
            return Err(format!("snapshot s{number} of {vm}+{volume}, the last was s{}", origin.last));
        }
        origin.last = number;
        Ok(())
    }
}
