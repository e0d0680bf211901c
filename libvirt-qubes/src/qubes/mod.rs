//! The Qubes model on top of the toolstack: VM classes, properties, labels, pools, and the store that keeps
//! them.
//!
//! - [`model`]: everything that is stored, as an immutable [`Model`](model::Model);
//! - [`snapshot`]: the model together with what runs and what is known of the host;
//! - [`commit`]: the one thread that changes it; a change is a pure function that gives a
//!   [`Diff`](diff::Diff) or a [`Refusal`](refusal::Refusal);
//! - [`sequencer`]: where state and [events](event) become visible, in one order;
//! - [`store`]: the database beneath;
//! - [`property`], [`label`], [`create`], [`remove`]: rules, as pure functions of a snapshot.

mod chain;
pub mod class;
pub mod commit;
pub mod create;
pub mod diff;
pub mod event;
pub mod global;
pub mod ids;
pub mod index;
pub mod label;
pub mod model;
pub mod pending;
pub mod pool;
pub mod property;
pub mod refusal;
pub mod remove;
pub mod sequencer;
pub mod snapshot;
#[cfg(test)]
mod state_test;
pub mod store;
pub mod subscription;
#[cfg(test)]
mod testing;
pub mod value;
pub mod vm;
pub mod volume;
pub mod write;
