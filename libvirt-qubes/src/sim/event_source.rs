//! Events of simulated domains.

use tokio::sync::broadcast;
use uuid::Uuid;

use super::connection::SimHypervisor;
use crate::error::{Op, Result};
use crate::hypervisor::{BoxFuture, EventSource, HypervisorEvent};

impl EventSource for SimHypervisor {
    fn subscribe(&self) -> broadcast::Receiver<HypervisorEvent> {
        self.link.events.subscribe()
    }

    fn watch(&self, uuid: Uuid) -> BoxFuture<'_, Result<()>> {
        let link = self.link.clone();
        let op = Op::WatchDomain;
        Box::pin(async move {
            let (world, listener) = (link.world.clone(), link.listener);
            world
                .with(op, uuid, move |state| {
                    let record = state.find(op, uuid)?;
                    let (domid, name) = (record.domid, record.spec.name.clone());
                    let effects = link.effects(state, op, Some(&name));
                    effects.failure(op, &name)?;
                    state.watch(listener, domid);
                    Ok(())
                })
                .await
        })
    }
}
