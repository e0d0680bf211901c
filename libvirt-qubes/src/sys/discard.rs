//! `BLKDISCARD`.
#![expect(unsafe_code, reason = "an ioctl of block devices that no crate wraps")]

use std::fs::File;
use std::io::{self, Seek, SeekFrom};

use rustix::ioctl;

/// `_IO(0x12, 119)`; its argument are offset and length.
const BLKDISCARD: ioctl::Opcode = ioctl::opcode::none(0x12, 119);
/// So much at a time: a whole large device would hold up a thin pool for seconds.
pub(crate) const DISCARD_STEP: u64 = 1 << 30;

/// Gives back all blocks of a block device. What they had is gone.
pub(crate) fn discard_device(device: &File) -> io::Result<()> {
    let size = (&*device).seek(SeekFrom::End(0))?;
    let mut offset = 0;
    while offset < size {
        let length = DISCARD_STEP.min(size - offset);
        // SAFETY: the kernel reads two 64-bit numbers from the argument and writes nothing.
        let range = unsafe { ioctl::Setter::<BLKDISCARD, [u64; 2]>::new([offset, length]) };
        // SAFETY: the opcode's argument is what the setter holds, and the device is open for writing or the kernel
        // refuses.
        unsafe { ioctl::ioctl(device, range) }?;
        offset += length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_block_device_is_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        assert_eq!(discard_device(&file).unwrap_err().raw_os_error(), Some(25));
    }
}
