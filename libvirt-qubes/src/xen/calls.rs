//! libxl's functions as methods of [`Ctx`]: safe, synchronous, one C call each. No policy.
#![expect(unsafe_code, reason = "each method is one C call")]

use std::ffi::{CStr, c_int};
use std::ptr;

use xen_sys::{
    libxl_asyncop_how, libxl_defbool, libxl_device_disk, libxl_domain_build_info, libxl_domain_config,
    libxl_domain_type, libxl_dominfo, libxl_error, libxl_physinfo,
};

use super::ctx::Ctx;
use super::error::LibxlError;
use super::owned::{List, Owned, null, take_string, text};

/// libxl.h: NULL makes a call synchronous: it runs its own event loop until it is done.
const SYNCHRONOUS: *const libxl_asyncop_how = ptr::null();

impl Ctx {
    /// All domains that Xen has, dom0 included. A hypercall; xenstore is not asked.
    pub(super) fn domains(&self) -> Result<List<libxl_dominfo>, LibxlError> {
        self.ask(|ctx| {
            let mut count = 0;
            // SAFETY: libxl.h: returns an array of *count, or NULL.
            let first = unsafe { xen_sys::libxl_list_domain(ctx, &raw mut count) };
            // SAFETY: as above; ours to free.
            unsafe { List::from_raw(first, count) }
        })
    }

    /// One domain; `None` where there is none of that number. A hypercall.
    pub(super) fn domain(&self, domid: u32) -> Result<Option<Owned<libxl_dominfo>>, LibxlError> {
        let mut info = Owned::<libxl_dominfo>::new();
        // SAFETY: libxl.h: `info` is initialised.
        match self.call(|ctx| unsafe { xen_sys::libxl_domain_info(ctx, info.as_mut_ptr(), domid) }) {
            Ok(()) => Ok(Some(info)),
            Err(error) if error.is(libxl_error::ERROR_DOMAIN_NOTFOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A domain's name in xenstore; `None` while it is being built or torn down.
    pub(super) fn name(&self, domid: u32) -> Option<String> {
        // SAFETY: libxl_utils.h: returns a string from malloc, or NULL.
        let raw = unsafe { xen_sys::libxl_domid_to_name(self.as_ptr(), domid) };
        // SAFETY: as above; ours to free.
        unsafe { take_string(raw) }.map(|name| name.to_string_lossy().into_owned())
    }

    /// Counts one more pause.
    pub(super) fn pause(&self, domid: u32) -> Result<(), LibxlError> {
        // SAFETY: libxl.h: a domain number.
        self.call(|ctx| unsafe { xen_sys::libxl_domain_pause(ctx, domid, SYNCHRONOUS) })
    }

    /// Counts one pause less.
    pub(super) fn unpause(&self, domid: u32) -> Result<(), LibxlError> {
        // SAFETY: libxl.h: a domain number.
        self.call(|ctx| unsafe { xen_sys::libxl_domain_unpause(ctx, domid, SYNCHRONOUS) })
    }

    /// Starts to ask a guest to power off; its end is an `OPERATION_COMPLETE` event for `user` in this
    /// context's queue, at most a minute later. No pointer is handed over.
    pub(super) fn start_shutdown(&self, domid: u32, user: u64) -> Result<(), LibxlError> {
        // SAFETY: all zeros is a libxl_asyncop_how: no callback, event for user 0.
        let mut how: libxl_asyncop_how = unsafe { std::mem::zeroed() };
        how.u.for_event = std::mem::ManuallyDrop::new(user);
        // SAFETY: libxl.h: `how` is copied before the call returns.
        self.call(|ctx| unsafe { xen_sys::libxl_domain_shutdown(ctx, domid, &raw const how) })
    }

    /// Builds a domain and leaves it paused. Blocks for as long as that takes; the configuration is changed.
    pub(super) fn create(&self, config: &mut Owned<libxl_domain_config>) -> Result<u32, LibxlError> {
        let mut domid = xen_sys::INVALID_DOMID;
        // SAFETY: libxl.h: `config` is initialised and lives until the synchronous call is done.
        self.call(|ctx| unsafe {
            xen_sys::libxl_domain_create_new(ctx, config.as_mut_ptr(), &raw mut domid, SYNCHRONOUS, null())
        })?;
        Ok(domid)
    }

    /// Ends a domain and removes all it had. Blocks until done.
    pub(super) fn destroy(&self, domid: u32) -> Result<(), LibxlError> {
        // SAFETY: libxl.h: a domain number.
        self.call(|ctx| unsafe { xen_sys::libxl_domain_destroy(ctx, domid, SYNCHRONOUS) })
    }

    /// The disks of a domain, from the toolstack's own part of xenstore. Empty also where they cannot be read:
    /// libxl does not tell that apart.
    pub(super) fn disks(&self, domid: u32) -> Option<List<libxl_device_disk>> {
        let mut count: c_int = 0;
        // SAFETY: libxl.h: returns an array of count, or NULL.
        let first = unsafe { xen_sys::libxl_device_disk_list(self.as_ptr(), domid, &raw mut count) };
        // SAFETY: as above; ours to free.
        unsafe { List::from_raw(first, count) }
    }

    /// Attaches a disk; blocks until its hotplug program is done.
    pub(super) fn add_disk(&self, domid: u32, disk: &mut Owned<libxl_device_disk>) -> Result<(), LibxlError> {
        // SAFETY: libxl.h: `disk` is initialised and lives until the synchronous call is done.
        self.call(|ctx| unsafe { xen_sys::libxl_device_disk_add(ctx, domid, disk.as_mut_ptr(), SYNCHRONOUS) })
    }

    /// Asks the guest to let go of a disk and removes it; fails after 10 s if the guest does not.
    pub(super) fn remove_disk(&self, domid: u32, disk: &mut libxl_device_disk) -> Result<(), LibxlError> {
        // SAFETY: libxl.h: `disk` is initialised and lives until the synchronous call is done.
        self.call(|ctx| unsafe { xen_sys::libxl_device_disk_safe_remove(ctx, domid, disk, SYNCHRONOUS) })
    }

    /// Removes a disk without asking the guest.
    pub(super) fn destroy_disk(&self, domid: u32, disk: &mut libxl_device_disk) -> Result<(), LibxlError> {
        // SAFETY: libxl.h: `disk` is initialised and lives until the synchronous call is done.
        self.call(|ctx| unsafe { xen_sys::libxl_device_disk_destroy(ctx, domid, disk, SYNCHRONOUS) })
    }

    /// The host's processors and memory. A hypercall.
    pub(super) fn physinfo(&self) -> Result<Owned<libxl_physinfo>, LibxlError> {
        let mut info = Owned::<libxl_physinfo>::new();
        // SAFETY: libxl.h: `info` is initialised.
        self.call(|ctx| unsafe { xen_sys::libxl_get_physinfo(ctx, info.as_mut_ptr()) })?;
        Ok(info)
    }

    /// The hypervisor's release, `4.17.7`, and the size of its pages in bytes.
    pub(super) fn version(&self) -> Result<(String, u64), LibxlError> {
        self.ask(|ctx| {
            // SAFETY: libxl.h: returns a value of the context, or NULL.
            let info = unsafe { xen_sys::libxl_get_version_info(ctx) };
            // SAFETY: as above; it lives as long as the context, which is longer than this call.
            let info = unsafe { info.as_ref() }?;
            // SAFETY: a string of the context, which is not freed here.
            let extra =
                unsafe { text(info.xen_version_extra) }.map(CStr::to_string_lossy).unwrap_or_default();
            let release = format!("{}.{}{extra}", info.xen_version_major, info.xen_version_minor);
            Some((release, u64::try_from(info.pagesize).unwrap_or(4096)))
        })
    }
}

/// libxl.h: a build info is given its type once, after `_init`.
pub(super) fn init_build_info(info: &mut libxl_domain_build_info, kind: libxl_domain_type) {
    // SAFETY: libxl.h: `info` is as after `_init`.
    unsafe { xen_sys::libxl_domain_build_info_init_type(info, kind) }
}

/// A decision where libxl would take its default.
pub(super) fn set_defbool(place: &mut libxl_defbool, value: bool) {
    // SAFETY: libxl.h: writes an initialised value.
    unsafe { xen_sys::libxl_defbool_set(place, value) }
}
