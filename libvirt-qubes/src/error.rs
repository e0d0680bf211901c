//! The error of the lower layer: what kind of failure, in which operation, on what, and why.
//!
//! [`Error`] owns no protocol: which exception a client sees is decided above. The model's refusals are
//! an enum of their own (`qubes::Refusal`), because they carry names that not every caller may see.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// The result of an operation of the lower layer.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can tell apart and act on. Few on purpose: everything else is text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The object does not exist (any more).
    NotFound,
    /// An object of that name or place exists already.
    AlreadyExists,
    /// The object is in a state, or in a use, that forbids the operation now.
    Busy,
    /// A value given by the caller is wrong.
    Invalid,
    /// This backend, driver or host cannot do it at all.
    Unsupported,
    /// The operating system refused for lack of rights.
    Denied,
    /// The host has not enough memory for the domain.
    NoMemory,
    /// A file system, pool or quota has no space left.
    NoSpace,
    /// Somebody else did not answer in time.
    TimedOut,
    /// The caller, or a Kill, cancelled the operation; what it had done is undone.
    Cancelled,
    /// Something that the operation needs (xenstored, a driver domain, the file system of a pool) is not there now.
    Unavailable,
    /// An input or output error of a file, device or socket.
    Io,
    /// Stored data is not what it must be.
    Corrupt,
    /// The hypervisor or a tool failed; its own words are the source.
    Backend,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::Busy => "in use",
            Self::Invalid => "invalid",
            Self::Unsupported => "not supported here",
            Self::Denied => "permission denied",
            Self::NoMemory => "not enough memory",
            Self::NoSpace => "no space left",
            Self::TimedOut => "timed out",
            Self::Cancelled => "cancelled",
            Self::Unavailable => "not available",
            Self::Io => "input/output error",
            Self::Corrupt => "corrupt data",
            Self::Backend => "failed",
        })
    }
}

/// The operation that failed, as a person would say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// Opening the connection to a hypervisor.
    OpenHypervisor,
    /// Listing or looking up domains.
    ListDomains,
    /// Building a domain.
    CreateDomain,
    /// Pausing a domain.
    PauseDomain,
    /// Unpausing a domain.
    UnpauseDomain,
    /// Asking a guest to shut down.
    ShutdownDomain,
    /// Destroying a domain.
    DestroyDomain,
    /// Watching a domain for its end.
    WatchDomain,
    /// Attaching a virtual disk.
    AttachDisk,
    /// Detaching a virtual disk.
    DetachDisk,
    /// Listing devices.
    ListDevices,
    /// Asking the host for figures.
    HostInfo,
    /// Reading or writing xenstore.
    Xenstore,
    /// Preparing a storage pool.
    SetupPool,
    /// Giving up a storage pool.
    RemovePool,
    /// Creating a volume.
    CreateVolume,
    /// Removing a volume.
    RemoveVolume,
    /// Checking a volume before a start.
    VerifyVolume,
    /// Making a volume ready for a running domain.
    StartVolume,
    /// Committing or discarding a volume after its domain ended.
    StopVolume,
    /// Encrypting a volume with a key that nobody keeps.
    EncryptVolume,
    /// Writing data into a volume from outside.
    ImportVolume,
    /// Reading a volume's committed state.
    ExportVolume,
    /// Changing the size of a volume.
    ResizeVolume,
    /// Going back to a revision.
    RevertVolume,
    /// Reading figures about a volume or pool.
    InspectStorage,
    /// Recovering what a crash left.
    Recover,
    /// Finding or reading a kernel.
    ReadKernel,
    /// Attaching a file to a loop device, or freeing it.
    LoopDevice,
    /// Calling a service in a guest.
    CallService,
    /// Reading or writing the store of the model.
    Store,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenHypervisor => "open hypervisor",
            Self::ListDomains => "list domains",
            Self::CreateDomain => "create domain",
            Self::PauseDomain => "pause domain",
            Self::UnpauseDomain => "unpause domain",
            Self::ShutdownDomain => "shut down domain",
            Self::DestroyDomain => "destroy domain",
            Self::WatchDomain => "watch domain",
            Self::AttachDisk => "attach disk",
            Self::DetachDisk => "detach disk",
            Self::ListDevices => "list devices",
            Self::HostInfo => "read host information",
            Self::Xenstore => "access xenstore",
            Self::SetupPool => "set up pool",
            Self::RemovePool => "remove pool",
            Self::CreateVolume => "create volume",
            Self::RemoveVolume => "remove volume",
            Self::VerifyVolume => "verify volume",
            Self::StartVolume => "start volume",
            Self::StopVolume => "stop volume",
            Self::EncryptVolume => "encrypt volume",
            Self::ImportVolume => "import volume",
            Self::ExportVolume => "export volume",
            Self::ResizeVolume => "resize volume",
            Self::RevertVolume => "revert volume",
            Self::InspectStorage => "inspect storage",
            Self::Recover => "recover",
            Self::ReadKernel => "read kernel",
            Self::CallService => "call service",
            Self::LoopDevice => "set up loop device",
            Self::Store => "access store",
        })
    }
}

/// Why the lower layer failed. Cheap to clone: several callers may wait for one operation.
///
/// `Display` gives operation, object and kind, never the source; [`Error::report`] gives the whole chain
/// in one line.
#[derive(Debug, Clone)]
pub struct Error {
    kind: Kind,
    op: Op,
    target: String,
    source: Option<Arc<dyn StdError + Send + Sync + 'static>>,
}

impl Error {
    /// An error without a deeper cause.
    pub fn new(kind: Kind, op: Op, target: impl fmt::Display) -> Self {
        Self { kind, op, target: target.to_string(), source: None }
    }

    /// The same error, with what caused it: another error, or words that say what to do.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync + 'static>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// What a caller can act on.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The operation that failed.
    pub fn op(&self) -> Op {
        self.op
    }

    /// The object that the operation was about: a domain's name, a path, a volume.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The whole chain in one line, each cause after a colon.
    pub fn report(&self) -> String {
        let mut text = self.to_string();
        let mut next = self.source();
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.op, self.target, self.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Turns an error from outside into an [`Error`], at the step that failed.
pub trait At<T> {
    /// Names the operation and its object; the kind follows from the operating system's error.
    fn at(self, op: Op, target: impl fmt::Display) -> Result<T>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, op: Op, target: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Error::new(kind_of_io(&error), op, target).because(error))
    }
}

impl<T> At<T> for std::result::Result<T, rustix::io::Errno> {
    fn at(self, op: Op, target: impl fmt::Display) -> Result<T> {
        self.map_err(std::io::Error::from).at(op, target)
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "io::ErrorKind is open; the rest is one kind here")]
fn kind_of_io(error: &std::io::Error) -> Kind {
    use std::io::ErrorKind as E;
    match error.kind() {
        E::NotFound => Kind::NotFound,
        E::AlreadyExists => Kind::AlreadyExists,
        E::PermissionDenied | E::ReadOnlyFilesystem => Kind::Denied,
        E::StorageFull | E::QuotaExceeded => Kind::NoSpace,
        E::TimedOut => Kind::TimedOut,
        E::ResourceBusy | E::ExecutableFileBusy => Kind::Busy,
        E::Unsupported => Kind::Unsupported,
        E::InvalidData => Kind::Corrupt,
        // No file is so large there: whoever named the size can name another.
        E::FileTooLarge => Kind::Invalid,
        _ => Kind::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_names_operation_object_and_each_cause_once() {
        let lost = std::io::Error::from_raw_os_error(28);
        let error: Result<()> = Err(lost).at(Op::CreateVolume, "appvms/work/private");
        let error = error.unwrap_err();
        assert_eq!(error.kind(), Kind::NoSpace);
        assert_eq!(error.to_string(), "create volume appvms/work/private: no space left");
        assert_eq!(
            error.report(),
            "create volume appvms/work/private: no space left: No space left on device (os error 28)"
        );
    }
}
