//! Storage pools as the model knows them: a driver's name and its options. What a driver makes of them is
//! storage's.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ids::PoolName;
use crate::storage::DriverKind;

/// A storage pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// The name of its driver: `file`, `file-reflink`, `lvm_thin`, `linux-kernel`...
    pub driver: Arc<str>,
    /// The driver's options as they were given (`dir_path`, `revisions_to_keep`...), without name and driver.
    pub options: BTreeMap<Arc<str>, Arc<str>>,
    /// Its place in the order of definition.
    pub position: u32,
}

impl Pool {
    /// Whether it is one of kernels; any other is one of volumes.
    pub fn holds_kernels(&self) -> bool {
        &*self.driver == DriverKind::LinuxKernel.as_str()
    }
}
