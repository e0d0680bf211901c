//! The model's events in the words of the wire: names, keys in their order, values as text.

use libvirt_qubes::qubes::{
    Device, DevicePort, EventKind, Force, ModelEvent, PropertyChange, Reason, Shown, Subject,
};

use crate::refused;
use crate::wire::Event;
use crate::wire::exception::quoted;

/// The event as subscribers read it.
pub fn event(event: &ModelEvent) -> Event {
    let subject = match &event.subject {
        Subject::System => "",
        Subject::Vm { name, .. } => name.as_str(),
    };
    let named = |name: &str| Event::new(subject, name);
    let property = |name: &str, change: &PropertyChange| {
        let mut event = named(&format!("{name}:{}", change.name)).with("name", change.name);
        if let Some(new) = &change.new {
            event = event.with("newvalue", shown(new));
        }
        match &change.old {
            Some(old) => event.with("oldvalue", shown(old)),
            None => event,
        }
    };
    let device = |name: &str, device: &Device| {
        let option = |(key, value): (&String, &String)| format!("{}: {}", quoted(key), quoted(value));
        let options: Vec<String> = device.options.iter().map(option).collect();
        named(&format!("{name}:{}", device.class))
            .with("device", format!("{}:{}:{}", device.backend, device.port, device.id))
            .with("options", format!("{{{}}}", options.join(", ")))
    };
    let port = |name: &str, port: &DevicePort| {
        named(&format!("{name}:{}", port.class)).with("port", format!("{}:{}", port.backend, port.port))
    };
    match &event.kind {
        EventKind::DomainAdd { vm, .. } => named("domain-add").with("vm", vm.as_str()),
        EventKind::DomainPreDelete { vm, .. } => named("domain-pre-delete").with("vm", vm.as_str()),
        EventKind::DomainDelete { vm, .. } => named("domain-delete").with("vm", vm.as_str()),
        EventKind::DomainCreateOnDisk => named("domain-create-on-disk"),
        EventKind::DomainCloneFiles { src } => named("domain-clone-files").with("src", src.as_str()),
        EventKind::DomainRemoveFromDisk => named("domain-remove-from-disk"),
        EventKind::DomainTagAdd { tag } => named(&format!("domain-tag-add:{tag}")).with("tag", tag.as_str()),
        EventKind::DomainTagDelete { tag } => {
            named(&format!("domain-tag-delete:{tag}")).with("tag", tag.as_str())
        }
        EventKind::DomainFeaturePreSet { feature, value, old } => {
            let event = named(&format!("domain-feature-pre-set:{feature}"))
                .with("feature", feature.as_str())
                .with("value", value.as_str());
            match old {
                Some(old) => event.with("oldvalue", old.as_str()),
                None => event,
            }
        }
        EventKind::DomainFeatureSet { feature, value, old } => {
            let event = named(&format!("domain-feature-set:{feature}"))
                .with("feature", feature.as_str())
                .with("value", value.as_str());
            match old {
                Some(old) => event.with("oldvalue", old.as_str()),
                None => event,
            }
        }
        EventKind::DomainFeaturePreDelete { feature } => {
            named(&format!("domain-feature-pre-delete:{feature}")).with("feature", feature.as_str())
        }
        EventKind::DomainFeatureDelete { feature } => {
            named(&format!("domain-feature-delete:{feature}")).with("feature", feature.as_str())
        }
        EventKind::FirewallChanged => named("firewall-changed"),
        EventKind::PropertyPreSet(change) => property("property-pre-set", change),
        EventKind::PropertySet(change) => property("property-set", change),
        EventKind::PropertyPreReset(change) => property("property-pre-reset", change),
        EventKind::PropertyPreDel(change) => property("property-pre-del", change),
        EventKind::PropertyReset(change) => property("property-reset", change),
        EventKind::PropertyDel(change) => property("property-del", change),
        EventKind::DomainPreStart => {
            named("domain-pre-start").with("start_guid", "True").with("mem_required", "None")
        }
        EventKind::DomainVerifyFiles => named("domain-verify-files"),
        EventKind::DomainPreSpawn => named("domain-pre-spawn").with("start_guid", "True"),
        EventKind::DomainSpawn => named("domain-spawn").with("start_guid", "True"),
        EventKind::DomainQdbCreate => named("domain-qdb-create"),
        EventKind::DomainStart => named("domain-start").with("start_guid", "True"),
        EventKind::DomainStartFailed { reason } => named("domain-start-failed").with("reason", words(reason)),
        EventKind::DomainPreUnpaused => named("domain-pre-unpaused"),
        EventKind::DomainUnpaused => named("domain-unpaused"),
        EventKind::DomainPrePaused => named("domain-pre-paused"),
        EventKind::DomainPaused => named("domain-paused"),
        EventKind::DomainPreShutdown { force } => {
            let force = match force {
                Force::No => "False",
                Force::Yes => "True",
            };
            named("domain-pre-shutdown").with("force", force)
        }
        EventKind::DomainShutdownFailed { reason } => {
            named("domain-shutdown-failed").with("reason", words(reason))
        }
        EventKind::DomainStopped => named("domain-stopped"),
        EventKind::DomainShutdown => named("domain-shutdown"),
        EventKind::DomainCmdPreRun => named("domain-cmd-pre-run").with("start_guid", "False"),
        EventKind::DomainImportVolume { name, source } => {
            named("domain-import-volume").with("name", name.as_ref()).with("source", source.as_str())
        }
        EventKind::VolumeImportBegin { volume, size } => {
            named("domain-volume-import-begin").with("volume", volume.as_ref()).with("size", size.to_string())
        }
        EventKind::VolumeImportEnd { volume, success } => named("domain-volume-import-end")
            .with("volume", volume.as_ref())
            .with("success", if *success { "True" } else { "False" }),
        EventKind::VolumeProgress { volume, done, total } => named("volume-progress")
            .with("volume", volume.as_ref())
            .with("done", done.to_string())
            .with("total", total.to_string()),
        EventKind::DevicePreAttach(attached) => device("device-pre-attach", attached),
        EventKind::DeviceAttach(attached) => device("device-attach", attached),
        EventKind::DevicePreDetach(detached) => port("device-pre-detach", detached),
        EventKind::DeviceDetach(detached) => port("device-detach", detached),
        EventKind::DeviceListChange { class } => named(&format!("device-list-change:{class}")),
        EventKind::PoolAdd { pool } => named("pool-add").with("pool", pool.as_str()),
        EventKind::PoolPreDelete { pool } => named("pool-pre-delete").with("pool", pool.as_str()),
        EventKind::PoolDelete { pool } => named("pool-delete").with("pool", pool.as_str()),
        EventKind::PoolUsage { pool, kind, percent } => named("pool-usage")
            .with("pool", pool.as_str())
            .with("kind", kind.as_str())
            .with("percent", percent.to_string()),
    }
}

/// Why, without names of VMs that the subscriber may not see: an event has the same words for all.
fn words(reason: &Reason) -> String {
    match reason {
        Reason::Refused(refusal) => refused::in_an_event(refusal.clone()),
        Reason::Failed(words) => words.clone(),
    }
}

/// A value in an event: `None` for none, `True` and `False`, names as they are.
fn shown(value: &Shown) -> String {
    match value {
        Shown::None => "None".into(),
        Shown::Str(text) => text.to_string(),
        Shown::Int(number) => number.to_string(),
        Shown::Bool(true) => "True".into(),
        Shown::Bool(false) => "False".into(),
        Shown::Vm(name) => name.to_string(),
        Shown::Label(name) => name.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use libvirt_qubes::qubes::UsageKind;
    use uuid::Uuid;

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
                work(EventKind::DomainCloneFiles { src: "mail".parse().unwrap() }),
                b"1\0work\0domain-clone-files\0src\0mail\0\0",
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
            (
                ModelEvent::system(EventKind::PoolDelete { pool: "fast".parse().unwrap() }),
                b"1\0\0pool-delete\0pool\0fast\0\0",
            ),
            (
                ModelEvent::system(EventKind::PoolUsage {
                    pool: "fast".parse().unwrap(),
                    kind: UsageKind::Metadata,
                    percent: 91,
                }),
                b"1\0\0pool-usage\0pool\0fast\0kind\0metadata\0percent\091\0\0",
            ),
            (work(EventKind::FirewallChanged), b"1\0work\0firewall-changed\0\0"),
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
            let encoded = super::event(&event).encode();
            assert_eq!(String::from_utf8_lossy(&encoded), String::from_utf8_lossy(bytes));
        }
    }
}
