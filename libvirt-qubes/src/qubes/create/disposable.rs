//! Disposables: what a new one takes over from the VM that it is based on, and its number.

use std::hash::{DefaultHasher, Hash, Hasher};

use uuid::Uuid;

use super::super::class::VmClass;
use super::super::diff::{Diff, Refused};
use super::super::ids::{Dispid, Tag};
use super::super::pending::PendingKind;
use super::super::property::{self, CloneRule, Property, template};
use super::super::refusal::Refusal;
use super::super::snapshot::Snapshot;
use super::super::value::Value;
use super::super::vm::Vm;
use super::{Making, NewVm, Plan, Pools, Told, planned, reserve, rules_of};
use crate::ids::VmName;
use std::sync::Arc;

/// As many numbers are drawn before the next free one is taken.
const DRAWS: u32 = 100;

/// What is asked for: a disposable that is named by its number and removed by itself when it has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDisposable {
    /// Its identity: fresh and random.
    pub uuid: Uuid,
    /// What it is based on; `None`: what the source's property `default_dispvm` names.
    pub base: Option<VmName>,
    /// Who asks: it becomes the tags `created-by-NAME` and `disp-created-by-NAME`.
    pub source: VmName,
    /// See [`NewVm::rested`].
    pub rested: imbl::OrdSet<Dispid>,
}

/// Decides what a new disposable will be and reserves what it takes.
///
/// # Errors
/// There is nothing to base it on, or that does not allow it; nothing is reserved then.
pub fn begin(snapshot: &Snapshot, new: &NewDisposable) -> Result<Diff<Plan>, Refused> {
    let model = &snapshot.model;
    let base = base_of(snapshot, new)?;
    let label = model.label(base.label);
    let label = label.ok_or_else(|| Refusal::LabelNotFound { label: base.label.to_string() })?;
    let named = |dispid: Dispid| format!("disp{dispid}").parse::<VmName>().ok();
    let name_is_free = |dispid| named(dispid).is_some_and(|name| model.name_is_free(&name));
    let dispid = number(snapshot, new.uuid, &new.rested, name_is_free)?;
    let request = NewVm {
        uuid: new.uuid,
        name: named(dispid).ok_or(Refusal::NoFreeQid)?,
        class: VmClass::DispVm,
        label: label.name.to_string(),
        template: Some(base.name.clone()),
        pools: Pools::Default,
        root_size: None,
        source: new.source.clone(),
        operation: Making::Vm,
        rested: new.rested.clone(),
    };
    let mut vm = planned(snapshot, &request, || Ok(dispid))?;
    Arc::make_mut(&mut vm).properties.insert(Property::AutoCleanup, Value::Bool(true));
    let tags = ["created-by", "disp-created-by"];
    let tags = tags.into_iter().filter_map(|tag| format!("{tag}-{}", new.source).parse::<Tag>().ok());
    let plan = Plan {
        pending: model.next_pending_id(),
        vm,
        copy_of: None,
        label: None,
        tags: tags.collect(),
        told: Told::Disposable,
    };
    Ok(reserve(model, plan, PendingKind::Create))
}

fn base_of<'a>(snapshot: &'a Snapshot, new: &NewDisposable) -> Result<&'a Arc<Vm>, Refusal> {
    let model = &snapshot.model;
    let base = match &new.base {
        Some(name) => Some(model.find_vm(name)?),
        None => {
            let source = model.find_vm(&new.source)?;
            let default = property::value(snapshot, source, Property::DefaultDispvm);
            default.and_then(|value| value.as_vm()).and_then(|base| model.vm(base))
        }
    };
    match base {
        Some(base) if template::fits(VmClass::DispVm, base).is_ok() => Ok(base),
        Some(_) | None => Err(Refusal::NoDisposableOf),
    }
}

/// A number for a disposable that is free and, if it can be, rested. It is seemingly random (it shows in the VM's
/// address and name), and the same whenever the change runs again on the same model.
pub(super) fn number(
    snapshot: &Snapshot,
    uuid: Uuid,
    rested: &imbl::OrdSet<Dispid>,
    suits: impl Fn(Dispid) -> bool,
) -> Result<Dispid, Refusal> {
    let model = &snapshot.model;
    let draw = |attempt: u32| {
        let mut hasher = DefaultHasher::new();
        (uuid, attempt).hash(&mut hasher);
        let count = u64::from(Dispid::LAST.get()) + 1;
        u16::try_from(hasher.finish() % count).ok().and_then(Dispid::new).unwrap_or(Dispid::LAST)
    };
    let drawn = |dispid: &Dispid| model.dispid_is_free(*dispid) && suits(*dispid) && !rested.contains(dispid);
    if let Some(dispid) = (0..DRAWS).map(draw).find(drawn) {
        return Ok(dispid);
    }
    // Nearly all are taken.
    let all = || (0..=Dispid::LAST.get()).filter_map(Dispid::new);
    let last_resort = |dispid: &Dispid| model.dispid_is_free(*dispid) && suits(*dispid);
    all().find(drawn).or_else(|| all().find(last_resort)).ok_or(Refusal::NoFreeQid)
}

/// What a disposable has from the VM that it is based on, where it is not set already. Devices and notes are the
/// base's alone.
pub(super) fn take_over(vm: &mut Vm, base: &Vm) -> Result<(), Refusal> {
    // What a VM is made of is listed, so that a new field cannot be forgotten here.
    let Vm {
        uuid: _,
        qid: _,
        name: _,
        class: _,
        label: _,
        properties,
        volumes: _,
        tags,
        features,
        assignments: _,
        firewall: _,
        notes: _,
        started: _,
    } = base;
    for (property, value) in properties {
        if property.row().clone == CloneRule::Copied && property.applies_to(vm.class) {
            vm.properties.entry(*property).or_insert_with(|| value.clone());
        }
    }
    let features = features.iter().filter(|(name, _)| !name.as_str().starts_with("preload-dispvm"));
    vm.features = features.map(|(name, feature)| (name.clone(), feature.clone())).collect();
    vm.tags.clone_from(tags);
    vm.firewall = rules_of(base)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::super::event::EventKind;
    use super::super::super::model::SetAside;
    use super::super::super::testing::{apply, make, new_vm, set, small_model, vm};
    use super::super::finish;
    use super::*;

    fn asked(base: Option<&str>, source: &str) -> NewDisposable {
        NewDisposable {
            uuid: Uuid::from_u128(4711),
            base: base.map(|base| base.parse().unwrap()),
            source: source.parse().unwrap(),
            rested: imbl::OrdSet::new(),
        }
    }

    fn with_base() -> Snapshot {
        let mut snapshot = small_model();
        set(&mut snapshot, "work", "template_for_dispvms", "True").unwrap();
        set(&mut snapshot, "work", "label", "blue").unwrap();
        snapshot
    }

    #[test]
    fn a_disposable_is_named_by_its_number_and_told_of_in_the_order_of_the_document() {
        let mut snapshot = with_base();
        let diff = begin(&snapshot, &asked(Some("work"), "sys-net")).unwrap();
        let (plan, _) = apply(&mut snapshot, diff);
        let dispid = plan.vm.dispid().unwrap();
        assert!(!snapshot.model.dispid_is_free(dispid), "its number is reserved");
        let diff = finish(&snapshot, &plan).unwrap();
        let (made, events) = apply(&mut snapshot, diff);
        assert_eq!(made.name.as_str(), format!("disp{dispid}"));
        assert_eq!((made.class, made.flag(Property::AutoCleanup)), (VmClass::DispVm, Some(true)));
        assert_eq!(snapshot.model.label(made.label).unwrap().name.as_str(), "blue");
        assert_eq!(made.reference(Property::Template), Some(Some(vm(&snapshot, "work").uuid)));
        let tag = |tag: &str| EventKind::DomainTagAdd { tag: tag.parse().unwrap() };
        assert_eq!(
            events.into_iter().map(|event| event.kind).collect::<Vec<_>>(),
            [
                EventKind::DomainAdd { vm: made.name.clone(), uuid: made.uuid },
                EventKind::DomainCreateOnDisk,
                tag("created-by-sys-net"),
                tag("disp-created-by-sys-net"),
            ]
        );
        let tags: Vec<_> = made.tags.iter().map(Tag::as_str).collect();
        let desktop = ["audiovm-dom0", "guivm-dom0"];
        let own = ["created-by-dom0", "created-by-sys-net", "disp-created-by-sys-net"];
        assert_eq!(tags, [&desktop[..1], &own[..], &desktop[1..]].concat());
        assert_eq!(snapshot.model, snapshot.model.reindexed());
    }

    #[test]
    fn tags_that_it_has_from_its_base_are_not_told_of_again() {
        let mut snapshot = with_base();
        let diff = begin(&snapshot, &asked(Some("work"), "dom0")).unwrap();
        let (plan, _) = apply(&mut snapshot, diff);
        let diff = finish(&snapshot, &plan).unwrap();
        let (made, events) = apply(&mut snapshot, diff);
        assert!(made.tags.iter().any(|tag| tag.as_str() == "created-by-dom0"));
        let told: Vec<_> = events.into_iter().map(|event| event.kind).collect();
        assert_eq!(
            told,
            [
                EventKind::DomainAdd { vm: made.name.clone(), uuid: made.uuid },
                EventKind::DomainCreateOnDisk,
                EventKind::DomainTagAdd { tag: "disp-created-by-dom0".parse().unwrap() },
            ]
        );
    }

    #[test]
    fn the_base_is_an_app_vm_that_allows_it_or_the_default_of_who_asks() {
        let mut snapshot = with_base();
        make(&mut snapshot, &new_vm("alone", VmClass::StandaloneVm, None));
        set(&mut snapshot, "alone", "template_for_dispvms", "True").unwrap();
        for (base, source) in [
            (Some("sys-net"), "dom0"),
            (Some("debian"), "dom0"),
            (Some("alone"), "dom0"),
            (Some("dom0"), "dom0"),
            (None, "dom0"),
            (None, "sys-net"),
        ] {
            let refused = begin(&snapshot, &asked(base, source)).unwrap_err();
            assert_eq!(refused, Refusal::NoDisposableOf.into(), "{base:?} {source}");
        }
        set(&mut snapshot, "sys-net", "default_dispvm", "work").unwrap();
        begin(&snapshot, &asked(None, "sys-net")).unwrap();
        begin(&snapshot, &asked(None, "dom0")).unwrap_err();
        begin(&snapshot, &asked(Some("nobody"), "dom0")).unwrap_err();
    }

    #[test]
    fn a_number_whose_name_is_taken_or_that_rests_is_passed_over() {
        let mut snapshot = with_base();
        let drawn = |snapshot: &Snapshot, new: &NewDisposable| {
            begin(snapshot, new).unwrap().answer.vm.dispid().unwrap()
        };
        let mut new = asked(Some("work"), "dom0");
        let first = drawn(&snapshot, &new);
        assert_eq!(first, drawn(&snapshot, &new), "the change can be run again");
        make(&mut snapshot, &new_vm(&format!("disp{first}"), VmClass::RemoteVm, None));
        let second = drawn(&snapshot, &new);
        new.rested.insert(second);
        let third = drawn(&snapshot, &new);
        assert!(first != second && second != third && first != third);

        // All are taken but one, which rests.
        for number in (0..=Dispid::LAST.get()).filter(|number| *number != second.get()) {
            let name = format!("bad{number}");
            let dispid = Some(i64::from(number));
            snapshot.model.put_set_aside(SetAside {
                table: "vm",
                name,
                uuid: None,
                qid: None,
                position: None,
                dispid,
                label: None,
                volumes: Vec::new(),
                pools: Vec::new(),
                references: Vec::new(),
                reason: String::new(),
            });
        }
        assert_eq!(drawn(&snapshot, &new), second);
        make(&mut snapshot, &new_vm(&format!("disp{second}"), VmClass::RemoteVm, None));
        assert_eq!(begin(&snapshot, &new).unwrap_err(), Refusal::NoFreeQid.into());
    }
}
