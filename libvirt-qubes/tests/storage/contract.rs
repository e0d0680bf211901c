//! Every driver keeps the contract.

use std::path::PathBuf;
use std::sync::Arc;

use libvirt_qubes::contract::storage::{Fixture, storage_contract};
use libvirt_qubes::storage::{Driver, ImageDriver, SetupCheck};

use crate::filesystem::{Mkfs, Mounted};

struct Below {
    dir: PathBuf,
    driver: fn(&std::path::Path) -> ImageDriver,
}

impl Fixture for Below {
    fn new_pool(&self) -> Arc<dyn Driver> {
        let dir = tempfile::Builder::new().prefix("pool").tempdir_in(&self.dir).unwrap().keep();
        Arc::new((self.driver)(&dir.join("new")))
    }
}

fn file(dir: &std::path::Path) -> ImageDriver {
    ImageDriver::file(dir).unwrap()
}

fn reflink(dir: &std::path::Path) -> ImageDriver {
    ImageDriver::reflink(dir, SetupCheck::Probe).unwrap()
}

fn on(mkfs: Mkfs, driver: fn(&std::path::Path) -> ImageDriver, test: &str) {
    if let Some(mounted) = Mounted::new(mkfs, 512 << 20, test) {
        storage_contract(&Below { dir: mounted.path(), driver });
    }
}

#[test]
fn file_keeps_the_contract_where_temporary_files_lie() {
    let dir = tempfile::tempdir().unwrap();
    storage_contract(&Below { dir: dir.path().to_owned(), driver: file });
}

#[test]
fn file_keeps_the_contract_in_memory() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    storage_contract(&Below { dir: dir.path().to_owned(), driver: file });
}

#[test]
fn file_keeps_the_contract_on_ext4() {
    on(Mkfs::Ext4, file, "file_keeps_the_contract_on_ext4");
}

#[test]
fn file_keeps_the_contract_on_xfs() {
    on(Mkfs::Xfs, file, "file_keeps_the_contract_on_xfs");
}

#[test]
fn file_reflink_keeps_the_contract_on_xfs() {
    on(Mkfs::Xfs, reflink, "file_reflink_keeps_the_contract_on_xfs");
}

#[test]
fn file_reflink_keeps_the_contract_on_btrfs() {
    on(Mkfs::Btrfs, reflink, "file_reflink_keeps_the_contract_on_btrfs");
}

#[test]
fn file_reflink_unchecked_keeps_the_contract_without_shared_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let driver = |dir: &std::path::Path| ImageDriver::reflink(dir, SetupCheck::Skip).unwrap();
    storage_contract(&Below { dir: dir.path().to_owned(), driver });
}
