//! What a store holds after a first start: dom0, the built-in labels, two pools, two globals, nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::super::at_start::Started;
use super::super::class::VmClass;
use super::super::firewall::Firewall;
use super::super::global::Global;
use super::super::ids::{LabelIndex, Qid};
use super::super::label::{BUILT_IN, Label};
use super::super::notes::Notes;
use super::super::pool::Pool;
use super::super::value::Value;
use super::super::vm::Vm;
use super::super::write::Write;
use crate::error::{Error, Kind, Op, Result};
use crate::ids::{PoolName, VmName};

/// The label of dom0.
pub(super) const BLACK: LabelIndex = LabelIndex::built_in(8);

/// What the caller decides about a first start.
#[derive(Debug, Clone)]
pub struct FirstStart {
    /// Where the pool of volumes lies; absolute.
    pub volumes: PathBuf,
    /// Its driver: what the file system there can do.
    pub driver: &'static str,
    /// Where the pool of kernels lies; absolute.
    pub kernels: PathBuf,
}

/// The writes of a first start, in order.
pub(super) fn contents(first: &FirstStart) -> Result<Vec<Write>> {
    let mut writes = Vec::new();
    for (index, (name, colour)) in (1..).zip(BUILT_IN) {
        writes.push(Write::AddLabel(Arc::new(Label {
            index: LabelIndex::built_in(index),
            name: name.parse().map_err(built_in)?,
            colour: colour.parse().map_err(built_in)?,
        })));
    }
    let [volumes, kernels] = pools(first)?;
    writes.extend([volumes.clone(), kernels.clone()].map(Write::SetPool));
    writes.push(Write::AddVm(Arc::new(dom0(BLACK))));
    writes.push(Write::SetGlobal(Global::DefaultPool, Some(Value::Pool(volumes.name.clone()))));
    writes.push(Write::SetGlobal(Global::DefaultPoolKernel, Some(Value::Pool(kernels.name.clone()))));
    writes.push(Write::SetGlobal(Global::DefaultKernel, Some(Value::text(""))));
    Ok(writes)
}

/// dom0 with nothing set.
pub(in super::super) fn dom0(label: LabelIndex) -> Vm {
    Vm {
        uuid: Vm::DOM0,
        qid: Qid::DOM0,
        name: VmName::dom0(),
        class: VmClass::AdminVm,
        label,
        properties: BTreeMap::new(),
        volumes: Vec::new(),
        tags: BTreeSet::new(),
        features: BTreeMap::new(),
        assignments: Arc::default(),
        firewall: Firewall::default(),
        notes: Notes::default(),
        started: Started::new(),
    }
}

/// The pools of a first start: for volumes, and for kernels.
pub(in super::super) fn pools(first: &FirstStart) -> Result<[Arc<Pool>; 2]> {
    let volumes: PoolName = "varlibqubes".parse().map_err(built_in)?;
    let kernels: PoolName = "linux-kernel".parse().map_err(built_in)?;
    Ok([pool(&volumes, first.driver, &first.volumes, 1)?, pool(&kernels, "linux-kernel", &first.kernels, 2)?])
}

fn pool(name: &PoolName, driver: &str, dir: &std::path::Path, position: u32) -> Result<Arc<Pool>> {
    let place = dir.to_str().filter(|_| dir.is_absolute()).ok_or_else(|| {
        Error::new(Kind::Invalid, Op::Store, dir.display())
            .because("a pool's folder must be an absolute path in UTF-8")
    })?;
    let options = BTreeMap::from([("dir_path".into(), place.into())]);
    Ok(Arc::new(Pool { name: name.clone(), driver: driver.into(), options, position }))
}

fn built_in(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Kind::Corrupt, Op::Store, "built-in names").because(error)
}
