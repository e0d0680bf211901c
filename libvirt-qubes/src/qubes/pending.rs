//! Rows of `pending`: what is under way that touches more than the database.
//!
//! A row comes before the first outside effect, reserves name, qid and uuid, records what was made outside,
//! and goes with the last commit. What start-up finds of them it undoes or completes; how, the operations
//! decide. This module only knows their shape.

use std::sync::Arc;

use uuid::Uuid;

use super::ids::{Dispid, PendingId, Qid};
use super::vm::Vm;
use crate::ids::{PoolName, VmName, VolumeName};

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Its number.
    pub id: PendingId,
    /// What is under way.
    pub kind: PendingKind,
    /// The VM that it is about: reserved while it is not (or no more) in the model.
    pub vm: Reserved,
    /// The volumes that it makes or removes, in the order in which that is done.
    pub volumes: Vec<PendingVolume>,
}

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PendingKind {
    /// A VM is being made. Start-up removes the volumes that were made.
    Create,
    /// A template is being made from an image. As Create.
    CreateTemplate,
    /// A VM is being made as a copy of another. As Create.
    Clone,
    /// A VM was removed from the model; its volumes are going. Start-up completes it.
    Remove,
    /// A VM is being started. The VM is in the model.
    Start(StartPhase),
    /// A volume's data is being replaced from outside. The VM is in the model. The drivers' names on disk tell how far
    /// that came; start-up ends the row when the VM's volumes are at rest and the model has their sizes.
    Import,
    /// A disposable runs, from the end of its Start until what follows from its own end is done. Start-up does that
    /// where it finds no domain of it.
    Run,
}

/// How far a Start has come, as far as the store must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StartPhase {
    /// Volumes and domain are being made ready: start-up destroys the domain and undoes.
    Building,
    /// The domain is (about to be) unpaused: start-up adopts it and waits for it to be ready.
    Unpausing,
}

/// Name, number and identity that nobody else can take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserved {
    /// The identity.
    pub uuid: Uuid,
    /// The number.
    pub qid: Qid,
    /// The name.
    pub name: VmName,
    /// The number of a disposable.
    pub dispid: Option<Dispid>,
}

impl Reserved {
    /// What a VM takes.
    pub fn of(vm: &Vm) -> Self {
        Self { uuid: vm.uuid, qid: vm.qid, name: vm.name.clone(), dispid: vm.dispid() }
    }
}

/// A volume of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingVolume {
    /// Its name in the VM.
    pub volume: VolumeName,
    /// Its pool; it cannot be removed meanwhile.
    pub pool: PoolName,
    /// Its name in the pool.
    pub vid: Arc<str>,
    /// Whether it exists on disk.
    pub progress: VolumeProgress,
}

/// Whether a volume of a row exists on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VolumeProgress {
    /// It is to be made: what lies under its final name may be somebody else's.
    Planned,
    /// It was made by this operation, or was the VM's: it is removed when the operation is undone, or is
    /// what the operation removes.
    Made,
}

impl PendingKind {
    /// Whether the row holds name, qid and uuid of a VM that is not in the model.
    pub const fn reserves(self) -> bool {
        match self {
            Self::Create | Self::CreateTemplate | Self::Clone | Self::Remove => true,
            Self::Start(_) | Self::Import | Self::Run => false,
        }
    }

    pub(crate) const fn words(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Create => ("create", None),
            Self::CreateTemplate => ("create-template", None),
            Self::Clone => ("clone", None),
            Self::Remove => ("remove", None),
            Self::Start(StartPhase::Building) => ("start", Some("building")),
            Self::Start(StartPhase::Unpausing) => ("start", Some("unpausing")),
            Self::Import => ("import", None),
            Self::Run => ("run", None),
        }
    }

    pub(crate) fn from_words(kind: &str, phase: Option<&str>) -> Option<Self> {
        [
            Self::Create,
            Self::CreateTemplate,
            Self::Clone,
            Self::Remove,
            Self::Start(StartPhase::Building),
            Self::Start(StartPhase::Unpausing),
            Self::Import,
            Self::Run,
        ]
        .into_iter()
        .find(|known| known.words() == (kind, phase))
    }
}
