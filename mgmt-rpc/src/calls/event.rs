//! The stream of events.

use libvirt_qubes::qubes::{Delivery, EventKind, Host, ModelEvent, Subject, Subscription};
use uuid::Uuid;

use super::OrFail;
use crate::BoxFuture;
use crate::announce;
use crate::cx::{Cx, Dialect};
use crate::failure::{Failure, limit_reached};
use crate::reply::{EventStream, Reply};
use crate::row;
use crate::table::Row;
use crate::wire::Event;

pub(super) const ROWS: &[Row<Host>] =
    &[row!(Both("Events"), Any, Global Read, (Empty, Empty) => events, cancel: OnHangUp)];

/// What a subscription is to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    /// The system, dom0 and every VM.
    All,
    /// One VM.
    Vm(Uuid),
}

impl To {
    fn takes(self, event: &ModelEvent) -> bool {
        match (self, &event.subject) {
            // After `domain-delete` a subscriber to everything hears no more of that VM.
            (Self::All, _) => event.kind != EventKind::DomainRemoveFromDisk,
            (Self::Vm(only), Subject::Vm { uuid, .. }) => *uuid == only,
            (Self::Vm(_), Subject::System) => false,
        }
    }
}

/// Whether clients of a dialect know of such events: how far copies are is told in the draft's alone.
fn is_known(dialect: Dialect, event: &ModelEvent) -> bool {
    dialect == Dialect::Mgmt || !matches!(event.kind, EventKind::VolumeProgress { .. })
}

/// Events of the system, dom0 and every VM to a subscriber of dom0; of that VM alone to another.
async fn events(cx: &Cx<Host>) -> Result<Reply, Failure> {
    let most = cx.limits.subscribers.get();
    if u32::try_from(cx.host.sequencer().subscribers()).unwrap_or(u32::MAX) >= most {
        return Err(limit_reached("subscribers", most).into());
    }
    let to = if cx.destination.is_dom0() {
        To::All
    } else {
        To::Vm(cx.host.snapshot().model.find_vm(&cx.destination).or_fail(cx)?.uuid)
    };
    let dialect = cx.dialect;
    let (subscription, _) =
        cx.host.sequencer().subscribe(move |event| to.takes(event) && is_known(dialect, event));
    Ok(Reply::Events(Box::new(Stream(subscription))))
}

struct Stream(Subscription);

impl EventStream for Stream {
    fn next(&mut self) -> BoxFuture<'_, Option<Event>> {
        Box::pin(async {
            Some(match self.0.next().await {
                Delivery::Event(event) => announce::event(&event.event),
                Delivery::Lost { .. } => Event::lost(),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscriber_to_a_vm_gets_that_vms_events_and_one_to_all_none_after_its_end() {
        let vm = "work".parse::<libvirt_qubes::ids::VmName>().unwrap();
        let uuid = Uuid::from_u128(7);
        let of_vm = |kind| ModelEvent { subject: Subject::Vm { uuid, name: vm.clone() }, kind };
        let deleted = ModelEvent::system(EventKind::DomainDelete { vm: vm.clone(), uuid });
        for (event, all, own, other) in [
            (of_vm(EventKind::DomainStart), true, true, false),
            (deleted, true, false, false),
            (of_vm(EventKind::DomainRemoveFromDisk), false, true, false),
        ] {
            let takes = [To::All, To::Vm(uuid), To::Vm(Uuid::nil())].map(|to| to.takes(&event));
            assert_eq!(takes, [all, own, other], "{event:?}");
        }
    }
}
