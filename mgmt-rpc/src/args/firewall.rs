//! The payloads of `vm.firewall.InsertRule`, one rule, and of `vm.firewall.Set`, a rule a line.

use libvirt_qubes::qubes::firewall::{BadRule, Rule};

use crate::untrusted::{Parse, ascii};
use crate::wire::{Class, Exception};

/// One rule; the newline after it may miss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleLine(pub Rule);

/// Rules, a line each; the last newline may miss. None at all is an empty list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleLines(pub Vec<Rule>);

fn text(bytes: &[u8]) -> Result<&str, Exception> {
    ascii(bytes).ok_or_else(|| Exception::plain(Class::ProtocolError, "Rules contains non-ASCII characters"))
}

fn without_newline(text: &str) -> &str {
    text.strip_suffix('\n').unwrap_or(text)
}

impl Parse for RuleLine {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        let rule = without_newline(text(bytes)?).parse();
        let invalid = |error: BadRule| {
            Exception::new(Class::QubesValueError, "Invalid firewall rule: %s", [error.to_string()])
        };
        rule.map(Self).map_err(invalid)
    }
}

impl Parse for RuleLines {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        let text = text(bytes)?;
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let rule = |(number, line): (usize, &str)| {
            line.parse().map_err(|error| {
                let fields = [format!("line {number}: {error}")];
                Exception::new(Class::QubesValueError, "Invalid firewall rule: %s", fields)
            })
        };
        (1..).zip(without_newline(text).split('\n')).map(rule).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(text: &str) -> Result<Vec<String>, String> {
        let parsed = RuleLines::parse(text.as_bytes());
        parsed
            .map(|RuleLines(rules)| rules.iter().map(Rule::to_string).collect())
            .map_err(|error| error.message())
    }

    #[test]
    fn the_last_newline_may_miss_and_nothing_is_an_empty_list() {
        let two = Ok(vec!["action=accept proto=udp".to_owned(), "action=drop".to_owned()]);
        assert_eq!(lines("proto=udp action=accept\naction=drop\n"), two);
        assert_eq!(lines("proto=udp action=accept\naction=drop"), two);
        assert_eq!(lines(""), Ok(Vec::new()));
        for one in ["action=drop", "action=drop\n"] {
            let rule = RuleLine::parse(one.as_bytes()).map(|RuleLine(rule)| rule.to_string());
            assert_eq!(rule, Ok("action=drop".to_owned()));
        }
    }

    #[test]
    fn a_bad_line_is_told_by_its_number() {
        let form = "options must be KEY=VALUE, separated by one space";
        for (text, message) in [
            ("\n", format!("Invalid firewall rule: line 1: {form}")),
            ("action=drop\n\n", format!("Invalid firewall rule: line 2: {form}")),
            (
                "action=drop\nproto=tcp\n",
                "Invalid firewall rule: line 2: option 'action' is missing".to_owned(),
            ),
            (
                "action=drop\r\n",
                "Invalid firewall rule: line 1: action: it must be accept or drop".to_owned(),
            ),
            ("action=drop comment=\u{e9}", "Rules contains non-ASCII characters".to_owned()),
        ] {
            assert_eq!(lines(text), Err(message), "{text:?}");
        }
        let refused = RuleLine::parse(b"action=drop\naction=drop").unwrap_err();
        assert_eq!(refused.message(), "Invalid firewall rule: action: it must be accept or drop");
        assert!(RuleLine::parse(b"\xff").unwrap_err().is(Class::ProtocolError));
    }

    proptest! {
        #[test]
        fn what_parses_prints_lines_that_parse_the_same(
            text in "(action=(accept|drop)( proto=tcp| comment=[a-z ]{0,3}| x)?\n?){0,4}",
        ) {
            if let Ok(RuleLines(rules)) = RuleLines::parse(text.as_bytes()) {
                let printed: String = rules.iter().map(|rule| format!("{rule}\n")).collect();
                prop_assert_eq!(RuleLines::parse(printed.as_bytes()), Ok(RuleLines(rules)));
            }
        }
    }
}
