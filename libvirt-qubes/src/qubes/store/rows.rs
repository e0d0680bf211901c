//! The rows of the store as they stand there, unjudged.

use std::collections::HashMap;
use std::hash::Hash;

use rusqlite::{Connection, Row};

/// A row of `vm`.
#[derive(Clone)]
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
    pub last_snapshot: i64,
}

/// A row of `started_volume`.
pub(super) struct StartedRow {
    pub volume: String,
    pub pool: String,
    pub revisions_to_keep: i64,
    pub access: String,
    pub sharing: String,
    pub ephemeral: i64,
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
    pub dispid: Option<i64>,
}

/// A row of `pending_volume`.
pub(super) struct PendingVolumeRow {
    pub volume: String,
    pub pool: String,
    pub vid: String,
    pub progress: String,
}

/// A row of `assignment`.
pub(super) struct AssignmentRow {
    pub id: i64,
    pub class: String,
    pub backend: Option<String>,
    pub port: String,
    pub device: String,
    pub mode: String,
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
    pub assignments: OfVm<AssignmentRow>,
    pub assignment_options: HashMap<i64, Vec<(String, String)>>,
    /// The last id of each list.
    pub firewalls: OfVm<i64>,
    /// Id, place and text of each rule, in order.
    pub rules: OfVm<(i64, i64, String)>,
    pub notes: OfVm<String>,
    pub started: OfVm<StartedRow>,
    pub globals: Vec<GlobalRow>,
    pub pending: Vec<PendingRow>,
    pub pending_volumes: Vec<(i64, PendingVolumeRow)>,
    pub pending_folders: Vec<String>,
}

fn all<T>(
    db: &Connection,
    sql: &str,
    row: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    db.prepare(sql)?.query_map([], row)?.collect()
}

fn grouped<K: Eq + Hash, T>(rows: Vec<(K, T)>) -> HashMap<K, Vec<T>> {
    let mut grouped: HashMap<K, Vec<T>> = HashMap::new();
    for (owner, row) in rows {
        grouped.entry(owner).or_default().push(row);
    }
    grouped
}

fn of_vm<T>(
    db: &Connection,
    sql: &str,
    mut row: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<OfVm<T>> {
    all(db, sql, |sql_row| Ok((text(sql_row, 0)?, row(sql_row)?))).map(grouped)
}

/// Text as it stands there. Bytes that are none become U+FFFD, which no rule lets pass: one such cell must not
/// keep the rest from being read.
pub(super) fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    Ok(optional(row, column)?.unwrap_or_default())
}

fn optional(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<String>> {
    let bytes = row.get_ref(column)?.as_bytes_or_null()?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
}

impl Rows {
    pub(super) fn read(db: &Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            labels: all(db, "SELECT idx, name, colour FROM label ORDER BY idx", |r| {
                Ok((r.get(0)?, text(r, 1)?, text(r, 2)?))
            })?,
            pools: all(db, "SELECT name, driver, position FROM pool ORDER BY position", |r| {
                Ok((text(r, 0)?, text(r, 1)?, r.get(2)?))
            })?,
            pool_options: all(db, "SELECT pool, key, value FROM pool_option", |r| {
                Ok((text(r, 0)?, text(r, 1)?, text(r, 2)?))
            })?,
            vms: all(db, "SELECT uuid, qid, name, class, label FROM vm ORDER BY qid", |r| {
                Ok(VmRow {
                    uuid: text(r, 0)?,
                    qid: r.get(1)?,
                    name: text(r, 2)?,
                    class: text(r, 3)?,
                    label: r.get(4)?,
                })
            })?,
            properties: of_vm(db, "SELECT vm, name, value FROM vm_property", |r| {
                Ok((text(r, 1)?, text(r, 2)?))
            })?,
            references: of_vm(db, "SELECT vm, name, target FROM vm_reference", |r| {
                Ok((text(r, 1)?, optional(r, 2)?))
            })?,
            volumes: of_vm(
                db,
                "SELECT vm, name, pool, vid, kind, size, access, revisions_to_keep, ephemeral,
                    last_snapshot
                 FROM volume ORDER BY vm, position",
                |r| {
                    Ok(VolumeRow {
                        name: text(r, 1)?,
                        pool: text(r, 2)?,
                        vid: optional(r, 3)?,
                        kind: text(r, 4)?,
                        size: r.get(5)?,
                        access: text(r, 6)?,
                        revisions_to_keep: r.get(7)?,
                        ephemeral: r.get(8)?,
                        last_snapshot: r.get(9)?,
                    })
                },
            )?,
            tags: of_vm(db, "SELECT vm, tag FROM tag", |r| text(r, 1))?,
            features: of_vm(db, "SELECT vm, name, value, position FROM feature", |r| {
                Ok((text(r, 1)?, text(r, 2)?, r.get(3)?))
            })?,
            assignments: of_vm(
                db,
                "SELECT vm, id, class, backend, port, device, mode FROM assignment",
                |r| {
                    Ok(AssignmentRow {
                        id: r.get(1)?,
                        class: text(r, 2)?,
                        backend: optional(r, 3)?,
                        port: text(r, 4)?,
                        device: text(r, 5)?,
                        mode: text(r, 6)?,
                    })
                },
            )?,
            assignment_options: grouped(all(
                db,
                "SELECT assignment, name, value FROM assignment_option",
                |r| Ok((r.get(0)?, (text(r, 1)?, text(r, 2)?))),
            )?),
            firewalls: of_vm(db, "SELECT vm, last_id FROM firewall", |r| r.get(1))?,
            rules: of_vm(
                db,
                "SELECT vm, id, position, rule FROM firewall_rule ORDER BY vm, position",
                |r| Ok((r.get(1)?, r.get(2)?, text(r, 3)?)),
            )?,
            notes: of_vm(db, "SELECT vm, text FROM notes", |r| text(r, 1))?,
            started: of_vm(
                db,
                "SELECT vm, volume, pool, revisions_to_keep, access, sharing, ephemeral FROM started_volume",
                |r| {
                    Ok(StartedRow {
                        volume: text(r, 1)?,
                        pool: text(r, 2)?,
                        revisions_to_keep: r.get(3)?,
                        access: text(r, 4)?,
                        sharing: text(r, 5)?,
                        ephemeral: r.get(6)?,
                    })
                },
            )?,
            globals: all(db, "SELECT name, value, vm, pool FROM global", |r| {
                Ok(GlobalRow {
                    name: text(r, 0)?,
                    value: optional(r, 1)?,
                    vm: optional(r, 2)?,
                    pool: optional(r, 3)?,
                })
            })?,
            pending: all(
                db,
                "SELECT id, kind, phase, uuid, qid, name, dispid FROM pending ORDER BY id",
                |r| {
                    Ok(PendingRow {
                        id: r.get(0)?,
                        kind: text(r, 1)?,
                        phase: optional(r, 2)?,
                        uuid: text(r, 3)?,
                        qid: r.get(4)?,
                        name: text(r, 5)?,
                        dispid: r.get(6)?,
                    })
                },
            )?,
            pending_volumes: all(
                db,
                "SELECT pending, volume, pool, vid, progress FROM pending_volume ORDER BY pending, position",
                |r| {
                    let row = PendingVolumeRow {
                        volume: text(r, 1)?,
                        pool: text(r, 2)?,
                        vid: text(r, 3)?,
                        progress: text(r, 4)?,
                    };
                    Ok((r.get(0)?, row))
                },
            )?,
            pending_folders: all(db, "SELECT path FROM pending_folder", |r| text(r, 0))?,
        })
    }
}
