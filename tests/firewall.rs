//! Firewall rules and notes in a running daemon: time, restarts, events, the command line.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use mgmt_tests::{Daemon, binary};

fn with_work() -> Daemon {
    let daemon = Daemon::start();
    daemon.call("mgmt.vm.Create.StandaloneVM", "dom0", "", b"name=work label=red").ok();
    daemon
}

fn list(daemon: &Daemon) -> String {
    daemon.call("mgmt.vm.firewall.List", "work", "", b"").ok()
}

fn insert(daemon: &Daemon, rule: &str) -> String {
    daemon.call("mgmt.vm.firewall.InsertRule", "work", "END", rule.as_bytes()).ok()
}

fn in_seconds(seconds: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + seconds
}

#[test]
fn a_rule_expires_by_itself_and_its_vm_is_announced() {
    let daemon = with_work();
    let mut events = daemon.socket().events("work");
    let expire = in_seconds(3);
    assert_eq!(insert(&daemon, &format!("action=accept proto=tcp expire={expire}")), "2");
    assert_eq!(events.next(), "work firewall-changed");
    // Nothing but time makes the next one.
    assert_eq!(events.next(), "work firewall-changed");
    assert!(in_seconds(0) >= expire);
    assert_eq!(list(&daemon), "1 action=accept\n");
    assert_eq!(insert(&daemon, "action=drop"), "3");
}

#[test]
fn a_rule_expires_after_a_restart_too() {
    let daemon = with_work();
    let expire = in_seconds(5);
    assert_eq!(insert(&daemon, &format!("action=accept proto=tcp expire={expire}")), "2");
    let daemon = daemon.kill_and_restart();
    let mut events = daemon.socket().events("work");
    // On a machine so slow that the time has come already, the daemon may have said so before.
    if list(&daemon).contains("proto=tcp") {
        assert_eq!(events.next(), "work firewall-changed");
    }
    assert_eq!(list(&daemon), "1 action=accept\n");
    assert_eq!(insert(&daemon, "action=drop"), "3");
}

#[test]
fn rules_their_ids_and_notes_outlive_a_kill() {
    let daemon = with_work();
    for rule in ["action=drop", "action=accept proto=udp dstports=53", "action=drop proto=icmp"] {
        insert(&daemon, rule);
    }
    daemon.call("mgmt.vm.firewall.RemoveRule", "work", "4", b"").ok();
    daemon.call("mgmt.vm.notes.Set", "work", "", "größe\n".as_bytes()).ok();
    let daemon = daemon.kill_and_restart();
    let rules = "1 action=accept\n2 action=drop\n3 action=accept proto=udp dstports=53-53\n";
    assert_eq!(list(&daemon), rules);
    assert_eq!(daemon.call("admin.vm.notes.Get", "work", "", b"").ok(), "größe\n");
    daemon.call("mgmt.vm.firewall.Flush", "work", "", b"").ok();
    let daemon = daemon.kill_and_restart();
    assert_eq!(list(&daemon), "");
    assert_eq!(insert(&daemon, "action=drop"), "5");
}

#[test]
fn every_change_of_rules_is_announced_before_its_answer_and_notes_are_not() {
    let daemon = with_work();
    let mut events = daemon.socket().events("work");
    for (method, argument, payload) in [
        ("mgmt.vm.firewall.InsertRule", "1", "action=drop"),
        ("mgmt.vm.firewall.RemoveRule", "2", ""),
        ("admin.vm.firewall.Set", "", "action=accept"),
        ("mgmt.vm.firewall.Flush", "", ""),
        ("admin.vm.firewall.Reload", "", ""),
    ] {
        daemon.call("mgmt.vm.notes.Set", "work", "", b"text").ok();
        daemon.call(method, "work", argument, payload.as_bytes()).ok();
        assert_eq!(events.next(), "work firewall-changed", "{method}");
    }
    // What was refused was not.
    daemon.call("mgmt.vm.firewall.RemoveRule", "work", "99", b"").exception();
    daemon.call("mgmt.vm.property.Set", "work", "memory", b"500").ok();
    assert!(events.next().starts_with("work property-pre-set:memory"));
}

#[test]
fn a_request_is_as_long_as_its_limit_whatever_the_payload() {
    let daemon = with_work();
    let header = "mgmt.vm.notes.Set+ dom0 name work\0";
    let longest = vec![b'x'; 65536 - header.len()];
    assert_eq!(daemon.call("mgmt.vm.notes.Set", "work", "", &longest).ok(), "");
    assert_eq!(daemon.call("mgmt.vm.notes.Get", "work", "", b"").ok().len(), longest.len());
    let longer = [&*longest, b"x"].concat();
    for prefix in ["mgmt", "admin"] {
        let (class, text) = daemon.call(&format!("{prefix}.vm.notes.Set"), "work", "", &longer).exception();
        assert_eq!(
            (class.as_str(), text.as_str()),
            ("ProtocolError", "malformed request: more than 65536 bytes")
        );
    }
    assert_eq!(daemon.call("mgmt.vm.notes.Get", "work", "", b"").ok().len(), longest.len());
}

/// Runs `mgmt vm ARGUMENTS…` with this input: exit code, standard output, standard error.
fn mgmt(daemon: &Daemon, arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut child = Command::new(binary("mgmt"))
        .arg("--socket")
        .arg(daemon.socket().path())
        .arg("vm")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads none has maybe ended by now.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_command_line_has_a_verb_for_each_call() {
    let daemon = with_work();
    let file = daemon.dir().join("rules");
    std::fs::write(&file, "action=accept specialtarget=dns\naction=drop\n").unwrap();
    let file = file.to_str().unwrap();
    for (arguments, input, output) in [
        (&["firewall", "list", "work"][..], "", "1\taction=accept\n"),
        (&["firewall", "insert", "work", "action=drop", "proto=tcp", "comment=not now"], "", "2\n"),
        (&["firewall", "insert", "work", "--before", "2", "action=accept proto=udp"], "", "3\n"),
        (&["firewall", "remove", "work", "1"], "", ""),
        (
            &["firewall", "list", "work"],
            "",
            "3\taction=accept proto=udp\n2\taction=drop proto=tcp comment=not now\n",
        ),
        (
            &["firewall", "list", "work", "--json"],
            "",
            "[{\"id\":\"3\",\"rule\":\"action=accept proto=udp\"},\
             {\"id\":\"2\",\"rule\":\"action=drop proto=tcp comment=not now\"}]\n",
        ),
        (&["firewall", "set", "work", file], "", ""),
        (&["firewall", "get", "work"], "", "action=accept specialtarget=dns\naction=drop\n"),
        (&["firewall", "set", "work"], "action=drop", ""),
        (&["firewall", "list", "work"], "", "5\taction=drop\n"),
        (&["firewall", "reload", "work"], "", ""),
        (&["firewall", "flush", "work"], "", ""),
        (&["firewall", "get", "work"], "", ""),
        (&["notes", "get", "work"], "", ""),
        (&["notes", "set", "work"], "one\ntwo", ""),
        (&["notes", "get", "work"], "", "one\ntwo"),
        (&["notes", "get", "work", "--json"], "", "\"one\\ntwo\"\n"),
    ] {
        let expected = (Some(0), output.to_owned(), String::new());
        assert_eq!(mgmt(&daemon, arguments, input), expected, "{arguments:?}");
    }
    let (code, output, error) = mgmt(&daemon, &["firewall", "remove", "work", "5"], "");
    assert_eq!((code, output.as_str()), (Some(1), ""));
    assert_eq!(error, "mgmt: QubesValueError: No such firewall rule: 5\n");
}
