//! A libxl context: a connection to Xen, with its own log and lock.
//!
//! Its children are forked and heard of as `children` says; nothing else in the process may handle SIGCHLD. And
//! every context has a `disaster` hook: without one libxl ends the whole process.
#![expect(unsafe_code, reason = "contexts are made, used and freed by C functions")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{self, AssertUnwindSafe};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};

use xen_sys::{LIBXL_VERSION, libxl_ctx, libxl_error, libxl_event_hooks, libxl_event_type};

use super::children::{HOOKS, Unheard};
use super::error::LibxlError;
use super::log::Log;

/// libxl_event.h: mask 0 leaves the events queued for `libxl_event_check`.
static EVENTS: libxl_event_hooks =
    libxl_event_hooks { event_occurs_mask: 0, event_occurs: None, disaster: Some(disaster) };

/// An open context. Shared between threads; freed when the last owner lets go, which must not happen while an
/// asynchronous operation is under way on it (libxl asserts): [`Ctx::leave_to_the_kernel`].
pub(super) struct Ctx {
    raw: NonNull<libxl_ctx>,
    log: Log,
    /// Told by libxl that events may be missing. On the heap, because libxl holds its address.
    disaster: Box<AtomicBool>,
}

// SAFETY: libxl.h, "libxl_ctx": one context may be used from several threads; it locks itself.
unsafe impl Send for Ctx {}
// SAFETY: as above; the log and the flag are made for it.
unsafe impl Sync for Ctx {}

impl Ctx {
    /// Opens a context whose log lines carry this label. Blocks for less than a millisecond.
    pub(super) fn open(label: String) -> Result<Self, LibxlError> {
        let log = Log::new(label);
        let mut raw = ptr::null_mut();
        let version = c_int::try_from(LIBXL_VERSION).unwrap_or(0);
        let _unheard = Unheard::begin();
        // SAFETY: libxl.h: flags 0; the logger outlives the context, being dropped after it.
        let rc = unsafe { xen_sys::libxl_ctx_alloc(&raw mut raw, version, 0, log.as_logger()) };
        let Some(raw) = NonNull::new(raw).filter(|_| rc == 0) else {
            return Err(LibxlError::new(rc, &log.take()));
        };
        let ctx = Self { raw, log, disaster: Box::new(AtomicBool::new(false)) };
        // SAFETY: libxl_event.h: at initialisation, before any child; the hooks are static.
        unsafe { xen_sys::libxl_childproc_setmode(ctx.as_ptr(), &raw const HOOKS, ptr::null_mut()) };
        let flag: *const AtomicBool = &raw const *ctx.disaster;
        // SAFETY: libxl_event.h: no other call is running and no event enabled; hooks and flag outlive the context.
        unsafe {
            xen_sys::libxl_event_register_callbacks(ctx.as_ptr(), &raw const EVENTS, flag.cast_mut().cast())
        };
        Ok(ctx)
    }

    pub(super) fn as_ptr(&self) -> *mut libxl_ctx {
        self.raw.as_ptr()
    }

    /// Forgets the errors that this thread has logged so far: nobody asks for those of an event loop.
    pub(super) fn forget_errors(&self) {
        self.log.begin();
    }

    /// Runs a call that returns a code, and makes an error of a bad one with the lines that it logged.
    pub(super) fn call(&self, call: impl FnOnce(*mut libxl_ctx) -> c_int) -> Result<(), LibxlError> {
        self.log.begin();
        let rc = call(self.as_ptr());
        if rc == 0 { Ok(()) } else { Err(LibxlError::new(rc, &self.log.take())) }
    }

    /// As [`call`](Self::call), for one that returns `None` when it fails.
    pub(super) fn ask<T>(&self, call: impl FnOnce(*mut libxl_ctx) -> Option<T>) -> Result<T, LibxlError> {
        self.log.begin();
        call(self.as_ptr()).ok_or_else(|| LibxlError::new(libxl_error::ERROR_FAIL.0, &self.log.take()))
    }

    /// Aborts the synchronous call that another thread makes on this context. Waits for the context's lock,
    /// so it may block until the build of a domain is through.
    pub(super) fn abort(&self) -> Abort {
        // SAFETY: libxl.h, libxl_ao_abort: NULL means the synchronous operation; one at a time runs here.
        let rc = unsafe { xen_sys::libxl_ao_abort(self.as_ptr(), ptr::null()) };
        if rc == libxl_error::ERROR_NOTFOUND.0 { Abort::NothingToAbort } else { Abort::Taken }
    }

    /// Whether libxl said, since the last time, that it may have lost events.
    pub(super) fn take_disaster(&self) -> bool {
        self.disaster.swap(false, Ordering::AcqRel)
    }

    /// Gives the context up without freeing it: something is under way on it, and freeing it would assert.
    pub(super) fn leave_to_the_kernel(ctx: std::sync::Arc<Self>) {
        std::mem::forget(ctx);
    }
}

/// What became of an abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abort {
    /// libxl knows; the operation ends soon.
    Taken,
    /// No operation is registered (yet, or any more).
    NothingToAbort,
}

impl Drop for Ctx {
    fn drop(&mut self) {
        let _unheard = Unheard::begin();
        // SAFETY: allocated in `open`, freed here alone; nothing is under way (contract of the type).
        unsafe { xen_sys::libxl_ctx_free(self.as_ptr()) };
    }
}

/// libxl_event.h: called on any thread inside libxl; it must not call libxl.
unsafe extern "C" fn disaster(
    flag: *mut c_void,
    _type: libxl_event_type,
    message: *const c_char,
    errno: c_int,
) {
    // SAFETY: the AtomicBool that `open` registered; it lives as long as the context.
    let flag = unsafe { &*flag.cast::<AtomicBool>() };
    flag.store(true, Ordering::Release);
    // SAFETY: libxl passes a NUL-terminated message.
    let message = unsafe { super::owned::text(message) }.map(CStr::to_string_lossy).unwrap_or_default();
    let reason = std::io::Error::from_raw_os_error(errno);
    if super::children::in_a_child() {
        return;
    }
    // A subscriber's panic must not unwind into C. What it would have said is lost.
    drop(panic::catch_unwind(AssertUnwindSafe(|| tracing::error!(target: "libxl", %reason, "{message}"))));
}
