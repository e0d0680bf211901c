//! The driver `callback`: another driver, with an administrator's commands around what it does.
//!
//! A pool has one option of its own, `conf_id`: the name of an object in a file of JSON (`/etc/qubes_callback.json`)
//! that only root writes. In it:
//!
//! | key | |
//! |---|---|
//! | `bdriver` | the driver in the middle: any but `callback` and `linux-kernel` |
//! | `bdriver_args` | its options, and `revisions_to_keep` and `ephemeral_volatile` for the pool |
//! | a hook's name | the command of that hook; `-` for none |
//! | `cmd` | the command of all hooks that have no own; `-` for none |
//! | `signal_back` | `true`: a line `SIGNAL_setup` on a command's standard output sets the driver in the middle up, once more |
//!
//! Everything else in it is for people. A command is split into words by a shell's rules for quotes, and executed: no
//! shell sees it, and one that needs a shell is refused when the pool is added. A hook's own command is given no
//! arguments. `cmd` is given
//!
//! ```text
//! POOL BDRIVER HOOK CONF_ID JSON [VOLUME VID SOURCE [MORE]]
//! ```
//!
//! `JSON` is the object, its keys sorted; `SOURCE` is the vid of a snapshot's source, else `None`. A removal does not know it,
//! so that it is `None` there. The environment is the daemon's without `NOTIFY_SOCKET`, the folder `/`, standard input
//! empty.
//!
//! ## Order, and what a failure leaves
//!
//! A command fails when it cannot be executed, ends with another status than 0, or takes longer than
//! [`Tuning::command_limit`]: then it is killed with its children, as it is when the caller ends ([`Tuning::end_commands`]). The error has the hook, the command, how it ended
//! and what it wrote to standard error. A command may be run once more after a failure or a crash, and has to bear that.
//!
//! | operation | steps | when one fails |
//! |---|---|---|
//! | first use after a start of the caller | `pre_sinit` | the operation fails; the next one tries again |
//! | add the pool | `pre_setup`, set up | there is no pool; what `pre_setup` did stays |
//! | remove the pool | `post_destroy` when the pool is gone | the caller is told; the pool stays gone |
//! | create | `pre_volume_create`, create, `post_volume_create` | last: the volume is removed, as below |
//! | remove | remove, `post_volume_remove` | last: no volume; removing it again runs the hook again |
//! | start | `pre_volume_start`, start, `post_volume_start` | last: taken back, `post_volume_stop` |
//! | stop | stop, `post_volume_stop` | last: it is stopped; stopping it again runs the hook again |
//! | resize | `pre_volume_resize` (SIZE), resize | as it was |
//! | copy of another volume | `pre_volume_import` (VID), copy, `post_volume_import` (VID) | last: the new state is there |
//! | import of data | `pre_volume_import_data` (SIZE or `None`), data, `post_volume_import_data_end` (`True`, `False`) | last: the new state is there, after `True` |
//! | export | `pre_volume_export`, .., `post_volume_export_end` (PATH) when it is let go | last: logged |
//! | recovery | it, `post_volume_stop` | last: logged |
//!
//! A kill, or a power cut, leaves of a volume what the driver in the middle leaves, and what the commands had done by then; the
//! hooks that were still to come are not run by the daemon that was killed. Its next start makes up for them so:
//!
//! | cut off in | it leaves | and then |
//! |---|---|---|
//! | add the pool | what `pre_setup` did; folders | the folders go, if empty; no hook |
//! | remove the pool | the pool gone, `post_destroy` run or not | no hook |
//! | create | no volume, or one without `post_volume_create` | the caller, which has noted the creation, removes it: `post_volume_remove` |
//! | remove | the volume, a part of it, or nothing without `post_volume_remove` | the caller, which has noted the removal, repeats it with its hook |
//! | start, stop | before or after, by recovery of the driver in the middle | recovery runs `post_volume_stop`, whatever it finds: a start may have run no more than `pre_volume_start`, a stop all but its hook |
//! | resize | before or after | no hook |
//! | copy of another volume, import of data | before or after | recovery, as of a start; neither `post_volume_import` nor `post_volume_import_data_end` is made up for |
//! | export | nothing of it | `post_volume_export_end` is not made up for |
//!
//! Revisions, figures and listings have no hook.
//!
//! ## First use
//!
//! Where there is a command for `pre_sinit` (its own, or `cmd`), nothing of the pool is touched before that has run: the
//! pool may have to be decrypted or mounted first. Figures are those of the configuration until then, there is no
//! space and no revision, and recovery is put off: each volume is recovered before the first operation on it. Adding a
//! pool is a first use by itself, without `pre_sinit`.

mod config;
mod hook;
mod lent;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use self::config::{Config, Configured};
use self::hook::Hook;
use self::lent::{CallbackImport, ExportEnd};
use super::{
    Contents, Driver, Ending, Export, ImportSize, ImportWriter, Job, PoolPlace, PoolUsage, Recovered, Resize,
    Revision, RevisionId, Revisions, Started, Tuning, VolumeId, VolumeInfo, VolumeKind, VolumeSpec, command,
};
use crate::error::{Error, Kind, Op, Result};
use crate::ids::{ByteSize, PoolName};
use crate::said;

/// So much of what a command says is kept.
const MOST_OUTPUT: usize = 64 * 1024;
/// So much of its standard error is told.
const MOST_TOLD: usize = 2 * 1024;

/// A pool with commands around another driver.
#[derive(Debug, Clone)]
pub struct CallbackDriver {
    shared: Arc<Shared>,
}

/// What imports and exports hold on to.
#[derive(Debug)]
struct Shared {
    pool: PoolName,
    config: Config,
    inner: Arc<dyn Driver>,
    limit: Duration,
    /// Cancelled when the caller ends.
    end: CancellationToken,
    is_open: AtomicBool,
    /// Held while `pre_sinit` runs.
    opening: Mutex<()>,
    /// Volumes that were to be recovered before the pool was open.
    put_off: Mutex<HashMap<VolumeId, VolumeSpec>>,
    /// Volumes that are gone, and `post_volume_remove` has not succeeded for them.
    untold: Mutex<HashSet<VolumeId>>,
}

/// The volume that a hook is about.
struct Subject {
    name: String,
    vid: String,
    source: String,
}

impl CallbackDriver {
    /// The pool `pool` by what the configuration file says under `conf_id`. Reads that file, and touches nothing else.
    ///
    /// # Errors
    /// `Invalid` for a configuration that is missing or wrong; what opening the driver in the middle says.
    pub fn open(pool: &PoolName, conf_id: &str, tuning: Tuning) -> Result<Self> {
        let config = Config::read(&tuning.callback_config, conf_id)?;
        let (limit, end) = (tuning.command_limit, tuning.end_commands.clone());
        let inner = config.bdriver.open(pool, &config.arguments, tuning)?;
        let shared = Shared {
            pool: pool.clone(),
            is_open: AtomicBool::new(config.command(Hook::PreSinit).is_none()),
            config,
            inner,
            limit,
            end,
            opening: Mutex::default(),
            put_off: Mutex::default(),
            untold: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }
}

impl Shared {
    fn subject(&self, id: &VolumeId, spec: &VolumeSpec) -> Subject {
        Subject {
            name: id.volume.to_string(),
            vid: self.inner.vid(id, spec),
            source: spec
                .kind
                .source()
                .map_or_else(|| "None".to_owned(), |source| self.inner.vid(source, spec)),
        }
    }

    /// Runs `post_volume_remove`. Until it has succeeded the volume is not vacant: its caller removes it again.
    fn tell_removed(&self, op: Op, id: &VolumeId, spec: &VolumeSpec) -> Result<()> {
        let untold = || self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        untold().insert(id.clone());
        self.hook(op, id, spec, Hook::PostVolumeRemove, None)?;
        untold().remove(id);
        Ok(())
    }

    /// Runs a hook of the pool.
    fn pool_hook(&self, op: Op, hook: Hook) -> Result<()> {
        self.run(&Job::default(), op, &self.pool, hook, &[])
    }

    /// Runs a hook of a volume.
    fn hook(&self, op: Op, id: &VolumeId, spec: &VolumeSpec, hook: Hook, more: Option<String>) -> Result<()> {
        self.hook_of(&Job::default(), op, id, spec, hook, more)
    }

    /// The same; it is killed when the job is cancelled.
    fn hook_of(
        &self,
        job: &Job,
        op: Op,
        id: &VolumeId,
        spec: &VolumeSpec,
        hook: Hook,
        more: Option<String>,
    ) -> Result<()> {
        let Subject { name, vid, source } = self.subject(id, spec);
        let words: Vec<String> = [name, vid, source].into_iter().chain(more).collect();
        self.run(job, op, id, hook, &words)
    }

    /// Runs a hook where nobody can be told that it failed.
    fn hook_if_possible(&self, op: Op, id: &VolumeId, spec: &VolumeSpec, hook: Hook, more: Option<String>) {
        if let Err(e) = self.hook(op, id, spec, hook, more) {
            tracing::error!(pool = %self.pool, volume = %id, error = e.report(), "a command around a volume failed");
        }
    }

    fn run(
        &self,
        job: &Job,
        op: Op,
        about: &dyn std::fmt::Display,
        hook: Hook,
        words: &[String],
    ) -> Result<()> {
        let Some(configured) = self.config.command(hook) else { return Ok(()) };
        let (line, mut process) = match configured {
            Configured::Own(own) => (own, own.to_process([])),
            Configured::Generic(generic) => {
                let Config { conf_id, bdriver, json, .. } = &self.config;
                let told = [self.pool.as_str(), bdriver.as_str(), hook.as_str(), conf_id, json];
                (generic, generic.to_process(told.into_iter().chain(words.iter().map(String::as_str))))
            }
        };
        let refuse = |kind: Kind, how: String| {
            Error::new(kind, op, about).because(format!("{hook}, the command {line}, {how}"))
        };
        if self.end.is_cancelled() {
            return Err(refuse(Kind::Cancelled, "is not run: the daemon ends".to_owned()));
        }
        tracing::info!(pool = %self.pool, %hook, command = %line, ?words, "runs a command");
        let is_wanted = || job.check(op, about).is_ok() && !self.end.is_cancelled();
        let ended = command::output_while(&mut process, self.limit, MOST_OUTPUT, &is_wanted);
        let ended = ended.map_err(|failed| match failed {
            _ if self.end.is_cancelled() => refuse(Kind::Cancelled, "was killed: the daemon ends".to_owned()),
            _ if !is_wanted() => {
                refuse(Kind::Cancelled, "was killed: what it was run for was called off".to_owned())
            }
            command::Failed::Broken(e) => refuse(Kind::Backend, format!("cannot be executed: {e}")),
            command::Failed::TimedOut(errors) => refuse(
                Kind::TimedOut,
                format!("had no end after {} s and was killed{}", self.limit.as_secs(), after_colon(&errors)),
            ),
        })?;
        if !ended.status.success() {
            let said = after_colon(&ended.errors);
            return Err(refuse(Kind::Backend, format!("ended with {}{said}", ended.status)));
        }
        let said = telling(&ended.errors);
        if !said.is_empty() {
            tracing::debug!(pool = %self.pool, %hook, said, "standard error of a command");
        }
        if self.config.signal_back {
            for _ in ended.out.split(|byte| *byte == b'\n').filter(|line| *line == b"SIGNAL_setup") {
                tracing::info!(pool = %self.pool, %hook, "is set up as a command signals");
                self.inner.setup()?;
            }
        }
        Ok(())
    }

    fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// Opens the pool if need be.
    fn open(&self, op: Op) -> Result<()> {
        if self.is_open() {
            return Ok(());
        }
        let _alone = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_open() {
            self.pool_hook(op, Hook::PreSinit)?;
            self.is_open.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Before any work on a volume, whose lock is held: the pool is open, and the volume at rest or running.
    fn ready(&self, op: Op, id: &VolumeId) -> Result<()> {
        self.open(op)?;
        let put_off = || self.put_off.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(spec) = put_off().get(id).cloned() else { return Ok(()) };
        self.recover_now(id, &spec)?;
        put_off().remove(id);
        Ok(())
    }

    /// With the hook of a stop, also where nothing was running: whether the last one ran it, nobody knows.
    fn recover_now(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<Recovered> {
        let found = self.inner.recover(id, spec)?;
        self.hook_if_possible(Op::Recover, id, spec, Hook::PostVolumeStop, None);
        Ok(found)
    }

    fn revisions(&self, op: Op, id: &VolumeId) -> Result<&dyn Revisions> {
        self.inner.as_revisions().ok_or_else(|| self.lacks(op, id))
    }

    fn lacks(&self, op: Op, id: &VolumeId) -> Error {
        let why = format!("the driver {} cannot do this", self.inner.name());
        Error::new(Kind::Unsupported, op, id).because(why)
    }
}

/// The end of what a command wrote to standard error, in one line.
fn telling(errors: &[u8]) -> String {
    let end = errors.get(errors.len().saturating_sub(MOST_TOLD)..).unwrap_or(errors);
    said::in_one_line(end, |_| false)
}

/// The same, for the end of a sentence.
fn after_colon(errors: &[u8]) -> String {
    let said = telling(errors);
    if said.is_empty() { said } else { format!(": {said}") }
}

impl Driver for CallbackDriver {
    fn name(&self) -> &'static str {
        "callback"
    }

    fn setup(&self) -> Result<()> {
        let shared = &self.shared;
        shared.pool_hook(Op::SetupPool, Hook::PreSetup)?;
        shared.inner.setup()?;
        shared.is_open.store(true, Ordering::Release);
        Ok(())
    }

    fn resume(&self) -> Result<()> {
        if self.shared.is_open() { self.shared.inner.resume() } else { Ok(()) }
    }

    /// What is put off until the first use is not tried before.
    fn away(&self) -> Option<String> {
        if self.shared.is_open() {
            self.shared.inner.away()
        } else {
            Some("its first use, which runs pre_sinit, is still to come".to_owned())
        }
    }

    fn dispose(&self) -> Result<()> {
        self.shared.open(Op::RemovePool)?;
        self.shared.inner.dispose()?;
        self.shared.pool_hook(Op::RemovePool, Hook::PostDestroy)
    }

    fn base_options(&self) -> BTreeMap<String, String> {
        let own = self.shared.config.bdriver.options();
        let arguments = self.shared.config.arguments.iter();
        let base = arguments.filter(|(key, _)| !own.iter().any(|option| option.name == *key));
        base.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    fn vid(&self, id: &VolumeId, spec: &VolumeSpec) -> String {
        self.shared.inner.vid(id, spec)
    }

    fn pool_place(&self) -> PoolPlace {
        self.shared.inner.pool_place()
    }

    fn folders(&self) -> Vec<PathBuf> {
        self.shared.inner.folders()
    }

    fn wake(&self, id: &VolumeId) -> Result<()> {
        self.shared.ready(Op::SetupPool, id)
    }

    fn vacant(&self, id: &VolumeId) -> Result<()> {
        self.shared.ready(Op::CreateVolume, id)?;
        if self.shared.untold.lock().unwrap_or_else(PoisonError::into_inner).contains(id) {
            let why = "it is gone, and its post_volume_remove has not succeeded yet";
            return Err(Error::new(Kind::Busy, Op::CreateVolume, id).because(why));
        }
        self.shared.inner.vacant(id)
    }

    fn create(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<()> {
        let (shared, op) = (&self.shared, Op::CreateVolume);
        shared.ready(op, id)?;
        shared.hook(op, id, spec, Hook::PreVolumeCreate, None)?;
        shared.inner.create(id, spec)?;
        shared.hook(op, id, spec, Hook::PostVolumeCreate, None).inspect_err(|_| {
            match shared.inner.remove(id) {
                Ok(()) => shared.tell_removed(op, id, spec).unwrap_or_else(|e| {
                    tracing::error!(volume = %id, error = e.report(), "a command around a volume failed");
                }),
                Err(e) => tracing::error!(volume = %id, error = e.report(), "a volume that failed stays"),
            }
        })
    }

    fn remove(&self, id: &VolumeId) -> Result<()> {
        let (shared, op) = (&self.shared, Op::RemoveVolume);
        shared.open(op)?;
        shared.inner.remove(id)?;
        shared.put_off.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        shared.tell_removed(op, id, &any_spec())
    }

    fn verify(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<()> {
        self.shared.ready(Op::VerifyVolume, id)?;
        self.shared.inner.verify(id, spec)
    }

    fn start(
        &self,
        id: &VolumeId,
        spec: &VolumeSpec,
        release_source: &mut dyn FnMut(),
        job: &Job,
    ) -> Result<Option<Started>> {
        let (shared, op) = (&self.shared, Op::StartVolume);
        job.check(op, id)?;
        if let Some(source) = spec.kind.source() {
            shared.ready(op, source)?;
        }
        shared.ready(op, id)?;
        shared.hook_of(job, op, id, spec, Hook::PreVolumeStart, None)?;
        let started = shared.inner.start(id, spec, release_source, job)?;
        shared.hook_of(job, op, id, spec, Hook::PostVolumeStart, None).inspect_err(|_| {
            match shared.inner.stop(id, spec, Ending::NeverRan) {
                Ok(()) => shared.hook_if_possible(op, id, spec, Hook::PostVolumeStop, None),
                Err(e) => {
                    tracing::error!(volume = %id, error = e.report(), "a start that failed is not taken back")
                }
            }
        })?;
        Ok(started)
    }

    fn stop(&self, id: &VolumeId, spec: &VolumeSpec, ending: Ending) -> Result<()> {
        let (shared, op) = (&self.shared, Op::StopVolume);
        shared.ready(op, id)?;
        shared.inner.stop(id, spec, ending)?;
        shared.hook(op, id, spec, Hook::PostVolumeStop, None)
    }

    fn prepare(&self, id: &VolumeId, spec: &VolumeSpec) {
        if self.shared.is_open() {
            self.shared.inner.prepare(id, spec);
        }
    }

    /// Put off while the pool is not open: it may be one that asks for a passphrase.
    fn recover(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<Recovered> {
        if !self.shared.is_open() {
            let mut put_off = self.shared.put_off.lock().unwrap_or_else(PoisonError::into_inner);
            put_off.insert(id.clone(), spec.clone());
            return Ok(Recovered::Clean);
        }
        self.shared.recover_now(id, spec)
    }

    fn begin_import(
        &self,
        id: &VolumeId,
        spec: &VolumeSpec,
        size: ImportSize,
    ) -> Result<Box<dyn ImportWriter>> {
        let (shared, op) = (&self.shared, Op::ImportVolume);
        shared.ready(op, id)?;
        let told = match size {
            ImportSize::Exactly(size) | ImportSize::Zeros(size) => size.to_string(),
            ImportSize::AsItComes => "None".to_owned(),
        };
        shared.hook(op, id, spec, Hook::PreVolumeImportData, Some(told))?;
        let inner = shared.inner.begin_import(id, spec, size)?;
        Ok(Box::new(CallbackImport::new(Arc::clone(shared), id, spec, inner)))
    }

    fn import_from(&self, id: &VolumeId, spec: &VolumeSpec, source: &Export, job: &Job) -> Result<()> {
        let (shared, op) = (&self.shared, Op::ImportVolume);
        shared.ready(op, id)?;
        let told = || Some(source.name().into_owned());
        shared.hook(op, id, spec, Hook::PreVolumeImport, told())?;
        shared.inner.import_from(id, spec, source, job)?;
        shared.hook(op, id, spec, Hook::PostVolumeImport, told())
    }

    fn export(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<Export> {
        let (shared, op) = (&self.shared, Op::ExportVolume);
        shared.ready(op, id)?;
        shared.hook(op, id, spec, Hook::PreVolumeExport, None)?;
        let export = shared.inner.export(id, spec)?;
        if shared.config.command(Hook::PostVolumeExportEnd).is_none() {
            return Ok(export);
        }
        let end = ExportEnd::new(Arc::clone(shared), id, spec, export.path());
        Ok(export.and_then(end))
    }

    fn info(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<VolumeInfo> {
        if self.shared.is_open() {
            return self.shared.inner.info(id, spec);
        }
        let usage = ByteSize::bytes(0);
        Ok(VolumeInfo { size: spec.size, usage, path: None, dirty: false, outdated: Some(false) })
    }

    fn usage(&self) -> Result<Option<PoolUsage>> {
        if self.shared.is_open() { self.shared.inner.usage() } else { Ok(None) }
    }

    fn usage_is_cheap(&self) -> bool {
        self.shared.inner.usage_is_cheap()
    }

    fn shares_blocks(&self) -> bool {
        self.shared.inner.shares_blocks()
    }

    /// # Errors
    /// `Unavailable` before the first use: what lies there then says nothing.
    fn contents(&self) -> Result<Contents> {
        if self.shared.is_open() {
            return self.shared.inner.contents();
        }
        let why = "what lies in it is seen after its first use, which runs pre_sinit";
        Err(Error::new(Kind::Unavailable, Op::InspectStorage, &self.shared.pool).because(why))
    }

    fn as_resize(&self) -> Option<&dyn Resize> {
        self.shared.inner.as_resize().map(|_| self as &dyn Resize)
    }

    fn as_revisions(&self) -> Option<&dyn Revisions> {
        self.shared.inner.as_revisions().map(|_| self as &dyn Revisions)
    }
}

impl Resize for CallbackDriver {
    fn resize(&self, id: &VolumeId, spec: &VolumeSpec, size: ByteSize) -> Result<()> {
        let (shared, op) = (&self.shared, Op::ResizeVolume);
        shared.ready(op, id)?;
        let resize = shared.inner.as_resize().ok_or_else(|| shared.lacks(op, id))?;
        shared.hook(op, id, spec, Hook::PreVolumeResize, Some(size.to_string()))?;
        resize.resize(id, spec, size)
    }
}

impl Revisions for CallbackDriver {
    fn revisions(&self, id: &VolumeId) -> Result<Vec<Revision>> {
        if !self.shared.is_open() {
            return Ok(Vec::new());
        }
        self.shared.revisions(Op::InspectStorage, id)?.revisions(id)
    }

    fn revert(&self, id: &VolumeId, spec: &VolumeSpec, revision: &RevisionId, job: &Job) -> Result<()> {
        self.shared.ready(Op::RevertVolume, id)?;
        self.shared.revisions(Op::RevertVolume, id)?.revert(id, spec, revision, job)
    }

    fn keep(&self, id: &VolumeId, spec: &VolumeSpec, number: u64, job: &Job) -> Result<RevisionId> {
        self.shared.ready(Op::CreateVolume, id)?;
        self.shared.revisions(Op::CreateVolume, id)?.keep(id, spec, number, job)
    }

    fn forget(&self, id: &VolumeId, revision: &RevisionId) -> Result<()> {
        self.shared.ready(Op::RemoveVolume, id)?;
        self.shared.revisions(Op::RemoveVolume, id)?.forget(id, revision)
    }
}

/// A spec for what looks at names alone.
fn any_spec() -> VolumeSpec {
    VolumeSpec {
        kind: VolumeKind::Volatile,
        size: ByteSize::bytes(0),
        revisions_to_keep: super::RevisionsToKeep::Newest(0),
        access: crate::config::Access::ReadWrite,
        sharing: super::Sharing::Private,
        ephemeral: false,
    }
}
