//! `mgmt` and `mgmt-qrexec` as programs, against a server with a small table of its own: what they send, what
//! they print, and how they exit.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use libvirt_qubes::ids::VmName;
use mgmt_rpc::config::Limits;
use mgmt_rpc::cx::{Cx, Directory};
use mgmt_rpc::dispatch::{Manners, Refusals, Service};
use mgmt_rpc::failure::Failure;
use mgmt_rpc::permission::Dom0Only;
use mgmt_rpc::reply::{
    Content, EventStream, Origin, PropertyValue, Reply, VmLine, deployed, seed, seed_untyped,
};
use mgmt_rpc::server::{Admission, Server, Upload, bind};
use mgmt_rpc::table::{Door, Row, Table, distinct};
use mgmt_rpc::untrusted::Text;
use mgmt_rpc::wire::{Event, VmRef};
use mgmt_rpc::{BoxFuture, row};
use tokio_util::sync::CancellationToken;

/// dom0 and work; keeps what it was told.
#[derive(Default)]
struct World(Mutex<Vec<String>>);

impl World {
    fn tell(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }
}

impl Directory for World {
    fn find(&self, vm: &VmRef) -> Option<VmName> {
        match vm {
            VmRef::Name(name) => ["dom0", "work"].contains(&name.as_str()).then(|| name.clone()),
            VmRef::Uuid(_) => None,
        }
    }
}

type Done = Result<Reply, Failure>;

async fn list(_: &Cx<World>) -> Done {
    let line = |name: &str, class, state| VmLine {
        name: name.parse().unwrap(),
        class,
        state,
        uuid: uuid::Uuid::nil(),
    };
    Ok(Content::Vms(vec![line("dom0", "AdminVM", "Running"), line("work", "AppVM", "Halted")]).into())
}

async fn create(cx: &Cx<World>, template: Text, payload: Text) -> Done {
    cx.host.tell(format!("create {} {} {}", cx.class, template.0, payload.0));
    Ok(Reply::empty())
}

async fn start(cx: &Cx<World>) -> Done {
    cx.host.tell(format!("start {}", cx.destination));
    Ok(Reply::empty())
}

async fn upload(cx: &Cx<World>, name: Text, mut image: Upload) -> Done {
    let (mut length, mut buffer) = (0, vec![0; 65536]);
    loop {
        match image.read(&mut buffer).await {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) => {
                cx.host.tell(format!("template {}: {error}", name.0));
                return Err(Failure::internal(error));
            }
        }
    }
    cx.host.tell(format!("template {} of {length}", name.0));
    Ok(Reply::empty())
}

async fn info(_: &Cx<World>) -> Done {
    Ok(Content::Pairs(vec![("hypervisor".into(), "sim".into())]).into())
}

async fn values(_: &Cx<World>) -> Done {
    let value = |origin, kind, text: &str| PropertyValue { origin, kind, text: text.to_owned() };
    Ok(Content::Properties(vec![
        ("kernelopts", value(Origin::Set, "str", "a b\\n")),
        ("netvm", value(Origin::Default, "vm", "")),
    ])
    .into())
}

async fn value(_: &Cx<World>, name: Text) -> Done {
    let text = format!("type=x of {}", name.0);
    Ok(Content::Property(PropertyValue { origin: Origin::Default, kind: "str", text }).into())
}

async fn default(_: &Cx<World>, _name: Text) -> Done {
    Ok(Content::PropertyDefault { kind: "int", text: "400".to_owned() }.into())
}

async fn help(cx: &Cx<World>, name: Text) -> Done {
    Ok(Reply::value(format!("about {} of {}", name.0, cx.destination)))
}

async fn set(cx: &Cx<World>, name: Text, value: Text) -> Done {
    cx.host.tell(format!("set {} of {} to {:?}", name.0, cx.destination, value.0));
    Ok(Reply::empty())
}

async fn reset(cx: &Cx<World>, name: Text) -> Done {
    cx.host.tell(format!("reset {} of {}", name.0, cx.destination));
    Ok(Reply::empty())
}

struct Two(Vec<Event>);

impl EventStream for Two {
    fn next(&mut self) -> BoxFuture<'_, Option<Event>> {
        let next = self.0.pop();
        Box::pin(async move { next })
    }
}

async fn events(_: &Cx<World>) -> Done {
    let set = Event::new("work", "domain-feature-set:gui").with("feature", "gui").with("value", "");
    Ok(Reply::Events(Box::new(Two(vec![set]))))
}

const CLASSES: &[&str] = &["AppVM", "StandaloneVM"];
const ROWS: &[&[Row<World>]] = &[&[
    row!(Both("vm.List"), Any, Global Read, (Empty, Empty) => list, encode: seed, deployed),
    row!(Both("vm.Create.", CLASSES, ""), Dom0, Global Write, (Optional<Text>, Required<Text>) => create),
    row!(Both("vm.CreateInPool.", CLASSES, ""), Dom0, Global Write, (Optional<Text>, Required<Text>) => create),
    row!(Both("vm.CreateTemplate"), Dom0, Global Write, (Required<Text>, Stream) => upload, cancel: InPayload),
    row!(Both("vm.Start"), Vm, Local Write, (Empty, Empty) => start),
    row!(
        Both("vm.property.Get"), Any, Local Read, (Required<Text>, Empty) => value,
        encode: seed_untyped, deployed
    ),
    row!(Both("vm.property.GetAll"), Any, Local Read, (Empty, Empty) => values),
    row!(Both("vm.property.GetDefault"), Any, Local Read, (Required<Text>, Empty) => default),
    row!(Both("vm.property.Help"), Any, Local Read, (Required<Text>, Empty) => help),
    row!(Both("vm.property.Set"), Any, Local Write, (Required<Text>, Optional<Text>) => set),
    row!(Both("vm.property.Reset"), Any, Local Write, (Required<Text>, Empty) => reset),
    row!(Both("property.Get"), Dom0, Global Read, (Required<Text>, Empty) => value),
    row!(Both("property.GetAll"), Dom0, Global Read, (Empty, Empty) => values),
    row!(Both("property.HelpRst"), Dom0, Global Read, (Required<Text>, Empty) => help),
    row!(Both("property.Set"), Dom0, Global Write, (Required<Text>, Optional<Text>) => set),
    row!(Both("property.Reset"), Dom0, Global Write, (Required<Text>, Empty) => reset),
    row!(Mgmt("Info"), Dom0, Global Read, (Empty, Empty) => info),
    row!(Both("Events"), Any, Global Read, (Empty, Empty) => events, cancel: OnHangUp),
]];
const _: () = assert!(distinct(ROWS));

struct Daemon {
    folder: tempfile::TempDir,
    socket: PathBuf,
    world: Arc<World>,
    _runtime: tokio::runtime::Runtime,
}

impl Daemon {
    fn start(manners: Manners) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("d.sock");
        let world = Arc::new(World::default());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let service =
            Service::new(Arc::clone(&world), Table::new(ROWS), Dom0Only, Limits::default(), manners);
        runtime.block_on(async {
            let listeners = bind([(Door::Main, socket.as_path())]).await.unwrap();
            let server = Server::new(Arc::new(service), listeners, Admission::of_this_process());
            tokio::spawn(server.run(CancellationToken::new()));
        });
        Self { folder, socket, world, _runtime: runtime }
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.world.0.lock().unwrap())
    }

    fn mgmt(&self, arguments: &[&str]) -> Ran {
        self.mgmt_with(arguments, b"")
    }

    fn mgmt_with(&self, arguments: &[&str], input: &[u8]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mgmt"));
        run(command.arg("--socket").arg(&self.socket).args(arguments), input)
    }
}

/// Exit code, standard output, standard error.
type Ran = (Option<i32>, String, String);

fn run(command: &mut Command, input: &[u8]) -> Ran {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A program that has its answer reads no further.
    drop(stdin.write_all(input));
    drop(stdin);
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn ok(output: &str) -> Ran {
    (Some(0), output.to_owned(), String::new())
}

#[test]
fn results_are_plain_lines_in_a_pipe_and_json_where_asked() {
    let daemon = Daemon::start(Manners::default());
    for (arguments, output) in [
        (&["vm", "list"][..], "dom0\tAdminVM\tRunning\nwork\tAppVM\tHalted\n"),
        (
            &["--json", "vm", "list"],
            "[{\"class\":\"AdminVM\",\"name\":\"dom0\",\"state\":\"Running\"},{\"class\":\"AppVM\",\"name\":\"work\",\"state\":\"Halted\"}]\n",
        ),
        (&["info"], "hypervisor\tsim\n"),
        (&["info", "--json"], "{\"hypervisor\":\"sim\"}\n"),
        (
            &["call", "mgmt.vm.List", "dom0"],
            "dom0 class=AdminVM state=Running\nwork class=AppVM state=Halted\n",
        ),
        (&["call", "mgmt.Info", "dom0", "--json"], "{\"content\":\"hypervisor=sim\\n\"}\n"),
        (
            &["call", "mgmt.Events", "work"],
            "- connection-established\nwork domain-feature-set:gui feature=gui value=\n",
        ),
    ] {
        assert_eq!(daemon.mgmt(arguments), ok(output), "{arguments:?}");
    }
}

#[test]
fn properties_are_shown_as_they_are() {
    let daemon = Daemon::start(Manners::default());
    let all = "kernelopts\tset\tstr\ta b\\n\nnetvm\tdefault\tvm\t\n";
    for (arguments, output) in [
        (&["vm", "property", "get-all", "work"][..], all),
        (&["property", "get-all"], all),
        (&["vm", "property", "get", "work", "memory"], "type=x of memory\n"),
        (&["property", "get", "clockvm"], "type=x of clockvm\n"),
        (&["vm", "property", "get-default", "work", "memory"], "400\n"),
        (&["vm", "property", "help", "work", "memory"], "about memory of work\n"),
        (&["property", "help", "clockvm", "--rst"], "about clockvm of dom0\n"),
    ] {
        assert_eq!(daemon.mgmt(arguments), ok(output), "{arguments:?}");
    }
}

#[test]
fn shells_complete_the_names_of_properties() {
    let daemon = Daemon::start(Manners::default());
    let (verbs, names) =
        (["get-default"].as_slice(), ["template_for_dispvms", "default_qrexec_timeout"].as_slice());
    // The generator for fish completes no values of positional arguments.
    for (shell, completed) in
        [("bash", [verbs, names].concat()), ("zsh", [verbs, names].concat()), ("fish", verbs.to_vec())]
    {
        let (code, script, errors) = daemon.mgmt(&["completions", shell]);
        assert_eq!((code, errors.as_str()), (Some(0), ""), "{shell}");
        for name in completed {
            assert!(script.contains(name), "{shell}: {name}");
        }
    }
    assert_eq!(daemon.mgmt(&["completions", "tcsh"]).0, Some(2));
}

#[test]
fn commands_send_the_calls_that_they_stand_for() {
    let daemon = Daemon::start(Manners::default());
    for (arguments, told) in [
        (
            &["vm", "create", "a", "--label", "red", "--template", "t"][..],
            vec!["create AppVM t name=a label=red"],
        ),
        (
            &["vm", "create", "a", "--label", "red", "--class", "StandaloneVM", "--pool", "p"],
            vec!["create StandaloneVM  name=a label=red pool=p"],
        ),
        (
            &["vm", "create", "a", "--label", "red", "--pool", "root=p", "--pool", "private=q"],
            vec!["create AppVM  name=a label=red pool:root=p pool:private=q"],
        ),
        (&["vm", "start", "work", "work"], vec!["start work", "start work"]),
        (&["vm", "property", "set", "work", "memory", "-5"], vec!["set memory of work to \"-5\""]),
        (&["vm", "property", "set", "work", "anything", ""], vec!["set anything of work to \"\""]),
        (&["vm", "property", "reset", "work", "memory"], vec!["reset memory of work"]),
        (&["property", "set", "clockvm", "work"], vec!["set clockvm of dom0 to \"work\""]),
        (&["property", "reset", "clockvm"], vec!["reset clockvm of dom0"]),
    ] {
        assert_eq!(daemon.mgmt(arguments), ok(""), "{arguments:?}");
        assert_eq!(daemon.told(), told);
    }
    let call = ["call", "mgmt.vm.Create.AppVM", "dom0", "t"];
    assert_eq!(daemon.mgmt_with(&call, b"name=b label=red"), ok(""));
    assert_eq!(daemon.told(), ["create AppVM t name=b label=red"]);
}

#[test]
fn an_image_is_sent_from_a_file_or_from_standard_input() {
    let daemon = Daemon::start(Manners::default());
    let image = daemon.folder.path().join("root.img");
    fs::write(&image, vec![b'x'; 3_000_000]).unwrap();
    assert_eq!(daemon.mgmt(&["vm", "create-template", "t", image.to_str().unwrap()]), ok(""));
    assert_eq!(daemon.mgmt_with(&["vm", "create-template", "t"], &[b'x'; 200_000]), ok(""));
    assert_eq!(daemon.told(), ["template t of 3000000", "template t of 200000"]);
    let (code, _, error) = daemon.mgmt(&["vm", "create-template", "t", "/nonexistent/root.img"]);
    assert_eq!(code, Some(2), "{error}");
    // A folder can be opened but not read: what was begun is broken off.
    let (code, _, error) = daemon.mgmt(&["vm", "create-template", "t", "/"]);
    assert_eq!(
        (code, error.as_str()),
        (Some(2), "mgmt: cannot read the payload: Is a directory (os error 21)\n")
    );
    for _ in 0..500 {
        if daemon.world.0.lock().unwrap().is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
    assert_eq!(daemon.told(), ["template t: the client broke off before the end of the data"]);
}

#[test]
fn exit_codes_tell_what_went_wrong() {
    let daemon = Daemon::start(Manners::default());
    let absent = "mgmt: QubesVMNotFoundError: No such domain: 'nowhere'\n";
    for arguments in
        [&["vm", "start", "nowhere"][..], &["call", "mgmt.vm.Start", "nowhere"], &["events", "nowhere"]]
    {
        assert_eq!(daemon.mgmt(arguments), (Some(1), String::new(), absent.to_owned()), "{arguments:?}");
    }
    let (code, output, error) = daemon.mgmt(&["--source", "work", "vm", "list"]);
    assert_eq!(
        (code, output.as_str(), error.as_str()),
        (Some(1), "", "mgmt: PermissionDenied: Access denied\n")
    );
    for arguments in [&["vm", "fly", "work"][..], &["vm", "start"], &["call", "a b", "dom0"], &[]] {
        let (code, output, error) = daemon.mgmt(arguments);
        assert_eq!((code, output.as_str()), (Some(2), ""), "{arguments:?} {error}");
        assert!(!error.is_empty());
    }
    let (code, _, error) = daemon.mgmt(&["events"]);
    assert_eq!((code, error.as_str()), (Some(3), "mgmt: the daemon closed the stream of events\n"));
    let mut nobody = Command::new(env!("CARGO_BIN_EXE_mgmt"));
    let (code, output, error) = run(nobody.args(["--socket", "/nonexistent/d.sock", "vm", "list"]), b"");
    assert_eq!((code, output.as_str()), (Some(3), ""));
    assert!(error.starts_with("mgmt: cannot connect to /nonexistent/d.sock: "), "{error}");
}

#[test]
fn an_output_that_cannot_be_written_is_no_fault_of_the_daemon() {
    let daemon = Daemon::start(Manners::default());
    for arguments in
        [&["vm", "list"][..], &["call", "mgmt.vm.List", "dom0"], &["call", "mgmt.Events", "dom0"]]
    {
        let mgmt = |output: Stdio, error: Stdio| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_mgmt"));
            command.arg("--socket").arg(&daemon.socket).args(arguments).stdin(Stdio::null());
            command.stdout(output).stderr(error).spawn().unwrap().wait_with_output().unwrap()
        };
        let full = || Stdio::from(fs::File::options().write(true).open("/dev/full").unwrap());
        let ran = mgmt(full(), Stdio::piped());
        let told = "mgmt: cannot write to standard output: No space left on device (os error 28)\n";
        assert_eq!((ran.status.code(), String::from_utf8(ran.stderr).unwrap().as_str()), (Some(2), told));
        assert_eq!(mgmt(full(), full()).status.code(), Some(2), "{arguments:?}");
        // A reader that has seen enough.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ran = mgmt(Stdio::from(writer), Stdio::piped());
        assert_eq!((ran.status.code(), ran.stderr.as_slice()), (Some(0), &b""[..]), "{arguments:?}");
    }
}

#[test]
fn a_refusal_without_a_word_is_told_as_one() {
    let daemon = Daemon::start(Manners { refusals: Refusals::Silent, ..Manners::default() });
    for arguments in [&["--source", "work", "vm", "list"][..], &["call", "mgmt.nothing", "dom0"]] {
        let refused = "mgmt: the daemon refused without an answer\n".to_owned();
        assert_eq!(daemon.mgmt(arguments), (Some(1), String::new(), refused), "{arguments:?}");
    }
}

#[test]
fn a_qrexec_service_hands_over_the_call_and_the_whole_answer() {
    let daemon = Daemon::start(Manners::default());
    let service = |variables: &[(&str, &str)], input: &[u8]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mgmt-qrexec"));
        command.env("MGMT_SOCKET", &daemon.socket).env("QREXEC_REQUESTED_TARGET_TYPE", "name");
        run(command.envs(variables.iter().copied()), input)
    };
    let call = |name: &'static str, from: &'static str, on: &'static str| {
        [("QREXEC_SERVICE_FULL_NAME", name), ("QREXEC_REMOTE_DOMAIN", from), ("QREXEC_REQUESTED_TARGET", on)]
    };
    let info = call("mgmt.Info+", "dom0", "dom0");
    assert_eq!(service(&info, b""), ok("0\0hypervisor=sim\n"));
    let denied = call("mgmt.vm.Start", "work", "work");
    assert_eq!(service(&denied, b""), ok("2\0PermissionDenied\0\0Access denied\0"));
    let create = call("mgmt.vm.Create.AppVM+t", "dom0", "dom0");
    assert_eq!(service(&create, b"name=a label=red"), ok("0\0"));
    assert_eq!(daemon.told(), ["create AppVM t name=a label=red"]);
    let (code, output, error) = service(&info[..1], b"");
    assert_eq!((code, output.as_str()), (Some(2), ""));
    assert_eq!(error, "mgmt-qrexec: not started by qrexec: QREXEC_REMOTE_DOMAIN is not set\n");
    let mut lost = Command::new(env!("CARGO_BIN_EXE_mgmt-qrexec"));
    lost.env("MGMT_SOCKET", "/nonexistent/d.sock").envs(info);
    let (code, output, _) = run(&mut lost, b"");
    assert_eq!((code, output.as_str()), (Some(3), ""));
}

#[test]
fn a_qrexec_service_without_an_answer_has_failed() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("mgmtd.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let silent = std::thread::spawn(move || drop(listener.accept().unwrap()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_mgmt-qrexec"));
    command.env("MGMT_SOCKET", &socket).env("QREXEC_SERVICE_FULL_NAME", "mgmt.Info");
    command.env("QREXEC_REMOTE_DOMAIN", "work").env("QREXEC_REQUESTED_TARGET", "dom0");
    let (code, output, error) = run(&mut command, b"");
    silent.join().unwrap();
    assert_eq!((code, output.as_str()), (Some(3), ""));
    assert_eq!(
        error,
        "mgmt-qrexec: the daemon closed without an answer: it refuses the call, or has ended\n"
    );
}

#[test]
fn programs_say_what_they_are_and_a_caller_s_argument_is_no_flag() {
    let daemon = Daemon::start(Manners::default());
    assert!(daemon.mgmt(&["--version"]).1.starts_with("mgmt "));
    let qrexec = |argument: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mgmt-qrexec"));
        command.arg(argument).env("MGMT_SOCKET", &daemon.socket);
        command
    };
    assert!(run(&mut qrexec("--version"), b"").1.starts_with("mgmt-qrexec "));
    let (code, help, error) = run(&mut qrexec("--help"), b"");
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert!(help.contains("QREXEC_REMOTE_DOMAIN") && help.contains("Exit codes"), "{help}");
    let (_, answer, _) =
        run(qrexec("--help").env("QREXEC_REMOTE_DOMAIN", "dom0").env("QREXEC_REQUESTED_TARGET", "dom0"), b"");
    assert!(answer.starts_with("2\0"), "the daemon is asked: {answer}");
}

#[test]
fn another_user_is_refused_whatever_the_mode_of_the_socket() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root to run a program as another user");
        return;
    }
    let daemon = Daemon::start(Manners::default());
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    open(daemon.folder.path(), 0o755);
    open(&daemon.socket, 0o666);
    let program = daemon.folder.path().join("mgmt");
    fs::copy(env!("CARGO_BIN_EXE_mgmt"), &program).unwrap();
    open(&program, 0o755);
    let mut as_nobody = Command::new(&program);
    as_nobody.uid(65534).gid(65534).arg("--socket").arg(&daemon.socket).args(["vm", "list"]);
    let denied = "mgmt: PermissionDenied: Access denied\n".to_owned();
    assert_eq!(run(&mut as_nobody, b""), (Some(1), String::new(), denied));
    assert_eq!(daemon.mgmt(&["vm", "start", "work"]), ok(""));
}

#[test]
fn a_daemon_that_ends_before_it_answers_is_no_refusal() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let path = socket.clone();
    let daemon = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        // All of the request: else the client sees a connection that was reset.
        std::io::copy(&mut client, &mut std::io::sink()).unwrap();
        // A child that another test has just forked may still hold the listener.
        fs::remove_file(path).unwrap();
        drop(listener);
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_mgmt"));
    let ran = run(command.arg("--socket").arg(&socket).args(["vm", "list"]), b"");
    assert_eq!(ran, (Some(3), String::new(), "mgmt: the daemon ended before it answered\n".to_owned()));
    daemon.join().unwrap();
}
