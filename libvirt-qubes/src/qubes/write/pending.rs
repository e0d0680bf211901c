//! Writes of `pending`.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::super::ids::{Dispid, PendingId};
use super::super::model::{Inconsistent, Model};
use super::super::pending::{Pending, PendingKind, VolumeProgress};
use super::super::store::columns::{integer, progress_word};
use super::{one, unless};
use crate::ids::VolumeName;

pub(super) fn begin(model: &mut Model, row: &Arc<Pending>) -> Result<(), Inconsistent> {
    unless(model.pending_row(row.id).is_some(), || format!("pending row {} exists", row.id))?;
    let second = row.kind.is_start() && model.start_pending(row.vm.uuid);
    unless(second, || format!("{} is being started", row.vm.name))?;
    let second = row.kind == PendingKind::Run && model.pending_run_of(row.vm.uuid).is_some();
    unless(second, || format!("{} is noted as running", row.vm.name))?;
    model.put_pending(row.clone());
    Ok(())
}

pub(super) fn insert(db: &Connection, row: &Pending) -> rusqlite::Result<()> {
    let sql =
        "INSERT INTO pending (id, kind, phase, uuid, qid, name, dispid) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let id = integer(row.id.get())?;
    let (kind, phase) = row.kind.words();
    let vm = &row.vm;
    one(db.prepare_cached(sql)?.execute(params![
        id,
        kind,
        phase,
        vm.uuid.to_string(),
        vm.qid.get(),
        vm.name.as_str(),
        vm.dispid.map(Dispid::get)
    ])?)?;
    for (position, volume) in (0i64..).zip(&row.volumes) {
        let sql = "INSERT INTO pending_volume (pending, position, volume, pool, vid, progress)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        db.prepare_cached(sql)?.execute(params![
            id,
            position,
            volume.volume.as_str(),
            volume.pool.as_str(),
            &*volume.vid,
            progress_word(volume.progress)
        ])?;
    }
    Ok(())
}

pub(super) fn advance(model: &mut Model, id: PendingId, kind: PendingKind) -> Result<(), Inconsistent> {
    model.change_pending(id, |row| {
        let other = std::mem::discriminant(&row.kind) != std::mem::discriminant(&kind);
        unless(other, || format!("pending row {id} is another operation's"))?;
        row.kind = kind;
        Ok(())
    })
}

pub(super) fn store_kind(db: &Connection, id: PendingId, kind: PendingKind) -> rusqlite::Result<()> {
    let (_, phase) = kind.words();
    let sql = "UPDATE pending SET phase = ?2 WHERE id = ?1";
    one(db.prepare_cached(sql)?.execute(params![integer(id.get())?, phase])?)
}

pub(super) fn record(
    model: &mut Model,
    id: PendingId,
    volume: &VolumeName,
    progress: VolumeProgress,
) -> Result<(), Inconsistent> {
    model.change_pending(id, |row| {
        let known = row.volumes.iter_mut().find(|known| known.volume == *volume);
        let known = known.ok_or_else(|| Inconsistent(format!("pending row {id} has no volume {volume}")))?;
        known.progress = progress;
        Ok(())
    })
}

pub(super) fn store_volume(
    db: &Connection,
    id: PendingId,
    volume: &VolumeName,
    progress: VolumeProgress,
) -> rusqlite::Result<()> {
    let sql = "UPDATE pending_volume SET progress = ?3 WHERE pending = ?1 AND volume = ?2";
    let row = params![integer(id.get())?, volume.as_str(), progress_word(progress)];
    one(db.prepare_cached(sql)?.execute(row)?)
}

pub(super) fn forget(model: &mut Model, id: PendingId, volume: &VolumeName) -> Result<(), Inconsistent> {
    model.change_pending(id, |row| {
        let before = row.volumes.len();
        row.volumes.retain(|known| known.volume != *volume);
        unless(row.volumes.len() == before, || format!("pending row {id} has no volume {volume}"))
    })
}

pub(super) fn delete_volume(db: &Connection, id: PendingId, volume: &VolumeName) -> rusqlite::Result<()> {
    let sql = "DELETE FROM pending_volume WHERE pending = ?1 AND volume = ?2";
    one(db.prepare_cached(sql)?.execute(params![integer(id.get())?, volume.as_str()])?)
}

pub(super) fn finish(model: &mut Model, id: PendingId) -> Result<(), Inconsistent> {
    model.take_pending(id)
}

pub(super) fn delete(db: &Connection, id: PendingId) -> rusqlite::Result<()> {
    one(db.prepare_cached("DELETE FROM pending WHERE id = ?1")?.execute([integer(id.get())?])?)
}
