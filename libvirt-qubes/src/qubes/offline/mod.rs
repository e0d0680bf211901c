//! What is done to a state while no daemon uses it: taking a system in from `qubes.xml`, and giving it out.
//!
//! Each takes the lock of the state directory first, and is refused by name where somebody has it. All functions block.

mod dirs;
mod export;
mod files;
mod import;
mod pci;
#[cfg(test)]
mod tests;

pub use export::{Exported, export};
pub use import::{Bad, ImportError, ImportRequest, Imported, import};
