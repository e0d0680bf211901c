//! A process that is killed while it commits: what it had acknowledged is there when the store is opened
//! again, and nothing is half done.
#![cfg(feature = "qubes")]
#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use libvirt_qubes::ids::VmName;
use libvirt_qubes::qubes::class::VmClass;
use libvirt_qubes::qubes::commit::Committer;
use libvirt_qubes::qubes::create::{self, Making, NewVm, Pools};
use libvirt_qubes::qubes::sequencer::{EventLimits, Sequencer};
use libvirt_qubes::qubes::snapshot::{HostView, VolumeNaming};
use libvirt_qubes::qubes::store::{FirstStart, Opened, Store};
use libvirt_qubes::qubes::{property, remove};
use uuid::Uuid;

const CHILD: &str = "STORE_CRASH_DIR";
const VMS: [&str; 4] = ["a", "b", "c", "d"];

fn open(dir: &Path) -> Opened {
    Store::open(dir, || {
        Ok(FirstStart { volumes: "/srv/volumes".into(), driver: "file", kernels: "/srv/kernels".into() })
    })
    .unwrap()
}

fn start(opened: Opened) -> Committer {
    let naming = VolumeNaming::new(|_, group, owner, volume| format!("{}/{owner}/{volume}", group.as_str()));
    let host = HostView::unknown(naming);
    let sequencer = Sequencer::new(opened.model, opened.last_number, host, EventLimits::default());
    Committer::start(opened.store, Arc::new(sequencer)).unwrap().0
}

fn new_vm(name: &str) -> NewVm {
    NewVm {
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
    }
}

/// Counts one VM's memory up for ever, and says so after each acknowledgement; now and then makes and
/// removes another VM.
async fn count(committer: Committer, name: &'static str) {
    let uuid = committer.sequencer().snapshot().model.vm_named(name).unwrap().uuid;
    let mut memory = 1000 + stored(&committer.sequencer().snapshot().model)[name];
    loop {
        memory += 1;
        let text = memory.to_string();
        let set = move |state: &_| property::set(state, uuid, "memory", text.as_bytes());
        committer.commit(set).await.unwrap();
        println!("{name} {}", memory - 1000);
        if memory % 10 == 0 {
            let new = new_vm(&format!("{name}-{memory}"));
            let plan = committer.commit(move |state| create::begin(state, &new)).await.unwrap();
            let vm = committer.commit(move |state| create::finish(state, &plan)).await.unwrap();
            let row = committer.commit(move |state| remove::begin(state, vm.uuid)).await.unwrap();
            committer.commit(move |_| Ok(remove::finish(&row))).await.unwrap();
        }
    }
}

/// How far each VM has counted.
fn stored(model: &libvirt_qubes::qubes::model::Model) -> BTreeMap<&'static str, i64> {
    let explicit = |name| match property::explicit(model.vm_named(name).unwrap(), property::Property::Memory)
    {
        Some(libvirt_qubes::qubes::value::Value::Int(memory)) => memory - 1000,
        _ => 0,
    };
    VMS.iter().map(|name| (*name, explicit(name))).collect()
}

/// The process that is killed; nothing when the tests are run.
#[test]
fn counting_process() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let committer = start(open(Path::new(&dir)));
        for name in VMS {
            if committer.sequencer().snapshot().model.vm_named(name).is_none() {
                let new = new_vm(name);
                let plan = committer.commit(move |state| create::begin(state, &new)).await.unwrap();
                committer.commit(move |state| create::finish(state, &plan)).await.unwrap();
            }
        }
        // What an earlier run of this process left.
        let left: Vec<_> = committer.sequencer().snapshot().model.pending().cloned().collect();
        for row in left {
            committer.commit(move |_| Ok(create::abandon(row.id))).await.unwrap();
        }
        let half: Vec<_> =
            committer.sequencer().snapshot().model.vms().map(|vm| (vm.uuid, vm.name.clone())).collect();
        for (uuid, _) in half.into_iter().filter(|(_, name)| name.as_str().contains('-')) {
            let row = committer.commit(move |state| remove::begin(state, uuid)).await.unwrap();
            committer.commit(move |_| Ok(remove::finish(&row))).await.unwrap();
        }
        println!("ready");
        let tasks = VMS.map(|name| tokio::spawn(count(committer.clone(), name)));
        for task in tasks {
            task.await.unwrap();
        }
    });
}

fn spawn(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["counting_process", "--exact", "--nocapture"])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn what_was_acknowledged_survives_kill_9_and_nothing_is_half_done() {
    let dir = tempfile::tempdir().unwrap();
    let mut last_number = 0;
    for round in 0..6u32 {
        let mut child = spawn(dir.path());
        let mut acknowledged: BTreeMap<String, i64> = BTreeMap::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line == "ready"), "the process ended");
        let mut note = |line: String| {
            if let Some((name, count)) = line.split_once(' ')
                && let Ok(count) = count.parse()
            {
                acknowledged.insert(name.to_owned(), count);
            }
        };
        for line in lines.by_ref().take(100 + 37 * round as usize) {
            note(line);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        lines.for_each(note);

        let opened = open(dir.path());
        assert_eq!(opened.model.set_aside().count(), 0);
        assert!(opened.last_number > last_number || round == 0);
        last_number = opened.last_number;
        let found = stored(&opened.model);
        for (name, count) in &acknowledged {
            // One more may have been committed and not yet acknowledged.
            let found = found[name.as_str()];
            assert!((*count..=count + 1).contains(&found), "{name}: acknowledged {count}, found {found}");
        }
        assert_eq!(acknowledged.len(), VMS.len());
        // A VM is in the model, or in `pending`, or neither: never in both.
        for row in opened.model.pending() {
            assert!(opened.model.vm(row.vm.uuid).is_none());
        }
        let known = opened.model.vms().count() + opened.model.pending().count();
        assert!(known <= 1 + 2 * VMS.len(), "{known}");
    }
}
