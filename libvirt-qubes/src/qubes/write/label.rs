//! Writes of labels.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::super::ids::LabelIndex;
use super::super::label::Label;
use super::super::model::{Inconsistent, Model};
use super::{one, unless};

pub(super) fn add(model: &mut Model, label: &Arc<Label>) -> Result<(), Inconsistent> {
    unless(model.label(label.index).is_some(), || format!("label {} exists", label.index))?;
    unless(model.label_named(label.name.as_str()).is_some(), || format!("label {} exists", label.name))?;
    model.put_label(label.clone());
    Ok(())
}

pub(super) fn insert(db: &Connection, label: &Label) -> rusqlite::Result<()> {
    let sql = "INSERT INTO label (idx, name, colour) VALUES (?1, ?2, ?3)";
    let row = params![label.index.get(), label.name.as_str(), label.colour.as_str()];
    one(db.prepare_cached(sql)?.execute(row)?)
}

pub(super) fn remove(model: &mut Model, index: LabelIndex) -> Result<(), Inconsistent> {
    unless(model.vms_labelled(index).next().is_some(), || format!("label {index} is used"))?;
    model.take_label(index)
}

pub(super) fn delete(db: &Connection, index: LabelIndex) -> rusqlite::Result<()> {
    one(db.prepare_cached("DELETE FROM label WHERE idx = ?1")?.execute([index.get()])?)
}
