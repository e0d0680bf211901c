//! The state of a world: domains with their open disks, who watches them, and the passing of time.
//!
//! Order of every change: written to the store (if the world has one), then visible, then announced. A
//! daemon that is killed at any moment has told nobody of what its successor will not find.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::disk::OpenDisk;
use super::record::{Due, GuestAct, Phase, Record};
use super::rules::Rules;
use super::store::{Host, Store};
use crate::config::DiskSpec;
use crate::error::{Error, Kind, Op, Result};
use crate::hypervisor::{DomainChange, DomainEvent, DomainState, HypervisorEvent, ShutdownReason};
use crate::ids::{DomId, Vdev};

/// Milliseconds since 1970, from tokio's clock: it does not jump, and tests can hold it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    wall: u64,
    instant: Instant,
}

impl Clock {
    pub(super) fn new() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { wall: millis(wall), instant: Instant::now() }
    }

    pub(super) fn now(&self) -> u64 {
        self.wall.saturating_add(millis(self.instant.elapsed()))
    }

    /// The moment `wall`; far moments come early, to be looked at again.
    pub(super) fn instant(&self, wall: u64) -> Instant {
        const DAY: Duration = Duration::from_hours(24);
        let from_now = Duration::from_millis(wall.saturating_sub(self.now())).min(DAY);
        Instant::now().checked_add(from_now).unwrap_or_else(Instant::now)
    }
}

/// A duration in whole milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A connection's ear.
#[derive(Debug)]
struct Listener {
    events: broadcast::Sender<HypervisorEvent>,
    /// What it watches, and what it has been told.
    watched: HashMap<DomId, Told>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Told {
    shutdown: bool,
    died: bool,
}

/// A domain with what is open for it.
#[derive(Debug)]
struct Live {
    record: Record,
    /// `None` where a disk could not be opened again after a restart.
    disks: BTreeMap<Vdev, Option<OpenDisk>>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) clock: Clock,
    store: Option<Store>,
    host: Host,
    live: BTreeMap<DomId, Live>,
    listeners: BTreeMap<u64, Listener>,
    next_listener: u64,
    /// Rules that were put in by hand.
    pub(super) injected: Rules,
    /// How often hanging operations were released.
    pub(super) releases: u64,
    /// Whether events get lost.
    pub(super) muted: bool,
    /// Counts changes, for whoever waits for one.
    pub(super) changed: Arc<watch::Sender<u64>>,
}

impl State {
    /// The state that `store` holds. Opens its domains' disks: blocks.
    pub(super) fn new(
        store: Option<Store>,
        host: Option<Host>,
        records: Vec<Record>,
        changed: Arc<watch::Sender<u64>>,
    ) -> Self {
        let last = records.iter().map(|record| record.domid.get()).max().unwrap_or(0);
        let live = records
            .into_iter()
            .map(|record| {
                let reopened = record.disks.values().map(|disk| (disk.vdev, reopen(&record, disk)));
                (record.domid, Live { disks: reopened.collect(), record })
            })
            .collect();
        Self {
            clock: Clock::new(),
            store,
            host: host.unwrap_or(Host { next_domid: last.saturating_add(1), services_lost: false }),
            live,
            listeners: BTreeMap::new(),
            next_listener: 0,
            injected: Rules::default(),
            releases: 0,
            muted: false,
            changed,
        }
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.live.values().map(|live| &live.record)
    }

    /// The domain with this UUID, however far it is.
    pub(super) fn find(&self, op: Op, uuid: Uuid) -> Result<&Record> {
        self.records()
            .find(|record| record.uuid() == uuid)
            .ok_or_else(|| Error::new(Kind::NotFound, op, uuid))
    }

    /// The domain with this UUID, which must be whole.
    pub(super) fn whole(&self, op: Op, uuid: Uuid) -> Result<&Record> {
        let record = self.find(op, uuid)?;
        let words = match record.phase {
            Phase::Whole => return Ok(record),
            Phase::Building => "it is being built",
            Phase::Dying => "it is being destroyed",
        };
        Err(record.error(Kind::Busy, op).because(words))
    }

    pub(super) fn get(&self, domid: DomId) -> Option<&Record> {
        self.live.get(&domid).map(|live| &live.record)
    }

    /// Whether a domain is still being built.
    pub(super) fn is_building(&self, domid: DomId) -> bool {
        self.get(domid).is_some_and(|record| record.phase == Phase::Building)
    }

    /// Whether a domain is no more.
    pub(super) fn is_gone(&self, domid: DomId) -> bool {
        !self.live.contains_key(&domid)
    }

    /// Fails when the host's services are gone.
    pub(super) fn services(&self, op: Op, target: impl std::fmt::Display) -> Result<()> {
        if self.host.services_lost {
            return Err(Error::new(Kind::Unavailable, op, target).because("xenstored is gone"));
        }
        Ok(())
    }

    /// Ends the host's services, for ever.
    pub(super) fn lose_services(&mut self, op: Op) -> Result<()> {
        self.put_host(op, Host { services_lost: true, ..self.host.clone() })?;
        self.announce(&HypervisorEvent::Unavailable);
        Ok(())
    }

    /// A number that no domain had, until all were used once.
    pub(super) fn number(&mut self, op: Op) -> Result<DomId> {
        let next = self.host.next_domid;
        let free = (next..DomId::FIRST_RESERVED)
            .chain(1..next.min(DomId::FIRST_RESERVED))
            .filter_map(DomId::new)
            .find(|domid| !self.live.contains_key(domid))
            .ok_or_else(|| Error::new(Kind::Backend, op, "host").because("no domain number is free"))?;
        self.put_host(op, Host { next_domid: free.get().saturating_add(1), ..self.host.clone() })?;
        Ok(free)
    }

    fn put_host(&mut self, op: Op, host: Host) -> Result<()> {
        if let Some(store) = &self.store {
            store.put_host(op, &host)?;
        }
        self.host = host;
        Ok(())
    }

    /// Keeps a new or changed domain. On failure nothing is changed.
    pub(super) fn put(&mut self, op: Op, mut record: Record) -> Result<()> {
        record.settle(self.clock.now());
        if let Some(store) = &self.store {
            store.put(op, &record)?;
        }
        self.keep(record);
        Ok(())
    }

    /// Keeps a changed domain and tells of the change. On failure nothing is changed.
    pub(super) fn change(&mut self, op: Op, record: Record, change: Option<DomainChange>) -> Result<()> {
        let (domid, uuid) = (record.domid, record.uuid());
        self.put(op, record)?;
        if let Some(change) = change {
            self.tell(domid, uuid, change);
        }
        Ok(())
    }

    fn keep(&mut self, record: Record) {
        if let Some(live) = self.live.get_mut(&record.domid) {
            live.record = record;
        } else {
            self.live.insert(record.domid, Live { record, disks: BTreeMap::new() });
        }
        self.bump();
    }

    /// Takes a domain away and tells of its end. On failure it is there still.
    pub(super) fn remove(&mut self, op: Op, domid: DomId) -> Result<()> {
        if let Some(store) = &self.store {
            store.remove(op, domid)?;
        }
        if let Some(live) = self.live.remove(&domid) {
            self.tell(domid, live.record.uuid(), DomainChange::Died);
        }
        for listener in self.listeners.values_mut() {
            listener.watched.remove(&domid);
        }
        self.bump();
        Ok(())
    }

    /// Who else uses what `disk` names, in a way that forbids this use. The domain itself counts too.
    pub(super) fn conflict(&self, disk: &OpenDisk) -> Option<String> {
        self.live.values().find_map(|live| {
            let (vdev, _) = live
                .disks
                .iter()
                .find(|(_, other)| other.as_ref().is_some_and(|other| other.conflicts(disk)))?;
            Some(format!("it is {vdev} of {}", live.record.spec.name))
        })
    }

    /// Gives a domain a disk that is open.
    pub(super) fn hold(&mut self, domid: DomId, vdev: Vdev, disk: OpenDisk) {
        if let Some(live) = self.live.get_mut(&domid) {
            live.disks.insert(vdev, Some(disk));
        }
    }

    /// Closes a disk of a domain.
    pub(super) fn release(&mut self, domid: DomId, vdev: Vdev) {
        if let Some(live) = self.live.get_mut(&domid) {
            live.disks.remove(&vdev);
        }
    }

    /// The open disk of a domain.
    pub(super) fn disk(&self, domid: DomId, vdev: Vdev) -> std::io::Result<&OpenDisk> {
        self.live
            .get(&domid)
            .and_then(|live| live.disks.get(&vdev)?.as_ref())
            .ok_or_else(|| std::io::Error::new(std::io::ErrorKind::NotFound, format!("no disk {vdev}")))
    }

    pub(super) fn listen(&mut self, events: broadcast::Sender<HypervisorEvent>) -> u64 {
        let number = self.next_listener;
        self.next_listener = number.wrapping_add(1);
        self.listeners.insert(number, Listener { events, watched: HashMap::new() });
        number
    }

    pub(super) fn deafen(&mut self, listener: u64) {
        self.listeners.remove(&listener);
    }

    /// Makes a connection watch a domain; what has happened to it already is told now.
    pub(super) fn watch(&mut self, listener: u64, domid: DomId) {
        let Some(record) = self.get(domid) else { return };
        let (uuid, state) = (record.uuid(), record.state());
        let Some(ear) = self.listeners.get_mut(&listener) else { return };
        if ear.watched.contains_key(&domid) {
            return;
        }
        ear.watched.insert(domid, Told::default());
        let change = match state {
            DomainState::Shutdown(reason) => DomainChange::Shutdown(reason),
            DomainState::Dying => DomainChange::Died,
            DomainState::Running | DomainState::Paused => return,
        };
        ear.tell(domid, uuid, change);
    }

    /// Tells those who watch a domain.
    pub(super) fn tell(&mut self, domid: DomId, uuid: Uuid, change: DomainChange) {
        if self.muted {
            return;
        }
        for listener in self.listeners.values_mut() {
            listener.tell(domid, uuid, change);
        }
    }

    /// Tells everybody.
    pub(super) fn announce(&self, event: &HypervisorEvent) {
        for listener in self.listeners.values() {
            listener.send(event.clone());
        }
    }

    pub(super) fn bump(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// When a guest does something next.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.records().filter_map(Record::next_due).min()
    }

    /// Lets the guests do what is due by now, in the order of their times. Blocks: they write into disks.
    pub(super) fn advance(&mut self) {
        let now = self.clock.now();
        while let Some((at, domid)) =
            self.records().filter_map(|record| Some((record.next_due()?, record.domid))).min()
        {
            if at > now {
                break;
            }
            let Some(mut record) = self.get(domid).cloned() else { break };
            let Some(Due { act, .. }) = record.take_first_due() else { break };
            self.act(record, act, at);
        }
    }

    /// A guest's act at the moment `at`. It has nobody to answer to: what fails is logged.
    fn act(&mut self, record: Record, act: GuestAct, at: u64) {
        match act {
            GuestAct::ShutDown(reason) => self.end(record, reason, at),
            GuestAct::Write { vdev, offset, text } => {
                let written =
                    self.disk(record.domid, vdev).and_then(|disk| disk.write(offset, text.as_bytes()));
                if let Err(error) = written {
                    tracing::warn!(domain = %record.spec.name, %vdev, offset, %error, "a guest's write failed");
                }
                self.persist(&record);
                self.keep(record);
            }
        }
    }

    /// A guest shuts down at the moment `at`.
    pub(super) fn end(&mut self, mut record: Record, reason: ShutdownReason, at: u64) {
        record.shutdown = Some(reason);
        record.due.clear();
        record.settle(at);
        self.persist(&record);
        let (domid, uuid) = (record.domid, record.uuid());
        self.keep(record);
        self.tell(domid, uuid, DomainChange::Shutdown(reason));
    }

    fn persist(&self, record: &Record) {
        let written = self.store.as_ref().map_or(Ok(()), |store| store.put(Op::OpenHypervisor, record));
        if let Err(error) = written {
            tracing::error!(error = error.report(), "the simulated host's file is out of date");
        }
    }
}

impl Listener {
    fn tell(&mut self, domid: DomId, uuid: Uuid, change: DomainChange) {
        let Some(told) = self.watched.get_mut(&domid) else { return };
        let repeated = match change {
            DomainChange::Shutdown(_) => std::mem::replace(&mut told.shutdown, true),
            DomainChange::Died => std::mem::replace(&mut told.died, true),
            DomainChange::Paused | DomainChange::Unpaused => false,
        };
        if !repeated {
            self.send(HypervisorEvent::Domain(DomainEvent { uuid, domid, change }));
        }
    }

    fn send(&self, event: HypervisorEvent) {
        if self.events.send(event).is_err() {
            tracing::trace!("nobody listens to events");
        }
    }
}

/// A disk of a domain that was found at start.
fn reopen(record: &Record, disk: &DiskSpec) -> Option<OpenDisk> {
    match OpenDisk::open(disk) {
        Ok(open) => Some(open),
        Err(error) => {
            let (domain, vdev) = (&record.spec.name, disk.vdev);
            tracing::warn!(%domain, %vdev, error = error.report(), "a disk cannot be opened again");
            None
        }
    }
}
