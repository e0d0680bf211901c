//! Writes of pools.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::super::model::{Inconsistent, Model};
use super::super::pool::Pool;
use super::{one, unless};
use crate::ids::PoolName;

pub(super) fn set(model: &mut Model, pool: &Arc<Pool>) -> Result<(), Inconsistent> {
    let moved = model.pool(pool.name.as_str()).is_some_and(|old| old.position != pool.position);
    let taken = model.pools().any(|other| other.position == pool.position && other.name != pool.name);
    unless(moved || taken, || format!("pool {} has no place {}", pool.name, pool.position))?;
    model.put_pool(pool.clone());
    Ok(())
}

pub(super) fn store(db: &Connection, pool: &Pool) -> rusqlite::Result<()> {
    let sql = "INSERT INTO pool (name, driver, position) VALUES (?1, ?2, ?3)
        ON CONFLICT (name) DO UPDATE SET driver = excluded.driver";
    one(db.prepare_cached(sql)?.execute(params![pool.name.as_str(), &*pool.driver, pool.position])?)?;
    db.prepare_cached("DELETE FROM pool_option WHERE pool = ?1")?.execute([pool.name.as_str()])?;
    for (key, value) in &pool.options {
        let sql = "INSERT INTO pool_option (pool, key, value) VALUES (?1, ?2, ?3)";
        db.prepare_cached(sql)?.execute(params![pool.name.as_str(), &**key, &**value])?;
    }
    Ok(())
}

pub(super) fn remove(model: &mut Model, name: &PoolName) -> Result<(), Inconsistent> {
    let used =
        model.vms_in_pool(name.as_str()).next().is_some() || model.volumes_in(name.as_str()).next().is_some();
    unless(used, || format!("pool {name} is used"))?;
    model.take_pool(name)
}

pub(super) fn delete(db: &Connection, name: &PoolName) -> rusqlite::Result<()> {
    one(db.prepare_cached("DELETE FROM pool WHERE name = ?1")?.execute([name.as_str()])?)
}

pub(super) fn begin_folder(model: &mut Model, path: &Arc<str>) -> Result<(), Inconsistent> {
    model.put_folder(path.clone());
    Ok(())
}

pub(super) fn insert_folder(db: &Connection, path: &str) -> rusqlite::Result<()> {
    let sql = "INSERT INTO pending_folder (path) VALUES (?1) ON CONFLICT (path) DO NOTHING";
    db.prepare_cached(sql)?.execute([path]).map(drop)
}

pub(super) fn delete_folder(db: &Connection, path: &str) -> rusqlite::Result<()> {
    one(db.prepare_cached("DELETE FROM pending_folder WHERE path = ?1")?.execute([path])?)
}
