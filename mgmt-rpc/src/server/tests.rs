//! The server on real sockets, with a table of calls that show what a handler is given and when.

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
        row!(Both("test.Upload"), Dom0, Global Write, (Optional<Text>, Stream) => upload),
        row!(Both("test.Events"), Any, Global Read, (Empty, Empty) => events, cancel: OnHangUp),
        row!(Internal("Whoami"), Any, Global Read, (Empty, Empty) => whoami),
        row!(Internal("Upload"), Dom0, Global Write, (Optional<Text>, Stream) => upload),
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

#[tokio::test]
async fn a_call_answers_at_its_own_kind_of_socket_alone() {
    let daemon = Daemon::start().await;
    let at = async |socket: &PathBuf, request: &str| {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        String::from_utf8(read_all(&mut stream).await).unwrap()
    };
    let unknown = |method: &str| format!("2\0ProtocolError\0\0no such method: %s\0'{method}'\0");
    let whoami = "internal.Whoami+ dom0 name work\0";
    assert_eq!(at(&daemon.internal, whoami).await, "0\0dom0\nwork\n\nadmin.\n");
    assert_eq!(at(&daemon.socket, whoami).await, unknown("internal.Whoami"));
    let echo = "admin.test.Echo+a dom0 name work\0";
    assert_eq!(at(&daemon.socket, echo).await, "0\0a ");
    assert_eq!(at(&daemon.internal, echo).await, unknown("admin.test.Echo"));
    assert_eq!(at(&daemon.internal, "internal.Nothing+ dom0 name work\0").await, unknown("internal.Nothing"));
    // A streaming call is one at its own socket alone: elsewhere its payload is bounded like any other.
    let upload = "internal.Upload+ dom0 name dom0\0abc";
    assert_eq!(at(&daemon.socket, upload).await, unknown("internal.Upload"));
    assert!(at(&daemon.internal, upload).await.starts_with("0\0"));
    // The other rules are the same.
    assert_eq!(at(&daemon.internal, "internal.Whoami+ stranger name work\0").await, DENIED);
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&daemon.internal).unwrap().permissions())
            & 0o777,
        0o660
    );
    let internal = daemon.internal.clone();
    daemon.stop().await;
    assert!(!internal.exists());
}

const DENIED: &str = "2\0PermissionDenied\0\0Access denied\0";

#[tokio::test]
async fn the_first_check_that_fails_answers() {
    let daemon = Daemon::start().await;
    let much = "x".repeat(70_000);
    for (request, answer) in [
        // A call that is carried out.
        ("mgmt.test.Echo+a+b dom0 name work\0c", "0\0a+b c"),
        ("admin.test.Echo dom0 keyword adminvm\0", "0\0 "),
        ("mgmt.test.Value+ dom0 name work\0", "0\0default=yes 1"),
        ("admin.test.Value+ dom0 name work\0", "0\0default=True type=int 1"),
        (
            "mgmt.test.Two.Who+ uuid:00000000-0000-0000-0000-000000000000 name work\0",
            "0\0dom0\nwork\nTwo\nmgmt.\n",
        ),
        ("admin.test.One.Who+ friend name work\0", "0\0friend\nwork\nOne\nadmin.\n"),
        // 1: the header.
        (
            "mgmt.test.Echo+a dom0 name work",
            "2\0ProtocolError\0\0malformed request: %s\0no NUL after the header\0",
        ),
        (
            "mgmt.test.Echo+a dom0 name\0",
            "2\0ProtocolError\0\0malformed request: %s\0the header is not METHOD[+ARGUMENT] SOURCE TYPE DESTINATION\0",
        ),
        (
            "x stranger name 1\0",
            "2\0QubesValueError\0\0VM name cannot start with hyphen, underscore, dot or numbers\0",
        ),
        // 2: the source; told to all.
        ("x nobody name nowhere\0", "2\0QubesVMNotFoundError\0\0No such domain: %s\0'nobody'\0"),
        // 3: policy.
        ("mgmt.test.Echo+ stranger name work\0", DENIED),
        ("mgmt.test.Echo+ stranger name nowhere\0", DENIED),
        ("mgmt.test.Nothing+ stranger name work\0", DENIED),
        ("mgmt.test.Dom0+ stranger name dom0\0payload", DENIED),
        // 4: the destination; its absence looks like a refusal to all but dom0.
        (
            "mgmt.test.Nothing+ dom0 name nowhere\0",
            "2\0QubesVMNotFoundError\0\0No such domain: %s\0'nowhere'\0",
        ),
        ("mgmt.test.Nothing+ friend name nowhere\0", DENIED),
        (
            "mgmt.test.Echo+ dom0 name uuid:00000000-0000-0000-0000-000000000001\0",
            "2\0QubesVMNotFoundError\0\0No such domain: %s\0'uuid:00000000-0000-0000-0000-000000000001'\0",
        ),
        // 5: the method.
        (
            "mgmt.test.Nothing+ dom0 name work\0",
            "2\0ProtocolError\0\0no such method: %s\0'mgmt.test.Nothing'\0",
        ),
        ("test.Echo+ dom0 name work\0", "2\0ProtocolError\0\0no such method: %s\0'test.Echo'\0"),
        (
            "mgmt.test.Three.Who+ dom0 name work\0",
            "2\0ProtocolError\0\0no such method: %s\0'mgmt.test.Three.Who'\0",
        ),
        ("mgmt.test.Nothing+ friend name work\0", DENIED),
        // 6: the payload.
        ("mgmt.test.Number+x dom0 name work\0y", "2\0ProtocolError\0\0unexpected payload\0"),
        ("mgmt.test.Length+x dom0 name work\0", "2\0ProtocolError\0\0expected payload\0"),
        // 7: the argument.
        ("mgmt.test.Length+x dom0 name work\0y", "2\0ProtocolError\0\0unexpected argument\0"),
        ("admin.test.Number+ dom0 name work\0", "2\0ProtocolError\0\0expected an argument\0"),
        ("admin.test.Number+x dom0 name work\0", "2\0QubesValueError\0\0not a number\0"),
        // 8: the destination rule.
        ("admin.test.Number+1 dom0 name work\0", "2\0ProtocolError\0\0expected destination to be AdminVM\0"),
        ("mgmt.test.Vm+ dom0 name dom0\0", "2\0ProtocolError\0\0expected destination to not be AdminVM\0"),
        ("mgmt.test.Number+1 dom0 name work\0", "0\x001"),
        // 9: the handler.
        (
            "mgmt.test.Absent+nowhere dom0 name work\0",
            "2\0QubesVMNotFoundError\0\0No such domain: %s\0'nowhere'\0",
        ),
        ("mgmt.test.Absent+work dom0 name work\0", "0\0work"),
        ("mgmt.test.Absent+nowhere friend name work\0", DENIED),
        ("mgmt.test.Absent+work friend name work\0", DENIED),
    ] {
        assert_eq!(daemon.raw_text(request).await, answer, "{request}");
    }
    // 6 comes after 3 to 5 for a payload that is too long, too.
    for (header, answer) in [
        ("mgmt.test.Echo+ stranger name work\0", DENIED),
        (
            "mgmt.test.Nothing+ dom0 name work\0",
            "2\0ProtocolError\0\0no such method: %s\0'mgmt.test.Nothing'\0",
        ),
        (
            "mgmt.test.Number+ dom0 name work\0",
            "2\0ProtocolError\0\0malformed request: %s\0more than 65536 bytes\0",
        ),
    ] {
        assert_eq!(daemon.raw_text([header, &much].concat()).await, answer, "{header}");
    }
}

#[tokio::test]
async fn a_connection_that_sends_nothing_is_closed_without_a_byte() {
    let daemon = Daemon::start().await;
    assert_eq!(daemon.raw(b"").await, b"");
}

#[tokio::test]
async fn a_request_of_the_limit_is_taken_and_one_byte_more_is_not() {
    let daemon = Daemon::start().await;
    let header = b"mgmt.test.Length dom0 name work\0";
    let mut request = header.to_vec();
    request.resize(65536, b'x');
    assert_eq!(daemon.raw(&request).await, format!("0\0{}", 65536 - header.len()).as_bytes());
    request.push(b'x');
    let too_long = b"2\0ProtocolError\0\0malformed request: %s\0more than 65536 bytes\0";
    assert_eq!(daemon.raw(&request).await, too_long);
    // A header of the limit, its NUL included, is read; one without a NUL within the limit is not.
    let mut header = b"mgmt.test.Echo+".to_vec();
    header.resize(65536 - " dom0 name work\0".len(), b'a');
    header.extend_from_slice(b" dom0 name work\0");
    assert!(daemon.raw(&header).await.starts_with(b"0\0aaa"));
    header.insert(20, b'a');
    assert_eq!(daemon.raw(&header).await, too_long);
}

#[tokio::test]
async fn a_client_that_sends_far_too_much_can_still_read_why_not() {
    let daemon = Daemon::start().await;
    for destination in ["work", "nowhere"] {
        let mut request = format!("mgmt.test.Length dom0 name {destination}\0").into_bytes();
        request.resize(4 << 20, b'x');
        let answer = String::from_utf8(daemon.raw(&request).await).unwrap();
        assert!(answer.starts_with("2\0"), "{answer}");
    }
    assert!(daemon.raw(&vec![b'x'; 4 << 20]).await.starts_with(b"2\0ProtocolError\0"));
}

#[tokio::test]
async fn nothing_is_done_before_the_half_close() {
    let daemon = Daemon::start().await;
    daemon.world.go.notify_one();
    let mut stream = daemon.connect().await;
    stream.write_all(b"mgmt.test.Slow dom0 name work\0").await.unwrap();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(daemon.world.told(), [""; 0]);
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream).await, b"0\0");
    assert_eq!(daemon.world.told(), ["done"]);
}

#[tokio::test]
async fn a_request_in_single_bytes_is_one_request() {
    let daemon = Daemon::start().await;
    let mut stream = daemon.connect().await;
    for byte in b"mgmt.test.Echo+a dom0 name work\0pay\0load" {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream).await, b"0\0a pay\0load");
}

#[tokio::test]
async fn a_client_that_leaves_right_after_sending_is_served_all_the_same() {
    let daemon = Daemon::start().await;
    let mut stream = daemon.connect().await;
    stream.write_all(b"mgmt.test.Slow dom0 name work\0").await.unwrap();
    drop(stream);
    sleep(Duration::from_millis(50)).await;
    daemon.world.go.notify_one();
    daemon.world.finished(1).await;
    assert_eq!(daemon.world.told(), ["done"]);
}

#[tokio::test]
async fn a_call_that_a_close_cancels_is_cancelled_by_a_close_and_not_by_a_half_close() {
    let daemon = Daemon::start().await;
    let request = b"mgmt.test.Patient dom0 name work\0";
    let mut stays = daemon.connect().await;
    stays.write_all(request).await.unwrap();
    stays.shutdown().await.unwrap();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(daemon.world.told(), [""; 0]);
    let mut leaves = daemon.connect().await;
    leaves.write_all(request).await.unwrap();
    leaves.shutdown().await.unwrap();
    drop(leaves);
    daemon.world.finished(1).await;
    daemon.world.go.notify_one();
    daemon.world.finished(2).await;
    assert_eq!(read_all(&mut stays).await, b"0\0");
    assert_eq!(daemon.world.told(), ["cancelled", "done"]);
}

#[tokio::test]
async fn a_panic_ends_its_call_alone() {
    let daemon = Daemon::start().await;
    let answer = daemon.raw_text("mgmt.test.Panic+ dom0 name work\0").await;
    let id = answer.strip_prefix("2\0QubesException\0\0internal error, log id %s\0").expect("an exception");
    assert_eq!(id.len(), 9, "{id}");
    assert_eq!(daemon.raw_text("mgmt.test.Echo+ dom0 name work\0x").await, "0\0 x");
}

#[tokio::test]
async fn the_cause_of_an_internal_error_is_told_in_debug_mode_alone() {
    let request = "mgmt.test.Fail+ dom0 name work\0";
    let daemon = Daemon::start().await;
    assert!(!daemon.raw_text(request).await.contains("secret"));
    let manners = Manners { tracebacks: Tracebacks::On, ..Manners::default() };
    let daemon = Daemon::with(Limits::default(), manners).await;
    let answer = daemon.raw_text(request).await;
    assert!(answer.starts_with("2\0QubesException\0a secret disk is full\0internal error, log id %s\0"));
}

#[tokio::test]
async fn silent_refusals_close_without_a_byte() {
    let manners = Manners { refusals: Refusals::Silent, ..Manners::default() };
    let daemon = Daemon::with(Limits::default(), manners).await;
    for (request, answer) in [
        ("x", ""),
        ("mgmt.test.Nothing+ dom0 name work\0", ""),
        ("mgmt.test.Echo+ stranger name work\0", ""),
        ("mgmt.test.Dom0+ dom0 name nowhere\0", "2\0QubesVMNotFoundError\0\0No such domain: %s\0'nowhere'\0"),
        ("mgmt.test.Number+x dom0 name work\0", "2\0QubesValueError\0\0not a number\0"),
    ] {
        assert_eq!(daemon.raw_text(request).await, answer, "{request}");
    }
}

#[tokio::test]
async fn a_client_that_is_too_slow_with_its_request_is_told_the_limit() {
    let daemon = Daemon::with(limits(|l| l.read_timeout_s = count(1)), Manners::default()).await;
    let (mut silent, mut slow, mut endless) =
        (daemon.connect().await, daemon.connect().await, daemon.connect().await);
    slow.write_all(b"mgmt.test.Echo").await.unwrap();
    endless.write_all(b"mgmt.test.Echo dom0 name work\0").await.unwrap();
    let started = Instant::now();
    let limit = b"2\0QubesException\0\0limit reached: %s = %s\0read_timeout_s\x001\0";
    assert_eq!(read_all(&mut silent).await, b"");
    assert!(started.elapsed() > Duration::from_millis(700), "{:?}", started.elapsed());
    // They go on sending once they were given up, and still get to read the answer.
    sleep(Duration::from_millis(500)).await;
    for stream in [&mut slow, &mut endless] {
        stream.write_all(b"more").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(read_all(stream).await, limit);
    }
}

#[tokio::test]
async fn connections_past_the_limit_are_told_so_and_places_come_back() {
    let daemon = Daemon::with(limits(|l| l.connections = count(2)), Manners::default()).await;
    let held = (daemon.connect().await, daemon.connect().await);
    let limit = "2\0QubesException\0\0limit reached: %s = %s\0connections\x002\0";
    assert_eq!(daemon.raw_text("mgmt.test.Echo+ dom0 name work\0").await, limit);
    drop(held);
    let freed = async {
        while daemon.raw_text("mgmt.test.Echo+ dom0 name work\0").await == limit {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(5), freed).await.unwrap();
}

#[tokio::test]
async fn a_source_has_its_own_limit_and_dom0_has_none() {
    let daemon = Daemon::with(limits(|l| l.connections_per_source = count(1)), Manners::default()).await;
    let waiting = |source: &'static str| {
        let client = daemon.client().with_source(source);
        tokio::spawn(async move { client.call(Call::new("mgmt.test.Slow", "work"), b"").await.unwrap() })
    };
    let calls = [waiting("dom0"), waiting("dom0"), waiting("friend")];
    sleep(Duration::from_millis(200)).await;
    let echo = Call::new("mgmt.test.Echo", "work");
    let refused = daemon.client().with_source("friend").call(echo, b"").await.unwrap();
    let Answer::Exception(refused) = refused else { panic!("{refused:?}") };
    assert_eq!(refused.message(), "limit reached: connections_per_source = 1");
    assert_eq!(daemon.client().call(echo, b"").await.unwrap(), Answer::Ok(b" ".to_vec()));
    for _ in &calls {
        daemon.world.go.notify_one();
        sleep(Duration::from_millis(20)).await;
    }
    for call in calls {
        assert_eq!(call.await.unwrap(), Answer::Ok(Vec::new()));
    }
    let again = daemon.client().with_source("friend").call(echo, b"").await.unwrap();
    assert_eq!(again, Answer::Ok(b" ".to_vec()));
}

#[tokio::test]
async fn a_client_that_does_not_read_delays_nobody() {
    let daemon = Daemon::start().await;
    let mut slow = daemon.connect().await;
    slow.write_all(b"mgmt.test.Big+50000000 dom0 name work\0").await.unwrap();
    slow.shutdown().await.unwrap();
    sleep(Duration::from_millis(100)).await;
    let started = Instant::now();
    for _ in 0..20 {
        assert_eq!(daemon.raw_text("mgmt.test.Echo+ dom0 name work\0x").await, "0\0 x");
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(read_all(&mut slow).await.len(), 50_000_002);
}

#[tokio::test]
async fn an_upload_of_any_length_arrives_whole() {
    let daemon = Daemon::start().await;
    for length in [0usize, 1, 70_000, 20_000_000] {
        let data = vec![b'x'; length];
        let answer = daemon.client().call(Call::new("mgmt.test.Upload", "dom0"), &data).await.unwrap();
        assert_eq!(answer, Answer::Ok(length.to_string().into_bytes()));
    }
}

#[tokio::test]
async fn an_upload_that_nobody_reads_stops_the_client() {
    let daemon = Daemon::start().await;
    let mut stream = daemon.connect().await;
    stream.write_all(b"mgmt.test.Upload+wait dom0 name dom0\0").await.unwrap();
    let mut sent = 0usize;
    let chunk = vec![b'x'; 65536];
    while let Ok(written) = timeout(Duration::from_millis(300), stream.write(&chunk)).await {
        sent += written.unwrap();
        assert!(sent < 8 << 20, "the daemon takes data that nobody asked for");
    }
    daemon.world.go.notify_one();
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream).await, format!("0\0{sent}").as_bytes());
}

#[tokio::test]
async fn an_upload_that_is_broken_off_is_not_complete() {
    let daemon = Daemon::start().await;
    let request = b"mgmt.test.Upload dom0 name dom0\0some data";
    let mut stream = daemon.connect().await;
    stream.write_all(request).await.unwrap();
    sleep(Duration::from_millis(50)).await;
    drop(stream);
    daemon.world.finished(1).await;
    // Also when all has arrived by the time that the daemon begins to read.
    let mut stream = daemon.connect().await;
    stream
        .write_all(&[&b"mgmt.test.Upload+wait dom0 name dom0\0"[..], &[b'x'; 9000]].concat())
        .await
        .unwrap();
    drop(stream);
    sleep(Duration::from_millis(50)).await;
    daemon.world.go.notify_one();
    daemon.world.finished(2).await;
    // And when the client cannot read its own input to the end.
    struct Broken(usize);
    impl tokio::io::AsyncRead for Broken {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            self.0 += 1;
            if self.0 > 3 {
                return std::task::Poll::Ready(Err(io::Error::other("bad sector")));
            }
            buffer.put_slice(b"data");
            std::task::Poll::Ready(Ok(()))
        }
    }
    let upload = Call::new("mgmt.test.Upload", "dom0");
    let error = daemon.client().call_streaming(upload, Broken(0)).await.unwrap_err();
    assert!(matches!(error, ClientError::Payload(_)), "{error}");
    daemon.world.finished(3).await;
    assert_eq!(daemon.world.told(), [UploadError::BrokenOff.to_string().as_str(); 3]);
}

#[tokio::test]
async fn an_upload_that_is_refused_is_answered_before_it_ends() {
    let daemon = Daemon::start().await;
    let endless = || tokio::io::repeat(b'x');
    let upload = Call::new("mgmt.test.Upload", "dom0");
    let stranger = daemon.client().with_source("stranger");
    let answer = stranger.call_streaming(upload, endless()).await.unwrap();
    assert!(matches!(&answer, Answer::Exception(e) if e.is(Class::PermissionDenied)), "{answer:?}");
    let answer = daemon.client().call_streaming(upload.with("refuse"), endless()).await.unwrap();
    assert!(matches!(&answer, Answer::Exception(e) if e.message() == "enough"), "{answer:?}");
    let wrong = Call { destination: "work", ..upload };
    let answer = daemon.client().call_streaming(wrong, endless()).await.unwrap();
    assert!(matches!(&answer, Answer::Exception(e) if e.is(Class::ProtocolError)), "{answer:?}");
}

#[tokio::test]
async fn an_upload_that_falls_silent_is_given_up_after_the_limit() {
    let daemon = Daemon::with(limits(|l| l.read_timeout_s = count(1)), Manners::default()).await;
    let mut stream = daemon.connect().await;
    stream.write_all(b"mgmt.test.Upload dom0 name dom0\0").await.unwrap();
    // Longer than the limit in all, but never between two reads.
    for _ in 0..4 {
        sleep(Duration::from_millis(400)).await;
        stream.write_all(b"data").await.unwrap();
    }
    assert_eq!(daemon.world.told(), [""; 0]);
    let answer = String::from_utf8(read_all(&mut stream).await).unwrap();
    assert_eq!(answer, "2\0QubesException\0\0limit reached: no data for read_timeout_s = 1\0");
}

#[tokio::test]
async fn events_begin_with_the_connection_and_arrive_in_order() {
    let daemon = Daemon::start().await;
    let (send, receive) = mpsc::channel(8);
    *daemon.world.events.lock().unwrap() = Some(receive);
    let mut events = daemon.client().events(Call::new("mgmt.test.Events", "dom0")).await.unwrap();
    assert_eq!(events.next().await.unwrap(), Some(Event::connection_established()));
    for number in 0..3 {
        send.send(Event::new("work", format!("e{number}")).with("k", "")).await.unwrap();
    }
    drop(send);
    for number in 0..3 {
        let event = events.next().await.unwrap().unwrap();
        assert_eq!((event.name(), event.get("k")), (format!("e{number}").as_str(), Some("")));
    }
    assert_eq!(events.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_refused_subscription_is_answered_with_an_exception() {
    let daemon = Daemon::start().await;
    let mut events = daemon.client().events(Call::new("mgmt.test.Events", "dom0")).await.unwrap();
    let refused = events.next().await.unwrap_err();
    assert!(matches!(&refused, ClientError::Refused(e) if e.message() == "no events"), "{refused}");
}

#[tokio::test]
async fn a_subscriber_that_leaves_is_noticed_without_an_event() {
    let daemon = Daemon::start().await;
    let (send, receive) = mpsc::channel(8);
    *daemon.world.events.lock().unwrap() = Some(receive);
    let mut events = daemon.client().events(Call::new("mgmt.test.Events", "dom0")).await.unwrap();
    events.next().await.unwrap();
    assert!(!send.is_closed());
    drop(events);
    timeout(Duration::from_secs(5), send.closed()).await.expect("the stream is dropped");
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_holds_no_more_than_its_queue() {
    let daemon = Daemon::start().await;
    let (send, receive) = mpsc::channel(8);
    *daemon.world.events.lock().unwrap() = Some(receive);
    let mut stream = daemon.connect().await;
    stream.write_all(b"mgmt.test.Events dom0 name dom0\0").await.unwrap();
    stream.shutdown().await.unwrap();
    let large = Event::new("work", "large").with("k", "v".repeat(50_000));
    let mut sent = 0;
    while timeout(Duration::from_millis(300), send.send(large.clone())).await.is_ok() {
        sent += 1;
        assert!(sent < 100, "events pile up in the server");
    }
    assert_eq!(daemon.raw_text("mgmt.test.Echo+ dom0 name work\0x").await, "0\0 x");
}

#[tokio::test]
async fn at_the_end_calls_finish_and_streams_and_uploads_are_cut() {
    let daemon = Daemon::start().await;
    let (send, receive) = mpsc::channel(8);
    *daemon.world.events.lock().unwrap() = Some(receive);
    let mut events = daemon.client().events(Call::new("mgmt.test.Events", "dom0")).await.unwrap();
    events.next().await.unwrap();
    let client = daemon.client();
    let slow = tokio::spawn(async move { client.call(Call::new("mgmt.test.Slow", "work"), b"").await });
    let mut upload = daemon.connect().await;
    upload.write_all(b"mgmt.test.Upload dom0 name dom0\0data").await.unwrap();
    let mut unfinished = daemon.connect().await;
    unfinished.write_all(b"mgmt.test.Slow").await.unwrap();
    sleep(Duration::from_millis(100)).await;

    let (world, socket) = (Arc::clone(&daemon.world), daemon.socket.clone());
    let ended = tokio::spawn(daemon.stop());
    assert_eq!(events.next().await.unwrap(), None);
    assert_eq!(read_all(&mut unfinished).await, b"");
    assert_eq!(read_all(&mut upload).await, b"2\0QubesException\0\0the daemon is shutting down\0");
    upload.shutdown().await.unwrap();
    assert!(!ended.is_finished(), "the slow call is waited for");
    assert!(!socket.exists() && UnixStream::connect(&socket).await.is_err());
    world.go.notify_one();
    assert_eq!(slow.await.unwrap().unwrap(), Answer::Ok(Vec::new()));
    timeout(Duration::from_secs(6), ended).await.expect("an end").unwrap();
    assert_eq!(world.told(), ["the daemon is shutting down", "done"]);
    drop(send);
}

#[tokio::test]
async fn what_a_request_cannot_hold_is_not_sent() {
    let daemon = Daemon::start().await;
    for (call, what) in [
        (Call::new("mgmt.test Echo", "work"), "method"),
        (Call::new("mgmt.test.Echo", "work").with("a b"), "argument"),
        (Call::new("mgmt.test.Echo", "wo\0rk"), "destination"),
    ] {
        let error = daemon.client().call(call, b"").await.unwrap_err();
        assert!(matches!(error, ClientError::Unsendable(named) if named == what));
    }
    let nobody = Client::new("/nonexistent/d.sock").call(Call::new("a", "work"), b"").await.unwrap_err();
    assert!(matches!(nobody, ClientError::Connect { .. }));
}

#[tokio::test]
async fn a_client_that_breaks_off_during_its_answer_does_not_disturb_the_daemon() {
    let daemon = Daemon::start().await;
    for _ in 0..20 {
        let mut stream = daemon.connect().await;
        stream.write_all(b"mgmt.test.Big+5000000 dom0 name work\0").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut some = [0; 100];
        stream.read_exact(&mut some).await.unwrap();
    }
    assert_eq!(daemon.raw_text("mgmt.test.Echo+ dom0 name work\0x").await, "0\0 x");
    timeout(Duration::from_secs(5), daemon.stop()).await.expect("no connection stays");
}
