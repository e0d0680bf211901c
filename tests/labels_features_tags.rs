//! Labels, features and tags through the socket: the events of their calls, in order, and what a restart keeps.

use std::process::Command;

use mgmt_tests::{Daemon, binary};

fn vm(daemon: &Daemon) {
    assert_eq!(daemon.call("mgmt.vm.CreateTemplate", "dom0", "base", b"a root image").ok(), "");
    assert_eq!(daemon.call("mgmt.vm.Create.AppVM", "dom0", "base", b"name=work label=red").ok(), "");
}

/// The events of calls on `work`; a mark after them shows that there are no more.
fn events(daemon: &Daemon, calls: &[(&str, &str, &str)]) -> Vec<String> {
    let mut events = daemon.socket().events("work");
    for (method, argument, payload) in calls {
        // Refused or not: the events tell.
        drop(daemon.call(method, "work", argument, payload.as_bytes()));
    }
    daemon.call("mgmt.vm.tag.Set", "work", "mark", b"").ok();
    let mut seen = events.until("work domain-tag-add:mark");
    daemon.call("mgmt.vm.tag.Remove", "work", "mark", b"").ok();
    seen.pop();
    seen
}

#[test]
fn features_announce_sets_and_removals_also_those_that_fail() {
    let daemon = Daemon::start();
    vm(&daemon);
    let calls = [
        ("mgmt.vm.feature.Set", "gui", "1"),
        ("admin.vm.feature.Set", "gui", ""),
        ("mgmt.vm.feature.Set", "gui", ""),
        ("admin.vm.feature.Remove", "gui", ""),
        ("mgmt.vm.feature.Remove", "gui", ""),
        // Vetoed after the announcement.
        ("mgmt.vm.feature.Set", "service.", "1"),
        // To Remove, no feature's name is one that is not there.
        ("mgmt.vm.feature.Remove", "a/b", ""),
        // Refused before: no feature's name, no feature's value, the daemon's own.
        ("mgmt.vm.feature.Set", "a/b", "1"),
        ("mgmt.vm.feature.Set", "gui", "\n"),
        ("mgmt.vm.feature.Set", "preload-dispvm", "1"),
        ("mgmt.vm.feature.Remove", "preload-dispvm", ""),
    ];
    assert_eq!(
        events(&daemon, &calls),
        [
            "work domain-feature-pre-set:gui feature=gui value=1",
            "work domain-feature-set:gui feature=gui value=1",
            "work domain-feature-pre-set:gui feature=gui value= oldvalue=1",
            "work domain-feature-set:gui feature=gui value= oldvalue=1",
            "work domain-feature-pre-set:gui feature=gui value= oldvalue=",
            "work domain-feature-set:gui feature=gui value= oldvalue=",
            "work domain-feature-pre-delete:gui feature=gui",
            "work domain-feature-delete:gui feature=gui",
            "work domain-feature-pre-delete:gui feature=gui",
            "work domain-feature-pre-set:service. feature=service. value=1",
            "work domain-feature-pre-delete:a/b feature=a/b",
        ]
    );
}

#[test]
fn the_old_switch_of_memory_balancing_shows_as_the_property_that_it_became() {
    let daemon = Daemon::start();
    vm(&daemon);
    let name = "service.meminfo-writer";
    assert_eq!(
        events(&daemon, &[("mgmt.vm.feature.Set", name, ""), ("mgmt.vm.feature.Set", name, "1")]),
        [
            format!("work domain-feature-pre-set:{name} feature={name} value="),
            "work property-pre-set:maxmem name=maxmem newvalue=0 oldvalue=4000".to_owned(),
            "work property-set:maxmem name=maxmem newvalue=0 oldvalue=4000".to_owned(),
            format!("work domain-feature-pre-delete:{name} feature={name}"),
            format!("work domain-feature-delete:{name} feature={name}"),
            format!("work domain-feature-set:{name} feature={name} value="),
            format!("work domain-feature-pre-set:{name} feature={name} value=1"),
            "work property-pre-reset:maxmem name=maxmem oldvalue=0".to_owned(),
            "work property-pre-del:maxmem name=maxmem oldvalue=0".to_owned(),
            "work property-reset:maxmem name=maxmem oldvalue=0".to_owned(),
            "work property-del:maxmem name=maxmem oldvalue=0".to_owned(),
            format!("work domain-feature-pre-delete:{name} feature={name}"),
            format!("work domain-feature-delete:{name} feature={name}"),
            format!("work domain-feature-set:{name} feature={name} value=1"),
        ]
    );
    // Of a running VM it cannot be changed, and nothing is kept of the attempt.
    daemon.call("mgmt.vm.Start", "work", "", b"").ok();
    let refused = daemon.call("mgmt.vm.feature.Set", "work", name, b"").exception();
    assert_eq!(refused.0, "QubesVMNotHaltedError");
    assert_eq!(daemon.call("mgmt.vm.feature.List", "work", "", b"").ok(), "");
}

#[test]
fn tags_have_an_event_when_they_come_and_go_and_labels_have_none() {
    let daemon = Daemon::start();
    vm(&daemon);
    let mut all = daemon.socket().events("dom0");
    daemon.call("mgmt.label.Create", "dom0", "pink", b"0xffc0cb").ok();
    daemon.call("mgmt.label.Remove", "dom0", "pink", b"").ok();
    daemon.call("mgmt.vm.tag.Set", "dom0", "host", b"").ok();
    assert_eq!(all.next(), "dom0 domain-tag-add:host tag=host");
    let calls = [
        ("mgmt.vm.tag.Set", "a", ""),
        ("mgmt.vm.tag.Set", "a", ""),
        ("admin.vm.tag.Set", "created-by-base", ""),
        ("admin.vm.tag.Remove", "a", ""),
        ("admin.vm.tag.Remove", "a", ""),
    ];
    assert_eq!(
        events(&daemon, &calls),
        [
            "work domain-tag-add:a tag=a",
            "work domain-tag-add:created-by-base tag=created-by-base",
            "work domain-tag-delete:a tag=a",
        ]
    );
}

#[test]
fn a_kill_loses_none_of_what_was_acknowledged() {
    let daemon = Daemon::start();
    vm(&daemon);
    daemon.call("mgmt.label.Create", "dom0", "pink", b"0xFFc0cb").ok();
    daemon.call("mgmt.vm.tag.Set", "work", "a", b"").ok();
    for (name, value) in [("b", "1"), ("a", ""), ("c", "~ %")] {
        daemon.call("mgmt.vm.feature.Set", "work", name, value.as_bytes()).ok();
    }
    daemon.call("mgmt.vm.feature.Remove", "work", "b", b"").ok();
    daemon.call("mgmt.vm.feature.Set", "work", "b", b"2").ok();
    let daemon = daemon.kill_and_restart();
    assert_eq!(daemon.call("mgmt.label.Get", "dom0", "9", b"").ok(), "0xFFc0cb");
    assert_eq!(
        daemon.call("mgmt.vm.tag.List", "work", "", b"").ok(),
        "a\naudiovm-dom0\ncreated-by-dom0\nguivm-dom0\n"
    );
    assert_eq!(daemon.call("mgmt.vm.feature.List", "work", "", b"").ok(), "a\nc\nb\n");
    assert_eq!(daemon.call("mgmt.vm.feature.Get", "work", "c", b"").ok(), "~ %");
}

/// The command line: its exit code, and what it prints.
fn mgmt(daemon: &Daemon, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(binary("mgmt"));
    let output = command.arg("--socket").arg(daemon.socket().path()).args(arguments).output().unwrap();
    let printed = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    (output.status.code().unwrap(), String::from_utf8(printed).unwrap())
}

#[test]
fn the_command_line_has_a_noun_for_each() {
    let daemon = Daemon::start();
    vm(&daemon);
    for (line, code, printed) in [
        ("label create pink 0xFFc0cb", 0, ""),
        ("label remove red", 1, "mgmt: ProtocolError: Can only remove custom labels\n"),
        ("feature set base of-base x", 0, ""),
        ("feature set work gui", 0, ""),
        ("feature set work empty", 0, ""),
        ("feature list work", 0, "gui\t1\nempty\t1\n"),
        (
            "--json feature list work",
            0,
            "[{\"feature\":\"gui\",\"value\":\"1\"},{\"feature\":\"empty\",\"value\":\"1\"}]\n",
        ),
        (
            "feature get work of-base",
            1,
            "mgmt: QubesFeatureNotFoundError: Feature not set for domain work: of-base\n",
        ),
        ("feature get --fallback template work of-base", 0, "x\n"),
        ("feature get --fallback template-and-adminvm work of-base", 0, "x\n"),
        ("feature remove work gui", 0, ""),
        ("tag add work a", 0, ""),
        ("tag list work", 0, "a\naudiovm-dom0\ncreated-by-dom0\nguivm-dom0\n"),
        ("tag get work a", 0, "1\n"),
        ("tag remove work a", 0, ""),
        ("tag get work a", 0, "0\n"),
        ("vm state work", 0, "mem\t0\nmem_static_max\t0\ncputime\t0\npower_state\tHalted\n"),
        ("vm classes", 0, "AdminVM\nAppVM\nDispVM\nRemoteVM\nStandaloneVM\nTemplateVM\n"),
        ("device classes", 0, "pci\nblock\nusb\nmic\n"),
        ("feature get work gui --fallback nobody", 2, ""),
    ] {
        let got = mgmt(&daemon, &line.split(' ').collect::<Vec<_>>());
        assert_eq!(got.0, code, "{line}: {got:?}");
        assert!(code == 2 || got.1 == printed, "{line}: {got:?}");
    }
    let labels = mgmt(&daemon, &["label", "list"]).1;
    assert!(
        labels.starts_with("red\t1\t0xcc0000\n") && labels.ends_with("\npink\t9\t0xFFc0cb\n"),
        "{labels}"
    );
}
