//! The simulated host, and the hand of whoever is not our toolstack: guests, other toolstacks, faults.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use uuid::Uuid;

use super::record::Record;
use super::rules::Rule;
use super::state::State;
use super::store::Store;
use crate::error::{At, Error, Kind, Op, Result};
use crate::hypervisor::{DomainChange, HypervisorEvent, ShutdownReason};
use crate::ids::Vdev;

/// A simulated host. Clones are the same host.
///
/// The methods do what happens without our toolstack's doing; they bypass every fault and delay. All of
/// them work off the async threads. Where a domain is named by UUID, `Kind::NotFound` says that there is none.
#[derive(Debug, Clone)]
pub struct World {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<u64>>,
}

impl World {
    /// A host that lives as long as this value and its clones.
    pub fn memory() -> Self {
        let changed = Arc::new(watch::Sender::new(0));
        Self::new(State::new(None, None, Vec::new(), changed.clone()), changed)
    }

    /// The host whose domains lie under `dir/sim/`, one small file for each; made when it is not there. It is
    /// found again as it was left, by however sudden an end of the process, and time has passed for its
    /// guests. Without the folder it is a host that was just booted. One process at a time.
    ///
    /// `Kind::Corrupt` when a file is damaged or of another format.
    pub async fn on_disk(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref().join("sim");
        let shown = dir.display().to_string();
        off_thread(Op::OpenHypervisor, shown, move || {
            let (store, host, records) = Store::open(dir)?;
            let changed = Arc::new(watch::Sender::new(0));
            let state = State::new(Some(store), host, records, changed.clone());
            Ok(Self::new(state, changed))
        })
        .await
    }

    fn new(state: State, changed: Arc<watch::Sender<u64>>) -> Self {
        Self { state: Arc::new(Mutex::new(state)), changed }
    }

    /// Puts a rule in force, besides those of the connections' scripts.
    pub async fn inject(&self, rule: Rule) -> Result<()> {
        self.with(Op::OpenHypervisor, "world", move |state| {
            state.injected.add(rule);
            Ok(())
        })
        .await
    }

    /// The next operation of this kind fails, on whatever domain, and changes nothing.
    pub async fn fail_next(&self, op: Op, kind: Kind, text: impl Into<String>) -> Result<()> {
        self.inject(Rule::at(op).times(1).fail(kind, text)).await
    }

    /// The next operation of this kind takes so much longer.
    pub async fn delay_next(&self, op: Op, delay: Duration) -> Result<()> {
        self.inject(Rule::at(op).times(1).delay(delay)).await
    }

    /// The next operation of this kind does not end by itself.
    pub async fn hang_next(&self, op: Op) -> Result<()> {
        self.inject(Rule::at(op).times(1).hang()).await
    }

    /// Lets every operation that hangs now go on.
    pub async fn release(&self) -> Result<()> {
        self.with(Op::OpenHypervisor, "world", |state| {
            state.releases = state.releases.wrapping_add(1);
            state.bump();
            Ok(())
        })
        .await
    }

    /// The guest powers off by itself, now. `Kind::Busy` unless it runs.
    pub async fn poweroff(&self, uuid: Uuid) -> Result<()> {
        self.shut_down(uuid, ShutdownReason::Poweroff).await
    }

    /// The guest asks to be rebooted, now. `Kind::Busy` unless it runs.
    pub async fn reboot(&self, uuid: Uuid) -> Result<()> {
        self.shut_down(uuid, ShutdownReason::Reboot).await
    }

    /// The guest crashes, now. `Kind::Busy` unless it runs.
    pub async fn crash(&self, uuid: Uuid) -> Result<()> {
        self.shut_down(uuid, ShutdownReason::Crash).await
    }

    /// The guest shuts down by itself, now. `Kind::Busy` unless it runs.
    pub async fn shut_down(&self, uuid: Uuid, reason: ShutdownReason) -> Result<()> {
        self.with(Op::ShutdownDomain, uuid, move |state| {
            let record = running(state, Op::ShutdownDomain, uuid)?;
            let now = state.clock.now();
            state.end(record, reason, now);
            Ok(())
        })
        .await
    }

    /// Somebody else pauses the domain (`xl pause`). Counted: each needs its [`World::unpause`], or one
    /// unpause by our API.
    pub async fn pause(&self, uuid: Uuid) -> Result<()> {
        self.with(Op::PauseDomain, uuid, move |state| {
            let mut record = state.whole(Op::PauseDomain, uuid)?.clone();
            let ran = record.runs();
            record.pauses = record.pauses.saturating_add(1);
            state.change(Op::PauseDomain, record, ran.then_some(DomainChange::Paused))
        })
        .await
    }

    /// Somebody else unpauses the domain once (`xl unpause`). `Kind::Backend` when it is not paused.
    pub async fn unpause(&self, uuid: Uuid) -> Result<()> {
        self.with(Op::UnpauseDomain, uuid, move |state| {
            let mut record = state.whole(Op::UnpauseDomain, uuid)?.clone();
            record.pauses = record
                .pauses
                .checked_sub(1)
                .ok_or_else(|| record.error(Kind::Backend, Op::UnpauseDomain).because("it is not paused"))?;
            let runs = record.runs();
            state.change(Op::UnpauseDomain, record, runs.then_some(DomainChange::Unpaused))
        })
        .await
    }

    /// Somebody else destroys the domain (`xl destroy`), however far it is.
    pub async fn destroy(&self, uuid: Uuid) -> Result<()> {
        self.with(Op::DestroyDomain, uuid, move |state| {
            let domid = state.find(Op::DestroyDomain, uuid)?.domid;
            state.remove(Op::DestroyDomain, domid)
        })
        .await
    }

    /// The guest writes into its disk. `Kind::Busy` unless it runs; the error of the disk where that fails.
    pub async fn write(&self, uuid: Uuid, vdev: Vdev, offset: u64, bytes: Vec<u8>) -> Result<()> {
        self.with(Op::AttachDisk, uuid, move |state| {
            let record = running(state, Op::AttachDisk, uuid)?;
            let disk = state.disk(record.domid, vdev);
            disk.and_then(|disk| disk.write(offset, &bytes)).at(Op::AttachDisk, format!("{vdev} of {uuid}"))
        })
        .await
    }

    /// What the guest reads from its disk; shorter at the disk's end. `Kind::Busy` unless it runs.
    pub async fn read(&self, uuid: Uuid, vdev: Vdev, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.with(Op::AttachDisk, uuid, move |state| {
            let record = running(state, Op::AttachDisk, uuid)?;
            let disk = state.disk(record.domid, vdev);
            disk.and_then(|disk| disk.read(offset, len)).at(Op::AttachDisk, format!("{vdev} of {uuid}"))
        })
        .await
    }

    /// From now on events reach nobody, until [`World::lose_events`].
    pub async fn mute(&self) -> Result<()> {
        self.with(Op::WatchDomain, "world", |state| {
            state.muted = true;
            Ok(())
        })
        .await
    }

    /// Every connection is told that events were lost, and hears those that follow.
    pub async fn lose_events(&self) -> Result<()> {
        self.with(Op::WatchDomain, "world", |state| {
            state.muted = false;
            state.announce(&HypervisorEvent::Lost);
            Ok(())
        })
        .await
    }

    /// xenstored dies: from now on nothing but lists, figures and pauses works, and that stays so.
    pub async fn lose_services(&self) -> Result<()> {
        self.with(Op::Xenstore, "world", |state| state.lose_services(Op::Xenstore)).await
    }

    /// Does something to the state, after what was due by now, off the async threads.
    pub(super) async fn with<T: Send + 'static>(
        &self,
        op: Op,
        target: impl std::fmt::Display,
        f: impl FnOnce(&mut State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let state = self.state.clone();
        off_thread(op, target.to_string(), move || {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.advance();
            f(&mut state)
        })
        .await
    }

    /// As [`World::with`], from a thread that may block, without letting time pass.
    pub(super) fn with_blocking<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until `done` says so of the state; it is asked again at each change.
    pub(super) async fn until(
        &self,
        op: Op,
        target: impl std::fmt::Display,
        done: impl Fn(&State) -> bool + Clone + Send + 'static,
    ) -> Result<()> {
        let mut changed = self.changed.subscribe();
        loop {
            let done = done.clone();
            if self.with(op, &target, move |state| Ok(done(state))).await? {
                return Ok(());
            }
            if changed.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    /// Counts changes.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// The domain, if its guest runs.
fn running(state: &State, op: Op, uuid: Uuid) -> Result<Record> {
    let record = state.find(op, uuid)?;
    if record.runs() {
        return Ok(record.clone());
    }
    Err(record.error(Kind::Busy, op).because("its guest does not run"))
}

async fn off_thread<T: Send + 'static>(
    op: Op,
    target: String,
    f: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(f)
        .await
        .unwrap_or_else(|lost| Err(Error::new(Kind::Backend, op, target).because(lost)))
}
