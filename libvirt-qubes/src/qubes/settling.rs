//! Which VMs' volumes start-up has not put to rest yet.
//!
//! A VM that ended while no daemon ran is Halted from the first answer on, and its last run's data may still lie in
//! working copies. Whoever works on the VM waits for its lock, which start-up holds. Whoever takes it as a source has
//! no lock of it, and waits here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use uuid::Uuid;

/// All VMs that are not at rest.
#[derive(Debug, Default, Clone)]
pub(super) struct Settling(Arc<Mutex<HashMap<Uuid, watch::Receiver<()>>>>);

/// A VM that is being put to rest, until this is dropped.
#[derive(Debug)]
pub(super) struct Unsettled {
    all: Settling,
    vm: Uuid,
    /// Closes when this is dropped.
    _over: watch::Sender<()>,
}

impl Settling {
    fn vms(&self) -> MutexGuard<'_, HashMap<Uuid, watch::Receiver<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to put a VM to rest.
    pub(super) fn begin(&self, vm: Uuid) -> Unsettled {
        let (over, heard) = watch::channel(());
        self.vms().insert(vm, heard);
        Unsettled { all: self.clone(), vm, _over: over }
    }

    /// Waits until a VM is at rest; at once if it is, or if this start-up had nothing to do with it.
    pub(super) async fn at_rest(&self, vm: Uuid) {
        let Some(mut over) = self.vms().get(&vm).cloned() else { return };
        // Nothing is ever sent: an error is the end.
        while over.changed().await.is_ok() {}
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        self.all.vms().remove(&self.vm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_source_is_waited_for_until_it_is_at_rest() {
        let settling = Settling::default();
        let (vm, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        settling.at_rest(vm).await;
        let unsettled = settling.begin(vm);
        settling.at_rest(other).await;
        let waits = tokio::spawn({
            let settling = settling.clone();
            async move { settling.at_rest(vm).await }
        });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        drop(unsettled);
        waits.await.unwrap();
        settling.at_rest(vm).await;
    }
}
