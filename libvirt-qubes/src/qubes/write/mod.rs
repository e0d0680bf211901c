//! The kinds of change of a row: what each does to the model, and, next to it, what it does to the store.
//!
//! A write checks nothing that a rule should have refused; what contradicts the model or a foreign key
//! fails the change that it belongs to, as the bug that it is.

mod label;
mod pending;
mod pool;
mod property;
mod vm;

use std::sync::Arc;

use rusqlite::Connection;
use uuid::Uuid;

use super::global::Global;
use super::ids::{FeatureName, FeatureValue, LabelIndex, PendingId, Tag};
use super::label::Label;
use super::model::{Inconsistent, Model};
use super::pending::{Pending, PendingKind, VolumeProgress};
use super::pool::Pool;
use super::property::Property;
use super::value::Value;
use super::vm::Vm;
use super::volume::VolumeConfig;
use crate::ids::{PoolName, VolumeName};

/// A change of one row, or of the rows of one object.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Adds a VM with all that belongs to it.
    AddVm(Arc<Vm>),
    /// Removes a VM with all that belongs to it. Nobody may refer to it any more.
    RemoveVm(Uuid),
    /// Sets a property of a VM (`None`: back to the default), the label included.
    SetProperty(Uuid, Property, Option<Value>),
    /// Adds a volume to a VM, as its last, or replaces its configuration.
    SetVolume(Uuid, Arc<VolumeConfig>),
    /// Takes a volume out of a VM.
    RemoveVolume(Uuid, VolumeName),
    /// Adds a tag.
    AddTag(Uuid, Tag),
    /// Removes a tag.
    RemoveTag(Uuid, Tag),
    /// Sets a feature; a new one comes last (`None`: removes it).
    SetFeature(Uuid, FeatureName, Option<FeatureValue>),
    /// Sets a global property (`None`: back to the default).
    SetGlobal(Global, Option<Value>),
    /// Adds a label.
    AddLabel(Arc<Label>),
    /// Removes a label.
    RemoveLabel(LabelIndex),
    /// Adds a pool, or replaces the options of one in its place.
    SetPool(Arc<Pool>),
    /// Removes a pool.
    RemovePool(PoolName),
    /// Begins an operation.
    BeginPending(Arc<Pending>),
    /// Says how far an operation has come.
    AdvancePending(PendingId, PendingKind),
    /// Records what became of a volume of an operation.
    RecordVolume(PendingId, VolumeName, VolumeProgress),
    /// Forgets a volume of an operation: it is gone from disk, or not this operation's any more.
    ForgetVolume(PendingId, VolumeName),
    /// Ends an operation.
    FinishPending(PendingId),
}

impl Write {
    /// Does the change to the model.
    pub(super) fn apply(&self, model: &mut Model) -> Result<(), Inconsistent> {
        match self {
            Self::AddVm(vm) => vm::add(model, vm),
            Self::RemoveVm(uuid) => vm::remove(model, *uuid),
            Self::SetProperty(vm, property, value) => property::set(model, *vm, *property, value.as_ref()),
            Self::SetVolume(vm, volume) => vm::set_volume(model, *vm, volume),
            Self::RemoveVolume(vm, name) => vm::remove_volume(model, *vm, name),
            Self::AddTag(vm, tag) => vm::add_tag(model, *vm, tag),
            Self::RemoveTag(vm, tag) => vm::remove_tag(model, *vm, tag),
            Self::SetFeature(vm, name, value) => vm::set_feature(model, *vm, name, value.as_ref()),
            Self::SetGlobal(global, value) => property::set_global(model, *global, value.as_ref()),
            Self::AddLabel(label) => label::add(model, label),
            Self::RemoveLabel(index) => label::remove(model, *index),
            Self::SetPool(pool) => pool::set(model, pool),
            Self::RemovePool(name) => pool::remove(model, name),
            Self::BeginPending(row) => pending::begin(model, row),
            Self::AdvancePending(id, kind) => pending::advance(model, *id, *kind),
            Self::RecordVolume(id, volume, progress) => pending::record(model, *id, volume, *progress),
            Self::ForgetVolume(id, volume) => pending::forget(model, *id, volume),
            Self::FinishPending(id) => pending::finish(model, *id),
        }
    }

    /// Does the change to the store, inside the caller's transaction.
    pub(super) fn execute(&self, db: &Connection) -> rusqlite::Result<()> {
        match self {
            Self::AddVm(vm) => vm::insert(db, vm),
            Self::RemoveVm(uuid) => vm::delete(db, *uuid),
            Self::SetProperty(vm, property, value) => property::store(db, *vm, *property, value.as_ref()),
            Self::SetVolume(vm, volume) => vm::store_volume(db, *vm, volume),
            Self::RemoveVolume(vm, name) => vm::delete_volume(db, *vm, name),
            Self::AddTag(vm, tag) => vm::insert_tag(db, *vm, tag),
            Self::RemoveTag(vm, tag) => vm::delete_tag(db, *vm, tag),
            Self::SetFeature(vm, name, value) => vm::store_feature(db, *vm, name, value.as_ref()),
            Self::SetGlobal(global, value) => property::store_global(db, *global, value.as_ref()),
            Self::AddLabel(label) => label::insert(db, label),
            Self::RemoveLabel(index) => label::delete(db, *index),
            Self::SetPool(pool) => pool::store(db, pool),
            Self::RemovePool(name) => pool::delete(db, name),
            Self::BeginPending(row) => pending::insert(db, row),
            Self::AdvancePending(id, kind) => pending::store_kind(db, *id, *kind),
            Self::RecordVolume(id, volume, progress) => pending::store_volume(db, *id, volume, *progress),
            Self::ForgetVolume(id, volume) => pending::delete_volume(db, *id, volume),
            Self::FinishPending(id) => pending::delete(db, *id),
        }
    }
}

/// Fails unless a statement changed exactly one row: the row that the model says is there.
fn one(changed: usize) -> rusqlite::Result<()> {
    if changed == 1 { Ok(()) } else { Err(rusqlite::Error::StatementChangedRows(changed)) }
}

fn unless(wrong: bool, what: impl FnOnce() -> String) -> Result<(), Inconsistent> {
    if wrong { Err(Inconsistent(what())) } else { Ok(()) }
}
