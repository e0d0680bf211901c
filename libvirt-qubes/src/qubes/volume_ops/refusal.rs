//! Why something cannot be done with a volume.

use crate::ids::{ByteSize, VolumeName};

/// Why something cannot be done with a volume. Where a variant has a `vid`, it is the volume's own name in its pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeRefusal {
    /// A pool has no volume of that name.
    NoSuchVid {
        /// As it was given.
        vid: String,
    },
    /// The volume has no revision of that name.
    NoSuchRevision {
        /// As it was given.
        revision: String,
    },
    /// A running VM's volume cannot go back to a revision.
    RevertRunning {
        /// The volume.
        vid: String,
    },
    /// Nothing of the volume outlives its VM's stop.
    NotKept {
        /// The volume.
        vid: String,
    },
    /// The volume is read-only.
    ResizeReadOnly {
        /// The volume.
        vid: String,
    },
    /// Each start makes the volume from another, which has its size.
    ResizeSnapshot {
        /// The volume.
        vid: String,
        /// The other one.
        source: String,
    },
    /// Volumes do not become smaller.
    Shrink {
        /// The volume.
        vid: String,
        /// Its size.
        size: ByteSize,
        /// What was asked for.
        asked: ByteSize,
    },
    /// It is a kernel: an administrator's files.
    Kernel,
    /// Not a number of revisions.
    RevisionsToKeep,
    /// Kernels have no revisions.
    KernelRevisions,
    /// Only what is empty at each start and may be written can be encrypted with a key that nobody keeps.
    Ephemeral,
    /// No volume waits to be copied under that token for this caller.
    NoSuchToken,
    /// The volume is written in place while its VM runs.
    SourceRuns {
        /// The volume.
        vid: String,
    },
    /// Data from outside is on its way into the volume.
    ImportInProgress {
        /// The volume.
        vid: String,
    },
    /// None is.
    NoImport {
        /// The volume.
        vid: String,
    },
    /// A volume has data.
    NoSize {
        /// The volume.
        vid: String,
    },
    /// Less came than was said.
    NotEnoughData {
        /// What came.
        copied: ByteSize,
        /// What was said.
        expected: ByteSize,
    },
    /// More came than was said.
    TooMuchData {
        /// What was said.
        expected: ByteSize,
    },
    /// Whoever writes the data says that it failed.
    ImportFailed {
        /// In these words.
        words: String,
    },
    /// The place where data would go has a name that its writer cannot be told.
    UntellablePath {
        /// The volume.
        volume: VolumeName,
    },
}
