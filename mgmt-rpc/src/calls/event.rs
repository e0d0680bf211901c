//! The stream of events.

use libvirt_qubes::qubes::{Delivery, Host, Subject, Subscription};

use crate::BoxFuture;
use crate::announce;
use crate::cx::Cx;
use crate::failure::{Failure, limit_reached};
use crate::reply::{EventStream, Reply};
use crate::row;
use crate::table::Row;
use crate::wire::Event;

pub(super) const ROWS: &[Row<Host>] =
    &[row!(Both("Events"), Any, Global Read, (Empty, Empty) => events, cancel: OnHangUp)];

/// Events of the system, dom0 and every VM to a subscriber of dom0; of that VM alone to another.
async fn events(cx: &Cx<Host>) -> Result<Reply, Failure> {
    let most = cx.limits.subscribers.get();
    if u32::try_from(cx.host.sequencer().subscribers()).unwrap_or(u32::MAX) >= most {
        return Err(limit_reached("subscribers", most).into());
    }
    let seen = cx.host.snapshot();
    let only = match seen.model.vm_named(cx.destination.as_str()) {
        Some(vm) if !cx.destination.is_dom0() => Some(vm.uuid),
        _ => None,
    };
    let (subscription, _) = cx.host.sequencer().subscribe(move |event| match (only, &event.subject) {
        (None, _) => true,
        (Some(only), Subject::Vm { uuid, .. }) => *uuid == only,
        (Some(_), Subject::System) => false,
    });
    Ok(Reply::Events(Box::new(Stream(subscription))))
}

struct Stream(Subscription);

impl EventStream for Stream {
    fn next(&mut self) -> BoxFuture<'_, Option<Event>> {
        Box::pin(async move {
            Some(match self.0.next().await {
                Delivery::Event(event) => announce::event(&event.event),
                Delivery::Lost { .. } => Event::lost(),
            })
        })
    }
}
