//! The server on real sockets, with a table of calls that show what a handler is given and when.

mod answers;
mod connections;
mod events;
mod uploads;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use libvirt_qubes::ids::VmName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::BoxFuture;
use crate::client::{Call, Client, ClientError};
use crate::config::Limits;
use crate::cx::Cx;
use crate::dispatch::{Manners, Refusals, Tracebacks};
use crate::failure::Failure;
use crate::permission::{Decision, Policy, Question};
use crate::reply::{Content, EventStream, Origin, PropertyValue, Reply};
use crate::row;
use crate::table::{Door, Row, Table, distinct};
use crate::untrusted::{Parse, Text};
use crate::wire::{Answer, Class, Event, VmRef};

/// A world with the VMs dom0, work, friend and stranger, which the calls below tell what happens to them.
#[derive(Default)]
struct World {
    finished: AtomicUsize,
    told: Mutex<Vec<String>>,
    go: Notify,
    events: Mutex<Option<mpsc::Receiver<Event>>>,
}

impl World {
    fn tell(&self, what: impl Into<String>) {
        self.told.lock().unwrap().push(what.into());
        self.finished.fetch_add(1, Ordering::SeqCst);
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }

    /// Waits until so many calls have told something.
    async fn finished(&self, count: usize) {
        let waiting = async {
            while self.finished.load(Ordering::SeqCst) < count {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(Duration::from_secs(10), waiting).await.expect("the calls finish");
    }
}

impl Directory for World {
    fn find(&self, vm: &VmRef) -> Option<VmName> {
        match vm {
            VmRef::Name(name) if ["dom0", "work", "friend", "stranger"].contains(&name.as_str()) => {
                Some(name.clone())
            }
            VmRef::Uuid(uuid) if uuid.is_nil() => Some(VmName::dom0()),
            VmRef::Name(_) | VmRef::Uuid(_) => None,
        }
    }
}

/// friend may do everything, nobody else anything.
struct Friendly;

impl Policy for Friendly {
    fn decide(&self, question: &Question<'_>) -> Decision {
        match question.source.as_str() {
            "friend" => Decision::Allow,
            _ => Decision::Deny,
        }
    }
}

struct Raw(Vec<u8>);

impl Parse for Raw {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        Ok(Self(bytes.to_vec()))
    }
}

struct Number(usize);

impl Parse for Number {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        let number = std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok());
        number.map(Self).ok_or_else(|| Exception::plain(Class::QubesValueError, "not a number"))
    }
}

type Done = Result<Reply, Failure>;

async fn echo(_: &Cx<World>, argument: Text, payload: Raw) -> Done {
    let payload = String::from_utf8_lossy(&payload.0);
    Ok(Reply::value(format!("{} {payload}", argument.0)))
}

async fn whoami(cx: &Cx<World>) -> Done {
    Ok(Reply::lines([cx.source.as_str(), cx.destination.as_str(), cx.class, cx.dialect.prefix()]))
}

async fn value(_: &Cx<World>) -> Done {
    Ok(Content::Property(PropertyValue { origin: Origin::Default, kind: "int", text: "1".into() }).into())
}

async fn nothing(_: &Cx<World>) -> Done {
    Ok(Reply::empty())
}

async fn counted(_: &Cx<World>, count: Number) -> Done {
    Ok(Reply::value(count.0.to_string()))
}

async fn big(_: &Cx<World>, length: Number) -> Done {
    Ok(Reply::value("x".repeat(length.0)))
}

async fn length(_: &Cx<World>, payload: Raw) -> Done {
    Ok(Reply::value(payload.0.len().to_string()))
}

async fn panics(cx: &Cx<World>) -> Done {
    panic!("a bug about {}", cx.destination)
}

async fn fails(_: &Cx<World>) -> Done {
    Err(Failure::internal(io::Error::other("a secret disk is full")))
}

async fn absent(cx: &Cx<World>, name: Text) -> Done {
    cx.vm(&name.0).map(|vm| Reply::value(vm.as_str()))
}

/// Waits to be let go, whatever the client does.
async fn slow(cx: &Cx<World>) -> Done {
    cx.host.go.notified().await;
    cx.host.tell(if cx.cancelled.is_cancelled() { "cancelled" } else { "done" });
    Ok(Reply::empty())
}

/// Waits to be cancelled or let go.
async fn patient(cx: &Cx<World>) -> Done {
    tokio::select! {
        () = cx.host.go.notified() => cx.host.tell("done"),
        () = cx.cancelled.cancelled() => cx.host.tell("cancelled"),
    }
    Ok(Reply::empty())
}

/// Reads all, after being let go if the argument says so.
async fn upload(cx: &Cx<World>, wait: Text, mut data: Upload) -> Done {
    if wait.0 == "wait" {
        cx.host.go.notified().await;
    }
    let (mut length, mut buffer) = (0usize, vec![0; 4096]);
    loop {
        match data.read(&mut buffer).await {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) => {
                assert_eq!(data.read(&mut buffer).await, Err(error), "an error stays");
                cx.host.tell(error.to_string());
                return Err(Exception::plain(Class::QubesException, error.to_string()).into());
            }
        }
        if wait.0 == "refuse" {
            return Err(Exception::plain(Class::QubesException, "enough").into());
        }
    }
    assert_eq!(data.read(&mut buffer).await, Ok(0), "the end stays");
    cx.host.tell(format!("{length} bytes"));
    Ok(Reply::value(length.to_string()))
}

struct Channel(mpsc::Receiver<Event>);

impl EventStream for Channel {
    fn next(&mut self) -> BoxFuture<'_, Option<Event>> {
        Box::pin(self.0.recv())
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.0.close();
    }
}

async fn events(cx: &Cx<World>) -> Done {
    match cx.host.events.lock().unwrap().take() {
        Some(events) => Ok(Reply::Events(Box::new(Channel(events)))),
        None => Err(Exception::plain(Class::QubesException, "no events").into()),
    }
}

const ROWS: &[&[Row<World>]] = &[
    &[
        row!(Both("test.Echo"), Any, Local Read, (Optional<Text>, Optional<Raw>) => echo),
        row!(Both("test.Value"), Any, Local Read, (Empty, Empty) => value,
            encode: crate::reply::seed_untyped, crate::reply::deployed),
        row!(Both("test.", &["One", "Two"], ".Who"), Any, Local Read, (Empty, Empty) => whoami),
        row!(Both("test.Dom0"), Dom0, Global Write, (Empty, Empty) => nothing),
        row!(Both("test.Vm"), Vm, Local Write, (Empty, Empty) => nothing),
        row!(Mgmt("test.Number"), Any, Local Read, (Required<Number>, Empty) => counted),
        row!(Admin("test.Number"), Dom0, Local Read, (Required<Number>, Empty) => counted),
        row!(Both("test.Length"), Any, Local Read, (Empty, Required<Raw>) => length),
        row!(Both("test.Absent"), Any, Local Read, (Required<Text>, Empty) => absent),
    ],
    &[
        row!(Both("test.Big"), Any, Local Read, (Required<Number>, Empty) => big),
        row!(Both("test.Panic"), Any, Local Write, (Empty, Empty) => panics),
        row!(Both("test.Fail"), Any, Local Write, (Empty, Empty) => fails),
        row!(Both("test.Slow"), Any, Local Write, (Empty, Empty) => slow),
        row!(Both("test.Patient"), Any, Local Write, (Empty, Empty) => patient, cancel: OnHangUp),
        row!(Both("test.Upload"), Dom0, Global Write, (Optional<Text>, Stream) => upload, cancel: InPayload),
        row!(Both("test.Events"), Any, Global Read, (Empty, Empty) => events, cancel: OnHangUp),
        row!(Internal("Whoami"), Any, Global Read, (Empty, Empty) => whoami),
        row!(Internal("Upload"), Dom0, Global Write, (Optional<Text>, Stream) => upload, cancel: InPayload),
    ],
];
const _: () = assert!(distinct(ROWS));

struct Daemon {
    _folder: tempfile::TempDir,
    socket: PathBuf,
    internal: PathBuf,
    world: Arc<World>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Daemon {
    async fn start() -> Self {
        Self::with(Limits::default(), Manners::default()).await
    }

    async fn with(limits: Limits, manners: Manners) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("d.sock");
        let internal = folder.path().join("i.sock");
        let world = Arc::new(World::default());
        let service = Service::new(Arc::clone(&world), Table::new(ROWS), Friendly, limits, manners);
        let listeners =
            bind([(Door::Main, socket.as_path()), (Door::Internal, internal.as_path())]).await.unwrap();
        let server = Server::new(Arc::new(service), listeners, Admission::of_this_process());
        let stop = CancellationToken::new();
        let running = tokio::spawn(server.run(stop.clone()));
        Self { _folder: folder, socket, internal, world, stop, running }
    }

    fn client(&self) -> Client {
        Client::new(&self.socket)
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).await.unwrap()
    }

    /// Sends bytes, half-closes, reads all that comes.
    async fn raw(&self, request: &[u8]) -> Vec<u8> {
        let mut stream = self.connect().await;
        stream.write_all(request).await.unwrap();
        stream.shutdown().await.unwrap();
        read_all(&mut stream).await
    }

    async fn raw_text(&self, request: impl AsRef<[u8]>) -> String {
        String::from_utf8(self.raw(request.as_ref()).await).unwrap()
    }

    async fn stop(self) -> Arc<World> {
        self.stop.cancel();
        self.running.await.unwrap();
        self.world
    }
}

async fn read_all(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes)).await.expect("an end").unwrap();
    bytes
}

fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

fn count(number: u32) -> std::num::NonZeroU32 {
    number.try_into().unwrap()
}
