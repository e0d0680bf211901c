//! Control of a hypervisor for Qubes-style systems: domains, devices and storage over libxl, and, with the
//! feature `qubes` (default), the Qubes model on top.
//!
//! The lower layer is usable alone, without daemon, database or RPC. Nothing here knows a byte of the
//! management API's wire format.
#![deny(unsafe_code)]

pub mod config;
pub mod contract;
pub mod device;
pub mod domain;
pub mod error;
pub mod event;
pub mod exec;
pub mod hypervisor;
pub mod ids;
pub mod qrexec;
#[cfg(feature = "qubes")]
pub mod qubes;
mod said;
pub mod sim;
pub mod storage;
mod sys;
pub mod toolstack;
#[cfg(feature = "xen")]
pub mod xen;

pub use error::{At, Error, Kind, Op, Result};
pub use toolstack::Toolstack;
