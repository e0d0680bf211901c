//! Test support: the real daemon on the simulator, and a client that knows nothing but bytes.
//!
//! The binaries are built once for each test process, by Cargo, and found through Cargo's own messages;
//! `MGMT_BIN_DIR` names a folder that has them already.

mod binaries;
mod client;
mod daemon;
mod faults;
pub mod fuzz;
mod hooks;
mod mounted;
pub mod scene;
pub mod xen;

pub use binaries::binary;
pub use client::{Answer, Events, Socket};
pub use daemon::{Daemon, Start};
pub use faults::{Fate, Faults, On};
pub use hooks::Hooked;
pub use mounted::{Covered, Mounted};
