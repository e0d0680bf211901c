//! What held for a VM's volumes when they were started, and where they lay. A run ends by that, whatever was set since.
//!
//! A Start notes it in the commit of its row. It stays, over the end of a daemon too, until the volume is at rest in that
//! pool: what a run has left in a pool that is away is dropped when the pool is back, though the VM has another template by
//! then and has run on that.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::class::VolumeKind as ModelKind;
use super::diff::Diff;
use super::host::Host;
use super::snapshot::Snapshot;
use super::vm::Vm;
use super::volumes;
use super::write::Write;
use crate::config::Access;
use crate::ids::{PoolName, VolumeName};
use crate::storage::{RevisionsToKeep, Sharing, Volume, VolumeKind, VolumeSpec};

/// What holds for a volume until its run's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtStart {
    /// How many former states are kept of it.
    pub revisions_to_keep: RevisionsToKeep,
    /// Whether the VM may write.
    pub access: Access,
    /// Whether others may be snapshots of it.
    pub sharing: Sharing,
    /// Whether it is encrypted with a key that nobody keeps.
    pub ephemeral: bool,
}

/// A VM's volumes that are not at rest, each in the pool that it was started in. Kernels have no end.
pub type Started = BTreeMap<(VolumeName, PoolName), AtStart>;

impl AtStart {
    fn of(spec: &VolumeSpec) -> Self {
        Self {
            revisions_to_keep: spec.revisions_to_keep,
            access: spec.access,
            sharing: spec.sharing,
            ephemeral: spec.ephemeral,
        }
    }

    fn spec(self, now: VolumeSpec) -> VolumeSpec {
        let Self { revisions_to_keep, access, sharing, ephemeral } = self;
        VolumeSpec { revisions_to_keep, access, sharing, ephemeral, ..now }
    }
}

/// What is noted once these are being started.
pub(super) fn with<'a>(noted: &Started, volumes: impl IntoIterator<Item = &'a Volume>) -> Started {
    let mut started = noted.clone();
    started.extend(
        volumes
            .into_iter()
            .filter(|volume| !matches!(volume.spec.kind, VolumeKind::Kernel { .. }))
            .map(|volume| ((volume.id.volume.clone(), volume.pool.clone()), AtStart::of(&volume.spec))),
    );
    started
}

/// All of a VM's volumes that may have to be ended, or removed: each where it was started and as it was, and where it would be
/// started now.
pub(super) fn to_end(seen: &Snapshot, vm: &Vm) -> Vec<Volume> {
    let mut all = Vec::new();
    for config in vm.volumes.iter().filter(|config| !volumes::is_nothing(seen, vm, config)) {
        let now = volumes::place_to_end(seen, vm, config);
        let started = vm.started.iter().filter(|((name, _), _)| *name == config.name);
        let is_elsewhere = |pool: &PoolName| *pool != now.pool;
        for ((_, pool), at_start) in started.clone() {
            let mut volume =
                Volume { spec: at_start.spec(now.spec.clone()), pool: pool.clone(), ..now.clone() };
            // Its source was another one, which may be gone.
            if is_elsewhere(pool) && config.kind == ModelKind::Snapshot {
                volume.spec.kind = VolumeKind::Snapshot { source: volume.id.clone() };
            }
            all.push(volume);
        }
        if started.into_iter().all(|((_, pool), _)| is_elsewhere(pool)) {
            all.push(now);
        }
    }
    all
}

impl Host {
    /// These volumes of a VM are at rest. What cannot be noted of that is found out again.
    pub(super) async fn note_ended(&self, vm: &Vm, ended: Vec<Volume>) {
        let ended: Vec<_> = ended.into_iter().map(|volume| (volume.id.volume, volume.pool)).collect();
        if !ended.iter().any(|key| vm.started.contains_key(key)) {
            return;
        }
        let uuid = vm.uuid;
        let noted = self.committer.commit(move |seen| Ok(without(seen, uuid, &ended))).await;
        if let Err(error) = noted {
            tracing::error!(vm = %vm.name, error = error.report(), "its volumes are at rest, and that is not noted");
        }
    }
}

fn without(seen: &Snapshot, vm: Uuid, ended: &[(VolumeName, PoolName)]) -> Diff<()> {
    let diff = Diff::new(()).frees_space();
    let Some(vm) = seen.model.vm(vm) else { return diff };
    let mut started = vm.started.clone();
    started.retain(|key, _| !ended.contains(key));
    if started == vm.started { diff } else { diff.write(Write::SetStarted(vm.uuid, started)) }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, make, new_vm, small_model};
    use super::*;
    use crate::storage::RevisionsToKeep::Newest;

    #[test]
    fn a_run_ends_where_and_as_it_began() {
        let mut snapshot = small_model();
        let work = testing::vm(&snapshot, "work");
        let now = to_end(&snapshot, &work);
        let started = with(&Started::new(), &now);
        let of = |volume: &str, pool: &str| (volume.parse().unwrap(), pool.parse().unwrap());
        let keys: Vec<_> = started.keys().cloned().collect();
        assert_eq!(keys, ["private", "root", "volatile"].map(|name| of(name, "varlibqubes")), "no kernel");

        let held = AtStart { revisions_to_keep: Newest(7), ..started[&of("private", "varlibqubes")] };
        let away = started[&of("root", "varlibqubes")];
        let noted = Started::from([(of("private", "varlibqubes"), held), (of("root", "away"), away)]);
        Write::SetStarted(work.uuid, noted).apply(&mut snapshot.model).unwrap();
        let work = testing::vm(&snapshot, "work");
        let all = to_end(&snapshot, &work);
        let find = |volume: &str| -> Vec<&Volume> {
            all.iter().filter(|found| found.id.volume.as_str() == volume).collect()
        };
        let [private] = find("private")[..] else { panic!("{all:?}") };
        assert_eq!(private.spec.revisions_to_keep, Newest(7));
        let [there, here] = find("root")[..] else { panic!("{all:?}") };
        assert_eq!((there.pool.as_str(), here.pool.as_str()), ("away", "varlibqubes"));
        assert_eq!(there.spec.kind, VolumeKind::Snapshot { source: there.id.clone() });
        assert_eq!(here, now.iter().find(|found| found.id.volume.as_str() == "root").unwrap());
        assert_eq!(find("volatile").len(), 1);

        let again = with(&work.started, &now);
        assert_eq!(again.len(), 4, "what lies elsewhere stays");
        assert_eq!(again[&of("private", "varlibqubes")], started[&of("private", "varlibqubes")]);
        let ended = without(&snapshot, work.uuid, &[of("root", "away"), of("volatile", "varlibqubes")]);
        let [Write::SetStarted(_, left)] = &ended.writes[..] else { panic!("{:?}", ended.writes) };
        assert_eq!(left.keys().collect::<Vec<_>>(), [&of("private", "varlibqubes")]);
        assert!(without(&snapshot, Uuid::from_u128(4711), &[]).writes.is_empty());
        let other = make(&mut snapshot, &new_vm("other", work.class, Some("debian")));
        assert!(other.started.is_empty());
    }
}
