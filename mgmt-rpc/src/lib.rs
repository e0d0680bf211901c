//! The Qubes management API: wire format, call table, dispatch, server and client.
//!
//! What a call does is the library's (`libvirt_qubes`); here is what its bytes mean, who may make it, and
//! how its answer looks.
#![forbid(unsafe_code)]

pub mod config;
pub mod wire;
