//! The whole way of a call but for the socket: the real table on a real host with the simulated hypervisor.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libvirt_qubes::qubes::{EventLimits, Host, HostConfig};
use libvirt_qubes::sim::{SimConfig, SimHypervisor, World};
use libvirt_qubes::{hypervisor::Hypervisor, storage};
use mgmt_rpc::calls;
use mgmt_rpc::config::Limits;
use mgmt_rpc::dispatch::{Manners, Response, Service};
use mgmt_rpc::permission::Dom0Only;
use mgmt_rpc::wire::Answer;

/// A host that all inputs share, so that they find what others left.
struct Rig {
    runtime: tokio::runtime::Runtime,
    service: Service<Host>,
    _folder: tempfile::TempDir,
}

static HOST: Mutex<Option<Rig>> = Mutex::new(None);

/// How many VMs an input may find at most; then there is a new host.
const VMS: usize = 64;

/// Bytes that a client sends: every request is answered, with an answer that a client can read.
pub(super) fn call(request: &[u8]) {
    let mut host = HOST.lock().unwrap_or_else(PoisonError::into_inner);
    let rig = host.get_or_insert_with(Rig::new);
    match rig.runtime.block_on(rig.service.answer(request)) {
        Response::Bytes(bytes) => {
            let answer = Answer::decode(bytes).expect("an answer");
            if let Answer::Exception(exception) = &answer {
                let text = exception.message();
                assert!(!text.starts_with("internal error"), "{text}: {}", request.escape_ascii());
            }
        }
        Response::Events(_) => {}
        Response::Silence => panic!("no answer: {}", request.escape_ascii()),
    }
    if rig.service.host().snapshot().model.vm_count() > VMS {
        *host = None;
    }
}

/// Gives the host up, and its folder.
pub(super) fn end() {
    *HOST.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("mgmt-fuzz-").tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let config = HostConfig {
            state: folder.path().join("state"),
            storage_dir: folder.path().join("pool"),
            operations_per_vm: 16,
            events: EventLimits::default(),
            storage: storage::Limits::default(),
            tuning: storage::Tuning { refresh: Duration::from_secs(3600), ..storage::Tuning::default() },
            mapper: None,
        };
        let service = runtime.block_on(async {
            let sim = async || {
                let sim = SimHypervisor::open(World::memory(), SimConfig::default()).await?;
                Ok::<_, libvirt_qubes::Error>(Arc::new(sim) as Arc<dyn Hypervisor>)
            };
            let host = Host::open(config, sim).await.unwrap();
            Service::new(host, calls::table(), Dom0Only, Limits::default(), Manners::default())
        });
        let new = Self { runtime, service, _folder: folder };
        for request in [
            "mgmt.vm.Create.TemplateVM+ dom0 name dom0\0name=base label=black",
            "mgmt.vm.Create.AppVM+base dom0 name dom0\0name=work label=red",
            "mgmt.vm.Create.AppVM+base dom0 name dom0\0name=net label=red",
            "mgmt.vm.property.Set+provides_network dom0 name net\0True",
        ] {
            new.runtime.block_on(new.service.answer(request.as_bytes()));
        }
        new
    }
}
