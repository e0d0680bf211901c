//! The life of simulated domains.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::connection::{Link, SimHypervisor, Waited, begun};
use super::disk::{OpenDisk, probe_boot_file};
use super::record::{Due, GuestAct, Phase, Record};
use super::rules::Effects;
use super::state::{State, millis};
use crate::config::DomainSpec;
use crate::domain;
use crate::error::{Error, Kind, Op, Result};
use crate::hypervisor::{
    BoxFuture, DomainChange, DomainInfo, DomainState, DomainUsage, Domains, ShutdownReason,
};
use crate::ids::{DomId, VmName};

impl Domains for SimHypervisor {
    fn list(&self) -> BoxFuture<'_, Result<Vec<DomainInfo>>> {
        let link = self.link.clone();
        let op = Op::ListDomains;
        begun(op, "all", async move {
            let ask = link.clone();
            let effects = link.world.with(op, "all", move |state| Ok(ask.effects(state, op, None))).await?;
            link.take_time(op, &effects, Duration::ZERO, &CancellationToken::new(), |_| false).await?;
            effects.failure(op, "all")?;
            let list = |state: &mut State| {
                let now = state.clock.now();
                Ok(state.records().map(|record| record.info(now)).collect())
            };
            link.world.with(op, "all", list).await
        })
    }

    fn info(&self, uuid: Uuid) -> BoxFuture<'_, Result<DomainInfo>> {
        let op = Op::ListDomains;
        let world = self.link.world.clone();
        Box::pin(async move {
            world.with(op, uuid, move |state| Ok(state.find(op, uuid)?.info(state.clock.now()))).await
        })
    }

    /// dom0 is no domain of the simulated host: it has all its processors, and takes no memory and no time of it.
    fn usage(&self) -> BoxFuture<'_, Result<Vec<DomainUsage>>> {
        Box::pin(async {
            let mut list = self.list().await?;
            list.sort_unstable_by_key(|info| info.domid);
            let dom0 = DomId::new(0).map(|domid| DomainInfo {
                uuid: Uuid::nil(),
                domid,
                name: None,
                state: DomainState::Running,
                memory_kib: 0,
                max_memory_kib: 0,
                cpu_time_ns: 0,
                vcpus: self.link.config.cpus,
            });
            let all = dom0.into_iter().chain(list);
            Ok(all.map(DomainUsage::from).collect())
        })
    }

    fn create(&self, spec: DomainSpec, cancel: CancellationToken) -> BoxFuture<'_, Result<DomId>> {
        begun(Op::CreateDomain, spec.name.clone(), self.link.clone().create(spec, cancel))
    }

    fn pause(&self, uuid: Uuid) -> BoxFuture<'_, Result<()>> {
        let link = self.link.clone();
        let op = Op::PauseDomain;
        begun(op, uuid, async move {
            let pause = move |state: &mut State, mut record: Record, _| {
                if !record.runs() {
                    return Ok(());
                }
                record.pauses = 1;
                state.change(op, record, Some(DomainChange::Paused))
            };
            link.on_domain(op, uuid, |_, _| Ok(()), &CancellationToken::new(), pause).await
        })
    }

    fn unpause(&self, uuid: Uuid) -> BoxFuture<'_, Result<()>> {
        let link = self.link.clone();
        let op = Op::UnpauseDomain;
        begun(op, uuid, async move {
            let unpause = move |state: &mut State, mut record: Record, effects: Effects| {
                if record.pauses == 0 {
                    return Ok(());
                }
                record.pauses = 0;
                plan_acts(state, &mut record, &effects);
                let runs = record.runs();
                state.change(op, record, runs.then_some(DomainChange::Unpaused))
            };
            let served = move |state: &State, record: &Record| state.services(op, &record.spec.name);
            link.on_domain(op, uuid, served, &CancellationToken::new(), unpause).await
        })
    }

    fn request_shutdown(&self, uuid: Uuid) -> BoxFuture<'_, Result<()>> {
        let link = self.link.clone();
        let op = Op::ShutdownDomain;
        begun(op, uuid, async move {
            let after = link.config.shutdown_ms;
            let listens = move |state: &State, record: &Record| {
                state.services(op, &record.spec.name)?;
                let words = match record.state() {
                    DomainState::Running => return Ok(()),
                    DomainState::Paused => "it is paused",
                    DomainState::Shutdown(_) => "it has shut down already",
                    DomainState::Dying => "it is being destroyed",
                };
                Err(record.error(Kind::Busy, op).because(words))
            };
            let request = move |state: &mut State, mut record: Record, effects: Effects| {
                plan_acts(state, &mut record, &effects);
                // A second request finds the guest on its way down.
                let asked =
                    record.due.iter().any(|due| due.act == GuestAct::ShutDown(ShutdownReason::Poweroff));
                if !effects.deaf && !effects.ends() && !asked {
                    let at = record.guest_time(state.clock.now()).saturating_add(after);
                    record.due.push(Due { at, act: GuestAct::ShutDown(ShutdownReason::Poweroff) });
                }
                state.change(op, record, None)
            };
            link.on_domain(op, uuid, listens, &CancellationToken::new(), request).await
        })
    }

    fn destroy(&self, uuid: Uuid) -> BoxFuture<'_, Result<()>> {
        begun(Op::DestroyDomain, uuid, self.link.clone().destroy(uuid))
    }
}

impl Link {
    async fn create(self: Arc<Self>, spec: DomainSpec, cancel: CancellationToken) -> Result<DomId> {
        let op = Op::CreateDomain;
        domain::check(&spec)?;
        let (name, link, first) = (spec.name.clone(), self.clone(), cancel.clone());
        let (domid, effects) = self
            .world
            .with(op, &name, move |state| {
                if first.is_cancelled() {
                    return Err(Error::new(Kind::Cancelled, op, &spec.name));
                }
                link.admit(state, &spec)?;
                let effects = link.effects(state, op, Some(&spec.name));
                let domid = state.number(op)?;
                state.put(op, Record::building(domid, spec))?;
                Ok((domid, effects))
            })
            .await?;
        let built = self.build(domid, &name, effects, &cancel).await;
        if built.is_err() {
            let removed = self.world.with(op, &name, move |state| match state.is_building(domid) {
                true => state.remove(op, domid),
                false => Ok(()),
            });
            if let Err(error) = removed.await {
                tracing::error!(error = error.report(), %domid, "a domain that could not be built is left");
            }
        }
        built
    }

    /// Whether there is room for a domain, in names and in memory.
    fn admit(&self, state: &State, spec: &DomainSpec) -> Result<()> {
        let error = |kind| Error::new(kind, Op::CreateDomain, &spec.name);
        state.services(Op::CreateDomain, &spec.name)?;
        for other in state.records() {
            let named = other.spec.name == spec.name && other.phase != Phase::Dying;
            if named || other.uuid() == spec.uuid {
                let what = if named { "name" } else { "UUID" };
                let words = format!("domain {} has this {what}", other.domid);
                return Err(error(Kind::AlreadyExists).because(words));
            }
        }
        let taken: u64 = state.records().map(|record| u64::from(record.spec.memory.get())).sum();
        let free = u64::from(self.config.memory_mb).saturating_sub(taken);
        if u64::from(spec.memory.get()) > free {
            let words = format!("{} MiB wanted, {free} MiB free", spec.memory);
            return Err(error(Kind::NoMemory).because(words));
        }
        Ok(())
    }

    /// Builds an admitted domain. What was begun is left to the caller to remove.
    async fn build(
        self: &Arc<Self>,
        domid: DomId,
        name: &VmName,
        effects: Effects,
        cancel: &CancellationToken,
    ) -> Result<DomId> {
        let op = Op::CreateDomain;
        let error = |kind| Error::new(kind, op, name);
        let start = Duration::from_millis(self.config.start_ms);
        match self.take_time(op, &effects, start, cancel, move |state| !state.is_building(domid)).await? {
            Waited::Enough => effects.failure(op, name)?,
            Waited::Cancelled => return Err(error(Kind::Cancelled)),
            Waited::Gone => {
                return Err(error(Kind::Backend).because("it was destroyed while it was built"));
            }
        }
        let listener = self.listener;
        let finish = move |state: &mut State| {
            let record = state.get(domid).filter(|record| record.phase == Phase::Building).cloned();
            let Some(mut record) = record else {
                let gone = Error::new(Kind::Backend, op, domid);
                return Err(gone.because("it was destroyed while it was built"));
            };
            state.services(op, &record.spec.name)?;
            if let Some(boot) = &record.spec.boot {
                for file in std::iter::once(&boot.kernel).chain(&boot.ramdisk) {
                    probe_boot_file(file)?;
                }
            }
            for disk in record.spec.disks.clone() {
                let open = OpenDisk::open(&disk)?;
                if let Some(user) = state.conflict(&open) {
                    let words = format!("{}: {user}", disk.path.display());
                    return Err(record.error(Kind::Busy, op).because(words));
                }
                state.hold(domid, disk.vdev, open);
            }
            record.disks = record.spec.disks.iter().map(|disk| (disk.vdev, disk.clone())).collect();
            record.phase = Phase::Whole;
            plan_acts(state, &mut record, &effects);
            state.put(op, record)?;
            state.watch(listener, domid);
            Ok(domid)
        };
        self.world.with(op, name, finish).await
    }

    async fn destroy(self: Arc<Self>, uuid: Uuid) -> Result<()> {
        let op = Op::DestroyDomain;
        let link = self.clone();
        let (domid, effects) = self
            .world
            .with(op, uuid, move |state| {
                let mut record = state.find(op, uuid)?.clone();
                state.services(op, &record.spec.name)?;
                let effects = link.effects(state, op, Some(&record.spec.name));
                effects.failure(op, &record.spec.name)?;
                let domid = record.domid;
                if record.phase != Phase::Dying {
                    record.phase = Phase::Dying;
                    record.due.clear();
                    state.put(op, record)?;
                }
                Ok((domid, effects))
            })
            .await?;
        let never = CancellationToken::new();
        self.take_time(op, &effects, Duration::ZERO, &never, move |state| state.is_gone(domid)).await?;
        self.world
            .with(op, uuid, move |state| match state.is_gone(domid) {
                true => Ok(()),
                false => state.remove(op, domid),
            })
            .await
    }
}

/// Plans what the guest does after an operation that goes well.
pub(super) fn plan_acts(state: &State, record: &mut Record, effects: &Effects) {
    let from = record.guest_time(state.clock.now());
    let acts = effects.acts.iter().cloned();
    record.due.extend(acts.map(|(after, act)| Due { at: from.saturating_add(millis(after)), act }));
}
