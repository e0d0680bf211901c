//! From rows to a model.
use rusqlite::Connection;

use super::super::model::Model;
use crate::error::Result;

pub(super) fn model(_db: &Connection, _name: &str) -> Result<Model> {
    Ok(Model::default())
}
