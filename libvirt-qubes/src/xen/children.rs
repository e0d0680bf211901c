//! libxl's child processes: who hears of their end, and how they are forked.
//!
//! Three things go wrong when libxl is left to itself in a process of many threads, all seldom and all for ever:
//!
//! * **A child is born into a lock.** libxl runs code of its own in a forked child: the one that destroys a domain does
//!   hypercalls, and every child closes its xenstore connection before it does anything. libxentoolcore has one lock for
//!   the list of open handles, libxencall one for its cache of buffers, which each hypercall of each thread takes; what
//!   another thread held at the fork stays held in the child. Such a child waits for ever, and so does its operation.
//!   Here a child first takes both locks once, and is handed to libxl when it has: nobody else is in there to take
//!   one again. A child that does not come back from that is killed, and another forked. (Nothing that the parent
//!   could hold keeps others out of these locks: they have no names outside the libraries.)
//! * **A child waits in the handler.** Another thread may have been in libxl's SIGCHLD handler, which has a lock too. The
//!   children that fork wait for theirs themselves: a child handles no SIGCHLD.
//! * **The handler is called by hand.** When a context joins or leaves those that hear of SIGCHLD and a child ended
//!   meanwhile, libxl calls its handler itself, with the signal open: one that comes on the same thread then waits for a
//!   lock that its own thread holds, and every other context with it. So SIGCHLD is kept from a thread while it opens or
//!   frees a context; the others hear it.
#![expect(unsafe_code, reason = "fork(2), signal masks and what libxl calls back")]

use std::ffi::{c_char, c_int, c_void};
use std::io::{self, PipeReader};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use libc::pid_t;
use xen_sys::{
    __va_list_tag, libxl_childproc_hooks, libxl_sigchld_owner, xentoollog_level, xentoollog_logger,
};

use crate::error::{Error, Kind, Op};

/// libxl_event.h: not copied, must outlive every context.
///
/// Every context reaps its own children only, so that child processes of the rest of the program are left alone.
pub(super) static HOOKS: libxl_childproc_hooks = libxl_childproc_hooks {
    chldowner: libxl_sigchld_owner::libxl_sigchld_owner_libxl_always_selective_reap,
    fork_replacement: Some(fork_replacement),
    reaped_callback: None,
};

/// How long each child may take to come back from the locks: a minute in all. Threads that do nothing else hold a
/// lock half of the time, so many are tried; on a host that is too busy to run a child at all, the first ones are
/// killed for nothing, so each has longer than the one before.
fn patience() -> impl Iterator<Item = Duration> {
    let doubled = (0..8).map(|n| Duration::from_millis(10 << n));
    doubled.chain(std::iter::repeat_n(Duration::from_secs(2), 30))
}

/// Whether this process is a child that libxl forked: then nobody but one thread is here, and what another held, a
/// subscriber's lock say, is held for ever.
static IN_A_CHILD: AtomicBool = AtomicBool::new(false);

/// Whether this is a forked child of libxl's.
pub(super) fn in_a_child() -> bool {
    IN_A_CHILD.load(Ordering::Relaxed)
}

/// libxl_event.h, `fork_replacement`: as fork(2). Called with the context's lock held.
unsafe extern "C" fn fork_replacement(_user: *mut c_void) -> pid_t {
    fork_proven(take_locks, patience())
}

/// Forks a child that has done `prove`, as fork(2): 0 in the child, its number in the parent, or -1 and `errno`.
fn fork_proven(prove: fn(), patience: impl Iterator<Item = Duration>) -> pid_t {
    for limit in patience {
        let Ok((proof, done)) = io::pipe() else { return -1 };
        // SAFETY: fork(2). The child does what libxl does in one, and before that only `prove` and a write.
        match unsafe { libc::fork() } {
            -1 => return -1,
            0 => {
                IN_A_CHILD.store(true, Ordering::Relaxed);
                // SAFETY: signal(2). libxl looks at its handler only where contexts come and go, never in a child.
                unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
                prove();
                // Nobody reads it: then the parent has given up, and its signal is on the way.
                rustix::io::write(&done, &[1]).ok();
                return 0;
            }
            child => {
                drop(done);
                if is_proven(&proof, limit) {
                    return child;
                }
                tracing::debug!(target: "libxl", child, "a child was born into a lock: another is forked");
                // SAFETY: kill(2): a child of ours that nobody has waited for.
                unsafe { libc::kill(child, libc::SIGKILL) };
                reap(child);
            }
        }
    }
    // SAFETY: errno(3): it is this thread's own.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { *errno = libc::EAGAIN };
    -1
}

/// Whether a child says in time that it is through.
fn is_proven(proof: &PipeReader, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now()).as_millis();
        let mut poll = libc::pollfd { fd: proof.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: poll(2): one pollfd.
        let ready = unsafe { libc::poll(&raw mut poll, 1, c_int::try_from(left).unwrap_or(c_int::MAX)) };
        match ready {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            // End of file: it died on the way.
            1 => return rustix::io::read(proof, &mut [0; 1]) == Ok(1),
            _ => return false,
        }
    }
}

/// Waits for the end of a child that was killed.
fn reap(child: pid_t) {
    let mut status = 0;
    // SAFETY: waitpid(2): a child of ours; libxl has not been told of it, and the others wait for theirs alone.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } == -1
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

/// Whoever tries a lock has nothing to say.
static SILENT: xentoollog_logger =
    xentoollog_logger { vmessage: Some(say_nothing), progress: None, destroy: None };

/// xentoollog.h: called from any thread.
unsafe extern "C" fn say_nothing(
    _logger: *mut xentoollog_logger,
    _level: xentoollog_level,
    _errno: c_int,
    _context: *const c_char,
    _format: *const c_char,
    _arguments: *mut __va_list_tag,
) {
}

/// Takes, and gives back, each lock of Xen's libraries that all threads share and a child of libxl's needs: the
/// list of handles, and the cache of hypercall buffers.
fn take_locks() {
    let logger: *const xentoollog_logger = &raw const SILENT;
    // SAFETY: xencall.h: the logger is only called, and static; NULL when there is no Xen.
    let handle = unsafe { xen_sys::xencall_open(logger.cast_mut(), 0) };
    if handle.is_null() {
        return;
    }
    // SAFETY: xencall.h: an open handle; NULL when there is no memory.
    let page = unsafe { xen_sys::xencall_alloc_buffer_pages(handle, 1) };
    // SAFETY: xencall.h: a buffer of that handle, or NULL.
    unsafe { xen_sys::xencall_free_buffer_pages(handle, page, 1) };
    // SAFETY: xencall.h: opened above, closed once.
    unsafe { xen_sys::xencall_close(handle) };
}

/// Keeps SIGCHLD from this thread for as long as it lives. Not to be given to another thread.
pub(super) struct Unheard {
    before: libc::sigset_t,
    _of_this_thread: std::marker::PhantomData<*const ()>,
}

impl Unheard {
    pub(super) fn begin() -> Self {
        let mut sigchld = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset(3) writes the whole set.
        unsafe { libc::sigemptyset(sigchld.as_mut_ptr()) };
        // SAFETY: sigaddset(3): an initialised set, a signal that exists.
        unsafe { libc::sigaddset(sigchld.as_mut_ptr(), libc::SIGCHLD) };
        let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: pthread_sigmask(3): reads one set, writes the other.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, sigchld.as_ptr(), before.as_mut_ptr()) };
        // SAFETY: zeroed, and an empty set is a set.
        let before = unsafe { before.assume_init() };
        Self { before, _of_this_thread: std::marker::PhantomData }
    }
}

impl Drop for Unheard {
    fn drop(&mut self) {
        // SAFETY: pthread_sigmask(3): the mask that this thread had.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut()) };
    }
}

/// libxl installs its own SIGCHLD handler and asserts that nobody else did: asked once, before the first
/// context, so that it is an error here and not an abort later.
pub(super) fn sigchld_is_free() -> Result<(), Error> {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let free = *FOUND.get_or_init(|| {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: sigaction(2) with a NULL new action only writes the old one.
        let asked = unsafe { libc::sigaction(libc::SIGCHLD, ptr::null(), action.as_mut_ptr()) };
        // SAFETY: zeroed, and all zeros is a valid sigaction (SIG_DFL).
        let action = unsafe { action.assume_init() };
        asked == 0 && action.sa_sigaction == libc::SIG_DFL
    });
    if free {
        return Ok(());
    }
    Err(Error::new(Kind::Busy, Op::OpenHypervisor, "libxl").because(
        "this process handles SIGCHLD already; libxl needs it for its own children (tokio's own processes do not)",
    ))
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::sync::Mutex;
    use std::thread;

    use rustix::event::EventfdFlags;

    use super::*;

    /// A proven child does again what it proved, as libxl would, and ends; the code that it ended with. (The tests beside
    /// this one hold other locks.)
    fn ended(prove: fn()) -> c_int {
        let pid = fork_proven(prove, patience());
        assert_ne!(pid, -1, "{}", io::Error::last_os_error());
        if pid == 0 {
            prove();
            // SAFETY: _exit(2).
            unsafe { libc::_exit(7) };
        }
        let mut status = 0;
        let until = Instant::now() + Duration::from_mins(1);
        loop {
            // SAFETY: waitpid(2): a child of ours.
            let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
            if waited == pid {
                return libc::WEXITSTATUS(status);
            }
            if waited == -1 || Instant::now() > until {
                // SAFETY: kill(2): a child of ours.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                reap(pid);
                panic!("the child {pid} does not end");
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_child_that_is_born_into_a_lock_is_replaced_by_one_that_is_not() {
        static LOCK: Mutex<()> = Mutex::new(());
        let prove = || drop(LOCK.lock());
        let held = LOCK.lock().unwrap();
        assert_eq!(fork_proven(prove, [Duration::from_millis(20); 2].into_iter()), -1);
        assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EAGAIN));
        drop(held);

        let (tell, held) = std::sync::mpsc::channel();
        let holder = thread::spawn(move || {
            let _held = LOCK.lock().unwrap();
            tell.send(()).unwrap();
            thread::sleep(Duration::from_millis(100));
        });
        held.recv().unwrap();
        assert_eq!(ended(prove), 7);
        holder.join().unwrap();
    }

    #[test]
    fn a_child_that_dies_on_the_way_is_replaced() {
        // Shared with the children, who share no memory: the first of them dies.
        static TOKENS: OnceLock<OwnedFd> = OnceLock::new();
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK | EventfdFlags::SEMAPHORE;
        let tokens = TOKENS.get_or_init(|| rustix::event::eventfd(1, flags).unwrap());
        let prove = || {
            if TOKENS.get().is_some_and(|tokens| rustix::io::read(tokens, &mut [0; 8]).is_ok()) {
                // SAFETY: _exit(2).
                unsafe { libc::_exit(1) };
            }
        };
        assert_eq!(ended(prove), 7);
        assert!(rustix::io::read(tokens, &mut [0; 8]).is_err(), "the token was taken");
    }

    /// Without the proof, some of these children wait for ever for the lock of libxentoolcore. (The other lock needs a
    /// Xen.)
    #[test]
    fn children_that_are_forked_beside_threads_that_open_handles_all_end() {
        static OVER: AtomicBool = AtomicBool::new(false);
        struct End;
        impl Drop for End {
            fn drop(&mut self) {
                OVER.store(true, Ordering::Relaxed);
            }
        }
        thread::scope(|scope| {
            let _end = End;
            for _ in 0..3 {
                scope.spawn(|| {
                    while !OVER.load(Ordering::Relaxed) {
                        take_locks();
                        // A lock that is held all the time no child can be born without.
                        thread::sleep(Duration::from_micros(100));
                    }
                });
            }
            for _ in 0..100 {
                assert_eq!(ended(take_locks), 7);
            }
        });
    }

    #[test]
    fn sigchld_is_kept_from_a_thread_and_comes_back() {
        let blocked = || {
            let mut now = MaybeUninit::<libc::sigset_t>::zeroed();
            // SAFETY: pthread_sigmask(3): without a new set it only writes the old one.
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), now.as_mut_ptr()) };
            // SAFETY: sigismember(3): written above.
            unsafe { libc::sigismember(now.as_ptr(), libc::SIGCHLD) == 1 }
        };
        assert!(!blocked());
        let outer = Unheard::begin();
        drop(Unheard::begin());
        assert!(blocked());
        drop(outer);
        assert!(!blocked());
    }
}
