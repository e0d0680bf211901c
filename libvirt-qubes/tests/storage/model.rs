//! Random sequences of operations, crashes among them, against a model of a few lines.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libvirt_qubes::Kind;
use libvirt_qubes::config::Access;
use libvirt_qubes::ids::ByteSize;
use libvirt_qubes::storage::mapper::Mapper;
use libvirt_qubes::storage::{
    CopyOnWrite, Driver, Ending, ImageDriver, ImportSize, Job, Resize, RevisionId, Revisions,
    RevisionsToKeep, SetupCheck, Sharing, VolumeId, VolumeKind, VolumeSpec,
};
use proptest::prelude::*;

use crate::filesystem::{Mkfs, Mounted};
use crate::kernel_model::ModelOfKernel;

const SIZE: u64 = 8192;

#[derive(Debug, Clone)]
enum Action {
    Keep(i64),
    Share(Sharing),
    Start,
    Write(u8),
    Stop,
    TakeBack,
    /// The VM's end is not seen: recovery instead of a stop.
    Crash,
    Import(u8),
    BreakOffImport,
    CopyFromOther,
    Revert(usize),
    KeepState,
    Forget(usize),
    Grow,
    StartSnapshot,
    StopSnapshot,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => (-1i64..4).prop_map(Action::Keep),
        1 => prop_oneof![Just(Sharing::Private), Just(Sharing::Source)].prop_map(Action::Share),
        6 => Just(Action::Start),
        6 => (1u8..255).prop_map(Action::Write),
        6 => Just(Action::Stop),
        2 => Just(Action::TakeBack),
        2 => Just(Action::Crash),
        2 => (1u8..255).prop_map(Action::Import),
        1 => Just(Action::BreakOffImport),
        1 => Just(Action::CopyFromOther),
        3 => (0usize..6).prop_map(Action::Revert),
        1 => Just(Action::KeepState),
        1 => (0usize..6).prop_map(Action::Forget),
        1 => Just(Action::Grow),
        2 => Just(Action::StartSnapshot),
        2 => Just(Action::StopSnapshot),
    ]
}

/// First byte and size: enough to tell states apart.
type State = (u8, u64);

struct Model {
    clean: State,
    /// Of a run, and whether it is written in place.
    dirty: Option<(State, bool)>,
    /// Nothing was written since the start.
    untouched: bool,
    /// Oldest first; those that a commit made.
    revisions: Vec<State>,
    kept: BTreeMap<u64, State>,
    next_kept: u64,
    snapshot: Option<State>,
    spec: VolumeSpec,
    file: bool,
    /// Snapshots are devices: no image that one shows is written.
    mapped: bool,
}

impl Model {
    fn commit(&mut self, new: State) {
        let keep = self.spec.revisions_to_keep.count();
        self.revisions.push(self.clean);
        let surplus = self.revisions.len().saturating_sub(keep);
        self.revisions.drain(..surplus);
        self.clean = new;
    }

    fn in_place(&self) -> bool {
        let no_takers = self.spec.sharing == Sharing::Private && self.spec.revisions_to_keep.count() == 0;
        self.spec.revisions_to_keep == RevisionsToKeep::Disabled || (self.file && no_takers)
    }
}

struct Real<'a> {
    driver: &'a ImageDriver,
    root: &'a Path,
    id: VolumeId,
    other: VolumeId,
    snapshot: VolumeId,
}

fn state_of(path: &Path) -> State {
    let file = std::fs::File::open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).unwrap();
    (byte[0], file.metadata().unwrap().len())
}

impl Real<'_> {
    fn clean(&self) -> PathBuf {
        self.root.join("appvms/work/private.img")
    }

    fn ids(&self) -> Vec<RevisionId> {
        self.driver.revisions(&self.id).unwrap().into_iter().map(|r| r.id).collect()
    }

    /// In the order in which the model has them: those that a commit made by number, then the others by number.
    fn ordered(&self) -> Vec<RevisionId> {
        let mut ids = self.ids();
        let number = |id: &RevisionId| id.as_str().trim_start_matches('s').parse::<u64>().unwrap();
        ids.sort_by_key(|id| (id.as_str().starts_with('s'), number(id)));
        ids
    }

    fn start(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<PathBuf, Kind> {
        let started = self.driver.start(id, spec, &mut || {}, &Job::default());
        started.map(|s| s.unwrap().path).map_err(|e| e.kind())
    }
}

fn apply(real: &Real<'_>, model: &mut Model, action: &Action) {
    let (driver, id, spec) = (real.driver, &real.id, model.spec.clone());
    let snapshot_spec = VolumeSpec { kind: VolumeKind::Snapshot { source: id.clone() }, ..spec.clone() };
    match action {
        Action::Keep(keep) => model.spec.revisions_to_keep = RevisionsToKeep::try_from(*keep).unwrap(),
        Action::Share(sharing) => model.spec.sharing = *sharing,
        Action::Start => {
            let path = real.start(id, &spec).unwrap();
            if model.dirty.is_none() {
                // Whether the snapshot is of the present image is not the model's to know: what it shows is compared.
                let copied = model.mapped && model.snapshot.is_some() && real.clean().exists();
                let in_place = model.in_place() && !copied;
                if model.in_place() {
                    model.revisions.clear();
                }
                model.dirty = Some((model.clean, in_place));
                model.untouched = true;
            } else {
                // It goes on with what an earlier run left: what that wrote is not known.
                model.untouched = false;
            }
            assert_eq!(state_of(&path), model.dirty.unwrap().0);
        }
        Action::Write(byte) => {
            if let Some((state, _)) = &mut model.dirty {
                let path = driver.info(id, &spec).unwrap().path.unwrap();
                std::fs::File::options().write(true).open(path).unwrap().write_all_at(&[*byte], 0).unwrap();
                state.0 = *byte;
                model.untouched = false;
            }
        }
        Action::Stop | Action::Crash => {
            if matches!(action, Action::Stop) {
                driver.stop(id, &spec, Ending::Ran).unwrap();
            } else {
                driver.recover(id, &spec).unwrap();
            }
            match model.dirty.take() {
                Some((state, true)) => {
                    model.clean = state;
                    // No revision is made of it, but what is too much goes.
                    let surplus = model.revisions.len().saturating_sub(spec.revisions_to_keep.count());
                    model.revisions.drain(..surplus);
                }
                // A Start that ended before its guest ran costs no revision.
                Some((_, false)) if model.untouched && matches!(action, Action::Crash) => {}
                Some((state, false)) => model.commit(state),
                None => {}
            }
        }
        Action::TakeBack => {
            driver.stop(id, &spec, Ending::NeverRan).unwrap();
            match model.dirty {
                Some((state, true)) => {
                    model.clean = state;
                    model.dirty = None;
                }
                Some(_) if !driver.info(id, &spec).unwrap().dirty => {
                    let (state, _) = model.dirty.take().unwrap();
                    assert_eq!(state, model.clean, "something that was written is gone");
                }
                _ => {}
            }
        }
        Action::Import(byte) => {
            let import = driver.begin_import(id, &spec, ImportSize::AsItComes);
            if model.dirty.is_some() {
                assert_eq!(import.err().unwrap().kind(), Kind::Busy);
                return;
            }
            let mut import = import.unwrap();
            import.write(&[*byte; 600]).unwrap();
            import.finish().unwrap();
            model.commit((*byte, 1024));
        }
        Action::BreakOffImport => {
            if let Ok(mut import) = driver.begin_import(id, &spec, ImportSize::AsItComes) {
                import.write(&[9; 600]).unwrap();
            }
        }
        Action::CopyFromOther => {
            let export = driver.export(&real.other, &spec).unwrap();
            let copied = driver.import_from(id, &spec, &export, &Job::default());
            if model.dirty.is_some() {
                assert_eq!(copied.unwrap_err().kind(), Kind::Busy);
            } else {
                copied.unwrap();
                model.commit((77, SIZE));
            }
        }
        Action::Revert(index) => {
            let ids = real.ordered();
            let Some(wanted) = ids.get(*index) else { return };
            let reverted = driver.revert(id, &spec, wanted, &Job::default());
            if model.dirty.is_some() {
                assert_eq!(reverted.unwrap_err().kind(), Kind::Busy);
                return;
            }
            reverted.unwrap();
            if *index < model.revisions.len() {
                let state = model.revisions.remove(*index);
                model.commit(state);
            } else {
                let state = *model.kept.values().nth(*index - model.revisions.len()).unwrap();
                model.commit(state);
            }
        }
        Action::KeepState => match driver.keep(id, &spec, model.next_kept, &Job::default()) {
            Ok(kept) => {
                assert_eq!(kept.as_str(), format!("s{}", model.next_kept));
                let state = model.dirty.map_or(model.clean, |(state, _)| state);
                model.kept.insert(model.next_kept, state);
                model.next_kept += 1;
            }
            Err(e) => {
                assert_eq!(e.kind(), Kind::Busy);
                assert!(model.dirty.is_some());
            }
        },
        Action::Forget(index) => {
            let ids = real.ordered();
            let Some(wanted) = ids.get(*index) else { return };
            driver.forget(id, wanted).unwrap();
            if *index < model.revisions.len() {
                model.revisions.remove(*index);
            } else {
                let number = *model.kept.keys().nth(*index - model.revisions.len()).unwrap();
                model.kept.remove(&number);
            }
        }
        Action::Grow => {
            let state = model.dirty.as_mut().map_or(&mut model.clean, |(state, _)| state);
            state.1 += 512;
            model.untouched = false;
            driver.resize(id, &spec, ByteSize::bytes(state.1)).unwrap();
        }
        Action::StartSnapshot => {
            if model.snapshot.is_some() {
                driver.stop(&real.snapshot, &snapshot_spec, Ending::Ran).unwrap();
                model.snapshot = None;
            }
            let started = real.start(&real.snapshot, &snapshot_spec);
            if matches!(model.dirty, Some((_, true))) {
                assert_eq!(started.unwrap_err(), Kind::Busy);
            } else {
                assert_eq!(state_of(&started.unwrap()), model.clean);
                model.snapshot = Some(model.clean);
            }
        }
        Action::StopSnapshot => {
            driver.stop(&real.snapshot, &snapshot_spec, Ending::Ran).unwrap();
            model.snapshot = None;
        }
    }
}

/// Everything that can be seen is as the model says.
fn compare(real: &Real<'_>, model: &Model, root: &Path) {
    let info = real.driver.info(&real.id, &model.spec).unwrap();
    assert_eq!(info.dirty, model.dirty.is_some());
    assert_eq!(info.size.get(), model.dirty.map_or(model.clean, |(state, _)| state).1);
    let dir = root.join("appvms/work");
    match model.dirty {
        Some((_, true)) => assert!(!dir.join("private.img").exists()),
        _ => assert_eq!(state_of(&dir.join("private.img")), model.clean),
    }
    if let Some((state, _)) = model.dirty {
        assert_eq!(state_of(&info.path.unwrap()), state);
    }
    let mut revisions = BTreeMap::new();
    let mut kept = BTreeMap::new();
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if let Some((number, _)) = name.strip_prefix("private.img.").and_then(|n| n.split_once('@')) {
            revisions.insert(number.parse::<u64>().unwrap(), state_of(&path));
        } else if let Some(number) = name.strip_prefix("private-keep.").and_then(|n| n.strip_suffix(".img")) {
            kept.insert(number.parse::<u64>().unwrap(), state_of(&path));
        } else {
            let known = ["private.img", "private-dirty.img", "private-precache.img"];
            assert!(known.contains(&name.as_str()), "left over: {name}");
        }
    }
    assert_eq!(revisions.into_values().collect::<Vec<_>>(), model.revisions);
    assert_eq!(kept, model.kept);
    let of_snapshot = |name: &str| root.join("appvms/snapshot").join(name);
    match model.snapshot {
        Some(state) if model.mapped => {
            let kind = VolumeKind::Snapshot { source: real.id.clone() };
            let info = real.driver.info(&real.snapshot, &VolumeSpec { kind, ..model.spec.clone() }).unwrap();
            assert_eq!(state_of(&info.path.unwrap()), state);
            assert_eq!(
                state_of(&of_snapshot("root.img")).0,
                state.0,
                "an image beneath a device was written"
            );
        }
        Some(state) => assert_eq!(state_of(&of_snapshot("root-dirty.img")), state),
        None => {
            for name in ["root-dirty.img", "root-dirty-cow.img"] {
                assert!(!of_snapshot(name).exists(), "{name}");
            }
        }
    }
}

fn play(driver: &ImageDriver, root: &Path, file: bool, mapped: bool, actions: &[Action]) {
    driver.setup().unwrap();
    let real = Real {
        driver,
        root,
        id: "appvms/work/private".parse().unwrap(),
        other: "appvms/other/private".parse().unwrap(),
        snapshot: "appvms/snapshot/root".parse().unwrap(),
    };
    let spec = VolumeSpec {
        kind: VolumeKind::Origin,
        size: ByteSize::bytes(SIZE),
        revisions_to_keep: RevisionsToKeep::Newest(2),
        access: Access::ReadWrite,
        sharing: Sharing::Source,
        ephemeral: false,
    };
    for (id, byte) in [(&real.id, 0), (&real.other, 77)] {
        driver.create(id, &spec).unwrap();
        if byte != 0 {
            let path = real.start(id, &spec).unwrap();
            std::fs::File::options().write(true).open(path).unwrap().write_all_at(&[byte], 0).unwrap();
            driver.stop(id, &spec, Ending::Ran).unwrap();
        }
    }
    let mut model = Model {
        clean: (0, SIZE),
        dirty: None,
        untouched: false,
        revisions: Vec::new(),
        kept: BTreeMap::new(),
        next_kept: 1,
        snapshot: None,
        spec,
        file,
        mapped,
    };
    for action in actions {
        apply(&real, &mut model, action);
        compare(&real, &model, root);
    }
    driver.remove(&real.id).unwrap();
    assert!(!root.join("appvms/work").exists());
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn file_does_what_the_model_does(actions in proptest::collection::vec(action(), 1..40)) {
        // In memory: a sync costs nothing there.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        play(&ImageDriver::file(dir.path()).unwrap(), dir.path(), true, false, &actions);
    }

    #[test]
    fn file_with_device_mapper_does_what_the_model_does(actions in proptest::collection::vec(action(), 1..40)) {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let kernel = Arc::new(ModelOfKernel::new(&dir.path().join("devices")));
        let driver = ImageDriver::file(&dir.path().join("pool")).unwrap();
        let driver = driver.copy_on_write(CopyOnWrite::DeviceMapper, Arc::clone(&kernel) as Arc<dyn Mapper>);
        play(&driver, &dir.path().join("pool"), true, true, &actions);
        let snapshot = "appvms/snapshot/root".parse().unwrap();
        driver.remove(&snapshot).unwrap();
        prop_assert_eq!(kernel.devices(), Vec::<String>::new());
        prop_assert_eq!(kernel.loop_devices(), 0);
    }

    #[test]
    fn file_reflink_unchecked_does_what_the_model_does(actions in proptest::collection::vec(action(), 1..40)) {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        play(&ImageDriver::reflink(dir.path(), SetupCheck::Skip).unwrap(), dir.path(), false, false, &actions);
    }
}

#[test]
fn file_reflink_does_what_the_model_does_on_xfs() {
    let Some(xfs) = Mounted::new(Mkfs::Xfs, 512 << 20, "file_reflink_does_what_the_model_does_on_xfs") else {
        return;
    };
    let mut runner = proptest::test_runner::TestRunner::new(cases(24));
    let outcome = runner.run(&proptest::collection::vec(action(), 1..40), |actions| {
        let dir = tempfile::tempdir_in(xfs.path()).unwrap();
        play(
            &ImageDriver::reflink(dir.path(), SetupCheck::Probe).unwrap(),
            dir.path(),
            false,
            false,
            &actions,
        );
        Ok(())
    });
    outcome.unwrap();
}
