//! What every [`Driver`] of persistent volumes keeps: the sentences of its documentation, each tried out on a real
//! pool.

#![expect(clippy::expect_used, clippy::panic, reason = "a broken contract panics, as a test does")]

mod data;
mod life;
mod sources;
mod states;

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crate::config::Access;
use crate::error::{Kind, Result};
use crate::ids::ByteSize;
use crate::storage::{
    Driver, Ending, Job, RevisionId, RevisionsToKeep, Sharing, Started, VolumeId, VolumeKind, VolumeSpec,
};

/// A place to try a driver on.
pub trait Fixture: Send + Sync {
    /// The driver on a new, empty pool of its own with room for some 64 MiB; not set up yet.
    fn new_pool(&self) -> Arc<dyn Driver>;
}

/// One contract.
#[derive(Clone, Copy)]
pub struct Contract {
    /// What is kept, as a function's name.
    pub name: &'static str,
    run: fn(&Pool),
}

impl fmt::Debug for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Contract {
    /// Tries the contract on a new pool. Panics, with what was seen, when it is broken.
    pub fn run(&self, fixture: &dyn Fixture) {
        let driver = fixture.new_pool();
        must(driver.setup(), "setup");
        (self.run)(&Pool { driver });
    }
}

macro_rules! contracts {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$(Contract { name: stringify!($name), run: $module::$name }),*]
    };
}

/// Every contract.
pub const CONTRACTS: &[Contract] = contracts![
    life::a_pool_can_be_set_up_again,
    life::a_new_volume_is_empty_and_as_large_as_asked_for,
    life::a_volume_that_is_there_is_not_created_again,
    life::what_a_run_wrote_is_there_after_its_stop,
    life::a_volatile_volume_is_empty_at_each_start,
    life::a_start_that_no_domain_used_is_taken_back,
    life::a_volume_left_dirty_continues_on_what_it_has,
    life::recovery_commits_what_a_crash_left,
    life::stop_and_recovery_of_what_is_at_rest_change_nothing,
    life::a_removed_volume_leaves_nothing_and_others_alone,
    life::what_is_not_there_is_not_found,
    life::a_volume_grows_and_never_shrinks,
    life::a_running_volume_grows,
    life::a_volume_that_is_not_written_is_not_committed,
    sources::a_snapshot_holds_its_source_and_is_dropped,
    sources::a_snapshot_keeps_what_it_took_and_knows_that_it_is_outdated,
    sources::a_source_is_free_once_its_state_is_fixed,
    sources::a_cancelled_start_leaves_nothing,
    sources::without_snapshots_a_running_volume_is_no_source,
    sources::without_snapshots_a_reader_is_not_disturbed_by_a_start,
    sources::an_export_stays_what_it_is,
    sources::only_persistent_volumes_are_exported_or_imported,
    states::the_newest_revisions_are_kept,
    states::a_revert_goes_back_and_keeps_what_was,
    states::a_state_that_was_gone_back_to_is_the_newest_when_it_is_former_again,
    states::a_kept_state_stays_until_it_is_forgotten,
    states::former_states_are_listed_oldest_first,
    states::a_dirty_volume_is_not_reverted,
    data::an_import_becomes_the_state_as_a_whole,
    data::an_import_of_unknown_length_gives_the_volume_its_size,
    data::an_import_makes_a_volume_that_is_not_there,
    data::what_somebody_else_writes_is_what_has_come,
    data::a_broken_off_import_leaves_nothing,
    data::too_much_and_too_little_data_are_refused,
    data::an_import_excludes_what_would_disturb_it,
    data::a_dirty_volume_takes_no_import,
    data::a_copy_is_the_source_whatever_becomes_of_it,
    data::a_cancelled_copy_changes_nothing,
];

/// Tries every contract on pools of `fixture` and prints a line for each.
pub fn storage_contract(fixture: &dyn Fixture) {
    for contract in CONTRACTS {
        eprint!("contract {} ... ", contract.name);
        contract.run(fixture);
        eprintln!("ok");
    }
}

/// A multiple of every block and extent size in use.
const SIZE: u64 = 4 << 20;

/// What a contract works with.
pub(crate) struct Pool {
    driver: Arc<dyn Driver>,
}

/// A persistent volume of 4 MiB that others may take as source, with two revisions.
fn origin() -> VolumeSpec {
    VolumeSpec {
        kind: VolumeKind::Origin,
        size: ByteSize::bytes(SIZE),
        revisions_to_keep: RevisionsToKeep::Newest(2),
        access: Access::ReadWrite,
        sharing: Sharing::Source,
        ephemeral: false,
    }
}

fn snapshot_of(source: &VolumeId) -> VolumeSpec {
    VolumeSpec {
        kind: VolumeKind::Snapshot { source: source.clone() },
        sharing: Sharing::Private,
        ..origin()
    }
}

fn keeping(revisions_to_keep: RevisionsToKeep) -> VolumeSpec {
    VolumeSpec { revisions_to_keep, ..origin() }
}

fn id(text: &str) -> VolumeId {
    text.parse().expect("a volume's id")
}

impl Pool {
    fn start(&self, id: &VolumeId, spec: &VolumeSpec) -> Started {
        let started = must(self.driver.start(id, spec, &mut || {}, &Job::default()), "start");
        started.expect("a volume of data has a device")
    }

    fn stop(&self, id: &VolumeId, spec: &VolumeSpec) {
        must(self.driver.stop(id, spec, Ending::Ran), "stop");
    }

    /// A whole run that writes `data` at the volume's start.
    fn run(&self, id: &VolumeId, spec: &VolumeSpec, data: &[u8]) {
        let started = self.start(id, spec);
        write(&started.path, 0, data);
        self.stop(id, spec);
    }

    /// A new volume that holds `data`.
    fn holding(&self, id: &VolumeId, spec: &VolumeSpec, data: &[u8]) {
        must(self.driver.create(id, spec), "create");
        self.run(id, spec, data);
    }

    /// The first bytes of the committed state.
    fn committed(&self, id: &VolumeId, spec: &VolumeSpec, count: usize) -> Vec<u8> {
        let export = must(self.driver.export(id, spec), "export");
        read_file(export.file(), 0, count)
    }

    fn revisions(&self, id: &VolumeId) -> Vec<RevisionId> {
        let Some(revisions) = self.driver.as_revisions() else { return Vec::new() };
        must(revisions.revisions(id), "revisions").into_iter().map(|r| r.id).collect()
    }

    /// Nothing of the volume is left.
    fn assert_gone(&self, id: &VolumeId) {
        let contents = must(self.driver.contents(), "contents");
        assert!(!contents.volumes.contains(id), "{id} is there: {contents:?}");
        assert_eq!(contents.unknown, Vec::<std::path::PathBuf>::new());
        assert_eq!(self.revisions(id), Vec::new());
    }
}

fn write(path: &Path, offset: u64, data: &[u8]) {
    let file = File::options().write(true).open(path).expect("a started volume can be opened");
    file.write_all_at(data, offset).expect("a started volume can be written");
    file.sync_all().expect("a started volume can be synced");
}

fn read(path: &Path, offset: u64, count: usize) -> Vec<u8> {
    read_file(&File::open(path).expect("a started volume can be opened"), offset, count)
}

fn read_file(file: &File, offset: u64, count: usize) -> Vec<u8> {
    let mut data = vec![0; count];
    file.read_exact_at(&mut data, offset).expect("a volume can be read");
    data
}

#[track_caller]
fn must<T>(result: Result<T>, what: &str) -> T {
    match result {
        Ok(value) => value,
        Err(e) => panic!("{what}: {}", e.report()),
    }
}

#[track_caller]
fn must_fail<T>(result: Result<T>, kind: Kind) {
    match result {
        Ok(_) => panic!("succeeded, {kind:?} was to come"),
        Err(e) => assert_eq!(e.kind(), kind, "{}", e.report()),
    }
}
