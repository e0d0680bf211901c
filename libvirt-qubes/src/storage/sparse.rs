//! Writing a stream of data so that zeros stay holes, with memory for one block and no more.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

/// The unit in which zeros are looked for: a block that is all zeros is not written. Smaller units find more holes
/// and make more extents.
pub(super) const BLOCK: usize = 64 * 1024;

/// So much may wait in the page cache before it is sent to the disk: otherwise the last sync of a large import
/// would take minutes, and a dirty limit that one import fills would slow down everybody.
const UNSYNCED: u64 = 64 * 1024 * 1024;

static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Writes from `offset` on into a file whose every byte from there on reads as zero.
pub(super) struct SparseWriter {
    file: File,
    /// Bytes that are written together or, if all are zero, not at all.
    unit: usize,
    /// Where `block` begins; a multiple of `unit` from the start.
    offset: u64,
    /// Less than a whole block.
    block: Vec<u8>,
    unsynced: u64,
}

impl SparseWriter {
    pub(super) fn new(file: File) -> Self {
        Self::in_units(file, BLOCK)
    }

    /// With units of another size than a block: of a device that allocates in these and does not wipe them.
    pub(super) fn in_units(file: File, unit: usize) -> Self {
        Self { file, unit: unit.max(1), offset: 0, block: Vec::new(), unsynced: 0 }
    }

    /// How much has come so far.
    pub(super) fn position(&self) -> u64 {
        self.offset.saturating_add(u64::try_from(self.block.len()).unwrap_or(u64::MAX))
    }

    pub(super) fn write(&mut self, mut data: &[u8]) -> io::Result<()> {
        if !self.block.is_empty() {
            let (head, rest) = data.split_at(data.len().min(self.unit - self.block.len()));
            self.block.extend_from_slice(head);
            data = rest;
            if self.block.len() < self.unit {
                return Ok(());
            }
            let mut block = std::mem::take(&mut self.block);
            self.put_blocks(&block)?;
            block.clear();
            self.block = block;
        }
        let (blocks, rest) = data.split_at(data.len() - data.len() % self.unit);
        self.put_blocks(blocks)?;
        self.block.extend_from_slice(rest);
        Ok(())
    }

    /// Zeros next, however many; they are not written.
    pub(super) fn skip(&mut self, mut length: u64) -> io::Result<()> {
        let unit = u64::try_from(self.unit).unwrap_or(u64::MAX);
        let partial = u64::try_from(self.block.len()).unwrap_or(0);
        let room = if partial == 0 { 0 } else { unit - partial };
        let fill = length.min(room);
        self.write_zeros(fill)?;
        length -= fill;
        let whole = length - length % unit;
        self.offset = self.offset.checked_add(whole).ok_or(io::ErrorKind::FileTooLarge)?;
        self.write_zeros(length - whole)
    }

    fn write_zeros(&mut self, mut count: u64) -> io::Result<()> {
        while count > 0 {
            let part = usize::try_from(count).unwrap_or(BLOCK).min(BLOCK);
            self.write(ZEROS.get(..part).unwrap_or_default())?;
            count -= u64::try_from(part).unwrap_or(count);
        }
        Ok(())
    }

    /// Writes what is left and gives the file its length: `length`, at least what has come.
    pub(super) fn finish(mut self, length: u64) -> io::Result<File> {
        self.put_rest()?;
        self.file.set_len(length)?;
        Ok(self.file)
    }

    /// Writes what is left, into a device, which has its length. The rest of the last unit is filled with zeros as far
    /// as the device goes.
    pub(super) fn flush(mut self) -> io::Result<File> {
        if !is_zero(&self.block) {
            let end = (&self.file).seek(SeekFrom::End(0))?;
            let room = usize::try_from(end.saturating_sub(self.offset)).unwrap_or(self.unit).min(self.unit);
            self.block.resize(room.max(self.block.len()), 0);
        }
        self.put_rest()?;
        Ok(self.file)
    }

    fn put_rest(&mut self) -> io::Result<()> {
        let block = std::mem::take(&mut self.block);
        self.put(&block)
    }

    /// Whole blocks; neighbours that are not zero are written together.
    fn put_blocks(&mut self, mut blocks: &[u8]) -> io::Result<()> {
        while !blocks.is_empty() {
            let zeros = is_zero(blocks.get(..self.unit).unwrap_or(blocks));
            let run =
                blocks.chunks(self.unit).take_while(|block| is_zero(block) == zeros).map(<[u8]>::len).sum();
            let (run, rest) = blocks.split_at_checked(run).unwrap_or((blocks, &[]));
            if zeros {
                self.advance(run.len());
            } else {
                self.put(run)?;
            }
            blocks = rest;
        }
        Ok(())
    }

    fn put(&mut self, data: &[u8]) -> io::Result<()> {
        if !is_zero(data) {
            self.file.write_all_at(data, self.offset)?;
            self.unsynced = self.unsynced.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
            if self.unsynced >= UNSYNCED {
                self.file.sync_data()?;
                self.unsynced = 0;
            }
        }
        self.advance(data.len());
        Ok(())
    }

    fn advance(&mut self, count: usize) {
        self.offset = self.offset.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    }
}

fn is_zero(data: &[u8]) -> bool {
    data.chunks(BLOCK).all(|chunk| ZEROS.starts_with(chunk))
}

/// The next stretch of data from `offset` on; `None` if only a hole follows. Where the file system or device
/// cannot tell, all is data.
pub(super) fn next_data(file: &File, offset: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    let start = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
        Ok(start) if start >= size => return Ok(None),
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((offset, size))),
        Err(e) => return Err(e.into()),
    };
    let end = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(start))?;
    Ok(Some((start, end.min(size))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Piece {
        Data(u8, usize),
        Zeros(usize),
        Skip(usize),
    }

    fn piece() -> impl Strategy<Value = Piece> {
        let length = prop_oneof![0..200usize, (BLOCK - 2)..(BLOCK + 3), 0..(3 * BLOCK)];
        prop_oneof![
            (1..=255u8, length.clone()).prop_map(|(byte, n)| Piece::Data(byte, n)),
            length.clone().prop_map(Piece::Zeros),
            length.prop_map(Piece::Skip),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn however_the_stream_is_cut_the_file_is_the_stream(pieces in proptest::collection::vec(piece(), 0..12),
                                                          unit in prop_oneof![Just(BLOCK), Just(3 * BLOCK), 1000..2000usize],
                                                          is_device: bool) {
            let file = tempfile::tempfile().unwrap();
            if is_device {
                // With a length that it keeps, longer than what comes.
                file.set_len(64 * BLOCK as u64).unwrap();
            }
            let mut writer = SparseWriter::in_units(file, unit);
            let mut expected = Vec::new();
            for piece in pieces {
                match piece {
                    Piece::Data(byte, n) => {
                        writer.write(&vec![byte; n]).unwrap();
                        expected.resize(expected.len() + n, byte);
                    }
                    Piece::Zeros(n) => {
                        writer.write(&vec![0; n]).unwrap();
                        expected.resize(expected.len() + n, 0);
                    }
                    Piece::Skip(n) => {
                        writer.skip(n as u64).unwrap();
                        expected.resize(expected.len() + n, 0);
                    }
                }
                prop_assert_eq!(writer.position(), expected.len() as u64);
            }
            let file = if is_device {
                expected.resize(64 * BLOCK, 0);
                writer.flush().unwrap()
            } else {
                writer.finish(expected.len() as u64).unwrap()
            };
            let mut got = vec![0; expected.len()];
            file.read_exact_at(&mut got, 0).unwrap();
            prop_assert!(got == expected);
            prop_assert_eq!(file.metadata().unwrap().len(), expected.len() as u64);
        }
    }
}
