//! The internal socket of the daemon, as the qrexec policy engine uses it.

use std::os::unix::fs::PermissionsExt;

use mgmt_tests::{Daemon, Socket, Start};

/// A daemon with an internal socket in a folder of its own.
fn start(dir: &tempfile::TempDir, more: &str) -> (Daemon, Socket) {
    let path = dir.path().join("internal.sock");
    let daemon = Start::new().config(&format!("[sockets]\ninternal = {path:?}\n{more}")).start();
    (daemon, Socket::new(path))
}

#[test]
fn the_policy_engine_is_told_what_it_decides_by() {
    let dir = tempfile::tempdir().unwrap();
    let (daemon, internal) = start(&dir, "");
    let dom0 = r#""dom0": {"internal": null, "tags": [], "type": "AdminVM", "template_for_dispvms": false, "default_dispvm": null, "icon": "appvm-black", "label": "0x000000", "guivm": null, "relayvm": null, "transport_rpc": null, "power_state": "Running", "uuid": "00000000-0000-0000-0000-000000000000"}"#;
    let info = |socket: &Socket| socket.call("internal.GetSystemInfo", "dom0", "", b"").ok();
    assert_eq!(info(&internal), format!(r#"{{"domains": {{{dom0}}}}}"#));
    daemon.call("mgmt.vm.CreateTemplate", "dom0", "base", b"a root image").ok();
    daemon.call("mgmt.vm.Create.AppVM", "dom0", "base", b"name=work label=red").ok();
    daemon.call("mgmt.vm.property.Set", "work", "template_for_dispvms", b"True").ok();
    daemon.call("mgmt.vm.property.Set", "work", "default_dispvm", b"work").ok();
    daemon.call("mgmt.vm.feature.Set", "work", "internal", b"a \"b\" \\").ok();
    daemon.call("mgmt.vm.tag.Set", "work", "a", b"").ok();
    daemon.call("mgmt.vm.Start", "work", "", b"").ok();
    let uuid = daemon.call("admin.vm.List", "work", "", b"").ok();
    let uuid = uuid.trim_end().rsplit_once("uuid=").unwrap().1.to_owned();
    let content = info(&internal);
    let (before, work) = content.split_once(r#""work": "#).unwrap();
    let (work, after) = work.split_once('}').unwrap();
    assert!(before.starts_with(&format!(r#"{{"domains": {{{dom0}, "base": {{"#)), "{before}");
    assert_eq!(after, "}}");
    // Who shows its windows follows a default that is set elsewhere.
    let (start, end) = work.split_once(r#""guivm": "#).unwrap();
    assert_eq!(
        start,
        r#"{"internal": "a \"b\" \\", "tags": ["a", "audiovm-dom0", "created-by-dom0", "guivm-dom0"], "type": "AppVM", "template_for_dispvms": true, "default_dispvm": "work", "icon": "appvm-red", "label": "0xcc0000", "#
    );
    let end = end.split_once(", ").unwrap().1;
    assert_eq!(
        end,
        format!(r#""relayvm": null, "transport_rpc": null, "power_state": "Running", "uuid": "{uuid}""#)
    );
}

#[test]
fn it_answers_its_own_calls_alone_by_the_same_rules() {
    let dir = tempfile::tempdir().unwrap();
    let (daemon, internal) = start(&dir, "");
    let unknown = |method: &str| format!("2\0ProtocolError\0\0no such method: %s\0'{method}'\0").into_bytes();
    let info = "internal.GetSystemInfo";
    assert_eq!(daemon.call(info, "dom0", "", b"").0, unknown(info));
    for method in
        ["admin.vm.List", "mgmt.vm.List", "internal.vm.List", "internal.SuspendPre", "GetSystemInfo"]
    {
        assert_eq!(internal.call(method, "dom0", "", b"").0, unknown(method));
    }
    let said = |argument: &str, payload: &[u8]| internal.call(info, "dom0", argument, payload).exception().1;
    assert_eq!(said("x", b""), "unexpected argument");
    assert_eq!(said("", b"x"), "unexpected payload");
    daemon.call("mgmt.vm.CreateTemplate", "dom0", "base", b"a root image").ok();
    let elsewhere = internal.call(info, "base", "", b"").exception();
    assert_eq!(elsewhere, ("ProtocolError".into(), "expected destination to be AdminVM".into()));
    assert_eq!(internal.call_as("base", info, "dom0", "", b"").0, b"2\0PermissionDenied\0\0Access denied\0");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(internal.path()), mode(daemon.socket().path())), (0o660, 0o660));
    assert!(daemon.log().contains(internal.path().to_str().unwrap()), "the line that says it is ready");
    assert_eq!(daemon.terminate(), Some(0));
    assert!(!internal.path().exists());
}

#[test]
fn its_refusals_are_silent_too_where_that_is_configured() {
    let dir = tempfile::tempdir().unwrap();
    let (_daemon, internal) = start(&dir, "[compat]\nsilent_refusals = true\n");
    assert_eq!(internal.call("internal.Nothing", "dom0", "", b"").0, b"");
    assert_eq!(internal.call("internal.GetSystemInfo", "dom0", "x", b"").0, b"");
    assert!(internal.call("internal.GetSystemInfo", "dom0", "", b"").ok().starts_with("{\"domains\": "));
}
