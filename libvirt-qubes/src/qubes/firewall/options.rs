//! The options of a rule, each with one constructor, `FromStr`, and printed as they stand in a rule.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::rule::BadRule;

const fn bad(option: &'static str, reason: &'static str) -> BadRule {
    BadRule::Value { option, reason }
}

/// A decimal number without sign, of digits alone.
fn number(text: &str, most: u64) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|number| *number <= most)
}

macro_rules! words {
    (
        $(#[$doc:meta])* $name:ident, $option:literal, $reason:literal,
        { $($(#[$of:meta])* $variant:ident = $word:literal),+ }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$of])* $variant),+ }

        impl $name {
            /// The word that stands for it in a rule.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = BadRule;

            fn from_str(text: &str) -> Result<Self, BadRule> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(bad($option, $reason)),
                }
            }
        }
    };
}

words!(
    /// What becomes of what a rule matches.
    Action, "action", "it must be accept or drop",
    {
        /// It passes.
        Accept = "accept",
        /// It is lost without a word.
        Drop = "drop"
    }
);

words!(
    /// The protocol that a rule matches.
    Proto, "proto", "it must be tcp, udp or icmp",
    {
        /// TCP.
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
        /// ICMP, for IPv6 ICMPv6.
        Icmp = "icmp"
    }
);

impl Proto {
    /// Whether it has ports.
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp)
    }
}

words!(
    /// A destination that is known to the netvm alone.
    SpecialTarget, "specialtarget", "it must be dns",
    {
        /// The netvm's DNS servers, port 53 of TCP and UDP.
        Dns = "dns"
    }
);

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// How many bits an address has.
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

/// Where to: a network, or a host's name, which the netvm looks up when it applies the rule.
///
/// The value decides which, whatever key it came under. A network prints with the length of its prefix, an address by
/// itself with the full one; the address keeps the spelling that it was given, and bits beyond the prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination(To);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum To {
    Network { family: Family, address: Arc<str>, prefix: u8 },
    Host(Arc<str>),
}

impl Destination {
    /// The family of a network; `None` for a name.
    pub fn family(&self) -> Option<Family> {
        match &self.0 {
            To::Network { family, .. } => Some(*family),
            To::Host(_) => None,
        }
    }

    /// The key under which it stands in the API's form of a rule.
    pub fn key(&self) -> &'static str {
        match self.family() {
            Some(Family::V4) => "dst4",
            Some(Family::V6) => "dst6",
            None => "dsthost",
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            To::Network { address, prefix, .. } => write!(f, "{address}/{prefix}"),
            To::Host(name) => f.write_str(name),
        }
    }
}

/// The longest name that DNS knows; a longer one could never be looked up.
const LONGEST_NAME: usize = 253;

impl FromStr for Destination {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, BadRule> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let family = if address.parse::<Ipv6Addr>().is_ok() {
            Family::V6
        } else if address.parse::<Ipv4Addr>().is_ok() {
            Family::V4
        } else if prefix.is_some() {
            return Err(bad(
                "dsthost",
                "a network must be an IPv4 or IPv6 address, / and the prefix's length",
            ));
        } else {
            return host(address);
        };
        let bits = family.bits();
        let prefix = match prefix {
            None => bits,
            Some(prefix) => number(prefix, bits.into())
                .and_then(|prefix| u8::try_from(prefix).ok())
                .ok_or(bad("dsthost", "a prefix's length is 0 to 32 for IPv4, 0 to 128 for IPv6"))?,
        };
        Ok(Self(To::Network { family, address: address.into(), prefix }))
    }
}

fn host(name: &str) -> Result<Destination, BadRule> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'_');
    if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(good) {
        return Err(bad(
            "dsthost",
            "it must be an address, a network, or a host name of a-z 0-9 - . _ of at most 253 characters",
        ));
    }
    Ok(Destination(To::Host(name.into())))
}

/// The ports that a rule matches: one, or all from one to another. Prints as `N-M` always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// The lowest.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest, which may be the lowest too.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// As `firewall.xml` has it: a single port by itself.
    pub(super) fn in_file(self) -> String {
        if self.first == self.last { self.first.to_string() } else { self.to_string() }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for Ports {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, BadRule> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text| number(text, u16::MAX.into()).and_then(|port| u16::try_from(port).ok());
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(bad("dstports", "it must be N or N-M with N <= M, of 0 to 65535")),
        }
    }
}

/// The type of ICMP messages that a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IcmpType(u8);

impl IcmpType {
    /// The number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for IcmpType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for IcmpType {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, BadRule> {
        number(text, u8::MAX.into())
            .filter(|_| text.len() <= 3)
            .and_then(|number| u8::try_from(number).ok())
            .map(Self)
            .ok_or(bad("icmptype", "it must be 0 to 255"))
    }
}

/// When a rule ends, in seconds since 1970; from that second on it is as if it were not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Expire(u64);

impl Expire {
    /// The last second of the year 9999.
    const LAST: u64 = 253_402_300_799;

    /// Whether that time has come.
    pub fn is_over(self, now: SystemTime) -> bool {
        now.duration_since(UNIX_EPOCH).is_ok_and(|now| now.as_secs() >= self.0)
    }
}

impl fmt::Display for Expire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Expire {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, BadRule> {
        number(text, Self::LAST)
            .map(Self)
            .ok_or(bad("expire", "it must be seconds since 1970, up to the year 9999"))
    }
}

/// What people say about a rule: letters, digits, blanks and `:;,./-_[]`, not empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Comment(Arc<str>);

impl Comment {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Comment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Comment {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, BadRule> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b" :;,./-_[]".contains(&b);
        if text.is_empty() || !text.bytes().all(good) {
            return Err(bad("comment", "it must be made of letters, digits, blanks and : ; , . / - _ [ ]"));
        }
        Ok(Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn shown(text: &str) -> Option<String> {
        text.parse::<Destination>().ok().map(|to| format!("{}={to}", to.key()))
    }

    #[test]
    fn the_value_of_a_destination_decides_what_it_is() {
        for (text, expected) in [
            ("10.0.0.0/8", Some("dst4=10.0.0.0/8")),
            ("1.2.3.4", Some("dst4=1.2.3.4/32")),
            ("1.2.3.4/0", Some("dst4=1.2.3.4/0")),
            ("1.2.3.4/024", Some("dst4=1.2.3.4/24")),
            ("2001:DB8::1", Some("dst6=2001:DB8::1/128")),
            ("::/0", Some("dst6=::/0")),
            ("::ffff:1.2.3.4", Some("dst6=::ffff:1.2.3.4/128")),
            ("fe80::1/64", Some("dst6=fe80::1/64")),
            ("example.com", Some("dsthost=example.com")),
            ("_sip.a-b.example", Some("dsthost=_sip.a-b.example")),
            // What looks like an address and is none is a name.
            ("1.2.3", Some("dsthost=1.2.3")),
            ("300.1.2.3", Some("dsthost=300.1.2.3")),
            ("1.2.3.4/33", None),
            ("1.2.3.4/", None),
            ("1.2.3.4/+8", None),
            ("1.2.3.4/8/8", None),
            ("::1/129", None),
            ("example.com/24", None),
            ("Example.com", None),
            ("fe80::1%eth0", None),
            ("a,b", None),
            ("", None),
        ] {
            assert_eq!(shown(text).as_deref(), expected, "{text}");
        }
        assert!("a".repeat(253).parse::<Destination>().is_ok());
        assert!("a".repeat(254).parse::<Destination>().is_err());
    }

    #[test]
    fn numbers_are_digits_within_their_bounds() {
        for (text, expected) in [
            ("80", Some("80-80")),
            ("0-65535", Some("0-65535")),
            ("080-0443", Some("80-443")),
            ("443-443", Some("443-443")),
            ("2-1", None),
            ("65536", None),
            ("1-2-3", None),
            ("-1", None),
            ("1-", None),
            ("+1", None),
            ("", None),
        ] {
            let ports = text.parse::<Ports>().ok().map(|ports| ports.to_string());
            assert_eq!(ports.as_deref(), expected, "{text}");
        }
        for (text, good) in
            [("0", true), ("255", true), ("008", true), ("256", false), ("0008", false), ("", false)]
        {
            assert_eq!(text.parse::<IcmpType>().is_ok(), good, "{text}");
        }
        for (text, good) in [
            ("0", true),
            ("253402300799", true),
            ("253402300800", false),
            ("99999999999999999999999", false),
            ("-1", false),
            ("1.5", false),
        ] {
            assert_eq!(text.parse::<Expire>().is_ok(), good, "{text}");
        }
    }

    #[test]
    fn a_rule_expires_with_the_second_that_it_names() {
        let expire: Expire = "1000".parse().unwrap();
        assert!(!expire.is_over(UNIX_EPOCH + Duration::from_millis(999_999)));
        assert!(expire.is_over(UNIX_EPOCH + Duration::from_secs(1000)));
        assert!(!expire.is_over(UNIX_EPOCH - Duration::from_secs(5000)), "a clock before 1970");
    }

    #[test]
    fn a_comment_keeps_its_blanks() {
        assert_eq!(" a  [b] ".parse::<Comment>().unwrap().as_str(), " a  [b] ");
        for text in ["", "a=b", "a\tb", "a\u{e9}", "a\"b"] {
            assert!(text.parse::<Comment>().is_err(), "{text}");
        }
    }
}
