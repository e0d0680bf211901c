//! Statistics: what running VMs use, again and again. Samples are taken for all who ask, off the async threads, and
//! not more often than anybody can need.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::global::Global;
use super::host::Host;
use super::refusal::HostError;
use super::snapshot::Snapshot;
use crate::error::Result;
use crate::hypervisor::DomainUsage;
use crate::ids::{DomId, VmName};

/// A sample younger than this is as good as a new one.
const FRESH: Duration = Duration::from_millis(500);

/// What a running VM uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmStats {
    /// The VM.
    pub vm: VmName,
    /// Memory that it has now, in KiB.
    pub memory_kib: u64,
    /// The most memory that it may have, its device model's domain included, in KiB.
    pub memory_total_kib: u64,
    /// Memory that it says it uses, swap included, in KiB; all that it has, if it says nothing.
    pub memory_used_kib: u64,
    /// Swap that it says it uses, in KiB.
    pub swap_used_kib: Option<u64>,
    /// Processor time that it has used in this run, in milliseconds.
    pub cpu_time_ms: u64,
    /// How busy its virtual CPUs were since the last sample, in percent; 0 in the first.
    pub cpu_usage: u64,
    /// Virtual CPUs that are online.
    pub vcpus: u32,
    /// The domain that runs its device model.
    pub device_model: Option<DeviceModelStats>,
}

/// What the domain of a device model uses; as in [`VmStats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceModelStats {
    /// Processor time, in milliseconds.
    pub cpu_time_ms: u64,
    /// How busy its virtual CPUs were, in percent.
    pub cpu_usage: u64,
    /// Virtual CPUs that are online.
    pub vcpus: u32,
}

/// What all domains used at one moment.
#[derive(Debug)]
pub(super) struct Sample {
    at: Instant,
    domains: Vec<DomainUsage>,
}

impl Sample {
    pub(super) fn domain(&self, vm: Uuid) -> Option<&DomainUsage> {
        self.domains.iter().find(|usage| usage.uuid == vm)
    }
}

/// The last sample, and who waits for the next ones.
#[derive(Debug, Default)]
pub(super) struct Samples {
    last: Mutex<Option<Arc<Sample>>>,
    readers: Arc<()>,
}

/// A reader of statistics.
pub struct Stats {
    host: Arc<Host>,
    only: Option<Uuid>,
    before: Option<Arc<Sample>>,
    next_at: Instant,
    waiting: VecDeque<VmStats>,
    _counted: Arc<()>,
}

impl Host {
    /// Statistics of every running VM and dom0, or of one VM: at once, then every `stats_interval` seconds, in the
    /// order of the domains' numbers. Of a VM that does not run there is nothing until it does.
    ///
    /// # Errors
    /// No such VM.
    pub fn stats(self: &Arc<Self>, only: Option<&VmName>) -> std::result::Result<Stats, HostError> {
        let only = only.map(|vm| self.snapshot().model.find_vm(vm).map(|vm| vm.uuid)).transpose()?;
        Ok(Stats {
            host: Arc::clone(self),
            only,
            before: None,
            next_at: Instant::now(),
            waiting: VecDeque::new(),
            _counted: Arc::clone(&self.figures.samples.readers),
        })
    }

    /// How many readers of statistics there are.
    pub fn stats_readers(&self) -> usize {
        Arc::strong_count(&self.figures.samples.readers).saturating_sub(1)
    }

    /// What all domains use now, or used a moment ago.
    pub(super) async fn sample(&self) -> Result<Arc<Sample>> {
        // Who waits here waits for the sample that the holder takes.
        let mut last = self.figures.samples.last.lock().await;
        if let Some(sample) = last.as_ref().filter(|sample| sample.at.elapsed() < FRESH) {
            return Ok(Arc::clone(sample));
        }
        let domains = self.hypervisor.usage().await?;
        let sample = Arc::new(Sample { at: Instant::now(), domains });
        *last = Some(Arc::clone(&sample));
        Ok(sample)
    }
}

impl Stats {
    /// The next statistics of a VM. Dropping the future loses none.
    pub async fn next(&mut self) -> VmStats {
        loop {
            if let Some(stats) = self.waiting.pop_front() {
                return stats;
            }
            sleep_until(self.next_at).await;
            match self.host.sample().await {
                Ok(now) => {
                    let all = compared(&self.host.snapshot(), self.before.as_deref(), &now, self.only);
                    self.waiting.extend(all);
                    self.before = Some(now);
                }
                Err(error) => tracing::warn!(error = error.report(), "no statistics this time"),
            }
            let interval = self.host.snapshot().model.global_int(Global::StatsInterval);
            let interval = interval.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(3).max(1);
            self.next_at = Instant::now() + Duration::from_secs(u64::from(interval));
        }
    }
}

/// What VMs used between two samples, as far as the model knows them and their domains.
fn compared(state: &Snapshot, before: Option<&Sample>, now: &Sample, only: Option<Uuid>) -> Vec<VmStats> {
    let passed = before.map_or(Duration::ZERO, |before| now.at.saturating_duration_since(before.at));
    let runs = |uuid: Uuid, domid: DomId| {
        uuid.is_nil() || state.run(uuid).is_some_and(|run| run.domid == Some(domid) && !run.is_over())
    };
    let mut all = Vec::new();
    for usage in &now.domains {
        let wanted = only.is_none_or(|only| only == usage.uuid) && runs(usage.uuid, usage.domid);
        let Some(vm) = state.model.vm(usage.uuid).filter(|_| wanted) else { continue };
        let earlier = before
            .and_then(|before| before.domain(usage.uuid))
            .filter(|earlier| earlier.domid == usage.domid);
        let model = usage.device_model.as_ref();
        let earlier_model = earlier.and_then(|earlier| earlier.device_model.as_ref());
        all.push(VmStats {
            vm: vm.name.clone(),
            memory_kib: usage.memory_kib,
            memory_total_kib: usage
                .max_memory_kib
                .saturating_add(model.map_or(0, |model| model.max_memory_kib)),
            memory_used_kib: usage.told_memory_kib.unwrap_or(usage.memory_kib),
            swap_used_kib: usage.told_swap_kib,
            cpu_time_ms: usage.cpu_time_ns / 1_000_000,
            cpu_usage: percent(earlier.map(|e| e.cpu_time_ns), usage.cpu_time_ns, usage.vcpus, passed),
            vcpus: usage.vcpus,
            device_model: model.map(|model| DeviceModelStats {
                cpu_time_ms: model.cpu_time_ns / 1_000_000,
                cpu_usage: percent(
                    earlier_model.map(|e| e.cpu_time_ns),
                    model.cpu_time_ns,
                    model.vcpus,
                    passed,
                ),
                vcpus: model.vcpus,
            }),
        });
    }
    all
}

/// How much of the time that passed the virtual CPUs were at work, in whole percent of all of them; 0 where the time
/// went back.
fn percent(before_ns: Option<u64>, now_ns: u64, vcpus: u32, passed: Duration) -> u64 {
    let passed = passed.as_nanos();
    let used = before_ns.map_or(0, |before| u128::from(now_ns.saturating_sub(before)));
    let all = used.saturating_mul(100).saturating_add(passed / 2).checked_div(passed).unwrap_or(0);
    u64::try_from(all.checked_div(u128::from(vcpus)).unwrap_or(0)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::{Run, RunState};
    use super::super::testing::{small_model, vm};
    use super::*;
    use crate::hypervisor::DeviceModelUsage;

    fn usage(uuid: Uuid, domid: u32, cpu_ms: u64, model_ms: Option<u64>) -> DomainUsage {
        DomainUsage {
            uuid,
            domid: DomId::new(domid).unwrap(),
            memory_kib: 1000,
            max_memory_kib: 4000,
            cpu_time_ns: cpu_ms * 1_000_000,
            vcpus: 2,
            told_memory_kib: None,
            told_swap_kib: None,
            device_model: model_ms.map(|ms| DeviceModelUsage {
                max_memory_kib: 300,
                cpu_time_ns: ms * 1_000_000,
                vcpus: 1,
            }),
        }
    }

    #[test]
    fn usage_is_in_percent_of_all_virtual_cpus_of_the_time_between_two_samples() {
        let mut state = small_model();
        let (work, net) = (vm(&state, "work").uuid, vm(&state, "sys-net").uuid);
        let run = |domid, state| Run { domid: DomId::new(domid), stubdom: None, state, started_at: None };
        state.cells.runs.insert(work, run(5, RunState::Running));
        state.cells.runs.insert(net, run(6, RunState::Dying));
        let at = Instant::now();
        let stranger = Uuid::from_u128(99);
        let first = Sample {
            at,
            domains: vec![
                usage(Uuid::nil(), 0, 10, None),
                usage(work, 5, 1000, Some(100)),
                usage(net, 6, 0, None),
            ],
        };
        let told = DomainUsage {
            told_memory_kib: Some(900),
            told_swap_kib: Some(50),
            ..usage(work, 5, 3000, Some(1104))
        };
        let second = Sample {
            at: at + Duration::from_secs(2),
            domains: vec![
                usage(Uuid::nil(), 0, 10, None),
                told,
                usage(net, 6, 0, None),
                usage(stranger, 9, 0, None),
            ],
        };
        let name = |stats: &VmStats| stats.vm.to_string();
        let begun = compared(&state, None, &first, None);
        assert_eq!(begun.iter().map(name).collect::<Vec<_>>(), ["dom0", "work"]);
        assert_eq!((begun[1].cpu_usage, begun[1].memory_used_kib, begun[1].swap_used_kib), (0, 1000, None));
        let now = compared(&state, Some(&first), &second, None);
        assert_eq!(
            now[1],
            VmStats {
                vm: "work".parse().unwrap(),
                memory_kib: 1000,
                memory_total_kib: 4300,
                memory_used_kib: 900,
                swap_used_kib: Some(50),
                cpu_time_ms: 3000,
                cpu_usage: 50,
                vcpus: 2,
                device_model: Some(DeviceModelStats { cpu_time_ms: 1104, cpu_usage: 50, vcpus: 1 }),
            }
        );
        assert_eq!(compared(&state, Some(&first), &second, Some(work)), now[1..]);
        assert_eq!(compared(&state, None, &second, Some(net)), []);
        // Another run of the VM: nothing is compared with the one before.
        state.cells.runs.insert(work, run(7, RunState::Running));
        let third = Sample { at: at + Duration::from_secs(4), domains: vec![usage(work, 7, 100, None)] };
        assert_eq!(compared(&state, Some(&second), &third, None)[0].cpu_usage, 0);
        assert_eq!(compared(&state, Some(&first), &second, Some(work)), []);
    }

    #[test]
    fn no_time_no_cpus_and_time_that_went_back_are_no_usage() {
        let second = Duration::from_secs(1);
        for (before, now, vcpus, passed, expected) in [
            (Some(0), 1_000_000_000, 1, second, 100),
            (Some(0), 1_000_000_000, 3, second, 33),
            (Some(0), 4_900_000, 1, second, 0),
            (Some(0), 5_000_000, 1, second, 1),
            (Some(9), 3, 1, second, 0),
            (None, 3, 1, second, 0),
            (Some(0), 1, 0, second, 0),
            (Some(0), 1, 1, Duration::ZERO, 0),
            (Some(0), u64::MAX, 1, Duration::from_nanos(1), u64::MAX),
        ] {
            assert_eq!(percent(before, now, vcpus, passed), expected, "{before:?} {now} {vcpus} {passed:?}");
        }
    }
}
