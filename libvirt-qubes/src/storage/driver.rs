//! The contract of a storage driver.
//!
//! Drivers are plain blocking code; [`Storage`](super::Storage) runs them off the async threads. A driver keeps no
//! state but what names on disk say: it makes a thing under the name of an unfinished step, exclusively, and
//! renames it when it is whole. A crash between any two steps leaves either the old or the new state, and names
//! that [`Driver::recover`] understands.
//!
//! Operations on one volume must not run at the same time; the caller sees to that, with locks per volume. Figures and the list of
//! revisions may be asked for at any time. While an operation copies data, others may export the volume and start snapshots of
//! it, until the operation asks for its [turn to commit](Job::commit_turn). What a driver lends for longer than a call (an
//! import, an export) it guards by itself.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Export, ImportSize, ImportWriter, Job, PoolPlace, Revision, RevisionId, VolumeId, VolumeSpec};
use crate::config::Access;
use crate::error::Result;
use crate::ids::{ByteSize, KernelVersion};

/// What a domain is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// A regular file or block device; absolute.
    pub path: PathBuf,
    /// How to attach it.
    pub access: Access,
}

/// How a started volume came to its stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// A domain had it: commit or drop, as its kind says.
    Ran,
    /// No domain has had it (a start failed at another step): take the start back. Nothing that might have been
    /// written is dropped: a volume that was dirty before its start stays so.
    NeverRan,
}

/// What recovery found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovered {
    /// Nothing was running.
    Clean,
    /// What a run had written is the committed state now.
    Committed,
    /// What a run had written was dropped, as its kind says.
    Dropped,
}

/// Figures about a volume as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeInfo {
    /// What the VM sees.
    pub size: ByteSize,
    /// What it takes on disk, shared blocks counted in full.
    pub usage: ByteSize,
    /// What the VM is given, or would be.
    pub path: Option<PathBuf>,
    /// It is started, or was and has not been stopped.
    pub dirty: bool,
    /// A started snapshot whose source has changed since; `None` where the driver cannot tell.
    pub outdated: Option<bool>,
}

/// Figures about a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolUsage {
    /// All the space there is.
    pub size: ByteSize,
    /// Space in use, by whatever.
    pub usage: ByteSize,
    /// What can still be taken, where that is less than the rest: file systems keep some for themselves.
    #[serde(default)]
    pub available: Option<ByteSize>,
    /// The same for metadata, where they are apart (LVM).
    pub metadata: Option<(ByteSize, ByteSize)>,
}

impl PoolUsage {
    /// How full it is of data, in percent with two digits behind the point: what is used, of that and what is available.
    pub fn data_percent(&self) -> f64 {
        let whole = self
            .available
            .map_or(self.size.get(), |available| self.usage.get().saturating_add(available.get()));
        percent(self.usage, ByteSize::bytes(whole))
    }

    /// The same of metadata.
    pub fn metadata_percent(&self) -> Option<f64> {
        self.metadata.map(|(size, usage)| percent(usage, size))
    }
}

fn percent(part: ByteSize, whole: ByteSize) -> f64 {
    let (part, whole) = (u128::from(part.get()), u128::from(whole.get()));
    let hundredths = (part * 10_000 + whole / 2).checked_div(whole).unwrap_or(0).min(10_000);
    f64::from(u32::try_from(hundredths).unwrap_or(10_000)) / 100.0
}

/// What lies in a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Volumes, sorted: everything whose name is one of the driver's.
    pub volumes: Vec<VolumeId>,
    /// Everything else, for a person to look at. Never removed by the driver.
    pub unknown: Vec<PathBuf>,
}

/// A way to store volumes. Every method may block for a disk or a command.
///
/// Errors, unless said otherwise: `NotFound` where the volume is needed and is not there, `Busy` while it is in a
/// use that forbids the operation, `Unsupported` for a kind or an operation that the driver has not, `NoSpace`, `Io`.
/// After an error the volume is as it was, or recovery makes it so.
pub trait Driver: fmt::Debug + Send + Sync {
    /// Its name in configuration: `file-reflink`.
    fn name(&self) -> &'static str;

    /// Prepares the place of a new pool, if need be, and checks that it can do what the driver needs. Called before
    /// anything else.
    ///
    /// # Errors
    /// `Unsupported` if the place cannot do it; `NotFound` if it is not there.
    fn setup(&self) -> Result<()>;

    /// The same for a pool that was set up before: called before anything else, at each later start of the caller. It
    /// makes nothing; a place that is [`away`](Driver::away) is no error of a driver that looks at each operation.
    ///
    /// # Errors
    /// As [`setup`](Driver::setup).
    fn resume(&self) -> Result<()> {
        self.setup()
    }

    /// Why nothing can be done in the pool now, in words for whoever can change that; `None`: its place is there. While
    /// it is not, what would write or needs data fails with `Unavailable` or `NotFound`, and nothing is made in what
    /// lies where the pool was.
    fn away(&self) -> Option<String> {
        None
    }

    /// Does what the pool's and the volume's first use wants: what was put off until then. Whoever only looks does without, and may
    /// see less.
    ///
    /// # Errors
    /// What failed of it; it is tried again at the next use.
    fn wake(&self, _id: &VolumeId) -> Result<()> {
        Ok(())
    }

    /// What there is to do when a pool is given up, after its last use. Its data stays.
    ///
    /// # Errors
    /// It is given up all the same.
    fn dispose(&self) -> Result<()> {
        Ok(())
    }

    /// Options that every pool has and this one takes from elsewhere than its own configuration.
    fn base_options(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// The volume's name in this pool, as people see it.
    fn vid(&self, id: &VolumeId, spec: &VolumeSpec) -> String;

    /// Where it keeps its data.
    fn pool_place(&self) -> PoolPlace;

    /// The folders that [`setup`](Driver::setup) makes where they are not there yet, each after the one that it lies in.
    fn folders(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Checks that nothing of a volume of this name is there: no state, no revision, no leftover. To be asked before a
    /// caller notes down that from now on what lies there is its own, to be removed if it fails.
    ///
    /// # Errors
    /// `AlreadyExists`; `Invalid` for a name that is none on this driver.
    fn vacant(&self, id: &VolumeId) -> Result<()>;

    /// Makes an empty persistent volume of the size that the spec says; nothing for other kinds.
    ///
    /// # Errors
    /// `AlreadyExists` if anything of a volume of this name is there; `Invalid` for a name that is none on this
    /// driver.
    fn create(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<()>;

    /// Removes the volume with all its revisions and leftovers. What is not there is no error.
    ///
    /// # Errors
    /// `Busy` during an import.
    fn remove(&self, id: &VolumeId) -> Result<()>;

    /// Checks that the volume could be started.
    ///
    /// # Errors
    /// `NotFound` names the file or device that is missing.
    fn verify(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<()>;

    /// Makes the volume ready for a domain. A persistent volume that is dirty continues on what it has. `None`: it
    /// has no device (a kernel without modules).
    ///
    /// For a snapshot, `release_source` is called once the source's state is fixed: from then on the source may
    /// change.
    ///
    /// # Errors
    /// `Busy` during an import, or if the source is written in place just now; `Cancelled`: nothing was started.
    fn start(
        &self,
        id: &VolumeId,
        spec: &VolumeSpec,
        release_source: &mut dyn FnMut(),
        job: &Job,
    ) -> Result<Option<Started>>;

    /// Ends a start. No domain has the volume any more. What is not started is no error.
    ///
    /// # Errors
    /// On a failed commit the volume stays dirty; calling it again, or recovery, repeats it.
    fn stop(&self, id: &VolumeId, spec: &VolumeSpec, ending: Ending) -> Result<()>;

    /// Makes ahead of the next start what that can take over. Asked for a volume whose state an operation has changed, after
    /// that one's answer, so that nobody waits for it. What is not made, or fails, is left to the start.
    fn prepare(&self, _id: &VolumeId, _spec: &VolumeSpec) {}

    /// Brings a volume that no domain has to rest after a crash: removes what has the name of an unfinished step,
    /// commits what a persistent volume's last run wrote, drops it for the others. Idempotent.
    ///
    /// # Errors
    /// As [`stop`](Driver::stop).
    fn recover(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<Recovered>;

    /// Begins to replace a persistent volume's state by data from outside; makes the volume if it is not there.
    ///
    /// # Errors
    /// `Busy` if it is dirty, or during another import.
    fn begin_import(
        &self,
        id: &VolumeId,
        spec: &VolumeSpec,
        size: ImportSize,
    ) -> Result<Box<dyn ImportWriter>>;

    /// Replaces a persistent volume's state by a copy of another's, of this pool or not; makes the volume if it is
    /// not there. Cheap where the driver can share blocks with the source, else a copy that keeps holes.
    ///
    /// # Errors
    /// As [`begin_import`](Driver::begin_import); `Cancelled`: the volume is as it was.
    fn import_from(&self, id: &VolumeId, spec: &VolumeSpec, source: &Export, job: &Job) -> Result<()>;

    /// Opens the committed state of a persistent volume: of before its start, if it runs.
    ///
    /// # Errors
    /// `Busy` while it is written in place.
    fn export(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<Export>;

    /// Figures as of now; how much of it is mapped may be of before, where only a command tells. A volume of which nothing
    /// is on disk (a snapshot at rest) has its spec's, or its source's, size.
    ///
    /// # Errors
    /// As said for the trait.
    fn info(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<VolumeInfo>;

    /// Space of the pool; `None` for a pool that holds no data of VMs.
    ///
    /// # Errors
    /// As said for the trait.
    fn usage(&self) -> Result<Option<PoolUsage>>;

    /// Whether [`usage`](Driver::usage) asks nobody but the kernel: then it may be asked all the time.
    fn usage_is_cheap(&self) -> bool {
        true
    }

    /// Whether keeping a state, going back to one and copying a volume within the pool copy no data: then they take no turn
    /// among the copies that do.
    fn shares_blocks(&self) -> bool {
        false
    }

    /// What is there.
    ///
    /// # Errors
    /// As said for the trait.
    fn contents(&self) -> Result<Contents>;

    /// Volumes can change their size.
    fn as_resize(&self) -> Option<&dyn Resize> {
        None
    }

    /// Volumes have revisions.
    fn as_revisions(&self) -> Option<&dyn Revisions> {
        None
    }

    /// The pool holds kernels.
    fn as_kernels(&self) -> Option<&dyn Kernels> {
        None
    }
}

/// Changing the size of volumes.
pub trait Resize {
    /// Grows a volume, of a running domain too: its device has the new size on return, the guest has to be told.
    ///
    /// # Errors
    /// `Invalid` for a smaller size, and for a read-only volume.
    fn resize(&self, id: &VolumeId, spec: &VolumeSpec, size: ByteSize) -> Result<()>;
}

/// Former states of persistent volumes.
pub trait Revisions {
    /// Oldest first.
    ///
    /// # Errors
    /// As said for [`Driver`].
    fn revisions(&self, id: &VolumeId) -> Result<Vec<Revision>>;

    /// Makes a former state the committed one. The state until now becomes a revision first, under the usual
    /// retention; an automatic revision is used up, an explicit one stays.
    ///
    /// # Errors
    /// `NotFound` for a revision that is not there; `Busy` if the volume is dirty, or during an import.
    fn revert(&self, id: &VolumeId, spec: &VolumeSpec, revision: &RevisionId, job: &Job) -> Result<()>;

    /// Keeps the present state until it is removed by name: of a running volume what it is at this instant, as
    /// after a power cut. `number` is the caller's, never used before for this volume; the revision is called
    /// `sNUMBER` in any driver.
    ///
    /// # Errors
    /// `AlreadyExists` for a number that is taken; `Busy` where only a volume at rest can be kept.
    fn keep(&self, id: &VolumeId, spec: &VolumeSpec, number: u64, job: &Job) -> Result<RevisionId>;

    /// Removes one revision.
    ///
    /// # Errors
    /// `NotFound` if it is not there.
    fn forget(&self, id: &VolumeId, revision: &RevisionId) -> Result<()>;
}

/// A kernel that VMs can boot: files of dom0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// The image; absolute.
    pub vmlinuz: PathBuf,
    /// The initial RAM file system, if it has one.
    pub initramfs: Option<PathBuf>,
    /// A file-system image of its modules, if it has one.
    pub modules: Option<PathBuf>,
}

/// A pool of kernels.
pub trait Kernels {
    /// The versions, sorted.
    ///
    /// # Errors
    /// As said for [`Driver`].
    fn versions(&self) -> Result<Vec<KernelVersion>>;

    /// One kernel's files.
    ///
    /// # Errors
    /// `NotFound` names the folder or the image that is missing.
    fn kernel(&self, version: &KernelVersion) -> Result<Kernel>;
}
