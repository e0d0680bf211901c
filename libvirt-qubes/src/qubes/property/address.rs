//! The addresses of VMs on the network, and what follows from them.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::super::class::VmClass;
use super::super::refusal::{Refusal, ValueRule};
use super::super::snapshot::Snapshot;
use super::super::value::Value;
use super::super::vm::Vm;
use super::change::{by_name, recomputed};
use super::row::{Effects, FIXED, Fallback, PLAIN, ROW, Row, Rules, Source, TakesEffect};
use super::{Property, value};

pub(super) static IP: Row = Row {
    name: "ip",
    takes_effect: TakesEffect::NextStart,
    source: Source::Stored(Rules {
        canonical: |value| address::<Ipv4Addr>(Property::Ip, "IPv4Address", value),
        default: Fallback::To(|snapshot, vm| {
            networked(snapshot, vm).then(|| Value::text(ipv4(vm).to_string()))
        }),
        effects: |snapshot, vm, old, new| moved(snapshot, vm, old != new, &IPV4),
        ..PLAIN
    }),
    default: "made of ``qid`` or ``dispid`` where the VM has, or provides, a network; else none",
    help: "The VM's IPv4 address.",
    ..ROW
};

pub(super) static IP6: Row = Row {
    name: "ip6",
    takes_effect: TakesEffect::NextStart,
    source: Source::Stored(Rules {
        canonical: |value| address::<Ipv6Addr>(Property::Ip6, "IPv6Address", value),
        default: Fallback::To(|snapshot, vm| {
            let has = networked(snapshot, vm) && uses_ipv6(snapshot, vm);
            has.then(|| Value::text(ipv6(vm).to_string()))
        }),
        effects: |snapshot, vm, old, new| moved(snapshot, vm, old != new, &IPV6),
        ..PLAIN
    }),
    default: "made of ``qid`` or ``dispid`` where the VM has, or provides, a network, and it or a netvm above it has \
              the feature ``ipv6``; else none",
    help: "The VM's IPv6 address.",
    ..ROW
};

pub(super) static VISIBLE_IP: Row = Row {
    name: "visible_ip",
    source: Source::Computed(|snapshot, vm| {
        faked(snapshot, vm, "net.fake-ip").or_else(|| value(snapshot, vm, Property::Ip))
    }),
    help: "The IPv4 address that the VM itself sees: the feature ``net.fake-ip``, else ``ip``.",
    ..FIXED
};

pub(super) static VISIBLE_IP6: Row = Row {
    name: "visible_ip6",
    source: Source::Computed(|snapshot, vm| value(snapshot, vm, Property::Ip6)),
    help: "The IPv6 address that the VM itself sees.",
    ..FIXED
};

pub(super) static VISIBLE_GATEWAY: Row = Row {
    name: "visible_gateway",
    source: Source::Computed(|snapshot, vm| {
        faked(snapshot, vm, "net.fake-gateway").or_else(|| of_netvm(snapshot, vm, Property::Gateway))
    }),
    help: "The IPv4 gateway that the VM itself sees: the feature ``net.fake-gateway``, else its netvm's ``gateway``.",
    ..FIXED
};

pub(super) static VISIBLE_GATEWAY6: Row = Row {
    name: "visible_gateway6",
    source: Source::Computed(|snapshot, vm| {
        uses_ipv6(snapshot, vm).then(|| of_netvm(snapshot, vm, Property::Gateway6)).flatten()
    }),
    help: "The IPv6 gateway that the VM itself sees: its netvm's ``gateway6``.",
    ..FIXED
};

pub(super) static VISIBLE_NETMASK: Row = Row {
    name: "visible_netmask",
    source: Source::Computed(|snapshot, vm| {
        let netmask = || {
            let netvm = snapshot.model.netvm_of(vm)?;
            networked(snapshot, netvm).then(|| Value::text("255.255.255.255"))
        };
        faked(snapshot, vm, "net.fake-netmask").or_else(netmask)
    }),
    help: "The netmask that the VM itself sees: the feature ``net.fake-netmask``, else ``255.255.255.255``.",
    ..FIXED
};

pub(super) static GATEWAY: Row = Row {
    name: "gateway",
    source: Source::Computed(|snapshot, vm| {
        provides(vm).then(|| value(snapshot, vm, Property::VisibleIp)).flatten()
    }),
    help: "The IPv4 gateway of VMs that get their network from this one; none where it provides no network.",
    ..FIXED
};

pub(super) static GATEWAY6: Row = Row {
    name: "gateway6",
    source: Source::Computed(|snapshot, vm| {
        let gateway = provides(vm) && uses_ipv6(snapshot, vm);
        gateway.then(|| value(snapshot, vm, Property::VisibleIp6)).flatten()
    }),
    help: "The IPv6 gateway of VMs that get their network from this one; none where it provides no network, or \
           neither it nor a netvm above it has the feature ``ipv6``.",
    ..FIXED
};

pub(super) static DNS: Row = Row {
    name: "dns",
    source: Source::Computed(|snapshot, vm| {
        networked(snapshot, vm).then(|| Value::text("10.139.1.1 10.139.1.2"))
    }),
    help: "The addresses that the VM asks for names, where it has, or provides, a network.",
    ..FIXED
};

/// An address in its usual form.
fn address<A: FromStr + ToString>(property: Property, kind: &str, value: Value) -> Result<Value, Refusal> {
    match value.as_str().map(|text| text.parse::<A>()) {
        Some(Ok(address)) => Ok(Value::text(address.to_string())),
        Some(Err(_)) => {
            let text = format!("Failed to parse property value as {kind}");
            Err(Refusal::value(property, ValueRule::Type, text))
        }
        None => Ok(value),
    }
}

fn provides(vm: &Vm) -> bool {
    vm.flag(Property::ProvidesNetwork) == Some(true)
}

fn networked(snapshot: &Snapshot, vm: &Vm) -> bool {
    provides(vm) || snapshot.model.netvm_of(vm).is_some()
}

fn uses_ipv6(snapshot: &Snapshot, vm: &Vm) -> bool {
    snapshot.model.feature_with_netvm(vm, "ipv6").is_some_and(|value| !value.is_empty())
}

/// A feature that says what the VM is made to believe; an empty one says nothing.
fn faked(snapshot: &Snapshot, vm: &Vm, feature: &str) -> Option<Value> {
    snapshot.model.feature_with_template(vm, feature).filter(|value| !value.is_empty()).map(Value::text)
}

fn of_netvm(snapshot: &Snapshot, vm: &Vm, property: Property) -> Option<Value> {
    let netvm = snapshot.model.netvm_of(vm)?;
    property.applies_to(netvm.class).then(|| value(snapshot, netvm, property)).flatten()
}

/// The number that a VM's addresses are made of, and whether it is a disposable's.
fn number(vm: &Vm) -> (u16, bool) {
    let dispid = vm.properties.get(&Property::Dispid).and_then(Value::as_int);
    match dispid.and_then(|id| u16::try_from(id).ok()) {
        Some(id) if vm.class == VmClass::DispVm => (id, true),
        Some(_) | None => (vm.qid.get(), false),
    }
}

/// `10.137.x.y`, of disposables `10.138.x.y`. From 255 on, `y` is neither 0 nor 255: guests that guess a /24
/// would take those for the network and for everybody.
fn ipv4(vm: &Vm) -> Ipv4Addr {
    let (number, disposable) = number(vm);
    let (high, low) = match number.checked_sub(1) {
        Some(index) if number >= 255 => (index / 254, index % 254 + 1),
        Some(_) | None => (0, number),
    };
    let byte = |part: u16| u8::try_from(part).unwrap_or(u8::MAX);
    Ipv4Addr::new(10, if disposable { 138 } else { 137 }, byte(high), byte(low))
}

/// `fd09:24ef:4179::a89:N`, of disposables `::a8a:N`.
fn ipv6(vm: &Vm) -> Ipv6Addr {
    let (number, disposable) = number(vm);
    Ipv6Addr::new(0xfd09, 0x24ef, 0x4179, 0, 0, 0, if disposable { 0xa8a } else { 0xa89 }, number)
}

/// What follows from an address of one kind.
struct Following {
    gateway: &'static str,
    visible: &'static str,
    gateway_of_clients: &'static str,
}

static IPV4: Following =
    Following { gateway: "gateway", visible: "visible_ip", gateway_of_clients: "visible_gateway" };

static IPV6: Following =
    Following { gateway: "gateway6", visible: "visible_ip6", gateway_of_clients: "visible_gateway6" };

fn moved(snapshot: &Snapshot, vm: &Vm, moved: bool, following: &Following) -> Effects {
    if !moved {
        return Effects::default();
    }
    let mut events = Vec::new();
    if provides(vm) {
        events.push(recomputed(vm, following.gateway));
    }
    events.push(recomputed(vm, following.visible));
    for client in by_name(snapshot.model.network_clients(vm.uuid)) {
        events.push(recomputed(client, following.gateway_of_clients));
    }
    Effects::events(events)
}

#[cfg(test)]
mod tests {
    use super::super::super::global::Global;
    use super::super::super::testing::{
        feature, make, new_vm, reset, set, set_global, short, small_model, vm,
    };
    use super::super::super::value::Shown;
    use super::super::get;
    use super::*;

    fn text(snapshot: &Snapshot, name: &str, property: &str) -> String {
        match get(snapshot, &vm(snapshot, name), property).unwrap().value {
            Shown::None => String::new(),
            Shown::Str(text) => text.to_string(),
            other @ (Shown::Int(_) | Shown::Bool(_) | Shown::Vm(_) | Shown::Label(_)) => panic!("{other:?}"),
        }
    }

    fn with_qid(snapshot: &Snapshot, class: VmClass, number: u16) -> Vm {
        let mut made = Vm::clone(&vm(snapshot, "work"));
        made.class = class;
        made.qid = super::super::super::ids::Qid::new(number).unwrap();
        made.properties.insert(Property::Dispid, Value::Int(i64::from(number)));
        made
    }

    #[test]
    fn addresses_are_made_of_the_number_and_never_end_in_0_or_255_but_for_the_first_disposable() {
        let snapshot = small_model();
        for (number, end) in [
            (1, "0.1"),
            (253, "0.253"),
            (254, "0.254"),
            (255, "1.1"),
            (256, "1.2"),
            (508, "1.254"),
            (509, "2.1"),
            (9999, "39.93"),
            (10000, "39.94"),
        ] {
            assert_eq!(
                ipv4(&with_qid(&snapshot, VmClass::AppVm, number)).to_string(),
                format!("10.137.{end}")
            );
            assert_eq!(
                ipv4(&with_qid(&snapshot, VmClass::DispVm, number)).to_string(),
                format!("10.138.{end}")
            );
        }
        assert_eq!(ipv4(&with_qid(&snapshot, VmClass::DispVm, 0)).to_string(), "10.138.0.0");
        assert_eq!(ipv6(&with_qid(&snapshot, VmClass::AppVm, 300)).to_string(), "fd09:24ef:4179::a89:12c");
        assert_eq!(ipv6(&with_qid(&snapshot, VmClass::DispVm, 9999)).to_string(), "fd09:24ef:4179::a8a:270f");
    }

    #[test]
    fn a_vm_has_addresses_where_it_has_or_provides_a_network() {
        let mut snapshot = small_model();
        for property in ["ip", "ip6", "visible_ip", "gateway", "dns", "visible_netmask", "visible_gateway"] {
            assert_eq!(text(&snapshot, "work", property), "", "{property}");
        }
        for (property, shown) in [
            ("ip", "10.137.0.3"),
            ("visible_ip", "10.137.0.3"),
            ("gateway", "10.137.0.3"),
            ("dns", "10.139.1.1 10.139.1.2"),
            ("visible_netmask", ""),
            ("visible_gateway", ""),
            ("ip6", ""),
            ("gateway6", ""),
        ] {
            assert_eq!(text(&snapshot, "sys-net", property), shown, "{property}");
        }
        set(&mut snapshot, "work", "netvm", "sys-net").unwrap();
        for (property, shown) in [
            ("ip", "10.137.0.2"),
            ("visible_ip", "10.137.0.2"),
            ("gateway", ""),
            ("dns", "10.139.1.1 10.139.1.2"),
            ("visible_netmask", "255.255.255.255"),
            ("visible_gateway", "10.137.0.3"),
            ("visible_ip6", ""),
            ("visible_gateway6", ""),
        ] {
            assert_eq!(text(&snapshot, "work", property), shown, "{property}");
        }
    }

    #[test]
    fn ipv6_is_switched_on_by_a_feature_of_the_vm_or_a_netvm_above_it() {
        let mut snapshot = small_model();
        set(&mut snapshot, "work", "netvm", "sys-net").unwrap();
        feature(&mut snapshot, "sys-net", "ipv6", "1");
        for (name, property, shown) in [
            ("work", "ip6", "fd09:24ef:4179::a89:2"),
            ("work", "visible_ip6", "fd09:24ef:4179::a89:2"),
            ("work", "visible_gateway6", "fd09:24ef:4179::a89:3"),
            ("work", "gateway6", ""),
            ("sys-net", "ip6", "fd09:24ef:4179::a89:3"),
            ("sys-net", "gateway6", "fd09:24ef:4179::a89:3"),
        ] {
            assert_eq!(text(&snapshot, name, property), shown, "{name} {property}");
        }
        feature(&mut snapshot, "work", "ipv6", "");
        assert_eq!(text(&snapshot, "work", "ip6"), "", "the nearest that has it decides");
    }

    #[test]
    fn features_say_what_the_vm_itself_sees_and_templates_pass_them_on() {
        let mut snapshot = small_model();
        set(&mut snapshot, "work", "netvm", "sys-net").unwrap();
        feature(&mut snapshot, "debian", "net.fake-ip", "192.168.0.2");
        feature(&mut snapshot, "work", "net.fake-gateway", "192.168.0.1");
        feature(&mut snapshot, "work", "net.fake-netmask", "");
        assert_eq!(text(&snapshot, "work", "ip"), "10.137.0.2");
        assert_eq!(text(&snapshot, "work", "visible_ip"), "192.168.0.2");
        assert_eq!(text(&snapshot, "work", "visible_gateway"), "192.168.0.1");
        assert_eq!(text(&snapshot, "work", "visible_netmask"), "255.255.255.255", "empty says nothing");
        assert_eq!(text(&snapshot, "sys-net", "gateway"), "192.168.0.2", "what it sees itself");
    }

    #[test]
    fn a_new_address_is_told_to_those_who_see_it() {
        let mut snapshot = small_model();
        make(&mut snapshot, &new_vm("mail", VmClass::AppVm, Some("debian")));
        set(&mut snapshot, "sys-net", "netvm", "").unwrap();
        let sys_net = vm(&snapshot, "sys-net").uuid;
        set(&mut snapshot, "work", "netvm", "sys-net").unwrap();
        set_global(&mut snapshot, Global::DefaultNetvm, Value::Vm(Some(sys_net)));
        let told = |new: &str, old: &str| {
            [
                format!("sys-net pre-set:ip {new} {old}"),
                "sys-net reset:gateway - -".to_owned(),
                "sys-net reset:visible_ip - -".to_owned(),
                "mail reset:visible_gateway - -".to_owned(),
                "work reset:visible_gateway - -".to_owned(),
                format!("sys-net set:ip {new} {old}"),
            ]
        };
        let events = set(&mut snapshot, "sys-net", "ip", "10.0.0.1").unwrap();
        assert_eq!(short(&events), told("10.0.0.1", "10.137.0.3"));
        let events = set(&mut snapshot, "sys-net", "ip", "10.0.0.1").unwrap();
        assert_eq!(events.len(), 2, "the same again");
        assert_eq!(text(&snapshot, "work", "visible_gateway"), "10.0.0.1");
        let events = set(&mut snapshot, "work", "ip6", "FD00::0:1").unwrap();
        assert_eq!(
            short(&events),
            ["work pre-set:ip6 fd00::1 None", "work reset:visible_ip6 - -", "work set:ip6 fd00::1 None"]
        );
        let events = reset(&mut snapshot, "work", "ip6").unwrap();
        assert_eq!(short(&events)[2], "work reset:visible_ip6 - -");
    }
}
