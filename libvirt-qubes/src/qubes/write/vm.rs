//! Writes of a VM and of what belongs to one alone: volumes, tags, features; the rest has files of its own.

use std::sync::Arc;

use rusqlite::{Connection, params};
use uuid::Uuid;

use super::super::ids::{FeatureName, FeatureValue, Tag};
use super::super::model::{Inconsistent, Model};
use super::super::store::columns::{access_word, integer};
use super::super::vm::{Feature, Vm};
use super::super::volume::VolumeConfig;
use super::{assignment, firewall, notes, one, property, started, unless};
use crate::ids::VolumeName;

pub(super) fn add(model: &mut Model, vm: &Arc<Vm>) -> Result<(), Inconsistent> {
    unless(model.vm(vm.uuid).is_some(), || format!("VM {} exists", vm.uuid))?;
    unless(model.vm_named(vm.name.as_str()).is_some(), || format!("VM {} exists", vm.name))?;
    unless(model.vm_with_qid(vm.qid).is_some(), || format!("a VM with number {} exists", vm.qid))?;
    model.put_vm(vm.clone());
    Ok(())
}

pub(super) fn insert(db: &Connection, vm: &Vm) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT INTO vm (uuid, qid, name, class, label) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![
            vm.uuid.to_string(),
            vm.qid.get(),
            vm.name.as_str(),
            vm.class.as_str(),
            vm.label.get()
        ])?;
    for (property, value) in &vm.properties {
        property::store(db, vm.uuid, *property, Some(value))?;
    }
    for volume in &vm.volumes {
        store_volume(db, vm.uuid, volume)?;
    }
    for tag in &vm.tags {
        insert_tag(db, vm.uuid, tag)?;
    }
    let mut features: Vec<_> = vm.features.iter().collect();
    features.sort_by_key(|(_, feature)| feature.position);
    for (name, feature) in features {
        store_feature(db, vm.uuid, name, Some(&feature.value))?;
    }
    for (device, how) in &*vm.assignments {
        assignment::store(db, vm.uuid, device, how)?;
    }
    started::store(db, vm.uuid, &vm.started)?;
    firewall::store(db, vm.uuid, &vm.firewall)?;
    notes::insert(db, vm.uuid, &vm.notes)
}

pub(super) fn remove(model: &mut Model, uuid: Uuid) -> Result<(), Inconsistent> {
    let vm = model.take_vm(uuid)?;
    firewall::forget_damage(model, &vm);
    notes::forget_damage(model, &vm);
    unless(model.referrers(uuid).next().is_some(), || format!("VM {uuid} is still referred to"))?;
    unless(model.devices_of(uuid).next().is_some(), || format!("devices of VM {uuid} are still assigned"))
}

pub(super) fn delete(db: &Connection, uuid: Uuid) -> rusqlite::Result<()> {
    one(db.prepare_cached("DELETE FROM vm WHERE uuid = ?1")?.execute([uuid.to_string()])?)
}

pub(super) fn set_volume(
    model: &mut Model,
    vm: Uuid,
    volume: &Arc<VolumeConfig>,
) -> Result<(), Inconsistent> {
    model.change_vm(vm, |vm| {
        match vm.volumes.iter_mut().find(|old| old.name == volume.name) {
            Some(old) => *old = volume.clone(),
            None => vm.volumes.push(volume.clone()),
        }
        Ok(())
    })
}

pub(in super::super) fn store_volume(
    db: &Connection,
    vm: Uuid,
    volume: &VolumeConfig,
) -> rusqlite::Result<()> {
    let sql = "INSERT INTO volume (vm, name, position, pool, vid, kind, size, access, revisions_to_keep, ephemeral,
            last_snapshot)
        VALUES (?1, ?2, (SELECT coalesce(max(position), 0) + 1 FROM volume WHERE vm = ?1), ?3, ?4, ?5, ?6, ?7, ?8, ?9,
            ?10)
        ON CONFLICT (vm, name) DO UPDATE SET pool = excluded.pool, vid = excluded.vid, kind = excluded.kind,
            size = excluded.size, access = excluded.access, revisions_to_keep = excluded.revisions_to_keep,
            ephemeral = excluded.ephemeral, last_snapshot = excluded.last_snapshot";
    one(db.prepare_cached(sql)?.execute(params![
        vm.to_string(),
        volume.name.as_str(),
        volume.pool.as_str(),
        volume.vid.as_deref(),
        volume.kind.as_str(),
        volume.size.map(|size| integer(size.get())).transpose()?,
        access_word(volume.access),
        volume.revisions_to_keep,
        volume.ephemeral,
        integer(volume.last_snapshot)?,
    ])?)
}

pub(super) fn remove_volume(model: &mut Model, vm: Uuid, name: &VolumeName) -> Result<(), Inconsistent> {
    model.change_vm(vm, |vm| {
        let before = vm.volumes.len();
        vm.volumes.retain(|volume| volume.name != *name);
        unless(vm.volumes.len() == before, || format!("{} has no volume {name}", vm.name))
    })
}

pub(super) fn delete_volume(db: &Connection, vm: Uuid, name: &VolumeName) -> rusqlite::Result<()> {
    let sql = "DELETE FROM volume WHERE vm = ?1 AND name = ?2";
    one(db.prepare_cached(sql)?.execute(params![vm.to_string(), name.as_str()])?)
}

pub(super) fn add_tag(model: &mut Model, vm: Uuid, tag: &Tag) -> Result<(), Inconsistent> {
    model.change_vm(vm, |vm| unless(!vm.tags.insert(tag.clone()), || format!("{} has tag {tag}", vm.name)))
}

pub(super) fn insert_tag(db: &Connection, vm: Uuid, tag: &Tag) -> rusqlite::Result<()> {
    let sql = "INSERT INTO tag (vm, tag) VALUES (?1, ?2)";
    one(db.prepare_cached(sql)?.execute(params![vm.to_string(), tag.as_str()])?)
}

pub(super) fn remove_tag(model: &mut Model, vm: Uuid, tag: &Tag) -> Result<(), Inconsistent> {
    model.change_vm(vm, |vm| unless(!vm.tags.remove(tag), || format!("{} has no tag {tag}", vm.name)))
}

pub(super) fn delete_tag(db: &Connection, vm: Uuid, tag: &Tag) -> rusqlite::Result<()> {
    let sql = "DELETE FROM tag WHERE vm = ?1 AND tag = ?2";
    one(db.prepare_cached(sql)?.execute(params![vm.to_string(), tag.as_str()])?)
}

pub(super) fn set_feature(
    model: &mut Model,
    vm: Uuid,
    name: &FeatureName,
    value: Option<&FeatureValue>,
) -> Result<(), Inconsistent> {
    model.change_vm(vm, |vm| {
        let Some(value) = value else {
            let gone = vm.features.remove(name);
            return unless(gone.is_none(), || format!("{} has no feature {name}", vm.name));
        };
        match vm.features.get_mut(name) {
            Some(feature) => feature.value = value.clone(),
            None => {
                let last = vm.features.values().map(|feature| feature.position).max().unwrap_or(0);
                vm.features.insert(name.clone(), Feature { value: value.clone(), position: last + 1 });
            }
        }
        Ok(())
    })
}

pub(super) fn store_feature(
    db: &Connection,
    vm: Uuid,
    name: &FeatureName,
    value: Option<&FeatureValue>,
) -> rusqlite::Result<()> {
    let Some(value) = value else {
        let sql = "DELETE FROM feature WHERE vm = ?1 AND name = ?2";
        return one(db.prepare_cached(sql)?.execute(params![vm.to_string(), name.as_str()])?);
    };
    let sql = "INSERT INTO feature (vm, name, value, position)
        VALUES (?1, ?2, ?3, (SELECT coalesce(max(position), 0) + 1 FROM feature WHERE vm = ?1))
        ON CONFLICT (vm, name) DO UPDATE SET value = excluded.value";
    one(db.prepare_cached(sql)?.execute(params![vm.to_string(), name.as_str(), value.as_str()])?)
}
