//! Rules for property tests.

use proptest::option;
use proptest::prelude::*;

use super::rule::Rule;

/// A line that is a rule, in any of the spellings that are accepted.
pub(in crate::qubes) fn line() -> impl Strategy<Value = String> {
    let action = prop_oneof![Just("action=accept"), Just("action=drop")].prop_map(str::to_owned);
    let key = prop_oneof![Just("dst4"), Just("dst6"), Just("dsthost"), Just("dstname")];
    let address = prop_oneof![
        any::<std::net::Ipv4Addr>().prop_map(|address| address.to_string()),
        (any::<std::net::Ipv4Addr>(), 0u8..=32).prop_map(|(address, prefix)| format!("{address}/{prefix}")),
        any::<std::net::Ipv6Addr>().prop_map(|address| address.to_string().to_uppercase()),
        (any::<std::net::Ipv6Addr>(), 0u8..=128).prop_map(|(address, prefix)| format!("{address}/{prefix}")),
        "[a-z0-9._-]{1,20}",
    ];
    let to = (key, address).prop_map(|(key, address)| format!("{key}={address}"));
    let port = any::<u16>();
    let ports = prop_oneof![
        port.prop_map(|port| format!("dstports={port}")),
        (port, port).prop_map(|(a, b)| format!("dstports={}-{}", a.min(b), a.max(b))),
    ];
    let with_ports = (prop_oneof![Just("proto=tcp"), Just("proto=udp")], option::of(ports))
        .prop_map(|(proto, ports)| [Some(proto.to_owned()), ports]);
    let icmp = option::of(any::<u8>().prop_map(|number| format!("icmptype={number}")))
        .prop_map(|number| [Some("proto=icmp".to_owned()), number]);
    let proto = prop_oneof![Just([None, None]), with_ports, icmp];
    let special = Just("specialtarget=dns".to_owned());
    let expire = (0u64..=253_402_300_799).prop_map(|expire| format!("expire={expire}"));
    let comment = "[a-zA-Z0-9 :;,./_\\[\\]-]{0,20}".prop_map(|comment| format!("comment={comment}"));
    (
        action,
        option::of(to),
        proto,
        option::of(special),
        option::of(expire),
        any::<usize>(),
        option::of(comment),
    )
        .prop_map(|(action, to, [proto, more], special, expire, turn, comment)| {
            let mut words: Vec<String> =
                [Some(action), to, proto, more, special, expire].into_iter().flatten().collect();
            let turn = turn % words.len();
            words.rotate_left(turn);
            words.extend(comment);
            words.join(" ")
        })
}

/// A rule.
pub(in crate::qubes) fn rule() -> impl Strategy<Value = Rule> {
    line().prop_map(|line| line.parse().unwrap())
}
