//! The store: an SQLite database in the state directory, and one connection that writes it.
//!
//! It owns the files of the state directory that begin with `state.db`, `lock` and `ballast`, and knows how
//! rows become a [`Model`]. What may be written it does not judge: that is the model's. All methods block.

mod ballast;
pub(super) mod columns;
mod desktop_tags;
pub(super) mod doctor;
pub(super) mod error;
mod files;
mod first;
mod fit;
mod import;
mod load;
mod lock;
mod log;
mod orphans;
mod room;
mod rows;
mod schema;
#[cfg(test)]
mod tests;

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

pub use self::doctor::Mend;
use self::error::AtStore;
use self::files::Files;
pub use self::first::FirstStart;
pub(super) use self::first::{dom0, pools};
pub use self::import::{Filled, NotEmpty};
use self::lock::StateLock;
use self::room::Room;
use super::model::{Model, SetAside};
use super::vm::Vm;
use super::write::Write;
use crate::error::{At, Error, Kind, Op, Result};

/// Numbers of events are reserved in the store in blocks of this size, so that a restart begins above all
/// that were given out.
const NUMBER_BLOCK: u64 = 1 << 32;

/// An open store. It is alone: the state directory is locked for as long as this lives.
#[derive(Debug)]
pub struct Store {
    pub(super) db: Connection,
    /// The database's path, for messages.
    pub(super) name: String,
    room: Room,
    files: Files,
    reserved_numbers: u64,
    _lock: StateLock,
}

/// What was found in a store.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// Its content.
    pub model: Model,
    /// Numbers of events up to this one may have been given out.
    pub last_number: u64,
    /// Whether this was the first start, with the store made just now.
    pub start: Start,
}

/// Whether a store was made or found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It was made.
    First,
    /// It was found.
    Later,
}

impl Store {
    /// Opens the store in a state directory, which is made (mode 0700) if it is missing, and reads it.
    ///
    /// On a first start `first` decides about the pools; it is not called otherwise. A bad row is set aside
    /// and reported, never an error.
    ///
    /// # Errors
    /// `Kind::Busy` when another process uses the directory (the source names it); `Kind::Unsupported` when
    /// a newer release wrote it; `Kind::Corrupt` when it is no store; what the file system says otherwise.
    pub fn open(dir: &Path, first: impl FnOnce() -> Result<FirstStart>) -> Result<Opened> {
        make_folder(dir)?;
        let lock = StateLock::take(dir)?;
        let path = dir.join("state.db");
        let name = path.display().to_string();
        ballast::must_have_store(dir, &path)?;
        let mut db = connect(&path)?;
        let before = schema::migrate(&mut db, &name, |db| {
            for write in first::contents(&first()?)? {
                write.execute(db).at_store(&name)?;
            }
            Ok(())
        })?;
        File::open(dir).and_then(|dir| dir.sync_all()).at(Op::Store, dir.display())?;
        ensure_labels(&db).at_store(&name)?;
        let mut model = load::model(&db, &name)?;
        ensure_dom0(&db, &name, &mut model)?;
        let room = Room::of(dir, &path);
        match desktop_tags::add_once(&mut db, &name, &mut model) {
            Err(error) if error.kind() == Kind::NoSpace => {
                tracing::error!(
                    error = error.report(),
                    "tags of guivm and audiovm are added at a later start"
                );
            }
            added => added?,
        }
        let files = Files::opened(&path)?;
        let found = reserved_numbers(&db, &name, before)?;
        if let Some(row) = found.bad {
            model.put_set_aside(row);
        }
        let mut last_number = found.number;
        let mut store = Self { db, name, room, files, reserved_numbers: last_number, _lock: lock };
        store.restore_room();
        match store.reserve_numbers(last_number) {
            Err(error) if error.kind() == Kind::NoSpace => {
                // What is there can be read, and removed; it will be reserved as soon as there is room.
                last_number = last_number.max(numbers_of_now());
                tracing::error!(error = error.report(), "the state's file system is full");
            }
            reserved => reserved?,
        }
        let start = match before {
            schema::Before::Empty => Start::First,
            schema::Before::Filled => Start::Later,
        };
        Ok(Opened { store, model, last_number, start })
    }

    /// Reserves numbers of events for a while beyond `number`, in a transaction of its own, if those that
    /// are reserved run short.
    pub(super) fn reserve_numbers(&mut self, number: u64) -> Result<()> {
        let wanted = number.saturating_add(NUMBER_BLOCK / 2);
        if wanted < self.reserved_numbers {
            return Ok(());
        }
        let reserved = number.saturating_add(NUMBER_BLOCK);
        let sql = "INSERT INTO meta (key, value) VALUES ('event_numbers', ?1)
            ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        self.check_files()?;
        let write = |store: &Self| store.db.execute(sql, [reserved.to_string()]).at_store(&store.name);
        let mut written = write(self);
        for make_room in [Self::fold_log, Self::give_up_ballast] {
            if written.as_ref().is_err_and(|error| error.kind() == Kind::NoSpace) && make_room(self) {
                written = write(self);
            }
        }
        written?;
        self.reserved_numbers = reserved;
        Ok(())
    }

    /// Reads the whole store again.
    #[cfg(test)]
    pub(super) fn read(&self) -> Result<Model> {
        load::model(&self.db, &self.name)
    }

    /// Folds the log into the database and closes it.
    pub(super) fn close(mut self) -> Result<()> {
        let folded = self.fold_log();
        self.db.close().map_err(|(_, error)| error).at_store(&self.name)?;
        // A log that is not folded is read by the next start; one that lies in the place of this one is not ours.
        let ours = self.files.check().is_ok();
        if folded && ours { self.room.void_log().at(Op::Store, &self.name) } else { Ok(()) }
    }

    /// Fails when the files of the store were removed or replaced: what is written now would be lost.
    pub(super) fn check_files(&mut self) -> Result<()> {
        self.files.check()
    }
}

/// Numbers of events for a start that cannot reserve any: above those of an earlier start that could not either.
fn numbers_of_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(0)
}

/// The built-in labels cannot be removed: those that are missing come back, where nothing has their place.
fn ensure_labels(db: &Connection) -> rusqlite::Result<()> {
    let sql = "INSERT INTO label (idx, name, colour) SELECT ?1, ?2, ?3
        WHERE NOT EXISTS (SELECT 1 FROM label WHERE idx = ?1 OR name = ?2)";
    for (index, (name, colour)) in (1..).zip(super::label::BUILT_IN) {
        if db.execute(sql, rusqlite::params![i64::from(index), name, colour])? > 0 {
            tracing::error!(name, "a built-in label was not in the store");
        }
    }
    Ok(())
}

/// There is no model without dom0: one whose row is missing, or has another's identity, begins anew, with nothing set.
fn ensure_dom0(db: &Connection, name: &str, model: &mut Model) -> Result<()> {
    if model.vm(Vm::DOM0).is_some() {
        return Ok(());
    }
    let label = model.label(first::BLACK).or_else(|| model.labels().next()).map(|label| label.index);
    let label = label.ok_or_else(|| Error::new(Kind::Corrupt, Op::Store, name).because("it has no label"))?;
    let dom0 = Arc::new(dom0(label));
    if model.uuid_is_free(Vm::DOM0) {
        make_way(db).at_store(name)?;
        Write::AddVm(dom0.clone()).execute(db).at_store(name)?;
    }
    tracing::error!("dom0 has no good row in the store; nothing is set for it");
    model.put_vm(dom0);
    Ok(())
}

/// Takes name and number of dom0 from rows that have no right to them. They are set aside, and stay so.
fn make_way(db: &Connection) -> rusqlite::Result<()> {
    let dom0 = Vm::DOM0.to_string();
    db.execute("UPDATE vm SET name = name || '.' || uuid WHERE name = 'dom0' AND uuid <> ?1", [&dom0])?;
    let number = "UPDATE vm SET qid = (SELECT min(min(qid), 0) - 1 FROM vm) WHERE qid = 0 AND uuid <> ?1";
    db.execute(number, [&dom0])?;
    Ok(())
}

/// The number of the last event that may have been given out.
struct LastNumber {
    number: u64,
    /// The row that should have told it.
    bad: Option<SetAside>,
}

/// A store that does not tell goes on above whatever any daemon can have given out: as if one block had been reserved
/// in each second since 1970.
fn reserved_numbers(db: &Connection, name: &str, before: schema::Before) -> Result<LastNumber> {
    use rusqlite::OptionalExtension;
    let sql = "SELECT value FROM meta WHERE key = 'event_numbers'";
    let row = |row: &rusqlite::Row<'_>| rows::text(row, 0);
    let text = db.query_row(sql, [], row).optional().at_store(name)?;
    let told = text.as_deref().and_then(|text| text.parse().ok());
    match (told, before) {
        (Some(number), _) => Ok(LastNumber { number, bad: None }),
        (None, schema::Before::Empty) => Ok(LastNumber { number: 0, bad: None }),
        (None, schema::Before::Filled) => {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let number = since.as_secs().saturating_mul(NUMBER_BLOCK).min(i64::MAX.unsigned_abs());
            let row =
                load::aside("meta", "event_numbers", format!("it is no number: {text:?}; {number} taken"));
            load::report(&row);
            Ok(LastNumber { number, bad: Some(row) })
        }
    }
}

fn make_folder(dir: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).at(Op::Store, dir.display())?;
    let mode = std::fs::metadata(dir).at(Op::Store, dir.display())?.mode();
    if mode & 0o022 != 0 {
        tracing::warn!(dir = %dir.display(), mode = format!("{mode:o}"), "others may write the state directory");
    }
    Ok(())
}

fn connect(path: &PathBuf) -> Result<Connection> {
    let name = path.display().to_string();
    let name = name.as_str();
    // Made here, for its mode: SQLite gives the files beside it the same.
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).at(Op::Store, name)?;
    let db = Connection::open(path).at_store(name)?;
    // The lock of the directory keeps others out; with SQLite's own held throughout, the index of the WAL is
    // kept in memory, not in a file that has to grow when the disk is full.
    pragma(&db, path, "locking_mode", "exclusive")?;
    // A commit appends to one file and is one fsync; a crash leaves the last commit.
    pragma(&db, path, "journal_mode", "wal")?;
    // fsync at every commit: what is acknowledged survives a power cut.
    db.pragma_update(None, "synchronous", "full").at_store(name)?;
    // Off by default in SQLite.
    db.pragma_update(None, "foreign_keys", true).at_store(name)?;
    // No schema of a foreign file runs code.
    db.pragma_update(None, "trusted_schema", false).at_store(name)?;
    // A page whose content is damaged is an error, not an answer.
    db.pragma_update(None, "cell_size_check", true).at_store(name)?;
    // A full disk elsewhere is nothing to the store.
    db.pragma_update(None, "temp_store", "memory").at_store(name)?;
    // The log goes back to this size at a checkpoint after a burst.
    pragma(&db, path, "journal_size_limit", "4194304")?;
    // The log's file stays; `Store::close` folds it.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).at_store(name)?;
    // Without this, a prepared statement is planned again for each new value.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).at_store(name)?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(db)
}

/// Sets what answers with the value in force, and checks it.
fn pragma(db: &Connection, path: &Path, pragma: &str, wanted: &str) -> Result<()> {
    let set: rusqlite::types::Value =
        db.pragma_update_and_check(None, pragma, wanted, |row| row.get(0)).at_store(path.display())?;
    let in_force = match set {
        rusqlite::types::Value::Text(text) => text,
        rusqlite::types::Value::Integer(number) => number.to_string(),
        rusqlite::types::Value::Null | rusqlite::types::Value::Real(_) | rusqlite::types::Value::Blob(_) => {
            String::new()
        }
    };
    if in_force == wanted {
        Ok(())
    } else {
        let why = format!("{pragma} is {in_force:?} where {wanted:?} is needed");
        Err(Error::new(Kind::Unsupported, Op::Store, path.display()).because(why))
    }
}
