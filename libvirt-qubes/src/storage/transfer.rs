//! Data on its way into a volume, and out of one.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::ids::{ByteSize, PoolName};

/// How much data an import will bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportSize {
    /// Just so much; less or more is an error. The volume gets this size.
    Exactly(ByteSize),
    /// Just so much, all of it zeros: it takes no space.
    Zeros(ByteSize),
    /// Not known before its end; the volume gets the size of what came, filled up with zeros to whole sectors
    /// of 512 bytes.
    AsItComes,
}

/// What every driver holds an import to. Errors are reasons, in the words that clients are told.
impl ImportSize {
    /// Data up to this many bytes may come.
    pub(super) fn admits(self, bytes: u64) -> std::result::Result<(), String> {
        match self {
            Self::Exactly(size) | Self::Zeros(size) if bytes > size.get() => {
                Err(format!("too much data (expected {size} bytes)"))
            }
            Self::Exactly(_) | Self::Zeros(_) | Self::AsItComes => Ok(()),
        }
    }

    /// Whether a pool that is nearly full refuses it.
    pub(super) fn takes_space(self) -> bool {
        match self {
            Self::Exactly(_) | Self::AsItComes => true,
            Self::Zeros(_) => false,
        }
    }

    /// So much is all that has come.
    pub(super) fn is_met_by(self, came: ByteSize) -> std::result::Result<(), String> {
        match self {
            Self::Exactly(size) | Self::Zeros(size) if came < size => {
                Err(format!("not enough data (copied {came} bytes, expected {size} bytes)"))
            }
            Self::AsItComes if came.get() == 0 => Err("no data came".to_owned()),
            Self::Exactly(_) | Self::Zeros(_) | Self::AsItComes => Ok(()),
        }
    }

    /// The size of an import that can still be handed out, when `came` bytes have come.
    pub(super) fn to_hand_out(self, came: u64) -> std::result::Result<ByteSize, String> {
        match self {
            Self::AsItComes => Err("the size is not known".to_owned()),
            Self::Exactly(_) | Self::Zeros(_) if came != 0 => Err("data has come already".to_owned()),
            Self::Exactly(size) | Self::Zeros(size) => Ok(size),
        }
    }
}

/// An import that began below the watermark looks at it again each time that so many bytes have come: what it takes, running VMs
/// cannot have.
pub(super) const LOOK_EACH: u64 = 16 << 20;

/// An import under way: data goes to a place of its own and becomes the volume's state as a whole, at
/// [`finish`](ImportWriter::finish), or not at all. Every method blocks. Dropped, it is aborted.
///
/// Memory stays flat whatever comes. Zeros become holes where the driver has holes.
pub trait ImportWriter: Send {
    /// The next bytes. After an error the import can only be dropped.
    ///
    /// # Errors
    /// `Invalid` past the announced size; `NoSpace`; `Io`.
    fn write(&mut self, data: &[u8]) -> Result<()>;

    /// So many zeros next.
    ///
    /// # Errors
    /// As [`write`](ImportWriter::write).
    fn skip(&mut self, length: ByteSize) -> Result<()>;

    /// Lets somebody else write, in the place of [`write`](ImportWriter::write) and [`skip`](ImportWriter::skip): gives
    /// the path of the file or device where the data goes, which has the announced size and reads as zeros. What lies
    /// there at [`finish`](ImportWriter::finish) is what has come.
    ///
    /// # Errors
    /// `Unsupported` where nobody else can be let; `Invalid` without an announced size, or after data has come.
    fn hand_out(&mut self) -> Result<PathBuf>;

    /// Makes durable what somebody else has written, which may take long; [`finish`](ImportWriter::finish) has little left
    /// to do then. Without a [`hand_out`](ImportWriter::hand_out) there is nothing to do: what is written here is sent to
    /// the disk as it comes.
    ///
    /// # Errors
    /// `NoSpace`; `Io`. After one the import can only be dropped.
    fn settle(&mut self) -> Result<()>;

    /// All has come: makes it durable, then the volume's committed state, the former one a revision under the
    /// usual retention. Returns the volume's size.
    ///
    /// # Errors
    /// `Invalid` if less came than was announced, or nothing at all; else as [`write`](ImportWriter::write). The
    /// volume is as it was before then.
    fn finish(self: Box<Self>) -> Result<ByteSize>;

    /// Gives up and leaves nothing.
    ///
    /// # Errors
    /// What could not be removed; recovery removes it.
    fn abort(self: Box<Self>) -> Result<()>;
}

/// A volume's committed state, open for reading. It stays what it is while this is held, whatever happens to the
/// volume meanwhile: commit, revert, removal.
pub struct Export {
    file: File,
    path: PathBuf,
    size: ByteSize,
    name: Option<String>,
    pool: Option<PoolName>,
    _hold: Box<dyn Any + Send + Sync>,
}

impl Export {
    /// Of an open file or block device; `hold` is dropped with the export.
    pub fn new(file: File, path: PathBuf, size: ByteSize, hold: impl Any + Send + Sync) -> Self {
        Self { file, path, size, name: None, pool: None, _hold: Box::new(hold) }
    }

    /// The same, known by its volume's vid and pool.
    #[must_use]
    pub(super) fn named(mut self, vid: String, pool: PoolName) -> Self {
        self.name = Some(vid);
        self.pool = Some(pool);
        self
    }

    /// Whether the volume is known to be one of this pool.
    pub(super) fn is_of(&self, pool: &PoolName) -> bool {
        self.pool.as_ref() == Some(pool)
    }

    /// The same; `next` is dropped after all else.
    #[must_use]
    pub(super) fn and_then(mut self, next: impl Any + Send + Sync) -> Self {
        self._hold = Box::new((self._hold, next));
        self
    }

    /// The vid of the volume, or where it was when that is not known.
    pub fn name(&self) -> Cow<'_, str> {
        self.name.as_deref().map_or_else(|| self.path.to_string_lossy(), Cow::Borrowed)
    }

    /// The open file or block device; positioned anywhere.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it was when it was opened: for messages, and for drivers that know their own paths.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes to read.
    pub fn size(&self) -> ByteSize {
        self.size
    }
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export").field("path", &self.path).field("size", &self.size).finish_non_exhaustive()
    }
}
