//! What a handler is given besides argument and payload.

use std::sync::Arc;

use libvirt_qubes::ids::VmName;
use tokio_util::sync::CancellationToken;

use crate::config::Limits;
use crate::failure::Failure;
use crate::wire::VmRef;

/// Which of the two documents a call speaks, by the prefix of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// `mgmt.*`, the draft.
    Mgmt,
    /// `admin.*`, the deployed API.
    Admin,
}

impl Dialect {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Mgmt, Self::Admin];

    /// What names of this dialect begin with.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Mgmt => "mgmt.",
            Self::Admin => "admin.",
        }
    }
}

/// What dispatch must know of the world before a handler runs. Reads of a snapshot: they never block.
pub trait Directory: Send + Sync + 'static {
    /// The VM that a request names, by the name that it has now; `None` if there is none.
    fn find(&self, vm: &VmRef) -> Option<VmName>;

    /// Why a destination that was not found is none.
    fn missing(&self, vm: &VmRef) -> Failure {
        Failure::no_such_domain(&vm.to_string())
    }
}

/// The circumstances of one call.
pub struct Cx<H> {
    /// The library's handle.
    pub host: Arc<H>,
    /// The dialect of the call.
    pub dialect: Dialect,
    /// Who calls. Existed when the call began.
    pub source: VmName,
    /// What the call is about. Existed when the call began.
    pub destination: VmName,
    /// What the method's name has in the place of `<class>`; empty where it has no such place.
    pub class: &'static str,
    /// The limits of the configuration.
    pub limits: Arc<Limits>,
    /// Cancelled when the client leaves, in calls which that cancels, and then at the daemon's end; never in
    /// other calls.
    pub cancelled: CancellationToken,
}

impl<H: Directory> Cx<H> {
    /// The VM that a text in an argument or a payload names.
    ///
    /// # Errors
    /// There is none, or none that the source may see: one answer.
    pub fn vm(&self, text: &str) -> Result<VmName, Failure> {
        let found = text.parse::<VmRef>().ok().and_then(|vm| self.host.find(&vm));
        found.filter(|vm| self.sees(vm)).ok_or_else(|| Failure::no_such_domain(text))
    }

    /// Whether the source may know of this VM.
    pub fn sees(&self, vm: &VmName) -> bool {
        sees(&self.source, vm)
    }

    /// What the source may know of, for what goes on after the call has answered.
    pub fn sight(&self) -> Sight {
        Sight::of(self.source.clone())
    }
}

/// What a source may know of.
#[derive(Debug, Clone)]
pub struct Sight {
    source: VmName,
}

impl Sight {
    pub(crate) fn of(source: VmName) -> Self {
        Self { source }
    }

    /// Whether the source may know of this VM.
    pub fn sees(&self, vm: &VmName) -> bool {
        sees(&self.source, vm)
    }
}

/// dom0 may know of all VMs; nobody else of any, unless policy says.
fn sees(source: &VmName, _vm: &VmName) -> bool {
    source.is_dom0()
}
