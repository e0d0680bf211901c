//! The plain ELF kernel inside a bzImage: Xen starts it without unpacking it on an emulated CPU first.
//!
//! Fields of the header: the kernel's Documentation/arch/x86/boot.rst.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::cmd;

const SETUP_SECTORS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// How a payload is compressed, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Xz,
    /// The legacy frame format.
    Lz4,
}

/// Writes the ELF kernel of the bzImage at `from` to the new file `to`.
pub(crate) fn extract(from: &Path, to: &Path) -> Result<()> {
    let image = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    let (compression, payload) = payload(&image).with_context(|| format!("{}", from.display()))?;
    let packed = to.with_extension("packed");
    std::fs::write(&packed, payload).with_context(|| format!("cannot write {}", packed.display()))?;
    let mut command = match compression {
        Compression::Xz => cmd::program("xz"),
        Compression::Lz4 => cmd::program("lz4"),
    };
    if compression == Compression::Xz {
        command.arg("--single-stream");
    }
    let unpacked = cmd::output_to(command.arg("-dc").arg(&packed), to);
    std::fs::remove_file(&packed).with_context(|| format!("cannot remove {}", packed.display()))?;
    unpacked
}

/// The compressed kernel in a bzImage. The build appends four bytes with the unpacked size, which LZ4 takes for
/// another block.
fn payload(image: &[u8]) -> Result<(Compression, &[u8])> {
    let setup = image.get(SETUP_SECTORS).map(|&sectors| if sectors == 0 { 4 } else { usize::from(sectors) });
    let setup = (setup.context("no kernel image: too short")? + 1) * 512;
    let start = setup + number(image, PAYLOAD_OFFSET)?;
    let payload = start
        .checked_add(number(image, PAYLOAD_LENGTH)?)
        .and_then(|end| image.get(start..end))
        .context("no kernel image: its payload lies outside of it")?;
    if payload.starts_with(b"\xfd7zXZ\0") {
        Ok((Compression::Xz, payload))
    } else if payload.starts_with(b"\x02\x21\x4c\x18") {
        Ok((Compression::Lz4, payload.get(..payload.len() - 4).unwrap_or_default()))
    } else {
        bail!("the kernel is neither XZ nor LZ4: it begins with {:02x?}", payload.get(..6).unwrap_or(payload))
    }
}

fn number(image: &[u8], at: usize) -> Result<usize> {
    let bytes = image.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    Ok(u32::from_le_bytes(bytes.context("no kernel image: too short")?) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 3 * 512 + 16];
        image[SETUP_SECTORS] = 2;
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16_u32.to_le_bytes());
        let length = u32::try_from(payload.len()).unwrap();
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    #[test]
    fn the_payload_is_found_behind_the_set_up_code() {
        let lz4 = [b"\x02\x21\x4c\x18data".as_slice(), b"SIZE"].concat();
        assert_eq!(payload(&image(&lz4)).unwrap(), (Compression::Lz4, b"\x02\x21\x4c\x18data".as_slice()));
        let xz = b"\xfd7zXZ\0dataSIZE";
        assert_eq!(payload(&image(xz)).unwrap(), (Compression::Xz, xz.as_slice()));
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        assert!(payload(b"short").is_err());
        assert!(payload(&vec![0xff; 4096]).unwrap_err().to_string().contains("outside"));
        assert!(payload(&image(b"\x28\xb5\x2f\xfdzstd")).unwrap_err().to_string().contains("28, b5"));
    }
}
