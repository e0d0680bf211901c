//! `mgmt-block add|remove`: the hotplug program of Xen's virtual disks, named as a disk's `script`.
//!
//! libxl runs it once for each disk, without a shell, with `XENBUS_PATH` in the environment. It works without the
//! daemon, and keeps no state but xenstore's nodes and the loop device's own reference. Exit: 0 done, 1 failed
//! (the reason is in the node `hotplug-error` and on stderr), 2 called in a wrong way.

#![forbid(unsafe_code)]

mod hotplug;

use std::process::ExitCode;
use std::time::Duration;

use mgmt_block::xenstore::{self, Connection};

use crate::hotplug::{Backend, Failure};

const USAGE: &str = "usage: mgmt-block add|remove

The hotplug program of Xen's virtual disks. libxl runs it, with the disk's backend directory in XENBUS_PATH;
it is named as the disk's script, by its absolute path. It attaches the disk's file to a loop device (add) and
detaches it (remove); block devices are handed over as they are.

XENSTORED_PATH or XENSTORED_RUNDIR say where xenstored listens, if not at /run/xenstored/socket.";

/// libxl kills the program after 40 s; this lets it say first what it waits for.
const XENSTORE_LIMIT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy)]
enum Command {
    Add,
    Remove,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let command = match (arguments.next().as_ref().and_then(|a| a.to_str()), arguments.next()) {
        (Some("add"), None) => Command::Add,
        (Some("remove"), None) => Command::Remove,
        (Some("-h" | "--help"), None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        (Some("-V" | "--version"), None) => {
            println!("mgmt-block {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("mgmt-block: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    let path = std::env::var("XENBUS_PATH").ok().filter(|p| !p.is_empty()).ok_or_else(|| {
        Failure::new(
            "XENBUS_PATH is not set",
            "it names the disk's backend directory; libxl sets it for its scripts",
        )
    })?;
    let socket = xenstore::socket_path();
    let store = Connection::open(&socket, XENSTORE_LIMIT).map_err(|e| {
        Failure::caused(
            format!("cannot connect to xenstored at {}", socket.display()),
            &e,
            "is xenstored running?",
        )
    })?;
    let mut backend = Backend::new(store, path)?;
    let done = match command {
        Command::Add => hotplug::add(&mut backend),
        Command::Remove => hotplug::remove(&mut backend),
    };
    done.inspect_err(|failure| backend.report(failure))
}
