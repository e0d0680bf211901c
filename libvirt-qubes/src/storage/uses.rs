//! Who holds on to a volume for longer than a call: readers of its committed state, and an import.
//!
//! Readers have the clean state open. It never changes, but for one case: a start that writes in place. Such a start
//! makes a copy instead while somebody reads.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::storage::VolumeId;

#[derive(Debug, Clone, Default)]
pub(super) struct Uses {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    readers: HashMap<VolumeId, usize>,
    imports: HashSet<VolumeId>,
}

impl Uses {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change of the table is whole, so that a panic elsewhere leaves it right.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `open`; if it succeeds the volume has a reader until the guard is dropped.
    pub(super) fn read<T, E>(
        &self,
        id: &VolumeId,
        open: impl FnOnce() -> Result<T, E>,
    ) -> Result<(T, Reading), E> {
        let mut table = self.table();
        let opened = open()?;
        *table.readers.entry(id.clone()).or_default() += 1;
        Ok((opened, Reading { uses: self.clone(), id: id.clone() }))
    }

    /// Runs `change` if nobody reads; none can begin meanwhile.
    pub(super) fn unless_read<T>(&self, id: &VolumeId, change: impl FnOnce() -> T) -> Option<T> {
        let table = self.table();
        if table.readers.contains_key(id) { None } else { Some(change()) }
    }

    /// Whether somebody reads.
    pub(super) fn is_read(&self, id: &VolumeId) -> bool {
        self.table().readers.contains_key(id)
    }

    /// `None` if there is an import already.
    pub(super) fn import(&self, id: &VolumeId) -> Option<Importing> {
        let fresh = self.table().imports.insert(id.clone());
        fresh.then(|| Importing { uses: self.clone(), id: id.clone() })
    }

    pub(super) fn is_importing(&self, id: &VolumeId) -> bool {
        self.table().imports.contains(id)
    }
}

/// A reader; dropped with its export.
#[derive(Debug)]
pub(super) struct Reading {
    uses: Uses,
    id: VolumeId,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut table = self.uses.table();
        if let Some(count) = table.readers.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                table.readers.remove(&self.id);
            }
        }
    }
}

/// An import; dropped with its writer.
#[derive(Debug)]
pub(super) struct Importing {
    uses: Uses,
    id: VolumeId,
}

impl Drop for Importing {
    fn drop(&mut self) {
        self.uses.table().imports.remove(&self.id);
    }
}
