//! Who holds on to a volume for longer than a call: readers of its committed state, and an import.
//!
//! Readers have the clean state open. It never changes, but for one case: a start that writes in place. Such a start
//! makes a copy instead while somebody reads.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::storage::VolumeId;

#[derive(Debug, Clone, Default)]
pub(super) struct Uses {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    table: Mutex<Table>,
    /// A change has ended.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    readers: HashMap<VolumeId, usize>,
    imports: HashSet<VolumeId>,
    /// No reader can begin.
    changing: HashSet<VolumeId>,
}

impl Uses {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change of the table is whole, so that a panic elsewhere leaves it right.
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `open`; if it succeeds the volume has a reader until the guard is dropped. Waits for the end of a change of the same
    /// volume.
    pub(super) fn read<T, E>(
        &self,
        id: &VolumeId,
        open: impl FnOnce() -> Result<T, E>,
    ) -> Result<(T, Reading), E> {
        let is_changing = |table: &mut Table| table.changing.contains(id);
        let waited = self.shared.changed.wait_while(self.table(), is_changing);
        let mut table = waited.unwrap_or_else(PoisonError::into_inner);
        *table.readers.entry(id.clone()).or_default() += 1;
        drop(table);
        let reading = Reading { uses: self.clone(), id: id.clone() };
        open().map(|opened| (opened, reading))
    }

    /// Runs `change` if nobody reads; none can begin meanwhile. There is one change of a volume at a time.
    pub(super) fn unless_read<T>(&self, id: &VolumeId, change: impl FnOnce() -> T) -> Option<T> {
        let mut table = self.table();
        if table.readers.contains_key(id) {
            return None;
        }
        table.changing.insert(id.clone());
        drop(table);
        let _changing = Changing { uses: self, id };
        Some(change())
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

/// A change, until it is dropped.
struct Changing<'a> {
    uses: &'a Uses,
    id: &'a VolumeId,
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.uses.table().changing.remove(self.id);
        self.uses.shared.changed.notify_all();
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_change_keeps_readers_of_its_volume_waiting_and_nobody_else() {
        let uses = Uses::default();
        let (changed, other): (VolumeId, VolumeId) =
            ("appvms/a/private".parse().unwrap(), "appvms/b/private".parse().unwrap());
        let open = || Ok::<_, ()>(());
        let (begun, begins) = mpsc::channel();
        let (end, ends) = mpsc::channel();
        let (read, reads) = mpsc::channel();
        std::thread::scope(|scope| {
            let (uses, changed) = (&uses, &changed);
            scope.spawn(move || {
                uses.unless_read(changed, || {
                    begun.send(()).unwrap();
                    ends.recv().unwrap();
                })
            });
            begins.recv().unwrap();
            assert!(uses.read(&other, open).is_ok() && !uses.is_read(changed));
            scope.spawn(move || read.send(uses.read(changed, open).unwrap().1).unwrap());
            assert!(reads.recv_timeout(Duration::from_millis(50)).is_err(), "it is read while it changes");
            end.send(()).unwrap();
            let _reading = reads.recv().unwrap();
            assert!(uses.is_read(changed) && uses.unless_read(changed, || ()).is_none());
        });
        assert!(!uses.is_read(&changed) && uses.unless_read(&changed, || ()).is_some());
        assert!(uses.read(&changed, || Err::<(), _>(())).is_err() && !uses.is_read(&changed));
    }
}
