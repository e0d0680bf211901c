//! libxl's log: each line to `tracing`, and the errors of an operation kept for whoever has to explain it.
//!
//! One logger for each context. A synchronous call logs on the thread that makes it, so lines are kept by
//! thread: two calls on one context do not see each other's.
#![expect(unsafe_code, reason = "libxl logs through a C function that gets a va_list")]

use std::ffi::{CStr, c_char, c_int};
use std::panic::{self, AssertUnwindSafe};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ThreadId};

use xen_sys::{__va_list_tag, xentoollog_level, xentoollog_logger};

use super::{children, telling};
use crate::said;

#[cfg(not(target_arch = "x86_64"))]
compile_error!(
    "the log callback passes a va_list on as the x86-64 ABI has it; other architectures need a C shim"
);

/// Kept at most, over all threads: a failed operation logs a few lines, so this bounds a flood only.
const KEPT: usize = 256;

unsafe extern "C" {
    /// `vasprintf(3)`: a va_list parameter is a pointer in the x86-64 ABI.
    fn vasprintf(text: *mut *mut c_char, format: *const c_char, arguments: *mut __va_list_tag) -> c_int;
}

/// A logger that libxl calls; its first field is what libxl knows of it.
#[repr(C)]
struct Sink {
    vtable: xentoollog_logger,
    label: String,
    errors: Mutex<Vec<(ThreadId, String)>>,
}

/// Owns a logger; it must outlive the context that was given it.
pub(super) struct Log(NonNull<Sink>);

// SAFETY: libxl calls the logger from any thread; what changes in it is behind a mutex.
unsafe impl Send for Log {}
// SAFETY: as above.
unsafe impl Sync for Log {}

impl Log {
    /// A logger whose lines carry this label.
    pub(super) fn new(label: String) -> Self {
        let vtable = xentoollog_logger { vmessage: Some(vmessage), progress: None, destroy: Some(destroy) };
        let sink = Box::new(Sink { vtable, label, errors: Mutex::default() });
        Self(NonNull::from(Box::leak(sink)))
    }

    /// What libxl takes. Valid as long as this value lives.
    pub(super) fn as_logger(&self) -> *mut xentoollog_logger {
        self.0.as_ptr().cast()
    }

    fn sink(&self) -> &Sink {
        // SAFETY: made from a Box in `new`, freed in `drop` alone, and only ever shared.
        unsafe { self.0.as_ref() }
    }

    /// Forgets what this thread logged before: a call begins.
    pub(super) fn begin(&self) {
        drop(self.take());
    }

    /// The errors that this thread logged since `begin`, in their order.
    pub(super) fn take(&self) -> Vec<String> {
        let here = thread::current().id();
        let mut errors = self.sink().errors.lock().unwrap_or_else(PoisonError::into_inner);
        let (mine, others) =
            std::mem::take(&mut *errors).into_iter().partition(|(thread, _)| *thread == here);
        *errors = others;
        let mine: Vec<(ThreadId, String)> = mine;
        mine.into_iter().map(|(_, line)| line).collect()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // SAFETY: made by Box::leak in `new`; the context that used it is gone (contract of the type).
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl Sink {
    fn log(&self, level: xentoollog_level, errno: c_int, message: &str) {
        let mut line = said::shown(telling::strip(message));
        if errno >= 0 {
            line.push_str(&format!(": {}", std::io::Error::from_raw_os_error(errno)));
        }
        // What libxl calls an error is told to the caller, who decides whether it is one.
        match level {
            xentoollog_level::XTL_CRITICAL => tracing::error!(target: "libxl", on = %self.label, "{line}"),
            xentoollog_level::XTL_ERROR | xentoollog_level::XTL_WARN => {
                tracing::warn!(target: "libxl", on = %self.label, "{line}");
            }
            xentoollog_level::XTL_NOTICE | xentoollog_level::XTL_INFO => {
                tracing::debug!(target: "libxl", on = %self.label, "{line}");
            }
            _ => {
                tracing::trace!(target: "libxl", on = %self.label, "{message}", message = said::shown(message.trim()))
            }
        }
        if level.0 >= xentoollog_level::XTL_ERROR.0 {
            let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
            if errors.len() < KEPT {
                errors.push((thread::current().id(), line));
            }
        }
    }
}

/// Whether anybody wants a line of this level: a start with four disks logs 250 lines for nobody otherwise.
fn wanted(level: xentoollog_level) -> bool {
    if children::in_a_child() {
        return level.0 >= xentoollog_level::XTL_WARN.0;
    }
    level.0 >= xentoollog_level::XTL_INFO.0 || tracing::enabled!(target: "libxl", tracing::Level::TRACE)
}

/// xentoollog.h: called from any thread, often with the context's lock held; it must not call libxl.
unsafe extern "C" fn vmessage(
    logger: *mut xentoollog_logger,
    level: xentoollog_level,
    errno: c_int,
    _context: *const c_char,
    format: *const c_char,
    arguments: *mut __va_list_tag,
) {
    if !wanted(level) {
        return;
    }
    let mut text: *mut c_char = std::ptr::null_mut();
    // SAFETY: xentoollog.h: `format` fits `arguments`, which are ours to use once.
    let length = unsafe { vasprintf(&raw mut text, format, arguments) };
    if length < 0 || text.is_null() {
        return;
    }
    // SAFETY: vasprintf(3) made a NUL-terminated string.
    let message = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    if children::in_a_child() {
        // Not through a subscriber: its locks may be held here for ever.
        let line = format!("libxl: {}\n", message.trim());
        rustix::io::write(std::io::stderr(), line.as_bytes()).ok();
        // SAFETY: from malloc by vasprintf(3), freed once.
        unsafe { libc::free(text.cast()) };
        return;
    }
    // SAFETY: `logger` is the first field of the Sink that `Log::as_logger` gave; it outlives the context.
    let sink = unsafe { &*logger.cast::<Sink>() };
    // A subscriber's panic must not unwind into C. What it would have said is lost.
    drop(panic::catch_unwind(AssertUnwindSafe(|| sink.log(level, errno, &message))));
    drop(message);
    // SAFETY: from malloc by vasprintf(3), freed once.
    unsafe { libc::free(text.cast()) };
}

/// xentoollog.h: called by `xtl_logger_destroy`, which nobody here calls: `Log` frees.
unsafe extern "C" fn destroy(_logger: *mut xentoollog_logger) {}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(log: &Log, level: xentoollog_level, errno: c_int, text: &CStr) {
        // SAFETY: xentoollog.h: a format with the arguments that it names.
        unsafe {
            xen_sys::xtl_log(
                log.as_logger(),
                level,
                errno,
                c"libxl".as_ptr(),
                c"libxl_x.c:%d:fn: Domain %u:%s (%lld, %.1f)".as_ptr(),
                12 as c_int,
                7u32,
                text.as_ptr(),
                -5i64,
                2.5f64,
            );
        }
    }

    #[test]
    fn errors_are_formatted_stripped_and_kept_with_the_systems_reason() {
        let log = Log::new("test".to_owned());
        say(&log, xentoollog_level::XTL_ERROR, libc::ENOENT, c"no kernel");
        say(&log, xentoollog_level::XTL_DEBUG, -1, c"chatter");
        say(&log, xentoollog_level::XTL_CRITICAL, -1, c"very bad");
        assert_eq!(
            log.take(),
            ["no kernel (-5, 2.5): No such file or directory (os error 2)", "very bad (-5, 2.5)"]
        );
        assert!(log.take().is_empty());
    }

    #[test]
    fn each_thread_has_its_own_lines() {
        let log = Log::new("test".to_owned());
        say(&log, xentoollog_level::XTL_ERROR, -1, c"mine");
        thread::scope(|scope| {
            scope.spawn(|| {
                log.begin();
                say(&log, xentoollog_level::XTL_ERROR, -1, c"theirs");
                assert_eq!(log.take(), ["theirs (-5, 2.5)"]);
            });
        });
        assert_eq!(log.take(), ["mine (-5, 2.5)"]);
    }
}
