//! Writes of notes. Empty ones have no row.

use rusqlite::{Connection, params};
use uuid::Uuid;

use super::super::model::{Inconsistent, Model};
use super::super::notes::{Notes, NotesText};
use super::super::vm::Vm;
use super::one;

/// The table by whose name damaged notes are set aside.
pub(in super::super) const TABLE: &str = "notes";

pub(super) fn set(model: &mut Model, vm: Uuid, text: &NotesText) -> Result<(), Inconsistent> {
    let mut old = None;
    model.change_vm(vm, |vm| {
        old = Some(vm.name.clone()).filter(|_| matches!(vm.notes, Notes::Damaged(_)));
        vm.notes = Notes::Text(text.clone());
        Ok(())
    })?;
    if let Some(name) = old {
        model.forget_set_aside(TABLE, name.as_str());
    }
    Ok(())
}

/// What was set aside of a VM goes with it.
pub(super) fn forget_damage(model: &mut Model, vm: &Vm) {
    if matches!(vm.notes, Notes::Damaged(_)) {
        model.forget_set_aside(TABLE, vm.name.as_str());
    }
}

pub(super) fn store(db: &Connection, vm: Uuid, text: &NotesText) -> rusqlite::Result<()> {
    let vm = vm.to_string();
    if text.as_str().is_empty() {
        db.prepare_cached("DELETE FROM notes WHERE vm = ?1")?.execute([vm])?;
        return Ok(());
    }
    let sql = "INSERT INTO notes (vm, text) VALUES (?1, ?2)
        ON CONFLICT (vm) DO UPDATE SET text = excluded.text";
    one(db.prepare_cached(sql)?.execute(params![vm, text.as_str()])?)
}

/// Those of a VM that is added.
pub(super) fn insert(db: &Connection, vm: Uuid, notes: &Notes) -> rusqlite::Result<()> {
    match notes {
        Notes::Text(text) => store(db, vm, text),
        Notes::Damaged(reason) => {
            let reason = format!("the notes of {vm} are damaged and cannot be written: {reason}");
            Err(rusqlite::Error::ToSqlConversionFailure(reason.into()))
        }
    }
}
