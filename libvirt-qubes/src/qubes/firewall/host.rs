//! The calls on rules, and what happens to them with time.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::super::event::{EventKind, ModelEvent};
use super::super::host::Host;
use super::super::refusal::HostError;
use super::change::{self, Place};
use super::list::{Entry, RuleId};
use super::rule::Rule;
use crate::ids::VmName;

/// How often the clock is looked at. It may be set, and stands still for nobody while the machine sleeps, so that no
/// timer that was armed before would do.
const EVERY: Duration = Duration::from_secs(1);

/// How long to wait where what has expired cannot be taken out of the store.
const RETRY: Duration = Duration::from_secs(60);

impl Host {
    /// The rules of a VM that hold, in order.
    ///
    /// # Errors
    /// No such VM, or one that has no firewall; its rules in the store are damaged.
    pub fn firewall(&self, vm: &VmName) -> Result<Vec<Entry>, HostError> {
        let seen = self.snapshot();
        let firewall = change::known(seen.model.find_vm(vm)?)?;
        Ok(firewall.live(SystemTime::now()).cloned().collect())
    }

    /// Puts a rule into a VM's list, and gives its id. Acknowledged means durable, as for all that follow.
    ///
    /// # Errors
    /// As [`change::insert`]; the store cannot be written.
    pub async fn insert_firewall_rule(
        &self,
        vm: &VmName,
        place: Place,
        rule: Rule,
    ) -> Result<RuleId, HostError> {
        let (uuid, now) = (self.snapshot().model.find_vm(vm)?.uuid, SystemTime::now());
        self.committer.commit(move |seen| change::insert(seen, uuid, &place, &rule, now)).await
    }

    /// Takes a rule out of a VM's list, by its id in a client's words.
    ///
    /// # Errors
    /// As [`change::remove`]; the store cannot be written.
    pub async fn remove_firewall_rule(&self, vm: &VmName, id: String) -> Result<(), HostError> {
        let (uuid, now) = (self.snapshot().model.find_vm(vm)?.uuid, SystemTime::now());
        self.committer.commit(move |seen| change::remove(seen, uuid, &id, now)).await
    }

    /// Gives a VM these rules and no others; none drop everything.
    ///
    /// # Errors
    /// As [`change::replace`]; the store cannot be written.
    pub async fn set_firewall(&self, vm: &VmName, rules: Vec<Rule>) -> Result<(), HostError> {
        let (uuid, now) = (self.snapshot().model.find_vm(vm)?.uuid, SystemTime::now());
        self.committer.commit(move |seen| change::replace(seen, uuid, &rules, now)).await
    }

    /// Has a VM's rules given to its netvm again.
    ///
    /// # Errors
    /// As [`change::reload`].
    pub async fn reload_firewall(&self, vm: &VmName) -> Result<(), HostError> {
        let uuid = self.snapshot().model.find_vm(vm)?.uuid;
        self.committer.commit(move |seen| change::reload(seen, uuid)).await
    }

    /// Takes rules out as they expire, for the host's life.
    pub(in super::super) async fn expire_rules(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.closing.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let now = SystemTime::now();
            if self.snapshot().model.firewalls_due(now).next().is_none() {
                continue;
            }
            let Err(error) = self.committer.commit(move |seen| Ok(change::expire(seen, now))).await else {
                continue;
            };
            if self.closing.is_cancelled() {
                return;
            }
            tracing::warn!(error = error.report(), "expired firewall rules stay in the store for now");
            // They hold no longer all the same, and netvms must hear of it.
            self.sequencer.update(|model, _| {
                let due = model.firewalls_due(now);
                (due.map(|vm| ModelEvent::of(vm, EventKind::FirewallChanged)).collect(), ())
            });
            tokio::select! {
                () = self.closing.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }
}
