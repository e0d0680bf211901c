//! What the store keeps of the file system, so that what frees space is stored also when nothing is left of it.
//!
//! * The log's file ([`LogFile`]) is never given back: a transaction that fits into it needs no block.
//! * The database has free pages, in blocks of its own: a row that such a transaction adds makes it no longer, so that
//!   the log can always be folded, and be written from its begin again.
//! * The ballast is for what is larger than that, and for file systems that write nothing in place.
//!
//! While one of them is missing, or the file system is full, what takes space is refused.

use std::path::{Path, PathBuf};

use super::Store;
use super::ballast::Ballast;
use super::error::AtStore;
use super::log::LogFile;
use crate::error::{Error, Kind, Op, Result};

/// Below this many free pages more are made, up to [`FULL`].
const LOW: u64 = 32;

/// As many pages are free then: half a MiB.
const FULL: u64 = 128;

/// Below this much free space it is looked whether any of it can be had.
const NARROW: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Room {
    dir: PathBuf,
    ballast: Ballast,
    log: LogFile,
    /// As long as the database was, in pages, when its file last held all of it.
    placed: u64,
    has_pages: bool,
}

impl Room {
    pub(super) fn of(dir: &Path, database: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            ballast: Ballast::load(dir),
            log: LogFile::of(database),
            placed: 0,
            has_pages: false,
        }
    }

    /// Makes the log empty. To be called when it was folded and the database is closed.
    pub(super) fn void_log(&self) -> std::io::Result<()> {
        self.log.void()
    }

    fn is_whole(&mut self) -> bool {
        self.has_pages && self.log.reserve() && self.ballast.restore()
    }

    /// Whether the file system has no room. Cheap as long as it has plenty.
    fn is_full(&self) -> bool {
        // Not every file system can tell.
        let plenty = rustix::fs::statvfs(&self.dir)
            .map_or(true, |found| found.f_bavail.saturating_mul(found.f_frsize) >= NARROW);
        !plenty && !self.ballast.could_grow()
    }
}

impl Store {
    /// Fails when what takes space must leave the rest to what frees some.
    pub(in super::super) fn has_room(&mut self) -> Result<()> {
        if !self.room.is_whole() && self.db.is_autocommit() {
            self.restore_room();
        }
        if self.room.is_whole() && !self.room.is_full() {
            return Ok(());
        }
        let words = "the file system is full: only what frees space can be stored";
        Err(Error::new(Kind::NoSpace, Op::Store, &self.name).because(words))
    }

    /// Puts back what was used up, if there is room again. To be called between transactions.
    pub(in super::super) fn restore_room(&mut self) {
        // What was acknowledged gets its blocks before anything else.
        let grown = self.count("PRAGMA page_count").is_none_or(|pages| pages > self.room.placed);
        if grown && !self.fold_log() {
            self.give_up_ballast();
        }
        if !self.room.ballast.is_there() {
            self.fold_log();
        }
        self.room.log.reserve();
        self.room.has_pages = self.refill_pages();
        self.room.ballast.restore();
    }

    /// Folds the log into the database, so that the next transaction is written over its begin: that needs no
    /// room. `false` when it cannot be.
    pub(in super::super) fn fold_log(&mut self) -> bool {
        let pages = self.count("PRAGMA page_count");
        let folded = self.db.query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| row.get::<_, i64>(0));
        match folded {
            Ok(0) => {
                self.room.placed = pages.unwrap_or(0);
                true
            }
            Ok(_) => false,
            Err(error) => {
                tracing::debug!(%error, "the log cannot be folded");
                false
            }
        }
    }

    /// Gives the ballast up on a full file system; `false` when there is none.
    pub(in super::super) fn give_up_ballast(&mut self) -> bool {
        let given = self.room.ballast.give_up();
        if given {
            // The database may have to grow for that: while there is room. If it fails there is still the room.
            self.fold_log();
        }
        given
    }

    /// Sees to it that the database has free pages. Whether it has.
    ///
    /// A row that fills them is stored, folded, so that they have blocks, and deleted.
    fn refill_pages(&mut self) -> bool {
        let (Some(free), Some(size)) = (self.count("PRAGMA freelist_count"), self.count("PRAGMA page_size"))
        else {
            return false;
        };
        if free >= LOW {
            return true;
        }
        let bytes = FULL.saturating_sub(free).saturating_mul(size);
        let fill = "INSERT OR REPLACE INTO meta (key, value) VALUES ('free_pages', hex(zeroblob(?1)))";
        let filled = self.db.execute(fill, [i64::try_from(bytes / 2).unwrap_or(0)]);
        if filled.is_ok() && !self.fold_log() {
            self.give_up_ballast();
        }
        let deleted = self.db.execute("DELETE FROM meta WHERE key = 'free_pages'", []);
        match filled.and(deleted).at_store(&self.name) {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(error = error.report(), "no room for free pages");
                false
            }
        }
    }

    fn count(&self, pragma: &str) -> Option<u64> {
        let counted =
            self.db.prepare_cached(pragma).and_then(|mut sql| sql.query_row([], |row| row.get::<_, i64>(0)));
        counted.ok().and_then(|count| u64::try_from(count).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing;
    use super::super::log;
    use super::*;

    fn row(store: &Store, bytes: usize) {
        let sql = "INSERT OR REPLACE INTO meta (key, value) VALUES ('test', ?1)";
        store.db.execute(sql, ["x".repeat(bytes)]).unwrap();
    }

    #[test]
    fn what_fits_into_the_free_pages_makes_no_file_longer_and_what_was_taken_is_made_up_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = testing::open(dir.path()).store;
        let lengths = || {
            ["state.db", "state.db-wal"].map(|file| std::fs::metadata(dir.path().join(file)).unwrap().len())
        };
        let before = lengths();
        assert_eq!(before[1], log::SIZE);
        for bytes in [20_000, 40_000, 60_000, 80_000] {
            row(&store, bytes);
            assert!(store.fold_log());
            assert_eq!(lengths(), before);
        }
        row(&store, 500_000);
        assert!(store.count("PRAGMA freelist_count").unwrap() < LOW);
        store.restore_room();
        assert!(store.count("PRAGMA freelist_count").unwrap() >= LOW);
        let grown = lengths();
        assert!(grown[0] > before[0]);
        row(&store, 400_000);
        assert!(store.fold_log());
        assert_eq!(lengths(), grown);
    }

    #[test]
    fn a_closed_store_leaves_a_log_that_is_long_and_empty() {
        let dir = tempfile::tempdir().unwrap();
        let older = dir.path().join("older");
        let database = dir.path().join("state.db");
        testing::open(dir.path()).store.close().unwrap();
        std::fs::copy(&database, &older).unwrap();
        let store = testing::open(dir.path()).store;
        row(&store, 5_000);
        store.close().unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("state.db-wal")).unwrap().len(), log::SIZE);
        std::fs::copy(&older, &database).unwrap();
        let store = testing::open(dir.path()).store;
        let rows: i64 =
            store.db.query_row("SELECT count(*) FROM meta WHERE key = 'test'", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0, "what the older copy did not have");
    }

    #[test]
    fn a_ballast_that_was_given_up_is_back_before_anything_takes_space() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = testing::open(dir.path()).store;
        store.has_room().unwrap();
        assert!(store.give_up_ballast());
        store.has_room().unwrap();
        assert!(dir.path().join("ballast").exists());
    }
}
