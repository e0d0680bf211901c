//! Tags: words on a VM, which policy refers to. Who may change which is for the callers of this library to say.

use uuid::Uuid;

use super::diff::{Diff, Refused};
use super::event::{EventKind, ModelEvent};
use super::host::Host;
use super::ids::Tag;
use super::refusal::{HostError, Refusal};
use super::snapshot::Snapshot;
use super::write::Write;
use crate::ids::VmName;

/// Gives a VM a tag. One that it has is no change, and no event.
///
/// # Errors
/// Unknown VM.
pub fn add(snapshot: &Snapshot, vm: Uuid, tag: &Tag) -> Result<Diff<()>, Refused> {
    let vm = snapshot.model.find_uuid(vm)?;
    if vm.tags.contains(tag) {
        return Ok(Diff::new(()));
    }
    let added = EventKind::DomainTagAdd { tag: tag.clone() };
    Ok(Diff::new(()).write(Write::AddTag(vm.uuid, tag.clone())).event(ModelEvent::of(vm, added)))
}

/// Takes a tag from a VM.
///
/// # Errors
/// Unknown VM; [`Refusal::TagNotFound`].
pub fn remove(snapshot: &Snapshot, vm: Uuid, tag: &Tag) -> Result<Diff<()>, Refused> {
    let vm = snapshot.model.find_uuid(vm)?;
    if !vm.tags.contains(tag) {
        return Err(Refusal::TagNotFound { vm: vm.name.clone(), tag: tag.clone() }.into());
    }
    let gone = EventKind::DomainTagDelete { tag: tag.clone() };
    Ok(Diff::new(()).write(Write::RemoveTag(vm.uuid, tag.clone())).event(ModelEvent::of(vm, gone)))
}

impl Host {
    /// Gives a VM a tag. Acknowledged means durable.
    ///
    /// # Errors
    /// As [`add`]; the store cannot be written.
    pub async fn add_tag(&self, vm: &VmName, tag: Tag) -> Result<(), HostError> {
        let vm = self.snapshot().model.find_vm(vm)?.uuid;
        self.committer.commit(move |seen| add(seen, vm, &tag)).await
    }

    /// Takes a tag from a VM.
    ///
    /// # Errors
    /// As [`remove`]; the store cannot be written.
    pub async fn remove_tag(&self, vm: &VmName, tag: Tag) -> Result<(), HostError> {
        let vm = self.snapshot().model.find_vm(vm)?.uuid;
        self.committer.commit(move |seen| remove(seen, vm, &tag)).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{apply, small_model, vm};
    use super::*;

    #[test]
    fn a_tag_is_added_and_removed_once_and_then_has_no_event() {
        let mut snapshot = small_model();
        let work = vm(&snapshot, "work");
        let tag: Tag = "backup-1".parse().unwrap();
        let of = |kind| ModelEvent::of(&work, kind);
        let diff = add(&snapshot, work.uuid, &tag).unwrap();
        assert_eq!(apply(&mut snapshot, diff).1, [of(EventKind::DomainTagAdd { tag: tag.clone() })]);
        let diff = add(&snapshot, work.uuid, &tag).unwrap();
        assert_eq!((diff.writes.len(), apply(&mut snapshot, diff).1), (0, Vec::new()));
        let diff = remove(&snapshot, work.uuid, &tag).unwrap();
        assert_eq!(apply(&mut snapshot, diff).1, [of(EventKind::DomainTagDelete { tag: tag.clone() })]);
        let refused = remove(&snapshot, work.uuid, &tag).unwrap_err();
        assert_eq!(refused, Refusal::TagNotFound { vm: work.name.clone(), tag: tag.clone() }.into());
        let nobody = Uuid::from_u128(99);
        assert_eq!(add(&snapshot, nobody, &tag).unwrap_err(), Refusal::NoSuchUuid { uuid: nobody }.into());
    }
}
