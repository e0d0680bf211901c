//! The libxl backend: [`LibxlHypervisor`].
//!
//! One long-lived *main* context serves what is short – lists, pauses, shutdown requests, events – and has one
//! thread, `libxl-events`. Everything long – building a domain, changing its devices, destroying it – is the
//! synchronous call on a fresh context and a thread of its own, aborted from another thread. So nothing waits
//! behind another domain's build: on a shared context a pause takes a thousand times as long while five domains
//! are built.
//!
//! What a program that uses it must know:
//!
//! * libxl handles SIGCHLD here and reaps its own children only. Nothing else in the process may handle it
//!   (`std::process` and `tokio::process` do not; `tokio::signal` for SIGCHLD does).
//! * Each long operation has about eleven file descriptors open: see to `RLIMIT_NOFILE`.
//! * libxl ends the process when it runs out of memory.
//!
//! This module alone knows libxl. It has no policy: what a VM is, and when it starts, is decided above.

mod building;
mod calls;
mod children;
mod convert;
mod ctx;
mod devices;
mod domains;
mod end;
mod error;
mod event_source;
mod events;
mod host_info;
mod log;
mod operation;
mod orphans;
mod owned;
mod spec;
mod telling;
mod usage;
mod watched;
mod xenstore;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::building::Building;
use self::ctx::Ctx;
pub use self::error::LibxlError;
use self::events::Events;
use self::operation::{Lane, Lanes, What};
use crate::error::{At, Error, Kind, Op, Result};
use crate::ids::DomId;

/// What [`LibxlHypervisor::open`] needs.
#[derive(Debug, Clone)]
pub struct LibxlOptions {
    /// The hotplug program of disks, `mgmt-block`; absolute. libxl runs it, as root, for each disk.
    pub block_script: PathBuf,
    /// How many domains are built, and devices changed, at a time; the rest waits. Ending a domain and
    /// everything short have bounds of their own.
    pub operations: usize,
}

impl LibxlOptions {
    /// With this hotplug program, and 16 operations at a time.
    pub fn new(block_script: impl Into<PathBuf>) -> Self {
        Self { block_script: block_script.into(), operations: 16 }
    }
}

/// Xen, through libxl. Needs to run in dom0, as root, with xenstored and xenconsoled running.
///
/// The methods of its traits are in [`Domains`](crate::hypervisor::Domains),
/// [`Devices`](crate::hypervisor::Devices), [`HostInfo`](crate::hypervisor::HostInfo) and
/// [`EventSource`](crate::hypervisor::EventSource). They need a tokio runtime, and block none of its threads.
pub struct LibxlHypervisor {
    inner: Arc<Inner>,
}

/// What the operations share. It outlives the handle while any of them runs.
struct Inner {
    main: Arc<Ctx>,
    events: Events,
    lanes: Lanes,
    block_script: PathBuf,
    building: Building,
    /// Held by who counts pauses: looking and counting must be one step.
    pausing: Mutex<()>,
}

impl LibxlHypervisor {
    /// Connects to Xen. Blocks: for a millisecond, or while hotplug programs of an earlier run are at work.
    ///
    /// `Kind::Unavailable` where Xen or xenstored does not answer, `Kind::Busy` where the process handles
    /// SIGCHLD, `Kind::NotFound`, `Kind::Denied` or `Kind::Invalid` for a hotplug program that cannot be run.
    pub fn open(options: LibxlOptions) -> Result<Self> {
        let LibxlOptions { block_script, operations } = options;
        check_program(&block_script)?;
        children::sigchld_is_free()?;
        let main = Ctx::open("main".to_owned());
        let main =
            main.map_err(|error| Error::new(Kind::Unavailable, Op::OpenHypervisor, "libxl").because(error))?;
        xenstore::check()?;
        orphans::wait_for(&block_script);
        let main = Arc::new(main);
        let events = Events::start(Arc::clone(&main))?;
        let inner = Inner {
            main,
            events,
            lanes: Lanes::new(operations),
            block_script,
            building: Building::default(),
            pausing: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Lets go of Xen and returns when that is done. Operations that run keep what they need until they end;
    /// domains are not touched. Dropping the value does the same without waiting.
    pub async fn close(self) {
        let stopped = self.inner.events.stop();
        drop(self);
        // The thread has ended either way.
        drop(stopped.await);
    }
}

/// The reason of an exec that fails goes to stderr alone, after the domain was built: look before.
fn check_program(program: &Path) -> Result<()> {
    let refuse = |why: &str| {
        Err(Error::new(Kind::Invalid, Op::OpenHypervisor, program.display()).because(why.to_owned()))
    };
    if !program.is_absolute() {
        return refuse("the hotplug program of disks must be named by an absolute path");
    }
    let found = std::fs::metadata(program).at(Op::OpenHypervisor, program.display())?;
    if !found.is_file() {
        return refuse("the hotplug program of disks is not a file");
    }
    rustix::fs::access(program, rustix::fs::Access::EXEC_OK).at(Op::OpenHypervisor, program.display())
}

impl Inner {
    /// Runs a call on the main context.
    async fn short<T: Send + 'static>(
        self: &Arc<Self>,
        what: What,
        work: impl FnOnce(&Self, &What) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (inner, named) = (Arc::clone(self), what.clone());
        self.lanes.run(Lane::Short, what, move || work(&inner, &named)).await
    }

    fn pausing(&self) -> MutexGuard<'_, ()> {
        self.pausing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a guest the request to power off. One that has not answered the last one is not asked again:
    /// each request holds a watch and a timer of libxl for up to a minute.
    fn ask_to_shut_down(&self, domid: DomId, what: &What) -> Result<()> {
        let asked = || self.events.asked().lock().unwrap_or_else(PoisonError::into_inner);
        if !asked().insert(domid.get()) {
            return Ok(());
        }
        self.main.start_shutdown(domid.get(), u64::from(domid.get())).map_err(|error| {
            asked().remove(&domid.get());
            what.failed(error)
        })
    }
}
