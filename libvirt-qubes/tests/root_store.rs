//! A full file system, and one that cannot be written. Needs root: it mounts a tmpfs.
#![cfg(feature = "qubes")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's helpers fail the test")]

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use libvirt_qubes::Kind;
use libvirt_qubes::ids::VmName;
use libvirt_qubes::qubes::class::VmClass;
use libvirt_qubes::qubes::commit::Committer;
use libvirt_qubes::qubes::create::{self, Making, NewVm, Pools};
use libvirt_qubes::qubes::diff::{Diff, Refused};
use libvirt_qubes::qubes::refusal::HostError;
use libvirt_qubes::qubes::sequencer::{EventLimits, Sequencer};
use libvirt_qubes::qubes::snapshot::{HostView, Snapshot, VolumeNaming};
use libvirt_qubes::qubes::store::{FirstStart, Opened, Store};
use libvirt_qubes::qubes::{property, remove};
use uuid::Uuid;

/// A small file system of its own, unmounted at the end.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(mount.success());
        Self(dir)
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.0.path().join("fill")).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            let block = vec![0; size];
            let error = std::iter::repeat_with(|| file.write_all(&block)).find_map(Result::err);
            assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::StorageFull));
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.0.path().join("fill")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

fn open(dir: &Path) -> Opened {
    Store::open(dir, || {
        Ok(FirstStart { volumes: "/srv/volumes".into(), driver: "file", kernels: "/srv/kernels".into() })
    })
    .unwrap()
}

struct Rig {
    runtime: tokio::runtime::Runtime,
    committer: Committer,
}

impl Rig {
    fn new(dir: &Path) -> Self {
        let opened = open(dir);
        let naming =
            VolumeNaming::new(|_, group, owner, volume| format!("{}/{owner}/{volume}", group.as_str()));
        let sequencer = Sequencer::new(
            opened.model,
            opened.last_number,
            HostView::unknown(naming),
            EventLimits::default(),
        );
        let (committer, _) = Committer::start(opened.store, Arc::new(sequencer)).unwrap();
        Self { runtime: tokio::runtime::Runtime::new().unwrap(), committer }
    }

    fn commit<T: Send + 'static>(
        &self,
        change: impl Fn(&Snapshot) -> Result<Diff<T>, Refused> + Send + 'static,
    ) -> Result<T, HostError> {
        self.runtime.block_on(self.committer.commit(change))
    }

    fn create(&self, name: &str) -> Result<Uuid, HostError> {
        let new = NewVm {
            uuid: Uuid::new_v4(),
            name: name.parse().unwrap(),
            class: VmClass::StandaloneVm,
            label: "red".to_owned(),
            template: None,
            pools: Pools::Default,
            root_size: None,
            source: VmName::dom0(),
            operation: Making::Vm,
            rested: Default::default(),
        };
        let plan = self.commit(move |state| create::begin(state, &new))?;
        self.commit(move |state| create::finish(state, &plan)).map(|vm| vm.uuid)
    }

    fn kernelopts(&self, vm: Uuid, length: usize) -> Result<(), HostError> {
        self.commit(move |state| property::set(state, vm, "kernelopts", "x".repeat(length).as_bytes()))
    }

    fn names(&self) -> Vec<String> {
        self.committer.sequencer().snapshot().model.vms().map(|vm| vm.name.to_string()).collect()
    }
}

fn kind(result: Result<impl std::fmt::Debug, HostError>) -> Kind {
    let error = result.unwrap_err();
    let HostError::Failed(error) = error else { panic!("{error:?}") };
    error.kind()
}

#[test]
#[ignore = "needs root: mounts a tmpfs"]
fn on_a_full_disk_changes_fail_whole_and_a_removal_still_commits() {
    let small = Small::mount("size=4m");
    let rig = Rig::new(&small.state());
    let mut vms: Vec<Uuid> = (0..6).map(|n| rig.create(&format!("vm{n}")).unwrap()).collect();
    assert!(small.state().join("ballast").exists());
    small.fill();

    // What the log has room for still goes in; then every change fails, and leaves nothing behind.
    let full = (0..2000).find(|n| match rig.kernelopts(vms[n % 6], 100 + n % 400) {
        Ok(()) => false,
        error => kind(error) == Kind::NoSpace,
    });
    assert!(full.is_some(), "the file system was never full");
    let before = rig.names();
    assert_eq!(kind(rig.create("late")), Kind::NoSpace);
    assert_eq!(rig.names(), before);
    assert!(small.state().join("ballast").exists());

    // One after the other, whatever the last one left is taken by somebody else at once.
    for left in [6, 5, 4, 3] {
        let gone = vms.remove(0);
        let row = rig.commit(move |state| remove::begin(state, gone)).unwrap();
        small.fill();
        rig.commit(move |_| Ok(remove::finish(&row))).unwrap();
        small.fill();
        assert_eq!(rig.names().len(), left);
        assert_eq!(kind(rig.create("late")), Kind::NoSpace);
    }

    small.free();
    let value = 77;
    rig.kernelopts(vms[0], value).unwrap();
    rig.create("late").unwrap();
    let names = rig.names();
    let number = rig.committer.sequencer().snapshot().number;
    rig.runtime.block_on(rig.committer.close());
    drop(rig);

    let opened = loop {
        // The thread closes the store by itself.
        match Store::open(&small.state(), || panic!("not a first start")) {
            Err(error) if error.kind() == Kind::Busy => std::thread::yield_now(),
            opened => break opened.unwrap(),
        }
    };
    let found: Vec<String> = opened.model.vms().map(|vm| vm.name.to_string()).collect();
    assert_eq!(found, names);
    assert!(opened.last_number >= number);
    assert_eq!(opened.model.pending().count(), 0);
    assert!(small.state().join("ballast").exists(), "the ballast is back");
    let kernelopts = property::explicit(opened.model.vm(vms[0]).unwrap(), property::Property::Kernelopts);
    assert_eq!(kernelopts, Some(libvirt_qubes::qubes::value::Value::text("x".repeat(value))));
}

#[test]
#[ignore = "needs root: mounts a tmpfs"]
fn a_store_on_a_full_disk_opens() {
    let small = Small::mount("size=4m");
    let first = open(&small.state());
    let (number, before) = (first.last_number, first.model);
    drop(first.store);
    // The ballast is there, then it is not.
    for _ in 0..2 {
        small.fill();
        let opened = open(&small.state());
        assert_eq!(opened.model, before);
        assert!(opened.last_number > number);
        drop(opened);
        drop(std::fs::remove_file(small.state().join("ballast")));
    }
}
