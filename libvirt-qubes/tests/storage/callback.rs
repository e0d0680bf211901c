//! The driver `callback`, with real commands around real drivers.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use libvirt_qubes::config::Access;
use libvirt_qubes::contract::storage::{Fixture, storage_contract};
use libvirt_qubes::ids::ByteSize;
use libvirt_qubes::storage::{
    Driver, DriverKind, Ending, ImportSize, Job, Recovered, RevisionsToKeep, Sharing, Tuning, VolumeId,
    VolumeKind, VolumeSpec,
};
use libvirt_qubes::{Error, Kind};

use crate::filesystem::{Mkfs, Mounted};

/// Notes the hook and what follows the configuration; fails, signals, kills or waits as files beside it say.
const HOOK: &str = r#"#!/bin/sh
dir=$(dirname "$0")
pool=$1 bdriver=$2 hook=$3 conf_id=$4
shift 5
echo "$hook $*" >> "$dir/log"
echo "$pool $bdriver $conf_id" >> "$dir/head"
if [ -e "$dir/kill" ] && [ "$(wc -l < "$dir/log")" -eq "$(cat "$dir/kill")" ]; then kill -9 $PPID; fi
if [ -e "$dir/wait.$hook" ]; then echo $$ > "$dir/waits"; sleep 1000 & wait; fi
if [ -e "$dir/signal.$hook" ]; then echo said; echo SIGNAL_setup; fi
if [ -e "$dir/fail.$hook" ]; then cat "$dir/fail.$hook" >&2; echo "no $hook today" >&2; exit 3; fi
"#;

/// A pool with its configuration, its command, and the folder that it lies in.
struct Rig {
    dir: PathBuf,
}

impl Rig {
    fn new(dir: &Path, bdriver: &str, more: &str) -> Self {
        let rig = Self { dir: dir.to_owned() };
        let hook = dir.join("hook");
        std::fs::write(&hook, HOOK).unwrap();
        let (hook, pool) = (hook.display(), rig.pool());
        let json = format!(
            r#"{{"conf": {{"bdriver": "{bdriver}", "bdriver_args": {{"dir_path": "{}"}}, "cmd": "sh {hook}"{more}}}}}"#,
            pool.display()
        );
        std::fs::write(dir.join("callback.json"), json).unwrap();
        rig
    }

    fn pool(&self) -> PathBuf {
        self.dir.join("pool")
    }

    /// As a process has it that starts now.
    fn driver(&self) -> Arc<dyn Driver> {
        self.driver_within(Duration::from_secs(60)).unwrap()
    }

    fn driver_within(&self, command_limit: Duration) -> Result<Arc<dyn Driver>, Error> {
        let options = BTreeMap::from([("conf_id".to_owned(), "conf".to_owned())]);
        let callback_config = self.dir.join("callback.json").into();
        let tuning = Tuning { command_limit, callback_config, ..Tuning::default() };
        DriverKind::Callback.open(&"cb".parse().unwrap(), &options, tuning)
    }

    fn set(&self, file: &str, content: &str) {
        std::fs::write(self.dir.join(file), content).unwrap();
    }

    fn unset(&self, file: &str) {
        std::fs::remove_file(self.dir.join(file)).unwrap();
    }

    /// What has been run since this was asked last.
    fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        std::fs::write(self.dir.join("log"), "").unwrap();
        text.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    fn files(&self) -> Vec<String> {
        let folder = self.pool().join("appvms/work");
        let Ok(listing) = std::fs::read_dir(folder) else { return Vec::new() };
        let mut names: Vec<_> = listing.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn work() -> VolumeId {
    "appvms/work/private".parse().unwrap()
}

fn origin() -> VolumeSpec {
    VolumeSpec {
        kind: VolumeKind::Origin,
        size: ByteSize::bytes(1 << 20),
        revisions_to_keep: RevisionsToKeep::Newest(0),
        access: Access::ReadWrite,
        sharing: Sharing::Source,
        ephemeral: false,
    }
}

fn job() -> Job {
    Job::default()
}

struct Around {
    dir: PathBuf,
    bdriver: &'static str,
}

impl Fixture for Around {
    fn new_pool(&self) -> Arc<dyn Driver> {
        let dir = tempfile::Builder::new().prefix("rig").tempdir_in(&self.dir).unwrap().keep();
        Rig::new(&dir, self.bdriver, "").driver()
    }
}

#[test]
fn callback_around_file_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    storage_contract(&Around { dir: dir.path().to_owned(), bdriver: "file" });
}

#[test]
fn callback_around_file_reflink_keeps_the_contract_on_xfs() {
    let test = "callback_around_file_reflink_keeps_the_contract_on_xfs";
    if let Some(xfs) = Mounted::new(Mkfs::Xfs, 512 << 20, test) {
        storage_contract(&Around { dir: xfs.path(), bdriver: "file-reflink" });
    }
}

#[test]
fn each_operation_runs_its_hooks_in_order_and_tells_them_what_it_is_about() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path(), "file", "");
    let driver = rig.driver();
    driver.setup().unwrap();
    assert_eq!(rig.log(), ["pre_setup"]);
    assert_eq!(std::fs::read_to_string(dir.path().join("head")).unwrap(), "cb file conf\n");
    let (id, spec) = (work(), origin());
    let about = "private appvms/work/private None";
    driver.create(&id, &spec).unwrap();
    assert_eq!(rig.log(), [format!("pre_volume_create {about}"), format!("post_volume_create {about}")]);
    driver.start(&id, &spec, &mut || {}, &job()).unwrap();
    assert_eq!(rig.log(), [format!("pre_volume_start {about}"), format!("post_volume_start {about}")]);
    driver.stop(&id, &spec, Ending::Ran).unwrap();
    assert_eq!(rig.log(), [format!("post_volume_stop {about}")]);
    driver.as_resize().unwrap().resize(&id, &spec, ByteSize::bytes(2 << 20)).unwrap();
    assert_eq!(rig.log(), [format!("pre_volume_resize {about} 2097152")]);
    let mut import = driver.begin_import(&id, &spec, ImportSize::Exactly(ByteSize::bytes(512))).unwrap();
    import.write(&[1; 512]).unwrap();
    import.finish().unwrap();
    driver.begin_import(&id, &spec, ImportSize::AsItComes).unwrap().abort().unwrap();
    drop(driver.begin_import(&id, &spec, ImportSize::AsItComes).unwrap());
    let (begin, end) = ("pre_volume_import_data", "post_volume_import_data_end");
    assert_eq!(
        rig.log(),
        [
            format!("{begin} {about} 512"),
            format!("{end} {about} True"),
            format!("{begin} {about} None"),
            format!("{end} {about} False"),
            format!("{begin} {about} None"),
            format!("{end} {about} False"),
        ]
    );
    let snapshot = VolumeSpec { kind: VolumeKind::Snapshot { source: work() }, ..origin() };
    let other = "appvms/other/root".parse().unwrap();
    driver.start(&other, &snapshot, &mut || {}, &job()).unwrap();
    driver.stop(&other, &snapshot, Ending::Ran).unwrap();
    let of = "root appvms/other/root appvms/work/private";
    assert_eq!(
        rig.log(),
        [
            format!("pre_volume_start {of}"),
            format!("post_volume_start {of}"),
            format!("post_volume_stop {of}")
        ]
    );
    let export = driver.export(&id, &spec).unwrap();
    let path = export.path().display().to_string();
    driver.import_from(&other, &spec, &export, &job()).unwrap();
    drop(export);
    let of = "root appvms/other/root None";
    assert_eq!(
        rig.log(),
        [
            format!("pre_volume_export {about}"),
            format!("pre_volume_import {of} {path}"),
            format!("post_volume_import {of} {path}"),
            format!("post_volume_export_end {about} {path}"),
        ]
    );
    let revisions = driver.as_revisions().unwrap();
    let kept = revisions.keep(&id, &spec, 1, &job()).unwrap();
    revisions.revert(&id, &spec, &kept, &job()).unwrap();
    revisions.forget(&id, &kept).unwrap();
    driver.verify(&id, &spec).unwrap();
    driver.info(&id, &spec).unwrap();
    assert!(driver.usage().unwrap().is_some());
    assert_eq!(rig.log(), Vec::<String>::new());
    driver.remove(&id).unwrap();
    driver.dispose().unwrap();
    assert_eq!(rig.log(), [format!("post_volume_remove {about}"), "post_destroy".to_owned()]);
}

#[test]
fn a_hooks_own_command_has_no_arguments_and_a_dash_is_no_command() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("own");
    std::fs::write(&own, format!("#!/bin/sh\necho \"own $# $PWD\" >> {}/log\n", dir.path().display()))
        .unwrap();
    let more = format!(r#", "pre_volume_create": "sh {}", "post_volume_create": "-""#, own.display());
    let rig = Rig::new(dir.path(), "file", &more);
    let driver = rig.driver();
    driver.setup().unwrap();
    driver.create(&work(), &origin()).unwrap();
    assert_eq!(rig.log(), ["pre_setup", "own 0 /"]);
}

#[test]
fn nothing_is_touched_before_the_first_use_and_then_each_volume_is_recovered_first() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path(), "file", "");
    let (id, spec) = (work(), origin());
    let driver = rig.driver();
    driver.setup().unwrap();
    driver.create(&id, &spec).unwrap();
    let started = driver.start(&id, &spec, &mut || {}, &job()).unwrap().unwrap();
    std::fs::File::options().write(true).open(&started.path).unwrap().write_all_at(&[7; 8], 0).unwrap();
    drop(driver);
    rig.log();

    // The next start of the host: what the pool lies on is not there yet.
    let away = dir.path().join("away");
    std::fs::rename(rig.pool(), &away).unwrap();
    let driver = rig.driver();
    driver.resume().unwrap();
    assert_eq!(driver.recover(&id, &spec).unwrap(), Recovered::Clean);
    assert_eq!(driver.info(&id, &spec).unwrap().size, spec.size);
    assert_eq!(driver.usage().unwrap(), None);
    assert_eq!(driver.as_revisions().unwrap().revisions(&id).unwrap(), []);
    assert_eq!(driver.contents().unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(rig.log(), Vec::<String>::new());

    rig.set("fail.pre_sinit", "");
    assert!(driver.verify(&id, &spec).unwrap_err().report().contains("no pre_sinit today"));
    assert!(driver.verify(&id, &spec).is_err());
    rig.unset("fail.pre_sinit");
    std::fs::rename(&away, rig.pool()).unwrap();
    let export = driver.export(&id, &spec).unwrap();
    let mut data = [0; 8];
    export.file().read_exact_at(&mut data, 0).unwrap();
    assert_eq!(data, [7; 8], "what the last run wrote was not committed");
    let about = "private appvms/work/private None";
    assert_eq!(
        rig.log(),
        [
            "pre_sinit",
            "pre_sinit",
            "pre_sinit",
            &format!("post_volume_stop {about}"),
            &format!("pre_volume_export {about}")
        ]
    );
    drop(export);
    driver.verify(&id, &spec).unwrap();
    assert!(driver.usage().unwrap().is_some());
}

#[test]
fn recovery_runs_the_hook_of_a_stop_that_was_cut_off_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path(), "file", r#", "pre_sinit": "-""#);
    let (id, spec) = (work(), origin());
    let driver = rig.driver();
    driver.setup().unwrap();
    driver.create(&id, &spec).unwrap();
    driver.start(&id, &spec, &mut || {}, &job()).unwrap();
    // As the driver in the middle leaves it when the daemon is killed now.
    std::fs::rename(
        rig.pool().join("appvms/work/private-dirty.img"),
        rig.pool().join("appvms/work/private.img"),
    )
    .unwrap();
    rig.log();
    let next = rig.driver();
    next.resume().unwrap();
    assert_eq!(next.recover(&id, &spec).unwrap(), Recovered::Clean);
    assert_eq!(rig.log(), ["post_volume_stop private appvms/work/private None"]);
    next.verify(&id, &spec).unwrap();
    assert_eq!(rig.log(), Vec::<String>::new(), "once");
}

#[test]
fn without_a_command_for_it_a_pool_is_open_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path(), "file", r#", "pre_sinit": "-""#);
    rig.driver().setup().unwrap();
    let driver = rig.driver();
    driver.resume().unwrap();
    assert!(driver.usage().unwrap().is_some());
    driver.contents().unwrap();
    assert_eq!(rig.log(), ["pre_setup"]);
}

#[test]
fn a_signal_sets_the_driver_up_once_more() {
    for (more, is_set_up) in
        [(r#", "signal_back": true"#, true), (r#", "signal_back": "true""#, false), ("", false)]
    {
        let dir = tempfile::tempdir().unwrap();
        let rig = Rig::new(dir.path(), "file", more);
        rig.driver().setup().unwrap();
        std::fs::remove_dir_all(rig.pool()).unwrap();
        rig.set("signal.pre_sinit", "");
        let driver = rig.driver();
        driver.resume().unwrap();
        // Without it the pool's folders are not there, and so the pool is not.
        let kind = if is_set_up { Kind::NotFound } else { Kind::Unavailable };
        assert_eq!(driver.verify(&work(), &origin()).unwrap_err().kind(), kind, "{more}");
        assert_eq!(rig.pool().join("appvms").exists(), is_set_up, "{more}");
    }
}

#[test]
fn a_command_that_fails_leaves_what_its_table_says() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path(), "file", "");
    let (id, spec) = (work(), origin());
    rig.set("fail.pre_setup", "");
    let error = rig.driver().setup().unwrap_err();
    assert_eq!(error.kind(), Kind::Backend);
    let hook = dir.path().join("hook");
    let told = format!(
        "set up pool cb: failed: pre_setup, the command sh {}, ended with exit status: 3: no pre_setup today",
        hook.display()
    );
    assert_eq!(error.report(), told);
    assert!(!rig.pool().exists());
    // What it says is for people: no terminal obeys it.
    rig.set("fail.pre_setup", "\x1b[31mred\x1b[0m\r\u{9b}2J\u{202e}\tx\n");
    let told = rig.driver().setup().unwrap_err().report();
    assert!(told.ends_with(": _[31mred_[0m; _2J_ x; no pre_setup today"), "{told:?}");
    rig.unset("fail.pre_setup");
    let driver = rig.driver();
    driver.setup().unwrap();

    let failing = |hook: &str, operation: &mut dyn FnMut() -> Result<(), Error>| {
        rig.set(&format!("fail.{hook}"), "");
        rig.log();
        let error = operation().unwrap_err();
        rig.unset(&format!("fail.{hook}"));
        assert!(error.report().contains(&format!("no {hook} today")), "{}", error.report());
        let run: Vec<_> = rig.log().iter().map(|l| l.split(' ').next().unwrap().to_owned()).collect();
        run
    };
    let create = &mut || driver.create(&id, &spec);
    assert_eq!(failing("pre_volume_create", create), ["pre_volume_create"]);
    assert_eq!(rig.files(), Vec::<String>::new());
    let all = ["pre_volume_create", "post_volume_create", "post_volume_remove"];
    assert_eq!(failing("post_volume_create", create), all);
    assert_eq!(rig.files(), Vec::<String>::new());
    create().unwrap();

    let start = &mut || driver.start(&id, &spec, &mut || {}, &job()).map(drop);
    assert_eq!(failing("pre_volume_start", start), ["pre_volume_start"]);
    let all = ["pre_volume_start", "post_volume_start", "post_volume_stop"];
    assert_eq!(failing("post_volume_start", start), all);
    assert_eq!(rig.files(), ["private.img"]);
    start().unwrap();
    let stop = &mut || driver.stop(&id, &spec, Ending::Ran);
    assert_eq!(failing("post_volume_stop", stop), ["post_volume_stop"]);
    assert_eq!(rig.files(), ["private.img"]);
    assert!(!driver.info(&id, &spec).unwrap().dirty);

    let resize = &mut || driver.as_resize().unwrap().resize(&id, &spec, ByteSize::bytes(2 << 20));
    failing("pre_volume_resize", resize);
    assert_eq!(driver.info(&id, &spec).unwrap().size.get(), 1 << 20);

    let size = ImportSize::Exactly(ByteSize::bytes(512));
    let import = &mut || {
        let mut import = driver.begin_import(&id, &spec, size)?;
        import.write(&[5; 512])?;
        import.finish().map(drop)
    };
    failing("pre_volume_import_data", import);
    assert_eq!(driver.info(&id, &spec).unwrap().size.get(), 1 << 20);
    failing("post_volume_import_data_end", import);
    assert_eq!(driver.info(&id, &spec).unwrap().size.get(), 512);
    // What failed by itself tells its own error.
    rig.set("fail.post_volume_import_data_end", "");
    let too_little = driver.begin_import(&id, &spec, size).unwrap().finish().unwrap_err();
    assert_eq!(too_little.kind(), Kind::Invalid);
    rig.unset("fail.post_volume_import_data_end");
    assert_eq!(rig.files(), ["private.img"]);

    let target: VolumeId = "appvms/other/private".parse().unwrap();
    let copy = &mut || driver.import_from(&target, &spec, &driver.export(&id, &spec)?, &job());
    assert_eq!(failing("pre_volume_export", copy), ["pre_volume_export"]);
    failing("pre_volume_import", copy);
    assert!(!rig.pool().join("appvms/other").exists());
    failing("post_volume_import", copy);
    assert!(rig.pool().join("appvms/other/private.img").exists());

    let remove = &mut || driver.remove(&id);
    assert_eq!(failing("post_volume_remove", remove), ["post_volume_remove"]);
    assert_eq!(rig.files(), Vec::<String>::new());
    remove().unwrap();
    assert_eq!(failing("post_destroy", &mut || driver.dispose()), ["post_destroy"]);
}

#[test]
fn a_command_that_has_no_end_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path(), "file", "");
    rig.driver().setup().unwrap();
    rig.set("wait.pre_volume_create", "");
    let driver = rig.driver_within(Duration::from_millis(500)).unwrap();
    driver.setup().unwrap();
    let error = driver.create(&work(), &origin()).unwrap_err();
    assert_eq!(error.kind(), Kind::TimedOut, "{}", error.report());
    assert!(error.report().contains("was killed"), "{}", error.report());
    assert_eq!(rig.files(), Vec::<String>::new());
}

#[test]
fn a_command_does_not_outlive_its_caller_and_none_is_run_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path(), "file", "");
    let options = BTreeMap::from([("conf_id".to_owned(), "conf".to_owned())]);
    let callback_config = dir.path().join("callback.json").into();
    let tuning = Tuning { callback_config, ..Tuning::default() };
    let end = tuning.end_commands.clone();
    let driver = DriverKind::Callback.open(&"cb".parse().unwrap(), &options, tuning).unwrap();
    driver.setup().unwrap();
    rig.set("wait.pre_volume_create", "");
    rig.log();
    let ended = std::thread::scope(|scope| {
        let creates = scope.spawn(|| driver.create(&work(), &origin()));
        while std::fs::read_to_string(dir.path().join("waits")).map_or(true, |pid| !pid.ends_with('\n')) {
            std::thread::sleep(Duration::from_millis(5));
        }
        end.cancel();
        creates.join().unwrap().unwrap_err()
    });
    assert_eq!(ended.kind(), Kind::Cancelled);
    assert!(ended.report().contains("was killed: the daemon ends"), "{}", ended.report());
    let pid = std::fs::read_to_string(dir.path().join("waits")).unwrap();
    assert!(!Path::new("/proc").join(pid.trim()).exists(), "{pid} runs on");
    rig.unset("wait.pre_volume_create");
    assert_eq!(driver.create(&work(), &origin()).unwrap_err().kind(), Kind::Cancelled);
    assert_eq!(rig.log().len(), 1);
}

#[test]
fn a_command_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path(), "file", r#", "pre_setup": "/no/such/program""#);
    let error = rig.driver().setup().unwrap_err();
    assert!(
        error.report().contains("the command /no/such/program, cannot be executed"),
        "{}",
        error.report()
    );
    assert!(!rig.pool().exists());
}

/// What a child does that is killed in the middle of its N-th command.
type Act = fn(&dyn Driver);

const KILLED: &[(&str, Act)] = &[
    ("create", |driver| driver.create(&"appvms/new/private".parse().unwrap(), &origin()).unwrap()),
    ("run", |driver| {
        let started = driver.start(&work(), &origin(), &mut || {}, &job()).unwrap().unwrap();
        std::fs::File::options().write(true).open(&started.path).unwrap().write_all_at(&[2; 8], 0).unwrap();
        driver.stop(&work(), &origin(), Ending::Ran).unwrap();
    }),
    ("resize", |driver| {
        driver.as_resize().unwrap().resize(&work(), &origin(), ByteSize::bytes(2 << 20)).unwrap();
    }),
    ("import", |driver| {
        let size = ImportSize::Exactly(ByteSize::bytes(1 << 20));
        let mut import = driver.begin_import(&work(), &origin(), size).unwrap();
        import.write(&vec![2; 1 << 20]).unwrap();
        import.finish().unwrap();
    }),
    ("copy", |driver| {
        let other = "appvms/new/private".parse().unwrap();
        let export = driver.export(&work(), &origin()).unwrap();
        driver.import_from(&other, &origin(), &export, &job()).unwrap();
    }),
    ("remove", |driver| driver.remove(&work()).unwrap()),
];

/// What a child process runs; in the test process itself there is nothing to do.
#[test]
fn killed_child() {
    let (Ok(dir), Ok(name)) = (std::env::var("CALLBACK_RIG"), std::env::var("CALLBACK_SCENARIO")) else {
        return;
    };
    let driver = Rig { dir: dir.into() }.driver();
    driver.resume().unwrap();
    let (_, act) = KILLED.iter().find(|(known, _)| *known == name).unwrap();
    act(&*driver);
}

#[test]
fn a_kill_within_each_command_leaves_the_state_before_or_after() {
    for (name, _) in KILLED {
        for at in 1.. {
            assert!(at < 20, "{name} has no end");
            let dir = tempfile::tempdir().unwrap();
            let rig = Rig::new(dir.path(), "file", "");
            let driver = rig.driver();
            driver.setup().unwrap();
            driver.create(&work(), &origin()).unwrap();
            rig.log();
            rig.set("kill", &at.to_string());
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "callback::killed_child", "--test-threads=1"])
                .env("CALLBACK_RIG", dir.path())
                .env("CALLBACK_SCENARIO", name)
                .output()
                .unwrap();
            let ended = child.status.success();
            assert!(ended || child.status.signal() == Some(9), "{name}: {child:?}");
            rig.unset("kill");
            let next = rig.driver();
            next.resume().unwrap();
            let new = "appvms/new/private".parse().unwrap();
            for id in [work(), new] {
                next.recover(&id, &origin()).unwrap();
            }
            // An operation on it, so that it is recovered.
            let state = |id: &VolumeId| {
                let size = next.verify(id, &origin()).map(|()| next.info(id, &origin()).unwrap().size.get());
                let mut first = [0];
                let read = next.export(id, &origin()).map(|e| e.file().read_exact_at(&mut first, 0).unwrap());
                size.ok().zip(read.ok()).map(|(size, ())| (size, first[0]))
            };
            let (old, made) = (state(&work()), state(&"appvms/new/private".parse().unwrap()));
            let (mib, content) = (1 << 20, |first| Some((1 << 20, first)));
            let fine = match *name {
                "create" => old == content(0) && (made.is_none() || made == content(0)),
                "copy" => old == content(0) && (made.is_none() || made == content(0)),
                "run" | "import" => (old == content(0) || old == content(2)) && made.is_none(),
                "resize" => old == Some((mib, 0)) || old == Some((2 * mib, 0)),
                _ => old.is_none() || old == content(0),
            };
            assert!(fine, "{name}, killed in command {at}: {old:?} {made:?}");
            for id in next.contents().unwrap().volumes {
                next.remove(&id).unwrap();
            }
            assert_eq!(next.contents().unwrap(), libvirt_qubes::storage::Contents::default(), "{name} {at}");
            assert_eq!(rig.files(), Vec::<String>::new(), "{name} {at}");
            if ended {
                assert!(at > 1, "{name} runs no command");
                break;
            }
        }
    }
}

#[test]
fn a_start_that_is_called_off_does_not_wait_for_its_commands() {
    for hook in ["pre_volume_start", "post_volume_start"] {
        let dir = tempfile::tempdir().unwrap();
        let rig = Rig::new(dir.path(), "file", "");
        let driver = rig.driver();
        driver.setup().unwrap();
        driver.create(&work(), &origin()).unwrap();
        rig.log();
        rig.set(&format!("wait.{hook}"), "");
        let cancel = tokio_util::sync::CancellationToken::new();
        let job = Job::new(cancel.clone());
        std::thread::scope(|scope| {
            let started = scope.spawn(|| driver.start(&work(), &origin(), &mut || {}, &job));
            let runs = || std::fs::read_to_string(dir.path().join("log")).is_ok_and(|log| log.contains(hook));
            while !runs() {
                std::thread::sleep(Duration::from_millis(5));
            }
            cancel.cancel();
            let error = started.join().unwrap().unwrap_err();
            assert_eq!(error.kind(), Kind::Cancelled, "{}", error.report());
            assert!(error.report().contains(hook), "{}", error.report());
        });
        assert_eq!(rig.files(), ["private.img"], "{hook}");
        let after = if hook == "post_volume_start" { "post_volume_stop" } else { hook };
        assert!(rig.log().last().unwrap().starts_with(after));
        rig.unset(&format!("wait.{hook}"));
        driver.start(&work(), &origin(), &mut || {}, &Job::default()).unwrap();
    }
}
