//! One rule: its grammar, and the forms in which it is written.
//!
//! ```text
//! action=accept dst4=10.0.0.0/8 proto=tcp dstports=80-443 comment=the office
//! ```
//!
//! Options are `KEY=VALUE`, separated by one blank, in any order; the comment is last and runs to the end of the
//! line. Printed, they stand in one order, with every prefix's length and both ports: that is the canonical form, and
//! what the API and the store have. `dst4`, `dst6`, `dsthost` and `dstname` are one option.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use super::options::{Action, Comment, Destination, Expire, Family, IcmpType, Ports, Proto, SpecialTarget};

/// A rule; [`Rule::from_str`] is its one constructor.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    action: Action,
    expire: Option<Expire>,
    destination: Option<Destination>,
    proto: Option<Proto>,
    special_target: Option<SpecialTarget>,
    ports: Option<Ports>,
    icmp_type: Option<IcmpType>,
    comment: Option<Comment>,
}

/// Why a text is no rule: what of the grammar it breaks, without the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRule {
    /// A word without `=`, no word at all, or a doubled blank.
    #[error("options must be KEY=VALUE, separated by one space")]
    Form,
    /// A key that there is not.
    #[error("unknown option")]
    UnknownOption,
    /// An option that was there before, maybe under another key.
    #[error("option '{0}' is given twice")]
    Twice(&'static str),
    /// No action.
    #[error("option 'action' is missing")]
    NoAction,
    /// A value that breaks the option's own rule.
    #[error("{option}: {reason}")]
    Value {
        /// The option.
        option: &'static str,
        /// Its rule.
        reason: &'static str,
    },
    /// An option that makes no sense with this protocol, or without one.
    #[error("option '{option}' needs proto={proto}")]
    NeedsProto {
        /// The option.
        option: &'static str,
        /// What it needs.
        proto: &'static str,
    },
}

/// Who reads what is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Clients of the API, and the store.
    Api,
    /// The agent in the netvm.
    Agent,
    /// `firewall.xml`.
    File,
}

impl Rule {
    /// `action=accept`.
    pub const fn accept() -> Self {
        Self {
            action: Action::Accept,
            expire: None,
            destination: None,
            proto: None,
            special_target: None,
            ports: None,
            icmp_type: None,
            comment: None,
        }
    }

    /// What becomes of what it matches.
    pub fn action(&self) -> Action {
        self.action
    }

    /// When it ends.
    pub fn expire(&self) -> Option<Expire> {
        self.expire
    }

    /// Where to.
    pub fn destination(&self) -> Option<&Destination> {
        self.destination.as_ref()
    }

    /// The protocol.
    pub fn proto(&self) -> Option<Proto> {
        self.proto
    }

    /// A destination that only the netvm knows.
    pub fn special_target(&self) -> Option<SpecialTarget> {
        self.special_target
    }

    /// The ports; there is a protocol with ports then.
    pub fn ports(&self) -> Option<Ports> {
        self.ports
    }

    /// The type of ICMP messages; the protocol is ICMP then.
    pub fn icmp_type(&self) -> Option<IcmpType> {
        self.icmp_type
    }

    /// What people say about it.
    pub fn comment(&self) -> Option<&Comment> {
        self.comment.as_ref()
    }

    /// Whether it has expired.
    pub fn is_over(&self, now: SystemTime) -> bool {
        self.expire.is_some_and(|expire| expire.is_over(now))
    }

    /// Whether it can match packets of this family.
    pub fn concerns(&self, family: Family) -> bool {
        self.destination.as_ref().and_then(Destination::family).is_none_or(|own| own == family)
    }

    /// The line that the agent in the netvm reads: no expiry, no comment.
    pub fn for_agent(&self) -> String {
        self.line(Form::Agent)
    }

    /// Names and values of its properties in `firewall.xml`, in their order there.
    pub(super) fn properties(&self) -> Vec<(&'static str, String)> {
        self.options(Form::File)
    }

    fn line(&self, form: Form) -> String {
        let words = self.options(form).into_iter().map(|(key, value)| format!("{key}={value}"));
        words.collect::<Vec<_>>().join(" ")
    }

    /// The options in the canonical order.
    fn options(&self, form: Form) -> Vec<(&'static str, String)> {
        fn text<T: fmt::Display>(key: &'static str, value: &T) -> (&'static str, String) {
            (key, value.to_string())
        }
        let destination =
            |to: &Destination| (if form == Form::File { "dsthost" } else { to.key() }, to.to_string());
        let ports = |ports: &Ports| match form {
            Form::File => ("dstports", ports.in_file()),
            Form::Api | Form::Agent => text("dstports", ports),
        };
        let for_people = form != Form::Agent;
        [
            Some(text("action", &self.action)),
            self.expire.as_ref().filter(|_| for_people).map(|expire| text("expire", expire)),
            self.destination.as_ref().map(destination),
            self.proto.as_ref().map(|proto| text("proto", proto)),
            self.special_target.as_ref().map(|target| text("specialtarget", target)),
            self.ports.as_ref().map(ports),
            self.icmp_type.as_ref().map(|icmp_type| text("icmptype", icmp_type)),
            self.comment.as_ref().filter(|_| for_people).map(|comment| text("comment", comment)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// The canonical form.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line(Form::Api))
    }
}

impl FromStr for Rule {
    type Err = BadRule;

    fn from_str(line: &str) -> Result<Self, BadRule> {
        let mut options = Options::default();
        let mut rest = Some(line);
        while let Some(line) = rest {
            if let Some(comment) = line.strip_prefix("comment=") {
                options.set("comment", comment)?;
                break;
            }
            let (word, after) = match line.split_once(' ') {
                Some((word, after)) => (word, Some(after)),
                None => (line, None),
            };
            let (key, value) = word.split_once('=').ok_or(BadRule::Form)?;
            options.set(key, value)?;
            rest = after;
        }
        options.rule()
    }
}

/// Options as they are found, in whatever form.
#[derive(Default)]
pub(super) struct Options {
    action: Option<Action>,
    expire: Option<Expire>,
    destination: Option<Destination>,
    proto: Option<Proto>,
    special_target: Option<SpecialTarget>,
    ports: Option<Ports>,
    icmp_type: Option<IcmpType>,
    /// `Some(None)`: an empty one was given, which is none.
    comment: Option<Option<Comment>>,
}

impl Options {
    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<(), BadRule> {
        fn once<T>(place: &mut Option<T>, option: &'static str, value: T) -> Result<(), BadRule> {
            match place.replace(value) {
                None => Ok(()),
                Some(_) => Err(BadRule::Twice(option)),
            }
        }
        match key {
            "action" => once(&mut self.action, "action", value.parse()?),
            "expire" => once(&mut self.expire, "expire", value.parse()?),
            "dsthost" | "dst4" | "dst6" | "dstname" => once(&mut self.destination, "dsthost", value.parse()?),
            "proto" => once(&mut self.proto, "proto", value.parse()?),
            "specialtarget" => once(&mut self.special_target, "specialtarget", value.parse()?),
            "dstports" => once(&mut self.ports, "dstports", value.parse()?),
            "icmptype" => once(&mut self.icmp_type, "icmptype", value.parse()?),
            "comment" => {
                let comment = if value.is_empty() { None } else { Some(value.parse()?) };
                once(&mut self.comment, "comment", comment)
            }
            _ => Err(BadRule::UnknownOption),
        }
    }

    /// The rule, if the options go together.
    pub(super) fn rule(self) -> Result<Rule, BadRule> {
        if self.ports.is_some() && !self.proto.is_some_and(Proto::has_ports) {
            return Err(BadRule::NeedsProto { option: "dstports", proto: "tcp or proto=udp" });
        }
        if self.icmp_type.is_some() && self.proto != Some(Proto::Icmp) {
            return Err(BadRule::NeedsProto { option: "icmptype", proto: "icmp" });
        }
        Ok(Rule {
            action: self.action.ok_or(BadRule::NoAction)?,
            expire: self.expire,
            destination: self.destination,
            proto: self.proto,
            special_target: self.special_target,
            ports: self.ports,
            icmp_type: self.icmp_type,
            comment: self.comment.flatten(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::strategy;
    use super::*;

    #[test]
    fn a_rule_prints_in_its_canonical_form() {
        for (line, canonical) in [
            ("action=accept", "action=accept"),
            (
                "action=accept dsthost=1.2.3.0/24 proto=tcp dstports=443 comment=web only",
                "action=accept dst4=1.2.3.0/24 proto=tcp dstports=443-443 comment=web only",
            ),
            (
                "dstports=80-443 proto=tcp dst6=10.0.0.0/8 action=accept",
                "action=accept dst4=10.0.0.0/8 proto=tcp dstports=80-443",
            ),
            ("action=accept specialtarget=dns", "action=accept specialtarget=dns"),
            (
                "expire=1700000000 action=drop dstname=example.com comment=temp rule",
                "action=drop expire=1700000000 dsthost=example.com comment=temp rule",
            ),
            ("icmptype=008 proto=icmp action=drop", "action=drop proto=icmp icmptype=8"),
            ("action=drop comment=", "action=drop"),
            ("action=drop comment=  two ", "action=drop comment=  two "),
        ] {
            let rule: Rule = line.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!(rule.to_string(), canonical, "{line}");
        }
        assert_eq!(Rule::accept().to_string().parse(), Ok(Rule::accept()));
    }

    #[test]
    fn what_is_no_rule_is_told_by_what_it_breaks() {
        let value = |option, reason| BadRule::Value { option, reason };
        let ports = BadRule::NeedsProto { option: "dstports", proto: "tcp or proto=udp" };
        let icmp = BadRule::NeedsProto { option: "icmptype", proto: "icmp" };
        for (line, error) in [
            ("", BadRule::Form),
            (" ", BadRule::Form),
            ("action", BadRule::Form),
            ("action=accept ", BadRule::Form),
            (" action=accept", BadRule::Form),
            ("action=accept  proto=tcp", BadRule::Form),
            ("proto=tcp", BadRule::NoAction),
            (
                "comment=action=accept",
                value("comment", "it must be made of letters, digits, blanks and : ; , . / - _ [ ]"),
            ),
            (
                "action=accept comment=a action=drop",
                value("comment", "it must be made of letters, digits, blanks and : ; , . / - _ [ ]"),
            ),
            ("action=allow", value("action", "it must be accept or drop")),
            ("action=ACCEPT", value("action", "it must be accept or drop")),
            ("action=", value("action", "it must be accept or drop")),
            ("action=accept proto=any", value("proto", "it must be tcp, udp or icmp")),
            ("action=accept specialtarget=ntp", value("specialtarget", "it must be dns")),
            (
                "action=accept proto=tcp dstports=9-1",
                value("dstports", "it must be N or N-M with N <= M, of 0 to 65535"),
            ),
            ("action=accept proto=icmp icmptype=256", value("icmptype", "it must be 0 to 255")),
            (
                "action=accept expire=soon",
                value("expire", "it must be seconds since 1970, up to the year 9999"),
            ),
            ("action=accept colour=red", BadRule::UnknownOption),
            ("action=accept Proto=tcp", BadRule::UnknownOption),
            ("action=accept action=drop", BadRule::Twice("action")),
            ("action=accept dst4=1.2.3.4 dsthost=a", BadRule::Twice("dsthost")),
            ("action=accept dstports=80", ports.clone()),
            ("action=accept proto=icmp dstports=80", ports),
            ("action=accept icmptype=8", icmp.clone()),
            ("action=accept proto=udp icmptype=8", icmp),
        ] {
            assert_eq!(line.parse::<Rule>(), Err(error), "{line}");
        }
    }

    #[test]
    fn the_agent_reads_neither_expiry_nor_comment() {
        let line = "action=drop expire=1700000000 dst6=::1 proto=udp dstports=53 comment=x";
        let rule: Rule = line.parse().unwrap();
        assert_eq!(rule.for_agent(), "action=drop dst6=::1/128 proto=udp dstports=53-53");
        assert!(rule.concerns(Family::V6) && !rule.concerns(Family::V4));
        assert!(Rule::accept().concerns(Family::V4) && Rule::accept().concerns(Family::V6));
    }

    proptest! {
        #[test]
        fn every_rule_parses_from_what_it_prints(line in strategy::line()) {
            let rule: Rule = line.parse().unwrap();
            let canonical = rule.to_string();
            prop_assert_eq!(canonical.parse::<Rule>().unwrap(), rule.clone());
            prop_assert_eq!(canonical.parse::<Rule>().unwrap().to_string(), canonical);
            let agents: Rule = rule.for_agent().parse().unwrap();
            prop_assert_eq!(agents.to_string(), rule.for_agent());
        }

        #[test]
        fn any_text_is_a_rule_or_none(
            text in "((action|proto|dst4|dsthost|dstports|icmptype|expire|comment|x)=?[a-z0-9:./\u{e9}-]{0,6}[ ]?){0,5}",
        ) {
            if let Ok(rule) = text.parse::<Rule>() {
                prop_assert_eq!(rule.to_string().parse::<Rule>().unwrap(), rule);
            }
        }
    }
}
