//! The stream of events.

use libvirt_qubes::ids::VmName;
use libvirt_qubes::qubes::{Delivery, EventKind, Host, ModelEvent, Subject, Subscription};
use uuid::Uuid;

use super::OrFail;
use crate::BoxFuture;
use crate::announce;
use crate::cx::{Cx, Dialect, Sight};
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

/// Whether a source is told: it sees the VM that the event is about, or that an event of the system names, else dom0.
fn tells(sight: &Sight, event: &ModelEvent) -> bool {
    match (&event.subject, event.kind.named_vm()) {
        (Subject::Vm { name, .. }, _) | (Subject::System, Some((_, name))) => sight.sees(name),
        (Subject::System, None) => sight.sees(&VmName::dom0()),
    }
}

/// Events of the system, dom0 and every VM to a subscriber of dom0; of that VM alone to another. Of them, those of
/// what the source sees.
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
    let (sight, dialect) = (cx.sight(), cx.dialect);
    let (subscription, _) = cx
        .host
        .sequencer()
        .subscribe(move |event| to.takes(event) && is_known(dialect, event) && tells(&sight, event));
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
    fn dom0_is_told_everything_and_a_source_that_sees_no_vm_nothing() {
        let (vm, uuid) = ("work".parse::<VmName>().unwrap(), Uuid::from_u128(7));
        for event in [
            ModelEvent { subject: Subject::Vm { uuid, name: vm.clone() }, kind: EventKind::DomainStart },
            ModelEvent::system(EventKind::DomainDelete { vm: vm.clone(), uuid }),
            ModelEvent::system(EventKind::PoolAdd { pool: "fast".parse().unwrap() }),
        ] {
            assert!(tells(&Sight::of(VmName::dom0()), &event), "{event:?}");
            assert!(!tells(&Sight::of(vm.clone()), &event), "{event:?}");
        }
    }

    #[test]
    fn a_subscriber_to_a_vm_gets_that_vms_events_and_one_to_all_none_after_its_end() {
        let vm = "work".parse::<VmName>().unwrap();
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
