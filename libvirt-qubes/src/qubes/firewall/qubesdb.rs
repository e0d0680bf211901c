//! What the agent in the netvm reads of a list: keys below `/qubes-firewall/ADDRESS/` of its QubesDB.

use std::time::SystemTime;

use super::list::Firewall;
use super::options::{Action, Family};

/// The keys and values for one address of the VM, in their order: `policy`, which is what becomes of what no rule
/// matches, then a rule each.
///
/// A rule's key is its place in the list, in four digits; rules of the other family, and those that have expired,
/// leave a gap. A damaged list is its policy alone.
pub fn entries(firewall: &Firewall, family: Family, now: SystemTime) -> Vec<(String, String)> {
    let rules = (0usize..).zip(firewall.rules());
    let rules = rules.filter(|(_, entry)| entry.rule.concerns(family) && !entry.rule.is_over(now));
    let rules = rules.map(|(index, entry)| (format!("{index:04}"), entry.rule.for_agent()));
    std::iter::once(("policy".to_owned(), Action::Drop.to_string())).chain(rules).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::list::RuleId;
    use super::super::rule::Rule;
    use super::*;

    fn pairs(entries: &[(String, String)]) -> Vec<(&str, &str)> {
        entries.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }

    #[test]
    fn each_family_gets_its_rules_with_gaps_for_the_others() {
        let lines = [
            "action=accept dst4=10.0.0.1",
            "action=accept dst6=::1 comment=six",
            "action=drop expire=100",
            "action=accept dsthost=example.com expire=1000",
            "action=drop proto=icmp",
        ];
        let rules: Vec<Rule> = lines.iter().map(|line| line.parse().unwrap()).collect();
        let list = Firewall::new(rules, UNIX_EPOCH).unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(500);
        assert_eq!(
            pairs(&entries(&list, Family::V4, now)),
            [
                ("policy", "drop"),
                ("0000", "action=accept dst4=10.0.0.1/32"),
                ("0003", "action=accept dsthost=example.com"),
                ("0004", "action=drop proto=icmp"),
            ]
        );
        assert_eq!(
            pairs(&entries(&list, Family::V6, now)),
            [
                ("policy", "drop"),
                ("0001", "action=accept dst6=::1/128"),
                ("0003", "action=accept dsthost=example.com"),
                ("0004", "action=drop proto=icmp"),
            ]
        );
    }

    #[test]
    fn what_has_no_rules_is_dropped() {
        let damaged = Firewall::damaged(RuleId::new(3).unwrap(), "a bad row");
        for list in [Firewall::closed(), damaged] {
            assert_eq!(pairs(&entries(&list, Family::V4, UNIX_EPOCH)), [("policy", "drop")]);
        }
        let open = entries(&Firewall::default(), Family::V6, UNIX_EPOCH);
        assert_eq!(pairs(&open), [("policy", "drop"), ("0000", "action=accept")]);
    }
}
