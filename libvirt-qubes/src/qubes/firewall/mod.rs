//! A VM's firewall: which of its outgoing connections its netvm lets pass.
//!
//! The first rule that matches decides, and what no rule matches is dropped. A VM that nobody has given a list has
//! one rule, `action=accept`; an empty list drops everything. Rules are kept with the VM, have an id that is never
//! used again within it, and are gone when they expire.
//!
//! - [`options`], [`rule`]: the grammar, and every way in which a rule is written down;
//! - [`list`]: rules in order, with their ids;
//! - [`change`]: what calls do to a list, as pure functions of a snapshot;
//! - [`xml`]: `firewall.xml`, as in a VM's folder and in backups;
//! - [`qubesdb`]: what the agent in the netvm reads. Nothing here writes it there: whoever does follows
//!   [`EventKind::FirewallChanged`](super::event::EventKind::FirewallChanged) and the VM's starts.

pub mod change;
mod host;
pub mod list;
pub mod options;
pub mod qubesdb;
pub mod rule;
#[cfg(test)]
mod store_test;
#[cfg(test)]
pub(in crate::qubes) mod strategy;
pub mod xml;

pub use change::Place;
pub use list::{Entry, Firewall, MOST_RULES, RuleId, TooManyRules};
pub use options::{Action, Comment, Destination, Expire, Family, IcmpType, Ports, Proto, SpecialTarget};
pub use rule::{BadRule, Rule};
