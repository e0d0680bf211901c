//! The Qubes management API: wire format, call table, dispatch, server and client.
//!
//! What a call does is the library's (`libvirt_qubes`); here is what its bytes mean, who may make it, and
//! how its answer looks.
#![forbid(unsafe_code)]

use std::pin::Pin;

pub mod announce;
pub mod args;
pub mod calls;
pub mod client;
pub mod config;
pub mod cx;
pub mod dispatch;
pub mod failure;
mod json;
pub mod permission;
pub mod refused;
pub mod reply;
pub mod request;
pub mod server;
pub mod table;
pub mod untrusted;
pub mod wire;

/// A future in a box, as handlers return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
