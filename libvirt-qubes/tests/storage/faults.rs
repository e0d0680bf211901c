//! A disk that is full, or broken, at each single change that an operation makes.
//!
//! Each operation runs in a child whose calls of the kernel can be made to fail: with its first change failing, with its
//! second one, and so on until it comes to its end. Either it fails, says what and why, and everything is as before or
//! wholly as after; or that change may fail, and everything is as after. What follows works, and nothing is left over.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::Command;

use libvirt_qubes::ids::ByteSize;
use libvirt_qubes::storage::{
    Driver, Ending, ImageDriver, ImportSize, Job, Resize, Revisions, SetupCheck, Sharing, VolumeId,
    VolumeKind, VolumeSpec,
};
use libvirt_qubes::{Error, Kind};

use self::rules::{Fate, Faults, On};
use crate::filesystem::{Mkfs, Mounted};
use crate::images;

#[expect(dead_code, unreachable_pub, reason = "tests of the daemon use more of it, from another crate")]
#[path = "../../../tests/support/faults.rs"]
mod rules;

const ENOSPC: i32 = 28;
const EIO: i32 = 5;
/// More changes than any of these makes.
const MOST: u32 = 100;
const BYTES: usize = 64 * 1024;
const SIZE: u64 = BYTES as u64;

/// What a volume holds: its length, the byte that is all of it, and the one that is all of what it has beyond [`BYTES`].
type State = (u64, u8, u8);

/// Everything that can be seen of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Sight {
    clean: Option<State>,
    running: Option<State>,
    revisions: BTreeMap<String, State>,
}

impl Sight {
    /// As `wanted`, but for revisions that are too many, which the next commit removes.
    fn is_at_least(&self, wanted: &Self) -> bool {
        let has = |(id, state)| self.revisions.get(id) == Some(state);
        (self.clean, self.running) == (wanted.clean, wanted.running) && wanted.revisions.iter().all(has)
    }
}

struct Case {
    name: &'static str,
    keep: i64,
    sharing: Sharing,
    prepare: fn(&Bench),
    act: fn(&Bench) -> Result<(), Error>,
}

impl Case {
    /// When it fails nothing of it stays, not even all: a halted VM has no running volume. The others' last sync comes
    /// after what cannot be taken back.
    fn is_taken_back(&self) -> bool {
        let is_start = self.name.starts_with("start") && !self.name.ends_with("taken back");
        is_start || self.name.starts_with("resize") || self.name.starts_with("keep")
    }
}

const fn case(name: &'static str, prepare: fn(&Bench), act: fn(&Bench) -> Result<(), Error>) -> Case {
    Case { name, keep: 2, sharing: Sharing::Source, prepare, act }
}

const fn in_place(case: Case) -> Case {
    Case { keep: -1, ..case }
}

const CASES: &[Case] = &[
    case("create", |_| {}, |b| b.driver.create(&b.id, &b.spec)),
    case("start", Bench::at_rest, |b| b.try_start(&b.id, &b.spec)),
    case("start without a prepared copy", Bench::unprepared, |b| b.try_start(&b.id, &b.spec)),
    case("start with an old prepared copy", Bench::ill_prepared, |b| b.try_start(&b.id, &b.spec)),
    case("start after an unfinished one", Bench::unfinished, |b| b.try_start(&b.id, &b.spec)),
    in_place(case("start in place", Bench::at_rest, |b| b.try_start(&b.id, &b.spec))),
    case("start of a snapshot", Bench::at_rest, |b| b.try_start(&b.snapshot, &b.of_snapshot())),
    case("start of a volatile volume", Bench::at_rest, |b| b.try_start(&b.volatile, &b.of_volatile())),
    case("stop", Bench::running, |b| b.driver.stop(&b.id, &b.spec, Ending::Ran)),
    Case {
        keep: 0,
        ..case("stop without revisions", Bench::running, |b| b.driver.stop(&b.id, &b.spec, Ending::Ran))
    },
    in_place(case("stop in place", Bench::running, |b| b.driver.stop(&b.id, &b.spec, Ending::Ran))),
    case("stop of a snapshot", Bench::all_running, |b| {
        b.driver.stop(&b.snapshot, &b.of_snapshot(), Ending::Ran)
    }),
    case("stop of a volatile volume", Bench::all_running, |b| {
        b.driver.stop(&b.volatile, &b.of_volatile(), Ending::Ran)
    }),
    case("start taken back", Bench::started, |b| b.driver.stop(&b.id, &b.spec, Ending::NeverRan)),
    in_place(case("start in place taken back", Bench::started, |b| {
        b.driver.stop(&b.id, &b.spec, Ending::NeverRan)
    })),
    case("recovery", Bench::running, |b| b.driver.recover(&b.id, &b.spec).map(drop)),
    case("import", Bench::at_rest, |b| b.import(&b.id, ImportSize::Exactly(ByteSize::bytes(2 * SIZE)))),
    case("import of a new volume", |_| {}, |b| b.import(&b.id, ImportSize::AsItComes)),
    case("import broken off", Bench::at_rest, |b| {
        let mut import = b.driver.begin_import(&b.id, &b.spec, ImportSize::AsItComes)?;
        import.write(&[5; BYTES])?;
        import.abort()
    }),
    case("clear", Bench::at_rest, |b| {
        let size = ByteSize::bytes(SIZE);
        let mut import = b.driver.begin_import(&b.id, &b.spec, ImportSize::Zeros(size))?;
        import.skip(size)?;
        import.finish().map(drop)
    }),
    case("copy of another", Bench::at_rest, |b| {
        let export = b.driver.export(&b.other, &b.spec)?;
        b.driver.import_from(&b.id, &b.spec, &export, &Job::default())
    }),
    case("copy into a new one", Bench::other_at_rest, |b| {
        let export = b.driver.export(&b.other, &b.spec)?;
        b.driver.import_from(&b.id, &b.spec, &export, &Job::default())
    }),
    case("copy from another file system", Bench::at_rest, |b| {
        let dir = elsewhere(&b.root);
        let far = ImageDriver::file(&dir.path().join("pool")).unwrap();
        far.setup().unwrap();
        far.create(&b.other, &b.spec).unwrap();
        write(&far.start(&b.other, &b.spec, &mut || {}, &Job::default()).unwrap().unwrap().path, 8);
        far.stop(&b.other, &b.spec, Ending::Ran).unwrap();
        let export = far.export(&b.other, &b.spec)?;
        b.driver.import_from(&b.id, &b.spec, &export, &Job::default())
    }),
    case("revert to the older revision", Bench::at_rest, |b| b.revert("1")),
    case("revert to the newer revision", Bench::at_rest, |b| b.revert("2")),
    case("revert to a kept state", Bench::with_kept, |b| b.revert("s1")),
    case("keep", Bench::at_rest, |b| b.driver.keep(&b.id, &b.spec, 4, &Job::default()).map(drop)),
    case("keep while it runs", Bench::running, |b| match b.driver.keep(&b.id, &b.spec, 4, &Job::default()) {
        Err(e) if e.kind() == Kind::Busy => Ok(()),
        kept => kept.map(drop),
    }),
    case("forget", Bench::with_kept, |b| b.driver.forget(&b.id, &"s1".parse().unwrap())),
    case("resize", Bench::at_rest, |b| b.driver.resize(&b.id, &b.spec, ByteSize::bytes(2 * SIZE))),
    case("resize while it runs", Bench::running, |b| {
        b.driver.resize(&b.id, &b.spec, ByteSize::bytes(2 * SIZE))
    }),
    case("prepare", Bench::unprepared, |b| {
        b.driver.prepare(&b.id, &b.spec);
        Ok(())
    }),
];

/// What takes everything away, or begins with nothing: what a failure leaves is repeated, no more.
const REPEATED: &[Case] = &[
    case("set-up", |_| {}, |b| b.driver.setup()),
    case("remove", Bench::with_kept, |b| b.driver.remove(&b.id)),
    case("remove while it runs", Bench::running, |b| b.driver.remove(&b.id)),
];

/// A few volumes in one pool.
struct Bench {
    driver: ImageDriver,
    root: PathBuf,
    spec: VolumeSpec,
    id: VolumeId,
    other: VolumeId,
    snapshot: VolumeId,
    volatile: VolumeId,
}

/// A folder on another file system.
fn elsewhere(root: &Path) -> tempfile::TempDir {
    if root.starts_with("/dev/shm") { tempfile::tempdir() } else { tempfile::tempdir_in("/dev/shm") }.unwrap()
}

fn write(path: &Path, content: u8) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&[content; BYTES], 0).unwrap();
}

impl Bench {
    fn new(flavour: Flavour, root: &Path, case: &Case) -> Self {
        let spec = VolumeSpec { size: ByteSize::bytes(SIZE), ..images::spec(case.keep, case.sharing) };
        Self {
            driver: flavour.driver(root),
            root: root.to_owned(),
            spec,
            id: images::private(),
            other: "appvms/other/private".parse().unwrap(),
            snapshot: "appvms/work/root".parse().unwrap(),
            volatile: "appvms/work/volatile".parse().unwrap(),
        }
    }

    fn of_snapshot(&self) -> VolumeSpec {
        VolumeSpec { kind: VolumeKind::Snapshot { source: self.other.clone() }, ..self.spec.clone() }
    }

    fn of_volatile(&self) -> VolumeSpec {
        VolumeSpec { kind: VolumeKind::Volatile, ..self.spec.clone() }
    }

    fn try_start(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<(), Error> {
        self.driver.start(id, spec, &mut || {}, &Job::default()).map(drop)
    }

    fn start(&self, id: &VolumeId, spec: &VolumeSpec) -> PathBuf {
        self.driver.start(id, spec, &mut || {}, &Job::default()).unwrap().unwrap().path
    }

    fn run(&self, id: &VolumeId, content: u8) {
        write(&self.start(id, &self.spec), content);
        self.driver.stop(id, &self.spec, Ending::Ran).unwrap();
        self.driver.prepare(id, &self.spec);
    }

    fn other_at_rest(&self) {
        self.driver.create(&self.other, &self.spec).unwrap();
        self.run(&self.other, 7);
    }

    /// With two revisions, where they are kept.
    fn at_rest(&self) {
        self.other_at_rest();
        self.driver.create(&self.id, &self.spec).unwrap();
        for content in [1, 2] {
            self.run(&self.id, content);
        }
    }

    fn unprepared(&self) {
        self.at_rest();
        drop(std::fs::remove_file(self.root.join("appvms/work/private-precache.img")));
    }

    /// The clean image was written by somebody else.
    fn ill_prepared(&self) {
        self.at_rest();
        write(&self.root.join("appvms/work/private.img"), 2);
    }

    fn unfinished(&self) {
        self.at_rest();
        for name in ["private-dirty.img~abc", "private-import.img"] {
            std::fs::write(self.root.join("appvms/work").join(name), "half").unwrap();
        }
    }

    fn with_kept(&self) {
        self.at_rest();
        self.driver.keep(&self.id, &self.spec, 1, &Job::default()).unwrap();
        self.run(&self.id, 3);
    }

    fn started(&self) {
        self.at_rest();
        self.start(&self.id, &self.spec);
    }

    fn running(&self) {
        self.at_rest();
        write(&self.start(&self.id, &self.spec), 3);
    }

    fn all_running(&self) {
        self.running();
        write(&self.start(&self.snapshot, &self.of_snapshot()), 4);
        write(&self.start(&self.volatile, &self.of_volatile()), 5);
    }

    fn import(&self, id: &VolumeId, size: ImportSize) -> Result<(), Error> {
        let mut import = self.driver.begin_import(id, &self.spec, size)?;
        for _ in 0..2 {
            import.write(&[5; BYTES])?;
        }
        import.finish().map(drop)
    }

    fn revert(&self, revision: &str) -> Result<(), Error> {
        self.driver.revert(&self.id, &self.spec, &revision.parse().unwrap(), &Job::default())
    }

    fn state(&self, path: &Path) -> Option<State> {
        let data = match std::fs::read(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
            data => data.unwrap(),
        };
        let (written, grown) = data.split_at(BYTES.min(data.len()));
        let first = |part: &[u8]| *part.first().unwrap_or(&0);
        for part in [written, grown] {
            assert!(part == vec![first(part); part.len()], "a mixture: {}", path.display());
        }
        Some((u64::try_from(data.len()).unwrap(), first(written), first(grown)))
    }

    fn sight_of(&self, id: &VolumeId, spec: &VolumeSpec) -> Sight {
        let folder = self.root.join(id.group.as_str()).join(id.owner.as_str());
        let at = |form: &str| self.state(&folder.join(format!("{}{form}.img", id.volume)));
        let persistent = spec.kind == VolumeKind::Origin;
        let revisions = self.driver.revisions(id).unwrap();
        let revisions = revisions.iter().map(|revision| {
            let (id, folder) = (revision.id.as_str(), folder.clone());
            let name = match id.strip_prefix('s') {
                Some(number) => format!("private-keep.{number}.img"),
                None => {
                    let mut names = images::names(&folder).into_iter();
                    names.find(|name| name.starts_with(&format!("private.img.{id}@"))).unwrap()
                }
            };
            (id.to_owned(), self.state(&folder.join(name)).unwrap())
        });
        Sight {
            clean: persistent.then(|| at("")).flatten(),
            running: at("-dirty"),
            revisions: if persistent { revisions.collect() } else { BTreeMap::new() },
        }
    }

    fn sight(&self) -> [Sight; 4] {
        [
            self.sight_of(&self.id, &self.spec),
            self.sight_of(&self.other, &self.spec),
            self.sight_of(&self.snapshot, &self.of_snapshot()),
            self.sight_of(&self.volatile, &self.of_volatile()),
        ]
    }

    /// What a VM does next works, with what was there, and leaves only what a volume at rest has.
    fn goes_on(&self, context: &str) {
        if self.sight_of(&self.id, &self.spec) == Sight::default() {
            self.driver.remove(&self.id).unwrap();
            self.driver.create(&self.id, &self.spec).unwrap();
        }
        let now = self.sight_of(&self.id, &self.spec);
        let path = self.start(&self.id, &self.spec);
        assert_eq!(self.state(&path), now.running.or(now.clean), "{context}: started on something else");
        for (id, spec) in [(&self.snapshot, self.of_snapshot()), (&self.volatile, self.of_volatile())] {
            if self.sight_of(&self.other, &self.spec).clean.is_some() {
                self.start(id, &spec);
                self.driver.stop(id, &spec, Ending::Ran).unwrap();
            }
        }
        write(&path, 9);
        self.driver.stop(&self.id, &self.spec, Ending::Ran).unwrap();
        let then = self.sight_of(&self.id, &self.spec);
        assert_eq!(
            then.clean.map(|(_, content, _)| content),
            Some(9),
            "{context}: what was written is not there"
        );
        let automatic = then.revisions.keys().filter(|id| !id.starts_with('s')).count();
        assert!(automatic <= 2, "{context}: too many revisions: {then:?}");
        let is_at_rest = |name: &String| {
            name == "private.img"
                || name == "private-precache.img"
                || name.starts_with("private.img.") && name.ends_with('Z')
                || name.starts_with("private-keep.") && name.ends_with(".img")
        };
        for name in images::names(&self.root.join("appvms/work")) {
            assert!(is_at_rest(&name), "{context}: left over: {name}");
        }
    }

    fn is_removed(&self, context: &str) {
        for id in [&self.id, &self.other, &self.snapshot, &self.volatile] {
            self.driver.remove(id).unwrap();
        }
        assert_eq!(images::names(&self.root), ["appvms", "vm-templates"], "{context}");
        assert_eq!(images::names(&self.root.join("appvms")), [""; 0], "{context}");
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flavour {
    File,
    Reflink,
}

impl Flavour {
    fn driver(self, root: &Path) -> ImageDriver {
        match self {
            Self::File => ImageDriver::file(root).unwrap(),
            Self::Reflink => ImageDriver::reflink(root, SetupCheck::Probe).unwrap(),
        }
    }
}

/// Is told what was seen before, and after an undisturbed one; whether the operation failed; and which change did.
type Check = dyn Fn(&Bench, &[Sight; 4], &[Sight; 4], bool, &str);

/// Fails each change in turn; `afterwards` is told whether the operation failed by it. Gives the changes that it makes, and
/// what was wrong.
fn fail_each(
    faults: &Faults,
    place: &Path,
    flavour: Flavour,
    case: &Case,
    afterwards: &Check,
) -> (Vec<String>, Vec<String>) {
    let prepared = |name: &str| {
        let bench = Bench::new(flavour, &place.join(name), case);
        if case.name != "set-up" {
            bench.driver.setup().unwrap();
        }
        (case.prepare)(&bench);
        faults.set_place(&bench.root);
        bench
    };
    let undisturbed = prepared("undisturbed");
    faults.arm(On::Change, MOST, Fate::Errno(EIO));
    (case.act)(&undisturbed).unwrap();
    faults.disarm();
    let all: Vec<String> = faults.changes();
    assert!(all.len() < MOST.try_into().unwrap(), "{}: {all:?}", case.name);
    println!("{}: {}", case.name, all.join(", "));
    let after = undisturbed.sight();
    let mut bad = Vec::new();
    std::fs::remove_dir_all(&undisturbed.root).unwrap();
    for (errno, kind) in [(ENOSPC, Kind::NoSpace), (EIO, Kind::Io)] {
        for (at, change) in (1..).zip(&all) {
            let bench = prepared("failing");
            let before = bench.sight();
            faults.arm(On::Change, at, Fate::Errno(errno));
            let answer = (case.act)(&bench);
            faults.disarm();
            let change = change.replace("undisturbed", "failing");
            let context = format!("{flavour:?}, {}, change {at} failed with {errno}: {change}", case.name);
            let came = faults.changes();
            let what = |change: &str| change.split_once(' ').map(|(what, _)| what.to_owned());
            let failed = came.get(usize::try_from(at).unwrap() - 1);
            assert_eq!(
                failed.and_then(|c| what(c)),
                what(&change),
                "{context}: another change failed: {came:?}"
            );
            let checks = || {
                if let Err(error) = &answer {
                    let told = error.report();
                    let why = if errno == EIO { "nput/output error" } else { "o space left" };
                    assert!(told.contains(why), "{context}: does not say why: {told}");
                    assert!(
                        told.contains(place.to_str().unwrap()) || told.contains("appvms/"),
                        "{context}: {told}"
                    );
                    assert_eq!(error.kind(), kind, "{context}: {told}");
                }
            };
            // The message of each is told; the child ends with all of them.
            let checked = std::panic::catch_unwind(AssertUnwindSafe(|| {
                checks();
                afterwards(&bench, &before, &after, answer.is_err(), &context);
                bench.is_removed(&context);
            }));
            if checked.is_err() {
                bad.push(context);
            }
            std::fs::remove_dir_all(&bench.root).unwrap();
        }
    }
    (all, bad)
}

/// What the child does; in the test process itself there is nothing to do.
#[test]
fn child_entry() {
    let Some(faults) = Faults::of_this_process() else { return };
    let place = PathBuf::from(std::env::var_os("FAULTS_PLACE").unwrap());
    let flavours = [Flavour::File, Flavour::Reflink];
    let wanted = std::env::var("FAULTS_FLAVOUR").unwrap();
    let flavour = flavours.into_iter().find(|flavour| format!("{flavour:?}") == wanted).unwrap();
    let (mut seen, mut bad) = (Vec::new(), Vec::new());
    for case in CASES {
        let (made, wrong) =
            fail_each(&faults, &place, flavour, case, &|bench, before, after, failed, context| {
                let now = bench.sight();
                let mut after = after.clone();
                // Where there is no room for a name, a revert goes without the revision of what was there until then.
                if case.name.starts_with("revert") && context.contains("failed with 28: link ") {
                    assert!(!failed, "{context}");
                    after[0].revisions.retain(|id, _| before[0].revisions.contains_key(id));
                }
                let is_after = now.iter().zip(&after).all(|(now, after)| now.is_at_least(after));
                let is_before = failed && now == *before;
                let is_one = is_before || (is_after && !(failed && case.is_taken_back()));
                assert!(is_one, "{context}: {now:?}\n{before:?}\n{after:?}");
                bench.goes_on(context);
            });
        seen.extend(made);
        bad.extend(wrong);
    }
    for case in REPEATED {
        let (made, wrong) = fail_each(&faults, &place, flavour, case, &|bench, _, _, failed, _| {
            if failed {
                (case.act)(bench).unwrap();
            }
        });
        seen.extend(made);
        bad.extend(wrong);
    }
    assert!(bad.is_empty(), "{} wrong: {bad:#?}", bad.len());
    // Each way in which the drivers change a file system was made to fail.
    let mut kinds: Vec<_> = seen.iter().filter_map(|change| change.split(' ').next()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let mut all =
        vec!["create", "length", "link", "mkdir", "rename", "rmdir", "sync", "time", "unlink", "write"];
    if cfg!(target_arch = "x86_64") {
        all.push(if flavour == Flavour::File { "copy" } else { "clone" });
        all.extend((flavour == Flavour::Reflink).then_some("nameless"));
    }
    all.retain(|kind| !kinds.contains(kind));
    assert!(all.is_empty(), "never failed: {all:?}");
}

fn fail_everywhere(place: &Path, flavour: Flavour) {
    let faults = match Faults::new() {
        Ok(faults) => faults.within(place),
        Err(why) => return println!("skipped: changes that fail: {why}"),
    };
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::child_entry", "--nocapture", "--test-threads=1"])
        .envs(faults.environment())
        .env("FAULTS_PLACE", place)
        .env("FAULTS_FLAVOUR", format!("{flavour:?}"))
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&child.stdout));
    assert!(child.status.success(), "{}{}", child.status, String::from_utf8_lossy(&child.stderr));
}

#[test]
fn file_is_as_before_or_as_after_whichever_change_fails() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    fail_everywhere(dir.path(), Flavour::File);
}

#[test]
fn file_reflink_is_as_before_or_as_after_whichever_change_fails_on_xfs() {
    let test = "file_reflink_is_as_before_or_as_after_whichever_change_fails_on_xfs";
    let Some(xfs) = Mounted::in_memory(Mkfs::Xfs, 512 << 20, test) else { return };
    fail_everywhere(&xfs.path(), Flavour::Reflink);
}

#[test]
fn file_reflink_is_as_before_or_as_after_whichever_change_fails_on_btrfs() {
    let test = "file_reflink_is_as_before_or_as_after_whichever_change_fails_on_btrfs";
    let Some(btrfs) = Mounted::in_memory(Mkfs::Btrfs, 512 << 20, test) else { return };
    fail_everywhere(&btrfs.path(), Flavour::Reflink);
}
