//! `EventSource` on libxl.

use tokio::sync::broadcast;
use uuid::Uuid;

use super::LibxlHypervisor;
use super::domains::find;
use super::operation::What;
use crate::error::{Op, Result};
use crate::hypervisor::{BoxFuture, EventSource, HypervisorEvent};

impl EventSource for LibxlHypervisor {
    fn subscribe(&self) -> broadcast::Receiver<HypervisorEvent> {
        self.inner.events.subscribe()
    }

    fn watch(&self, uuid: Uuid) -> BoxFuture<'_, Result<()>> {
        let what = What::new("watch", Op::WatchDomain, uuid);
        Box::pin(self.inner.short(what, move |inner, what| {
            let info = find(&inner.main, what, uuid)?;
            // That the watch is there only puts the events of the next calls in order.
            inner.events.watch(uuid, info.domid).blocking_recv().ok();
            Ok(())
        }))
    }
}
