//! Firewall rules of VMs.

use libvirt_qubes::qubes::Host;
use libvirt_qubes::qubes::firewall::Place;

use super::OrFail;
use crate::args::{RuleLine, RuleLines};
use crate::cx::Cx;
use crate::failure::Failure;
use crate::reply::Reply;
use crate::row;
use crate::table::Row;
use crate::untrusted::Text;

pub(super) const ROWS: &[Row<Host>] = &[
    row!(Both("vm.firewall.List"), Vm, Local Read, (Empty, Empty) => list),
    row!(
        Both("vm.firewall.InsertRule"), Vm, Local Write, (Required<Text>, Required<RuleLine>) => insert_rule
    ),
    row!(Both("vm.firewall.RemoveRule"), Vm, Local Write, (Required<Text>, Empty) => remove_rule),
    row!(Both("vm.firewall.Flush"), Vm, Local Write, (Empty, Empty) => flush),
    row!(Both("vm.firewall.Get"), Vm, Local Read, (Empty, Empty) => get),
    row!(Both("vm.firewall.Set"), Vm, Local Write, (Empty, Optional<RuleLines>) => set),
    row!(Both("vm.firewall.Reload"), Vm, Local Write, (Empty, Empty) => reload),
];

/// The words for rules that the store cannot take.
const UNSAVED: &str = "firewall save error: %s";

/// What stands for the place after all rules.
const END: &str = "END";

async fn list(cx: &Cx<Host>) -> Result<Reply, Failure> {
    let rules = cx.host.firewall(&cx.destination).or_fail(cx)?;
    Ok(Reply::lines(rules.iter().map(|entry| format!("{} {}", entry.id, entry.rule))))
}

async fn insert_rule(cx: &Cx<Host>, Text(before): Text, RuleLine(rule): RuleLine) -> Result<Reply, Failure> {
    let place = if before == END { Place::End } else { Place::Before(before) };
    let id = cx.host.insert_firewall_rule(&cx.destination, place, rule).await.or_unsaved(cx, UNSAVED)?;
    Ok(Reply::value(id.to_string()))
}

async fn remove_rule(cx: &Cx<Host>, Text(id): Text) -> Result<Reply, Failure> {
    cx.host.remove_firewall_rule(&cx.destination, id).await.or_unsaved(cx, UNSAVED)?;
    Ok(Reply::empty())
}

async fn flush(cx: &Cx<Host>) -> Result<Reply, Failure> {
    set(cx, RuleLines(Vec::new())).await
}

async fn get(cx: &Cx<Host>) -> Result<Reply, Failure> {
    let rules = cx.host.firewall(&cx.destination).or_fail(cx)?;
    Ok(Reply::lines(rules.iter().map(|entry| &entry.rule)))
}

async fn set(cx: &Cx<Host>, RuleLines(rules): RuleLines) -> Result<Reply, Failure> {
    cx.host.set_firewall(&cx.destination, rules).await.or_unsaved(cx, UNSAVED)?;
    Ok(Reply::empty())
}

async fn reload(cx: &Cx<Host>) -> Result<Reply, Failure> {
    cx.host.reload_firewall(&cx.destination).await.or_fail(cx)?;
    Ok(Reply::empty())
}
