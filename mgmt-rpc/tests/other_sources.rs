//! What sources other than dom0 are refused although policy lets them call: the whole table on a real host, on the
//! simulator, under a policy that allows everything.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;
use std::time::Duration;

use libvirt_qubes::hypervisor::Hypervisor;
use libvirt_qubes::qubes::{EventLimits, Host, HostConfig};
use libvirt_qubes::sim::{SimConfig, SimHypervisor, World};
use libvirt_qubes::storage;
use mgmt_rpc::calls;
use mgmt_rpc::client::{Call, Client};
use mgmt_rpc::config::Limits;
use mgmt_rpc::dispatch::{Manners, Service};
use mgmt_rpc::permission::{Decision, Policy, Question};
use mgmt_rpc::server::{Admission, Server, bind};
use mgmt_rpc::table::Door;
use mgmt_rpc::wire::Answer;
use tokio_util::sync::CancellationToken;

/// Everybody may make every call.
struct Anybody;

impl Policy for Anybody {
    fn decide(&self, _question: &Question<'_>) -> Decision {
        Decision::Allow
    }
}

struct Daemon {
    _folder: tempfile::TempDir,
    client: Client,
}

impl Daemon {
    /// With VM `work`, that `dom0` has made.
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = HostConfig {
            state: folder.path().join("state"),
            storage_dir: folder.path().join("state/varlibqubes"),
            operations_per_vm: 16,
            events: EventLimits::default(),
            storage: storage::Limits::default(),
            tuning: storage::Tuning::default(),
            mapper: None,
        };
        let sim = async || -> libvirt_qubes::Result<Arc<dyn Hypervisor>> {
            let sim = SimHypervisor::open(World::memory(), SimConfig::default()).await?;
            Ok(Arc::new(sim) as Arc<dyn Hypervisor>)
        };
        let host = Host::open(config, sim).await.unwrap();
        let manners = Manners::default();
        let service = Service::new(host, calls::table(), Anybody, Limits::default(), manners);
        let socket = folder.path().join("d.sock");
        let listeners = bind([(Door::Main, socket.as_path())]).await.unwrap();
        let server = Server::new(Arc::new(service), listeners, Admission::of_this_process());
        tokio::spawn(server.run(CancellationToken::new()));
        let daemon = Self { _folder: folder, client: Client::new(socket) };
        let standalone = Call::new("mgmt.vm.Create.StandaloneVM", "dom0");
        let made = daemon.client.call(standalone, b"name=work label=red").await.unwrap();
        assert_eq!(made, Answer::Ok(Vec::new()));
        daemon
    }

    /// The first message of a stream that `work` asks for, besides `connection-established`; none within a moment is
    /// silence.
    async fn first_event(&self, method: &str, destination: &str) -> Option<String> {
        let client = self.client.clone().with_source("work");
        let mut events = client.events(Call::new(method, destination)).await.unwrap();
        let established = events.next().await.unwrap().unwrap();
        assert_eq!(established.name(), "connection-established");
        let next = tokio::time::timeout(Duration::from_millis(300), events.next()).await;
        next.ok().map(|event| event.unwrap().unwrap().name().to_owned())
    }

    /// What `work` is told: the content, or class and text of the exception.
    async fn ask(&self, method: &str, destination: &str, argument: &str, payload: &str) -> String {
        let client = self.client.clone().with_source("work");
        match client.call(Call::new(method, destination).with(argument), payload.as_bytes()).await.unwrap() {
            Answer::Ok(content) => String::from_utf8(content).unwrap(),
            Answer::Exception(exception) => exception.to_string(),
            Answer::Nothing => "silence".to_owned(),
        }
    }
}

const DENIED: &str = "PermissionDenied: Access denied";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_that_policy_relies_on_are_changed_by_dom0_alone() {
    let daemon = Daemon::start().await;
    for verb in ["Set", "Remove"] {
        for (dialect, tag, answer) in [
            ("mgmt", "created-by-work", DENIED),
            ("admin", "created-by-work", DENIED),
            ("mgmt", "managed-by-work", DENIED),
            ("admin", "managed-by-work", ""),
            ("mgmt", "created-bywork", ""),
            ("mgmt", "disp-created-by-work", ""),
        ] {
            let told = daemon.ask(&format!("{dialect}.vm.tag.{verb}"), "work", tag, "").await;
            assert_eq!(told, answer, "{dialect} {verb} {tag}");
        }
    }
    // They may be read.
    assert_eq!(daemon.ask("mgmt.vm.tag.Get", "work", "created-by-dom0", "").await, "1");
    assert_eq!(
        daemon.ask("mgmt.vm.tag.List", "work", "", "").await,
        "audiovm-dom0\ncreated-by-dom0\nguivm-dom0\n"
    );
    // What the grammar refuses tells nothing, and is told.
    assert_eq!(
        daemon.ask("mgmt.vm.tag.Set", "work", "created-by-a.b", "").await,
        "QubesInvalidTagError: disallowed characters"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_source_may_read_of_features_labels_and_tags_it_is_told_exactly() {
    let daemon = Daemon::start().await;
    for (method, destination, argument, payload, told) in [
        ("vm.feature.Set", "work", "gui", "1", ""),
        ("vm.feature.Get", "work", "gui", "", "1"),
        (
            "vm.feature.Get",
            "work",
            "nope",
            "",
            "QubesFeatureNotFoundError: Feature not set for domain work: nope",
        ),
        (
            "vm.feature.Remove",
            "work",
            "nope",
            "",
            "QubesFeatureNotFoundError: Feature not set for domain work: nope",
        ),
        (
            "vm.feature.Set",
            "work",
            "preload-dispvm",
            "1",
            "PermissionDenied: Feature is protected: preload-dispvm",
        ),
        ("vm.tag.Remove", "work", "nope", "", "QubesTagNotFoundError: Tag not set for domain work: nope"),
        ("label.Get", "dom0", "nope", "", "QubesLabelNotFoundError: Label does not exist: nope"),
        // A VM that it may not know of is not named, and there is none.
        ("label.Create", "dom0", "pink", "0xffc0cb", ""),
        ("vm.property.Set", "work", "label", "pink", ""),
        ("label.Remove", "dom0", "pink", "", "QubesLabelInUseError: Label is still in use: 'pink'"),
        ("vm.feature.Get", "nobody", "gui", "", DENIED),
        ("vm.tag.Get", "nobody", "a", "", DENIED),
        ("vm.List", "dom0", "", "", ""),
    ] {
        assert_eq!(
            daemon.ask(&format!("mgmt.{method}"), destination, argument, payload).await,
            told,
            "{method}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_hold_what_the_source_may_know_of() {
    let daemon = Daemon::start().await;
    assert_eq!(daemon.first_event("mgmt.vm.Stats", "dom0").await, None);
    let dom0 = daemon.client.clone();
    let mut events = dom0.events(Call::new("mgmt.vm.Stats", "dom0")).await.unwrap();
    let established = events.next().await.unwrap().unwrap();
    assert_eq!(established.name(), "connection-established");
    let stats = events.next().await.unwrap().unwrap();
    assert_eq!((stats.subject(), stats.name()), ("dom0", "vm-stats"));
}
