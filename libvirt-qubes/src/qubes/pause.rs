//! Pause and unpause, by us or by somebody else.

use std::sync::Arc;

use uuid::Uuid;

use super::event::{EventKind, ModelEvent};
use super::host::Host;
use super::operation::OperationKind;
use super::refusal::{HostError, Refusal, Verb};
use super::snapshot::RunState;
use super::start::{called_off, no_turn};
use crate::ids::{DomId, VmName};

impl Host {
    /// Stops a VM's virtual CPUs. A paused VM stays paused, and that is success.
    ///
    /// # Errors
    /// The VM does not run.
    pub async fn pause(self: &Arc<Self>, name: &VmName) -> Result<(), HostError> {
        let not_running = || Refusal::NotRunning { vm: name.clone() };
        self.pausing(name, Verb::Pause, not_running, |host, vm, domid, state| async move {
            match state {
                RunState::Paused => return Ok(()),
                RunState::Running | RunState::Transient | RunState::Suspended => {}
                RunState::Halting | RunState::Dying | RunState::Crashed => {
                    return Err(Refusal::NotRunning { vm: vm.name.clone() }.into());
                }
            }
            host.sequencer.announce(vec![ModelEvent::of(&vm, EventKind::DomainPrePaused)]);
            host.hypervisor.pause(vm.uuid).await?;
            host.note_paused(vm.uuid, domid);
            Ok(())
        })
        .await
    }

    /// Lets a paused VM run.
    ///
    /// # Errors
    /// The VM is not paused.
    pub async fn unpause(self: &Arc<Self>, name: &VmName) -> Result<(), HostError> {
        let not_paused = || Refusal::NotPaused { vm: name.clone() };
        self.pausing(name, Verb::Unpause, not_paused, |host, vm, domid, state| async move {
            if state != RunState::Paused {
                return Err(Refusal::NotPaused { vm: vm.name.clone() }.into());
            }
            host.sequencer.announce(vec![ModelEvent::of(&vm, EventKind::DomainPreUnpaused)]);
            host.hypervisor.unpause(vm.uuid).await?;
            host.note_unpaused(vm.uuid, domid);
            Ok(())
        })
        .await
    }

    /// Runs a pause or unpause under the VM's lock, as a task of its own.
    async fn pausing<F>(
        self: &Arc<Self>,
        name: &VmName,
        verb: Verb,
        halted: impl Fn() -> Refusal,
        work: impl FnOnce(Arc<Self>, Arc<super::vm::Vm>, DomId, RunState) -> F + Send + 'static,
    ) -> Result<(), HostError>
    where
        F: Future<Output = Result<(), HostError>> + Send,
    {
        let seen = self.snapshot();
        let vm = match self.live(&seen, name, verb) {
            Ok((vm, _)) => vm,
            Err(HostError::Refused(Refusal::NotStarted { .. })) => return Err(halted().into()),
            Err(error) => return Err(error),
        };
        let registered =
            self.operations.register(vm.uuid, OperationKind::Pause).map_err(|no| no_turn(&vm, no))?;
        let host = Arc::clone(self);
        let gone = halted();
        let task = self.tasks.spawn(async move {
            let _held = registered.lock().await.map_err(|no| no_turn(&vm, no))?;
            let run = host.snapshot().run(vm.uuid).cloned();
            match run.and_then(|run| run.domid.map(|domid| (domid, run.state))) {
                Some((domid, state)) => tokio::select! {
                    biased;
                    done = work(host, Arc::clone(&vm), domid, state) => done,
                    // The call runs on, on a domain that is being ended.
                    () = registered.cancel_token().cancelled() => Err(called_off(&vm)),
                },
                None => Err(gone.into()),
            }
        });
        task.await.unwrap_or(Err(HostError::Bug))
    }

    /// A domain is paused now. Told once, whoever sees it first: the operation or the hypervisor's event.
    pub(super) fn note_paused(&self, uuid: Uuid, domid: DomId) {
        self.note(uuid, domid, RunState::Running, RunState::Paused, EventKind::DomainPaused);
    }

    /// A domain runs again.
    pub(super) fn note_unpaused(&self, uuid: Uuid, domid: DomId) {
        self.note(uuid, domid, RunState::Paused, RunState::Running, EventKind::DomainUnpaused);
    }

    fn note(&self, uuid: Uuid, domid: DomId, from: RunState, to: RunState, kind: EventKind) {
        self.sequencer.update(|model, cells| {
            let mut events = Vec::new();
            if let Some(run) = cells.runs.get_mut(&uuid)
                && run.domid == Some(domid)
                && run.state == from
            {
                run.state = to;
                events.extend(model.vm(uuid).map(|vm| ModelEvent::of(vm, kind)));
            }
            (events, ())
        });
    }
}
