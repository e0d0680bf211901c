//! The tags that tell which VM shows a VM's windows and plays its sound, for VMs that come from where nobody kept them:
//! a store of an older release, another system's file.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use super::super::model::Model;
use super::super::property::desktop;
use super::super::write::Write;
use super::error::AtStore;
use crate::error::{Error, Kind, Op, Result};

/// The row of `meta` that says that the tags are there. From then on each change keeps them.
const KEPT: &str = "desktop_tags";

/// Adds them once to a store that was written before they were kept.
pub(super) fn add_once(db: &mut Connection, name: &str, model: &mut Model) -> Result<()> {
    let row = |row: &rusqlite::Row<'_>| row.get::<_, String>(0);
    let kept =
        db.query_row("SELECT value FROM meta WHERE key = ?1", [KEPT], row).optional().at_store(name)?;
    if kept.is_some() {
        return Ok(());
    }
    let transaction = db.transaction().at_store(name)?;
    let mut tagged = model.clone();
    add(&transaction, name, &mut tagged)?;
    transaction.commit().at_store(name)?;
    *model = tagged;
    Ok(())
}

/// Adds them, and takes away those that tell of nothing, inside the caller's transaction.
pub(super) fn add(db: &Connection, name: &str, model: &mut Model) -> Result<()> {
    let vms: Vec<_> = model.vms().map(Arc::clone).collect();
    for vm in vms {
        let tags = desktop::tagged(model, &vm).tags;
        let gone = vm.tags.difference(&tags).map(|tag| Write::RemoveTag(vm.uuid, tag.clone()));
        let new = tags.difference(&vm.tags).map(|tag| Write::AddTag(vm.uuid, tag.clone()));
        for write in gone.chain(new) {
            let contradiction = |error| Error::new(Kind::Corrupt, Op::Store, name).because(error);
            write.apply(model).map_err(contradiction)?;
            write.execute(db).at_store(name)?;
        }
    }
    let sql = "INSERT OR REPLACE INTO meta (key, value) VALUES (?1, 'kept')";
    db.execute(sql, [KEPT]).at_store(name).map(drop)
}
