//! Loop devices by ioctl, and a client of xenstore's wire protocol: what the disks' hotplug program is made of.
//!
//! The program itself, `mgmt-block`, is the binary of this crate. Storage uses the loop devices too (it tells
//! them when a file has grown). Nothing here needs Xen's headers or libraries, and nothing knows of the daemon.

#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "the loop driver is reached by ioctl alone, and rustix has no binding for it")]
mod ioctl;
mod loop_device;
pub mod xenstore;

pub use loop_device::{Access, Attach, BufferedIo, FileId, Lifetime, LoopDevice, Reference, Status, find};
