//! Global properties.

use std::sync::Arc;

use super::super::super::global::{Global, GlobalKind};
use super::super::super::pool::Pool;
use super::super::super::property::{Property, parse};
use super::super::super::refusal::Refusal;
use super::super::super::value::Value;
use super::super::super::vm::Vm;
use super::super::Entry;
use super::Resolving;
use crate::ids::KernelVersion;

impl Resolving<'_> {
    pub(super) fn globals(&mut self, entries: &[Entry]) {
        let mut firewall_netvm = None;
        for (at, entry) in entries.iter().enumerate() {
            if entries.iter().skip(at + 1).any(|later| later.name == entry.name) {
                continue;
            }
            if entry.name == "default_fw_netvm" {
                firewall_netvm = Some(entry);
                continue;
            }
            let about = format!("property {}", entry.name);
            match Global::named(&entry.name) {
                Some(global) if global.kind() == GlobalKind::Pool => {}
                Some(global) => self.set_global(global, entry),
                None => self.findings.note(entry.line, &about, "unknown, left out"),
            }
        }
        self.disposables_only(Global::DefaultDispvm, entries);
        self.disposables_only(Global::ManagementDispvm, entries);
        if let Some(entry) = firewall_netvm {
            self.firewall_netvm(entry);
        }
    }

    fn set_global(&mut self, global: Global, entry: &Entry) {
        match self.global(global, &entry.value) {
            Ok(value) => self.model.put_global(global, Some(value)),
            Err(reason) => {
                self.findings.problem(entry.line, &format!("property {global}"), reason);
                self.kept_globals.push((entry.name.clone(), entry.value.clone()));
            }
        }
    }

    fn global(&self, global: Global, text: &str) -> Result<Value, String> {
        Ok(match global.kind() {
            GlobalKind::Vm => Value::Vm(self.named(text)?),
            GlobalKind::Pool => {
                let pool = self.model.pool(text).ok_or_else(|| format!("there is no pool {text:?}"))?;
                Value::Pool(pool.name.clone())
            }
            GlobalKind::Int => {
                Value::Int(parse::integer(text).ok_or_else(|| format!("{text:?} is no number"))?)
            }
            GlobalKind::Bool => Value::Bool(
                parse::boolean(text).ok_or_else(|| format!("{text:?} is neither True nor False"))?,
            ),
            GlobalKind::Str if global == Global::DefaultKernel && !text.is_empty() => {
                text.parse::<KernelVersion>().map_err(|error| error.reason().to_owned())?;
                Value::text(text)
            }
            GlobalKind::Str => Value::text(text),
        })
    }

    /// What names a VM that disposables cannot be based on becomes none.
    fn disposables_only(&mut self, global: Global, entries: &[Entry]) {
        let target = self.model.global(global).and_then(Value::as_vm).and_then(|vm| self.model.vm(vm));
        let wrong = target.filter(|vm| vm.flag(Property::TemplateForDispvms) != Some(true));
        if let Some(name) = wrong.map(|vm| vm.name.clone()) {
            let line = entries.iter().rev().find(|entry| entry.name == global.name()).map_or(0, |e| e.line);
            let text = format!("domain '{name}' is no template of disposables; set to none");
            self.findings.note(line, &format!("property {global}"), text);
            self.model.put_global(global, Some(Value::Vm(None)));
        }
    }

    /// The netvm that VMs which provide network had by default in older releases.
    fn firewall_netvm(&mut self, entry: &Entry) {
        let about = "property default_fw_netvm";
        let netvm = match self.named(&entry.value) {
            Ok(netvm) => netvm,
            Err(reason) => return self.findings.problem(entry.line, about, reason),
        };
        if self.model.global(Global::DefaultNetvm).map(Value::as_vm) == Some(netvm) {
            return;
        }
        let serves = |vm: &&Arc<Vm>| {
            vm.flag(Property::ProvidesNetwork) == Some(true) && vm.reference(Property::Netvm).is_none()
        };
        let vms: Vec<Arc<Vm>> = self.model.vms().filter(serves).cloned().collect();
        for vm in vms {
            let mut vm = Vm::clone(&vm);
            vm.properties.insert(Property::Netvm, Value::Vm(netvm));
            let text = format!("of older releases: the netvm of '{}'", vm.name);
            self.findings.note(entry.line, about, text);
            self.model.put_vm(Arc::new(vm));
        }
    }

    /// Where new volumes lie. There must be a place, also where the deployed system would choose one each time.
    pub(super) fn pools_of_new_volumes(&mut self, entries: &[Entry]) {
        for global in Global::ALL.iter().copied().filter(|global| global.kind() == GlobalKind::Pool) {
            if let Some(entry) = entries.iter().rev().find(|entry| entry.name == global.name()) {
                self.set_global(global, entry);
            }
        }
        let of_volumes = self.default_pool().cloned();
        let of_kernels = self.model.pools().find(|pool| pool.holds_kernels()).cloned();
        for (global, pool) in [(Global::DefaultPool, of_volumes), (Global::DefaultPoolKernel, of_kernels)] {
            if let (None, Some(pool)) = (self.model.global(global), pool) {
                let text = format!("not in the file; pool {:?} chosen", pool.name.as_str());
                self.findings.note(0, &format!("property {global}"), text);
                self.model.put_global(global, Some(Value::Pool(pool.name.clone())));
            }
        }
    }

    /// The pool of new volumes where the file names none: the one called `default`, else the one in
    /// `/var/lib/qubes`, else `varlibqubes`, else the first that holds volumes.
    fn default_pool(&self) -> Option<&Arc<Pool>> {
        let of_volumes = || self.model.pools().filter(|pool| !pool.holds_kernels());
        let in_place = || {
            of_volumes().find(|pool| {
                let dir = pool.options.get("dir_path").map(|dir| dir.trim_end_matches('/'));
                matches!(&*pool.driver, "file" | "file-reflink") && dir == Some("/var/lib/qubes")
            })
        };
        self.model
            .pool("default")
            .or_else(in_place)
            .or_else(|| self.model.pool("varlibqubes"))
            .or_else(|| of_volumes().next())
    }
}

/// Whether a refusal is one of those that older systems live with, and put right by none.
pub(super) fn is_put_right(property: Property, refusal: &Refusal) -> bool {
    matches!(
        (property, refusal),
        (Property::Netvm, Refusal::NetworkLoop)
            | (Property::DefaultDispvm | Property::ManagementDispvm, Refusal::NotForDisposables { .. })
    )
}
