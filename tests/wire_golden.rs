//! What the daemon answers, byte for byte, one reviewed file for each family of calls in `tests/data`.
//!
//! A file is a dialogue with one fresh daemon on the simulator:
//!
//! ```text
//! # a comment
//! > REQUEST                  header, \0, payload; escapes \0 \n \\ \xNN
//! < ANSWER                   the exact bytes
//! ! CLASS TEXT               an EXCEPTION: its class, and its text with the fields put in
//! ? CLASS TEXT               the same, TEXT being how it begins
//! = both                     the next request is sent under the other prefix too, with the same answer
//! ```
//!
//! The daemon finds no program by `PATH`: without `dmsetup`, any machine is one that cannot encrypt. The daemon's `callback_config` is `tests/data/callback.json`, `POOL` in it being a folder of the daemon's own.
//! In requests `DIR` is the daemon's folder. In answers UUIDs but dom0's print as `UUID`, names of disposables as `dispN`, that folder as `DIR`, amounts of space that the disk decides as `N`.

use mgmt_rpc::dispatch::Refusals;
use mgmt_rpc::wire::Class;
use mgmt_tests::{Answer, Daemon, Start};

/// Where the dialogues lie.
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            let mut buffer = [0; 4];
            bytes.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
            continue;
        }
        match rest.next().expect("an escape at the end of a line") {
            '0' => bytes.push(0),
            'n' => bytes.push(b'\n'),
            '\\' => bytes.push(b'\\'),
            'x' => {
                let hex: String = rest.by_ref().take(2).collect();
                bytes.push(u8::from_str_radix(&hex, 16).unwrap());
            }
            other => panic!("unknown escape \\{other}"),
        }
    }
    bytes
}

fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\0' => text.push_str("\\0"),
                '\n' => text.push_str("\\n"),
                '\\' => text.push_str("\\\\"),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Puts `UUID`, `DIR` and `N` in the place of what differs from run to run.
fn normal(text: &str, daemon: &Daemon) -> String {
    let text = text.replace(daemon.dir().to_str().unwrap(), "DIR");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find(|c: char| c.is_ascii_hexdigit()) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        if from.get(..36).is_some_and(|uuid| uuid::Uuid::try_parse(uuid).is_ok_and(|uuid| !uuid.is_nil())) {
            out.push_str("UUID");
            rest = &from[36..];
        } else {
            let end = from.find(|c: char| !c.is_ascii_hexdigit() && c != '-').unwrap_or(from.len());
            out.push_str(&from[..end.max(1)]);
            rest = &from[end.max(1)..];
        }
    }
    out.push_str(rest);
    if let Some(number) =
        out.strip_prefix("0\\0disp").filter(|rest| rest.parse::<u16>().is_ok_and(|n| n < 10_000))
    {
        out.truncate(out.len() - number.len());
        out.push('N');
    }
    for key in ["size=", "usage="] {
        let mut normal = String::new();
        let mut rest = out.as_str();
        while let Some(at) = rest.find(key) {
            let digits = &rest[at + key.len()..];
            let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
            normal.push_str(&rest[..at + key.len()]);
            normal.push_str(if end > 0 { "N" } else { "" });
            rest = &digits[end..];
        }
        normal.push_str(rest);
        out = normal;
    }
    out
}

fn other_prefix(request: &str) -> String {
    match request.strip_prefix("mgmt.") {
        Some(rest) => format!("admin.{rest}"),
        None => format!("mgmt.{}", request.strip_prefix("admin.").expect("a request of either dialect")),
    }
}

/// Whether the deployed releases close the connection instead of giving this answer.
fn is_silent_in_releases(expected: &str) -> bool {
    let class = match expected.split_at(2) {
        ("< ", answer) => answer.strip_prefix("2\\0").and_then(|rest| rest.split("\\0").next()),
        (_, exception) => exception.split(' ').next(),
    };
    Class::ALL.iter().any(|known| Some(known.as_str()) == class && known.is_silent_in_releases())
}

fn as_expected(expected: &str, answer: &Answer, daemon: &Daemon, refusals: Refusals) -> Result<(), String> {
    if refusals == Refusals::Silent && is_silent_in_releases(expected) {
        return if answer.0.is_empty() { Ok(()) } else { Err(format!("  not silent: {answer:?}")) };
    }
    let (kind, expected) = expected.split_at(2);
    let got = match kind {
        "< " => normal(&escape(&answer.0), daemon),
        _ if answer.0.starts_with(b"2\0") => {
            let (class, text) = answer.exception();
            normal(&escape(format!("{class} {text}").as_bytes()), daemon)
        }
        _ => escape(&answer.0),
    };
    let good = if kind == "? " { got.starts_with(expected) } else { got == expected };
    if good { Ok(()) } else { Err(format!("  expected {kind}{expected}\n       got {kind}{got}")) }
}

/// A daemon with these lines of configuration, and what else it reads.
fn daemon(config: &str) -> (Daemon, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let callback = std::fs::read_to_string(format!("{DATA}/callback.json")).unwrap();
    let (pool, file) = (dir.path().join("pool"), dir.path().join("callback.json"));
    std::fs::write(&file, callback.replace("POOL", pool.to_str().unwrap())).unwrap();
    let storage = format!("[storage]\ncallback_config = {:?}\n", file.to_str().unwrap());
    (Start::new().env("PATH", dir.path().display()).config(&storage).config(config).start(), dir)
}

fn play(name: &str) {
    play_on(&daemon("").0, name, Refusals::Answered);
}

fn play_on(daemon: &Daemon, name: &str, refusals: Refusals) {
    let path = format!("{DATA}/{name}.txt");
    let script = std::fs::read_to_string(&path).unwrap();
    let mut wrong = Vec::new();
    let mut request: Option<&str> = None;
    let mut both = false;
    let mut answers = 0;
    for (number, line) in script.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line == "= both" {
            both = true;
        } else if let Some(text) = line.strip_prefix("> ") {
            assert!(request.is_none(), "{name}:{}: a request without an answer", number + 1);
            request = Some(text);
        } else {
            let sent = request.take().unwrap_or_else(|| panic!("{name}:{}: no request", number + 1));
            let mut requests = vec![sent.to_owned()];
            if std::mem::take(&mut both) {
                requests.push(other_prefix(sent));
            }
            for sent in requests {
                let answer =
                    daemon.socket().raw(&unescape(&sent.replace("DIR", daemon.dir().to_str().unwrap())));
                answers += 1;
                let expected = if sent.starts_with("admin.") {
                    line.replace("'mgmt.", "'admin.")
                } else {
                    line.to_owned()
                };
                if let Err(difference) = as_expected(&expected, &answer, daemon, refusals) {
                    wrong.push(format!("{name}.txt:{}: > {sent}\n{difference}", number + 1));
                }
            }
        }
    }
    assert!(request.is_none(), "{name}: the last request has no answer");
    assert!(answers > 0, "{name}: nothing was asked");
    assert!(wrong.is_empty(), "{} of {answers} answers differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// All dialogues once more: what the deployed releases leave unanswered is, and everything else is as it was.
#[test]
fn silent_refusals_close_without_a_byte_and_change_no_other_answer() {
    let mut dialogues = 0;
    for entry in std::fs::read_dir(DATA).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "txt")
            || !std::fs::read_to_string(&path).unwrap().lines().any(|line| line.starts_with("> "))
        {
            continue;
        }
        dialogues += 1;
        let (daemon, _dir) = daemon("[compat]\nsilent_refusals = true\n");
        play_on(&daemon, path.file_stem().unwrap().to_str().unwrap(), Refusals::Silent);
    }
    assert!(dialogues > 9, "{dialogues}");
}

#[test]
fn framing_and_the_order_of_checks() {
    play("framing");
}

#[test]
fn calls_on_vms() {
    play("vm");
}

#[test]
fn calls_that_make_and_remove_vms() {
    play("create");
}

#[test]
fn calls_on_power() {
    play("power");
}

#[test]
fn calls_on_labels() {
    play("label");
}

#[test]
fn calls_on_properties() {
    play("property");
}

#[test]
fn calls_on_firewall_rules() {
    play("firewall");
}

#[test]
fn calls_on_notes() {
    play("notes");
}

#[test]
fn every_property_of_every_class() {
    play("property_values");
}

#[test]
fn what_a_set_of_a_property_refuses() {
    play("property_refusals");
}

#[test]
fn calls_on_properties_of_the_system() {
    play("property_system");
}

#[test]
fn calls_on_device_classes_and_remote_vms() {
    play("class");
}

#[test]
fn calls_on_features() {
    play("feature");
}

#[test]
fn calls_on_tags() {
    play("tag");
}

#[test]
fn calls_on_pools() {
    play("pool");
}

#[test]
fn calls_on_pools_with_commands() {
    play("callback");
}

#[test]
fn calls_on_volumes() {
    play("volume");
}

#[test]
fn calls_on_block_devices() {
    play("block");
}

#[test]
fn the_daemon_tells_what_it_runs_on_under_its_own_prefix_alone() {
    let daemon = Daemon::start();
    let info = format!("hypervisor=sim\nversion={}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(daemon.call("mgmt.Info", "dom0", "", b"").ok(), info);
    let unknown = daemon.call("admin.Info", "dom0", "", b"");
    assert_eq!(unknown.0, b"2\0ProtocolError\0\0no such method: %s\0'admin.Info'\0");
}
