//! Ownership of libxl's own values: what has an `_init` is disposed exactly once, what came as a list is freed
//! with its elements. Code outside `xen/` never sees one of these: it copies what it needs and lets go.
#![expect(unsafe_code, reason = "libxl's types are made and freed by C functions")]

use std::ffi::{CStr, CString, c_char, c_int};
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

use crate::ids::Vdev;

/// A type of libxl's interface description: it has an `_init` and a `_dispose`.
///
/// # Safety
/// The two functions are the ones that libxl declares for this type.
pub(super) unsafe trait Idl: Sized {
    /// # Safety
    /// `place` is valid for writes of `Self`; what it held is not disposed.
    unsafe fn init(place: *mut Self);
    /// # Safety
    /// `value` is initialised. It is as after `init` then.
    unsafe fn dispose(value: *mut Self);
}

/// Pairs types with their `_init` and `_dispose`, one a line.
macro_rules! idl {
    ($($name:ident: $init:ident, $dispose:ident;)*) => {$(
        // SAFETY: the pair that libxl.h declares for this type.
        unsafe impl Idl for xen_sys::$name {
            unsafe fn init(place: *mut Self) {
                // SAFETY: libxl.h, "libxl types": _init takes uninitialised memory of the type.
                unsafe { xen_sys::$init(place) }
            }
            unsafe fn dispose(value: *mut Self) {
                // SAFETY: libxl.h, "libxl types": _dispose takes an initialised value.
                unsafe { xen_sys::$dispose(value) }
            }
        }
    )*};
}

idl! {
    libxl_domain_config: libxl_domain_config_init, libxl_domain_config_dispose;
    libxl_dominfo: libxl_dominfo_init, libxl_dominfo_dispose;
    libxl_physinfo: libxl_physinfo_init, libxl_physinfo_dispose;
    libxl_device_disk: libxl_device_disk_init, libxl_device_disk_dispose;
}

/// A value of libxl that this program owns: initialised when made, disposed when dropped. It does not move.
pub(super) struct Owned<T: Idl>(Box<T>);

impl<T: Idl> Owned<T> {
    pub(super) fn new() -> Self {
        let mut place = Box::new(MaybeUninit::<T>::uninit());
        // SAFETY: Idl::init: the place is valid for writes and holds nothing.
        unsafe { T::init(place.as_mut_ptr()) };
        // SAFETY: Idl::init has written the whole value.
        Self(unsafe { place.assume_init() })
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut T {
        &raw mut *self.0
    }
}

impl<T: Idl> Deref for Owned<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Idl> DerefMut for Owned<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Idl> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: Idl::dispose: initialised in `new`, disposed here alone.
        unsafe { T::dispose(self.as_mut_ptr()) }
    }
}

/// A type that libxl returns in arrays, with the function that frees one.
///
/// # Safety
/// `free_list` is the function that libxl declares for arrays of this type.
pub(super) unsafe trait Listed: Sized {
    /// # Safety
    /// `list` came from libxl with `count` elements and is freed here alone.
    unsafe fn free_list(list: *mut Self, count: c_int);
}

// SAFETY: libxl.h declares this one for what libxl_list_domain returns.
unsafe impl Listed for xen_sys::libxl_dominfo {
    unsafe fn free_list(list: *mut Self, count: c_int) {
        // SAFETY: the caller's promise.
        unsafe { xen_sys::libxl_dominfo_list_free(list, count) }
    }
}

// SAFETY: libxl.h declares this one for what libxl_device_disk_list returns.
unsafe impl Listed for xen_sys::libxl_device_disk {
    unsafe fn free_list(list: *mut Self, count: c_int) {
        // SAFETY: the caller's promise.
        unsafe { xen_sys::libxl_device_disk_list_free(list, count) }
    }
}

/// An array that libxl returned, freed when dropped.
pub(super) struct List<T: Listed> {
    first: NonNull<T>,
    count: c_int,
}

impl<T: Listed> List<T> {
    /// Takes an array over; `None` for NULL.
    ///
    /// # Safety
    /// `first` is NULL, or came from the libxl function that returns such arrays, with `count` elements, and
    /// nobody else frees it.
    pub(super) unsafe fn from_raw(first: *mut T, count: c_int) -> Option<Self> {
        NonNull::new(first).map(|first| Self { first, count })
    }
}

impl<T: Listed> Deref for List<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        let count = usize::try_from(self.count).unwrap_or(0);
        // SAFETY: from_raw: so many initialised elements, and they live until the drop.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), count) }
    }
}

impl<T: Listed> DerefMut for List<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let count = usize::try_from(self.count).unwrap_or(0);
        // SAFETY: as for `deref`, and nobody else has the list.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), count) }
    }
}

impl<T: Listed> Drop for List<T> {
    fn drop(&mut self) {
        // SAFETY: from_raw: ours to free, and this is the only place.
        unsafe { T::free_list(self.first.as_ptr(), self.count) }
    }
}

/// A text holds a NUL byte, which C cannot take.
#[derive(Debug, thiserror::Error)]
#[error("a NUL byte inside")]
pub(super) struct NulInside;

/// A copy from `malloc`, for a string field of a libxl type: its `_dispose` frees it. The field must hold NULL
/// before, as after `_init`; what it held otherwise is leaked.
pub(super) fn c_string(text: impl Into<Vec<u8>>) -> Result<*mut c_char, NulInside> {
    let text = CString::new(text).map_err(|_| NulInside)?;
    // SAFETY: strdup(3) reads a NUL-terminated string, which a CString is.
    let copy = unsafe { libc::strdup(text.as_ptr()) };
    if copy.is_null() {
        std::alloc::handle_alloc_error(std::alloc::Layout::for_value(text.as_c_str()))
    }
    Ok(copy)
}

/// The text of a string field; `None` for NULL.
///
/// # Safety
/// `text` is NULL or a NUL-terminated string that lives as long as `'a`.
pub(super) unsafe fn text<'a>(text: *const c_char) -> Option<&'a CStr> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    Some(unsafe { CStr::from_ptr(text) })
}

/// A disk's name; `None` for one that this library does not give.
pub(super) fn vdev(disk: &xen_sys::libxl_device_disk) -> Option<Vdev> {
    // SAFETY: the string belongs to the disk, which outlives this call.
    unsafe { text(disk.vdev) }.and_then(|name| name.to_str().ok()).and_then(|name| name.parse().ok())
}

/// Takes over a string that libxl returned for the caller to free.
///
/// # Safety
/// `raw` is NULL or a NUL-terminated string from `malloc` that nobody else frees.
pub(super) unsafe fn take_string(raw: *mut c_char) -> Option<CString> {
    // SAFETY: the caller's promise.
    let copy = unsafe { text(raw) }.map(CStr::to_owned);
    // SAFETY: the caller's promise; free(NULL) does nothing.
    unsafe { libc::free(raw.cast()) };
    copy
}

/// The array of disks of a domain's configuration, made of so many initialised elements, to be filled.
/// What the configuration held before must be nothing.
pub(super) fn alloc_disks(
    config: &mut xen_sys::libxl_domain_config,
    count: usize,
) -> &mut [xen_sys::libxl_device_disk] {
    let (Ok(number), true) = (c_int::try_from(count), count > 0) else {
        return &mut [];
    };
    // SAFETY: calloc(3) takes any numbers.
    let first: *mut xen_sys::libxl_device_disk =
        unsafe { libc::calloc(count, size_of::<xen_sys::libxl_device_disk>()) }.cast();
    if first.is_null() {
        std::alloc::handle_alloc_error(std::alloc::Layout::new::<xen_sys::libxl_device_disk>());
    }
    for index in 0..count {
        // SAFETY: inside the allocation of `count` elements.
        let place = unsafe { first.add(index) };
        // SAFETY: Idl::init: valid for writes, holds nothing.
        unsafe { Idl::init(place) };
    }
    debug_assert!(config.disks.is_null(), "the configuration has disks already");
    config.disks = first;
    config.num_disks = number;
    // SAFETY: `count` elements, all initialised above, borrowed as long as the configuration that owns them.
    unsafe { std::slice::from_raw_parts_mut(first, count) }
}

/// A bitmap with the first `bits` bits set, from `malloc`, in a field that `_dispose` frees. The field must be
/// as after `_init`. (libxl's own allocator needs a context; the layout is what `libxl_bitmap_alloc` makes.)
pub(super) fn fill_bitmap(bitmap: &mut xen_sys::libxl_bitmap, bits: u32) {
    let bytes = bits.div_ceil(8);
    // SAFETY: calloc(3) takes any numbers.
    let map: *mut u8 = unsafe { libc::calloc(bytes.max(1) as usize, 1) }.cast();
    if map.is_null() {
        std::alloc::handle_alloc_error(std::alloc::Layout::new::<u8>());
    }
    debug_assert!(bitmap.map.is_null(), "the bitmap is allocated already");
    bitmap.map = map;
    bitmap.size = bytes;
    for bit in 0..bits {
        // SAFETY: libxl_utils.h: the bitmap holds `bits` bits; bits beyond are ignored.
        unsafe { xen_sys::libxl_bitmap_set(bitmap, bit.cast_signed()) };
    }
}

/// A NULL pointer of a libxl structure's pointer argument, spelled once.
pub(super) const fn null<T>() -> *const T {
    ptr::null()
}

#[cfg(test)]
mod tests {
    //! Need no Xen: init, fill and dispose work without a context. Under valgrind they show that nothing leaks.

    use super::*;
    use xen_sys::{libxl_device_disk, libxl_domain_config};

    #[test]
    fn a_config_owns_its_disks_and_their_strings() {
        let mut config = Owned::<libxl_domain_config>::new();
        config.c_info.name = c_string("work").unwrap();
        let disks = alloc_disks(&mut config, 3);
        for (disk, name) in disks.iter_mut().zip(["xvda", "xvdb", "xvdc"]) {
            disk.vdev = c_string(name).unwrap();
        }
        assert_eq!(config.num_disks, 3);
        // SAFETY: the string was made above and lives as long as the config.
        let name = unsafe { text(config.c_info.name) };
        assert_eq!(name.unwrap().to_str().unwrap(), "work");
    }

    #[test]
    fn no_disks_are_no_array() {
        let mut config = Owned::<libxl_domain_config>::new();
        assert!(alloc_disks(&mut config, 0).is_empty());
        assert!(config.disks.is_null());
    }

    #[test]
    fn a_bitmap_has_exactly_the_first_bits() {
        let mut config = Owned::<libxl_domain_config>::new();
        fill_bitmap(&mut config.b_info.avail_vcpus, 10);
        // SAFETY: libxl_utils.h: counts the bits of an allocated bitmap.
        assert_eq!(unsafe { xen_sys::libxl_bitmap_count_set(&config.b_info.avail_vcpus) }, 10);
        assert_eq!(config.b_info.avail_vcpus.size, 2);
    }

    #[test]
    fn a_nul_inside_a_text_is_refused() {
        assert!(c_string("a\0b").is_err());
    }

    #[test]
    fn a_value_is_initialised_again_by_each_new() {
        let disk = Owned::<libxl_device_disk>::new();
        assert!(disk.vdev.is_null());
        assert_eq!(disk.backend_domid, 0);
    }
}
