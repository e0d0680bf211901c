//! What an operation on a volume has to say of it, alike in every driver that stores volumes.

use super::uses::Uses;
use super::{VolumeId, VolumeKind, VolumeSpec};
use crate::error::{Error, Kind, Op, Result};

/// Why a volume's committed state cannot be had: its running VM writes into it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Volume {volume} is running and written in place: stop its VM first")]
pub struct WrittenInPlace {
    /// The volume.
    pub volume: VolumeId,
}

impl WrittenInPlace {
    /// Whether an error says that.
    pub fn of(error: &Error) -> Option<&Self> {
        std::error::Error::source(error)?.downcast_ref()
    }
}

/// One operation on one volume.
pub(super) trait About {
    /// Which operation, on which volume.
    fn about(&self) -> (Op, &VolumeId);

    /// Who holds on to the pool's volumes.
    fn uses(&self) -> &Uses;

    /// An error about this volume, with words that say what to do.
    fn refuse(&self, kind: Kind, why: impl Into<String>) -> Error {
        let (op, id) = self.about();
        Error::new(kind, op, id).because(why.into())
    }

    /// What it holds is what its VM is writing just now.
    fn written_in_place(&self) -> Error {
        let (op, id) = self.about();
        Error::new(Kind::Busy, op, id).because(WrittenInPlace { volume: id.clone() })
    }

    /// Only a persistent volume will do.
    fn persistent(&self, spec: &VolumeSpec) -> Result<()> {
        match spec.kind {
            VolumeKind::Origin => Ok(()),
            VolumeKind::Volatile | VolumeKind::Snapshot { .. } => {
                Err(self.refuse(Kind::Unsupported, "the volume is not persistent"))
            }
            VolumeKind::Kernel { .. } => Err(self.no_kernels()),
        }
    }

    /// Kernels are none of this driver's.
    fn no_kernels(&self) -> Error {
        self.refuse(Kind::Unsupported, "kernels lie in a pool of the driver linux-kernel")
    }

    /// Nobody may be importing into it.
    fn not_importing(&self) -> Result<()> {
        let (_, id) = self.about();
        if self.uses().is_importing(id) {
            return Err(self.refuse(Kind::Busy, format!("Import operation in progress on {id}")));
        }
        Ok(())
    }
}
