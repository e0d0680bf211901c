//! A process that is killed, or a host that loses power, between any two steps.
//!
//! Each scenario runs in a child that kills itself after step N, for every N until it comes to its end. Afterwards
//! recovery must find nothing lost and leave nothing over. On XFS the same with the power cut instead: what was
//! not made durable is gone then.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use libvirt_qubes::Kind;
use libvirt_qubes::config::Access;
use libvirt_qubes::ids::ByteSize;
use libvirt_qubes::storage::{
    CopyOnWrite, Driver, Ending, ImageDriver, ImportSize, Job, Recovered, Resize, Revisions, RevisionsToKeep,
    SetupCheck, Sharing, VolumeId, VolumeKind, VolumeSpec,
};

use crate::filesystem::{Mkfs, Mounted};
use crate::kernel_model::ModelOfKernel;

/// Large enough that a file whose data is not durable shows it.
const BYTES: usize = 256 * 1024;
const SIZE: u64 = BYTES as u64;

const CHILD_ENTRY: &str = "crash::child_entry";

/// A state of the volume: all its bytes are this one.
type Content = u8;

struct Scenario {
    name: &'static str,
    keep: i64,
    sharing: Sharing,
    /// Before: at rest, all of it durable.
    prepare: fn(&Bench),
    /// In the child.
    act: fn(&Bench),
    /// After recovery. `ended`: the child came to its end.
    check: fn(&Bench, ended: bool),
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "create",
        keep: 1,
        sharing: Sharing::Source,
        prepare: |_| {},
        act: |b| b.driver.create(&b.id, &b.spec).unwrap(),
        check: |b, ended| {
            match b.committed() {
                Some(content) => assert_eq!(content, 0),
                None => assert!(!ended),
            }
            b.driver.remove(&b.id).unwrap();
            assert_eq!(b.files(), Vec::<String>::new());
        },
    },
    Scenario {
        name: "start-copied",
        keep: 1,
        sharing: Sharing::Source,
        prepare: |b| b.runs(&[1, 2]),
        act: |b| drop(b.start()),
        check: |b, _| {
            assert_eq!(b.committed(), Some(2));
        },
    },
    Scenario {
        name: "start-in-place",
        keep: -1,
        sharing: Sharing::Source,
        prepare: |b| b.runs(&[1, 2]),
        act: |b| drop(b.start()),
        check: |b, _| {
            assert_eq!(b.committed(), Some(2));
            assert!(b.states().is_empty());
        },
    },
    Scenario {
        name: "start-without-a-prepared-copy",
        keep: 1,
        sharing: Sharing::Source,
        prepare: |b| {
            b.runs(&[1, 2]);
            let precache = b.dir().join("private-precache.img");
            if precache.exists() {
                std::fs::remove_file(precache).unwrap();
            }
        },
        act: |b| drop(b.start()),
        check: |b, _| assert_eq!(b.committed(), Some(2)),
    },
    Scenario {
        name: "run-and-stop",
        keep: 2,
        sharing: Sharing::Source,
        prepare: |b| {
            b.runs(&[1, 2]);
            b.write(&b.start(), 3);
        },
        act: |b| b.driver.stop(&b.id, &b.spec, Ending::Ran).unwrap(),
        check: |b, _| {
            assert_eq!(b.committed(), Some(3));
            b.assert_states(&[1, 2]);
        },
    },
    Scenario {
        name: "stop-without-revisions",
        keep: 0,
        sharing: Sharing::Source,
        prepare: |b| {
            b.runs(&[1]);
            b.write(&b.start(), 3);
        },
        act: |b| b.driver.stop(&b.id, &b.spec, Ending::Ran).unwrap(),
        check: |b, _| {
            assert_eq!(b.committed(), Some(3));
            assert!(b.states().is_empty());
        },
    },
    Scenario {
        name: "stop-in-place",
        keep: 0,
        sharing: Sharing::Private,
        prepare: |b| {
            b.runs(&[1]);
            b.write(&b.start(), 3);
        },
        act: |b| b.driver.stop(&b.id, &b.spec, Ending::Ran).unwrap(),
        check: |b, _| assert_eq!(b.committed(), Some(3)),
    },
    Scenario {
        name: "recovery-itself",
        keep: 2,
        sharing: Sharing::Source,
        prepare: |b| {
            b.runs(&[1, 2]);
            b.write(&b.start(), 3);
        },
        act: |b| assert_eq!(b.driver.recover(&b.id, &b.spec).unwrap(), Recovered::Committed),
        check: |b, _| {
            assert_eq!(b.committed(), Some(3));
            b.assert_states(&[1, 2]);
        },
    },
    Scenario {
        name: "start-taken-back",
        keep: 1,
        sharing: Sharing::Source,
        prepare: |b| {
            b.runs(&[1, 2]);
            drop(b.start());
        },
        act: |b| b.driver.stop(&b.id, &b.spec, Ending::NeverRan).unwrap(),
        check: |b, ended| {
            assert_eq!(b.committed(), Some(2));
            if ended {
                assert_eq!(b.states(), [1]);
            }
        },
    },
    Scenario {
        name: "import",
        keep: 1,
        sharing: Sharing::Source,
        prepare: |b| b.runs(&[1, 2]),
        act: |b| {
            let size = ImportSize::Exactly(ByteSize::bytes(SIZE));
            let mut import = b.driver.begin_import(&b.id, &b.spec, size).unwrap();
            import.write(&[5; BYTES]).unwrap();
            import.finish().unwrap();
        },
        check: |b, ended| match b.committed() {
            Some(5) => b.assert_states(&[2]),
            Some(2) => {
                assert!(!ended);
                assert_eq!(b.states(), [1]);
            }
            other => panic!("{other:?}"),
        },
    },
    Scenario {
        name: "import-of-a-new-volume",
        keep: 1,
        sharing: Sharing::Source,
        prepare: |_| {},
        act: |b| {
            let mut import = b.driver.begin_import(&b.id, &b.spec, ImportSize::AsItComes).unwrap();
            import.write(&[5; BYTES]).unwrap();
            import.finish().unwrap();
        },
        check: |b, ended| match b.committed() {
            Some(content) => assert_eq!(content, 5),
            None => {
                assert!(!ended);
                b.driver.remove(&b.id).unwrap();
                assert_eq!(b.files(), Vec::<String>::new());
            }
        },
    },
    Scenario {
        name: "import-broken-off",
        keep: 1,
        sharing: Sharing::Source,
        prepare: |b| b.runs(&[1, 2]),
        act: |b| {
            let mut import = b.driver.begin_import(&b.id, &b.spec, ImportSize::AsItComes).unwrap();
            import.write(&[5; BYTES]).unwrap();
            import.abort().unwrap();
        },
        check: |b, _| {
            assert_eq!(b.committed(), Some(2));
            assert_eq!(b.states(), [1]);
        },
    },
    Scenario {
        name: "copy-from-another",
        keep: 1,
        sharing: Sharing::Source,
        prepare: |b| {
            b.runs(&[1, 2]);
            b.other().runs(&[7]);
        },
        act: |b| {
            let other = b.other();
            let export = b.driver.export(&other.id, &other.spec).unwrap();
            b.driver.import_from(&b.id, &b.spec, &export, &Job::default()).unwrap();
        },
        check: |b, ended| {
            match b.committed() {
                Some(7) => b.assert_states(&[2]),
                Some(2) => {
                    assert!(!ended);
                    assert_eq!(b.states(), [1]);
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(b.other().committed(), Some(7));
        },
    },
    Scenario {
        name: "revert",
        keep: 3,
        sharing: Sharing::Source,
        prepare: |b| b.runs(&[1, 2, 3]),
        act: |b| {
            let revision = b.driver.revisions(&b.id).unwrap().into_iter().nth(1).unwrap();
            b.driver.revert(&b.id, &b.spec, &revision.id, &Job::default()).unwrap();
        },
        // Revisions 0, 1, 2 of an empty volume and two runs; back to the one that holds 1.
        check: |b, ended| match b.committed() {
            Some(1) => assert_eq!(b.states(), [0, 2, 3]),
            Some(3) => {
                assert!(!ended);
                assert_eq!(b.states(), [0, 1, 2]);
            }
            other => panic!("{other:?}"),
        },
    },
    Scenario {
        name: "revert-to-a-kept-state",
        keep: 2,
        sharing: Sharing::Source,
        prepare: |b| {
            b.runs(&[1]);
            b.driver.keep(&b.id, &b.spec, 1, &Job::default()).unwrap();
            b.runs_more(&[2]);
        },
        act: |b| b.driver.revert(&b.id, &b.spec, &"s1".parse().unwrap(), &Job::default()).unwrap(),
        check: |b, ended| match b.committed() {
            Some(1) => assert!(b.states().contains(&2), "{:?}", b.states()),
            Some(2) => assert!(!ended),
            other => panic!("{other:?}"),
        },
    },
    Scenario {
        name: "keep",
        keep: 1,
        sharing: Sharing::Source,
        prepare: |b| b.runs(&[1, 2]),
        act: |b| drop(b.driver.keep(&b.id, &b.spec, 4, &Job::default()).unwrap()),
        check: |b, ended| {
            let kept = b.driver.revisions(&b.id).unwrap().iter().any(|r| r.id.as_str() == "s4");
            assert!(kept || !ended);
            assert_eq!(b.committed(), Some(2));
            assert_eq!(b.states(), if kept { vec![1, 2] } else { vec![1] });
        },
    },
    Scenario {
        name: "resize",
        keep: 1,
        sharing: Sharing::Source,
        prepare: |b| b.runs(&[1, 2]),
        act: |b| b.driver.resize(&b.id, &b.spec, ByteSize::bytes(2 * SIZE)).unwrap(),
        check: |b, ended| {
            let size = b.driver.info(&b.id, &b.spec).unwrap().size.get();
            assert!(size == 2 * SIZE || (size == SIZE && !ended), "{size}");
            assert_eq!(b.committed(), Some(2));
            assert_eq!(b.states(), [1]);
            assert_eq!(b.driver.info(&b.id, &b.spec).unwrap().size.get(), size);
        },
    },
    Scenario {
        name: "resize-while-it-runs",
        keep: 1,
        sharing: Sharing::Source,
        prepare: |b| {
            b.runs(&[1, 2]);
            b.write(&b.start(), 3);
        },
        act: |b| b.driver.resize(&b.id, &b.spec, ByteSize::bytes(2 * SIZE)).unwrap(),
        check: |b, ended| {
            let size = b.driver.info(&b.id, &b.spec).unwrap().size.get();
            assert!(size == 2 * SIZE || (size == SIZE && !ended), "{size}");
            assert_eq!(b.committed(), Some(3));
            assert_eq!(b.states(), [2]);
        },
    },
    Scenario {
        name: "forget",
        keep: 1,
        sharing: Sharing::Source,
        prepare: |b| {
            b.runs(&[1]);
            b.driver.keep(&b.id, &b.spec, 4, &Job::default()).unwrap();
            b.runs_more(&[2, 3]);
        },
        act: |b| b.driver.forget(&b.id, &"s4".parse().unwrap()).unwrap(),
        check: |b, ended| {
            let kept = b.driver.revisions(&b.id).unwrap().iter().any(|r| r.id.as_str() == "s4");
            assert!(!(kept && ended));
            assert_eq!(b.committed(), Some(3));
            assert_eq!(b.states(), if kept { vec![1, 2] } else { vec![2] });
        },
    },
    Scenario {
        name: "volatile",
        keep: 1,
        sharing: Sharing::Source,
        prepare: |b| b.runs(&[1, 2]),
        act: |b| {
            let (id, spec) = b.volatile();
            for _ in 0..2 {
                let started = b.driver.start(&id, &spec, &mut || {}, &Job::default()).unwrap().unwrap();
                b.write(&started.path, 9);
            }
            b.driver.stop(&id, &spec, Ending::Ran).unwrap();
        },
        check: |b, _| {
            let (id, spec) = b.volatile();
            b.driver.recover(&id, &spec).unwrap();
            assert_eq!(b.files_of(&id), Vec::<String>::new());
            // The next start is of an empty one, whatever the last one has left.
            let started = b.driver.start(&id, &spec, &mut || {}, &Job::default()).unwrap().unwrap();
            assert!(std::fs::read(&started.path).unwrap().iter().all(|byte| *byte == 0));
            b.driver.remove(&id).unwrap();
            assert_eq!(b.committed(), Some(2));
            assert_eq!(b.states(), [1]);
        },
    },
    Scenario {
        name: "remove",
        keep: 2,
        sharing: Sharing::Source,
        prepare: |b| {
            b.runs(&[1, 2]);
            b.driver.keep(&b.id, &b.spec, 1, &Job::default()).unwrap();
            b.write(&b.start(), 3);
            b.other().runs(&[7]);
        },
        act: |b| b.driver.remove(&b.id).unwrap(),
        check: |b, _| {
            b.driver.remove(&b.id).unwrap();
            assert_eq!(b.files(), Vec::<String>::new());
            assert_eq!(b.other().committed(), Some(7));
        },
    },
    Scenario {
        name: "snapshot",
        keep: 1,
        sharing: Sharing::Source,
        prepare: |b| b.runs(&[1, 2]),
        act: |b| {
            let (id, spec) = b.snapshot();
            drop(b.driver.start(&id, &spec, &mut || {}, &Job::default()).unwrap());
            b.driver.stop(&id, &spec, Ending::Ran).unwrap();
        },
        check: |b, _| {
            let (id, spec) = b.snapshot();
            b.driver.recover(&id, &spec).unwrap();
            let left: Vec<_> = b.files_of(&id);
            assert_eq!(left, Vec::<String>::new());
            assert_eq!(b.committed(), Some(2));
            assert_eq!(b.states(), [1]);
        },
    },
];

/// One volume in one pool.
struct Bench {
    driver: ImageDriver,
    root: PathBuf,
    id: VolumeId,
    spec: VolumeSpec,
    /// The child came to its end, and the power stayed on.
    undisturbed: bool,
}

impl Bench {
    fn new(driver: ImageDriver, root: &Path, scenario: &Scenario) -> Self {
        let spec = VolumeSpec {
            kind: VolumeKind::Origin,
            size: ByteSize::bytes(SIZE),
            revisions_to_keep: RevisionsToKeep::try_from(scenario.keep).unwrap(),
            access: Access::ReadWrite,
            sharing: scenario.sharing,
            ephemeral: false,
        };
        Self {
            driver,
            root: root.to_owned(),
            id: "appvms/work/private".parse().unwrap(),
            spec,
            undisturbed: false,
        }
    }

    fn other(&self) -> Self {
        let id = "appvms/other/private".parse().unwrap();
        let (driver, root, spec) = (self.driver.clone(), self.root.clone(), self.spec.clone());
        Self { driver, root, id, spec, undisturbed: self.undisturbed }
    }

    fn snapshot(&self) -> (VolumeId, VolumeSpec) {
        let spec = VolumeSpec { kind: VolumeKind::Snapshot { source: self.id.clone() }, ..self.spec.clone() };
        ("appvms/snapshot/root".parse().unwrap(), spec)
    }

    fn volatile(&self) -> (VolumeId, VolumeSpec) {
        let spec = VolumeSpec { kind: VolumeKind::Volatile, ..self.spec.clone() };
        ("appvms/volatile/volatile".parse().unwrap(), spec)
    }

    fn dir(&self) -> PathBuf {
        self.root.join("appvms/work")
    }

    /// A new volume, and runs that leave these states.
    fn runs(&self, states: &[Content]) {
        self.driver.create(&self.id, &self.spec).unwrap();
        self.driver.prepare(&self.id, &self.spec);
        self.runs_more(states);
    }

    fn runs_more(&self, states: &[Content]) {
        for state in states {
            self.write(&self.start(), *state);
            self.driver.stop(&self.id, &self.spec, Ending::Ran).unwrap();
            self.driver.prepare(&self.id, &self.spec);
        }
    }

    fn start(&self) -> PathBuf {
        self.driver.start(&self.id, &self.spec, &mut || {}, &Job::default()).unwrap().unwrap().path
    }

    /// As a guest that syncs.
    fn write(&self, path: &Path, content: Content) {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(&[content; BYTES], 0).unwrap();
        file.sync_all().unwrap();
    }

    fn recover(&self) {
        self.driver.recover(&self.id, &self.spec).unwrap();
    }

    fn committed(&self) -> Option<Content> {
        match self.driver.export(&self.id, &self.spec) {
            Ok(export) => {
                let mut data = vec![0; BYTES];
                export.file().read_exact_at(&mut data, 0).unwrap();
                let content = data[0];
                assert!(data.iter().all(|b| *b == content), "a mixture of states");
                Some(content)
            }
            Err(e) if e.kind() == Kind::NotFound => None,
            Err(e) => panic!("{}", e.report()),
        }
    }

    /// What the revisions hold, read from their files; sorted.
    fn states(&self) -> Vec<Content> {
        let files = self.files().into_iter().filter(|name| name.contains('@') || name.contains("-keep."));
        let mut states: Vec<Content> = files
            .map(|name| {
                let data = std::fs::read(self.dir().join(name)).unwrap();
                assert!(data.iter().all(|b| *b == data[0]), "a mixture of states");
                data[0]
            })
            .collect();
        states.sort_unstable();
        states
    }

    /// Exactly these, sorted; after a crash older ones may wait for the next commit to remove them.
    fn assert_states(&self, newest: &[Content]) {
        let states = self.states();
        assert!(states.ends_with(newest), "{states:?}");
        assert!(!self.undisturbed || states == newest, "{states:?}");
    }

    fn files(&self) -> Vec<String> {
        self.files_of(&self.id)
    }

    fn files_of(&self, id: &VolumeId) -> Vec<String> {
        let dir = self.root.join(id.group.as_str()).join(id.owner.as_str());
        let Ok(listing) = std::fs::read_dir(dir) else { return Vec::new() };
        listing.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Only what belongs to a volume at rest.
    fn assert_nothing_over(&self) {
        for name in self.files() {
            let at_rest = name == "private.img"
                || name == "private-precache.img"
                || (name.starts_with("private.img.") && name.ends_with('Z'))
                || (name.starts_with("private-keep.") && name.ends_with(".img"));
            assert!(at_rest, "left over: {name}");
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flavour {
    File,
    /// `file` with snapshots by device-mapper.
    Mapped,
    Reflink,
}

impl Flavour {
    fn driver(self, root: &Path) -> ImageDriver {
        match self {
            Self::File => ImageDriver::file(root).unwrap(),
            Self::Mapped => {
                let kernel = Arc::new(ModelOfKernel::new(&devices(root)));
                ImageDriver::file(root).unwrap().copy_on_write(CopyOnWrite::DeviceMapper, kernel)
            }
            Self::Reflink => ImageDriver::reflink(root, SetupCheck::Skip).unwrap(),
        }
    }
}

/// The devices of a pool, by the model: beside it, so that a power cut of its file system leaves them alone.
fn devices(root: &Path) -> PathBuf {
    root.with_extension("devices")
}

fn child(root: &Path, flavour: Flavour, scenario: &Scenario, stop_after: usize) -> ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", CHILD_ENTRY, "--nocapture", "--test-threads=1"])
        .env("CRASH_ROOT", root)
        .env("CRASH_FLAVOUR", format!("{flavour:?}"))
        .env("CRASH_SCENARIO", scenario.name)
        .env("CRASH_AFTER", stop_after.to_string())
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap()
}

/// What a child process runs; in the test process itself there is nothing to do.
#[test]
fn child_entry() {
    let Ok(root) = std::env::var("CRASH_ROOT") else { return };
    let variable = |name: &str| std::env::var(name).unwrap();
    let flavours = [Flavour::File, Flavour::Mapped, Flavour::Reflink];
    let flavour = flavours.into_iter().find(|f| format!("{f:?}") == variable("CRASH_FLAVOUR")).unwrap();
    let scenario = SCENARIOS.iter().find(|s| s.name == variable("CRASH_SCENARIO")).unwrap();
    let stop_after: usize = variable("CRASH_AFTER").parse().unwrap();
    let steps = AtomicUsize::new(0);
    let driver = flavour.driver(Path::new(&root)).observed(move |_| {
        if steps.fetch_add(1, Ordering::SeqCst) + 1 == stop_after {
            let me = rustix::process::getpid();
            rustix::process::kill_process(me, rustix::process::Signal::KILL).unwrap();
            loop {
                std::thread::park();
            }
        }
    });
    let bench = Bench::new(driver, Path::new(&root), scenario);
    (scenario.act)(&bench);
    bench.driver.prepare(&bench.id, &bench.spec);
}

/// What happens after a step.
enum Crash<'a> {
    Kill,
    PowerCut(&'a Mounted),
}

/// Runs every scenario with a crash after each step.
fn crash_everywhere(place: &Path, flavour: Flavour, crash: &Crash<'_>) {
    for scenario in SCENARIOS {
        let mut steps = 0;
        for stop_after in 1.. {
            assert!(stop_after < 200, "{}: no end", scenario.name);
            let root = place.join(format!("{}-{stop_after}", scenario.name));
            let bench = || Bench::new(flavour.driver(&root), &root, scenario);
            let before = bench();
            before.driver.setup().unwrap();
            (scenario.prepare)(&before);
            if let Crash::PowerCut(xfs) = crash {
                xfs.sync();
            }
            let status = child(&root, flavour, scenario, stop_after);
            let ended = status.success();
            use std::os::unix::process::ExitStatusExt;
            assert!(ended || status.signal() == Some(9), "{} failed by itself: {status}", scenario.name);
            if let Crash::PowerCut(xfs) = crash {
                xfs.cut_power();
            }
            eprintln!(
                "{flavour:?} {} after step {stop_after}{}",
                scenario.name,
                if ended { " (ended)" } else { "" }
            );
            let after = Bench { undisturbed: ended && matches!(crash, Crash::Kill), ..bench() };
            after.driver.setup().unwrap();
            after.recover();
            after.assert_nothing_over();
            (scenario.check)(&after, ended);
            after.assert_nothing_over();
            if flavour == Flavour::Mapped {
                let left = ModelOfKernel::new(&devices(&root)).devices();
                assert!(left.is_empty(), "devices are left: {left:?}");
            }
            std::fs::remove_dir_all(&root).unwrap();
            if ended {
                break;
            }
            steps = stop_after;
        }
        assert!(steps >= 1, "{} has no step to crash after", scenario.name);
    }
}

#[test]
fn file_loses_nothing_and_leaves_nothing_when_it_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    crash_everywhere(dir.path(), Flavour::File, &Crash::Kill);
}

#[test]
fn file_with_device_mapper_loses_nothing_and_leaves_nothing_when_it_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    crash_everywhere(dir.path(), Flavour::Mapped, &Crash::Kill);
}

#[test]
fn file_reflink_loses_nothing_and_leaves_nothing_when_it_is_killed() {
    let test = "file_reflink_loses_nothing_and_leaves_nothing_when_it_is_killed";
    let Some(xfs) = Mounted::new(Mkfs::Xfs, 512 << 20, test) else { return };
    crash_everywhere(&xfs.path(), Flavour::Reflink, &Crash::Kill);
}

#[test]
fn file_loses_nothing_and_leaves_nothing_when_the_power_is_cut() {
    power_cut(Flavour::File, Mkfs::OldXfs, "file_loses_nothing_and_leaves_nothing_when_the_power_is_cut");
}

#[test]
fn file_reflink_loses_nothing_and_leaves_nothing_when_the_power_is_cut() {
    power_cut(
        Flavour::Reflink,
        Mkfs::Xfs,
        "file_reflink_loses_nothing_and_leaves_nothing_when_the_power_is_cut",
    );
}

fn power_cut(flavour: Flavour, mkfs: Mkfs, test: &str) {
    let Some(xfs) = Mounted::new(mkfs, 512 << 20, test) else { return };
    crash_everywhere(&xfs.path(), flavour, &Crash::PowerCut(&xfs));
}
