//! Arguments and payloads of calls: the grammar of each, with the exact words for what breaks it.
//!
//! Nothing here looks at what exists; names of VMs, labels and pools stay texts until a handler looks them
//! up, so that "malformed" and "does not exist" can be one answer where they must be.

pub mod clone;
pub mod create;
pub mod device;
pub mod disposable;
pub mod feature;
pub mod firewall;
pub mod label;
mod notes;
mod pool;
pub mod property;
pub mod shutdown;
pub mod volume;

pub use clone::NewClone;
pub use create::{Create, CreateInPool, NewVm, Pools, VolumePool};
pub use device::{BadDevice, Device, Port};
pub use disposable::{DisposableAnswer, Preload};
pub use feature::FeatureText;
pub use firewall::{RuleLine, RuleLines};
pub use pool::{Flag, PoolOptions, PoolRevisions};
pub use property::PropertyText;
pub use shutdown::ShutdownOptions;
