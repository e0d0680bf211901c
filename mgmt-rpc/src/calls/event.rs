//! Events as clients know them: their names, keys and values, and who gets which.

use std::collections::BTreeMap;

use libvirt_qubes::ids::VmName;
use libvirt_qubes::qubes::event::{
    Device, DevicePort, EventKind, Force, ModelEvent, PropertyChange, Subject,
};
use libvirt_qubes::qubes::subscription::{Delivery, Subscription};
use libvirt_qubes::qubes::value::Shown;
use uuid::Uuid;

use crate::BoxFuture;
use crate::reply::EventStream;
use crate::wire::Event;
use crate::wire::exception::quoted;

/// What a subscription is to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// To dom0: the system and every VM.
    All,
    /// To one VM.
    Vm(Uuid),
}

impl Scope {
    /// Whether subscribers of this scope get an event.
    pub fn takes(self, event: &ModelEvent) -> bool {
        match (self, &event.subject) {
            // After `domain-delete` a subscriber to everything hears no more of that VM.
            (Self::All, _) => event.kind != EventKind::DomainRemoveFromDisk,
            (Self::Vm(vm), Subject::Vm { uuid, .. }) => vm == *uuid,
            (Self::Vm(_), Subject::System) => false,
        }
    }
}

/// A subscription as a stream of messages.
pub struct Messages(pub Subscription);

impl EventStream for Messages {
    fn next(&mut self) -> BoxFuture<'_, Option<Event>> {
        Box::pin(async {
            Some(match self.0.next().await {
                Delivery::Event(numbered) => message(&numbered.event),
                Delivery::Lost { .. } => Event::lost(),
            })
        })
    }
}

/// A value as events show it: none is `None`, not nothing.
pub fn shown(value: &Shown) -> String {
    match value {
        Shown::None => "None".to_owned(),
        Shown::Str(text) => text.to_string(),
        Shown::Int(number) => number.to_string(),
        Shown::Bool(true) => "True".to_owned(),
        Shown::Bool(false) => "False".to_owned(),
        Shown::Vm(name) => name.to_string(),
        Shown::Label(name) => name.to_string(),
    }
}

/// The message of an event.
pub fn message(event: &ModelEvent) -> Event {
    use EventKind as K;
    let subject = match &event.subject {
        Subject::System => "",
        Subject::Vm { name, .. } => name.as_str(),
    };
    let bare = |name: &str| Event::new(subject, name);
    let of_vm = |name: &str, vm: &VmName| bare(name).with("vm", vm.as_str());
    let started = |name: &str| bare(name).with("start_guid", "True");
    match &event.kind {
        K::DomainAdd { vm, .. } => of_vm("domain-add", vm),
        K::DomainPreDelete { vm, .. } => of_vm("domain-pre-delete", vm),
        K::DomainDelete { vm, .. } => of_vm("domain-delete", vm),
        K::DomainCreateOnDisk => bare("domain-create-on-disk"),
        K::DomainRemoveFromDisk => bare("domain-remove-from-disk"),
        K::DomainTagAdd { tag } => bare(&format!("domain-tag-add:{tag}")).with("tag", tag.as_str()),
        K::DomainTagDelete { tag } => bare(&format!("domain-tag-delete:{tag}")).with("tag", tag.as_str()),
        K::DomainFeaturePreSet { feature, value, old } => {
            let event = bare(&format!("domain-feature-pre-set:{feature}"));
            let event = event.with("feature", feature.as_str()).with("value", value.as_str());
            with_old(event, old.as_ref().map(|old| old.to_string()))
        }
        K::DomainFeatureSet { feature, value, old } => {
            let event = bare(&format!("domain-feature-set:{feature}"));
            let event = event.with("feature", feature.as_str()).with("value", value.as_str());
            with_old(event, old.as_ref().map(|old| old.to_string()))
        }
        K::DomainFeaturePreDelete { feature } => {
            bare(&format!("domain-feature-pre-delete:{feature}")).with("feature", feature.as_str())
        }
        K::DomainFeatureDelete { feature } => {
            bare(&format!("domain-feature-delete:{feature}")).with("feature", feature.as_str())
        }
        K::PropertyPreSet(change) => property(subject, "property-pre-set", change),
        K::PropertySet(change) => property(subject, "property-set", change),
        K::PropertyPreReset(change) => property(subject, "property-pre-reset", change),
        K::PropertyPreDel(change) => property(subject, "property-pre-del", change),
        K::PropertyReset(change) => property(subject, "property-reset", change),
        K::PropertyDel(change) => property(subject, "property-del", change),
        K::DomainPreStart => started("domain-pre-start").with("mem_required", "None"),
        K::DomainVerifyFiles => bare("domain-verify-files"),
        K::DomainPreSpawn => started("domain-pre-spawn"),
        K::DomainSpawn => started("domain-spawn"),
        K::DomainQdbCreate => bare("domain-qdb-create"),
        K::DomainStart => started("domain-start"),
        K::DomainStartFailed { reason } => bare("domain-start-failed").with("reason", reason),
        K::DomainPreUnpaused => bare("domain-pre-unpaused"),
        K::DomainUnpaused => bare("domain-unpaused"),
        K::DomainPrePaused => bare("domain-pre-paused"),
        K::DomainPaused => bare("domain-paused"),
        K::DomainPreShutdown { force } => {
            let force = match force {
                Force::No => "False",
                Force::Yes => "True",
            };
            bare("domain-pre-shutdown").with("force", force)
        }
        K::DomainShutdownFailed { reason } => bare("domain-shutdown-failed").with("reason", reason),
        K::DomainStopped => bare("domain-stopped"),
        K::DomainShutdown => bare("domain-shutdown"),
        K::DevicePreAttach(device) => attached(subject, "device-pre-attach", device),
        K::DeviceAttach(device) => attached(subject, "device-attach", device),
        K::DevicePreDetach(port) => detached(subject, "device-pre-detach", port),
        K::DeviceDetach(port) => detached(subject, "device-detach", port),
        K::DeviceListChange { class } => bare(&format!("device-list-change:{class}")),
        K::PoolAdd { pool } => bare("pool-add").with("pool", pool.as_str()),
        K::PoolPreDelete { pool } => bare("pool-pre-delete").with("pool", pool.as_str()),
        K::PoolDelete { pool } => bare("pool-delete").with("pool", pool.as_str()),
    }
}

fn with_old(event: Event, old: Option<String>) -> Event {
    match old {
        Some(old) => event.with("oldvalue", old),
        None => event,
    }
}

fn property(subject: &str, what: &str, change: &PropertyChange) -> Event {
    let mut event = Event::new(subject, format!("{what}:{}", change.name)).with("name", change.name);
    if let Some(new) = &change.new {
        event = event.with("newvalue", shown(new));
    }
    with_old(event, change.old.as_ref().map(shown))
}

fn attached(subject: &str, what: &str, device: &Device) -> Event {
    let Device { class, backend, port, id, options } = device;
    Event::new(subject, format!("{what}:{class}"))
        .with("device", format!("{backend}:{port}:{id}"))
        .with("options", dictionary(options))
}

fn detached(subject: &str, what: &str, port: &DevicePort) -> Event {
    let DevicePort { class, backend, port } = port;
    Event::new(subject, format!("{what}:{class}")).with("port", format!("{backend}:{port}"))
}

/// The text of a Python dictionary.
fn dictionary(options: &BTreeMap<String, String>) -> String {
    let pair = |(key, value): (&String, &String)| format!("{}: {}", quoted(key), quoted(value));
    format!("{{{}}}", options.iter().map(pair).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(kind: EventKind) -> ModelEvent {
        ModelEvent { subject: Subject::Vm { uuid: Uuid::from_u128(7), name: "work".parse().unwrap() }, kind }
    }

    fn change(new: Option<Shown>, old: Option<Shown>) -> PropertyChange {
        PropertyChange { name: "netvm", new, old }
    }

    #[test]
    fn events_have_the_names_keys_and_values_of_the_document() {
        let net = || Shown::Vm("sys-net".parse().unwrap());
        let device = Device {
            class: "block",
            backend: "dom0".parse().unwrap(),
            port: "sda".into(),
            id: "*".into(),
            options: [("read-only".to_owned(), "yes".to_owned())].into(),
        };
        let vm = "work".parse().unwrap();
        for (event, bytes) in [
            (
                ModelEvent::system(EventKind::DomainAdd { vm, uuid: Uuid::nil() }),
                &b"1\0\0domain-add\0vm\0work\0\0"[..],
            ),
            (
                work(EventKind::DomainTagAdd { tag: "created-by-dom0".parse().unwrap() }),
                b"1\0work\0domain-tag-add:created-by-dom0\0tag\0created-by-dom0\0\0",
            ),
            (
                work(EventKind::PropertySet(change(Some(Shown::None), Some(net())))),
                b"1\0work\0property-set:netvm\0name\0netvm\0newvalue\0None\0oldvalue\0sys-net\0\0",
            ),
            (
                work(EventKind::PropertyPreSet(change(Some(net()), None))),
                b"1\0work\0property-pre-set:netvm\0name\0netvm\0newvalue\0sys-net\0\0",
            ),
            (
                work(EventKind::PropertyReset(change(None, Some(Shown::Bool(true))))),
                b"1\0work\0property-reset:netvm\0name\0netvm\0oldvalue\0True\0\0",
            ),
            (
                work(EventKind::DomainFeatureSet {
                    feature: "gui".parse().unwrap(),
                    value: "".parse().unwrap(),
                    old: None,
                }),
                b"1\0work\0domain-feature-set:gui\0feature\0gui\0value\0\0\0",
            ),
            (
                work(EventKind::DomainPreStart),
                b"1\0work\0domain-pre-start\0start_guid\0True\0mem_required\0None\0\0",
            ),
            (work(EventKind::DomainStart), b"1\0work\0domain-start\0start_guid\0True\0\0"),
            (
                work(EventKind::DomainPreShutdown { force: Force::No }),
                b"1\0work\0domain-pre-shutdown\0force\0False\0\0",
            ),
            (
                work(EventKind::DeviceAttach(device.clone())),
                b"1\0work\0device-attach:block\0device\0dom0:sda:*\0options\0{'read-only': 'yes'}\0\0",
            ),
            (
                work(EventKind::DeviceDetach(DevicePort {
                    class: "block",
                    backend: device.backend,
                    port: device.port,
                })),
                b"1\0work\0device-detach:block\0port\0dom0:sda\0\0",
            ),
        ] {
            let encoded = message(&event).encode();
            assert_eq!(String::from_utf8_lossy(&encoded), String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_subscriber_to_a_vm_gets_that_vms_events_and_one_to_all_none_after_its_end() {
        let vm: VmName = "work".parse().unwrap();
        let deleted = ModelEvent::system(EventKind::DomainDelete { vm, uuid: Uuid::from_u128(7) });
        for (event, all, own, other) in [
            (work(EventKind::DomainStart), true, true, false),
            (deleted, true, false, false),
            (work(EventKind::DomainRemoveFromDisk), false, true, false),
        ] {
            let takes = [Scope::All, Scope::Vm(Uuid::from_u128(7)), Scope::Vm(Uuid::nil())]
                .map(|scope| scope.takes(&event));
            assert_eq!(takes, [all, own, other], "{event:?}");
        }
    }
}
