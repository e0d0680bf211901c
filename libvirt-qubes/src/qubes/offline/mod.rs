//! What is done to a state while no daemon uses it: taking a system in from `qubes.xml`, giving it out, examining it.
//!
//! Each takes the lock of the state directory first, and is refused by name where somebody has it. All functions block.

mod dirs;
mod doctor;
mod export;
mod files;
mod import;
mod pci;
#[cfg(test)]
mod tests;

pub use super::store::Mend;
pub use doctor::{Examined, Trouble, TroubleKind, doctor};
pub use export::{Exported, export};
pub use import::{Bad, ImportError, ImportRequest, Imported, import};
