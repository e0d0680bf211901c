//! The storage drivers on real file systems.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod callback;
mod contract;
mod crash;
mod deployed;
mod ephemeral;
#[cfg(feature = "qubes")]
mod ephemeral_host;
mod faults;
mod filesystem;
mod front;
mod images;
mod kernel;
#[path = "../kernel_model/mod.rs"]
mod kernel_model;
mod lvm;
mod mapped;
mod model;
mod odd;
mod room;
#[cfg(feature = "qubes")]
mod turns;
