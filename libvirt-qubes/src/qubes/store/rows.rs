//! The rows of the store as they stand there, unjudged.

use std::collections::HashMap;

use rusqlite::{Connection, Row};

/// A row of `vm`.
pub(super) struct VmRow {
    pub uuid: String,
    pub qid: i64,
    pub name: String,
    pub class: String,
    pub label: i64,
}

/// A row of `volume`.
pub(super) struct VolumeRow {
    pub name: String,
    pub pool: String,
    pub vid: Option<String>,
    pub kind: String,
    pub size: Option<i64>,
    pub access: String,
    pub revisions_to_keep: Option<i64>,
    pub ephemeral: Option<i64>,
}

/// A row of `global`.
pub(super) struct GlobalRow {
    pub name: String,
    pub value: Option<String>,
    pub vm: Option<String>,
    pub pool: Option<String>,
}

/// A row of `pending`.
pub(super) struct PendingRow {
    pub id: i64,
    pub kind: String,
    pub phase: Option<String>,
    pub uuid: String,
    pub qid: i64,
    pub name: String,
}

/// A row of `pending_volume`.
pub(super) struct PendingVolumeRow {
    pub volume: String,
    pub pool: String,
    pub vid: String,
    pub progress: String,
}

/// Rows that belong to a VM, by its identity as stored.
pub(super) type OfVm<T> = HashMap<String, Vec<T>>;

/// The whole store.
pub(super) struct Rows {
    pub labels: Vec<(i64, String, String)>,
    pub pools: Vec<(String, String, i64)>,
    pub pool_options: Vec<(String, String, String)>,
    pub vms: Vec<VmRow>,
    pub properties: OfVm<(String, String)>,
    pub references: OfVm<(String, Option<String>)>,
    pub volumes: OfVm<VolumeRow>,
    pub tags: OfVm<String>,
    pub features: OfVm<(String, String, i64)>,
    pub globals: Vec<GlobalRow>,
    pub pending: Vec<PendingRow>,
    pub pending_volumes: Vec<(i64, PendingVolumeRow)>,
}

fn all<T>(
    db: &Connection,
    sql: &str,
    row: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    db.prepare(sql)?.query_map([], row)?.collect()
}

fn of_vm<T>(
    db: &Connection,
    sql: &str,
    mut row: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<OfVm<T>> {
    let mut grouped: OfVm<T> = HashMap::new();
    for (vm, row) in all(db, sql, |sql_row| Ok((sql_row.get(0)?, row(sql_row)?)))? {
        grouped.entry(vm).or_default().push(row);
    }
    Ok(grouped)
}

impl Rows {
    pub(super) fn read(db: &Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            labels: all(db, "SELECT idx, name, colour FROM label ORDER BY idx", |r| {
                Ok((r.get(0)?, r.get(1)?, r.get(2)?))
            })?,
            pools: all(db, "SELECT name, driver, position FROM pool ORDER BY position", |r| {
                Ok((r.get(0)?, r.get(1)?, r.get(2)?))
            })?,
            pool_options: all(db, "SELECT pool, key, value FROM pool_option", |r| {
                Ok((r.get(0)?, r.get(1)?, r.get(2)?))
            })?,
            vms: all(db, "SELECT uuid, qid, name, class, label FROM vm ORDER BY qid", |r| {
                Ok(VmRow {
                    uuid: r.get(0)?,
                    qid: r.get(1)?,
                    name: r.get(2)?,
                    class: r.get(3)?,
                    label: r.get(4)?,
                })
            })?,
            properties: of_vm(db, "SELECT vm, name, value FROM vm_property", |r| Ok((r.get(1)?, r.get(2)?)))?,
            references: of_vm(db, "SELECT vm, name, target FROM vm_reference", |r| {
                Ok((r.get(1)?, r.get(2)?))
            })?,
            volumes: of_vm(
                db,
                "SELECT vm, name, pool, vid, kind, size, access, revisions_to_keep, ephemeral
                 FROM volume ORDER BY vm, position",
                |r| {
                    Ok(VolumeRow {
                        name: r.get(1)?,
                        pool: r.get(2)?,
                        vid: r.get(3)?,
                        kind: r.get(4)?,
                        size: r.get(5)?,
                        access: r.get(6)?,
                        revisions_to_keep: r.get(7)?,
                        ephemeral: r.get(8)?,
                    })
                },
            )?,
            tags: of_vm(db, "SELECT vm, tag FROM tag", |r| r.get(1))?,
            features: of_vm(db, "SELECT vm, name, value, position FROM feature", |r| {
                Ok((r.get(1)?, r.get(2)?, r.get(3)?))
            })?,
            globals: all(db, "SELECT name, value, vm, pool FROM global", |r| {
                Ok(GlobalRow { name: r.get(0)?, value: r.get(1)?, vm: r.get(2)?, pool: r.get(3)? })
            })?,
            pending: all(db, "SELECT id, kind, phase, uuid, qid, name FROM pending ORDER BY id", |r| {
                Ok(PendingRow {
                    id: r.get(0)?,
                    kind: r.get(1)?,
                    phase: r.get(2)?,
                    uuid: r.get(3)?,
                    qid: r.get(4)?,
                    name: r.get(5)?,
                })
            })?,
            pending_volumes: all(
                db,
                "SELECT pending, volume, pool, vid, progress FROM pending_volume ORDER BY pending, position",
                |r| {
                    let row = PendingVolumeRow {
                        volume: r.get(1)?,
                        pool: r.get(2)?,
                        vid: r.get(3)?,
                        progress: r.get(4)?,
                    };
                    Ok((r.get(0)?, row))
                },
            )?,
        })
    }
}
