//! One simulated domain, as the world keeps it and as its file on disk holds it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::config::{DiskSpec, DomainSpec};
use crate::error::{Error, Kind, Op};
use crate::hypervisor::{DomainInfo, DomainState, ShutdownReason};
use crate::ids::{DomId, Vdev};

/// What a guest does by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestAct {
    /// It shuts down: powers off, crashes, asks to be rebooted.
    ShutDown(ShutdownReason),
    /// It writes into one of its disks.
    Write {
        /// The disk, as the guest names it.
        vdev: Vdev,
        /// Where, in bytes from the disk's beginning.
        offset: u64,
        /// What.
        text: String,
    },
}

/// An act that a guest will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Due {
    /// When, in milliseconds of the guest's own time.
    pub(super) at: u64,
    /// What.
    pub(super) act: GuestAct,
}

/// How far a domain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    /// Its memory is taken, its building has not ended; nameless.
    Building,
    /// Built.
    Whole,
    /// Its destruction has begun; nameless.
    Dying,
}

/// A domain. Times are milliseconds since 1970 by the world's clock, so that they hold over a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) domid: DomId,
    /// As it was asked for; its disks now are `disks`.
    pub(super) spec: DomainSpec,
    pub(super) phase: Phase,
    /// Xen counts pauses; 0 runs.
    pub(super) pauses: u32,
    pub(super) shutdown: Option<ShutdownReason>,
    pub(super) disks: BTreeMap<Vdev, DiskSpec>,
    /// The guest's own time up to `since`: it stands still while the guest does not run.
    pub(super) ran_ms: u64,
    /// Since when it runs; `None` while it does not.
    pub(super) since: Option<u64>,
    /// Whether it ever ran: only then has it frontends that must let go of a device.
    pub(super) has_run: bool,
    pub(super) due: Vec<Due>,
}

impl Record {
    /// A domain whose building begins.
    pub(super) fn building(domid: DomId, spec: DomainSpec) -> Self {
        Self {
            domid,
            spec,
            phase: Phase::Building,
            pauses: 1,
            shutdown: None,
            disks: BTreeMap::new(),
            ran_ms: 0,
            since: None,
            has_run: false,
            due: Vec::new(),
        }
    }

    pub(super) fn uuid(&self) -> Uuid {
        self.spec.uuid
    }

    pub(super) fn runs(&self) -> bool {
        self.state() == DomainState::Running
    }

    pub(super) fn state(&self) -> DomainState {
        match (self.phase, self.shutdown, self.pauses) {
            (Phase::Dying, _, _) => DomainState::Dying,
            (_, Some(reason), _) => DomainState::Shutdown(reason),
            (Phase::Building, None, _) | (Phase::Whole, None, 1..) => DomainState::Paused,
            (Phase::Whole, None, 0) => DomainState::Running,
        }
    }

    /// Starts or stops the guest's own time, as its state wants it from `now` on.
    pub(super) fn settle(&mut self, now: u64) {
        match (self.since, self.runs()) {
            (None, true) => {
                self.since = Some(now);
                self.has_run = true;
            }
            (Some(_), false) => {
                self.ran_ms = self.guest_time(now);
                self.since = None;
            }
            (None, false) | (Some(_), true) => {}
        }
    }

    /// The guest's own time at `now`, in milliseconds since its first instruction.
    pub(super) fn guest_time(&self, now: u64) -> u64 {
        self.ran_ms.saturating_add(self.since.map_or(0, |since| now.saturating_sub(since)))
    }

    /// When its next act is due; `None` while it does not run or has nothing to do.
    pub(super) fn next_due(&self) -> Option<u64> {
        let since = self.since?;
        let at = self.due.iter().map(|due| due.at).min()?;
        Some(since.saturating_add(at.saturating_sub(self.ran_ms)))
    }

    /// Takes out the act that comes first, of several at one time the one planned first.
    pub(super) fn take_first_due(&mut self) -> Option<Due> {
        let (first, _) = self.due.iter().enumerate().min_by_key(|(index, due)| (due.at, *index))?;
        Some(self.due.remove(first))
    }

    /// The domain as a list shows it at `now`.
    pub(super) fn info(&self, now: u64) -> DomainInfo {
        let built = self.phase == Phase::Whole;
        let virtual_ns = self.guest_time(now).saturating_mul(1_000_000);
        DomainInfo {
            uuid: self.uuid(),
            domid: self.domid,
            name: built.then(|| self.spec.name.to_string()),
            state: self.state(),
            memory_kib: self.spec.memory.kib(),
            max_memory_kib: self.spec.max_memory.kib(),
            cpu_time_ns: virtual_ns.saturating_mul(u64::from(self.spec.vcpus)) / 100,
            vcpus: self.spec.vcpus,
        }
    }

    /// An error about this domain.
    pub(super) fn error(&self, kind: Kind, op: Op) -> Error {
        Error::new(kind, op, &self.spec.name)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::VirtMode;
    use crate::ids::MemoryMib;

    /// A domain of 64 MiB without disks.
    pub(in crate::sim) fn record(domid: u32) -> Record {
        let spec = DomainSpec {
            name: format!("vm{domid}").parse().unwrap(),
            uuid: Uuid::from_u128(u128::from(domid)),
            virt_mode: VirtMode::Pvh,
            memory: MemoryMib::new(64),
            max_memory: MemoryMib::new(64),
            vcpus: 2,
            boot: None,
            disks: Vec::new(),
        };
        Record::building(DomId::new(domid).unwrap(), spec)
    }

    #[test]
    fn what_is_due_waits_while_the_guest_is_paused() {
        let mut domain = record(1);
        domain.phase = Phase::Whole;
        domain.due.push(Due { at: 100, act: GuestAct::ShutDown(ShutdownReason::Poweroff) });
        assert_eq!(domain.next_due(), None);
        domain.pauses = 0;
        domain.settle(1000);
        assert_eq!(domain.next_due(), Some(1100));
        domain.pauses = 1;
        domain.settle(1040);
        assert_eq!(domain.next_due(), None);
        domain.pauses = 0;
        domain.settle(5000);
        assert_eq!(domain.next_due(), Some(5060));
        assert_eq!(domain.info(5060).cpu_time_ns, 100 * 1_000_000 * 2 / 100);
    }

    proptest! {
        #[test]
        fn guest_time_never_goes_back_and_passes_only_while_running(
            turns in proptest::collection::vec((0u64..1000, 0u32..2), 0..20)
        ) {
            let mut domain = record(1);
            domain.phase = Phase::Whole;
            let (mut now, mut ran) = (0, 0);
            for (wait, pauses) in turns {
                let runs = domain.runs();
                now += wait;
                ran += if runs { wait } else { 0 };
                prop_assert_eq!(domain.guest_time(now), ran);
                domain.pauses = pauses;
                domain.settle(now);
                prop_assert_eq!(domain.guest_time(now), ran);
            }
        }
    }
}
