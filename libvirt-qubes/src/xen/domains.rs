//! `Domains` on libxl.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::ctx::Ctx;
use super::operation::{Lane, What};
use super::usage::Tells;
use super::{Inner, LibxlHypervisor, convert, end, spec, usage, xenstore};
use crate::config::DomainSpec;
use crate::error::{Kind, Op, Result};
use crate::hypervisor::{BoxFuture, DomainInfo, DomainState, DomainUsage, Domains};
use crate::ids::DomId;

impl Domains for LibxlHypervisor {
    fn list(&self) -> BoxFuture<'_, Result<Vec<DomainInfo>>> {
        let what = What::new("list", Op::ListDomains, "all");
        Box::pin(self.inner.short(what, |inner, what| {
            let list = inner.main.domains().map_err(|error| what.failed(error))?;
            let mut told = usage::Told::open();
            let whole = |info| Some(with_xenstore(convert::domain_info(info)?, &inner.main, &mut told));
            Ok(list.iter().filter_map(whole).collect())
        }))
    }

    fn info(&self, uuid: Uuid) -> BoxFuture<'_, Result<DomainInfo>> {
        let what = What::new("info", Op::ListDomains, uuid);
        Box::pin(self.inner.short(what, move |inner, what| {
            let info = find(&inner.main, what, uuid)?;
            Ok(with_xenstore(info, &inner.main, &mut usage::Told::open()))
        }))
    }

    fn usage(&self) -> BoxFuture<'_, Result<Vec<DomainUsage>>> {
        let what = What::new("usage", Op::ListDomains, "all");
        Box::pin(self.inner.short(what, |inner, what| {
            let list = inner.main.domains().map_err(|error| what.failed(error))?;
            Ok(usage::of(&list.iter().collect::<Vec<_>>(), &mut usage::Told::open()))
        }))
    }

    fn create(&self, spec: DomainSpec, cancel: CancellationToken) -> BoxFuture<'_, Result<DomId>> {
        Box::pin(self.inner.create(spec, cancel))
    }

    fn pause(&self, uuid: Uuid) -> BoxFuture<'_, Result<()>> {
        let what = What::new("pause", Op::PauseDomain, uuid);
        Box::pin(self.inner.short(what, move |inner, what| {
            // Without xenstored a pause works and an unpause does not.
            xenstore::check()?;
            let _one_at_a_time = inner.pausing();
            let info = find(&inner.main, what, uuid)?;
            if info.state == DomainState::Running {
                inner.main.pause(info.domid.get()).map_err(|error| what.failed(error))?;
                inner.events.look();
            }
            Ok(())
        }))
    }

    fn unpause(&self, uuid: Uuid) -> BoxFuture<'_, Result<()>> {
        /// More pauses than this are somebody's mistake that we do not repeat for ever.
        const MOST: usize = 1000;
        let what = What::new("unpause", Op::UnpauseDomain, uuid);
        Box::pin(self.inner.short(what, move |inner, what| {
            xenstore::check()?;
            let _one_at_a_time = inner.pausing();
            for _ in 0..MOST {
                let info = find(&inner.main, what, uuid)?;
                if info.state != DomainState::Paused {
                    inner.events.look();
                    return Ok(());
                }
                inner.main.unpause(info.domid.get()).map_err(|error| what.failed(error))?;
            }
            Err(what.error(Kind::Busy).because("somebody keeps pausing it"))
        }))
    }

    fn request_shutdown(&self, uuid: Uuid) -> BoxFuture<'_, Result<()>> {
        let what = What::new("shutdown", Op::ShutdownDomain, uuid);
        Box::pin(self.inner.short(what, move |inner, what| {
            xenstore::check()?;
            let info = find(&inner.main, what, uuid)?;
            // libxl would wait a minute for the guest in each of these states.
            let why = match info.state {
                DomainState::Running => None,
                DomainState::Paused => Some("it is paused"),
                DomainState::Shutdown(_) => Some("it has shut down already"),
                DomainState::Dying => Some("it is being destroyed"),
            };
            if let Some(why) = why {
                return Err(what.error(Kind::Busy).because(why));
            }
            inner.ask_to_shut_down(info.domid, what)
        }))
    }

    fn destroy(&self, uuid: Uuid) -> BoxFuture<'_, Result<()>> {
        let what = What::new("destroy", Op::DestroyDomain, uuid);
        Box::pin(async move {
            let called_off = self.inner.building.call_off(uuid).await;
            let (inner, named) = (Arc::clone(&self.inner), what.clone());
            let end = move || end::destroy(&inner.events, &named, uuid);
            match self.inner.lanes.run(Lane::End, what, end).await {
                // The build has undone itself.
                Err(error) if called_off && error.kind() == Kind::NotFound => Ok(()),
                other => other,
            }
        })
    }
}

impl Inner {
    async fn create(self: &Arc<Self>, spec: DomainSpec, cancel: CancellationToken) -> Result<DomId> {
        let what = What::new("create", Op::CreateDomain, &spec.name);
        let uuid = spec.uuid;
        let cancel = cancel.child_token();
        let reserved = self.building.begin(&spec.name, uuid, cancel.clone());
        let reserved = reserved
            .ok_or_else(|| what.error(Kind::AlreadyExists).because("a domain is being built with it"))?;
        // Whether libxl was asked to build: before, a domain of this UUID is somebody else's.
        let begun = Arc::new(AtomicBool::new(false));
        let work = {
            let (inner, what, begun) = (Arc::clone(self), what.clone(), Arc::clone(&begun));
            move |ctx: &Ctx| {
                spec::check(&spec)?;
                xenstore::check()?;
                refuse_twins(ctx, &what, &spec)?;
                spec::check_host(ctx, &what, &spec)?;
                let mut config = spec::domain_config(&spec, &inner.block_script)?;
                begun.store(true, Ordering::Release);
                let domid = ctx.create(&mut config).map_err(|error| what.failed(error))?;
                DomId::new(domid).ok_or_else(|| what.error(Kind::Backend).because("it has no domain number"))
            }
        };
        let settle = {
            let (inner, what, token) = (Arc::clone(self), what.clone(), cancel.clone());
            move |built: Result<DomId>| {
                let built = built.and_then(|domid| {
                    if token.is_cancelled() { Err(what.error(Kind::Cancelled)) } else { Ok(domid) }
                });
                match &built {
                    // That the watch is there only puts the events of the next calls in order.
                    Ok(domid) => {
                        inner.events.watch(uuid, *domid).blocking_recv().ok();
                    }
                    Err(_) if begun.load(Ordering::Acquire) => end::clean_up(&inner.events, &what, uuid),
                    Err(_) => {}
                }
                drop(reserved);
                built
            }
        };
        self.lanes.operate(Lane::Long, what, cancel, work, settle).await
    }
}

/// With what xenstore alone tells: the name, and the most memory that the domain was built for. (Xen's own limit
/// follows what it is to have at the moment; until the node is written, it is all that is known.)
fn with_xenstore(mut info: DomainInfo, ctx: &Ctx, told: &mut impl Tells) -> DomainInfo {
    let domid = info.domid.get();
    info.name = ctx.name(domid);
    info.max_memory_kib = told.memory(domid, "static-max").unwrap_or(info.max_memory_kib);
    info
}

/// The domain of a UUID: a live one if there are several (one that is torn down may linger).
pub(super) fn find(ctx: &Ctx, what: &What, uuid: Uuid) -> Result<DomainInfo> {
    let list = ctx.domains().map_err(|error| what.failed(error))?;
    list.iter()
        .filter(|info| convert::uuid(info) == uuid)
        .filter_map(convert::domain_info)
        .min_by_key(|info| info.state == DomainState::Dying)
        .ok_or_else(|| what.error(Kind::NotFound))
}

/// libxl accepts a UUID that another domain has, and both then share, and lose, their xenstore nodes; for a
/// name it builds the domain first.
fn refuse_twins(ctx: &Ctx, what: &What, spec: &DomainSpec) -> Result<()> {
    let list = ctx.domains().map_err(|error| what.failed(error))?;
    for info in list.iter().filter(|info| !info.dying) {
        let other = || format!("domain {} has it", info.domid);
        if convert::uuid(info) == spec.uuid {
            return Err(what.error(Kind::AlreadyExists).because(format!("UUID {}: {}", spec.uuid, other())));
        }
        if ctx.name(info.domid).is_some_and(|name| name == spec.name.as_str()) {
            return Err(what.error(Kind::AlreadyExists).because(format!("name {}: {}", spec.name, other())));
        }
    }
    Ok(())
}
