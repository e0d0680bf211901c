//! Devices beyond what the hypervisor does for one domain: rules that hold between domains.

mod claims;

pub use claims::{Claim, DiskClaims, DiskId};
