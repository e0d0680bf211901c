//! The lower layer's way in: what a program holds that starts and stops domains on a hypervisor.
//!
//! It plans (`domain`), runs plans (`exec`), keeps the operations on one domain in order, keeps one disk from
//! being given to two domains, and tells of what happens (`event`). It stores nothing: what runs is read from
//! the hypervisor. It knows no VM, no property and no RPC.
//!
//! ```
//! use std::sync::Arc;
//! use libvirt_qubes::config::{DomainSpec, VirtMode};
//! use libvirt_qubes::domain::Begin;
//! use libvirt_qubes::ids::MemoryMib;
//! use libvirt_qubes::sim::{SimConfig, SimHypervisor, World};
//! use libvirt_qubes::toolstack::Toolstack;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sim = SimHypervisor::open(World::memory(), SimConfig::default()).await?;
//! let toolstack = Toolstack::open(Arc::new(sim)).await?;
//! let spec = DomainSpec {
//!     name: "work".parse()?,
//!     uuid: "35aa2d4c-5a0f-4c30-a4a5-9c0d2c1c0b0a".parse()?,
//!     virt_mode: VirtMode::Pvh,
//!     memory: MemoryMib::new(400),
//!     max_memory: MemoryMib::new(4000),
//!     vcpus: 2,
//!     boot: None,
//!     disks: Vec::new(),
//! };
//! let uuid = spec.uuid;
//! toolstack.start(spec, Begin::Running).await?;
//! toolstack.kill(uuid).await?;
//! # Ok(())
//! # }
//! ```

mod claims;
mod follow;
mod turns;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::turns::{Interrupted, Turn, Turns};
use crate::config::{DiskSpec, DomainSpec};
use crate::device::DiskClaims;
use crate::domain::{Begin, Request, Step, plan};
use crate::error::{Error, Kind, Op, Result};
use crate::event::{Event, Subscription};
use crate::exec::{StepFailed, execute};
use crate::hypervisor::{DomainChange, DomainState, Hypervisor};
use crate::ids::{DomId, Vdev};

/// Events that wait for a slow subscriber; past it, it has lost some.
const EVENT_QUEUE: usize = 1024;

/// Why an operation did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failed {
    /// Nothing was done: the domain's state or the request forbids it, or a Kill came first
    /// (`Kind::Cancelled`).
    #[error(transparent)]
    Refused(#[from] Error),
    /// A step failed; what was done before it is undone.
    #[error(transparent)]
    Step(#[from] StepFailed),
}

impl Failed {
    /// The error below.
    pub fn error(&self) -> &Error {
        match self {
            Self::Refused(error) => error,
            Self::Step(failed) => &failed.error,
        }
    }
}

/// A toolstack on one hypervisor. Clones are the same toolstack.
///
/// Operations on one domain take turns; on different domains they never wait for each other. Each runs as a
/// task of its own: dropping its future gives up the answer alone. Only [`Toolstack::kill`] cancels.
#[derive(Clone)]
pub struct Toolstack {
    inner: Arc<Inner>,
}

struct Inner {
    hypervisor: Arc<dyn Hypervisor>,
    events: broadcast::Sender<Event>,
    turns: Turns,
    claims: DiskClaims,
    /// The domains that hold claims, each with the run that they belong to.
    holders: Mutex<HashMap<Uuid, DomId>>,
}

impl fmt::Debug for Toolstack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Toolstack").field("hypervisor", &self.inner.hypervisor.name()).finish_non_exhaustive()
    }
}

impl Toolstack {
    /// A toolstack for this hypervisor. The domains that live there already are watched, and their disks
    /// are taken. Inside a tokio runtime.
    pub async fn open(hypervisor: Arc<dyn Hypervisor>) -> Result<Self> {
        let (events, _) = broadcast::channel(EVENT_QUEUE);
        let inner = Inner {
            hypervisor,
            events,
            turns: Turns::default(),
            claims: DiskClaims::new(),
            holders: Mutex::default(),
        };
        let toolstack = Self { inner: Arc::new(inner) };
        // Before it looks, so that nothing falls between.
        tokio::spawn(follow::follow(toolstack.hypervisor().subscribe(), Arc::downgrade(&toolstack.inner)));
        toolstack.adopt().await?;
        Ok(toolstack)
    }

    /// The hypervisor below. What is done there directly is not in order with this toolstack's operations.
    pub fn hypervisor(&self) -> &Arc<dyn Hypervisor> {
        &self.inner.hypervisor
    }

    /// All events from now on.
    pub fn subscribe(&self) -> Subscription {
        Subscription::new(self.inner.events.subscribe())
    }

    /// Makes a domain, and lets it run. On failure nothing is left of it.
    pub async fn start(&self, spec: DomainSpec, begin: Begin) -> Result<DomId, Failed> {
        let uuid = spec.uuid;
        self.operate(uuid, Request::Start(spec, begin)).await?;
        Ok(self.hypervisor().info(uuid).await?.domid)
    }

    /// Stops a domain's processors; nothing if they are stopped.
    pub async fn pause(&self, uuid: Uuid) -> Result<(), Failed> {
        self.operate(uuid, Request::Pause).await
    }

    /// Lets a domain run; nothing if it does.
    pub async fn unpause(&self, uuid: Uuid) -> Result<(), Failed> {
        self.operate(uuid, Request::Unpause).await
    }

    /// Hands the guest a request to power off; it may never answer. The domain stays when the guest has shut
    /// down, until it is killed.
    pub async fn request_shutdown(&self, uuid: Uuid) -> Result<(), Failed> {
        self.operate(uuid, Request::Shutdown).await
    }

    /// Asks the guest to power off, waits until it has and destroys what is left. `Kind::TimedOut` when it
    /// has not within `patience`: it runs on, and may still power off. Holds no turn while it waits.
    pub async fn stop(&self, uuid: Uuid, patience: Duration) -> Result<(), Failed> {
        let mut events = self.subscribe();
        match self.state(uuid).await? {
            Some(DomainState::Shutdown(_)) => return self.kill(uuid).await,
            Some(_) | None => self.request_shutdown(uuid).await?,
        }
        let ended = async {
            while let Some(event) = events.next().await {
                match event {
                    Event::Changed(event) if event.uuid == uuid => match event.change {
                        DomainChange::Shutdown(_) | DomainChange::Died => break,
                        DomainChange::Paused | DomainChange::Unpaused => {}
                    },
                    Event::Lost => match self.state(uuid).await? {
                        Some(DomainState::Running | DomainState::Paused) => {}
                        Some(DomainState::Shutdown(_) | DomainState::Dying) | None => break,
                    },
                    Event::Changed(_)
                    | Event::Created { .. }
                    | Event::DiskAttached { .. }
                    | Event::DiskDetached { .. }
                    | Event::Unavailable => {}
                }
            }
            Ok::<(), Error>(())
        };
        match tokio::time::timeout(patience, ended).await {
            Ok(end) => end?,
            Err(_) => {
                let words = format!("the guest has not shut down within {} s", patience.as_secs());
                return Err(Error::new(Kind::TimedOut, Op::ShutdownDomain, uuid).because(words).into());
            }
        }
        match self.kill(uuid).await {
            // Somebody was faster.
            Err(failed) if failed.error().kind() == Kind::NotFound => Ok(()),
            end => end,
        }
    }

    /// Ends a domain in whatever state it is. It goes before every other operation on the domain: those under
    /// way are cancelled and undone, those that wait are refused with `Kind::Cancelled`. `Kind::NotFound`
    /// when there is no such domain and nothing was under way.
    pub async fn kill(&self, uuid: Uuid) -> Result<(), Failed> {
        let toolstack = self.clone();
        self.task(Op::DestroyDomain, uuid, async move {
            let (turn, interrupted) = toolstack.inner.turns.take(uuid).await;
            match toolstack.carry_out(uuid, &Request::Kill, turn).await {
                // What was cancelled has taken it along.
                Err(failed)
                    if failed.error().kind() == Kind::NotFound && interrupted == Interrupted::Somebody =>
                {
                    Ok(())
                }
                end => end,
            }
        })
        .await
    }

    /// Attaches a disk to a live domain.
    pub async fn attach_disk(&self, uuid: Uuid, disk: DiskSpec) -> Result<(), Failed> {
        self.operate(uuid, Request::AttachDisk(disk)).await
    }

    /// Detaches a disk from a live domain.
    pub async fn detach_disk(&self, uuid: Uuid, vdev: Vdev) -> Result<(), Failed> {
        self.operate(uuid, Request::DetachDisk(vdev)).await
    }

    /// Waits for the domain's turn, plans on what is then, and carries it out.
    async fn operate(&self, uuid: Uuid, request: Request) -> Result<(), Failed> {
        let toolstack = self.clone();
        self.task(request.op(), uuid, async move {
            let turn = toolstack.inner.turns.wait(uuid).await;
            let turn = turn.ok_or_else(|| {
                Error::new(Kind::Cancelled, request.op(), uuid).because("the domain was killed meanwhile")
            })?;
            toolstack.carry_out(uuid, &request, turn).await
        })
        .await
    }

    async fn carry_out(&self, uuid: Uuid, request: &Request, turn: Turn) -> Result<(), Failed> {
        let now = self.state(uuid).await?;
        if now.is_none() {
            // The end of an earlier run may not have been told yet.
            self.forget(uuid);
        }
        let steps: Vec<Step> = plan(uuid, now, request)?;
        let context = Arc::new(self.clone());
        execute(steps, context, turn.cancel.clone()).await?;
        Ok(())
    }

    async fn task<T: Send + 'static>(
        &self,
        op: Op,
        uuid: Uuid,
        work: impl Future<Output = Result<T, Failed>> + Send + 'static,
    ) -> Result<T, Failed> {
        match tokio::spawn(work).await {
            Ok(end) => end,
            Err(lost) => Err(Error::new(Kind::Backend, op, uuid).because(lost).into()),
        }
    }

    /// What a domain is doing; `None` when there is none.
    async fn state(&self, uuid: Uuid) -> Result<Option<DomainState>> {
        match self.hypervisor().info(uuid).await {
            Ok(info) => Ok(Some(info.state)),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn tell(&self, event: Event) {
        if self.inner.events.send(event).is_err() {
            tracing::trace!("nobody listens to events");
        }
    }

    // What the steps of plans do.

    pub(crate) async fn create_domain(&self, spec: &DomainSpec, cancel: &CancellationToken) -> Result<()> {
        let domid = self.hypervisor().create(spec.clone(), cancel.clone()).await?;
        self.holds(spec.uuid, domid).await?;
        self.tell(Event::Created { uuid: spec.uuid, domid });
        Ok(())
    }

    pub(crate) async fn destroy_domain(&self, uuid: Uuid) -> Result<()> {
        self.hypervisor().destroy(uuid).await?;
        self.forget(uuid);
        Ok(())
    }

    pub(crate) async fn plug_disk(
        &self,
        uuid: Uuid,
        disk: &DiskSpec,
        cancel: &CancellationToken,
    ) -> Result<()> {
        self.hypervisor().attach_disk(uuid, disk.clone(), cancel.clone()).await?;
        self.tell(Event::DiskAttached { uuid, vdev: disk.vdev });
        Ok(())
    }

    pub(crate) async fn unplug_disk(&self, uuid: Uuid, vdev: Vdev, cancel: &CancellationToken) -> Result<()> {
        let disks = self.hypervisor().disks(uuid).await?;
        self.hypervisor().detach_disk(uuid, vdev, cancel.clone()).await?;
        if let Some(path) = disks.into_iter().find(|disk| disk.vdev == vdev).and_then(|disk| disk.path) {
            self.unclaim(uuid, vec![path]).await;
        }
        self.tell(Event::DiskDetached { uuid, vdev });
        Ok(())
    }
}
