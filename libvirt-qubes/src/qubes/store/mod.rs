//! The store: an SQLite database in the state directory, and one connection that writes it.
//!
//! It owns the files of the state directory that begin with `state.db`, `lock` and `ballast`, and knows how
//! rows become a [`Model`]. What may be written it does not judge: that is the model's. All methods block.

mod ballast;
pub(super) mod columns;
pub(super) mod error;
mod first;
mod load;
mod lock;
mod rows;
mod schema;

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;

use self::ballast::Ballast;
use self::error::AtStore;
pub use self::first::FirstStart;
use self::lock::StateLock;
use super::model::Model;
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
    ballast: Ballast,
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
        let mut db = connect(&path)?;
        let before = schema::migrate(&mut db, &name, |db| {
            for write in first::contents(&first()?)? {
                write.execute(db).at_store(&name)?;
            }
            Ok(())
        })?;
        File::open(dir).and_then(|dir| dir.sync_all()).at(Op::Store, dir.display())?;
        let mut model = load::model(&db, &name)?;
        ensure_dom0(&db, &name, &mut model)?;
        let ballast = Ballast::load(dir);
        let last_number = reserved_numbers(&db, &name)?;
        let mut store = Self { db, name, ballast, reserved_numbers: last_number, _lock: lock };
        store.reserve_numbers(last_number)?;
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
        let write = |db: &Connection| db.execute(sql, [reserved.to_string()]).at_store(&self.name);
        match write(&self.db) {
            Err(error) if error.kind() == Kind::NoSpace && self.ballast.give_up() => write(&self.db)?,
            result => result?,
        };
        self.reserved_numbers = reserved;
        Ok(())
    }

    /// Reads the whole store again.
    #[cfg(test)]
    pub(super) fn read(&self) -> Result<Model> {
        load::model(&self.db, &self.name)
    }

    /// Folds the log into the database and closes it.
    pub(super) fn close(self) -> Result<()> {
        let folded = self.db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").at_store(&self.name);
        let closed = self.db.close().map_err(|(_, error)| error).at_store(&self.name);
        folded.and(closed)
    }

    /// Gives the ballast up on a full file system; `false` when there is none.
    pub(super) fn give_up_ballast(&mut self) -> bool {
        self.ballast.give_up()
    }

    /// Puts the ballast back if it was given up and there is room again.
    pub(super) fn restore_ballast(&mut self) {
        self.ballast.restore();
    }
}

/// There is no model without dom0: one whose row is bad or missing begins anew, with nothing set.
fn ensure_dom0(db: &Connection, name: &str, model: &mut Model) -> Result<()> {
    if model.vm(Vm::DOM0).is_some() {
        return Ok(());
    }
    let label = model.label(first::BLACK).or_else(|| model.labels().next()).map(|label| label.index);
    let label = label.ok_or_else(|| Error::new(Kind::Corrupt, Op::Store, name).because("it has no label"))?;
    let dom0 = Arc::new(first::dom0(label));
    if model.uuid_is_free(Vm::DOM0) {
        Write::AddVm(dom0.clone()).execute(db).at_store(name)?;
    }
    tracing::error!("dom0 has no good row in the store; nothing is set for it");
    model.put_vm(dom0);
    Ok(())
}

fn reserved_numbers(db: &Connection, name: &str) -> Result<u64> {
    use rusqlite::OptionalExtension;
    let sql = "SELECT value FROM meta WHERE key = 'event_numbers'";
    let text: Option<String> = db.query_row(sql, [], |row| row.get(0)).optional().at_store(name)?;
    let Some(text) = text else { return Ok(0) };
    text.parse().map_err(|error| Error::new(Kind::Corrupt, Op::Store, name).because(error))
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
    // The log goes back to this size at a checkpoint after a burst.
    pragma(&db, path, "journal_size_limit", "4194304")?;
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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::class::{VmClass, VolumeKind};
    use super::super::global::Global;
    use super::super::pending::{PendingKind, StartPhase, VolumeProgress};
    use super::super::testing::{self, Rig, new_vm};
    use super::super::value::{Shown, Value};
    use super::super::{create, pool, property};
    use super::*;
    use crate::config::Access;
    use crate::ids::{ByteSize, PoolName};

    fn edit(dir: &Path, sql: &str) {
        let db = Connection::open(dir.join("state.db")).unwrap();
        db.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        db.execute_batch(sql).unwrap();
    }

    /// A state with template `debian` and AppVM `work`, closed again.
    fn filled() -> tempfile::TempDir {
        let mut rig = Rig::new();
        for new in
            [new_vm("debian", VmClass::TemplateVm, None), new_vm("work", VmClass::AppVm, Some("debian"))]
        {
            let plan = rig.commit(move |state| create::begin(state, &new)).unwrap();
            rig.commit(move |state| create::finish(state, &plan)).unwrap();
        }
        let work = rig.snapshot().model.vm_named("work").unwrap().uuid;
        rig.commit(move |state| property::set(state, work, "memory", b"500")).unwrap();
        rig.close();
        std::mem::replace(&mut rig.dir, tempfile::tempdir().unwrap())
    }

    #[test]
    fn a_first_start_holds_dom0_eight_labels_two_pools_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("new/state");
        let opened = testing::open(&state);
        assert_eq!(opened.start, Start::First);
        let model = &opened.model;
        let vms: Vec<_> = model.vms().map(|vm| (vm.name.as_str(), vm.class, vm.qid.get(), vm.uuid)).collect();
        assert_eq!(vms, [("dom0", VmClass::AdminVm, 0, Uuid::nil())]);
        let labels: Vec<_> =
            model.labels().map(|l| (l.index.get(), l.name.as_str(), l.colour.as_str())).collect();
        assert_eq!(
            (labels.len(), labels[0], labels[7]),
            (8, (1, "red", "0xcc0000"), (8, "black", "0x000000"))
        );
        let pools: Vec<_> =
            model.pools().map(|p| (p.name.as_str(), &*p.driver, &*p.options["dir_path"])).collect();
        assert_eq!(
            pools,
            [
                ("varlibqubes", "file", "/srv/varlibqubes"),
                ("linux-kernel", "linux-kernel", "/srv/vm-kernels")
            ]
        );
        let pool = |name: &str| Value::Pool(name.parse().unwrap());
        let globals: Vec<_> = model.globals().map(|(global, value)| (global, value.clone())).collect();
        assert_eq!(
            globals,
            [
                (Global::DefaultKernel, Value::text("")),
                (Global::DefaultPool, pool("varlibqubes")),
                (Global::DefaultPoolKernel, pool("linux-kernel"))
            ]
        );
        assert_eq!(std::fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
        for file in ["state.db", "state.db-wal", "lock", "ballast"] {
            assert_eq!(std::fs::metadata(state.join(file)).unwrap().mode() & 0o777, 0o600, "{file}");
        }
    }

    #[test]
    fn a_state_of_version_1_is_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        edit(dir.path(), include_str!("v1.sql"));
        edit(dir.path(), include_str!("v1_content.sql"));
        edit(dir.path(), "PRAGMA user_version = 1; PRAGMA application_id = 0x51754d67");
        let opened = Store::open(dir.path(), || panic!("not a first start")).unwrap();
        assert_eq!(opened.last_number, 4_294_967_300);
        let state = testing::snapshot_of(opened.model);
        let model = &state.model;
        assert_eq!(model.set_aside().count(), 0, "{:?}", model.set_aside().collect::<Vec<_>>());

        let names: Vec<_> =
            model.vms().map(|vm| (vm.name.as_str(), vm.qid.get(), vm.class.as_str())).collect();
        assert_eq!(
            names,
            [
                ("dom0", 0, "AdminVM"),
                ("debian", 1, "TemplateVM"),
                ("disp4711", 7, "DispVM"),
                ("sys-net", 2, "AppVM")
            ]
        );
        let get = |vm: &str, name: &str| {
            let answer = property::get(&state, model.vm_named(vm).unwrap(), name).unwrap();
            (answer.origin == property::Origin::Explicit, answer.value)
        };
        let (vm, text) =
            (|name: &str| Shown::Vm(name.parse().unwrap()), |text: &str| Shown::Str(text.into()));
        assert_eq!(get("debian", "memory"), (true, Shown::Int(700)));
        assert_eq!(get("sys-net", "memory"), (false, Shown::Int(700)));
        assert_eq!(get("debian", "kernelopts"), (true, text("quiet ro")));
        assert_eq!(get("sys-net", "kernel"), (false, text("6.1")));
        assert_eq!(get("sys-net", "netvm"), (true, Shown::None));
        assert_eq!(get("sys-net", "label"), (true, Shown::Label("red".parse().unwrap())));
        assert_eq!(get("disp4711", "netvm"), (true, vm("sys-net")));
        assert_eq!(get("disp4711", "template"), (true, vm("sys-net")));
        assert_eq!(get("disp4711", "dispid"), (true, Shown::Int(4711)));
        assert_eq!(get("disp4711", "label"), (true, Shown::Label("pink".parse().unwrap())));

        let sys_net = model.vm_named("sys-net").unwrap();
        let volumes: Vec<_> =
            sys_net.volumes.iter().map(|v| (v.name.as_str(), v.kind, v.size, v.ephemeral)).collect();
        let (snapshot, volatile) = (VolumeKind::Snapshot, VolumeKind::Volatile);
        assert_eq!(
            volumes,
            [("root", snapshot, None, None), ("volatile", volatile, Some(ByteSize::gib(12)), Some(true))]
        );
        let root = model.vm_named("debian").unwrap().volume("root").unwrap();
        assert_eq!((root.revisions_to_keep, root.access), (Some(3), Access::ReadWrite));
        assert_eq!(model.volume_size(sys_net, "root"), Some(ByteSize::gib(10)));
        assert_eq!(sys_net.tags.iter().map(|tag| tag.as_str()).collect::<Vec<_>>(), ["created-by-dom0"]);
        let features: Vec<_> =
            sys_net.features.iter().map(|(n, f)| (n.as_str(), f.value.as_str(), f.position)).collect();
        assert_eq!(features, [("gui", "", 1), ("servicevm", "1", 2)]);

        assert_eq!(&*model.pool("varlibqubes").unwrap().options["revisions_to_keep"], "2");
        assert_eq!(model.global_vm(Global::DefaultTemplate), Some(model.vm_named("debian").unwrap().uuid));
        assert_eq!(
            (model.global_vm(Global::DefaultNetvm), model.global_int(Global::StatsInterval)),
            (None, Some(5))
        );
        assert_eq!(model.default_pool_of("root").map(PoolName::as_str), Some("varlibqubes"));

        let pending: Vec<_> =
            model.pending().map(|row| (row.id.get(), row.kind, row.vm.name.as_str())).collect();
        let start = PendingKind::Start(StartPhase::Unpausing);
        assert_eq!(pending, [(3, PendingKind::Create, "half-made"), (4, start, "sys-net")]);
        let made: Vec<_> =
            model.pending().next().unwrap().volumes.iter().map(|v| (&*v.vid, v.progress)).collect();
        assert_eq!(
            made,
            [
                ("appvms/half-made/root", VolumeProgress::Made),
                ("appvms/half-made/private", VolumeProgress::Planned)
            ]
        );
        assert!(model.start_pending(sys_net.uuid) && !model.name_is_free(&"half-made".parse().unwrap()));
        assert_eq!(model.free_qid().unwrap().get(), 4);
    }

    #[test]
    fn a_later_start_finds_what_was_left_and_asks_nothing() {
        let dir = filled();
        let opened = Store::open(dir.path(), || panic!("not a first start")).unwrap();
        assert_eq!(opened.start, Start::Later);
        let names: Vec<_> = opened.model.vms().map(|vm| vm.name.as_str()).collect();
        assert_eq!(names, ["dom0", "debian", "work"]);
        assert_eq!(opened.model.set_aside().count(), 0);
    }

    #[test]
    fn a_second_opener_is_refused_and_told_who_was_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = testing::open(dir.path());
        let error = Store::open(dir.path(), || panic!("not a first start")).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy);
        assert!(error.report().contains(&format!("process {}", std::process::id())), "{}", error.report());
        drop(first);
        testing::open(dir.path());
    }

    #[test]
    fn numbers_of_events_begin_above_those_of_every_earlier_start() {
        let dir = tempfile::tempdir().unwrap();
        let mut last = 0;
        for _ in 0..3 {
            let mut opened = testing::open(dir.path());
            assert!(opened.last_number >= last);
            last = opened.last_number + 10;
            opened.store.reserve_numbers(last).unwrap();
        }
        let mut opened = testing::open(dir.path());
        let far = opened.last_number + 3 * NUMBER_BLOCK;
        opened.store.reserve_numbers(far).unwrap();
        drop(opened);
        assert!(testing::open(dir.path()).last_number > far);
    }

    #[test]
    fn a_database_that_is_damaged_or_another_programs_is_an_error_and_is_left_alone() {
        for content in ["no database at all, but long enough to have a header".repeat(4), String::new()] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("state.db");
            if content.is_empty() {
                edit(dir.path(), "CREATE TABLE theirs (x)");
            } else {
                std::fs::write(&path, &content).unwrap();
            }
            let before = std::fs::read(&path).unwrap();
            let error = Store::open(dir.path(), || panic!("not a first start")).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt, "{}", error.report());
            if !content.is_empty() {
                assert_eq!(std::fs::read(&path).unwrap(), before);
            }
        }
    }

    #[test]
    fn a_bad_row_of_a_vm_is_set_aside_and_keeps_what_it_has() {
        for (sql, word) in [
            ("UPDATE vm SET class = 'CloudVM' WHERE name = 'work'", "CloudVM"),
            ("UPDATE vm SET qid = 70000 WHERE name = 'work'", "70000"),
            ("UPDATE vm SET label = 99 WHERE name = 'work'", "label 99"),
            ("UPDATE vm SET class = 'AdminVM' WHERE name = 'work'", "dom0 alone"),
            ("UPDATE vm_property SET value = '-5'", "memory must be positive"),
            ("UPDATE vm_property SET value = '05'", "05"),
            ("UPDATE vm_property SET name = 'nonsense'", "nonsense"),
            ("UPDATE vm_property SET name = 'xid'", "xid"),
            ("UPDATE vm_reference SET name = 'memory'", "memory"),
            ("UPDATE vm_reference SET target = NULL", "VmRequired"),
            ("DELETE FROM vm_reference", "no template"),
            ("UPDATE vm_reference SET target = '00000000-0000-0000-0000-000000000000'", "WrongClass"),
            ("UPDATE vm_reference SET target = 'nobody'", "nobody"),
            (
                "UPDATE volume SET kind = 'liquid' WHERE vm IN (SELECT uuid FROM vm WHERE name = 'work')",
                "liquid",
            ),
            ("UPDATE volume SET pool = 'gone' WHERE vm IN (SELECT uuid FROM vm WHERE name = 'work')", "gone"),
            ("INSERT INTO tag SELECT uuid, 'a b' FROM vm WHERE name = 'work'", "a b"),
            ("INSERT INTO feature SELECT uuid, 'a b', '', 1 FROM vm WHERE name = 'work'", "a b"),
        ] {
            let dir = filled();
            edit(dir.path(), sql);
            let model = testing::open(dir.path()).model;
            assert!(model.vm_named("work").is_none(), "{sql}");
            assert!(model.vm_named("debian").is_some(), "{sql}");
            let row = model.set_aside().next().unwrap();
            assert!(row.name == "work" && row.reason.contains(word), "{sql}: {row:?}");
            assert!(!model.name_is_free(&"work".parse().unwrap()), "{sql}");
            assert!(!model.uuid_is_free(row.uuid.unwrap()), "{sql}");
            let free = model.free_qid().unwrap().get();
            assert_eq!(free, if sql.contains("70000") { 2 } else { 3 }, "{sql}");
            if !sql.contains("gone") {
                assert!(model.occupant("varlibqubes", "appvms/work/private").is_some(), "{sql}");
            }
        }
    }

    #[test]
    fn what_refers_to_a_bad_row_loads_and_the_bad_row_keeps_others_in_use() {
        let dir = filled();
        edit(dir.path(), "UPDATE vm SET class = 'CloudVM' WHERE name = 'debian'");
        let model = testing::open(dir.path()).model;
        let state = testing::snapshot_of(model);
        let work = testing::vm(&state, "work");
        let template = property::get(&state, &work, "template").unwrap();
        assert_eq!(template.value, Shown::Vm("debian".parse().unwrap()));

        let dir = filled();
        edit(dir.path(), "UPDATE vm SET class = 'CloudVM' WHERE name = 'work'");
        let state = testing::snapshot_of(testing::open(dir.path()).model);
        let debian = testing::vm(&state, "debian").uuid;
        let refused = super::super::remove::begin(&state, debian).unwrap_err();
        assert!(format!("{refused:?}").contains("work"), "{refused:?}");
    }

    #[test]
    fn bad_labels_pools_globals_and_operations_are_set_aside() {
        for (sql, table) in [
            ("UPDATE label SET colour = 'pink' WHERE idx = 3", "label"),
            ("UPDATE pool SET position = -1 WHERE name = 'linux-kernel'", "pool"),
            ("UPDATE global SET value = NULL WHERE name = 'default_kernel'", "global"),
            ("INSERT INTO global (name, value) VALUES ('default_weather', 'sun')", "global"),
            ("INSERT INTO pending VALUES (7, 'dance', NULL, 'x', 5, 'ghost')", "pending"),
        ] {
            let dir = filled();
            edit(dir.path(), sql);
            let model = testing::open(dir.path()).model;
            let tables: Vec<_> = model.set_aside().map(|row| row.table).collect();
            assert_eq!(tables, [table], "{sql}");
            assert_eq!(model.vm_count(), 3, "{sql}");
            if table == "pending" {
                assert!(!model.name_is_free(&"ghost".parse().unwrap()));
            }
        }
    }

    #[test]
    fn there_is_always_a_dom0() {
        for sql in ["UPDATE vm SET class = 'AppVM' WHERE qid = 0", "DELETE FROM vm WHERE qid = 0"] {
            let dir = filled();
            edit(dir.path(), sql);
            let model = testing::open(dir.path()).model;
            assert_eq!(model.vms().next().map(|vm| vm.name.as_str()), Some("dom0"), "{sql}");
        }
    }

    #[test]
    fn a_pools_options_are_replaced_with_it() {
        let dir = filled();
        let mut opened = testing::open(dir.path());
        let mut pool = pool::Pool::clone(opened.model.pool("varlibqubes").unwrap());
        pool.options = [("revisions_to_keep".into(), "2".into())].into();
        let write = Write::SetPool(Arc::new(pool.clone()));
        write.apply(&mut opened.model).unwrap();
        write.execute(&opened.store.db).unwrap();
        drop(opened);
        assert_eq!(**testing::open(dir.path()).model.pool("varlibqubes").unwrap(), pool);
    }
}
