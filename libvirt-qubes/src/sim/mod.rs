//! An honest model of Xen for machines without one: domains, memory, disks, events, faults and delays.
//!
//! [`World`] is the simulated host, with what runs on it and what a test or an outside hand does to it;
//! [`SimHypervisor`] is one toolstack's connection to it. Several connections may share a world, as several
//! processes share a Xen. Disks are real: every disk of a domain is an open file or block device of this
//! machine, so that errors of storage show. What is simulated is everything that a processor would do: the
//! guests run nothing, and behave as [`SimConfig`], its script and the world's methods say.
//!
//! Like Xen, a world counts pauses (the API is idempotent all the same), never uses a domain's number twice,
//! keeps a domain that has shut down until somebody destroys it, and stops a guest's own time while the
//! guest is paused. Simpler than Xen: a domain takes exactly its memory; a guest uses one percent of its
//! virtual CPUs; `dom0` takes nothing.
//!
//! # The script
//!
//! [`SimConfig::script`] names a file of rules, for tests and for trying out what a failure does:
//!
//! ```toml
//! [[rule]]
//! vm = "work"                 # a name, or "*" (the default)
//! step = "create"             # create pause unpause shutdown destroy attach-disk detach-disk service
//! times = 1                   # how often; always when left out; counted anew when the script is read
//! percent = 100               # how likely
//! # what happens, one or more of:
//! delay_ms = 500
//! hang = true                 # until cancelled or destroyed
//! fail = { kind = "no-memory", text = "the words of the error" }
//! deaf = true                 # the guest ignores the request; step shutdown
//! poweroff_after_ms = 100     # all that follows: in the guest's own time after the step, which stands
//! reboot_after_ms = 100       # still while it is paused, so that from "create" on it counts from its
//! crash_after_ms = 100        # first instruction
//! write = { vdev = "xvdb", offset = 0, text = "hello", after_ms = 0 }
//! ```

mod config;
mod connection;
mod devices;
mod disk;
mod domains;
mod event_source;
mod host_info;
mod qrexec;
mod record;
mod rules;
mod script;
mod state;
mod store;
mod world;

pub use config::{Buses, SimConfig};
pub use connection::SimHypervisor;
pub use record::GuestAct;
pub use rules::Rule;
pub use world::World;
