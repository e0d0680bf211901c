//! A VM's rules in order, each with its id.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use super::options::Expire;
use super::rule::Rule;

/// As many rules a VM has at most: the agent in the netvm counts them with four digits.
pub const MOST_RULES: usize = 10_000;

/// The id of a rule, never used again within its VM. Prints in decimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(u64);

impl RuleId {
    /// The id of the rule that every VM begins with.
    const FIRST: Self = Self(1);
    /// The highest that the store holds.
    const LAST: u64 = i64::MAX as u64;

    pub(in crate::qubes) fn new(raw: i64) -> Option<Self> {
        u64::try_from(raw).ok().filter(|raw| *raw > 0).map(Self)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    fn next(self) -> Result<Self, TooManyRules> {
        if self.0 < Self::LAST { Ok(Self(self.0 + 1)) } else { Err(TooManyRules) }
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that is no id: not decimal, or not as an id prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no rule's id")]
pub struct NoRuleId;

impl FromStr for RuleId {
    type Err = NoRuleId;

    fn from_str(text: &str) -> Result<Self, NoRuleId> {
        let id = text.parse().ok().and_then(Self::new).ok_or(NoRuleId)?;
        if id.to_string() == text { Ok(id) } else { Err(NoRuleId) }
    }
}

/// The list is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a VM has at most {MOST_RULES} rules")]
pub struct TooManyRules;

/// A rule in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub id: RuleId,
    /// The rule.
    pub rule: Arc<Rule>,
    /// Where it stands among the others. Places have gaps between them, so that a rule that comes in between moves
    /// no other.
    pub(in crate::qubes) position: i64,
}

/// Between the places of neighbours in a new list.
const GAP: i64 = 1 << 32;

/// The firewall of a VM: its rules, or that what the store held of them is damaged. Cheap to clone.
///
/// A damaged list has no rules, so that everything is dropped: a rule that was lost must never open the firewall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firewall(Arc<List>);

#[derive(Debug, PartialEq, Eq)]
struct List {
    last_id: RuleId,
    rules: Vec<Entry>,
    next_expiry: Option<Expire>,
    damage: Option<Arc<str>>,
}

/// What a VM has that was never given a list.
static DEFAULT: LazyLock<Firewall> = LazyLock::new(|| {
    let accept = Entry { id: RuleId::FIRST, rule: Arc::new(Rule::accept()), position: GAP };
    Firewall::of(RuleId::FIRST, vec![accept])
});

impl Default for Firewall {
    fn default() -> Self {
        DEFAULT.clone()
    }
}

impl Firewall {
    fn of(last_id: RuleId, rules: Vec<Entry>) -> Self {
        let next_expiry = rules.iter().filter_map(|entry| entry.rule.expire()).min();
        Self(Arc::new(List { last_id, rules, next_expiry, damage: None }))
    }

    /// A list that was found damaged. Its ids go on after `last_id`.
    pub(in crate::qubes) fn damaged(last_id: RuleId, reason: impl Into<Arc<str>>) -> Self {
        let damage = Some(reason.into());
        Self(Arc::new(List { last_id, rules: Vec::new(), next_expiry: None, damage }))
    }

    /// A list of these rules for a VM that is being made, those that have expired left out. One that is the default
    /// list is that.
    ///
    /// # Errors
    /// More than [`MOST_RULES`] that have not expired.
    pub fn new(rules: impl IntoIterator<Item = Rule>, now: SystemTime) -> Result<Self, TooManyRules> {
        Self::default().replaced(rules, now)
    }

    /// A list without a rule for a VM that is being made: everything is dropped.
    pub fn closed() -> Self {
        Self::of(RuleId::FIRST, Vec::new())
    }

    /// Whether it is the list that a VM begins with.
    pub fn is_default(&self) -> bool {
        let list = &*self.0;
        list.last_id == RuleId::FIRST
            && matches!(&*list.rules, [only] if only.id == RuleId::FIRST && *only.rule == Rule::accept())
    }

    /// What is wrong with what the store held; there are no rules then.
    pub fn damage(&self) -> Option<&str> {
        self.0.damage.as_deref()
    }

    /// The rules in order, those that have expired but are still there included.
    pub fn rules(&self) -> &[Entry] {
        &self.0.rules
    }

    /// The rules that hold, in order.
    pub fn live(&self, now: SystemTime) -> impl Iterator<Item = &Entry> {
        self.rules().iter().filter(move |entry| !entry.rule.is_over(now))
    }

    /// The ids of the rules that have expired.
    pub(super) fn expired(&self, now: SystemTime) -> Vec<RuleId> {
        if !self.next_expiry().is_some_and(|next| next.is_over(now)) {
            return Vec::new();
        }
        self.rules().iter().filter(|entry| entry.rule.is_over(now)).map(|entry| entry.id).collect()
    }

    /// When the next rule expires.
    pub fn next_expiry(&self) -> Option<Expire> {
        self.0.next_expiry
    }

    /// The id that was given out last.
    pub(in crate::qubes) fn last_id(&self) -> RuleId {
        self.0.last_id
    }

    /// The list of these rules in the place of this one: a rule that was there keeps its id, the first of equal ones
    /// the lowest; those that have expired are left out.
    ///
    /// # Errors
    /// More than [`MOST_RULES`] that have not expired.
    pub(super) fn replaced(
        &self,
        rules: impl IntoIterator<Item = Rule>,
        now: SystemTime,
    ) -> Result<Self, TooManyRules> {
        let mut old: HashMap<&Rule, VecDeque<RuleId>> = HashMap::new();
        for entry in self.live(now) {
            old.entry(&entry.rule).or_default().push_back(entry.id);
        }
        old.values_mut().for_each(|ids| ids.make_contiguous().sort_unstable());
        let mut last_id = self.last_id();
        let mut entries = Vec::new();
        let mut position = 0i64;
        for rule in rules.into_iter().filter(|rule| !rule.is_over(now)) {
            if entries.len() >= MOST_RULES {
                return Err(TooManyRules);
            }
            let id = match old.get_mut(&rule).and_then(VecDeque::pop_front) {
                Some(id) => id,
                None => {
                    last_id = last_id.next()?;
                    last_id
                }
            };
            position = position.saturating_add(GAP);
            entries.push(Entry { id, rule: Arc::new(rule), position });
        }
        Ok(Self::of(last_id, entries))
    }

    /// A new rule's entry, to stand before another, or at the end. `None` where there is no gap: the list must be
    /// [spread](Self::spread) first.
    ///
    /// # Errors
    /// The list is full.
    pub(super) fn entry(&self, index: usize, rule: Rule) -> Result<Option<Entry>, TooManyRules> {
        if self.rules().len() >= MOST_RULES {
            return Err(TooManyRules);
        }
        let id = self.last_id().next()?;
        let place = |index: usize| self.rules().get(index).map(|entry| entry.position);
        let before = index.checked_sub(1).and_then(place);
        let position = match (before, place(index)) {
            (None, None) => Some(GAP),
            (Some(before), None) => before.checked_add(GAP),
            (None, Some(after)) => after.checked_sub(GAP),
            (Some(before), Some(after)) => {
                after.checked_sub(before).filter(|gap| *gap > 1).map(|gap| before.saturating_add(gap / 2))
            }
        };
        Ok(position.map(|position| Entry { id, rule: Arc::new(rule), position }))
    }

    /// The same list with places far from each other.
    pub(super) fn spread(&self) -> Self {
        let mut position = 0i64;
        let rules = self.rules().iter().map(|entry| {
            position = position.saturating_add(GAP);
            Entry { position, ..entry.clone() }
        });
        Self::of(self.last_id(), rules.collect())
    }

    /// The list with one more; `None` if its id was used or its place is taken.
    pub(in crate::qubes) fn with(&self, entry: Entry) -> Option<Self> {
        let index = self.rules().binary_search_by_key(&entry.position, |old| old.position).err()?;
        if entry.id <= self.last_id() || self.damage().is_some() {
            return None;
        }
        let last_id = entry.id;
        let mut rules = self.0.rules.clone();
        rules.insert(index, entry);
        Some(Self::of(last_id, rules))
    }

    /// The list without some; `None` if one of them is not in it.
    pub(in crate::qubes) fn without(&self, ids: &[RuleId]) -> Option<Self> {
        let gone: HashSet<RuleId> = ids.iter().copied().collect();
        let kept = self.rules().iter().filter(|entry| !gone.contains(&entry.id));
        let kept: Vec<Entry> = kept.cloned().collect();
        (kept.len() + gone.len() == self.rules().len()).then(|| Self::of(self.last_id(), kept))
    }

    /// The list as rows of the store have it: the last id, and id, place and text of each rule in order.
    pub(in crate::qubes) fn stored(last_id: Option<i64>, rows: &[(i64, i64, String)]) -> Self {
        let used = rows.iter().map(|(id, ..)| *id).chain(last_id).filter_map(RuleId::new);
        let highest = used.fold(RuleId::FIRST, RuleId::max);
        match read(last_id, rows) {
            Ok(rules) => Self::of(highest, rules),
            Err(reason) => Self::damaged(highest, reason),
        }
    }
}

fn read(last_id: Option<i64>, rows: &[(i64, i64, String)]) -> Result<Vec<Entry>, String> {
    let last_id = last_id.ok_or("there are rules, but no list")?;
    let last_id = RuleId::new(last_id).ok_or_else(|| format!("last id {last_id} is none"))?;
    if rows.len() > MOST_RULES {
        return Err(TooManyRules.to_string());
    }
    let entry = |(id, position, text): &(i64, i64, String)| {
        let known = RuleId::new(*id).filter(|id| *id <= last_id);
        let known = known.ok_or_else(|| format!("rule {id} was never given out"))?;
        let rule: Rule = text.parse().map_err(|error| format!("rule {id}: {error}"))?;
        if rule.to_string() != *text {
            return Err(format!("rule {id} is not in its canonical form"));
        }
        Ok(Entry { id: known, rule: Arc::new(rule), position: *position })
    };
    rows.iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const NOW: SystemTime = UNIX_EPOCH;

    fn rules(lines: &[&str]) -> Vec<Rule> {
        lines.iter().map(|line| line.parse().unwrap()).collect()
    }

    fn shown(firewall: &Firewall) -> Vec<(u64, String)> {
        firewall.rules().iter().map(|entry| (entry.id.get(), entry.rule.to_string())).collect()
    }

    fn ids(firewall: &Firewall) -> Vec<u64> {
        firewall.rules().iter().map(|entry| entry.id.get()).collect()
    }

    #[test]
    fn an_id_is_decimal_in_one_spelling() {
        assert_eq!("12".parse::<RuleId>().map(RuleId::get), Ok(12));
        for text in ["", "0", "012", "+1", "-1", " 1", "1 ", "END", "9223372036854775808"] {
            assert_eq!(text.parse::<RuleId>(), Err(NoRuleId), "{text}");
        }
    }

    #[test]
    fn a_list_begins_with_one_rule_that_accepts_all() {
        let list = Firewall::default();
        assert_eq!(shown(&list), [(1, "action=accept".to_owned())]);
        assert!(list.is_default() && Firewall::new([Rule::accept()], NOW).unwrap() == list);
        let closed = Firewall::closed();
        assert!(!closed.is_default() && closed.rules().is_empty());
        assert_eq!(Firewall::new([], NOW), Ok(closed));
    }

    #[test]
    fn a_new_list_keeps_the_lowest_free_id_of_each_rule_that_stays() {
        let (a, b, c) = ("action=drop proto=tcp", "action=drop proto=udp", "action=accept");
        let list = Firewall::default().replaced(rules(&[a, b, a]), NOW).unwrap();
        assert_eq!(ids(&list), [2, 3, 4]);
        // Turned round, one of three equal ones new, one moved.
        let list = list.replaced(rules(&[b, a, a, a, c]), NOW).unwrap();
        assert_eq!(ids(&list), [3, 2, 4, 5, 6]);
        // Another spelling is the same rule; an id that was dropped does not come back.
        let list = list.replaced(rules(&["proto=udp action=drop"]), NOW).unwrap();
        let list = list.replaced(rules(&[a, b]), NOW).unwrap();
        assert_eq!(ids(&list), [7, 3]);
        assert_eq!(ids(&list.replaced([], NOW).unwrap().replaced(rules(&[b]), NOW).unwrap()), [8]);
    }

    #[test]
    fn what_has_expired_is_in_no_list_and_lends_its_id_to_nobody() {
        let temporary = "action=drop expire=100";
        let list = Firewall::default().replaced(rules(&["action=accept", temporary]), NOW).unwrap();
        assert_eq!(ids(&list), [1, 2]);
        let later = UNIX_EPOCH + Duration::from_secs(100);
        assert_eq!(list.live(later).count(), 1);
        assert_eq!(list.expired(later), [RuleId(2)]);
        assert!(list.expired(NOW).is_empty());
        let again = list.replaced(rules(&["action=accept", temporary, "action=drop"]), later).unwrap();
        assert_eq!(ids(&again), [1, 3]);
    }

    #[test]
    fn a_rule_finds_a_place_between_any_two_and_says_when_there_is_none() {
        let mut list = Firewall::default().replaced(rules(&["action=accept", "action=drop"]), NOW).unwrap();
        let mut spread = 0;
        for _ in 0..100 {
            let entry = match list.entry(1, Rule::accept()).unwrap() {
                Some(entry) => entry,
                None => {
                    spread += 1;
                    list = list.spread();
                    list.entry(1, Rule::accept()).unwrap().unwrap()
                }
            };
            list = list.with(entry).unwrap();
        }
        assert!(spread > 0);
        let expected: Vec<u64> = [1].into_iter().chain((3..=102).rev()).chain([2]).collect();
        assert_eq!(ids(&list), expected);
        let first = list.entry(0, Rule::accept()).unwrap().unwrap();
        assert_eq!(ids(&list.with(first).unwrap())[0], 103);
    }

    #[test]
    fn a_full_list_takes_no_more() {
        let many = vec![Rule::accept(); MOST_RULES];
        let full = Firewall::new(many.clone(), NOW).unwrap();
        assert_eq!(full.entry(0, Rule::accept()), Err(TooManyRules));
        let expired = "action=drop expire=0".parse().unwrap();
        assert!(Firewall::new(many.clone().into_iter().chain([expired]), NOW).is_ok());
        assert_eq!(Firewall::new(many.into_iter().chain([Rule::accept()]), NOW), Err(TooManyRules));
    }

    #[test]
    fn what_contradicts_the_list_is_not_done() {
        let list = Firewall::default().replaced(rules(&["action=accept", "action=drop"]), NOW).unwrap();
        let entry = |id, position| Entry { id: RuleId(id), rule: Arc::new(Rule::accept()), position };
        assert!(list.with(entry(2, 5)).is_none(), "an id that was used");
        assert!(list.with(entry(3, GAP)).is_none(), "a place that is taken");
        assert!(list.without(&[RuleId(7)]).is_none());
        assert_eq!(ids(&list.without(&[RuleId(1), RuleId(1)]).unwrap()), [2]);
        assert!(Firewall::damaged(RuleId(9), "x").with(entry(10, 5)).is_none());
    }

    #[test]
    fn rows_that_break_a_rule_leave_a_list_that_drops_everything_and_forgets_no_id() {
        let row = |id, text: &str| (id, id, text.to_owned());
        let good = [row(2, "action=accept"), row(5, "action=drop dst4=1.2.3.4/32")];
        let list = Firewall::stored(Some(7), &good);
        assert_eq!((ids(&list), list.last_id().get(), list.damage()), (vec![2, 5], 7, None));
        for (last_id, rows, word, highest) in [
            (Some(7), vec![row(2, "action=accept"), row(5, "action=open")], "rule 5: action", 7),
            (Some(7), vec![row(2, "proto=tcp action=drop")], "canonical", 7),
            (Some(7), vec![row(8, "action=accept")], "rule 8 was never", 8),
            (Some(7), vec![row(-1, "action=accept")], "rule -1 was never", 7),
            (Some(0), vec![], "last id 0", 1),
            (None, vec![row(4, "action=accept")], "no list", 4),
        ] {
            let list = Firewall::stored(last_id, &rows);
            assert!(list.rules().is_empty() && !list.is_default(), "{rows:?}");
            assert!(list.damage().unwrap().contains(word), "{rows:?}: {:?}", list.damage());
            assert_eq!(list.last_id().get(), highest, "{rows:?}");
            let repaired = list.replaced([Rule::accept()], NOW).unwrap();
            assert_eq!((ids(&repaired), repaired.damage()), (vec![highest + 1], None));
        }
    }
}
