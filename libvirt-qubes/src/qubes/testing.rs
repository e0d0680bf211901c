//! Fixtures of this module's tests: a store in a temporary directory, and a host with some kernels.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::class::{VmClass, VolumeGroup};
use super::commit::{Committer, CommitterThread};
use super::create::{self, Making, NewVm, Plan, Pools};
use super::diff::{Diff, Refused};
use super::event::{EventKind, ModelEvent, PropertyChange, Subject};
use super::global::Global;
use super::model::Model;
use super::pool::Pool;
use super::refusal::{HostError, Refusal};
use super::sequencer::{EventLimits, Sequencer};
use super::snapshot::{Cells, HostView, Kernel, KernelImage, Snapshot, VolumeNaming};
use super::store::{FirstStart, Opened, Store};
use super::value::{Shown, Value};
use super::vm::Vm;
use super::write::Write;
use crate::ids::{MemoryMib, VmName, VolumeName};

/// Names volumes as the file drivers do.
pub(super) fn naming() -> VolumeNaming {
    VolumeNaming::new(|_: &Pool, group: VolumeGroup, owner: &VmName, volume: &VolumeName| {
        format!("{}/{owner}/{volume}", group.as_str())
    })
}

/// A host with 16 GiB and the kernels `6.1` (whole) and `broken` (without its image).
pub(super) fn host() -> HostView {
    let broken = Kernel { image: KernelImage::Missing, ..Kernel::default() };
    let kernels =
        BTreeMap::from([("6.1".parse().unwrap(), Kernel::default()), ("broken".parse().unwrap(), broken)]);
    HostView {
        kernels: Arc::new(BTreeMap::from([("linux-kernel".parse().unwrap(), kernels)])),
        total_memory: Some(MemoryMib::new(16384)),
        ..HostView::unknown(naming())
    }
}

pub(super) fn open(dir: &Path) -> Opened {
    Store::open(dir, || {
        Ok(FirstStart {
            volumes: "/srv/varlibqubes".into(),
            driver: "file",
            kernels: "/srv/vm-kernels".into(),
        })
    })
    .unwrap()
}

pub(super) fn snapshot_of(model: Model) -> Snapshot {
    Snapshot { number: 0, model, cells: Cells { runs: imbl::HashMap::new(), host: Arc::new(host()) } }
}

/// The model of a first start, without a store.
pub(super) fn first_model() -> Snapshot {
    let dir = tempfile::tempdir().unwrap();
    snapshot_of(open(dir.path()).model)
}

/// A committer on a store in a directory of its own.
pub(super) struct Rig {
    pub(super) dir: tempfile::TempDir,
    pub(super) committer: Committer,
    thread: Option<CommitterThread>,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::on(tempfile::tempdir().unwrap())
    }

    pub(super) fn on(dir: tempfile::TempDir) -> Self {
        let opened = open(dir.path());
        Self::with(dir, opened)
    }

    pub(super) fn with(dir: tempfile::TempDir, opened: Opened) -> Self {
        let sequencer =
            Arc::new(Sequencer::new(opened.model, opened.last_number, host(), EventLimits::default()));
        let (committer, thread) = Committer::start(opened.store, sequencer).unwrap();
        Self { dir, committer, thread: Some(thread) }
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.committer.sequencer().snapshot()
    }

    pub(super) fn commit<T: Send + 'static>(
        &self,
        change: impl Fn(&Snapshot) -> Result<Diff<T>, Refused> + Send + 'static,
    ) -> Result<T, HostError> {
        block_on(self.committer.commit(change))
    }

    /// Closes the store and opens it again.
    pub(super) fn restart(mut self) -> Self {
        self.close();
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        Self::on(dir)
    }

    pub(super) fn close(&mut self) {
        block_on(self.committer.close());
        self.thread.take().unwrap().join().unwrap();
    }
}

pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub(super) fn refusal<T: std::fmt::Debug>(result: Result<T, HostError>) -> Refusal {
    let error = result.unwrap_err();
    let HostError::Refused(refusal) = error else { panic!("not refused: {error:?}") };
    refusal
}

pub(super) fn new_vm(name: &str, class: VmClass, template: Option<&str>) -> NewVm {
    NewVm {
        uuid: Uuid::new_v4(),
        name: name.parse().unwrap(),
        class,
        label: "red".to_owned(),
        template: template.map(|template| template.parse().unwrap()),
        pools: Pools::Default,
        root_size: None,
        source: VmName::dom0(),
        operation: Making::Vm,
        rested: imbl::OrdSet::new(),
    }
}

/// Does a change to a model without a store, and gives its answer and events.
pub(super) fn apply<T>(snapshot: &mut Snapshot, diff: Diff<T>) -> (T, Vec<ModelEvent>) {
    for write in &diff.writes {
        write.apply(&mut snapshot.model).unwrap();
    }
    let mut events = diff.pre_events;
    events.extend(diff.events);
    (diff.answer, events)
}

/// Makes a VM in a model without a store.
pub(super) fn make(snapshot: &mut Snapshot, new: &NewVm) -> Arc<Vm> {
    let diff = create::begin(snapshot, new).unwrap();
    let plan: Plan = apply(snapshot, diff).0;
    let diff = create::finish(snapshot, &plan).unwrap();
    apply(snapshot, diff).0
}

/// A model with template `debian`, VM `work` based on it, and a net VM `sys-net`.
pub(super) fn small_model() -> Snapshot {
    let mut snapshot = first_model();
    make(&mut snapshot, &new_vm("debian", VmClass::TemplateVm, None));
    make(&mut snapshot, &new_vm("work", VmClass::AppVm, Some("debian")));
    make(&mut snapshot, &new_vm("sys-net", VmClass::AppVm, Some("debian")));
    set(&mut snapshot, "sys-net", "provides_network", "True").unwrap();
    snapshot
}

pub(super) fn vm(snapshot: &Snapshot, name: &str) -> Arc<Vm> {
    snapshot.model.vm_named(name).unwrap().clone()
}

pub(super) fn set(
    snapshot: &mut Snapshot,
    name: &str,
    property: &str,
    value: &str,
) -> Result<Vec<ModelEvent>, Refused> {
    let uuid = vm(snapshot, name).uuid;
    let diff = super::property::set(snapshot, uuid, property, value.as_bytes())?;
    Ok(apply(snapshot, diff).1)
}

pub(super) fn reset(snapshot: &mut Snapshot, name: &str, property: &str) -> Result<Vec<ModelEvent>, Refused> {
    let uuid = vm(snapshot, name).uuid;
    let diff = super::property::reset(snapshot, uuid, property)?;
    Ok(apply(snapshot, diff).1)
}

pub(super) fn set_global(snapshot: &mut Snapshot, global: Global, value: Value) {
    Write::SetGlobal(global, Some(value)).apply(&mut snapshot.model).unwrap();
}

/// Events as `subject kind property new old`.
#[expect(clippy::wildcard_enum_match_arm, reason = "the others are shown as they are")]
pub(super) fn short(events: &[ModelEvent]) -> Vec<String> {
    let change = |kind: &str, change: &PropertyChange| {
        let value = |value: &Option<Shown>| match value {
            None => "-".to_owned(),
            Some(Shown::None) => "None".to_owned(),
            Some(Shown::Str(text)) => text.to_string(),
            Some(Shown::Int(number)) => number.to_string(),
            Some(Shown::Bool(flag)) => flag.to_string(),
            Some(Shown::Vm(vm)) => vm.to_string(),
            Some(Shown::Label(label)) => label.to_string(),
        };
        format!("{kind}:{} {} {}", change.name, value(&change.new), value(&change.old))
    };
    events
        .iter()
        .map(|event| {
            let subject = match &event.subject {
                Subject::System => String::new(),
                Subject::Vm { name, .. } => name.to_string(),
            };
            let kind = match &event.kind {
                EventKind::PropertyPreSet(c) => change("pre-set", c),
                EventKind::PropertySet(c) => change("set", c),
                EventKind::PropertyPreReset(c) => change("pre-reset", c),
                EventKind::PropertyPreDel(c) => change("pre-del", c),
                EventKind::PropertyReset(c) => change("reset", c),
                EventKind::PropertyDel(c) => change("del", c),
                EventKind::DomainFeaturePreSet { feature, value, .. } => {
                    format!("feature-pre-set:{feature}={value}")
                }
                EventKind::DomainFeatureSet { feature, value, .. } => {
                    format!("feature-set:{feature}={value}")
                }
                EventKind::DomainFeaturePreDelete { feature } => format!("feature-pre-delete:{feature}"),
                EventKind::DomainFeatureDelete { feature } => format!("feature-delete:{feature}"),
                EventKind::DomainTagAdd { tag } => format!("tag-add:{tag}"),
                EventKind::DomainTagDelete { tag } => format!("tag-delete:{tag}"),
                other => format!("{other:?}"),
            };
            format!("{subject} {kind}")
        })
        .collect()
}

pub(super) fn feature(snapshot: &mut Snapshot, vm_name: &str, name: &str, value: &str) {
    let write =
        Write::SetFeature(vm(snapshot, vm_name).uuid, name.parse().unwrap(), Some(value.parse().unwrap()));
    write.apply(&mut snapshot.model).unwrap();
}
