//! What clients are told of volumes.

use libvirt_qubes::qubes::VolumeRefusal;

use super::exception;
use crate::failure::Failure;
use crate::wire::exception::quoted;
use crate::wire::{Class, Exception};

pub(super) fn refused(refusal: VolumeRefusal) -> Failure {
    let plain = |class, text: &str| Exception::plain(class, text);
    let storage = |format, fields| exception(Class::StoragePoolException, format, fields);
    let made = match refusal {
        VolumeRefusal::NoSuchVid { vid } => {
            return Failure::Absent(storage("Volume does not exist: %s", [quoted(&vid)]));
        }
        VolumeRefusal::NoSuchRevision { revision } => {
            storage("Revision does not exist: %s", [quoted(&revision)])
        }
        VolumeRefusal::RevertRunning { vid } => {
            storage("Cannot revert dirty volume %s, stop the qube first", [vid])
        }
        VolumeRefusal::NotKept { vid } => storage(
            "Volume %s keeps nothing when its VM stops: only one that does has states of its own",
            [vid],
        ),
        VolumeRefusal::ResizeReadOnly { vid } => storage("Can not resize readonly volume %s", [vid]),
        VolumeRefusal::ResizeSnapshot { vid, source } => exception(
            Class::StoragePoolException,
            "Can not resize volume %s: each start of its VM makes it from %s, resize that one",
            [vid, source],
        ),
        VolumeRefusal::Shrink { vid, size, asked } => exception(
            Class::StoragePoolException,
            "Can not make volume %s smaller: it has %s bytes, %s were asked for",
            [vid, size.to_string(), asked.to_string()],
        ),
        VolumeRefusal::Kernel => plain(
            Class::StoragePoolException,
            "The volume is a kernel: its files are the administrator's, in the folder of its pool",
        ),
        VolumeRefusal::RevisionsToKeep => {
            plain(Class::QubesValueError, "Invalid value for revisions_to_keep")
        }
        VolumeRefusal::KernelRevisions => {
            plain(Class::QubesValueError, "LinuxKernel supports only revisions_to_keep=0")
        }
        VolumeRefusal::Ephemeral => plain(
            Class::QubesValueError,
            "Cannot enable ephemeral on snap_on_start or save_on_stop or non-dom0 or not writable volume",
        ),
        VolumeRefusal::NoSuchToken => {
            plain(Class::QubesVolumeCopyTokenNotFoundError, "'Token to clone volume of qube was not found'")
        }
        VolumeRefusal::SourceRuns { vid } => {
            storage("Volume %s must be stopped before importing its data", [vid])
        }
        VolumeRefusal::ImportInProgress { vid } => storage("Import operation in progress on %s", [vid]),
        VolumeRefusal::NoImport { vid } => storage("No import operation in progress on %s", [vid]),
        VolumeRefusal::NoSize { vid } => {
            storage("Volume %s cannot be empty: it has at least one byte", [vid])
        }
        VolumeRefusal::NotEnoughData { copied, expected } => exception(
            Class::QubesException,
            "Data import failed: not enough data (copied %s bytes, expected %s bytes)",
            [copied.to_string(), expected.to_string()],
        ),
        VolumeRefusal::TooMuchData { expected } => exception(
            Class::QubesException,
            "Data import failed: too much data (expected %s bytes)",
            [expected.to_string()],
        ),
        VolumeRefusal::ImportFailed { words } => {
            exception(Class::QubesException, "Data import failed: %s", [words])
        }
        VolumeRefusal::UntellablePath { volume } => storage(
            "The path of volume %s has characters that its writer cannot be told",
            [volume.to_string()],
        ),
    };
    made.into()
}
