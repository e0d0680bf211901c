//! Features of VMs.

use libvirt_qubes::qubes::Host;
use libvirt_qubes::qubes::feature::{self, Fallback};
use libvirt_qubes::qubes::ids::FeatureName;

use super::OrFail;
use crate::args::FeatureText;
use crate::cx::Cx;
use crate::failure::Failure;
use crate::reply::Reply;
use crate::row;
use crate::table::Row;
use crate::untrusted::Text;

pub(super) const ROWS: &[Row<Host>] = &[
    row!(Both("vm.feature.List"), Any, Local Read, (Empty, Empty) => list),
    row!(Both("vm.feature.Get"), Any, Local Read, (Required<Text>, Empty) => get),
    row!(Both("vm.feature.CheckWithTemplate"), Any, Local Read, (Required<Text>, Empty) => with_template),
    row!(Both("vm.feature.CheckWithNetvm"), Any, Local Read, (Required<Text>, Empty) => with_netvm),
    row!(Both("vm.feature.CheckWithAdminVM"), Any, Local Read, (Required<Text>, Empty) => with_admin_vm),
    row!(
        Both("vm.feature.CheckWithTemplateAndAdminVM"), Any, Local Read,
        (Required<Text>, Empty) => with_template_and_admin_vm
    ),
    row!(Both("vm.feature.Set"), Any, Local Write, (Required<FeatureName>, Optional<FeatureText>) => set),
    row!(Both("vm.feature.Remove"), Any, Local Write, (Required<Text>, Empty) => remove),
];

/// In the order in which they came.
async fn list(cx: &Cx<Host>) -> Result<Reply, Failure> {
    let seen = cx.host.snapshot();
    let vm = seen.model.find_vm(&cx.destination).or_fail(cx)?;
    Ok(Reply::lines(vm.features_in_order()))
}

async fn get(cx: &Cx<Host>, name: Text) -> Result<Reply, Failure> {
    find(cx, &name, Fallback::Nobody)
}

async fn with_template(cx: &Cx<Host>, name: Text) -> Result<Reply, Failure> {
    find(cx, &name, Fallback::Templates)
}

async fn with_netvm(cx: &Cx<Host>, name: Text) -> Result<Reply, Failure> {
    find(cx, &name, Fallback::Netvms)
}

async fn with_admin_vm(cx: &Cx<Host>, name: Text) -> Result<Reply, Failure> {
    find(cx, &name, Fallback::AdminVm)
}

async fn with_template_and_admin_vm(cx: &Cx<Host>, name: Text) -> Result<Reply, Failure> {
    find(cx, &name, Fallback::TemplatesAndAdminVm)
}

/// The value as it is.
fn find(cx: &Cx<Host>, Text(name): &Text, fallback: Fallback) -> Result<Reply, Failure> {
    let seen = cx.host.snapshot();
    let vm = seen.model.find_vm(&cx.destination).or_fail(cx)?;
    Ok(Reply::value(feature::find(&seen.model, vm, name, fallback).or_fail(cx)?))
}

async fn set(cx: &Cx<Host>, name: FeatureName, text: FeatureText) -> Result<Reply, Failure> {
    let value = text.of(&name)?;
    cx.host.set_feature(&cx.destination, name, value).await.or_fail(cx)?;
    Ok(Reply::empty())
}

async fn remove(cx: &Cx<Host>, Text(name): Text) -> Result<Reply, Failure> {
    cx.host.remove_feature(&cx.destination, &name).await.or_fail(cx)?;
    Ok(Reply::empty())
}
