//! Storage: pools of volumes, and what becomes of them when VMs start and stop.
//!
//! The caller says which volume it means ([`VolumeId`]) and what it wants of it ([`VolumeSpec`]); drivers keep
//! nothing but what names on disk say. [`Storage`] is the way in: it runs the blocking drivers on threads with a
//! bound, and takes the locks of volumes. It knows no VM, no event and no database.

mod about;
mod backing;
mod callback;
mod command;
mod config;
mod driver;
mod ephemeral;
mod image;
mod import;
mod job;
mod kernel;
mod lanes;
mod locks;
pub mod lvm;
pub mod mapper;
mod mounts;
mod place;
mod pool;
mod sparse;
mod transfer;
mod uses;
mod volume;
mod watermark;
mod work;

pub use about::WrittenInPlace;
pub use callback::CallbackDriver;
pub use config::{DriverKind, DriverOption, Need};
pub use driver::{
    Contents, Driver, Ending, Kernel, Kernels, PoolUsage, Recovered, Resize, Revisions, Started, VolumeInfo,
};
pub use image::{CopyOnWrite, ImageDriver, SetupCheck, Step};
pub use import::Import;
pub use job::{CommitTurn, Job, Progress};
pub use kernel::KernelDriver;
pub use lanes::Limits;
pub use lvm::{LvmDriver, Tuning};
pub use place::{Meeting, PoolPlace};
pub use pool::{Storage, Volume};
pub use transfer::{Export, ImportSize, ImportWriter};
pub use volume::{
    Revision, RevisionId, RevisionsToKeep, Sharing, VolumeGroup, VolumeId, VolumeKind, VolumeSpec,
};
pub use watermark::is_near_full;
