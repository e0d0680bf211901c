//! Cloning a VM: a new one that has everything of another, but what makes that one itself.

use std::sync::Arc;

use uuid::Uuid;

use super::super::at_start::Started;
use super::super::diff::{Diff, Refused};
use super::super::ids::{Dispid, FeatureName, Tag};
use super::super::notes::Notes;
use super::super::pending::PendingKind;
use super::super::property::{CloneRule, Property};
use super::super::refusal::Refusal;
use super::super::snapshot::Snapshot;
use super::super::value::Value;
use super::super::vm::Vm;
use super::place::Placing;
use super::{Plan, Told, can_be_made, creation_tags, disposable, reserve, rules_of};
use crate::ids::VmName;

/// Features that tell how many disposables are kept ready; the other `preload-dispvm*` name those that are.
const PRELOAD_SETTINGS: [&str; 3] =
    ["preload-dispvm-max", "preload-dispvm-threshold", "preload-dispvm-delay"];

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewClone {
    /// Its identity: fresh and random.
    pub uuid: Uuid,
    /// Its name.
    pub name: VmName,
    /// The VM to copy.
    pub of: Uuid,
    /// Who asks.
    pub source: VmName,
    /// See [`NewVm::rested`](super::NewVm::rested).
    pub rested: imbl::OrdSet<Dispid>,
}

/// Decides what the clone will be, by what the VM is now, and reserves what it takes.
///
/// # Errors
/// The name is taken; the VM is gone, or dom0; nothing is reserved then.
pub fn begin(snapshot: &Snapshot, new: &NewClone) -> Result<Diff<Plan>, Refused> {
    let model = &snapshot.model;
    let original = model.find_uuid(new.of)?;
    if original.uuid == Vm::DOM0 {
        return Err(Refusal::ClassNotCreatable { class: original.class }.into());
    }
    can_be_made(snapshot, &new.name, new.uuid)?;
    // What a VM is made of is listed, so that a new field cannot be forgotten here.
    let Vm {
        uuid: _,
        qid: _,
        name: _,
        class,
        label,
        properties,
        volumes: _,
        tags,
        features,
        assignments,
        firewall: _,
        notes,
        started: _,
    } = Vm::clone(original);
    if let Notes::Damaged(reason) = &notes {
        return Err(Refusal::NotesDamaged { reason: reason.to_string() }.into());
    }
    let placing = Placing { snapshot, name: &new.name, group: class.volume_group() };
    let mut vm = Vm {
        uuid: new.uuid,
        qid: model.free_qid()?,
        name: new.name.clone(),
        class,
        label,
        properties: properties.into_iter().filter(|(property, _)| is_copied(*property)).collect(),
        volumes: placing.copies(original)?,
        tags: tags.into_iter().filter(|tag| tag_is_copied(tag, &new.source)).collect(),
        features: features.into_iter().filter(|(name, _)| feature_is_copied(name)).collect(),
        assignments,
        firewall: rules_of(original)?,
        notes,
        started: Started::new(),
    };
    if original.dispid().is_some() {
        let dispid = disposable::number(snapshot, new.uuid, &new.rested, |_| true)?;
        vm.properties.insert(Property::Dispid, Value::Int(i64::from(dispid.get())));
    }
    let plan = Plan {
        pending: model.next_pending_id(),
        vm: Arc::new(vm),
        copy_of: Some(Arc::clone(original)),
        label: None,
        tags: creation_tags(snapshot, &new.source),
        told: Told::Creation,
    };
    Ok(reserve(model, plan, PendingKind::Clone))
}

/// What a VM is based on is fixed when it is made, so that its row does not say that a clone takes it over.
fn is_copied(property: Property) -> bool {
    property == Property::Template || property.row().clone == CloneRule::Copied
}

/// Who made a VM is told of each anew; who manages it, only dom0 may decide.
fn tag_is_copied(tag: &Tag, source: &VmName) -> bool {
    !tag.as_str().starts_with("created-by-") && (source.is_dom0() || !tag.as_str().starts_with("managed-by-"))
}

fn feature_is_copied(name: &FeatureName) -> bool {
    !name.as_str().starts_with("preload-dispvm") || PRELOAD_SETTINGS.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::super::super::assignment::{AssignedDevice, Assignment, AssignmentMode};
    use super::super::super::class::{VmClass, VolumeKind};
    use super::super::super::event::EventKind;
    use super::super::super::firewall::{Firewall, RuleId};
    use super::super::super::notes::NotesText;
    use super::super::super::testing::{apply, make, new_vm, set, small_model, vm};
    use super::super::super::volume::VolumeConfig;
    use super::super::super::write::Write;
    use super::super::finish;
    use super::*;
    use crate::config::Access;
    use crate::ids::ByteSize;

    fn asked(snapshot: &Snapshot, of: &str, source: &str) -> NewClone {
        NewClone {
            uuid: Uuid::from_u128(4711),
            name: "copy".parse().unwrap(),
            of: vm(snapshot, of).uuid,
            source: source.parse().unwrap(),
            rested: imbl::OrdSet::new(),
        }
    }

    fn cloned(snapshot: &mut Snapshot, new: &NewClone) -> (Arc<Vm>, Vec<EventKind>) {
        let diff = begin(snapshot, new).unwrap();
        assert!(diff.events.is_empty() && diff.pre_events.is_empty());
        let (plan, _) = apply(snapshot, diff);
        assert_eq!(snapshot.model.pending_row(plan.pending).unwrap().kind, PendingKind::Clone);
        let diff = finish(snapshot, &plan).unwrap();
        let (made, events) = apply(snapshot, diff);
        assert_eq!(snapshot.model, snapshot.model.reindexed());
        (made, events.into_iter().map(|event| event.kind).collect())
    }

    fn tags(vm: &Vm) -> Vec<&str> {
        vm.tags.iter().map(Tag::as_str).collect()
    }

    /// `work`, with something of everything.
    fn with_everything() -> Snapshot {
        let mut snapshot = small_model();
        for (property, value) in [
            ("label", "blue"),
            ("memory", "777"),
            ("netvm", "sys-net"),
            ("kernelopts", "quiet"),
            ("template_for_dispvms", "True"),
            ("default_dispvm", "work"),
            ("installed_by_rpm", "True"),
        ] {
            set(&mut snapshot, "work", property, value).unwrap();
        }
        let work = vm(&snapshot, "work").uuid;
        let feature = |name: &str, value: &str| {
            Write::SetFeature(work, name.parse().unwrap(), Some(value.parse().unwrap()))
        };
        let tag = |tag: &str| Write::AddTag(work, tag.parse().unwrap());
        let extra = VolumeConfig {
            name: "extra".parse().unwrap(),
            pool: "varlibqubes".parse().unwrap(),
            vid: Some("appvms/work/extra".into()),
            kind: VolumeKind::Origin,
            size: Some(ByteSize::gib(3)),
            access: Access::ReadOnly,
            revisions_to_keep: Some(5),
            ephemeral: Some(false),
            last_snapshot: 2,
        };
        let device = AssignedDevice {
            class: "usb".parse().unwrap(),
            backend: Some(vm(&snapshot, "sys-net").uuid),
            port: AssignedDevice::part("2-1").unwrap(),
            id: None,
        };
        let options = [("read-only".parse().unwrap(), "yes".parse().unwrap())].into();
        let how = Assignment { mode: AssignmentMode::Required, options };
        for write in [
            Write::SetAssignment(work, device, how),
            Write::SetFirewall(work, Firewall::closed()),
            Write::SetNotes(work, NotesText::sanitised(b"two\nlines").unwrap()),
            feature("z", "1"),
            feature("a", ""),
            feature("preload-dispvm", "disp1 disp2"),
            feature("preload-dispvm-max", "2"),
            tag("mine"),
            tag("managed-by-sys-net"),
            Write::SetVolume(work, Arc::new(extra)),
        ] {
            write.apply(&mut snapshot.model).unwrap();
        }
        snapshot
    }

    #[test]
    fn a_clone_has_everything_of_the_original_but_what_makes_that_one_itself() {
        let mut snapshot = with_everything();
        let work = vm(&snapshot, "work");
        let new = asked(&snapshot, "work", "dom0");
        let (copy, events) = cloned(&mut snapshot, &new);
        assert_eq!((copy.name.as_str(), copy.uuid), ("copy", Uuid::from_u128(4711)));
        assert_ne!(copy.qid, work.qid);
        assert_eq!((copy.class, copy.label), (work.class, work.label));
        let mut properties = work.properties.clone();
        assert_eq!(properties.remove(&Property::InstalledByRpm), Some(Value::Bool(true)));
        assert_eq!(copy.properties, properties);
        assert_eq!(copy.reference(Property::DefaultDispvm), Some(Some(work.uuid)), "as it is, the original");
        let mut features = work.features.clone();
        features.remove("preload-dispvm").unwrap();
        assert_eq!(copy.features, features);
        assert!(copy.firewall.rules().is_empty() && copy.firewall == work.firewall);
        assert!(copy.notes != Notes::default() && copy.notes == work.notes);
        assert!(!copy.assignments.is_empty());
        assert_eq!(copy.assignments, work.assignments);
        let expected = ["audiovm-dom0", "created-by-dom0", "guivm-dom0", "managed-by-sys-net", "mine"];
        assert_eq!(tags(&copy), expected);
        let renamed = |volume: &Arc<VolumeConfig>| {
            let vid = volume.vid.as_ref().map(|vid| vid.replace("/work/", "/copy/").into());
            VolumeConfig { vid, last_snapshot: 0, ..VolumeConfig::clone(volume) }
        };
        let expected: Vec<_> = work.volumes.iter().map(renamed).collect();
        assert_eq!(copy.volumes.iter().map(|v| VolumeConfig::clone(v)).collect::<Vec<_>>(), expected);
        assert_eq!(
            events,
            [
                EventKind::DomainAdd { vm: copy.name.clone(), uuid: copy.uuid },
                EventKind::DomainTagAdd { tag: "created-by-dom0".parse().unwrap() },
                EventKind::DomainCloneFiles { src: work.name.clone() },
                EventKind::DomainCreateOnDisk,
            ]
        );
    }

    #[test]
    fn who_made_a_clone_is_told_anew_and_only_dom0_hands_on_who_manages_it() {
        let mut snapshot = with_everything();
        let new = asked(&snapshot, "work", "sys-net");
        let (copy, _) = cloned(&mut snapshot, &new);
        assert_eq!(tags(&copy), ["audiovm-dom0", "created-by-sys-net", "guivm-dom0", "mine"]);
    }

    #[test]
    fn a_clone_of_a_disposable_has_a_number_of_its_own_and_one_of_a_remote_vm_no_volumes() {
        let mut snapshot = with_everything();
        let original = make(&mut snapshot, &new_vm("d", VmClass::DispVm, Some("work")));
        let mut new = asked(&snapshot, "d", "dom0");
        let (copy, _) = cloned(&mut snapshot, &new);
        assert_eq!(copy.reference(Property::Template), original.reference(Property::Template));
        assert!(copy.dispid().is_some() && copy.dispid() != original.dispid());

        make(&mut snapshot, &new_vm("far", VmClass::RemoteVm, None));
        new = NewClone {
            uuid: Uuid::new_v4(),
            name: "far2".parse().unwrap(),
            ..asked(&snapshot, "far", "dom0")
        };
        let (copy, events) = cloned(&mut snapshot, &new);
        assert!(copy.volumes.is_empty() && copy.class == VmClass::RemoteVm);
        assert_eq!(events.len(), 2, "{events:?}");
    }

    #[test]
    fn what_is_wrong_with_a_clone_is_named_at_its_beginning_or_its_end() {
        let mut snapshot = with_everything();
        let refused = |new: &NewClone| begin(&snapshot, new).unwrap_err().refusal;
        let new = asked(&snapshot, "work", "dom0");
        let taken = NewClone { name: "debian".parse().unwrap(), ..new.clone() };
        assert_eq!(refused(&taken), Refusal::VmExists { name: taken.name.clone() });
        let dom0 = NewClone { of: Vm::DOM0, ..new.clone() };
        assert_eq!(refused(&dom0), Refusal::ClassNotCreatable { class: VmClass::AdminVm });
        let nobody = NewClone { of: Uuid::from_u128(1), ..new.clone() };
        assert_eq!(refused(&nobody), Refusal::NoSuchUuid { uuid: nobody.of });

        let mut damaged = snapshot.clone();
        damaged
            .model
            .change_vm(new.of, |vm| {
                vm.firewall = Firewall::damaged(RuleId::new(3).unwrap(), "bad");
                Ok(())
            })
            .unwrap();
        assert!(matches!(begin(&damaged, &new).unwrap_err().refusal, Refusal::FirewallDamaged { .. }));

        // Its netvm stops being one while data is copied: the copy would be no VM that can be stored.
        let diff = begin(&snapshot, &new).unwrap();
        let (plan, _) = apply(&mut snapshot, diff);
        set(&mut snapshot, "work", "netvm", "").unwrap();
        set(&mut snapshot, "sys-net", "provides_network", "False").unwrap();
        let netvm = "sys-net".parse().unwrap();
        assert_eq!(finish(&snapshot, &plan).unwrap_err(), Refusal::ProvidesNoNetwork { netvm }.into());
    }
}
