//! The loop driver's ioctls: `include/uapi/linux/loop.h`. Owns the C layouts and the one `unsafe` call; decides
//! nothing.
//!
//! `LOOP_CONFIGURE` is Linux 5.8's. Everything older (`LOOP_SET_FD`, the 32-bit status) is left out.

use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::{Errno, Result};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};

const LOOP_CLR_FD: Opcode = 0x4C01;
const LOOP_GET_STATUS64: Opcode = 0x4C05;
const LOOP_SET_CAPACITY: Opcode = 0x4C07;
const LOOP_CONFIGURE: Opcode = 0x4C0A;
const LOOP_CTL_GET_FREE: Opcode = 0x4C82;

bitflags::bitflags! {
    /// `LO_FLAGS_*`; the kernel may set others.
    #[derive(Clone, Copy)]
    #[repr(transparent)]
    pub(crate) struct LoopFlags: u32 {
        /// Reads alone.
        const READ_ONLY = 1;
        /// Released when the last user closes it.
        const AUTOCLEAR = 4;
        /// Past the page cache.
        const DIRECT_IO = 16;
        const _ = !0;
    }
}

/// `LO_NAME_SIZE`, the ending NUL included.
pub(crate) const LO_NAME_SIZE: usize = 64;
const LO_KEY_SIZE: usize = 32;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LoopInfo64 {
    pub(crate) lo_device: u64,
    pub(crate) lo_inode: u64,
    lo_rdevice: u64,
    lo_offset: u64,
    lo_sizelimit: u64,
    lo_number: u32,
    lo_encrypt_type: u32,
    lo_encrypt_key_size: u32,
    pub(crate) lo_flags: LoopFlags,
    pub(crate) lo_file_name: [u8; LO_NAME_SIZE],
    lo_crypt_name: [u8; LO_NAME_SIZE],
    lo_encrypt_key: [u8; LO_KEY_SIZE],
    lo_init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo64>() == 232, "linux/loop.h: struct loop_info64 has 232 bytes");
const _: () = assert!(size_of::<LoopConfig>() == 304, "linux/loop.h: struct loop_config has 304 bytes");

impl LoopInfo64 {
    pub(crate) const fn zeroed() -> LoopInfo64 {
        LoopInfo64 {
            lo_device: 0,
            lo_inode: 0,
            lo_rdevice: 0,
            lo_offset: 0,
            lo_sizelimit: 0,
            lo_number: 0,
            lo_encrypt_type: 0,
            lo_encrypt_key_size: 0,
            lo_flags: LoopFlags::empty(),
            lo_file_name: [0; LO_NAME_SIZE],
            lo_crypt_name: [0; LO_NAME_SIZE],
            lo_encrypt_key: [0; LO_KEY_SIZE],
            lo_init: [0; 2],
        }
    }
}

/// One call; `T` is what the kernel reads and writes behind the argument, `()` for a call without one.
struct Call<'a, T> {
    opcode: Opcode,
    argument: Option<&'a mut T>,
}

// SAFETY: rustix::ioctl::Ioctl: the pointer must suit the opcode. Only the functions below build a `Call`, each
// with the type that linux/loop.h names for its opcode, or with none; the reference outlives the call. The
// output is the plain return value.
unsafe impl<T> Ioctl for Call<'_, T> {
    type Output = IoctlOutput;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument.as_deref_mut().map_or(std::ptr::null_mut(), |a| std::ptr::from_mut(a).cast())
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> Result<IoctlOutput> {
        Ok(out)
    }
}

fn call<T>(fd: impl AsFd, opcode: Opcode, argument: Option<&mut T>) -> Result<IoctlOutput> {
    // SAFETY: rustix::ioctl::ioctl: the fd must understand the opcode as the `Ioctl` says. `LoopDevice` holds
    // nothing but block devices of the loop driver's major number, the control device is opened by its fixed
    // name; any other driver answers ENOTTY.
    unsafe { rustix::ioctl::ioctl(fd, Call { opcode, argument }) }
}

/// The number of a device that is free now. Another program may take it before it is configured.
pub(crate) fn get_free(control: impl AsFd) -> Result<u32> {
    let number = call::<()>(control, LOOP_CTL_GET_FREE, None)?;
    u32::try_from(number).map_err(|_| Errno::NODEV)
}

/// Binds `backing` to the device in one step. `EBUSY`: somebody else was faster.
pub(crate) fn configure(
    device: impl AsFd,
    backing: impl AsFd,
    block_size: u32,
    info: LoopInfo64,
) -> Result<()> {
    let fd = u32::try_from(backing.as_fd().as_raw_fd()).map_err(|_| Errno::BADF)?;
    let mut config = LoopConfig { fd, block_size, info, reserved: [0; 8] };
    call(device, LOOP_CONFIGURE, Some(&mut config)).map(drop)
}

/// Unbinds the device: now, or when its last opener closes it. `ENXIO`: it is not bound.
pub(crate) fn clear(device: impl AsFd) -> Result<()> {
    call::<()>(device, LOOP_CLR_FD, None).map(drop)
}

/// Takes the backing file's present size over. `ENXIO`: the device is not bound.
pub(crate) fn set_capacity(device: impl AsFd) -> Result<()> {
    call::<()>(device, LOOP_SET_CAPACITY, None).map(drop)
}

/// `ENXIO`: the device is not bound.
pub(crate) fn get_status(device: impl AsFd) -> Result<LoopInfo64> {
    let mut info = LoopInfo64::zeroed();
    call(device, LOOP_GET_STATUS64, Some(&mut info))?;
    Ok(info)
}
