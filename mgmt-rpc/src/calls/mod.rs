//! The calls, by family: each a row that says what is the same for all who make it, and a function of a few
//! lines that calls the library.

mod app;
mod block;
mod create;
mod device;
mod event;
mod feature;
mod firewall;
mod import;
mod internal;
mod label;
mod notes;
mod pool;
mod power;
mod property;
mod stats;
mod tag;
mod vm;
mod volume;

use std::sync::Arc;

use libvirt_qubes::ids::VmName;
use libvirt_qubes::qubes::{Host, HostError};

use crate::cx::{Cx, Directory};
use crate::failure::Failure;
use crate::refused::{self, Causes, Reader};
use crate::table::{Row, Table, distinct};
use crate::wire::VmRef;

/// All rows.
const FAMILIES: &[&[Row<Host>]] = &[
    vm::ROWS,
    create::ROWS,
    power::ROWS,
    label::ROWS,
    property::ROWS,
    feature::ROWS,
    tag::ROWS,
    firewall::ROWS,
    notes::ROWS,
    pool::ROWS,
    volume::ROWS,
    import::ROWS,
    device::ROWS,
    block::ROWS,
    event::ROWS,
    stats::ROWS,
    app::ROWS,
    internal::ROWS,
];

const _: () = assert!(distinct(FAMILIES), "a call is in the table twice");

/// The table of all calls.
pub fn table() -> Table<Host> {
    Table::new(FAMILIES)
}

impl Directory for Host {
    fn find(&self, vm: &VmRef) -> Option<VmName> {
        let seen = self.snapshot();
        match vm {
            VmRef::Name(name) => seen.model.vm_named(name.as_str()).map(|vm| vm.name.clone()),
            VmRef::Uuid(uuid) => seen.model.vm(*uuid).map(|vm| vm.name.clone()),
        }
    }

    /// Of a VM whose stored settings are damaged dom0 is told so, and how; to everybody else it is absent.
    fn missing(&self, vm: &VmRef) -> Failure {
        let seen = self.snapshot();
        let refusal = match vm {
            VmRef::Name(name) => seen.model.find_vm(name).err(),
            VmRef::Uuid(uuid) => seen.model.find_uuid(*uuid).err(),
        };
        let reader = Reader { causes: Causes::Told, sees: &|_| true };
        match refusal.map(|refusal| refused::failure(refusal.into(), reader)) {
            Some(Failure::Exception(exception)) => Failure::Absent(exception),
            Some(failure) => failure,
            None => Failure::no_such_domain(&vm.to_string()),
        }
    }
}

/// What a handler does with the library's failure.
trait OrFail<T> {
    /// The exception for it, without names that the caller may not see.
    fn or_fail(self, cx: &Cx<Host>) -> Result<T, Failure>;
    /// The same, where a client knows words of its own, with one `%s`, for what the store could not take.
    fn or_unsaved(self, cx: &Cx<Host>, format: &'static str) -> Result<T, Failure>;
}

impl<T, E: Into<HostError>> OrFail<T> for Result<T, E> {
    fn or_fail(self, cx: &Cx<Host>) -> Result<T, Failure> {
        self.map_err(|error| refused::failure(error.into(), reader(cx, &|vm| cx.sees(vm))))
    }

    fn or_unsaved(self, cx: &Cx<Host>, format: &'static str) -> Result<T, Failure> {
        self.map_err(|error| refused::unsaved(error.into(), format, reader(cx, &|vm| cx.sees(vm))))
    }
}

fn reader<'a>(cx: &Cx<Host>, sees: &'a dyn Fn(&VmName) -> bool) -> Reader<'a> {
    let causes = if cx.source.is_dom0() { Causes::Told } else { Causes::Hidden };
    Reader { causes, sees }
}

/// The host of a call, to call what runs on as a task of its own.
fn host(cx: &Cx<Host>) -> &Arc<Host> {
    &cx.host
}
