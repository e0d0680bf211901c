//! `firewall.xml`, as the deployed daemon keeps it in a VM's folder and as backups have it: both versions are read,
//! version 2 is written. Pure: nothing here looks at a file.
//!
//! ```xml
//! <firewall version="2">
//!   <rules>
//!     <rule>
//!       <properties>
//!         <property name="action">accept</property>
//!       </properties>
//!     </rule>
//!   </rules>
//! </firewall>
//! ```
//!
//! A file in which anything is not understood is refused whole: a rule left out could open the firewall. Whoever reads
//! one for a VM then gives it [`Firewall::closed`](super::Firewall::closed), or refuses likewise.

use quick_xml::XmlVersion;
use quick_xml::escape::{escape, resolve_predefined_entity};
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;

use super::list::MOST_RULES;
use super::options::Action;
use super::rule::{BadRule, Options, Rule};

/// Why a text is no `firewall.xml`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFirewallXml {
    /// It is not UTF-8, not well formed, or has a document type.
    #[error("at byte {at}: {reason}")]
    Xml {
        /// Where.
        at: u64,
        /// What is wrong there.
        reason: String,
    },
    /// A version that there is not.
    #[error("unsupported firewall.xml version: {0}")]
    Version(String),
    /// Elements or attributes that do not belong there, or miss.
    #[error("{0}")]
    Form(&'static str),
    /// A rule that is none.
    #[error("rule {number}: {error}")]
    Rule {
        /// Which, counted from 1.
        number: usize,
        /// What is wrong with it.
        error: BadRule,
    },
    /// More than [`MOST_RULES`].
    #[error("it has more than {MOST_RULES} rules")]
    TooManyRules,
}

/// Reads either version. Rules that have expired are among the result.
///
/// # Errors
/// Anything that is not understood.
pub fn read(file: &[u8]) -> Result<Vec<Rule>, BadFirewallXml> {
    let root = parse(file)?;
    let rules = match root.attribute("version").unwrap_or("1") {
        "1" => version_1(&root)?,
        "2" => version_2(&root)?,
        other => return Err(BadFirewallXml::Version(other.to_owned())),
    };
    if rules.len() > MOST_RULES { Err(BadFirewallXml::TooManyRules) } else { Ok(rules) }
}

/// The file for these rules. The caller leaves out what has expired.
pub fn write<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> String {
    let mut inside = String::new();
    for rule in rules {
        inside.push_str("    <rule>\n      <properties>\n");
        for (name, value) in rule.properties() {
            inside.push_str(&format!("        <property name=\"{name}\">{}</property>\n", escape(&value)));
        }
        inside.push_str("      </properties>\n    </rule>\n");
    }
    let rules = if inside.is_empty() {
        "  <rules/>\n".to_owned()
    } else {
        format!("  <rules>\n{inside}  </rules>\n")
    };
    format!("<firewall version=\"2\">\n{rules}</firewall>\n")
}

fn numbered(number: usize) -> impl Fn(BadRule) -> BadFirewallXml {
    move |error| BadFirewallXml::Rule { number, error }
}

fn version_2(root: &Element) -> Result<Vec<Rule>, BadFirewallXml> {
    let [rules] = &*root.children else {
        return Err(BadFirewallXml::Form("firewall must hold one element, rules"));
    };
    if rules.name != "rules" {
        return Err(BadFirewallXml::Form("firewall must hold one element, rules"));
    }
    (1..).zip(&rules.children).map(|(number, rule)| properties(rule, number)).collect()
}

fn properties(rule: &Element, number: usize) -> Result<Rule, BadFirewallXml> {
    let [properties] = &*rule.children else {
        return Err(BadFirewallXml::Form("rule must hold one element, properties"));
    };
    if rule.name != "rule" || properties.name != "properties" {
        return Err(BadFirewallXml::Form("rules must be rule elements, each with properties"));
    }
    let mut options = Options::default();
    for property in &properties.children {
        let name = property
            .attribute("name")
            .filter(|_| property.name == "property" && property.children.is_empty());
        let name = name.ok_or(BadFirewallXml::Form("properties must be property elements with a name"))?;
        let set = match name {
            // The API's other keys for it are no names of properties.
            "dst4" | "dst6" | "dstname" => Err(BadRule::UnknownOption),
            name => options.set(name, &property.text),
        };
        set.map_err(numbered(number))?;
    }
    options.rule().map_err(numbered(number))
}

/// The form of the third release: a policy, and exceptions from it.
fn version_1(root: &Element) -> Result<Vec<Rule>, BadFirewallXml> {
    let policy = match root.attribute("policy") {
        Some("allow") => Action::Accept,
        Some("deny") => Action::Drop,
        _ => return Err(BadFirewallXml::Form("version 1 must have the attribute policy, allow or deny")),
    };
    let exception = match policy {
        Action::Accept => Action::Drop,
        Action::Drop => Action::Accept,
    };
    let action_of = |key| match root.attribute(key) {
        Some("allow") => Action::Accept,
        Some(_) => Action::Drop,
        None => policy,
    };
    let rule = |action: Action, more: &[(&str, &str)], number| {
        let mut options = Options::default();
        options.set("action", action.as_str()).map_err(numbered(number))?;
        for (key, value) in more {
            options.set(key, value).map_err(numbered(number))?;
        }
        options.rule().map_err(numbered(number))
    };
    let mut rules = vec![
        rule(action_of("dns"), &[("specialtarget", "dns")], 0)?,
        rule(action_of("icmp"), &[("proto", "icmp")], 0)?,
    ];
    for (number, element) in (1..).zip(&root.children) {
        let set = |key| element.attribute(key).filter(|value| !value.is_empty());
        let mut options = Vec::new();
        let address = set("address").map(|address| with_netmask(address, element)).transpose()?;
        options.extend(address.as_deref().map(|address| ("dsthost", address)));
        let ports = match (set("port"), set("toport")) {
            (Some(port), Some(toport)) => Some(format!("{port}-{toport}")),
            (Some(port), None) => Some(port.to_owned()),
            (None, _) => None,
        };
        let proto = set("proto").filter(|proto| *proto != "any").or(ports.as_ref().map(|_| "tcp"));
        options.extend(proto.map(|proto| ("proto", proto)));
        options.extend(ports.as_deref().map(|ports| ("dstports", ports)));
        options.extend(set("expire").map(|expire| ("expire", expire)));
        rules.push(rule(exception, &options, number)?);
    }
    if policy == Action::Accept {
        rules.push(Rule::accept());
    }
    Ok(rules)
}

/// An address of version 1 as a network; a host's name as it is.
fn with_netmask(address: &str, element: &Element) -> Result<String, BadFirewallXml> {
    if address.parse::<std::net::Ipv6Addr>().is_ok() || address.contains('/') {
        return Err(BadFirewallXml::Form("version 1 has IPv4 addresses alone, and their length in netmask"));
    }
    let netmask = element.attribute("netmask");
    Ok(match netmask {
        Some(netmask) if address.parse::<std::net::Ipv4Addr>().is_ok() => format!("{address}/{netmask}"),
        _ => address.to_owned(),
    })
}

/// An element with everything in it. Text between child elements is not kept.
#[derive(Debug, Default)]
struct Element {
    name: String,
    attributes: Vec<(String, String)>,
    children: Vec<Element>,
    text: String,
}

impl Element {
    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// As deep as elements are in each other in either version, and some.
const DEEPEST: usize = 8;

/// The root element of a document that needs nothing but itself to be read.
fn parse(file: &[u8]) -> Result<Element, BadFirewallXml> {
    let bad = |at: u64, reason: &str| BadFirewallXml::Xml { at, reason: reason.to_owned() };
    let text = std::str::from_utf8(file)
        .map_err(|error| bad(u64::try_from(error.valid_up_to()).unwrap_or(u64::MAX), "it is not UTF-8"))?;
    let mut reader = Reader::from_str(text);
    // The innermost last; the first holds the root.
    let mut open = vec![Element::default()];
    loop {
        let at = reader.buffer_position();
        let event = reader.read_event().map_err(|error| bad(reader.error_position(), &error.to_string()))?;
        let inside = open.len() > 1;
        let Some(innermost) = open.last_mut() else { return Err(bad(at, "an end without a beginning")) };
        match event {
            Event::Start(start) => {
                let element = element(&start).map_err(|reason| bad(at, &reason))?;
                if open.len() > DEEPEST {
                    return Err(bad(at, "too many elements in each other"));
                }
                open.push(element);
            }
            Event::Empty(start) => {
                innermost.children.push(element(&start).map_err(|reason| bad(at, &reason))?);
            }
            Event::End(_) => {
                let ended = open.pop().unwrap_or_default();
                let Some(parent) = open.last_mut() else { return Err(bad(at, "an end without a beginning")) };
                parent.children.push(ended);
            }
            Event::Text(text) if inside => innermost.text.push_str(&text.xml10_content()),
            Event::CData(text) if inside => innermost.text.push_str(&text.xml10_content()),
            Event::GeneralRef(reference) if inside => {
                let name = reference.xml10_content();
                match reference.resolve_char_ref() {
                    Ok(Some(character)) => innermost.text.push(character),
                    Ok(None) => {
                        let known = resolve_predefined_entity(&name);
                        innermost.text.push_str(known.ok_or_else(|| bad(at, "an entity that is not known"))?);
                    }
                    Err(error) => return Err(bad(at, &error.to_string())),
                }
            }
            Event::Text(text) if text.trim().is_empty() => {}
            Event::Text(_) | Event::CData(_) | Event::GeneralRef(_) => {
                return Err(bad(at, "text outside of the root element"));
            }
            Event::DocType(_) => return Err(bad(at, "a document type")),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => break,
        }
    }
    let end = reader.buffer_position();
    match <[Element; 1]>::try_from(open) {
        Ok([mut document]) if document.children.len() == 1 => {
            document.children.pop().ok_or_else(|| bad(end, "no element"))
        }
        Ok(_) => Err(bad(end, "not one root element")),
        Err(_) => Err(bad(end, "an element without an end")),
    }
}

fn element(start: &BytesStart<'_>) -> Result<Element, String> {
    let attributes = start.attributes().map(|attribute| {
        let attribute = attribute.map_err(|error| error.to_string())?;
        let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|error| error.to_string())?;
        Ok((attribute.key.into_inner().to_owned(), value.into_owned()))
    });
    Ok(Element {
        name: start.name().into_inner().to_owned(),
        attributes: attributes.collect::<Result<_, String>>()?,
        ..Element::default()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::strategy;
    use super::*;

    fn lines(file: &str) -> Vec<String> {
        let rules = read(file.as_bytes()).unwrap_or_else(|error| panic!("{error}: {file}"));
        rules.iter().map(Rule::to_string).collect()
    }

    fn version_2_of(rules: &str) -> String {
        format!("<firewall version=\"2\"><rules>{rules}</rules></firewall>")
    }

    fn rule_of(properties: &[(&str, &str)]) -> String {
        let property = |(name, value): &(&str, &str)| format!("<property name=\"{name}\">{value}</property>");
        let properties: String = properties.iter().map(property).collect();
        version_2_of(&format!("<rule><properties>{properties}</properties></rule>"))
    }

    #[test]
    fn rules_are_written_as_the_deployed_daemon_writes_them() {
        let rules: Vec<Rule> = [
            "action=accept dst4=1.2.3.0/24 proto=tcp dstports=443 comment=web only",
            "action=drop expire=1700000000 dst6=::1 proto=udp dstports=1-2",
        ]
        .iter()
        .map(|line| line.parse().unwrap())
        .collect();
        assert_eq!(
            write(&rules),
            r#"<firewall version="2">
  <rules>
    <rule>
      <properties>
        <property name="action">accept</property>
        <property name="dsthost">1.2.3.0/24</property>
        <property name="proto">tcp</property>
        <property name="dstports">443</property>
        <property name="comment">web only</property>
      </properties>
    </rule>
    <rule>
      <properties>
        <property name="action">drop</property>
        <property name="expire">1700000000</property>
        <property name="dsthost">::1/128</property>
        <property name="proto">udp</property>
        <property name="dstports">1-2</property>
      </properties>
    </rule>
  </rules>
</firewall>
"#
        );
        let none = write(&[]);
        assert_eq!(none, "<firewall version=\"2\">\n  <rules/>\n</firewall>\n");
        assert!(lines(&none).is_empty());
    }

    #[test]
    fn odd_but_good_files_are_read() {
        let expected = ["action=accept comment=a b"];
        for file in [
            "<?xml version='1.0' encoding='UTF-8'?>\n<firewall version='2'>\n<!-- by hand -->\n<rules><rule><properties>\
             <property name='comment'>a b</property><property name='action'>accept</property>\
             </properties></rule></rules></firewall>\n",
            "\u{feff}<firewall version='2'><rules><rule><properties><property name='action'><![CDATA[accept]]>\
             </property><property name='comment'>a&#32;<!-- x -->b</property></properties></rule></rules></firewall>",
        ] {
            assert_eq!(lines(file), expected, "{file}");
        }
        assert_eq!(lines(&rule_of(&[("action", "drop"), ("comment", "")])), ["action=drop"]);
        let file = "<firewall version='2'><rules></rules></firewall>";
        assert!(lines(file).is_empty());
    }

    #[test]
    fn what_is_not_understood_refuses_the_file() {
        let bad_rule = |error| BadFirewallXml::Rule { number: 1, error };
        for (file, error) in [
            (rule_of(&[("proto", "tcp")]), bad_rule(BadRule::NoAction)),
            (rule_of(&[("action", "accept"), ("action", "drop")]), bad_rule(BadRule::Twice("action"))),
            (rule_of(&[("action", "accept"), ("dst4", "1.2.3.4")]), bad_rule(BadRule::UnknownOption)),
            (rule_of(&[("action", "accept"), ("colour", "red")]), bad_rule(BadRule::UnknownOption)),
            ("<firewall version='3'/>".into(), BadFirewallXml::Version("3".into())),
        ] {
            assert_eq!(read(file.as_bytes()), Err(error), "{file}");
        }
        assert!(read(rule_of(&[("action", " accept")]).as_bytes()).is_err());
        for file in [
            "",
            "text",
            "<firewall version='2'>",
            "<firewall version='2'/>",
            "<firewall version='2'><rules/><rules/></firewall>",
            "<firewall version='2'><rules/></firewall><firewall/>",
            "<firewall version='2'><rules><drop/></rules></firewall>",
            "<firewall version='2'><rules><rule/></rules></firewall>",
            "<firewall version='2'><rules><rule><properties><p name='action'>drop</p></properties></rule></rules></firewall>",
            "<firewall version='2'><rules></firewall>",
            "<firewall version='2' version='1'><rules/></firewall>",
            "<!DOCTYPE firewall [<!ENTITY x 'accept'>]><firewall version='2'><rules/></firewall>",
            "<firewall/>",
            "<firewall policy='maybe'/>",
            "<firewall policy='allow'><rule address='::1'/></firewall>",
            "<firewall policy='allow'><rule address='1.2.3.4/8'/></firewall>",
            "<firewall policy='allow'><rule address='1.2.3.4' netmask='33'/></firewall>",
            "<firewall policy='allow'><rule proto='gre'/></firewall>",
            "<firewall policy='allow'><rule port='9' toport='1'/></firewall>",
        ] {
            assert!(read(file.as_bytes()).is_err(), "{file}");
        }
        assert!(read(rule_of(&[("action", "&accept;")]).as_bytes()).is_err());
        assert!(read(b"<firewall version='2'><rules>\xff</rules></firewall>").is_err());
        assert!(read("<a>".repeat(100_000).as_bytes()).is_err(), "no recursion");
        let many = version_2_of(
            &"<rule><properties><property name='action'>drop</property></properties></rule>"
                .repeat(MOST_RULES + 1),
        );
        assert_eq!(read(many.as_bytes()), Err(BadFirewallXml::TooManyRules));
    }

    #[test]
    fn a_policy_with_exceptions_becomes_rules() {
        let file = r#"<QubesVmFirewallRules policy="deny" dns="allow" yumProxy="deny">
            <rule address="10.0.0.0" netmask="8" proto="tcp" port="80" toport="443"/>
            <rule address="1.2.3.4" proto="any" expire="1700000000"/>
            <rule address="example.com" netmask="32" port="22"/>
            <rule proto="icmp"/>
        </QubesVmFirewallRules>"#;
        assert_eq!(
            lines(file),
            [
                "action=accept specialtarget=dns",
                "action=drop proto=icmp",
                "action=accept dst4=10.0.0.0/8 proto=tcp dstports=80-443",
                "action=accept expire=1700000000 dst4=1.2.3.4/32",
                "action=accept dsthost=example.com proto=tcp dstports=22-22",
                "action=accept proto=icmp",
            ]
        );
        assert_eq!(
            lines(
                r#"<firewall version="1" policy="allow" icmp="deny"><rule address="1.2.3.4" netmask="0"/></firewall>"#
            ),
            [
                "action=accept specialtarget=dns",
                "action=drop proto=icmp",
                "action=drop dst4=1.2.3.4/0",
                "action=accept",
            ]
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(rules in proptest::collection::vec(strategy::rule(), 0..6)) {
            let file = write(&rules);
            prop_assert_eq!(read(file.as_bytes()), Ok(rules));
        }

        #[test]
        fn any_bytes_are_read_or_refused(
            text in "(<|/|>|firewall|rules|rule|properties|property|name='action'| version='2'|accept|&|;|\u{e9}|<!--|-->){0,24}",
        ) {
            drop(read(text.as_bytes()));
        }
    }
}
