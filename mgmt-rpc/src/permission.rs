//! Who may make which call. The default is no.
//!
//! Calls whose source is dom0 are not subject to policy. Every other source is refused, always with the same
//! bytes, unless a [`Policy`] says otherwise.

use libvirt_qubes::ids::VmName;

use crate::wire::VmRef;

/// What is asked of the policy: the call as it was sent.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The method as sent, with its prefix.
    pub method: &'a str,
    /// The argument as sent.
    pub argument: &'a str,
    /// The VM that calls; never dom0.
    pub source: &'a VmName,
    /// The destination as sent; whether it exists is not known yet.
    pub destination: &'a VmRef,
}

/// What the policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The call goes on.
    Allow,
    /// The user has been asked by qrexec and has agreed, or the call would not be here: it goes on.
    Ask,
    /// The call is refused.
    Deny,
}

/// A source of decisions. Asked on an async thread: it must not block.
pub trait Policy: Send + Sync + 'static {
    /// Whether the call may be made.
    fn decide(&self, question: &Question<'_>) -> Decision;
}

/// The policy of a daemon without policy files: nobody but dom0.
#[derive(Debug, Clone, Copy)]
pub struct Dom0Only;

impl Policy for Dom0Only {
    fn decide(&self, _question: &Question<'_>) -> Decision {
        Decision::Deny
    }
}
