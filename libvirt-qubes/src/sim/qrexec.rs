//! Services in simulated guests: every one is there, does nothing and prints nothing, unless the script says that it
//! fails.

use tokio_util::sync::CancellationToken;

use super::connection::{SimHypervisor, begun};
use super::record::Record;
use super::state::State;
use crate::error::{Kind, Op, Result};
use crate::hypervisor::{BoxFuture, DomainState};
use crate::qrexec::{Qrexec, ServiceCall};

impl Qrexec for SimHypervisor {
    fn call(&self, call: ServiceCall) -> BoxFuture<'_, Result<Vec<u8>>> {
        let link = self.link.clone();
        let op = Op::CallService;
        let (uuid, target) = (call.uuid, format!("{} in {}", call.service, call.name));
        begun(op, target, async move {
            let runs = move |_: &State, record: &Record| match record.state() {
                DomainState::Running => Ok(()),
                state @ (DomainState::Paused | DomainState::Shutdown(_) | DomainState::Dying) => {
                    Err(record.error(Kind::Busy, op).because(format!("its domain is {state:?}")))
                }
            };
            let nothing = |_: &mut State, _: Record, _| Ok(Vec::new());
            link.on_domain(op, uuid, runs, &CancellationToken::new(), nothing).await
        })
    }
}
