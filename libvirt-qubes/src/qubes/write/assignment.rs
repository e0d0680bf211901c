//! Writes of device assignments.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::super::assignment::{AssignedDevice, Assignment};
use super::super::model::{Inconsistent, Model};
use super::{one, unless};

pub(super) fn set(
    model: &mut Model,
    vm: Uuid,
    device: &AssignedDevice,
    assignment: &Assignment,
) -> Result<(), Inconsistent> {
    // A backend whose row is bad still has its devices.
    if let Some(backend) = device.backend {
        // A backend whose row is bad still has its devices.
        unless(!model.has_row(backend), || format!("no VM {backend}"))?;
    }
    model.change_vm(vm, |vm| {
        Arc::make_mut(&mut vm.assignments).insert(device.clone(), assignment.clone());
        Ok(())
    })
}

pub(super) fn store(
    db: &Connection,
    vm: Uuid,
    device: &AssignedDevice,
    assignment: &Assignment,
) -> rusqlite::Result<()> {
    let id = match find(db, vm, device)? {
        Some(id) => {
            let sql = "UPDATE assignment SET mode = ?2 WHERE id = ?1";
            one(db.prepare_cached(sql)?.execute(params![id, assignment.mode.as_str()])?)?;
            db.prepare_cached("DELETE FROM assignment_option WHERE assignment = ?1")?.execute([id])?;
            id
        }
        None => {
            let sql = "INSERT INTO assignment (vm, class, backend, port, device, mode)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            one(db.prepare_cached(sql)?.execute(params![
                vm.to_string(),
                device.class.as_str(),
                device.backend.map(|backend| backend.to_string()),
                AssignedDevice::written(device.port.as_ref()),
                AssignedDevice::written(device.id.as_ref()),
                assignment.mode.as_str(),
            ])?)?;
            db.last_insert_rowid()
        }
    };
    for (name, value) in &assignment.options {
        let sql = "INSERT INTO assignment_option (assignment, name, value) VALUES (?1, ?2, ?3)";
        one(db.prepare_cached(sql)?.execute(params![id, name.as_str(), value.as_str()])?)?;
    }
    Ok(())
}

pub(super) fn remove(model: &mut Model, vm: Uuid, device: &AssignedDevice) -> Result<(), Inconsistent> {
    model.change_vm(vm, |vm| {
        let gone = Arc::make_mut(&mut vm.assignments).remove(device);
        unless(gone.is_none(), || format!("{} has no device {device:?}", vm.name))
    })
}

pub(super) fn delete(db: &Connection, vm: Uuid, device: &AssignedDevice) -> rusqlite::Result<()> {
    let id = find(db, vm, device)?;
    one(db.prepare_cached("DELETE FROM assignment WHERE id = ?1")?.execute([id])?)
}

fn find(db: &Connection, vm: Uuid, device: &AssignedDevice) -> rusqlite::Result<Option<i64>> {
    let sql = "SELECT id FROM assignment
        WHERE vm = ?1 AND class = ?2 AND coalesce(backend, '') = ?3 AND port = ?4 AND device = ?5";
    let backend = device.backend.map(|backend| backend.to_string()).unwrap_or_default();
    let (port, id) = (device.port.as_ref(), device.id.as_ref());
    let key = params![
        vm.to_string(),
        device.class.as_str(),
        backend,
        AssignedDevice::written(port),
        AssignedDevice::written(id)
    ];
    db.prepare_cached(sql)?.query_row(key, |row| row.get(0)).optional()
}
