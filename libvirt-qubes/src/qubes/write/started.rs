//! Writes of what held for a VM's volumes when they were started.

use rusqlite::{Connection, params};
use uuid::Uuid;

use super::super::at_start::Started;
use super::super::model::{Inconsistent, Model};
use super::super::store::columns::{access_word, sharing_word};

pub(super) fn set(model: &mut Model, vm: Uuid, started: &Started) -> Result<(), Inconsistent> {
    model.change_vm(vm, |vm| {
        vm.started = started.clone();
        Ok(())
    })
}

pub(super) fn store(db: &Connection, vm: Uuid, started: &Started) -> rusqlite::Result<()> {
    let vm = vm.to_string();
    db.prepare_cached("DELETE FROM started_volume WHERE vm = ?1")?.execute([&vm])?;
    let sql = "INSERT INTO started_volume (vm, volume, pool, revisions_to_keep, access, sharing, ephemeral)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    for ((volume, pool), at_start) in started {
        db.prepare_cached(sql)?.execute(params![
            vm,
            volume.as_str(),
            pool.as_str(),
            i64::from(at_start.revisions_to_keep),
            access_word(at_start.access),
            sharing_word(at_start.sharing),
            at_start.ephemeral,
        ])?;
    }
    Ok(())
}
