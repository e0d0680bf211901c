//! Faults, delays and guests' whims: at which operation, for which domain, how often.

use std::time::Duration;

use super::record::GuestAct;
use crate::error::{Error, Kind, Op};
use crate::ids::VmName;

/// What goes otherwise than usual at one operation. Made by [`Rule::at`], which alone changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    op: Op,
    vm: Option<VmName>,
    /// Times that it still applies; `None` is always.
    left: Option<u32>,
    percent: u8,
    effects: Effects,
}

/// What the rules that apply to one operation come to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Effects {
    /// Waited before anything else.
    pub(super) delay: Duration,
    /// Then the operation does not go on until it is cancelled, its domain is gone or the world releases it.
    pub(super) hang: bool,
    /// Then it fails.
    pub(super) fail: Option<(Kind, String)>,
    /// The guest ignores this request.
    pub(super) deaf: bool,
    /// What the guest does, how much of its own time after the operation.
    pub(super) acts: Vec<(Duration, GuestAct)>,
}

impl Rule {
    /// A rule for every domain, each time that `op` is done.
    pub fn at(op: Op) -> Self {
        Self { op, vm: None, left: None, percent: 100, effects: Effects::default() }
    }

    /// For the domain of this name alone.
    #[must_use]
    pub fn vm(mut self, name: VmName) -> Self {
        self.vm = Some(name);
        self
    }

    /// So many times, then no more.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.left = Some(times);
        self
    }

    /// By chance, this often in a hundred.
    #[must_use]
    pub fn percent(mut self, percent: u8) -> Self {
        self.percent = percent;
        self
    }

    /// The operation takes so much longer.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.effects.delay = delay;
        self
    }

    /// The operation does not end by itself: only by its cancel token, the end of its domain or
    /// [`World::release`](super::World::release).
    #[must_use]
    pub fn hang(mut self) -> Self {
        self.effects.hang = true;
        self
    }

    /// The operation fails, with `text` as its cause, and changes nothing.
    #[must_use]
    pub fn fail(mut self, kind: Kind, text: impl Into<String>) -> Self {
        self.effects.fail = Some((kind, text.into()));
        self
    }

    /// The guest ignores this shutdown request.
    #[must_use]
    pub fn deaf(mut self) -> Self {
        self.effects.deaf = true;
        self
    }

    /// The guest does this, `after` so much of its own time, counted from the operation's success. A guest
    /// that shuts down at a shutdown request does so in place of the power-off that was asked for.
    #[must_use]
    pub fn guest(mut self, after: Duration, act: GuestAct) -> Self {
        self.effects.acts.push((after, act));
        self
    }

    fn applies(&self, op: Op, vm: Option<&VmName>) -> bool {
        self.op == op && self.left != Some(0) && (self.vm.is_none() || self.vm.as_ref() == vm)
    }
}

impl Effects {
    pub(super) fn add(&mut self, other: &Self) {
        self.delay = self.delay.saturating_add(other.delay);
        self.hang |= other.hang;
        self.deaf |= other.deaf;
        if self.fail.is_none() {
            self.fail.clone_from(&other.fail);
        }
        self.acts.extend(other.acts.iter().cloned());
    }

    /// The failure that was ordered, told of `target`.
    pub(super) fn failure(&self, op: Op, target: impl std::fmt::Display) -> Result<(), Error> {
        match &self.fail {
            Some((kind, text)) => Err(Error::new(*kind, op, target).because(text.as_str())),
            None => Ok(()),
        }
    }

    /// Whether the guest shuts down by one of the acts.
    pub(super) fn ends(&self) -> bool {
        self.acts.iter().any(|(_, act)| matches!(act, GuestAct::ShutDown(_)))
    }
}

/// Rules in force, with their counts and their chance.
#[derive(Debug, Default)]
pub(super) struct Rules {
    rules: Vec<Rule>,
    chance: u64,
}

impl Rules {
    pub(super) fn new(rules: Vec<Rule>, seed: u64) -> Self {
        Self { rules, chance: seed }
    }

    pub(super) fn add(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    /// What applies to this operation on this domain now; counts it.
    pub(super) fn take(&mut self, op: Op, vm: Option<&VmName>) -> Effects {
        let Self { rules, chance } = self;
        let mut effects = Effects::default();
        let mut failed = false;
        for rule in rules.iter_mut().filter(|rule| rule.applies(op, vm)) {
            // Two ordered failures of one operation: the second waits for the next time.
            if (failed && rule.effects.fail.is_some()) || draw(chance) >= u64::from(rule.percent) {
                continue;
            }
            failed |= rule.effects.fail.is_some();
            rule.left = rule.left.map(|left| left.saturating_sub(1));
            effects.add(&rule.effects);
        }
        rules.retain(|rule| rule.left != Some(0));
        effects
    }
}

/// 0 to 99, by SplitMix64.
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % 100
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> VmName {
        text.parse().unwrap()
    }

    #[test]
    fn a_rule_applies_to_its_operation_and_domain_and_as_often_as_it_says() {
        let rule = Rule::at(Op::CreateDomain).vm(name("work")).times(2).fail(Kind::NoMemory, "none");
        let mut rules = Rules::new(vec![rule], 1);
        assert_eq!(rules.take(Op::CreateDomain, Some(&name("other"))), Effects::default());
        assert_eq!(rules.take(Op::UnpauseDomain, Some(&name("work"))), Effects::default());
        for _ in 0..2 {
            assert!(rules.take(Op::CreateDomain, Some(&name("work"))).fail.is_some());
        }
        assert_eq!(rules.take(Op::CreateDomain, Some(&name("work"))), Effects::default());
    }

    #[test]
    fn failures_ordered_together_come_one_after_the_other() {
        let mut rules = Rules::default();
        for text in ["first", "second"] {
            rules.add(Rule::at(Op::CreateDomain).times(1).fail(Kind::Io, text));
        }
        let texts: Vec<_> =
            (0..3).map(|_| rules.take(Op::CreateDomain, None).fail.map(|(_, text)| text)).collect();
        assert_eq!(texts, [Some("first".into()), Some("second".into()), None]);
    }

    #[test]
    fn chance_is_as_frequent_as_asked_and_the_same_for_the_same_seed() {
        let story = |seed| -> Vec<bool> {
            let mut rules = Rules::new(vec![Rule::at(Op::DestroyDomain).percent(25).hang()], seed);
            (0..1000).map(|_| rules.take(Op::DestroyDomain, None).hang).collect()
        };
        let hits = story(7).iter().filter(|hit| **hit).count();
        assert!((180..320).contains(&hits), "{hits}");
        assert_eq!(story(7), story(7));
        assert_ne!(story(7), story(8));
    }
}
