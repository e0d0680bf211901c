//! Stores that somebody edited: whatever is wrong with a row, the daemon starts, says so, and keeps the rest. What
//! `mgmtd doctor` says of it, and puts right.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use std::path::Path;
use std::process::{Command, Output};

use mgmt_tests::{Daemon, binary};
use rusqlite::Connection;
use serde_json::Value;

/// Changes a store with nothing in the way.
fn edit(state: &Path, sql: &str) {
    let db = Connection::open(state.join("state.db")).unwrap();
    let off = "PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON;";
    db.execute_batch(off)
        .and_then(|()| db.execute_batch(sql))
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    db.close().unwrap();
}

/// A VM's identity, in SQL.
fn of(vm: &str) -> String {
    format!("(SELECT uuid FROM vm WHERE name = '{vm}')")
}

/// A daemon whose state has a template, two VMs and something in every table, and a copy of its store.
fn filled() -> (Daemon, Vec<u8>) {
    let daemon = Daemon::start();
    let call = |method: &str, destination: &str, argument: &str, payload: &[u8]| {
        daemon.call(method, destination, argument, payload).ok();
    };
    call("mgmt.vm.Create.TemplateVM", "dom0", "", b"name=debian label=black");
    call("mgmt.vm.Create.AppVM", "dom0", "debian", b"name=work label=red");
    call("mgmt.vm.Create.StandaloneVM", "dom0", "", b"name=net label=red");
    call("mgmt.vm.property.Set", "net", "provides_network", b"True");
    call("mgmt.vm.property.Set", "work", "netvm", b"net");
    call("mgmt.vm.property.Set", "work", "memory", b"500");
    let mut store = Vec::new();
    let daemon = daemon.kill_and_restart_edited(|state| {
        let (work, net) = (of("work"), of("net"));
        edit(
            state,
            &format!(
                "INSERT INTO tag VALUES ({work}, 'mine');
                 INSERT INTO feature VALUES ({work}, 'gui', '1', 1);
                 INSERT INTO assignment VALUES (1, {work}, 'usb', {net}, '2-1', '*', 'required');
                 INSERT INTO assignment_option VALUES (1, 'read-only', 'yes');
                 INSERT INTO firewall VALUES ({work}, 3);
                 INSERT INTO firewall_rule VALUES ({work}, 3, 1, 'action=drop');
                 INSERT INTO notes VALUES ({work}, 'remember');
                 PRAGMA wal_checkpoint(TRUNCATE);"
            ),
        );
        store = std::fs::read(state.join("state.db")).unwrap();
    });
    (daemon, store)
}

fn mgmtd(state: &Path, arguments: &[&str]) -> Output {
    Command::new(binary("mgmtd")).arg("--state").arg(state).args(arguments).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Where a bad row must show.
enum Shows {
    /// The VM is set aside for a reason with this word.
    VmSetAside(&'static str),
    /// Every VM is there, and the log has this word.
    Log(&'static str),
}

#[test]
fn a_daemon_starts_on_a_store_with_a_bad_row_in_any_table() {
    use Shows::{Log, VmSetAside};
    let work = of("work");
    let nobody = "'99999999-9999-4999-8999-999999999999'";
    let (mut daemon, store) = filled();
    for (sql, shows) in [
        ("UPDATE meta SET value = 'many'".to_owned(), Log("event_numbers")),
        ("DELETE FROM meta".to_owned(), Log("event_numbers")),
        ("UPDATE label SET colour = 'pink' WHERE idx = 3".to_owned(), Log("yellow")),
        ("UPDATE label SET name = CAST(x'ff' AS TEXT) WHERE idx = 3".to_owned(), Log("safe set")),
        ("INSERT INTO label VALUES (-4, 'odd', '0x000000')".to_owned(), Log("odd")),
        ("INSERT INTO pool VALUES ('a b', 'file', 9)".to_owned(), Log("a b")),
        ("UPDATE pool SET position = -1 WHERE name = 'linux-kernel'".to_owned(), Log("linux-kernel")),
        ("INSERT INTO pool_option VALUES ('gone', 'dir_path', '/x')".to_owned(), Log("pool_option")),
        ("UPDATE vm SET class = 'CloudVM' WHERE name = 'work'".to_owned(), VmSetAside("CloudVM")),
        ("UPDATE vm SET label = 99 WHERE name = 'work'".to_owned(), VmSetAside("label 99")),
        ("UPDATE vm SET qid = 99999 WHERE name = 'work'".to_owned(), VmSetAside("99999")),
        (
            format!("UPDATE vm_property SET value = 'much' WHERE vm = {work} AND name = 'memory'"),
            VmSetAside("much"),
        ),
        (
            format!("UPDATE vm_property SET value = CAST(x'ff' AS TEXT) WHERE vm = {work}"),
            VmSetAside("memory"),
        ),
        (
            format!("INSERT INTO vm_property VALUES ({work}, 'kernelopts', 'a' || char(1))"),
            VmSetAside("characters"),
        ),
        (format!("INSERT INTO vm_property VALUES ({nobody}, 'memory', '4')"), Log("vm_property")),
        (
            format!("UPDATE vm_reference SET target = {nobody} WHERE vm = {work} AND name = 'netvm'"),
            VmSetAside("netvm"),
        ),
        (
            format!("UPDATE vm_reference SET target = {work} WHERE vm = {work} AND name = 'netvm'"),
            VmSetAside("netvm"),
        ),
        (format!("INSERT INTO vm_reference VALUES ({nobody}, 'netvm', {work})"), Log("vm_reference")),
        (format!("UPDATE volume SET kind = 'liquid' WHERE vm = {work}"), VmSetAside("liquid")),
        (format!("UPDATE volume SET pool = 'gone' WHERE vm = {work}"), VmSetAside("gone")),
        (
            format!("UPDATE volume SET size = -1 WHERE vm = {work} AND name = 'private'"),
            VmSetAside("negative"),
        ),
        (
            format!(
                "INSERT INTO volume VALUES ({nobody}, 'root', 1, 'varlibqubes', 'appvms/x/root', 'origin', 1, 'rw', NULL, NULL, 0)"
            ),
            Log("\"volume\""),
        ),
        (
            format!("UPDATE tag SET tag = 'a.b' WHERE vm = {work} AND tag LIKE 'created-by-%'"),
            VmSetAside("a.b"),
        ),
        (format!("INSERT INTO tag VALUES ({nobody}, 'a')"), Log("\"tag\"")),
        (format!("UPDATE feature SET value = 'a' || char(10) WHERE vm = {work}"), VmSetAside("gui")),
        (format!("UPDATE feature SET position = -1 WHERE vm = {work}"), VmSetAside("gui")),
        (format!("INSERT INTO feature VALUES ({nobody}, 'a', '', 1)"), Log("\"feature\"")),
        ("UPDATE assignment SET mode = 'manual'".to_owned(), VmSetAside("manual")),
        (format!("UPDATE assignment SET backend = {nobody}"), VmSetAside("2-1")),
        (format!("UPDATE assignment SET vm = {nobody}"), Log("\"assignment\"")),
        ("UPDATE assignment_option SET name = 'a b'".to_owned(), VmSetAside("a b")),
        ("INSERT INTO assignment_option VALUES (77, 'a', '')".to_owned(), Log("assignment_option")),
        ("UPDATE firewall SET last_id = 1".to_owned(), Log("firewall")),
        ("UPDATE firewall_rule SET rule = 'action=maybe'".to_owned(), Log("firewall")),
        (format!("INSERT INTO firewall VALUES ({nobody}, 1)"), Log("firewall")),
        ("UPDATE notes SET text = 'a' || char(7)".to_owned(), Log("notes")),
        (format!("INSERT INTO notes VALUES ({nobody}, 'a')"), Log("notes")),
        ("INSERT INTO global (name, value) VALUES ('weather', 'sun')".to_owned(), Log("weather")),
        (
            "UPDATE global SET pool = 'gone' WHERE name = 'default_pool_kernel'".to_owned(),
            Log("default_pool_kernel"),
        ),
        (format!("INSERT INTO global (name, vm) VALUES ('default_netvm', {nobody})"), Log("default_netvm")),
        ("INSERT INTO global (name, value) VALUES ('clockvm', 'net')".to_owned(), Log("clockvm")),
        (format!("INSERT INTO pending (id, kind, phase, uuid, qid, name) VALUES (7, 'dance', NULL, {nobody}, 50, 'ghost')"), Log("ghost")),
        (format!("INSERT INTO pending (id, kind, phase, uuid, qid, name) VALUES (7, 'start', 'building', {nobody}, 50, 'ghost')"), Log("ghost")),
        (
            "INSERT INTO pending_volume (pending, position, volume, pool, vid, progress) VALUES (77, 1, 'root', 'varlibqubes', 'appvms/x/root', 'made')"
                .to_owned(),
            Log("pending_volume"),
        ),
    ] {
        daemon = daemon.kill_and_restart_edited(|state| {
            drop(std::fs::remove_file(state.join("state.db-wal")));
            std::fs::write(state.join("state.db"), &store).unwrap();
            edit(state, &sql);
        });
        let list = daemon.call("mgmt.vm.List", "dom0", "", b"").ok();
        match shows {
            VmSetAside(word) => {
                assert_eq!(list.lines().count(), 3, "{sql}: {list}");
                for (method, argument) in
                    [("mgmt.vm.property.Get", "memory"), ("mgmt.vm.Start", ""), ("mgmt.vm.Remove", "")]
                {
                    let (class, text) = daemon.call(method, "work", argument, b"").exception();
                    assert_eq!(class, "QubesVMError", "{sql}: {method}: {text}");
                    assert!(text.contains(word), "{sql}: {method}: {text}");
                }
                let taken =
                    daemon.call("mgmt.vm.Create.AppVM", "dom0", "debian", b"name=work label=red").exception();
                assert_eq!(taken.0, "QubesVMAlreadyExistsError", "{sql}: {taken:?}");
                let used = daemon.call("mgmt.vm.Remove", "debian", "", b"").exception();
                assert_eq!(used.0, "QubesVMInUseError", "what it refers to stays in use: {sql}: {used:?}");
            }
            Log(_) => {
                assert_eq!(list.lines().count(), 4, "{sql}: {list}");
                daemon.call("mgmt.vm.property.Set", "net", "memory", b"600").ok();
            }
        }
        let log = daemon.log();
        let word = match shows {
            VmSetAside(word) | Log(word) => word,
        };
        assert!(log.lines().any(|line| line.contains("ERROR") && line.contains(word)), "{sql}: {word}");
    }
}

#[test]
fn an_operation_that_claims_what_a_vm_has_takes_nothing_from_it() {
    let (daemon, _) = filled();
    let image = daemon.state().join("varlibqubes/appvms/work/private.img");
    assert!(image.exists());
    let work = of("work");
    let daemon = daemon.kill_and_restart_edited(|state| {
        let volume = "'private', 'varlibqubes', 'appvms/work/private', 'made'";
        edit(
            state,
            &format!(
                "INSERT INTO pending (id, kind, phase, uuid, qid, name) VALUES (5, 'remove', NULL, {work}, 60, 'other');
                 INSERT INTO pending_volume (pending, position, volume, pool, vid, progress) VALUES (5, 1, {volume});
                 INSERT INTO pending (id, kind, phase, uuid, qid, name) VALUES (6, 'create', NULL, '99999999-9999-4999-8999-999999999999', 61, 'another');
                 INSERT INTO pending_volume (pending, position, volume, pool, vid, progress) VALUES (6, 1, {volume});"
            ),
        );
    });
    // It waits for whatever start-up has to settle.
    daemon.call("mgmt.vm.Start", "work", "", b"").ok();
    assert!(image.exists() || image.with_file_name("private-dirty.img").exists());
    assert_eq!(daemon.log().matches("bad row in the store set aside").count(), 2);
}

#[test]
fn a_second_daemon_is_refused_and_told_who_was_first() {
    let daemon = Daemon::start();
    let socket = daemon.dir().join("second.sock");
    let second = mgmtd(&daemon.state(), &["--hypervisor", "sim", "--socket", socket.to_str().unwrap()]);
    let told = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(told.contains(&format!("in use by process {} (mgmtd)", daemon.pid())), "{told}");
    for arguments in [&["doctor"][..], &["export", "/nonexistent/out"], &["import", "/dev/null"]] {
        let refused = mgmtd(&daemon.state(), arguments);
        let told = String::from_utf8(refused.stderr.clone()).unwrap();
        assert!(told.contains(&format!("process {} (mgmtd)", daemon.pid())), "{arguments:?}: {told}");
        assert_eq!(refused.status.code(), Some(if arguments[0] == "doctor" { 2 } else { 1 }));
    }
    assert!(!socket.exists());
}

#[test]
fn the_doctor_names_what_is_wrong_and_repairs_what_means_nothing() {
    let (daemon, store) = filled();
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path();
    let volumes = daemon.state().join("varlibqubes");
    std::fs::write(state.join("state.db"), &store).unwrap();
    let clean = mgmtd(state, &["doctor"]);
    assert_eq!(clean.status.code(), Some(1), "the ballast is missing");
    assert!(out(&clean).contains("--repair would do: the ballast: made anew"), "{}", out(&clean));
    assert_eq!(mgmtd(state, &["doctor", "--repair"]).status.code(), Some(0));
    let clean = mgmtd(state, &["doctor"]);
    assert_eq!((clean.status.code(), out(&clean).lines().count()), (Some(0), 1), "{}", out(&clean));

    std::fs::create_dir(volumes.join("appvms/ghost")).unwrap();
    std::fs::write(volumes.join("appvms/ghost/private.img"), b"x").unwrap();
    std::fs::write(volumes.join("appvms/ghost/README"), b"x").unwrap();
    std::fs::remove_file(volumes.join("appvms/net/private.img")).unwrap();
    std::fs::remove_file(state.join("ballast")).unwrap();
    let (work, nobody) = (of("work"), "'99999999-9999-4999-8999-999999999999'");
    edit(
        state,
        &format!(
            "UPDATE vm_property SET value = '0500' WHERE vm = {work} AND name = 'memory';
             UPDATE vm_reference SET target = {nobody} WHERE vm = {work} AND name = 'netvm';
             INSERT INTO tag VALUES ({nobody}, 'a');
             INSERT INTO pending (id, kind, phase, uuid, qid, name) VALUES (5, 'start', 'building', {work}, 60, 'work');
             UPDATE vm SET class = 'CloudVM' WHERE name = 'debian';"
        ),
    );
    let before = std::fs::read(state.join("state.db")).unwrap();
    let look = mgmtd(state, &["doctor", "--json"]);
    assert_eq!(look.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&look.stdout).unwrap();
    let kinds = |report: &Value| -> Vec<String> {
        let findings = report["findings"].as_array().unwrap().iter();
        let mut kinds: Vec<_> = findings.map(|f| f["kind"].as_str().unwrap().to_owned()).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    };
    assert_eq!(
        kinds(&report),
        [
            "ballast",
            "dangling",
            "missing-volume",
            "set-aside",
            "unfinished",
            "unknown-file",
            "unowned-volume"
        ]
    );
    assert_eq!(std::fs::read(state.join("state.db")).unwrap(), before, "looking changes nothing");

    let repaired: Value =
        serde_json::from_slice(&mgmtd(state, &["doctor", "--repair", "--json"]).stdout).unwrap();
    assert_eq!(
        kinds(&repaired),
        ["missing-volume", "set-aside", "unfinished", "unknown-file", "unowned-volume"]
    );
    let aside: Vec<_> = repaired["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|f| f["kind"] == "set-aside")
        .map(|f| f["about"].as_str().unwrap())
        .collect();
    assert_eq!(aside, ["vm \"debian\""], "the other one is a VM again");
    assert_eq!(repaired["repairs"].as_array().unwrap().len(), 4, "{repaired}");
    let copy = repaired["copy"].as_str().unwrap();
    assert_eq!(std::fs::read(copy).unwrap(), before);
    assert!(
        volumes.join("appvms/ghost/README").exists() && volumes.join("appvms/ghost/private.img").exists()
    );
    let nothing = mgmtd(&state.join("nowhere"), &["doctor"]);
    assert_eq!(nothing.status.code(), Some(2));
}

#[test]
fn a_system_moves_in_and_out_by_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let (state, file, moved) =
        (dir.path().join("state"), dir.path().join("qubes.xml"), dir.path().join("out"));
    let domain = "<domain id='domain-1' class='RemoteVM'><properties><property name='name'>far</property>\n\
                  <property name='label'>LABEL</property></properties></domain>";
    let write = |label: &str| {
        let text = format!("<qubes><domains>{}</domains></qubes>", domain.replace("LABEL", label));
        std::fs::write(&file, text).unwrap();
    };
    let import = |more: &[&str]| mgmtd(&state, &[&["import", file.to_str().unwrap()], more].concat());
    write("mauve");
    let refused = import(&[]);
    assert_eq!(refused.status.code(), Some(1));
    let told = String::from_utf8(refused.stderr.clone()).unwrap();
    assert!(told.contains("problem: line 2: domain 'far': there is no label \"mauve\""), "{told}");
    write("red");
    let done = import(&["--json"]);
    assert_eq!(done.status.code(), Some(0));
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(report["outcome"], "imported");
    let again = import(&[]);
    let told = String::from_utf8(again.stderr.clone()).unwrap();
    assert!(again.status.code() == Some(1) && told.contains("the state is not empty"), "{told}");
    let exported = mgmtd(&state, &["export", moved.to_str().unwrap()]);
    assert_eq!(exported.status.code(), Some(0), "{exported:?}");
    assert!(std::fs::read_to_string(moved.join("qubes.xml")).unwrap().contains("far"));
}

#[test]
fn what_a_subcommand_fails_of_is_one_object_in_json() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("torn.xml"), "<qubes>\n<domains>").unwrap();
    std::fs::write(at("good.xml"), "<qubes/>").unwrap();
    let path = |name: &str| at(name).to_str().unwrap().to_owned();
    let fails = |state: &str, arguments: &[&str], code: i32, words: &[&str]| {
        let failed = mgmtd(&at(state), &[arguments, &["--json"]].concat());
        assert_eq!((failed.status.code(), &*failed.stderr), (Some(code), &b""[..]), "{arguments:?}");
        let told: Value = serde_json::from_slice(&failed.stdout).unwrap();
        let summary = told["summary"].as_str().unwrap();
        assert_eq!((&told["outcome"], &told["findings"]), (&"failed".into(), &Value::Array(Vec::new())));
        assert!(words.iter().all(|word| summary.contains(word)), "{words:?}: {summary}");
    };
    fails("new", &["import", &path("torn.xml")], 1, &["torn.xml", "line 2"]);
    fails("new", &["import", &path("nothing.xml")], 1, &["nothing.xml"]);
    let daemon = Daemon::start();
    let used = daemon.state().to_str().unwrap().to_owned();
    let (import, export) = ([&*path("good.xml")], [&*path("out")]);
    for (verb, more, code) in [("import", &import[..], 1), ("export", &export, 1), ("doctor", &[], 2)] {
        fails(&used, &[&[verb], more].concat(), code, &[&used, &format!("process {}", daemon.pid())]);
    }
}
