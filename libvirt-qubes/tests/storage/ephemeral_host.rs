//! What becomes of ephemeral volumes with their VMs, on the simulator and a model of the kernel's devices.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use libvirt_qubes::Kind;
use libvirt_qubes::hypervisor::Hypervisor;
use libvirt_qubes::ids::VmName;
use libvirt_qubes::qubes::{
    CreateRequest, EventLimits, Host, HostConfig, HostError, NewPool, Pools, Refusal, VmClass, VolumeRefusal,
};
use libvirt_qubes::sim::{SimConfig, SimHypervisor, World};
use libvirt_qubes::storage::{DriverKind, Limits, Tuning};

use crate::kernel_model::ModelOfKernel;

pub(crate) async fn host(dir: &Path, world: &World, kernel: &Arc<ModelOfKernel>) -> Arc<Host> {
    let config = || HostConfig {
        state: dir.join("state"),
        storage_dir: dir.join("pool"),
        operations_per_vm: 16,
        events: EventLimits::default(),
        storage: Limits::default(),
        tuning: Tuning::default(),
        mapper: Some(Arc::clone(kernel) as _),
    };
    let sim = async || -> libvirt_qubes::Result<Arc<dyn Hypervisor>> {
        Ok(Arc::new(SimHypervisor::open(world.clone(), SimConfig::default()).await?) as Arc<dyn Hypervisor>)
    };
    loop {
        match Host::open(config(), sim).await {
            // The lock of an earlier one: a child that another test has just forked still holds it.
            Err(e) if e.kind() == Kind::Busy => tokio::time::sleep(Duration::from_millis(10)).await,
            opened => return opened.unwrap(),
        }
    }
}

pub(crate) fn work() -> VmName {
    "work".parse().unwrap()
}

pub(crate) async fn make_work(host: &Arc<Host>) {
    let request = CreateRequest {
        name: work(),
        class: VmClass::StandaloneVm,
        label: "red".to_owned(),
        template: None,
        pools: Pools::Default,
        source: "dom0".parse().unwrap(),
    };
    host.create(request).await.unwrap();
}

fn device(kernel: &ModelOfKernel) -> Vec<String> {
    kernel.devices().into_iter().filter(|name| !name.ends_with(".beneath")).collect()
}

fn is_unsupported(refused: Result<(), HostError>, words: &str) {
    match refused {
        Err(HostError::Failed(error) | HostError::Step { error, .. }) => {
            assert_eq!(error.kind(), Kind::Unsupported);
            assert!(error.report().contains(words), "{}", error.report());
        }
        other => panic!("{other:?}"),
    }
}

const DEVICE: [&str; 1] = ["vm-volatile-work-crypt@volatile"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_device_comes_with_the_vm_and_goes_with_it_whatever_happens_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let (world, kernel) = (World::memory(), Arc::new(ModelOfKernel::new(&dir.path().join("devices"))));
    let first = host(dir.path(), &world, &kernel).await;
    make_work(&first).await;
    let refused = first.set_volume_ephemeral(&work(), "private", true).await;
    assert!(
        matches!(&refused, Err(HostError::Refused(Refusal::Volume(VolumeRefusal::Ephemeral)))),
        "{refused:?}"
    );
    first.set_volume_ephemeral(&work(), "volatile", true).await.unwrap();
    first.start(&work()).await.unwrap();
    assert_eq!(device(&kernel), DEVICE);
    let facts = first.volume_info(&work(), "volatile").await.unwrap();
    assert!(facts.ephemeral && facts.path.unwrap().ends_with(DEVICE[0]));
    first.kill(&work()).await.unwrap();
    assert_eq!((device(&kernel), kernel.loop_devices()), (Vec::new(), 0));

    // It runs on without a daemon, and the next one finds it; the setting is another by now.
    first.start(&work()).await.unwrap();
    first.close().await.unwrap();
    drop(first);
    assert_eq!(device(&kernel), DEVICE);
    let second = host(dir.path(), &world, &kernel).await;
    second.set_volume_ephemeral(&work(), "volatile", false).await.unwrap();
    assert_eq!(device(&kernel), DEVICE);
    second.kill(&work()).await.unwrap();
    assert_eq!(device(&kernel), Vec::<String>::new());

    // Its domain ends while no daemon runs.
    second.set_volume_ephemeral(&work(), "volatile", true).await.unwrap();
    second.start(&work()).await.unwrap();
    second.close().await.unwrap();
    drop(second);
    let third = host(dir.path(), &World::memory(), &kernel).await;
    // A start waits for what start-up puts right.
    third.start(&work()).await.unwrap();
    assert_eq!(device(&kernel), DEVICE);
    third.kill(&work()).await.unwrap();
    third.remove(&work()).await.unwrap();
    assert_eq!((device(&kernel), kernel.loop_devices()), (Vec::new(), 0));
    third.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_encrypted_is_neither_set_nor_started() {
    let dir = tempfile::tempdir().unwrap();
    let (world, kernel) = (World::memory(), Arc::new(ModelOfKernel::new(&dir.path().join("devices"))));
    let host = host(dir.path(), &world, &kernel).await;
    make_work(&host).await;
    let option = |name: &str, flag: &str| {
        let options = [("dir_path", dir.path().join(name).to_str().unwrap()), ("ephemeral_volatile", flag)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        NewPool::new(name.parse().unwrap(), DriverKind::File, options.into()).unwrap()
    };
    kernel.cannot_encrypt.store(true, Ordering::SeqCst);
    is_unsupported(host.set_volume_ephemeral(&work(), "volatile", true).await, "volume appvms/work/volatile");
    is_unsupported(host.set_pool_ephemeral("varlibqubes", true).await, "pool varlibqubes");
    is_unsupported(host.add_pool(option("new", "on")).await, "pool new");
    assert!(!dir.path().join("new").exists());
    // What says no needs nothing.
    host.set_volume_ephemeral(&work(), "volatile", false).await.unwrap();
    host.set_pool_ephemeral("varlibqubes", false).await.unwrap();
    host.add_pool(option("new", "off")).await.unwrap();
    host.start(&work()).await.unwrap();
    host.kill(&work()).await.unwrap();

    // What was set while it could be, by the volume or its pool.
    kernel.cannot_encrypt.store(false, Ordering::SeqCst);
    host.set_volume_ephemeral(&work(), "volatile", true).await.unwrap();
    host.set_pool_ephemeral("varlibqubes", true).await.unwrap();
    host.add_pool(option("newer", "on")).await.unwrap();
    kernel.cannot_encrypt.store(true, Ordering::SeqCst);
    is_unsupported(host.start(&work()).await, "set ephemeral to False");
    host.set_volume_ephemeral(&work(), "volatile", false).await.unwrap();
    host.start(&work()).await.unwrap();
    host.kill(&work()).await.unwrap();
    assert_eq!((device(&kernel), kernel.loop_devices()), (Vec::new(), 0));
    host.close().await.unwrap();
}
