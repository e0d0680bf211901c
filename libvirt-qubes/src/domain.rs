//! Plans for bare domains: what to do, as data. Pure: no hypervisor, no file, no clock.
//!
//! ```text
//!              create                 unpause
//!  no domain ─────────► Paused ───────────────────► Running
//!      ▲                  ▲           pause            │
//!      │                  └────────────────────────────┤
//!      │                                               │ the guest shuts down,
//!      │            destroy, from every state          ▼ asked or by itself
//!      └─────────── Dying ◄──────────────────── Shutdown(reason)
//! ```
//!
//! A domain that has shut down stays, with its memory and its disks, until it is destroyed. [`plan`] decides
//! from the state and the request alone; [`Step`] does and undoes through a
//! [`Toolstack`], and `exec` runs it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::{Access, DiskSpec, DomainSpec};
use crate::error::{Error, Kind, Op, Result};
use crate::exec::{Act, Effort};
use crate::hypervisor::{BoxFuture, DomainState};
use crate::ids::Vdev;
use crate::toolstack::Toolstack;

/// What a new domain does first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Begin {
    /// It runs.
    Running,
    /// It stays paused.
    Paused,
}

/// What somebody wants of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// That it comes into being.
    Start(DomainSpec, Begin),
    /// That its processors stop.
    Pause,
    /// That they go on.
    Unpause,
    /// That its guest is asked to power off.
    Shutdown,
    /// That it ends.
    Kill,
    /// That it gets a disk.
    AttachDisk(DiskSpec),
    /// That it loses one.
    DetachDisk(Vdev),
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Makes sure that no other domain uses these disks in a way that forbids it. Undone by giving them back.
    ClaimDisks(Uuid, Vec<DiskSpec>),
    /// Builds the domain and leaves it paused. Undone by destroying it.
    CreateDomain(Box<DomainSpec>),
    /// Lets it run. What undoes a start destroys the domain; by itself this has no undo.
    Unpause(Uuid),
    /// Stops its processors. Undone by unpausing.
    Pause(Uuid),
    /// Hands the guest a request to power off. Cannot be undone.
    RequestShutdown(Uuid),
    /// Ends the domain and gives its disks back. Cannot be undone.
    Destroy(Uuid),
    /// Attaches a disk that is claimed. Undone by detaching it.
    AttachDisk(Uuid, DiskSpec),
    /// Detaches a disk and gives it back. Cannot be undone.
    DetachDisk(Uuid, Vdev),
}

/// What to do so that `request` is met of the domain `uuid`, which is in the state `now` (`None`: there is no
/// such domain). Nothing, where it is met already.
///
/// `Kind::NotFound` where there is no domain, `Kind::AlreadyExists` where there must be none, `Kind::Busy` where
/// the state forbids it, `Kind::Invalid` for a specification that no host could build.
pub fn plan(uuid: Uuid, now: Option<DomainState>, request: &Request) -> Result<Vec<Step>> {
    use DomainState::{Dying, Paused, Running, Shutdown};
    let refuse = |kind, why| Err(Error::new(kind, request.op(), uuid).because(why));
    let state = match (request, now) {
        (Request::Start(spec, begin), None) => {
            check(spec)?;
            let mut steps = Vec::new();
            if !spec.disks.is_empty() {
                steps.push(Step::ClaimDisks(uuid, spec.disks.clone()));
            }
            steps.push(Step::CreateDomain(Box::new(spec.clone())));
            if *begin == Begin::Running {
                steps.push(Step::Unpause(uuid));
            }
            return Ok(steps);
        }
        (Request::Start(..), Some(_)) => return refuse(Kind::AlreadyExists, "it is there already"),
        (_, None) => return Err(Error::new(Kind::NotFound, request.op(), uuid)),
        (_, Some(state)) => state,
    };
    Ok(match (request, state) {
        (Request::Kill, _) => vec![Step::Destroy(uuid)],
        (_, Dying) => return refuse(Kind::Busy, "it is being destroyed"),
        (_, Shutdown(_)) => return refuse(Kind::Busy, "it has shut down"),
        (Request::Start(..), Running | Paused) => return refuse(Kind::AlreadyExists, "it is there already"),
        (Request::Pause, Running) => vec![Step::Pause(uuid)],
        (Request::Unpause, Paused) => vec![Step::Unpause(uuid)],
        (Request::Pause, Paused) | (Request::Unpause, Running) => Vec::new(),
        (Request::Shutdown, Running) => vec![Step::RequestShutdown(uuid)],
        (Request::Shutdown, Paused) => return refuse(Kind::Busy, "it is paused"),
        (Request::AttachDisk(disk), Running | Paused) => {
            vec![Step::ClaimDisks(uuid, vec![disk.clone()]), Step::AttachDisk(uuid, disk.clone())]
        }
        (Request::DetachDisk(vdev), Running | Paused) => vec![Step::DetachDisk(uuid, *vdev)],
    })
}

/// Refuses a specification that no host could build: `Kind::Invalid`.
pub fn check(spec: &DomainSpec) -> Result<()> {
    /// Far more than any hypervisor gives one domain.
    const MOST_VCPUS: u32 = 512;
    let refuse =
        |why: &str| Err(Error::new(Kind::Invalid, Op::CreateDomain, &spec.name).because(why.to_owned()));
    if spec.uuid.is_nil() {
        return refuse("the UUID is dom0's");
    }
    if spec.vcpus == 0 || spec.vcpus > MOST_VCPUS {
        return refuse("the number of virtual CPUs must be 1 to 512");
    }
    if spec.memory.get() == 0 || spec.max_memory < spec.memory {
        return refuse("memory must be more than nothing and at most max_memory");
    }
    let (mut names, mut uses) = (HashSet::new(), HashMap::<&Path, Access>::new());
    for disk in &spec.disks {
        let bad = |target: &dyn fmt::Display, why: &str| {
            Err(Error::new(Kind::Invalid, Op::AttachDisk, target).because(why.to_owned()))
        };
        if !names.insert(disk.vdev) {
            return bad(&disk.vdev, "two disks have this name");
        }
        if !disk.path.is_absolute() {
            return bad(&disk.path.display(), "not an absolute path");
        }
        let before = uses.insert(&disk.path, disk.access);
        if before.is_some_and(|before| before == Access::ReadWrite || disk.access == Access::ReadWrite) {
            return bad(&disk.path.display(), "two disks use it, and one writes");
        }
    }
    Ok(())
}

impl Request {
    /// What it asks for, in an error.
    pub fn op(&self) -> Op {
        match self {
            Self::Start(..) => Op::CreateDomain,
            Self::Pause => Op::PauseDomain,
            Self::Unpause => Op::UnpauseDomain,
            Self::Shutdown => Op::ShutdownDomain,
            Self::Kill => Op::DestroyDomain,
            Self::AttachDisk(_) => Op::AttachDisk,
            Self::DetachDisk(_) => Op::DetachDisk,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClaimDisks(_, disks) => {
                f.write_str("claim")?;
                disks.iter().try_for_each(|disk| write!(f, " {}", disk.path.display()))
            }
            Self::CreateDomain(spec) => write!(f, "create domain {}", spec.name),
            Self::Unpause(uuid) => write!(f, "unpause domain {uuid}"),
            Self::Pause(uuid) => write!(f, "pause domain {uuid}"),
            Self::RequestShutdown(uuid) => write!(f, "ask domain {uuid} to shut down"),
            Self::Destroy(uuid) => write!(f, "destroy domain {uuid}"),
            Self::AttachDisk(uuid, disk) => {
                write!(f, "attach {} as {} to {uuid}", disk.path.display(), disk.vdev)
            }
            Self::DetachDisk(uuid, vdev) => write!(f, "detach {vdev} from {uuid}"),
        }
    }
}

impl Act for Step {
    type Context = Toolstack;

    fn run<'a>(
        &'a self,
        toolstack: &'a Toolstack,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<()>> {
        let hypervisor = toolstack.hypervisor();
        match self {
            Self::ClaimDisks(uuid, disks) => Box::pin(toolstack.claim_disks(*uuid, disks)),
            Self::CreateDomain(spec) => Box::pin(toolstack.create_domain(spec, cancel)),
            Self::Unpause(uuid) => Box::pin(async move {
                tokio::select! {
                    biased;
                    unpaused = hypervisor.unpause(*uuid) => unpaused,
                    // The call runs on; whoever cancels ends the domain.
                    () = cancel.cancelled() => Err(self.error(Kind::Cancelled)),
                }
            }),
            Self::Pause(uuid) => hypervisor.pause(*uuid),
            Self::RequestShutdown(uuid) => hypervisor.request_shutdown(*uuid),
            Self::Destroy(uuid) => Box::pin(toolstack.destroy_domain(*uuid)),
            Self::AttachDisk(uuid, disk) => Box::pin(toolstack.plug_disk(*uuid, disk, cancel)),
            Self::DetachDisk(uuid, vdev) => Box::pin(toolstack.unplug_disk(*uuid, *vdev, cancel)),
        }
    }

    fn undo<'a>(&'a self, toolstack: &'a Toolstack) -> BoxFuture<'a, Result<()>> {
        let undone = async move {
            match self {
                Self::ClaimDisks(uuid, disks) => toolstack.unclaim_disks(*uuid, disks).await,
                Self::CreateDomain(spec) => toolstack.destroy_domain(spec.uuid).await,
                Self::Pause(uuid) => toolstack.hypervisor().unpause(*uuid).await,
                Self::AttachDisk(uuid, disk) => {
                    // The claim is given back by its own undo.
                    let never = CancellationToken::new();
                    toolstack.hypervisor().detach_disk(*uuid, disk.vdev, never).await
                }
                Self::Unpause(_) | Self::RequestShutdown(_) | Self::Destroy(_) | Self::DetachDisk(..) => {
                    Ok(())
                }
            }
        };
        Box::pin(async {
            match undone.await {
                Err(error) if error.kind() == Kind::NotFound => Ok(()),
                end => end,
            }
        })
    }

    fn effort(&self) -> Effort {
        Effort::Required
    }

    fn error(&self, kind: Kind) -> Error {
        match self {
            Self::ClaimDisks(uuid, _) | Self::AttachDisk(uuid, _) => Error::new(kind, Op::AttachDisk, uuid),
            Self::CreateDomain(spec) => Error::new(kind, Op::CreateDomain, &spec.name),
            Self::Unpause(uuid) => Error::new(kind, Op::UnpauseDomain, uuid),
            Self::Pause(uuid) => Error::new(kind, Op::PauseDomain, uuid),
            Self::RequestShutdown(uuid) => Error::new(kind, Op::ShutdownDomain, uuid),
            Self::Destroy(uuid) => Error::new(kind, Op::DestroyDomain, uuid),
            Self::DetachDisk(uuid, _) => Error::new(kind, Op::DetachDisk, uuid),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::VirtMode;
    use crate::hypervisor::ShutdownReason;
    use crate::ids::MemoryMib;

    const UUID: Uuid = Uuid::from_u128(7);

    fn disk(index: u16, path: &str, access: Access) -> DiskSpec {
        DiskSpec { vdev: Vdev::new(index).unwrap(), path: path.into(), access }
    }

    fn spec(disks: Vec<DiskSpec>) -> DomainSpec {
        DomainSpec {
            name: "work".parse().unwrap(),
            uuid: UUID,
            virt_mode: VirtMode::Pvh,
            memory: MemoryMib::new(64),
            max_memory: MemoryMib::new(64),
            vcpus: 1,
            boot: None,
            disks,
        }
    }

    /// The state machine of the diagram; `Err` for an arrow that it has not.
    fn follow(now: Option<DomainState>, step: &Step) -> Result<Option<DomainState>, String> {
        use DomainState::{Paused, Running};
        match (step, now) {
            (Step::ClaimDisks(..), now) => Ok(now),
            (Step::CreateDomain(_), None) => Ok(Some(Paused)),
            (Step::Unpause(_), Some(Paused)) | (Step::RequestShutdown(_), Some(Running)) => Ok(Some(Running)),
            (Step::Pause(_), Some(Running)) => Ok(Some(Paused)),
            (Step::Destroy(_), Some(_)) => Ok(None),
            (Step::AttachDisk(..) | Step::DetachDisk(..), Some(Paused | Running)) => Ok(now),
            (step, now) => Err(format!("{step} in {now:?}")),
        }
    }

    fn states() -> impl Strategy<Value = Option<DomainState>> {
        prop_oneof![
            Just(None),
            Just(Some(DomainState::Running)),
            Just(Some(DomainState::Paused)),
            Just(Some(DomainState::Dying)),
            Just(Some(DomainState::Shutdown(ShutdownReason::Poweroff))),
            Just(Some(DomainState::Shutdown(ShutdownReason::Crash))),
        ]
    }

    fn requests() -> impl Strategy<Value = Request> {
        let disks = proptest::collection::vec(0u16..700, 0..4).prop_map(|names| {
            let names: std::collections::BTreeSet<u16> = names.into_iter().collect();
            names.into_iter().map(|n| disk(n, &format!("/d/{n}"), Access::ReadWrite)).collect::<Vec<_>>()
        });
        prop_oneof![
            (disks, prop_oneof![Just(Begin::Running), Just(Begin::Paused)])
                .prop_map(|(disks, begin)| Request::Start(spec(disks), begin)),
            Just(Request::Pause),
            Just(Request::Unpause),
            Just(Request::Shutdown),
            Just(Request::Kill),
            (0u16..700).prop_map(|n| Request::AttachDisk(disk(n, "/d", Access::ReadOnly))),
            (0u16..700).prop_map(|n| Request::DetachDisk(Vdev::new(n).unwrap())),
        ]
    }

    proptest! {
        #[test]
        fn a_plan_follows_the_diagram_and_ends_where_it_was_to(now in states(), request in requests()) {
            use DomainState::{Paused, Running};
            let steps = match plan(UUID, now, &request) {
                Ok(steps) => steps,
                Err(error) => {
                    prop_assert_eq!(error.op(), request.op());
                    let kind = match (&request, now) {
                        (Request::Start(..), _) => Kind::AlreadyExists,
                        (_, None) => Kind::NotFound,
                        (_, Some(_)) => Kind::Busy,
                    };
                    prop_assert_eq!(error.kind(), kind);
                    return Ok(());
                }
            };
            let mut state = now;
            for step in &steps {
                state = follow(state, step).map_err(TestCaseError::fail)?;
            }
            let wanted = match &request {
                Request::Start(_, Begin::Running) | Request::Unpause => Some(Running),
                Request::Start(_, Begin::Paused) | Request::Pause => Some(Paused),
                Request::Kill => None,
                Request::Shutdown | Request::AttachDisk(_) | Request::DetachDisk(_) => now,
            };
            prop_assert_eq!(state, wanted);
            // Asked again of the state that was reached, a plan for a state finds nothing to do.
            if matches!(request, Request::Pause | Request::Unpause) {
                prop_assert_eq!(plan(UUID, state, &request).unwrap(), vec![]);
            }
        }

        #[test]
        fn every_disk_is_claimed_before_the_domain_that_uses_it_is_made(request in requests()) {
            let (now, disks) = match &request {
                Request::Start(spec, _) => (None, spec.disks.clone()),
                Request::AttachDisk(disk) => (Some(DomainState::Running), vec![disk.clone()]),
                Request::Pause
                | Request::Unpause
                | Request::Shutdown
                | Request::Kill
                | Request::DetachDisk(_) => return Ok(()),
            };
            let steps = plan(UUID, now, &request).unwrap();
            let (mut claimed, mut used) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::ClaimDisks(_, disks) => claimed.extend(disks),
                    Step::CreateDomain(spec) => used.extend(spec.disks),
                    Step::AttachDisk(_, disk) => used.push(disk),
                    Step::Unpause(_)
                    | Step::Pause(_)
                    | Step::RequestShutdown(_)
                    | Step::Destroy(_)
                    | Step::DetachDisk(..) => continue,
                }
                prop_assert!(used.iter().all(|disk| claimed.contains(disk)));
            }
            prop_assert_eq!(&claimed, &disks);
            prop_assert_eq!(&used, &disks);
        }
    }

    #[test]
    fn a_specification_that_no_host_could_build_is_refused_before_anything_is_done() {
        let good = spec(vec![disk(0, "/a", Access::ReadOnly), disk(1, "/a", Access::ReadOnly)]);
        check(&good).unwrap();
        let refused = |change: &dyn Fn(&mut DomainSpec)| {
            let mut bad = good.clone();
            change(&mut bad);
            let error = plan(UUID, None, &Request::Start(bad, Begin::Running)).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{}", error.report());
        };
        refused(&|s| s.uuid = Uuid::nil());
        refused(&|s| s.vcpus = 0);
        refused(&|s| s.vcpus = 513);
        refused(&|s| s.memory = MemoryMib::new(0));
        refused(&|s| s.memory = MemoryMib::new(65));
        refused(&|s| s.disks[1].vdev = s.disks[0].vdev);
        refused(&|s| s.disks[1].path = "a".into());
        refused(&|s| s.disks[1].access = Access::ReadWrite);
    }
}
