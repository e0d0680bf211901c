//! Writes of properties: a VM's, the label included, and the system's.

use rusqlite::{Connection, params};
use uuid::Uuid;

use super::super::global::Global;
use super::super::model::{Inconsistent, Model};
use super::super::property::Property;
use super::super::store::columns::{mismatch, value_text};
use super::super::value::Value;
use super::one;

pub(super) fn set(
    model: &mut Model,
    vm: Uuid,
    property: Property,
    value: Option<&Value>,
) -> Result<(), Inconsistent> {
    model.change_vm(vm, |vm| {
        match (property, value) {
            (Property::Label, Some(Value::Label(index))) => vm.label = *index,
            (Property::Label, _) => return Err(Inconsistent(format!("{value:?} is no label"))),
            (_, Some(value)) => {
                vm.properties.insert(property, value.clone());
            }
            (_, None) => {
                vm.properties.remove(&property);
            }
        }
        Ok(())
    })
}

/// Values that refer to a VM have a table of their own, with a foreign key.
pub(super) fn store(
    db: &Connection,
    vm: Uuid,
    property: Property,
    value: Option<&Value>,
) -> rusqlite::Result<()> {
    let (vm, name) = (vm.to_string(), property.name());
    match value {
        Some(Value::Label(index)) if property == Property::Label => one(db
            .prepare_cached("UPDATE vm SET label = ?2 WHERE uuid = ?1")?
            .execute(params![vm, index.get()])?),
        Some(Value::Vm(target)) => {
            let sql = "INSERT INTO vm_reference (vm, name, target) VALUES (?1, ?2, ?3)
                ON CONFLICT (vm, name) DO UPDATE SET target = excluded.target";
            let target = target.map(|target| target.to_string());
            one(db.prepare_cached(sql)?.execute(params![vm, name, target])?)
        }
        Some(value @ (Value::Str(_) | Value::Int(_) | Value::Bool(_))) => {
            let sql = "INSERT INTO vm_property (vm, name, value) VALUES (?1, ?2, ?3)
                ON CONFLICT (vm, name) DO UPDATE SET value = excluded.value";
            one(db.prepare_cached(sql)?.execute(params![vm, name, value_text(value)])?)
        }
        Some(value @ (Value::Label(_) | Value::Pool(_))) => Err(mismatch(name, value)),
        None => {
            db.prepare_cached("DELETE FROM vm_property WHERE vm = ?1 AND name = ?2")?
                .execute(params![vm, name])?;
            db.prepare_cached("DELETE FROM vm_reference WHERE vm = ?1 AND name = ?2")?
                .execute(params![vm, name])?;
            Ok(())
        }
    }
}

pub(super) fn set_global(
    model: &mut Model,
    global: Global,
    value: Option<&Value>,
) -> Result<(), Inconsistent> {
    if let Some(value) = value.filter(|value| !global.kind().takes(value)) {
        return Err(Inconsistent(format!("{value:?} is no value of {global}")));
    }
    model.put_global(global, value.cloned());
    // A good value heals a bad row.
    model.forget_set_aside("global", global.name());
    Ok(())
}

/// One row a property, with a column, and a foreign key, for each kind of reference.
pub(super) fn store_global(db: &Connection, global: Global, value: Option<&Value>) -> rusqlite::Result<()> {
    let name = global.name();
    let (text, vm, pool) = match value {
        None => {
            db.prepare_cached("DELETE FROM global WHERE name = ?1")?.execute([name])?;
            return Ok(());
        }
        Some(value @ (Value::Str(_) | Value::Int(_) | Value::Bool(_))) => {
            (Some(value_text(value)), None, None)
        }
        Some(Value::Vm(target)) => (None, target.map(|target| target.to_string()), None),
        Some(Value::Pool(pool)) => (None, None, Some(pool.as_str())),
        Some(value @ Value::Label(_)) => return Err(mismatch(name, value)),
    };
    let sql = "INSERT INTO global (name, value, vm, pool) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT (name) DO UPDATE SET value = excluded.value, vm = excluded.vm, pool = excluded.pool";
    one(db.prepare_cached(sql)?.execute(params![name, text, vm, pool])?)
}
