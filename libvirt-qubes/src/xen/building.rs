//! The domains that this process is building: a name and a UUID belong to one build, and a build can be called
//! off by whoever wants its domain gone.
//!
//! Destroying a domain under libxl's hands while it is built leaves xenstore nodes, or hangs the build. So the
//! build is cancelled, and undoes itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::ids::VmName;

#[derive(Debug)]
struct Build {
    name: VmName,
    cancel: CancellationToken,
    /// Closed when the build is over.
    over: watch::Receiver<()>,
}

type Builds = Mutex<HashMap<Uuid, Build>>;

/// All builds under way.
#[derive(Debug, Default, Clone)]
pub(super) struct Building(Arc<Builds>);

/// Keeps a name and a UUID to one build, until it is dropped.
pub(super) struct Reserved {
    building: Building,
    uuid: Uuid,
    /// Closes when this is dropped.
    _over: watch::Sender<()>,
}

impl Building {
    fn builds(&self) -> MutexGuard<'_, HashMap<Uuid, Build>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` while another build has this name or UUID. `cancel` is what [`call_off`](Self::call_off) cancels.
    pub(super) fn begin(&self, name: &VmName, uuid: Uuid, cancel: CancellationToken) -> Option<Reserved> {
        let mut builds = self.builds();
        if builds.contains_key(&uuid) || builds.values().any(|build| build.name == *name) {
            return None;
        }
        let (over, heard) = watch::channel(());
        builds.insert(uuid, Build { name: name.clone(), cancel, over: heard });
        Some(Reserved { building: self.clone(), uuid, _over: over })
    }

    /// Cancels the build of this UUID and waits until it is undone. Whether there was one.
    pub(super) async fn call_off(&self, uuid: Uuid) -> bool {
        let mut over = {
            let builds = self.builds();
            let Some(build) = builds.get(&uuid) else { return false };
            build.cancel.cancel();
            build.over.clone()
        };
        // Nothing is ever sent: an error is the end of the build.
        while over.changed().await.is_ok() {}
        true
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.building.builds().remove(&self.uuid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> VmName {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn a_name_and_a_uuid_belong_to_one_build_until_it_is_over() {
        let building = Building::default();
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let token = CancellationToken::new;
        let first = building.begin(&name("work"), a, token()).unwrap();
        assert!(building.begin(&name("work"), b, token()).is_none());
        assert!(building.begin(&name("other"), a, token()).is_none());
        let second = building.begin(&name("other"), b, token()).unwrap();
        drop(first);
        assert!(building.begin(&name("work"), a, token()).is_some());
        drop(second);
    }

    #[tokio::test]
    async fn calling_a_build_off_waits_until_it_is_undone() {
        let building = Building::default();
        let uuid = Uuid::from_u128(1);
        assert!(!building.call_off(uuid).await);
        let cancel = CancellationToken::new();
        let reserved = building.begin(&name("work"), uuid, cancel.clone()).unwrap();
        let off = tokio::spawn({
            let building = building.clone();
            async move { building.call_off(uuid).await }
        });
        cancel.cancelled().await;
        tokio::task::yield_now().await;
        assert!(!off.is_finished());
        drop(reserved);
        assert!(off.await.unwrap());
    }
}
