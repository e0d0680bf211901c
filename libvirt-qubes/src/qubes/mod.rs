//! The Qubes model on top of the toolstack: VM classes, properties, labels, pools, and the store that keeps
//! them.
//!
//! - [`model`]: everything that is stored, as an immutable [`Model`](model::Model);
//! - [`snapshot`]: the model together with what runs and what is known of the host;
//! - [`commit`]: the one thread that changes it; a change is a pure function that gives a
//!   [`Diff`](diff::Diff) or a [`Refusal`];
//! - [`sequencer`]: where state and [events](event) become visible, in one order;
//! - [`store`]: the database beneath;
//! - [`property`], [`feature`], [`tag`], [`label`], [`create`], [`remove`], [`firewall`], [`notes`]: rules, as pure
//!   functions of a snapshot.

pub mod assignment;
pub mod at_start;
mod block;
mod chain;
pub mod class;
mod cloning;
pub mod commit;
pub mod create;
mod creation;
pub mod device_class;
pub mod diff;
pub mod display;
pub mod event;
pub mod feature;
pub mod firewall;
pub mod global;
mod host;
pub mod ids;
pub mod index;
pub mod label;
mod lifecycle;
mod look;
mod meter;
pub mod model;
pub mod notes;
mod numbers;
pub mod offline;
pub mod operation;
mod pause;
pub mod pending;
pub mod pool;
mod pools;
pub mod property;
pub mod qubes_xml;
mod recovery;
pub mod refusal;
mod refusal_words;
mod removal;
pub mod remove;
mod rested;
pub mod sequencer;
mod settings;
mod settling;
pub mod snapshot;
mod start;
#[cfg(test)]
mod state_test;
mod stats;
mod stop;
pub mod store;
pub mod subscription;
pub mod system_info;
pub mod tag;
#[cfg(test)]
mod testing;
mod upload;
pub mod value;
pub mod vm;
pub mod volume;
mod volume_ops;
mod volumes;
mod waiting;
pub mod write;

pub use block::AttachedDisk;
pub use class::VmClass;
pub use create::Pools;
pub use creation::CreateRequest;
pub use device_class::DeviceClass;
pub use event::{Device, DevicePort, EventKind, Force, ModelEvent, PropertyChange, Reason, Subject};
pub use host::{Backend, Host, HostConfig};
pub use look::{PowerState, VmFigures};
pub use pools::{DriverInfo, NewPool, PoolView, UsageKind, drivers as pool_drivers};
pub use refusal::{HostError, Owner, Refusal, User, ValueRule, Verb};
pub use sequencer::EventLimits;
pub use snapshot::{RunState, Snapshot};
pub use stats::{DeviceModelStats, Stats, VmStats};
pub use stop::{ShutdownRequest, Wait};
pub use subscription::{Delivery, Subscription};
pub use upload::TemplateUpload;
pub use value::Shown;
pub use volume_ops::{PoolVolume, VolumeFacts, VolumeImport, VolumeRefusal};
