//! The thread `libxl-events`: it drives the main context, notices what happens to domains and tells it.
//!
//! It owns the watches, so that nothing about them needs a lock: whoever wants a domain watched sends it here.
//! What it sees comes from three places – libxl's events, a look when a watch begins (a domain that was down
//! before gives no event), and a list of domains a second (a pause has no event) – and goes through
//! [`Watched`], which tells each change once.
#![expect(unsafe_code, reason = "the event loop of libxl: pollfds in, events out")]

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use libc::{c_int, pollfd, timeval};
use rustix::event::EventfdFlags;
use tokio::sync::{broadcast, oneshot};
use uuid::Uuid;
use xen_sys::{libxl_error, libxl_event, libxl_event_type, libxl_evgen_domain_death, libxl_shutdown_reason};

use super::convert;
use super::ctx::Ctx;
use super::watched::{Ending, Sight, Watched};
use super::xenstore;
use crate::error::{At, Op, Result};
use crate::hypervisor::{DomainEvent, HypervisorEvent};
use crate::ids::DomId;

/// How often all domains are listed, for what has no event.
const LIST_EVERY: Duration = Duration::from_secs(1);
/// How often xenstored is asked whether it lives.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// So many checks in a row must fail until xenstored counts as gone: a busy one may miss one or two.
const CHECKS: u32 = 4;
/// After a failure of the loop itself.
const BACK_OFF: Duration = Duration::from_millis(100);
/// Events kept for a slow receiver; one that falls behind further is told that it did.
const QUEUE: usize = 4096;

/// The guests that were asked to shut down and have not answered, by their number.
pub(super) type Asked = Arc<Mutex<HashSet<u32>>>;

/// What other threads ask of this one.
enum Request {
    Watch { uuid: Uuid, domid: DomId, done: oneshot::Sender<()> },
    Look,
    Ending { domid: DomId, ending: Ending, done: oneshot::Sender<()> },
    Stop { stopped: Option<oneshot::Sender<()>> },
}

/// The other threads' end. When it is dropped the thread stops.
pub(super) struct Events {
    requests: Sender<Request>,
    wake: Arc<OwnedFd>,
    told: broadcast::Sender<HypervisorEvent>,
    asked: Asked,
}

impl Events {
    /// Starts the thread on the main context.
    pub(super) fn start(main: Arc<Ctx>) -> Result<Self> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = Arc::new(wake.at(Op::OpenHypervisor, "libxl")?);
        let (requests, received) = mpsc::channel();
        let told = broadcast::Sender::new(QUEUE);
        let asked = Asked::default();
        let mut thread = Loop {
            main,
            wake: Arc::clone(&wake),
            told: told.clone(),
            asked: Arc::clone(&asked),
            watches: BTreeMap::new(),
            fds: Vec::new(),
            failed_checks: 0,
        };
        let named = thread::Builder::new().name("libxl-events".to_owned());
        let run = move || {
            let stopped = thread.run(&received);
            // Lets go of the main context.
            drop(thread);
            if let Some(stopped) = stopped {
                // Who asked may have gone.
                stopped.send(()).ok();
            }
        };
        named.spawn(run).at(Op::OpenHypervisor, "libxl")?;
        Ok(Self { requests, wake, told, asked })
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<HypervisorEvent> {
        self.told.subscribe()
    }

    /// The guests that have been asked to shut down. An entry is taken out when libxl's operation ends.
    pub(super) fn asked(&self) -> &Asked {
        &self.asked
    }

    /// Watches a domain; the receiver hears when the first look at it is told.
    pub(super) fn watch(&self, uuid: Uuid, domid: DomId) -> oneshot::Receiver<()> {
        let (done, watched) = oneshot::channel();
        self.send(Request::Watch { uuid, domid, done });
        watched
    }

    /// Lists the domains now instead of within a second: something was changed that has no event.
    pub(super) fn look(&self) {
        self.send(Request::Look);
    }

    /// Says that we begin to destroy a domain, or have failed to; the receiver hears when it is heeded.
    pub(super) fn ending(&self, domid: DomId, ending: Ending) -> oneshot::Receiver<()> {
        let (done, heeded) = oneshot::channel();
        self.send(Request::Ending { domid, ending, done });
        heeded
    }

    /// Ends the thread; the receiver hears when it has let go of the main context.
    pub(super) fn stop(&self) -> oneshot::Receiver<()> {
        let (stopped, over) = oneshot::channel();
        self.send(Request::Stop { stopped: Some(stopped) });
        over
    }

    fn send(&self, request: Request) {
        // A thread that has stopped takes no requests: nobody is left who would wait for what they do.
        self.requests.send(request).ok();
        // The counter is full (2^64 wakes unread) or it is readable already: either way it wakes.
        rustix::io::write(&*self.wake, &1u64.to_ne_bytes()).ok();
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.send(Request::Stop { stopped: None });
    }
}

/// A watch that libxl holds. The pointer belongs to the context.
struct Watch {
    watched: Watched,
    evgen: *mut libxl_evgen_domain_death,
}

// SAFETY: the pointer is used on the events thread alone, with the context that made it.
unsafe impl Send for Watch {}

/// An event that libxl handed over; freed when dropped.
struct Event<'a> {
    raw: NonNull<libxl_event>,
    ctx: &'a Ctx,
}

impl<'a> Event<'a> {
    /// The next one that is queued.
    fn next(ctx: &'a Ctx) -> Option<Self> {
        let mut raw: *mut libxl_event = ptr::null_mut();
        let all = xen_sys::LIBXL_EVENTMASK_ALL;
        // SAFETY: libxl_event.h: without a predicate; the event is ours if the call succeeds.
        let rc =
            unsafe { xen_sys::libxl_event_check(ctx.as_ptr(), &raw mut raw, all, None, ptr::null_mut()) };
        NonNull::new(raw).filter(|_| rc == 0).map(|raw| Self { raw, ctx })
    }
}

impl Deref for Event<'_> {
    type Target = libxl_event;
    fn deref(&self) -> &libxl_event {
        // SAFETY: valid until it is freed in `drop`.
        unsafe { self.raw.as_ref() }
    }
}

impl Drop for Event<'_> {
    fn drop(&mut self) {
        // SAFETY: libxl_event.h: freed once, on the context that it came from.
        unsafe { xen_sys::libxl_event_free(self.ctx.as_ptr(), self.raw.as_ptr()) };
    }
}

/// What the thread owns.
struct Loop {
    main: Arc<Ctx>,
    wake: Arc<OwnedFd>,
    told: broadcast::Sender<HypervisorEvent>,
    asked: Asked,
    watches: BTreeMap<u32, Watch>,
    fds: Vec<pollfd>,
    /// How many times in a row xenstored has not answered.
    failed_checks: u32,
}

impl Loop {
    /// Runs until it is told to stop; who told it may want to hear when that is done.
    fn run(&mut self, requests: &Receiver<Request>) -> Option<oneshot::Sender<()>> {
        let mut next_list = Instant::now() + LIST_EVERY;
        let mut next_check = Instant::now() + CHECK_EVERY;
        loop {
            if let Err(error) = self.wait(next_list.min(next_check)) {
                tracing::error!(%error, "libxl's event loop");
                self.tell(HypervisorEvent::Lost);
                thread::sleep(BACK_OFF);
            }
            self.drain();
            self.main.forget_errors();
            let mut look = false;
            loop {
                match requests.try_recv() {
                    Ok(Request::Watch { uuid, domid, done }) => {
                        self.watch(uuid, domid);
                        // Who asked may have gone.
                        done.send(()).ok();
                    }
                    Ok(Request::Look) => look = true,
                    Ok(Request::Ending { domid, ending, done }) => {
                        if let Some(watch) = self.watches.get_mut(&domid.get()) {
                            watch.watched.set_ending(ending);
                        }
                        // Who asked may have gone.
                        done.send(()).ok();
                    }
                    Ok(Request::Stop { stopped }) => {
                        self.stop();
                        return stopped;
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        self.stop();
                        return None;
                    }
                }
            }
            if self.main.take_disaster() {
                self.tell(HypervisorEvent::Lost);
                next_check = Instant::now();
            }
            if look || Instant::now() >= next_list {
                self.list();
                next_list = Instant::now() + LIST_EVERY;
            }
            if Instant::now() >= next_check {
                self.check_xenstored();
                next_check = Instant::now() + CHECK_EVERY;
            }
        }
    }

    /// Lets libxl do what is due, sleeping until something is, a request comes, or `until`.
    fn wait(&mut self, until: Instant) -> io::Result<()> {
        let mut timeout = c_int::try_from(until.saturating_duration_since(Instant::now()).as_millis())
            .unwrap_or(c_int::MAX);
        let own = pollfd { fd: self.wake.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut wanted;
        loop {
            self.fds.resize(self.fds.capacity().max(16), own);
            // The last place is for our own.
            wanted = c_int::try_from(self.fds.len().saturating_sub(1)).unwrap_or(c_int::MAX);
            // SAFETY: libxl_event.h: room for `wanted` pollfds; both numbers are written.
            let rc = unsafe {
                xen_sys::libxl_osevent_beforepoll(
                    self.main.as_ptr(),
                    &raw mut wanted,
                    self.fds.as_mut_ptr(),
                    &raw mut timeout,
                    now(),
                )
            };
            if rc == 0 {
                break;
            }
            if rc != libxl_error::ERROR_BUFFERFULL.0 {
                return Err(io::Error::other(format!("libxl_osevent_beforepoll answered {rc}")));
            }
            let more = usize::try_from(wanted).unwrap_or(0).saturating_sub(self.fds.len()).max(1);
            self.fds.reserve(more.saturating_add(1));
        }
        let theirs = usize::try_from(wanted).unwrap_or(0);
        self.fds.truncate(theirs);
        self.fds.push(own);
        let count = libc::nfds_t::try_from(self.fds.len()).unwrap_or(0);
        // SAFETY: poll(2): so many pollfds.
        let ready = unsafe { libc::poll(self.fds.as_mut_ptr(), count, timeout.max(0)) };
        if ready < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        let mut unread = [0; 8];
        // Nothing to read is the usual case; the request is looked for in any.
        rustix::io::read(&*self.wake, &mut unread).ok();
        // SAFETY: libxl_event.h: the pollfds of the last beforepoll, as poll(2) left them, without ours.
        unsafe { xen_sys::libxl_osevent_afterpoll(self.main.as_ptr(), wanted, self.fds.as_ptr(), now()) };
        Ok(())
    }

    /// Takes the events that libxl has queued.
    fn drain(&mut self) {
        let main = Arc::clone(&self.main);
        while let Some(event) = Event::next(&main) {
            match event.type_ {
                libxl_event_type::LIBXL_EVENT_TYPE_DOMAIN_SHUTDOWN => {
                    // SAFETY: libxl_types.idl: the member that this type of event has.
                    let raw = unsafe { event.u.domain_shutdown.shutdown_reason };
                    let reason = convert::shutdown_reason(libxl_shutdown_reason(raw.into()));
                    self.see(event.domid, Sight::Down(reason));
                }
                libxl_event_type::LIBXL_EVENT_TYPE_DOMAIN_DEATH => self.see(event.domid, Sight::Gone),
                libxl_event_type::LIBXL_EVENT_TYPE_OPERATION_COMPLETE => {
                    // SAFETY: libxl_types.idl: the member that this type of event has.
                    let rc = unsafe { event.u.operation_complete.rc };
                    tracing::debug!(domid = event.for_user, rc, "end of a shutdown request");
                    let asked = u32::try_from(event.for_user).unwrap_or(xen_sys::INVALID_DOMID);
                    self.asked.lock().unwrap_or_else(PoisonError::into_inner).remove(&asked);
                }
                _ => {}
            }
        }
    }

    fn watch(&mut self, uuid: Uuid, domid: DomId) {
        match self.watches.get(&domid.get()) {
            Some(watch) if watch.watched.uuid == uuid => return,
            // The number belongs to another domain now.
            Some(_) => self.see(domid.get(), Sight::Gone),
            None => {}
        }
        let evgen = self.enable(domid.get());
        self.watches.insert(domid.get(), Watch { watched: Watched::new(uuid, domid), evgen });
        // What happened before gives no event.
        match self.main.domain(domid.get()) {
            Ok(Some(info)) if convert::uuid(&info) == uuid => self.see(domid.get(), convert::sight(&info)),
            Ok(_) => self.see(domid.get(), Sight::Gone),
            Err(error) => tracing::warn!(%error, %domid, "first look at a domain"),
        }
    }

    /// NULL where libxl refuses: then the list of every second has to do.
    fn enable(&self, domid: u32) -> *mut libxl_evgen_domain_death {
        let mut evgen = ptr::null_mut();
        // SAFETY: libxl_event.h: writes the pointer on success; it belongs to the context.
        let enabled = self.main.call(|ctx| unsafe {
            xen_sys::libxl_evenable_domain_death(ctx, domid, u64::from(domid), &raw mut evgen)
        });
        if let Err(error) = enabled {
            tracing::warn!(%error, domid, "watch for a domain's end");
            return ptr::null_mut();
        }
        evgen
    }

    fn disable(&self, evgen: *mut libxl_evgen_domain_death) {
        if !evgen.is_null() {
            // SAFETY: libxl_event.h: made by `enable` on this context, disabled once; due after DEATH too.
            unsafe { xen_sys::libxl_evdisable_domain_death(self.main.as_ptr(), evgen) };
        }
    }

    fn see(&mut self, domid: u32, sight: Sight) {
        let Some(watch) = self.watches.get_mut(&domid) else { return };
        let resumed = watch.watched.resumed(sight);
        let changes = watch.watched.see(sight);
        let (uuid, domid) = (watch.watched.uuid, watch.watched.domid);
        if watch.watched.is_gone() {
            if let Some(watch) = self.watches.remove(&domid.get()) {
                self.disable(watch.evgen);
            }
        } else if resumed {
            let before = std::mem::replace(&mut watch.evgen, ptr::null_mut());
            self.disable(before);
            let evgen = self.enable(domid.get());
            if let Some(watch) = self.watches.get_mut(&domid.get()) {
                watch.evgen = evgen;
            }
        }
        for change in changes {
            self.tell(HypervisorEvent::Domain(DomainEvent { uuid, domid, change }));
        }
    }

    /// One list of all domains, for what has no event.
    fn list(&mut self) {
        if self.watches.is_empty() {
            return;
        }
        let list = match self.main.domains() {
            Ok(list) => list,
            Err(error) => return tracing::warn!(%error, "list domains"),
        };
        let watched: Vec<(u32, Uuid)> =
            self.watches.iter().map(|(id, watch)| (*id, watch.watched.uuid)).collect();
        for (domid, uuid) in watched {
            let found = list.iter().find(|info| info.domid == domid && convert::uuid(info) == uuid);
            self.see(domid, found.map_or(Sight::Gone, convert::sight));
        }
    }

    fn check_xenstored(&mut self) {
        let Err(error) = xenstore::check() else {
            if self.failed_checks >= CHECKS {
                tracing::warn!("xenstored answers again");
                self.tell(HypervisorEvent::Lost);
            }
            self.failed_checks = 0;
            return;
        };
        self.failed_checks = self.failed_checks.saturating_add(1);
        match self.failed_checks {
            CHECKS => {
                tracing::error!(error = error.report(), "xenstored has ended; this host needs a reboot");
                self.tell(HypervisorEvent::Unavailable);
            }
            1 => tracing::warn!(error = error.report(), "xenstored does not answer"),
            _ => {}
        }
    }

    fn tell(&self, event: HypervisorEvent) {
        // Nobody listens: then nobody misses it.
        self.told.send(event).ok();
    }

    fn stop(&mut self) {
        for watch in std::mem::take(&mut self.watches).into_values() {
            self.disable(watch.evgen);
        }
        self.drain();
        if !self.asked.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            tracing::debug!("a shutdown request is under way: the main context is left to the kernel");
            Ctx::leave_to_the_kernel(Arc::clone(&self.main));
        }
    }
}

/// libxl's timeouts are in wall time.
fn now() -> timeval {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    timeval {
        tv_sec: libc::time_t::try_from(since.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_usec: libc::suseconds_t::from(since.subsec_micros().cast_signed()),
    }
}
