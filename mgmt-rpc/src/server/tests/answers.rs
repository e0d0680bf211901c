//! Which answer a request gets.

use super::*;

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
