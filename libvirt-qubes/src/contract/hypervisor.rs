//! What every [`Hypervisor`] keeps: the sentences of its traits' documentation, each tried out.

#![expect(clippy::expect_used, clippy::panic, reason = "a broken contract panics, as a test does")]

mod create;
mod devices;
mod end;
mod events;
mod host;
mod run;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::{DiskSpec, DomainSpec};
use crate::error::{Kind, Result};
use crate::hypervisor::{
    BoxFuture, DomainChange, DomainEvent, DomainInfo, DomainState, Hypervisor, HypervisorEvent,
};
use crate::ids::{DomId, VmName};

/// A guest that a contract needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Guest {
    /// It runs, and powers off soon after a shutdown request.
    Listens,
    /// It runs, and takes no notice of requests.
    Deaf,
    /// It powers off by itself soon after its start.
    PowersOff,
    /// It asks for a reboot soon after its start.
    Reboots,
    /// It crashes soon after its start.
    Crashes,
    /// It runs and has a block frontend: it connects disks and lets go of them.
    TakesDisks,
}

/// A host to try a hypervisor on. Names of domains begin with `contract-`; any that are found are destroyed.
pub trait Fixture: Send + Sync {
    /// A connection of its own to the host, as a program that was just started has it.
    fn connect(&self) -> BoxFuture<'_, Arc<dyn Hypervisor>>;

    /// A domain that this host can build, with a UUID of its own and without disks but those that it needs;
    /// `None` when it has no such guest, which leaves out the contracts that need it.
    fn spec(&self, name: VmName, guest: Guest) -> BoxFuture<'_, Option<DomainSpec>>;

    /// Waits until a guest that was unpaused does what its [`Guest`] says.
    fn ready<'a>(&'a self, spec: &'a DomainSpec) -> BoxFuture<'a, ()>;

    /// A new writable disk of at least 64 KiB that nobody uses, to be seen by the guest as `xvdi`.
    fn disk(&self) -> BoxFuture<'_, DiskSpec>;

    /// How long something that must happen may take.
    fn patience(&self) -> Duration;

    /// How long nothing happens when nothing is to come.
    fn quiet(&self) -> Duration;
}

/// How the trial of a contract ended, if it did not panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The contract is kept.
    Kept,
    /// It was not tried: the fixture lacks this guest.
    Skipped(Guest),
}

/// One contract.
#[derive(Clone, Copy)]
pub struct Contract {
    /// What is kept, as a function's name.
    pub name: &'static str,
    run: for<'a> fn(&'a Host<'a>) -> BoxFuture<'a, Outcome>,
}

impl fmt::Debug for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Contract {
    /// Tries the contract. Panics, with what was seen, when it is broken.
    pub async fn run(&self, fixture: &dyn Fixture) -> Outcome {
        let host = Host::new(fixture).await;
        host.clear().await;
        let outcome = (self.run)(&host).await;
        host.clear().await;
        outcome
    }
}

macro_rules! contracts {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$(Contract {
            name: stringify!($name),
            run: |host| Box::pin($module::$name(host)),
        }),*]
    };
}

/// Every contract, in an order from simple to involved.
pub const CONTRACTS: &[Contract] = contracts![
    host::a_host_tells_its_name_and_figures,
    host::dom0_is_not_listed,
    host::usage_is_dom0s_and_that_of_every_domain_in_the_order_of_numbers,
    create::a_created_domain_is_paused_and_as_asked_for,
    create::a_domain_is_listed_while_it_is_being_built,
    create::a_name_or_uuid_of_a_live_domain_is_refused,
    create::a_configuration_that_cannot_be_built_is_refused,
    create::a_domain_without_a_kernel_starts_only_where_the_host_says_so,
    create::too_much_memory_is_refused,
    create::a_failed_create_names_the_file_and_leaves_nothing,
    create::a_create_cancelled_before_it_begins_makes_nothing,
    create::a_create_cancelled_at_any_moment_leaves_nothing,
    create::a_create_whose_caller_goes_away_runs_to_its_end,
    create::domains_are_created_side_by_side,
    run::pause_and_unpause_are_idempotent,
    run::one_unpause_is_enough_whoever_paused,
    run::a_shutdown_request_is_handed_over_and_obeyed,
    run::a_deaf_guest_holds_nothing,
    run::a_domain_that_cannot_hear_is_not_asked,
    end::a_domain_is_destroyed_in_every_state,
    end::what_does_not_exist_is_not_found,
    end::destroys_at_the_same_time_agree,
    end::a_name_and_uuid_are_free_after_a_destroy,
    events::a_guests_own_end_is_told_once_and_the_domain_stays,
    events::pauses_are_told_whoever_caused_them,
    events::a_domain_made_by_another_process_is_watched,
    events::watching_twice_tells_once,
    devices::disks_of_a_new_domain_are_listed_in_order,
    devices::a_disk_is_attached_and_detached,
    devices::a_failed_attach_leaves_nothing,
    devices::an_attach_that_is_cancelled_leaves_nothing,
    devices::a_disk_is_free_again_after_its_domain,
    devices::a_running_guest_gets_a_disk_and_gives_it_back,
];

/// Tries every contract on the host of `fixture` and prints a line for each; what was left out is named.
pub async fn hypervisor_contract(fixture: &dyn Fixture) {
    for contract in CONTRACTS {
        eprint!("contract {} ... ", contract.name);
        match contract.run(fixture).await {
            Outcome::Kept => eprintln!("ok"),
            Outcome::Skipped(guest) => eprintln!("skipped: no guest that {guest:?}"),
        }
    }
}

/// What a contract works with.
pub(crate) struct Host<'a> {
    fixture: &'a dyn Fixture,
    hypervisor: Arc<dyn Hypervisor>,
}

/// Takes the spec of a guest, or leaves the contract out.
macro_rules! spec_or_skip {
    ($host:expr, $name:expr, $guest:expr) => {
        match $host.spec($name, $guest).await {
            Some(spec) => spec,
            None => return $crate::contract::hypervisor::Outcome::Skipped($guest),
        }
    };
}
use spec_or_skip;

impl<'a> Host<'a> {
    async fn new(fixture: &'a dyn Fixture) -> Self {
        Self { fixture, hypervisor: fixture.connect().await }
    }

    async fn spec(&self, name: &str, guest: Guest) -> Option<DomainSpec> {
        let name = format!("contract-{name}").parse().expect("a VM's name");
        self.fixture.spec(name, guest).await
    }

    /// Creates a domain that must come into being.
    async fn create(&self, spec: &DomainSpec) -> DomId {
        must(self.hypervisor.create(spec.clone(), CancellationToken::new()).await, "create")
    }

    /// Creates a domain, lets it run and waits until its guest is up.
    async fn start(&self, spec: &DomainSpec) -> DomId {
        let domid = self.create(spec).await;
        must(self.hypervisor.unpause(spec.uuid).await, "unpause");
        self.fixture.ready(spec).await;
        domid
    }

    async fn destroy(&self, uuid: Uuid) {
        must(self.hypervisor.destroy(uuid).await, "destroy");
    }

    async fn info(&self, uuid: Uuid) -> DomainInfo {
        must(self.hypervisor.info(uuid).await, "info")
    }

    async fn state(&self, uuid: Uuid) -> DomainState {
        self.info(uuid).await.state
    }

    /// Waits until a domain is in this state.
    async fn reaches(&self, uuid: Uuid, state: DomainState) {
        let end = Instant::now() + self.fixture.patience();
        while self.state(uuid).await != state {
            assert!(Instant::now() < end, "{uuid} did not come to {state:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asserts that no list and no look-up has such a domain.
    async fn assert_gone(&self, uuid: Uuid) {
        let list = must(self.hypervisor.list().await, "list");
        assert!(list.iter().all(|info| info.uuid != uuid), "still listed: {list:?}");
        fails_with(self.hypervisor.info(uuid).await, &[Kind::NotFound], "info of a domain that is gone");
    }

    /// Waits until as much memory is free as was before: a hypervisor may give it back a little later, and
    /// keep a few pages for itself (Xen's own tables grow and do not shrink).
    async fn gives_back(&self, free_before_kib: u64) {
        const ITS_OWN_KIB: u64 = 256;
        let end = Instant::now() + self.fixture.patience();
        loop {
            let free = must(self.hypervisor.facts().await, "facts").free_memory_kib;
            if free.saturating_add(ITS_OWN_KIB) >= free_before_kib {
                return;
            }
            assert!(Instant::now() < end, "{free} KiB free, {free_before_kib} before");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn free_memory_kib(&self) -> u64 {
        must(self.hypervisor.facts().await, "facts").free_memory_kib
    }

    fn listen(&self) -> Ear {
        Ear::new(self.fixture, self.hypervisor.as_ref())
    }

    /// Destroys what contracts left.
    async fn clear(&self) {
        for info in must(self.hypervisor.list().await, "list") {
            if info.name.is_some_and(|name| name.starts_with("contract-")) {
                // It may be going already.
                if let Err(error) = self.hypervisor.destroy(info.uuid).await {
                    assert_eq!(error.kind(), Kind::NotFound, "{}", error.report());
                }
            }
        }
    }
}

/// The events of one connection.
struct Ear {
    events: broadcast::Receiver<HypervisorEvent>,
    patience: Duration,
    quiet: Duration,
}

impl Ear {
    fn new(fixture: &dyn Fixture, hypervisor: &dyn Hypervisor) -> Self {
        let events = hypervisor.subscribe();
        Self { events, patience: fixture.patience(), quiet: fixture.quiet() }
    }

    /// The next event of this domain within `time`.
    async fn heard(&mut self, uuid: Uuid, time: Duration) -> Option<DomainEvent> {
        let end = Instant::now() + time;
        loop {
            match timeout_at(end, self.events.recv()).await.ok()? {
                Ok(HypervisorEvent::Domain(event)) if event.uuid == uuid => return Some(event),
                Ok(HypervisorEvent::Domain(_)) => {}
                Ok(lost @ (HypervisorEvent::Lost | HypervisorEvent::Unavailable)) => {
                    panic!("{lost:?} without a cause")
                }
                Err(error) => panic!("events: {error}"),
            }
        }
    }

    /// The next event of this domain, which must come and be this.
    async fn hears(&mut self, uuid: Uuid, domid: DomId, change: DomainChange) {
        let event = self.heard(uuid, self.patience).await;
        assert_eq!(event, Some(DomainEvent { uuid, domid, change }));
    }

    /// The next event of this domain that is no pause or unpause must come and be this.
    async fn hears_at_last(&mut self, uuid: Uuid, domid: DomId, change: DomainChange) {
        let end = Instant::now() + self.patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let event = self.heard(uuid, left).await;
            let of_run =
                event.is_some_and(|e| matches!(e.change, DomainChange::Paused | DomainChange::Unpaused));
            if !of_run {
                assert_eq!(event, Some(DomainEvent { uuid, domid, change }));
                return;
            }
        }
    }

    /// Nothing more comes of this domain.
    async fn hears_nothing(&mut self, uuid: Uuid) {
        let quiet = self.quiet;
        assert_eq!(self.heard(uuid, quiet).await, None);
    }
}

/// What must succeed.
fn must<T>(result: Result<T>, what: &str) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {}", error.report()))
}

/// What must fail in one of these ways; gives the report.
fn fails_with<T>(result: Result<T>, kinds: &[Kind], what: &str) -> String {
    match result {
        Ok(_) => panic!("{what}: succeeded"),
        Err(error) => {
            assert!(kinds.contains(&error.kind()), "{what}: {}, not {kinds:?}", error.report());
            error.report()
        }
    }
}
