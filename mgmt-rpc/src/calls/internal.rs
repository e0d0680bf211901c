//! What dom0's own components ask, at the internal socket.

use libvirt_qubes::ids::VmName;
use libvirt_qubes::qubes::Host;
use libvirt_qubes::qubes::system_info::{DomainFacts, system_info};
use serde::{Serialize, Serializer};

use super::{OrFail, host, import};
use crate::args::volume::{ImportEnd, ImportSize};
use crate::cx::Cx;
use crate::failure::Failure;
use crate::json;
use crate::reply::Reply;
use crate::row;
use crate::table::Row;
use crate::untrusted::Text;

pub(super) const ROWS: &[Row<Host>] = &[
    row!(Internal("GetSystemInfo"), Dom0, Global Read, (Empty, Empty) => get_system_info),
    row!(
        Internal("vm.volume.ImportBegin"), Any, Local Write, (Required<Text>, Optional<ImportSize>) => import_begin
    ),
    row!(
        Internal("vm.volume.ImportEnd"), Any, Local Write, (Required<Text>, Required<ImportEnd>) => import_end
    ),
];

/// Begins an import whose data the caller writes: `SIZE PATH`.
async fn import_begin(
    cx: &Cx<Host>,
    Text(volume): Text,
    ImportSize(size): ImportSize,
) -> Result<Reply, Failure> {
    import::known(cx, &volume)?;
    let (size, path) = host(cx).hand_out_import(&cx.destination, &volume, size).await.or_fail(cx)?;
    Ok(Reply::value(format!("{size} {}", path.display())))
}

async fn import_end(
    cx: &Cx<Host>,
    Text(volume): Text,
    ImportEnd(written): ImportEnd,
) -> Result<Reply, Failure> {
    import::known(cx, &volume)?;
    host(cx).end_handed_import(&cx.destination, &volume, written).await.or_fail(cx)?;
    Ok(Reply::empty())
}

/// What the qrexec policy decides by, as JSON.
async fn get_system_info(cx: &Cx<Host>) -> Result<Reply, Failure> {
    let seen = cx.host.snapshot();
    let domains: Vec<_> = system_info(&seen).filter(|facts| cx.sees(facts.name)).collect();
    json::text(&SystemInfo { domains: Domains(domains) }).map(Reply::value).map_err(Failure::internal)
}

#[derive(Serialize)]
struct SystemInfo<'a> {
    domains: Domains<'a>,
}

/// An object with a key for each, in order.
struct Domains<'a>(Vec<DomainFacts<'a>>);

impl Serialize for Domains<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|facts| (facts.name.as_str(), Domain::of(facts))))
    }
}

/// The keys as the policy engine knows them, in the order in which the deployed daemon has them.
#[derive(Serialize)]
struct Domain<'a> {
    internal: Option<&'a str>,
    tags: Vec<&'a str>,
    r#type: &'static str,
    template_for_dispvms: bool,
    default_dispvm: Option<&'a str>,
    icon: String,
    label: &'a str,
    guivm: Option<&'a str>,
    relayvm: Option<&'a str>,
    transport_rpc: Option<&'a str>,
    power_state: &'static str,
    uuid: String,
}

impl<'a> Domain<'a> {
    fn of(facts: &'a DomainFacts<'a>) -> Self {
        let name = |vm: &'a Option<VmName>| vm.as_ref().map(VmName::as_str);
        Self {
            internal: facts.internal,
            tags: facts.tags.iter().map(|tag| tag.as_str()).collect(),
            r#type: facts.class.as_str(),
            template_for_dispvms: facts.template_for_dispvms,
            default_dispvm: name(&facts.default_dispvm),
            // The label's icon, whatever the class: not the property `icon`.
            icon: format!("appvm-{}", facts.label.map_or("black", |label| label.name.as_str())),
            label: facts.label.map_or("0x000000", |label| label.colour.as_str()),
            guivm: name(&facts.guivm),
            relayvm: name(&facts.relayvm),
            transport_rpc: facts.transport_rpc.as_deref(),
            power_state: facts.power_state.as_str(),
            uuid: facts.uuid.to_string(),
        }
    }
}
