//! Properties: of VMs, and of the system.

use libvirt_qubes::qubes::global::{self, Global};
use libvirt_qubes::qubes::property::{self, Answer, Origin as Held, Property};
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
    row!(Both("vm.property.GetAll"), Any, Local Read, (Empty, Empty) => get_all),
    row!(Both("vm.property.GetDefault"), Any, Local Read, (Required<Text>, Empty) => get_default),
    row!(Both("vm.property.Help"), Any, Local Read, (Required<Text>, Empty) => help),
    row!(Both("vm.property.HelpRst"), Any, Local Read, (Required<Text>, Empty) => help_rst),
    row!(Both("vm.property.Set"), Any, Local Write, (Required<Text>, Optional<PropertyText>) => set),
    row!(Both("vm.property.Reset"), Any, Local Write, (Required<Text>, Empty) => reset),
    row!(Both("property.List"), Dom0, Global Read, (Empty, Empty) => system_list),
    row!(Both("property.Get"), Dom0, Global Read, (Required<Text>, Empty) => system_get),
    row!(Both("property.GetAll"), Dom0, Global Read, (Empty, Empty) => system_get_all),
    row!(Both("property.GetDefault"), Dom0, Global Read, (Required<Text>, Empty) => system_get_default),
    row!(Both("property.Help"), Dom0, Global Read, (Required<Text>, Empty) => system_help),
    row!(Both("property.HelpRst"), Dom0, Global Read, (Required<Text>, Empty) => system_help_rst),
    row!(Both("property.Set"), Dom0, Global Write, (Required<Text>, Optional<PropertyText>) => system_set),
    row!(Both("property.Reset"), Dom0, Global Write, (Required<Text>, Empty) => system_reset),
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
    Ok(Content::Property(held(&answer)).into())
}

async fn get_all(cx: &Cx<Host>) -> Result<Reply, Failure> {
    let seen = cx.host.snapshot();
    let vm = seen.model.find_vm(&cx.destination).or_fail(cx)?;
    let line = |property: Property| (property.name(), held(&property::answer(&seen, vm, property)));
    Ok(Content::Properties(property::list(vm.class).into_iter().map(line).collect()).into())
}

async fn get_default(cx: &Cx<Host>, Text(name): Text) -> Result<Reply, Failure> {
    let seen = cx.host.snapshot();
    let vm = seen.model.find_vm(&cx.destination).or_fail(cx)?;
    let property = Property::of(vm, &name).or_fail(cx)?;
    let value = property::default_shown(&seen, vm, property);
    Ok(default(property.row().kind.as_str(), value.as_ref()))
}

async fn help(cx: &Cx<Host>, Text(name): Text) -> Result<Reply, Failure> {
    Ok(Reply::value(property::plain(described(cx, &name)?)))
}

async fn help_rst(cx: &Cx<Host>, Text(name): Text) -> Result<Reply, Failure> {
    Ok(Reply::value(described(cx, &name)?))
}

fn described(cx: &Cx<Host>, name: &str) -> Result<&'static str, Failure> {
    let seen = cx.host.snapshot();
    let vm = seen.model.find_vm(&cx.destination).or_fail(cx)?;
    Ok(Property::of(vm, name).or_fail(cx)?.row().help)
}

async fn set(cx: &Cx<Host>, Text(name): Text, PropertyText(value): PropertyText) -> Result<Reply, Failure> {
    cx.host.set_property(&cx.destination, &name, value.into_bytes()).await.or_fail(cx)?;
    Ok(Reply::empty())
}

async fn reset(cx: &Cx<Host>, Text(name): Text) -> Result<Reply, Failure> {
    cx.host.reset_property(&cx.destination, &name).await.or_fail(cx)?;
    Ok(Reply::empty())
}

async fn system_list(_cx: &Cx<Host>) -> Result<Reply, Failure> {
    Ok(Reply::lines(Global::ALL))
}

async fn system_get(cx: &Cx<Host>, Text(name): Text) -> Result<Reply, Failure> {
    let global = Global::find(&name).or_fail(cx)?;
    Ok(Content::Property(held(&global::answer(&cx.host.snapshot(), global))).into())
}

async fn system_get_all(cx: &Cx<Host>) -> Result<Reply, Failure> {
    let seen = cx.host.snapshot();
    let line = |global: &Global| (global.name(), held(&global::answer(&seen, *global)));
    Ok(Content::Properties(Global::ALL.iter().map(line).collect()).into())
}

async fn system_get_default(cx: &Cx<Host>, Text(name): Text) -> Result<Reply, Failure> {
    let global = Global::find(&name).or_fail(cx)?;
    let value = global::default_shown(&cx.host.snapshot(), global);
    Ok(default(global.kind().wire().as_str(), value.as_ref()))
}

async fn system_help(cx: &Cx<Host>, Text(name): Text) -> Result<Reply, Failure> {
    Ok(Reply::value(property::plain(Global::find(&name).or_fail(cx)?.row().help)))
}

async fn system_help_rst(cx: &Cx<Host>, Text(name): Text) -> Result<Reply, Failure> {
    Ok(Reply::value(Global::find(&name).or_fail(cx)?.row().help))
}

async fn system_set(
    cx: &Cx<Host>,
    Text(name): Text,
    PropertyText(value): PropertyText,
) -> Result<Reply, Failure> {
    cx.host.set_global_property(&name, value.into_bytes()).await.or_fail(cx)?;
    Ok(Reply::empty())
}

async fn system_reset(cx: &Cx<Host>, Text(name): Text) -> Result<Reply, Failure> {
    cx.host.reset_global_property(&name).await.or_fail(cx)?;
    Ok(Reply::empty())
}

/// A value as Get and GetAll have it.
fn held(answer: &Answer) -> PropertyValue {
    let origin = match answer.origin {
        Held::Explicit => Origin::Set,
        Held::Default => Origin::Default,
    };
    PropertyValue { origin, kind: answer.kind.as_str(), text: text(&answer.value) }
}

/// A default as GetDefault has it: nothing at all for a property without one.
fn default(kind: &'static str, value: Option<&Shown>) -> Reply {
    match value {
        Some(value) => Content::PropertyDefault { kind, text: text(value) }.into(),
        None => Reply::empty(),
    }
}

/// A value as text: nothing for none, `True` and `False`, names as they are.
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
