//! The end of a run, however it came: asked for, forced, or by the guest itself.
//!
//! There is one way to the end, [`Host::finish_run`], under the VM's lock and idempotent: destroy what is left of the
//! domain, commit or discard its volumes, announce. Kill and the hypervisor's events both come to it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use uuid::Uuid;

use super::at_start;
use super::class::VmClass;
use super::event::{EventKind, Force, ModelEvent};
use super::host::Host;
use super::operation::{Held, OperationKind};
use super::property::Property;
use super::refusal::{HostError, Refusal, Verb};
use super::snapshot::{Run, RunState, Snapshot};
use super::vm::Vm;
use super::waiting::Again;
use crate::error::Kind;
use crate::hypervisor::{DomainChange, DomainEvent, DomainState, HypervisorEvent, ShutdownReason};
use crate::ids::{DomId, VmName};
use crate::storage::Ending;

/// How a guest is asked to shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShutdownRequest {
    /// Whether what speaks against it is passed over; a paused VM is then killed.
    pub force: Force,
    /// Whether the call waits for the end.
    pub wait: Wait,
}

/// Whether a call waits for what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wait {
    /// It returns when the request is handed over.
    ForTheRequest,
    /// It returns when the VM is halted, at the latest after the property `shutdown_timeout`.
    ForTheEnd,
}

impl Host {
    /// Asks the guest to shut down. A guest that never answers keeps running and holds nothing; it can be
    /// asked again, or killed.
    ///
    /// # Errors
    /// The VM is halted, paused (without force), or its clients run (without force); the request could not be
    /// handed over; or, where the end was waited for, it did not come in time.
    pub async fn shutdown(self: &Arc<Self>, name: &VmName, how: ShutdownRequest) -> Result<(), HostError> {
        let seen = self.snapshot();
        let (vm, run) = self.live(&seen, name, Verb::Shutdown)?;
        let force = how.force;
        let of = |kind| ModelEvent::of(&vm, kind);
        self.sequencer.announce(vec![of(EventKind::DomainPreShutdown { force })]);
        let asked = self.ask_to_shut_down(&seen, &vm, &run, force).await;
        if let Err(error) = asked {
            let reason = error.reason();
            self.sequencer.announce(vec![of(EventKind::DomainShutdownFailed { reason })]);
            return Err(error);
        }
        match how.wait {
            Wait::ForTheRequest => Ok(()),
            Wait::ForTheEnd => self.wait_for_the_end(&seen, &vm, &run).await,
        }
    }

    async fn ask_to_shut_down(
        self: &Arc<Self>,
        seen: &Snapshot,
        vm: &Arc<Vm>,
        run: &Run,
        force: Force,
    ) -> Result<(), HostError> {
        if force == Force::No {
            let running = |client: &&Arc<Vm>| seen.run(client.uuid).is_some();
            let clients =
                seen.model.network_clients(vm.uuid).filter(running).map(|client| client.name.clone());
            let clients: std::collections::BTreeSet<VmName> = clients.collect();
            if !clients.is_empty() {
                return Err(Refusal::ClientsRunning { vm: vm.name.clone(), clients }.into());
            }
        }
        match (run.state, force) {
            (RunState::Paused, Force::No) => Err(Refusal::NotRunning { vm: vm.name.clone() }.into()),
            (RunState::Paused, Force::Yes) => self.kill(&vm.name).await,
            (RunState::Dying | RunState::Crashed, _) => Ok(()),
            _ if run.domid.is_none() => Err(Refusal::NotRunning { vm: vm.name.clone() }.into()),
            _ => match self.hypervisor.request_shutdown(vm.uuid).await {
                // It has ended by itself, or is at it.
                Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Busy) => Ok(()),
                handed_over => Ok(handed_over?),
            },
        }
    }

    async fn wait_for_the_end(&self, seen: &Snapshot, vm: &Vm, run: &Run) -> Result<(), HostError> {
        let limit = Property::ShutdownTimeout.int(seen, vm).and_then(|s| u64::try_from(s).ok()).unwrap_or(60);
        let (mut events, now) = {
            let uuid = vm.uuid;
            self.sequencer
                .subscribe(move |event| event.vm() == Some(uuid) && event.kind == EventKind::DomainShutdown)
        };
        if now.run(vm.uuid).is_some_and(|now| now.domid == run.domid)
            && tokio::time::timeout(Duration::from_secs(limit), events.next()).await.is_err()
        {
            return Err(Refusal::ShutdownTimeout { vm: vm.name.clone() }.into());
        }
        // What follows from the end of a disposable is done by whoever has its lock now.
        if vm.class == VmClass::DispVm
            && let Ok(turn) = self.operations.register(vm.uuid, OperationKind::Stop)
        {
            drop(turn.lock().await);
        }
        Ok(())
    }

    /// Ends a VM in whatever state it is, also while it is being started, and returns when it is halted. It
    /// waits for no other operation on the VM: those are cancelled.
    ///
    /// # Errors
    /// The VM is halted; or the hypervisor cannot destroy it, then it is as it was.
    pub async fn kill(self: &Arc<Self>, name: &VmName) -> Result<(), HostError> {
        let seen = self.snapshot();
        let (vm, _) = self.live(&seen, name, Verb::Kill)?;
        let host = Arc::clone(self);
        let killing = self.tasks.spawn(async move {
            let over = host.operations.override_all(vm.uuid);
            let held = over.lock().await;
            match host.snapshot().run(vm.uuid).and_then(|run| run.domid) {
                Some(domid) => host.finish_run(vm.uuid, domid, RunState::Dying, &held).await,
                None => Ok(()),
            }
        });
        killing.await.unwrap_or(Err(HostError::Bug))
    }

    /// A VM that is not halted, with its run.
    pub(super) fn live(
        &self,
        seen: &Snapshot,
        name: &VmName,
        verb: Verb,
    ) -> Result<(Arc<Vm>, Run), HostError> {
        let vm = Arc::clone(seen.model.find_vm(name)?);
        if !vm.class.has_lifecycle() {
            return Err(Refusal::NoLifecycle { vm: name.clone(), class: vm.class, verb }.into());
        }
        match seen.run(vm.uuid) {
            Some(run) => {
                let run = run.clone();
                Ok((vm, run))
            }
            None => Err(Refusal::NotStarted { vm: name.clone() }.into()),
        }
    }

    /// Brings a run to its end: domain, volumes, events. Under the VM's lock. If the run is over already, that is
    /// success.
    ///
    /// # Errors
    /// The domain cannot be destroyed; it stays, and so does the run. Trouble with volumes is logged: they stay
    /// dirty, and recover at the next start.
    pub(super) async fn finish_run(
        &self,
        uuid: Uuid,
        domid: DomId,
        how: RunState,
        held: &Held,
    ) -> Result<(), HostError> {
        let seen = self.snapshot();
        if seen.run(uuid).is_none_or(|run| run.domid != Some(domid)) {
            return Ok(());
        }
        let before = seen.run(uuid).map(|run| run.state);
        self.set_run_state(uuid, domid, how);
        match self.hypervisor.destroy(uuid).await {
            Ok(()) => {}
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => {
                if let Some(before) = before {
                    self.set_run_state(uuid, domid, before);
                }
                return Err(error.into());
            }
        }
        self.claims.release_all(uuid);
        self.attached.forget(uuid);
        let Some(vm) = seen.model.vm(uuid) else {
            self.sequencer.publish_run(uuid, None, Vec::new());
            return Ok(());
        };
        self.stop_volumes(&seen, vm).await;
        let mut events = vec![ModelEvent::of(vm, EventKind::DomainStopped)];
        events.extend(self.computed_resets(vm));
        events.push(ModelEvent::of(vm, EventKind::DomainShutdown));
        self.sequencer.publish_run(uuid, None, events);
        self.after_run(uuid, held).await;
        Ok(())
    }

    /// Commits or discards what a run wrote.
    async fn stop_volumes(&self, seen: &Snapshot, vm: &Arc<Vm>) {
        let mut ended = Vec::new();
        for volume in at_start::to_end(seen, vm) {
            match self.storage.stop(&volume, Ending::Ran).await {
                Ok(()) => ended.push(volume),
                Err(error) => {
                    tracing::error!(
                        vm = %vm.name, volume = %volume.id.volume, error = error.report(),
                        "volume stays dirty: the next start goes on with what it holds"
                    );
                    if Again::after(&error) == Again::Soon {
                        self.waiting.add_vm(vm.uuid);
                    }
                }
            }
        }
        self.note_ended(vm, ended).await;
    }

    fn set_run_state(&self, uuid: Uuid, domid: DomId, state: RunState) {
        self.sequencer.update(|_, cells| {
            if let Some(run) = cells.runs.get_mut(&uuid)
                && run.domid == Some(domid)
            {
                run.state = state;
            }
            (Vec::new(), ())
        });
    }

    /// Follows what domains do by themselves, until the hypervisor is gone. Runs as a task for the host's life.
    pub(super) async fn follow_hypervisor(self: Arc<Self>, mut events: broadcast::Receiver<HypervisorEvent>) {
        loop {
            use tokio::sync::broadcast::error::RecvError;
            let event = tokio::select! {
                () = self.closing.cancelled() => return,
                event = events.recv() => event,
            };
            match event {
                Ok(HypervisorEvent::Domain(event)) => self.domain_changed(event),
                Ok(HypervisorEvent::Lost) | Err(RecvError::Lagged(_)) => self.look_at_all_domains().await,
                Ok(HypervisorEvent::Unavailable) => {
                    tracing::error!("the hypervisor's services are gone: this host must be started anew");
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn domain_changed(self: &Arc<Self>, event: DomainEvent) {
        let how = match event.change {
            DomainChange::Shutdown(ShutdownReason::Suspend) => {
                return self.set_run_state(event.uuid, event.domid, RunState::Suspended);
            }
            DomainChange::Shutdown(ShutdownReason::Crash | ShutdownReason::Watchdog) => RunState::Crashed,
            DomainChange::Shutdown(
                ShutdownReason::Poweroff
                | ShutdownReason::Reboot
                | ShutdownReason::SoftReset
                | ShutdownReason::Unknown,
            )
            | DomainChange::Died => RunState::Dying,
            DomainChange::Paused => return self.note_paused(event.uuid, event.domid),
            DomainChange::Unpaused => return self.note_unpaused(event.uuid, event.domid),
        };
        self.run_ended(event.uuid, event.domid, how);
    }

    /// A domain ended without our doing. What is under way on the VM is cancelled.
    fn run_ended(self: &Arc<Self>, uuid: Uuid, domid: DomId, how: RunState) {
        if self.snapshot().run(uuid).is_none_or(|run| run.domid != Some(domid)) {
            return;
        }
        let host = Arc::clone(self);
        self.tasks.spawn(async move {
            let over = host.operations.override_all(uuid);
            let held = over.lock().await;
            if let Err(error) = host.finish_run(uuid, domid, how, &held).await {
                tracing::error!(%uuid, %domid, ?error, "the domain ended and cannot be destroyed");
            }
        });
    }

    /// Reads the state of every domain again, where events may have been lost.
    async fn look_at_all_domains(self: &Arc<Self>) {
        let domains = match self.hypervisor.list().await {
            Ok(domains) => domains,
            Err(error) => {
                tracing::error!(error = error.report(), "domains cannot be listed after events were lost");
                return;
            }
        };
        for (uuid, run) in &self.snapshot().cells.runs {
            let Some(domid) = run.domid else { continue };
            let found = domains.iter().find(|domain| domain.uuid == *uuid && domain.domid == domid);
            match found.map(|domain| domain.state) {
                None | Some(DomainState::Dying) => self.run_ended(*uuid, domid, RunState::Dying),
                Some(DomainState::Shutdown(reason)) => {
                    let change = DomainChange::Shutdown(reason);
                    self.domain_changed(DomainEvent { uuid: *uuid, domid, change });
                }
                Some(DomainState::Paused) => self.note_paused(*uuid, domid),
                Some(DomainState::Running) => self.note_unpaused(*uuid, domid),
            }
        }
    }

    /// Properties that follow from the run, which just changed.
    pub(super) fn computed_resets(&self, vm: &Vm) -> Vec<ModelEvent> {
        ["xid", "stubdom_xid", "start_time"]
            .into_iter()
            .map(|name| {
                let change = super::event::PropertyChange { name, new: None, old: None };
                ModelEvent::of(vm, EventKind::PropertyReset(change))
            })
            .collect()
    }
}
