//! Raw bindings to Xen's toolstack libraries: libxl (libxenlight), libxenstore and libxentoollog; of libxencall what
//! opens a handle.
//!
//! Everything here is what bindgen makes of the headers of the Xen that is there at build time; nothing is
//! policy and nothing is safe. The contracts are in the headers (`libxl.h`, `libxl_event.h`,
//! `xentoollog.h`, `xenstore.h`, `xencall.h`); the crate `libvirt-qubes` is the safe use of them.
//!
//! What to know before using it:
//!
//! * The layout of libxl's types changes with every release of Xen. [`RELEASE`] names the one that these
//!   bindings were made for; the library carries the same number in its soname.
//! * Every type has an `_init` and a `_dispose`. A zeroed value is not an initialised one. No type with a
//!   `_dispose` is `Copy`.
//! * Enums are newtypes with associated constants (`libxl_error::ERROR_FAIL`), because C may hold values
//!   that Rust has no name for. Functions return a plain `c_int`: compare with `.0`.
//! * Strings and arrays inside libxl's types belong to `malloc`.

#![allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unused_qualifications,
    unreachable_pub,
    reason = "generated from C headers, in C's names"
)]

mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use bindings::*;

pub use xencall::*;

/// `xencall.h` of libxencall, whose interface is the same in every release; as much of it as opens a handle and takes
/// a buffer.
mod xencall {
    use libc::{c_int, c_uint, c_void, size_t};

    use super::xentoollog_logger;

    /// An open handle.
    #[repr(C)]
    #[derive(Debug)]
    pub struct xencall_handle {
        _opaque: [u8; 0],
    }

    #[link(name = "xencall")]
    unsafe extern "C" {
        pub fn xencall_open(logger: *mut xentoollog_logger, open_flags: c_uint) -> *mut xencall_handle;
        pub fn xencall_close(xcall: *mut xencall_handle) -> c_int;
        pub fn xencall_alloc_buffer_pages(xcall: *mut xencall_handle, nr_pages: size_t) -> *mut c_void;
        pub fn xencall_free_buffer_pages(xcall: *mut xencall_handle, p: *mut c_void, nr_pages: size_t);
    }
}

/// The release of Xen (major.minor, `4.17`) whose headers these bindings were made from.
pub const RELEASE: &str = env!("XEN_SYS_RELEASE");

/// The folders that the headers came from, joined as in `PATH`; empty where the compiler's own are enough.
/// For programs that compare these bindings with a C compiler.
pub const INCLUDE_DIRS: &str = env!("XEN_SYS_INCLUDE");

/// libxl.h, `INVALID_DOMID`: no domain. (The macro is an expression of type `int`.)
pub const INVALID_DOMID: u32 = !0;

/// libxl_event.h, `LIBXL_EVENTMASK_ALL`: every type of event. (The macro hides behind a cast.)
pub const LIBXL_EVENTMASK_ALL: u64 = !0;

#[cfg(test)]
mod tests {
    //! What needs neither Xen nor a context: init, fill, dispose. (`_copy`, `_from_json` and the bitmap
    //! allocators go through a context and crash without one.)

    use super::*;
    use std::ffi::{CStr, CString};
    use std::mem::MaybeUninit;
    use std::ptr;

    fn strdup(text: &str) -> *mut libc::c_char {
        let text = CString::new(text).unwrap();
        // SAFETY: strdup(3): reads a NUL-terminated string, which a CString is.
        unsafe { libc::strdup(text.as_ptr()) }
    }

    fn new_config() -> libxl_domain_config {
        let mut config = MaybeUninit::uninit();
        // SAFETY: libxl.h, "libxl types": _init takes uninitialised memory of the type.
        unsafe { libxl_domain_config_init(config.as_mut_ptr()) };
        // SAFETY: libxl_domain_config_init has written all of it.
        unsafe { config.assume_init() }
    }

    #[test]
    fn a_new_config_holds_the_defaults_that_are_not_zero() {
        let mut config = new_config();
        // SAFETY: libxl.h: _init_type is called once, on an initialised value.
        unsafe {
            libxl_domain_build_info_init_type(&mut config.b_info, libxl_domain_type::LIBXL_DOMAIN_TYPE_PVH)
        };
        assert_eq!(config.b_info.type_, libxl_domain_type::LIBXL_DOMAIN_TYPE_PVH);
        assert_eq!(config.b_info.max_memkb, u64::MAX, "LIBXL_MEMKB_DEFAULT");
        assert_eq!(config.num_disks, 0);
        // SAFETY: the value is initialised; disposed once here.
        unsafe { libxl_domain_config_dispose(&mut config) };
    }

    #[test]
    fn a_filled_config_can_be_disposed_twice() {
        let mut config = new_config();
        config.c_info.name = strdup("work");
        config.b_info.kernel = strdup("/boot/vmlinuz");
        for _ in 0..2 {
            // SAFETY: libxl.h: dispose leaves the value as init does, so that disposing it again is allowed.
            unsafe { libxl_domain_config_dispose(&mut config) };
            assert!(config.c_info.name.is_null());
            assert!(config.b_info.kernel.is_null());
        }
    }

    #[test]
    fn a_disk_shows_what_was_written_into_its_fields() {
        let mut disk = MaybeUninit::uninit();
        // SAFETY: libxl.h, "libxl types": _init takes uninitialised memory of the type.
        unsafe { libxl_device_disk_init(disk.as_mut_ptr()) };
        // SAFETY: libxl_device_disk_init has written all of it.
        let mut disk: libxl_device_disk = unsafe { disk.assume_init() };
        disk.vdev = strdup("xvda");
        disk.pdev_path = strdup("/var/lib/root.img");
        disk.format = libxl_disk_format::LIBXL_DISK_FORMAT_RAW;
        disk.backend = libxl_disk_backend::LIBXL_DISK_BACKEND_PHY;
        disk.readwrite = 1;
        // SAFETY: _to_json reads an initialised value and works without a context (it only allocates).
        let json = unsafe { libxl_device_disk_to_json(ptr::null_mut(), &mut disk) };
        assert!(!json.is_null());
        // SAFETY: _to_json returns a NUL-terminated string from malloc.
        let text = unsafe { CStr::from_ptr(json) }.to_str().unwrap().to_owned();
        // SAFETY: the string is the caller's to free.
        unsafe { libc::free(json.cast()) };
        for part in ["\"vdev\": \"xvda\"", "\"format\": \"raw\"", "\"backend\": \"phy\"", "\"readwrite\": 1"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        // SAFETY: the value is initialised and disposed once.
        unsafe { libxl_device_disk_dispose(&mut disk) };
    }

    #[test]
    fn a_release_is_two_numbers() {
        let parts: Vec<u32> = RELEASE.split('.').map(|part| part.parse().unwrap()).collect();
        assert_eq!(parts.len(), 2, "{RELEASE}");
    }
}
