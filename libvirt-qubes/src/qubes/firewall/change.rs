//! What calls do to a VM's rules, as pure functions of a snapshot and the time.

use std::time::SystemTime;

use uuid::Uuid;

use super::super::class::VmClass;
use super::super::diff::{Diff, Refused};
use super::super::event::{EventKind, ModelEvent};
use super::super::refusal::Refusal;
use super::super::snapshot::Snapshot;
use super::super::vm::Vm;
use super::super::write::Write;
use super::list::{Firewall, MOST_RULES, RuleId, TooManyRules};
use super::rule::Rule;

/// Where a new rule goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// After all others.
    End,
    /// Before the rule with this id, in a client's words.
    Before(String),
}

impl From<TooManyRules> for Refusal {
    fn from(_: TooManyRules) -> Self {
        Self::TooManyFirewallRules { most: MOST_RULES }
    }
}

/// The firewall of a VM.
///
/// # Errors
/// dom0 and remote VMs have none.
pub(super) fn of(vm: &Vm) -> Result<&Firewall, Refusal> {
    match vm.class {
        VmClass::AdminVm | VmClass::RemoteVm => {
            Err(Refusal::NotForClass { vm: vm.name.clone(), class: vm.class })
        }
        VmClass::AppVm | VmClass::DispVm | VmClass::StandaloneVm | VmClass::TemplateVm => Ok(&vm.firewall),
    }
}

/// The same, if its rules are known.
///
/// # Errors
/// As [`of`]; the list is damaged.
pub(super) fn known(vm: &Vm) -> Result<&Firewall, Refusal> {
    let firewall = of(vm)?;
    match firewall.damage() {
        Some(reason) => Err(Refusal::FirewallDamaged { vm: vm.name.clone(), reason: reason.to_owned() }),
        None => Ok(firewall),
    }
}

fn changed(vm: &Vm) -> ModelEvent {
    ModelEvent::of(vm, EventKind::FirewallChanged)
}

/// A rule that holds, by its id in a client's words.
fn find(firewall: &Firewall, id: &str, now: SystemTime) -> Result<RuleId, Refusal> {
    let known = id.parse().ok().filter(|id| firewall.live(now).any(|entry| entry.id == *id));
    known.ok_or_else(|| Refusal::NoSuchFirewallRule { id: id.to_owned() })
}

/// Rows for another list. What has expired goes with the first of them.
struct Edit {
    vm: Uuid,
    list: Firewall,
    writes: Vec<Write>,
}

impl Edit {
    fn new(vm: &Vm, list: &Firewall, now: SystemTime) -> Self {
        let mut edit = Self { vm: vm.uuid, list: list.clone(), writes: Vec::new() };
        let expired = list.expired(now);
        if !expired.is_empty() {
            edit.remove(expired);
        }
        edit
    }

    /// The whole list, where there is no row of it yet, or each is another.
    fn set(&mut self, list: Firewall) {
        self.writes = vec![Write::SetFirewall(self.vm, list.clone())];
        self.list = list;
    }

    fn remove(&mut self, ids: Vec<RuleId>) {
        let Some(list) = self.list.without(&ids) else { return };
        if self.list.is_default() {
            return self.set(list);
        }
        self.writes.push(Write::RemoveRules(self.vm, ids));
        self.list = list;
    }

    fn insert(&mut self, index: usize, rule: Rule) -> Result<RuleId, Refusal> {
        let (entry, list) = match self.list.entry(index, rule.clone())? {
            Some(entry) => (Some(entry), self.list.clone()),
            None => {
                let list = self.list.spread();
                (list.entry(index, rule)?, list)
            }
        };
        // There is a place in a list that was spread, and it is nobody's.
        let with = entry.and_then(|entry| Some((list.with(entry.clone())?, entry)));
        let (with, entry) = with.ok_or(TooManyRules)?;
        let id = entry.id;
        if self.list.is_default() || list != self.list {
            self.set(with);
        } else {
            self.writes.push(Write::InsertRule(self.vm, entry));
            self.list = with;
        }
        Ok(id)
    }

    fn into_diff<T>(self, vm: &Vm, answer: T) -> Diff<T> {
        let mut diff = Diff::new(answer).event(changed(vm));
        diff.writes = self.writes;
        diff
    }
}

/// Puts a rule in, and gives its id.
///
/// # Errors
/// [`Refusal::NoSuchFirewallRule`]; [`Refusal::TooManyFirewallRules`]; the list is damaged; no such VM, or one that
/// has no firewall.
pub fn insert(
    snapshot: &Snapshot,
    vm: Uuid,
    place: &Place,
    rule: &Rule,
    now: SystemTime,
) -> Result<Diff<RuleId>, Refused> {
    let vm = snapshot.model.find_uuid(vm)?;
    let firewall = known(vm)?;
    let before = match place {
        Place::End => None,
        Place::Before(id) => Some(find(firewall, id, now)?),
    };
    let mut edit = Edit::new(vm, firewall, now);
    let rules = edit.list.rules();
    let index = rules.iter().position(|entry| Some(entry.id) == before).unwrap_or(rules.len());
    let id = edit.insert(index, rule.clone())?;
    Ok(edit.into_diff(vm, id))
}

/// Takes a rule out.
///
/// # Errors
/// As [`insert`].
pub fn remove(snapshot: &Snapshot, vm: Uuid, id: &str, now: SystemTime) -> Result<Diff<()>, Refused> {
    let vm = snapshot.model.find_uuid(vm)?;
    let firewall = known(vm)?;
    let id = find(firewall, id, now)?;
    let mut edit = Edit::new(vm, firewall, now);
    edit.remove(vec![id]);
    Ok(edit.into_diff(vm, ()))
}

/// Gives the VM these rules and no others. A rule that stays keeps its id. A damaged list is replaced as any other.
///
/// # Errors
/// [`Refusal::TooManyFirewallRules`]; no such VM, or one that has no firewall.
pub fn replace(snapshot: &Snapshot, vm: Uuid, rules: &[Rule], now: SystemTime) -> Result<Diff<()>, Refused> {
    let vm = snapshot.model.find_uuid(vm)?;
    let list = of(vm)?.replaced(rules.iter().cloned(), now).map_err(Refusal::from)?;
    Ok(Diff::new(()).write(Write::SetFirewall(vm.uuid, list)).event(changed(vm)))
}

/// Says that the rules changed, though they did not, so that they are given to the netvm again.
///
/// # Errors
/// No such VM, or one that has no firewall.
pub fn reload(snapshot: &Snapshot, vm: Uuid) -> Result<Diff<()>, Refused> {
    let vm = snapshot.model.find_uuid(vm)?;
    of(vm)?;
    Ok(Diff::new(()).event(changed(vm)))
}

/// Takes out what has expired, of every VM.
pub fn expire(snapshot: &Snapshot, now: SystemTime) -> Diff<()> {
    let mut diff = Diff::new(()).frees_space();
    for vm in snapshot.model.firewalls_due(now) {
        diff.writes.extend(Edit::new(vm, &vm.firewall, now).writes);
        diff.events.push(changed(vm));
    }
    diff
}
