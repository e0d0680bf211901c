//! Start: from Halted to Running, or back to Halted with nothing left and the reason told.
//!
//! Order: register, pre-start and verify, the netvm, the VM's lock, look again, storage, domain. A second Start
//! of the same VM joins the first. The work runs as a task of its own: a caller that goes away leaves no half
//! of it.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::at_start;
use super::class::VmClass;
use super::diff::Diff;
use super::event::{EventKind, ModelEvent};
use super::host::Host;
use super::ids::PendingId;
use super::lifecycle::{StartPlan, Step, plan_start};
use super::meter::{Meter, Tell};
use super::operation::{Held, NoTurn, OperationKind, Registered};
use super::pending::{Pending, PendingKind, Reserved, StartPhase};
use super::refusal::{HostError, Refusal, Verb};
use super::snapshot::{Run, RunState, Snapshot};
use super::vm::Vm;
use super::volumes;
use super::write::Write;
use crate::config::{Boot, DiskSpec, DomainSpec};
use crate::device::{Claim, DiskId};
use crate::error::{Error, Kind, Op, Result};
use crate::exec::{Act, Effort, execute};
use crate::hypervisor::BoxFuture;
use crate::ids::{DomId, Vdev, VmName};
use crate::storage::{Ending, WrittenInPlace};

/// How a Start ended, for everybody who waits for it; `None` while it is under way.
type Outcome = watch::Receiver<Option<std::result::Result<(), HostError>>>;

/// The Starts that are under way.
#[derive(Debug, Default)]
pub(super) struct Starts {
    under_way: Mutex<HashMap<Uuid, Outcome>>,
}

impl Host {
    /// Starts a VM and returns when it runs. A VM that is not halted is left as it is, and that is success.
    ///
    /// # Errors
    /// What keeps it from starting; then it is halted, and what had been done is undone.
    pub async fn start(self: &Arc<Self>, name: &VmName) -> Result<(), HostError> {
        let mut outcome = self.begin_start(name)?;
        loop {
            if let Some(ended) = outcome.borrow_and_update().clone() {
                return ended;
            }
            if outcome.changed().await.is_err() {
                return Err(HostError::Bug);
            }
        }
    }

    fn begin_start(self: &Arc<Self>, name: &VmName) -> Result<Outcome, HostError> {
        // One look at who starts what, so that of two Starts one joins the other.
        let mut starts = self.starts.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = self.snapshot();
        let vm = Arc::clone(seen.model.find_vm(name)?);
        if !vm.class.has_lifecycle() {
            return Err(Refusal::NoLifecycle { vm: name.clone(), class: vm.class, verb: Verb::Start }.into());
        }
        if let Some(outcome) = starts.get(&vm.uuid) {
            return Ok(outcome.clone());
        }
        let (tell, outcome) = watch::channel(None);
        if seen.run(vm.uuid).is_some_and(|run| !run.is_over()) {
            tell.send_replace(Some(Ok(())));
            return Ok(outcome);
        }
        let registered =
            self.operations.register(vm.uuid, OperationKind::Start).map_err(|no| no_turn(&vm, no))?;
        starts.insert(vm.uuid, outcome.clone());
        drop(starts);
        self.register_run(vm.uuid);
        let host = Arc::clone(self);
        self.tasks.spawn(async move {
            let ended = host.run_start(&vm, &registered).await;
            if let Err(error) = &ended {
                host.forget_registered_run(vm.uuid);
                tracing::warn!(vm = %vm.name, ?error, "start failed");
                let reason = error.reason();
                host.sequencer.announce(vec![ModelEvent::of(&vm, EventKind::DomainStartFailed { reason })]);
            }
            host.starts.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&vm.uuid);
            drop(registered);
            if ended.as_ref().is_err_and(|error| !matches!(error, HostError::Limit { .. })) {
                host.after_failed_start(&vm).await;
            }
            tell.send_replace(Some(ended));
        });
        Ok(outcome)
    }

    async fn run_start(self: &Arc<Self>, vm: &Arc<Vm>, registered: &Registered) -> Result<(), HostError> {
        if vm.volume("kernel").is_some() {
            // What its folder says is part of what is started.
            self.look_at_kernels().await;
        }
        let seen = self.snapshot();
        if let Some(rationale) = vm.feature("prohibit-start").filter(|text| !text.is_empty()) {
            let rationale = rationale.to_owned();
            return Err(Refusal::StartProhibited { vm: vm.name.clone(), rationale }.into());
        }
        if vm.tags.iter().any(|tag| tag.as_str() == "backup-restore-in-progress") {
            return Err(Refusal::RestoreInProgress { vm: vm.name.clone() }.into());
        }
        self.sequencer.announce(vec![ModelEvent::of(vm, EventKind::DomainPreStart)]);
        let plan = plan_start(&seen, vm, self.hypervisor.boots_without_kernel())?;
        tokio::select! {
            biased;
            () = registered.cancel_token().cancelled() => return Err(called_off(vm)),
            () = self.at_rest_with_sources(&seen, vm) => {}
        }
        for volume in plan.volumes() {
            let step = "verify volumes";
            let verified = self.storage.verify(volume).await;
            verified.map_err(|error| self.step_error(vm, step.to_owned(), error))?;
        }
        self.sequencer.announce(vec![ModelEvent::of(vm, EventKind::DomainVerifyFiles)]);

        if let Some(netvm) = seen.model.netvm_of(vm).filter(|netvm| netvm.class.has_lifecycle()) {
            let name = netvm.name.clone();
            // Chains of netvms have no loops; each Start is a task of its own, so this waits holding nothing.
            let netvm = Box::pin(self.start(&name));
            tokio::select! {
                biased;
                () = registered.cancel_token().cancelled() => return Err(called_off(vm)),
                started = netvm => started?,
            }
        }

        let held = registered.lock().await.map_err(|no| no_turn(vm, no))?;
        let gone = |_| Refusal::NoSuchVm { name: vm.name.clone() };
        let vm = Arc::clone(self.snapshot().model.find_uuid(vm.uuid).map_err(gone)?);
        self.register_run(vm.uuid);
        if self.snapshot().run(vm.uuid).is_some_and(|run| run.domid.is_some()) {
            return Ok(());
        }
        let ended = self.start_held(&vm, registered.cancel_token(), &held).await;
        if ended.is_err() {
            // What was undone is undone: whoever gets the lock next finds the VM halted.
            self.claims.release_all(vm.uuid);
            self.sequencer.publish_run(vm.uuid, None, Vec::new());
        }
        ended
    }

    /// Waits until start-up is done with the volumes of a VM and of what it is based on.
    async fn at_rest_with_sources(self: &Arc<Self>, seen: &Snapshot, vm: &Vm) {
        for vm in seen.model.with_templates(vm) {
            self.at_rest(vm.uuid).await;
        }
    }

    /// From its registration on a VM counts as being started.
    fn register_run(&self, vm: Uuid) {
        self.sequencer.update(|_, cells| {
            cells.runs.entry(vm).or_insert_with(Run::registered);
            (Vec::new(), ())
        });
    }

    /// Forgets a run that never came to a domain.
    fn forget_registered_run(&self, vm: Uuid) {
        self.sequencer.update(|_, cells| {
            if cells.runs.get(&vm).is_some_and(|run| run.domid.is_none()) {
                cells.runs.remove(&vm);
            }
            (Vec::new(), ())
        });
    }

    /// With the VM's lock held, from its row in `pending` to the row's end.
    async fn start_held(
        self: &Arc<Self>,
        vm: &Arc<Vm>,
        cancel: &CancellationToken,
        _held: &Held,
    ) -> Result<(), HostError> {
        let uuid = vm.uuid;
        let boots_without_kernel = self.hypervisor.boots_without_kernel();
        let (pending, plan, noted) = self
            .committer
            .commit(move |seen| {
                let vm = seen.model.find_uuid(uuid)?;
                let plan = plan_start(seen, vm, boots_without_kernel)?;
                let id = seen.model.next_pending_id();
                let row = Pending {
                    id,
                    kind: PendingKind::Start(StartPhase::Building),
                    vm: Reserved::of(vm),
                    volumes: Vec::new(),
                };
                let noted = vm.started.clone();
                let started = at_start::with(&noted, plan.volumes());
                let mut diff = Diff::new((id, plan, noted)).write(Write::SetStarted(uuid, started));
                // The row of an earlier Start that ended while the store could not be written.
                if let Some(stale) = seen.model.pending_start_of(uuid) {
                    diff = diff.write(Write::FinishPending(stale.id));
                }
                Ok(diff.write(Write::BeginPending(Arc::new(row))))
            })
            .await?;
        let steps = plan.steps.iter().map(|step| StartStep { step: step.clone(), vm: plan.vm.name.clone() });
        let steps: Vec<StartStep> = steps.collect();
        let context = Arc::new(StartContext {
            host: Arc::clone(self),
            plan,
            pending,
            disks: Mutex::new(Vec::new()),
            domid: Mutex::new(None),
            may_have_run: AtomicBool::new(false),
        });
        let ended = execute(steps, Arc::clone(&context), cancel.clone()).await;
        let domid = context.domid();
        let runs = ended.is_ok();
        // What could not be undone ends by what was noted of it.
        let back = ended.as_ref().is_err_and(|failed| failed.not_undone.is_empty()).then_some(noted);
        let finished = self
            .committer
            .commit(move |seen| {
                let mut diff = Diff::new(()).write(Write::FinishPending(pending)).frees_space();
                if let Some(noted) = &back {
                    diff = diff.write(Write::SetStarted(uuid, noted.clone()));
                }
                Ok(if runs { note_run(diff, seen, uuid) } else { diff })
            })
            .await;
        match ended {
            Ok(_) => {
                if let Err(error) = finished {
                    // The guest runs; what start-up would do with the row, it does then.
                    tracing::error!(vm = %vm.name, ?error, "the row of a finished start stays");
                }
                self.now_running(&context.plan.vm, domid).await;
                Ok(())
            }
            Err(failed) => {
                for left in &failed.not_undone {
                    tracing::error!(vm = %vm.name, step = left.step, error = left.error.report(), "left behind");
                }
                // By whichever step it was in: to whoever waits it is the same.
                if cancel.is_cancelled() && failed.error.kind() == Kind::Cancelled {
                    return Err(called_off(vm));
                }
                Err(self.step_error(vm, failed.step, failed.error))
            }
        }
    }

    /// The last event of a Start. The domain may have ended already: then its end is being dealt with.
    async fn now_running(&self, vm: &Arc<Vm>, domid: Option<DomId>) {
        self.refresh_figures(vm.uuid).await;
        self.sequencer.update(|_, cells| {
            if let Some(run) = cells.runs.get_mut(&vm.uuid)
                && run.domid == domid
                && run.state == RunState::Transient
            {
                run.state = RunState::Running;
            }
            (vec![ModelEvent::of(vm, EventKind::DomainStart)], ())
        });
    }
}

/// Of a disposable that runs the store knows it, until what follows from its end is done.
pub(super) fn note_run(diff: Diff<()>, seen: &Snapshot, vm: Uuid) -> Diff<()> {
    let model = &seen.model;
    match model.vm(vm) {
        Some(vm) if vm.class == VmClass::DispVm && model.pending_run_of(vm.uuid).is_none() => {
            diff.write(Write::BeginPending(Arc::new(Pending {
                id: model.next_pending_id(),
                kind: PendingKind::Run,
                vm: Reserved::of(vm),
                volumes: Vec::new(),
            })))
        }
        Some(_) | None => diff,
    }
}

/// What the steps of one Start share.
struct StartContext {
    host: Arc<Host>,
    plan: StartPlan,
    pending: PendingId,
    /// What the volumes became, in the order of their disks.
    disks: Mutex<Vec<DiskSpec>>,
    domid: Mutex<Option<DomId>>,
    /// The guest was let run, or may have been: what it wrote is its VM's.
    may_have_run: AtomicBool,
}

impl StartContext {
    fn domid(&self) -> Option<DomId> {
        *self.domid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_disk(&self, vdev: Vdev) -> Option<DiskSpec> {
        let mut disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        let at = disks.iter().position(|disk| disk.vdev == vdev)?;
        Some(disks.swap_remove(at))
    }

    fn disks(&self) -> Vec<DiskSpec> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct StartStep {
    step: Step,
    vm: VmName,
}

impl fmt::Display for StartStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.step {
            Step::StartVolume { volume, .. } => write!(f, "start volume {}", volume.id.volume),
            Step::CreateDomain => f.write_str("create domain"),
            Step::RecordUnpause => f.write_str("record the unpause"),
            Step::Unpause => f.write_str("unpause domain"),
        }
    }
}

impl Act for StartStep {
    type Context = StartContext;

    fn run<'a>(
        &'a self,
        context: &'a StartContext,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let host = &context.host;
            let vm = &context.plan.vm;
            match &self.step {
                Step::StartVolume { volume, vdev } => {
                    let size = volume.spec.size.get();
                    let meter = Meter::begin(&host.sequencer, vm, &volume.id.volume, size, Tell::IfLong);
                    let started = host.storage.start(volume, meter.job(cancel.clone())).await?;
                    meter.finish();
                    let Some(started) = started else { return Ok(()) };
                    let disk = DiskSpec { vdev: *vdev, path: started.path, access: started.access };
                    let claimed = host.claim(vm.uuid, &disk).await;
                    if claimed.is_err()
                        && let Err(error) = host.storage.stop(volume, Ending::NeverRan).await
                    {
                        tracing::error!(%error, "a volume stays started");
                    }
                    claimed?;
                    context.disks.lock().unwrap_or_else(PoisonError::into_inner).push(disk);
                    Ok(())
                }
                Step::CreateDomain => {
                    host.sequencer.announce(vec![ModelEvent::of(vm, EventKind::DomainPreSpawn)]);
                    let spec = host.domain_spec(context).await?;
                    let domid = host.hypervisor.create(spec, cancel.clone()).await?;
                    *context.domid.lock().unwrap_or_else(PoisonError::into_inner) = Some(domid);
                    let run =
                        Run { domid: Some(domid), started_at: Some(SystemTime::now()), ..Run::registered() };
                    let mut events = host.computed_resets(vm);
                    events.push(ModelEvent::of(vm, EventKind::DomainSpawn));
                    events.push(ModelEvent::of(vm, EventKind::DomainQdbCreate));
                    host.sequencer.publish_run(vm.uuid, Some(run), events);
                    Ok(())
                }
                Step::RecordUnpause => {
                    let pending = context.pending;
                    let phase = PendingKind::Start(StartPhase::Unpausing);
                    let recorded = host
                        .committer
                        .commit(move |_| Ok(Diff::new(()).write(Write::AdvancePending(pending, phase))))
                        .await;
                    recorded.map_err(|error| store_error(&vm.name, error))
                }
                Step::Unpause => {
                    host.sequencer.announce(vec![ModelEvent::of(vm, EventKind::DomainPreUnpaused)]);
                    context.may_have_run.store(true, Ordering::Relaxed);
                    tokio::select! {
                        biased;
                        unpaused = host.hypervisor.unpause(vm.uuid) => {
                            unpaused.inspect_err(|error| {
                                // What is not there any more has run to its end.
                                let has_run = error.kind() == Kind::NotFound;
                                context.may_have_run.store(has_run, Ordering::Relaxed);
                            })?;
                        }
                        // The call runs on; what it may still let run, the undo destroys.
                        () = cancel.cancelled() => return Err(self.error(Kind::Cancelled)),
                    }
                    host.sequencer.announce(vec![ModelEvent::of(vm, EventKind::DomainUnpaused)]);
                    Ok(())
                }
            }
        })
    }

    fn undo<'a>(&'a self, context: &'a StartContext) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let host = &context.host;
            let vm = &context.plan.vm;
            match &self.step {
                Step::StartVolume { volume, vdev } => {
                    // While the file exists: its inode is another file's as soon as it is gone.
                    host.release(vm.uuid, context.take_disk(*vdev)).await;
                    let ending = if context.may_have_run.load(Ordering::Relaxed) {
                        Ending::Ran
                    } else {
                        Ending::NeverRan
                    };
                    host.storage.stop(volume, ending).await
                }
                Step::CreateDomain => match host.hypervisor.destroy(vm.uuid).await {
                    Err(error) if error.kind() == Kind::NotFound => Ok(()),
                    ended => ended,
                },
                Step::RecordUnpause | Step::Unpause => Ok(()),
            }
        })
    }

    fn effort(&self) -> Effort {
        Effort::Required
    }

    fn error(&self, kind: Kind) -> Error {
        let op = match self.step {
            Step::StartVolume { .. } => Op::StartVolume,
            Step::CreateDomain | Step::RecordUnpause => Op::CreateDomain,
            Step::Unpause => Op::UnpauseDomain,
        };
        Error::new(kind, op, &self.vm)
    }
}

impl Host {
    async fn domain_spec(&self, context: &StartContext) -> Result<DomainSpec> {
        let plan = &context.plan.domain;
        let boot = match &plan.kernel {
            None => None,
            Some((pool, version)) => {
                let kernel = self.storage.kernel(pool, version).await?;
                Some(Boot {
                    kernel: kernel.vmlinuz,
                    ramdisk: kernel.initramfs,
                    cmdline: plan.kernelopts.clone(),
                })
            }
        };
        Ok(DomainSpec {
            name: plan.name.clone(),
            uuid: plan.uuid,
            virt_mode: plan.virt_mode,
            memory: plan.memory,
            max_memory: plan.max_memory,
            vcpus: plan.vcpus,
            boot,
            disks: context.disks(),
        })
    }

    /// Gives a VM's claim on a disk back.
    async fn release(&self, vm: Uuid, disk: Option<DiskSpec>) {
        let Some(disk) = disk else { return };
        if let Ok(Ok(id)) = tokio::task::spawn_blocking(move || DiskId::of(&disk.path)).await {
            self.claims.release(id, vm);
        }
    }

    /// Claims a disk for a VM: no other may have it, unless all read.
    pub(super) async fn claim(&self, vm: Uuid, disk: &DiskSpec) -> Result<DiskId> {
        let path = disk.path.clone();
        let looked = tokio::task::spawn_blocking(move || DiskId::of(&path)).await;
        let id = looked
            .map_err(|join| Error::new(Kind::Backend, Op::AttachDisk, disk.path.display()).because(join))??;
        self.claims.claim(id, Claim { domain: vm, access: disk.access }).map_err(|held| {
            let holder = self.snapshot().model.name_of(held.domain);
            let holder = holder.map_or_else(|| held.domain.to_string(), |name| name.to_string());
            Error::new(Kind::Busy, Op::AttachDisk, disk.path.display())
                .because(format!("it is a disk of the running VM {holder}"))
        })?;
        Ok(id)
    }
}

/// A place in the queue that was not got.
pub(super) fn no_turn(vm: &Vm, no: NoTurn) -> HostError {
    match no {
        NoTurn::Full { limit } => {
            HostError::Limit { name: "operations_per_vm", value: u64::try_from(limit).unwrap_or(u64::MAX) }
        }
        NoTurn::Cancelled => called_off(vm),
    }
}

pub(super) fn called_off(vm: &Vm) -> HostError {
    HostError::CalledOff { vm: vm.name.clone() }
}

impl Host {
    /// Of a source that its own VM writes in place no step is to blame.
    fn step_error(&self, vm: &Vm, step: String, error: Error) -> HostError {
        let runs = WrittenInPlace::of(&error).and_then(|source| {
            let seen = self.snapshot();
            let mut sources = vm.volumes.iter().filter_map(|v| seen.model.volume_source(vm, v.name.as_str()));
            let (of, found) =
                sources.find(|(owner, volume)| volumes::id(owner, &volume.name) == source.volume)?;
            let vid = found.vid.as_deref().map_or_else(|| source.volume.to_string(), str::to_owned);
            Some(Refusal::SourceRuns { of: of.name.clone(), vid })
        });
        match runs {
            Some(refusal) => refusal.into(),
            None => HostError::Step { vm: vm.name.clone(), step, error },
        }
    }
}

fn store_error(vm: &VmName, error: HostError) -> Error {
    match error {
        HostError::Failed(error) | HostError::Step { error, .. } | HostError::ResizeInGuest { error, .. } => {
            error
        }
        other @ (HostError::Refused(_)
        | HostError::CalledOff { .. }
        | HostError::Limit { .. }
        | HostError::Bug) => Error::new(Kind::Backend, Op::Store, vm).because(other.report()),
    }
}
