//! Writes of firewall rules. The default list has no row.

use rusqlite::{Connection, params};
use uuid::Uuid;

use super::super::firewall::{Entry, Firewall, RuleId};
use super::super::model::{Inconsistent, Model};
use super::super::store::columns::integer;
use super::super::vm::Vm;
use super::one;

/// The table by whose name a damaged list is set aside.
pub(in super::super) const TABLE: &str = "firewall";

pub(super) fn set(model: &mut Model, vm: Uuid, list: &Firewall) -> Result<(), Inconsistent> {
    let list = if list.is_default() { Firewall::default() } else { list.clone() };
    let mut name = None;
    model.change_vm(vm, |vm| {
        if list.last_id() < vm.firewall.last_id() {
            return Err(Inconsistent(format!("ids of {}'s firewall rules would go back", vm.name)));
        }
        name = vm.firewall.damage().map(|_| vm.name.clone());
        vm.firewall = list;
        Ok(())
    })?;
    if let Some(name) = name {
        model.forget_set_aside(TABLE, name.as_str());
    }
    Ok(())
}

/// What was set aside of a VM goes with it.
pub(super) fn forget_damage(model: &mut Model, vm: &Vm) {
    if vm.firewall.damage().is_some() {
        model.forget_set_aside(TABLE, vm.name.as_str());
    }
}

pub(super) fn store(db: &Connection, vm: Uuid, list: &Firewall) -> rusqlite::Result<()> {
    let key = vm.to_string();
    // Rules go with their list; those of a damaged one may have none.
    db.prepare_cached("DELETE FROM firewall_rule WHERE vm = ?1")?.execute([&key])?;
    db.prepare_cached("DELETE FROM firewall WHERE vm = ?1")?.execute([&key])?;
    if list.is_default() {
        return Ok(());
    }
    if let Some(reason) = list.damage() {
        let reason = format!("the firewall rules of {vm} are damaged and cannot be written: {reason}");
        return Err(rusqlite::Error::ToSqlConversionFailure(reason.into()));
    }
    let last_id = integer(list.last_id().get())?;
    one(db
        .prepare_cached("INSERT INTO firewall (vm, last_id) VALUES (?1, ?2)")?
        .execute(params![key, last_id])?)?;
    list.rules().iter().try_for_each(|entry| insert_row(db, &key, entry))
}

fn insert_row(db: &Connection, vm: &str, entry: &Entry) -> rusqlite::Result<()> {
    let sql = "INSERT INTO firewall_rule (vm, id, position, rule) VALUES (?1, ?2, ?3, ?4)";
    let row = params![vm, integer(entry.id.get())?, entry.position, entry.rule.to_string()];
    one(db.prepare_cached(sql)?.execute(row)?)
}

pub(super) fn insert(model: &mut Model, vm: Uuid, entry: &Entry) -> Result<(), Inconsistent> {
    model.change_vm(vm, |vm| {
        let list = vm.firewall.with(entry.clone()).filter(|_| !vm.firewall.is_default());
        vm.firewall = list.ok_or_else(|| Inconsistent(format!("{} has no place for {entry:?}", vm.name)))?;
        Ok(())
    })
}

pub(super) fn store_rule(db: &Connection, vm: Uuid, entry: &Entry) -> rusqlite::Result<()> {
    let key = vm.to_string();
    one(db
        .prepare_cached("UPDATE firewall SET last_id = ?2 WHERE vm = ?1 AND last_id < ?2")?
        .execute(params![key, integer(entry.id.get())?])?)?;
    insert_row(db, &key, entry)
}

pub(super) fn remove(model: &mut Model, vm: Uuid, ids: &[RuleId]) -> Result<(), Inconsistent> {
    model.change_vm(vm, |vm| {
        let list = vm.firewall.without(ids).filter(|_| !vm.firewall.is_default());
        vm.firewall = list.ok_or_else(|| Inconsistent(format!("{} has no rules {ids:?}", vm.name)))?;
        Ok(())
    })
}

pub(super) fn delete(db: &Connection, vm: Uuid, ids: &[RuleId]) -> rusqlite::Result<()> {
    let key = vm.to_string();
    let mut delete = db.prepare_cached("DELETE FROM firewall_rule WHERE vm = ?1 AND id = ?2")?;
    ids.iter().try_for_each(|id| one(delete.execute(params![key, integer(id.get())?])?))
}
