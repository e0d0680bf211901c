//! A toolstack's connection to a simulated host.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::config::SimConfig;
use super::record::Record;
use super::rules::{Effects, Rules};
use super::script;
use super::state::State;
use super::world::World;
use crate::error::{Error, Kind, Op, Result};
use crate::hypervisor::{BoxFuture, HypervisorEvent};
use crate::ids::VmName;

/// Events that wait for a slow receiver; past it, it has lost some.
const EVENT_QUEUE: usize = 1024;

/// A hypervisor that is simulated. Dropping it leaves the world, and its domains, as they are.
#[derive(Debug)]
pub struct SimHypervisor {
    pub(super) link: Arc<Link>,
    /// Ends the clock.
    _clock: DropGuard,
}

/// What operations need, and keep while they run on after the connection's end.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) world: World,
    pub(super) config: SimConfig,
    pub(super) events: broadcast::Sender<HypervisorEvent>,
    pub(super) listener: u64,
    script: Mutex<Rules>,
}

impl SimHypervisor {
    /// Connects to a world, as a host of these figures and with the script that they name. Inside a tokio
    /// runtime, which the connection's clock uses from then on.
    ///
    /// `Kind::Invalid`, with the place, when the script is wrong; `Kind::NotFound` when it is not there.
    pub async fn open(world: World, config: SimConfig) -> Result<Self> {
        let (events, _) = broadcast::channel(EVENT_QUEUE);
        let (sender, path, seed) = (events.clone(), config.script.clone(), config.seed);
        let (listener, rules) = world
            .with(Op::OpenHypervisor, "sim", move |state| {
                let rules = path.map(|path| script::read(&path)).transpose()?.unwrap_or_default();
                Ok((state.listen(sender), Rules::new(rules, seed)))
            })
            .await?;
        let stop = CancellationToken::new();
        tokio::spawn(clock(world.clone(), stop.clone()));
        let link = Link { world, config, events, listener, script: Mutex::new(rules) };
        Ok(Self { link: Arc::new(link), _clock: stop.drop_guard() })
    }

    /// The host behind this connection.
    pub fn world(&self) -> &World {
        &self.link.world
    }

    /// What the host is like.
    pub fn config(&self) -> &SimConfig {
        &self.link.config
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let (world, listener) = (self.world.clone(), self.listener);
        // The lock may be held by a thread that writes a file: not a wait for an async thread.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || world.with_blocking(|s| s.deafen(listener)))),
            Err(_) => world.with_blocking(|state| state.deafen(listener)),
        }
    }
}

/// Lets guests do what is due when it is due, for those who wait for events; every operation does it too.
async fn clock(world: World, stop: CancellationToken) {
    let mut changes = world.changes();
    loop {
        changes.mark_unchanged();
        let next = world.with(Op::OpenHypervisor, "sim", |state| {
            Ok(state.next_due().map(|due| state.clock.instant(due)))
        });
        let next = match next.await {
            Ok(next) => next,
            Err(error) => {
                tracing::error!(error = error.report(), "the simulated host's clock failed once");
                None
            }
        };
        let due = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
            () = due => {}
        }
    }
}

/// How a wait inside an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waited {
    /// It was long enough.
    Enough,
    /// The operation was cancelled.
    Cancelled,
    /// What it was about has gone.
    Gone,
}

impl Link {
    /// What is to go otherwise at this operation; counts it.
    pub(super) fn effects(&self, state: &mut State, op: Op, vm: Option<&VmName>) -> Effects {
        let mut effects = state.injected.take(op, vm);
        effects.add(&self.script.lock().unwrap_or_else(PoisonError::into_inner).take(op, vm));
        effects
    }

    /// Waits as long as `effects` and `more` say, at most until `cancel` or until `gone` says so.
    pub(super) async fn take_time(
        &self,
        op: Op,
        effects: &Effects,
        more: Duration,
        cancel: &CancellationToken,
        gone: impl Fn(&State) -> bool + Clone + Send + 'static,
    ) -> Result<Waited> {
        let delay = effects.delay.saturating_add(more);
        if delay.is_zero() && !effects.hang {
            return Ok(if cancel.is_cancelled() { Waited::Cancelled } else { Waited::Enough });
        }
        let releases = self.world.with(op, "sim", |state| Ok(state.releases)).await?;
        let enough = async {
            if effects.hang {
                self.world.until(op, "sim", move |state| state.releases != releases).await?;
            }
            tokio::time::sleep(delay).await;
            Ok(Waited::Enough)
        };
        tokio::select! {
            () = cancel.cancelled() => Ok(Waited::Cancelled),
            gone = self.world.until(op, "sim", gone) => gone.map(|()| Waited::Gone),
            enough = enough => enough,
        }
    }

    /// A short operation on a whole domain: the rules' delay and failure first, then `f`, in one step with
    /// whatever it looks at.
    pub(super) async fn on_domain<T: Send + 'static>(
        self: &Arc<Self>,
        op: Op,
        uuid: Uuid,
        check: impl Fn(&State, &Record) -> Result<()> + Clone + Send + 'static,
        cancel: &CancellationToken,
        f: impl FnOnce(&mut State, Record, Effects) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (link, first) = (self.clone(), check.clone());
        let (domid, name, effects) = self
            .world
            .with(op, uuid, move |state| {
                let record = state.whole(op, uuid)?;
                let (domid, name) = (record.domid, record.spec.name.clone());
                first(state, record)?;
                Ok((domid, name.clone(), link.effects(state, op, Some(&name))))
            })
            .await?;
        let waited = self.take_time(op, &effects, Duration::ZERO, cancel, move |state| state.is_gone(domid));
        match waited.await? {
            Waited::Enough => effects.failure(op, &name)?,
            Waited::Cancelled => return Err(Error::new(Kind::Cancelled, op, &name)),
            Waited::Gone => return Err(Error::new(Kind::NotFound, op, &name)),
        }
        self.world
            .with(op, uuid, move |state| {
                // Another run of the same VM is another domain.
                let record = state.get(domid).ok_or_else(|| Error::new(Kind::NotFound, op, &name))?;
                let record = state.whole(op, record.uuid())?.clone();
                check(state, &record)?;
                f(state, record, effects)
            })
            .await
    }
}

/// Runs an operation as a task: who drops the future gives up the answer alone.
pub(super) fn begun<'a, T: Send + 'static>(
    op: Op,
    target: impl std::fmt::Display + Send + 'a,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> BoxFuture<'a, Result<T>> {
    Box::pin(async move {
        match tokio::spawn(work).await {
            Ok(end) => end,
            Err(lost) => Err(Error::new(Kind::Backend, op, target).because(lost)),
        }
    })
}
