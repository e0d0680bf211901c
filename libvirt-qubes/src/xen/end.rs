//! The end of a domain: destroying it, and cleaning up after a build that failed or was cancelled.

use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::ctx::Ctx;
use super::domains::find;
use super::events::Events;
use super::operation::What;
use super::watched::Ending;
use super::xenstore;
use crate::error::{Kind, Result};
use crate::hypervisor::DomainState;

/// Xen lists a domain for a moment after libxl is done with it; for longer only while another domain maps its
/// memory, and then everything else of it is gone.
const LINGERS: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Destroys the domain of a UUID, on a context of its own. Blocks until it is gone.
pub(super) fn destroy(events: &Events, what: &What, uuid: Uuid) -> Result<()> {
    let ctx = Ctx::open(what.label()).map_err(|error| what.failed(error))?;
    let info = find(&ctx, what, uuid)?;
    let domid = info.domid.get();
    if info.state != DomainState::Dying {
        xenstore::check()?;
        // Heeded or not, it is only about what is told.
        events.ending(info.domid, Ending::Begun).blocking_recv().ok();
        if let Err(error) = ctx.destroy(domid) {
            // Somebody else may have been faster: what Xen says counts.
            let left = ctx.domain(domid).map_err(|error| what.failed(error))?;
            if left.is_some_and(|info| !info.dying) {
                events.ending(info.domid, Ending::Failed).blocking_recv().ok();
                return Err(what.failed(error));
            }
        }
    }
    let until = Instant::now() + LINGERS;
    while ctx.domain(domid).map_err(|error| what.failed(error))?.is_some() {
        if Instant::now() > until {
            tracing::warn!(domid, "a destroyed domain lingers: another domain holds its memory");
            break;
        }
        thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// Removes what a failed or cancelled build left of a domain, if anything. (libxl leaves the domain after an
/// abort, and when xenstored is gone.)
pub(super) fn clean_up(events: &Events, what: &What, uuid: Uuid) {
    match destroy(events, what, uuid) {
        Ok(()) => tracing::debug!(%uuid, "what was left of the domain is removed"),
        Err(error) if error.kind() == Kind::NotFound => {}
        Err(error) => tracing::error!(%uuid, error = error.report(), "a half-built domain is left"),
    }
}
