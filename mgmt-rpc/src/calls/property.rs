//! Properties of VMs.

use libvirt_qubes::qubes::property::{self, Origin as Held};
use libvirt_qubes::qubes::{Host, Shown};

use super::OrFail;
use crate::args::PropertyText;
use crate::cx::Cx;
use crate::failure::Failure;
use crate::reply::{Content, Origin, PropertyValue, Reply, deployed, seed_untyped};
use crate::row;
use crate::table::Row;
use crate::untrusted::Text;

pub(super) const ROWS: &[Row<Host>] = &[
    row!(Both("vm.property.List"), Any, Local Read, (Empty, Empty) => list),
    row!(
        Both("vm.property.Get"), Any, Local Read, (Required<Text>, Empty) => get,
        encode: seed_untyped, deployed
    ),
    row!(Both("vm.property.Set"), Any, Local Write, (Required<Text>, Optional<PropertyText>) => set),
    row!(Both("vm.property.Reset"), Any, Local Write, (Required<Text>, Empty) => reset),
];

async fn list(cx: &Cx<Host>) -> Result<Reply, Failure> {
    let seen = cx.host.snapshot();
    let vm = seen.model.find_vm(&cx.destination).or_fail(cx)?;
    Ok(Reply::lines(property::list(vm.class)))
}

async fn get(cx: &Cx<Host>, Text(name): Text) -> Result<Reply, Failure> {
    let seen = cx.host.snapshot();
    let vm = seen.model.find_vm(&cx.destination).or_fail(cx)?;
    let answer = property::get(&seen, vm, &name).or_fail(cx)?;
    let origin = match answer.origin {
        Held::Explicit => Origin::Set,
        Held::Default => Origin::Default,
    };
    let value = PropertyValue { origin, kind: answer.kind.as_str(), text: text(&answer.value) };
    Ok(Content::Property(value).into())
}

async fn set(cx: &Cx<Host>, Text(name): Text, PropertyText(value): PropertyText) -> Result<Reply, Failure> {
    cx.host.set_property(&cx.destination, &name, value.into_bytes()).await.or_fail(cx)?;
    Ok(Reply::empty())
}

async fn reset(cx: &Cx<Host>, Text(name): Text) -> Result<Reply, Failure> {
    cx.host.reset_property(&cx.destination, &name).await.or_fail(cx)?;
    Ok(Reply::empty())
}

/// A value as Get has it: nothing for none, `True` and `False`, names as they are.
fn text(value: &Shown) -> String {
    match value {
        Shown::None => String::new(),
        Shown::Str(text) => text.to_string(),
        Shown::Int(number) => number.to_string(),
        Shown::Bool(true) => "True".into(),
        Shown::Bool(false) => "False".into(),
        Shown::Vm(name) => name.to_string(),
        Shown::Label(name) => name.to_string(),
    }
}
