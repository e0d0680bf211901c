//! VMs: classes, lists and removal.

use libvirt_qubes::qubes::{self, Host, VmClass};

use super::{OrFail, host};
use crate::cx::Cx;
use crate::failure::Failure;
use crate::reply::{Content, Reply, VmLine};
use crate::row;
use crate::table::Row;

pub(super) const ROWS: &[Row<Host>] = &[
    row!(Both("vmclass.List"), Dom0, Global Read, (Empty, Empty) => classes),
    row!(Both("vm.List"), Any, Global Read, (Empty, Empty) => list),
    row!(Both("vm.Remove"), Any, Global Write, (Empty, Empty) => remove),
];

async fn classes(_cx: &Cx<Host>) -> Result<Reply, Failure> {
    Ok(Reply::lines(VmClass::ALL))
}

/// All VMs that the source may see, or, for another destination than dom0, that one.
async fn list(cx: &Cx<Host>) -> Result<Reply, Failure> {
    let seen = cx.host.snapshot();
    let line = |vm: &qubes::vm::Vm| VmLine {
        name: vm.name.clone(),
        class: vm.class.as_str(),
        state: seen.power_state(vm).as_str(),
        uuid: vm.uuid,
    };
    let lines = if cx.destination.is_dom0() {
        seen.model.vms().filter(|vm| cx.sees(&vm.name)).map(|vm| line(vm)).collect()
    } else {
        let vm = seen.model.find_vm(&cx.destination).or_fail(cx)?;
        if cx.sees(&vm.name) { vec![line(vm)] } else { Vec::new() }
    };
    Ok(Content::Vms(lines).into())
}

async fn remove(cx: &Cx<Host>) -> Result<Reply, Failure> {
    host(cx).remove(&cx.destination).await.or_fail(cx)?;
    Ok(Reply::empty())
}
