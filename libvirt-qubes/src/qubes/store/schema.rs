//! The schema's versions, and the way from each to the next.

use rusqlite::{Connection, TransactionBehavior};

use super::error::AtStore;
use crate::error::{Error, Kind, Op, Result};

/// What makes version N of version N-1; the first makes it of an empty database.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("v1.sql"),
    include_str!("v2.sql"),
    include_str!("v3.sql"),
    include_str!("v4.sql"),
    include_str!("v5.sql"),
    include_str!("v6.sql"),
    include_str!("v7.sql"),
    include_str!("v8.sql"),
];

/// Marks a database as ours (`PRAGMA application_id`): "QuMg".
const APPLICATION: i32 = 0x5175_4d67;

/// Whether a database was empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// It had no table: a first start.
    Empty,
    /// It held a state.
    Filled,
}

/// Brings a database to the current version and lets `fill` put in the first content if it was empty, all in
/// one transaction.
pub(super) fn migrate(
    db: &mut Connection,
    name: &str,
    fill: impl FnOnce(&Connection) -> Result<()>,
) -> Result<Before> {
    migrate_by(db, name, MIGRATIONS, fill)
}

fn migrate_by(
    db: &mut Connection,
    name: &str,
    migrations: &[&str],
    fill: impl FnOnce(&Connection) -> Result<()>,
) -> Result<Before> {
    let (version, before) = known_by(db, name, migrations)?;
    let missing = migrations.get(version..).unwrap_or_default();
    if missing.is_empty() {
        return Ok(before);
    }
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate).at_store(name)?;
    for sql in missing {
        transaction.execute_batch(sql).at_store(name)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION).at_store(name)?;
    transaction
        .pragma_update(None, "user_version", i64::try_from(migrations.len()).unwrap_or(i64::MAX))
        .at_store(name)?;
    if before == Before::Empty {
        fill(&transaction)?;
    }
    transaction.commit().at_store(name)?;
    if before == Before::Filled {
        tracing::info!(from = version, to = migrations.len(), "store migrated");
    }
    Ok(before)
}

/// The version of a database that this release can read.
pub(super) fn known(db: &Connection, name: &str) -> Result<usize> {
    known_by(db, name, MIGRATIONS).map(|(version, _)| version)
}

fn known_by(db: &Connection, name: &str, migrations: &[&str]) -> Result<(usize, Before)> {
    let version = version(db).at_store(name)?;
    let application: i32 = db.pragma_query_value(None, "application_id", |row| row.get(0)).at_store(name)?;
    let tables: i64 =
        db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).at_store(name)?;
    let before = if version == 0 && tables == 0 { Before::Empty } else { Before::Filled };
    if before == Before::Filled && application != APPLICATION {
        return Err(Error::new(Kind::Corrupt, Op::Store, name).because("it is another program's database"));
    }
    if version > migrations.len() {
        let newest = migrations.len();
        return Err(Error::new(Kind::Unsupported, Op::Store, name).because(format!(
            "its schema has version {version}, made by a newer release; this one knows versions up to {newest}"
        )));
    }
    Ok((version, before))
}

/// Brings a database of a known version to the current one, inside the caller's transaction.
pub(super) fn upgrade(db: &Connection, version: usize) -> rusqlite::Result<()> {
    for sql in MIGRATIONS.get(version..).unwrap_or_default() {
        db.execute_batch(sql)?;
    }
    db.pragma_update(None, "user_version", i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX))
}

/// The version of a database's schema; 0 before the first.
fn version(db: &Connection) -> rusqlite::Result<usize> {
    let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    usize::try_from(version).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: &str = "ALTER TABLE label ADD COLUMN note TEXT NOT NULL DEFAULT 'none';";

    fn nothing(_: &Connection) -> Result<()> {
        Ok(())
    }

    #[test]
    fn a_database_of_version_1_is_migrated_in_place_and_keeps_its_rows() {
        let mut db = Connection::open_in_memory().unwrap();
        migrate_by(&mut db, "test", MIGRATIONS, |db| {
            db.execute("INSERT INTO label VALUES (1, 'red', '0xcc0000')", []).map(drop).at_store("test")
        })
        .unwrap();
        assert_eq!(version(&db).unwrap(), MIGRATIONS.len());
        let next = [MIGRATIONS, &[SECOND]].concat();
        let before = migrate_by(&mut db, "test", &next, |_| panic!("not a first start")).unwrap();
        assert_eq!((before, version(&db).unwrap()), (Before::Filled, next.len()));
        let row: (String, String) =
            db.query_row("SELECT name, note FROM label", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!(row, ("red".to_owned(), "none".to_owned()));
    }

    #[test]
    fn a_migration_that_fails_leaves_the_version_before_it() {
        let mut db = Connection::open_in_memory().unwrap();
        migrate_by(&mut db, "test", MIGRATIONS, nothing).unwrap();
        let next = [MIGRATIONS, &[SECOND, "ALTER TABLE nowhere ADD COLUMN x TEXT;"]].concat();
        migrate_by(&mut db, "test", &next, nothing).unwrap_err();
        assert_eq!(version(&db).unwrap(), MIGRATIONS.len());
        db.query_row("SELECT note FROM label", [], |_| Ok(())).unwrap_err();
    }

    #[test]
    fn a_newer_schema_is_refused_by_its_number() {
        let mut db = Connection::open_in_memory().unwrap();
        migrate_by(&mut db, "test", MIGRATIONS, nothing).unwrap();
        db.pragma_update(None, "user_version", 99).unwrap();
        let error = migrate(&mut db, "test", nothing).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.report().contains("version 99"), "{}", error.report());
    }

    #[test]
    fn another_programs_database_is_refused() {
        let mut db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE theirs (x)").unwrap();
        assert_eq!(migrate(&mut db, "test", nothing).unwrap_err().kind(), Kind::Corrupt);
    }

    #[test]
    fn a_first_start_that_fails_leaves_the_database_empty() {
        let mut db = Connection::open_in_memory().unwrap();
        let failed = |_: &Connection| Err(Error::new(Kind::Io, Op::Store, "test"));
        migrate(&mut db, "test", failed).unwrap_err();
        assert_eq!(migrate(&mut db, "test", nothing).unwrap(), Before::Empty);
    }
}
