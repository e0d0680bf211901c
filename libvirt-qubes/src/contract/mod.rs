//! The contracts of this crate's traits as code that every implementation runs in its tests.
//!
//! Always compiled, so that an implementation outside this crate can be held to them too. A contract that is
//! broken panics, as a test does.

pub mod hypervisor;
pub mod storage;
