//! Looking at a store that no daemon uses, and putting right what can be.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rusqlite::{Connection, params};

use super::super::model::Model;
use super::super::property::{Property, parse};
use super::super::value::Type;
use super::ballast::{self, Ballast};
use super::columns::value_text;
use super::error::AtStore;
use super::lock::StateLock;
use super::{connect, load, schema};
use crate::error::{At, Error, Kind, Op, Result};

/// Whether to put right what can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mend {
    /// Look only: nothing is changed.
    No,
    /// Do it.
    Yes,
}

/// What was seen.
#[derive(Debug)]
pub(in super::super) struct Seen {
    /// The version of the schema, and the one that this release knows.
    pub(in super::super) schema: (usize, usize),
    /// What SQLite says of the file.
    pub(in super::super) damage: Vec<String>,
    /// Rows that refer to none.
    pub(in super::super) dangling: Vec<String>,
    /// What is in it; after the repair, if there was one.
    pub(in super::super) model: Model,
    /// What can be put right, or was.
    pub(in super::super) repairs: Vec<String>,
    /// The copy of the database that was made before the repair.
    pub(in super::super) copy: Option<PathBuf>,
    /// Whether the ballast is there, whole.
    pub(in super::super) ballast: bool,
}

/// Looks at the store of a state directory, under its lock.
pub(in super::super) fn look(dir: &Path, mend: Mend) -> Result<Seen> {
    let path = dir.join("state.db");
    if !path.exists() {
        return Err(Error::new(Kind::NotFound, Op::Store, dir.display()).because("there is no store here"));
    }
    let _lock = StateLock::take(dir)?;
    let mut db = connect(&path)?;
    let name = path.display().to_string();
    let version = schema::known(&db, &name)?;
    let copy = match mend {
        Mend::Yes => Some(copied(&db, &path, &name)?),
        Mend::No => None,
    };
    let transaction = db.transaction().at_store(&name)?;
    schema::upgrade(&transaction, version).at_store(&name)?;
    let mut damage = integrity(&transaction).at_store(&name)?;
    let mut dangling = dangling(&transaction).at_store(&name)?;
    let mut model = load::model(&transaction, &name)?;
    let mut repairs = repair(&transaction, &mut damage).at_store(&name)?;
    match mend {
        Mend::Yes => {
            dangling = self::dangling(&transaction).at_store(&name)?;
            model = load::model(&transaction, &name)?;
            transaction.commit().at_store(&name)?;
        }
        Mend::No => transaction.rollback().at_store(&name)?,
    }
    let mut ballast = ballast::is_whole(dir);
    if !ballast {
        repairs.push("the ballast: made anew".to_owned());
        if mend == Mend::Yes {
            drop(Ballast::load(dir));
            ballast = ballast::is_whole(dir);
        }
    }
    Ok(Seen { schema: (version, schema::MIGRATIONS.len()), damage, dangling, model, repairs, copy, ballast })
}

/// A copy of the database as it is, beside it.
fn copied(db: &Connection, path: &Path, name: &str) -> Result<PathBuf> {
    db.execute_batch("PRAGMA wal_checkpoint(FULL)").at_store(name)?;
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let copy = path.with_file_name(format!("state.db.before-repair.{}", since.as_secs()));
    let made = || {
        std::fs::copy(path, &copy)?;
        File::open(&copy)?.sync_all()?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    made().at(Op::Store, copy.display())?;
    Ok(copy)
}

fn integrity(db: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut found: Vec<String> = db
        .prepare("PRAGMA integrity_check")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    found.retain(|line| line != "ok");
    Ok(found)
}

fn dangling(db: &Connection) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT \"table\", parent, count(*) FROM pragma_foreign_key_check GROUP BY \"table\", parent";
    let row = |row: &rusqlite::Row<'_>| {
        let (table, parent, count): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(format!("{count} rows of {table} refer to a {parent} that does not exist"))
    };
    db.prepare(sql)?.query_map([], row)?.collect()
}

/// What can be put right without losing anything that means something, as a statement and what it does.
const STATEMENTS: &[(&str, &str)] = &[
    ("DELETE FROM vm_property WHERE vm NOT IN (SELECT uuid FROM vm)", "properties of no VM: removed"),
    ("DELETE FROM vm_reference WHERE vm NOT IN (SELECT uuid FROM vm)", "references of no VM: removed"),
    ("DELETE FROM volume WHERE vm NOT IN (SELECT uuid FROM vm)", "volumes of no VM: forgotten; what is on disk stays"),
    ("DELETE FROM tag WHERE vm NOT IN (SELECT uuid FROM vm)", "tags of no VM: removed"),
    ("DELETE FROM feature WHERE vm NOT IN (SELECT uuid FROM vm)", "features of no VM: removed"),
    ("DELETE FROM assignment WHERE vm NOT IN (SELECT uuid FROM vm)", "device assignments of no VM: removed"),
    ("DELETE FROM firewall_rule WHERE vm NOT IN (SELECT uuid FROM vm)", "firewall rules of no VM: removed"),
    ("DELETE FROM firewall WHERE vm NOT IN (SELECT uuid FROM vm)", "firewall lists of no VM: removed"),
    ("DELETE FROM notes WHERE vm NOT IN (SELECT uuid FROM vm)", "notes of no VM: removed"),
    (
        "DELETE FROM started_volume WHERE vm NOT IN (SELECT uuid FROM vm)",
        "started volumes of no VM: forgotten; what is on disk stays",
    ),
    ("DELETE FROM pool_option WHERE pool NOT IN (SELECT name FROM pool)", "options of no pool: removed"),
    (
        "DELETE FROM assignment_option WHERE assignment NOT IN (SELECT id FROM assignment)",
        "options of no device assignment: removed",
    ),
    (
        "DELETE FROM pending_volume WHERE pending NOT IN (SELECT id FROM pending)",
        "volumes of no operation: forgotten; what is on disk stays",
    ),
    (
        "UPDATE vm_reference SET target = NULL WHERE target NOT IN (SELECT uuid FROM vm) AND name <> 'template'",
        "properties that name a VM which does not exist: set to none",
    ),
    (
        "UPDATE global SET vm = NULL WHERE vm NOT IN (SELECT uuid FROM vm)",
        "global properties that name a VM which does not exist: set to none",
    ),
    (
        "DELETE FROM global WHERE pool NOT IN (SELECT name FROM pool)",
        "global properties that name a pool which does not exist: back to their default",
    ),
    (
        "DELETE FROM assignment WHERE backend NOT IN (SELECT uuid FROM vm)",
        "assignments of devices of a VM that does not exist: removed",
    ),
    (
        "UPDATE feature SET position = (SELECT max(position, 0) + 1 FROM (SELECT max(position) AS position FROM feature))
            WHERE position < 0",
        "features without a place: put last",
    ),
    (
        "UPDATE pool SET position = (SELECT max(max(position), 0) + 1 FROM pool) WHERE position NOT BETWEEN 0 AND 4294967295",
        "pools without a place: put last",
    ),
];

fn repair(db: &Connection, damage: &mut Vec<String>) -> rusqlite::Result<Vec<String>> {
    let mut repairs = Vec::new();
    if !damage.is_empty() && db.execute_batch("REINDEX").is_ok() {
        let left = integrity(db)?;
        if left.len() < damage.len() {
            repairs.push(format!("{} faults of indexes: made anew", damage.len().saturating_sub(left.len())));
            *damage = left;
        }
    }
    for (sql, what) in STATEMENTS {
        let changed = db.execute(sql, [])?;
        if changed != 0 {
            repairs.push(format!("{changed} {what}"));
        }
    }
    let respelled = respell(db)?;
    if respelled != 0 {
        repairs.push(format!("{respelled} values of properties: spelled as they must be"));
    }
    Ok(repairs)
}

/// Values that are good but for their spelling: `yes` for `True`, `0500` for `500`.
fn respell(db: &Connection) -> rusqlite::Result<usize> {
    let rows: Vec<(String, String, String)> = db
        .prepare("SELECT vm, name, value FROM vm_property")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        // Text that is no UTF-8 has no other spelling.
        .filter_map(rusqlite::Result::ok)
        .collect();
    let mut changed = 0;
    for (vm, name, value) in rows {
        let typed = Property::named(&name)
            .filter(|property| matches!(property.row().kind, Type::Int | Type::Bool | Type::Str));
        let Some(property) = typed else { continue };
        let parsed = parse::parse(&Model::default(), property.name(), property.row().kind, value.as_bytes());
        let Ok(canonical) = parsed.and_then(|value| property.canonical(value)) else { continue };
        let update = "UPDATE vm_property SET value = ?3 WHERE vm = ?1 AND name = ?2 AND value <> ?3";
        changed += db.prepare_cached(update)?.execute(params![vm, name, value_text(&canonical)])?;
    }
    Ok(changed)
}
