//! What an operation on a volume has to say of it, alike in every driver that stores volumes.

use super::uses::Uses;
use super::{VolumeId, VolumeKind, VolumeSpec};
use crate::error::{Error, Kind, Op, Result};

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
