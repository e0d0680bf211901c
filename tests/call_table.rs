//! The table of calls holds what the documents say (`tests/data/calls.txt`, reviewed against both), and the page
//! that lists the calls for people agrees with it.

use std::collections::{BTreeMap, BTreeSet};

use libvirt_qubes::qubes::Host;
use mgmt_rpc::table::{Access, Destination, Found, Scope, WantArgument, WantPayload};

const CALLS: &str = include_str!("data/calls.txt");
const PENDING: &str = include_str!("data/calls_pending.txt");

/// Destination, argument, payload, policy, as the file has them.
type Columns = [&'static str; 4];

fn lines(file: &'static str) -> impl Iterator<Item = &'static str> {
    file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// The names that a pattern with `{a,b}` in it stands for.
fn expand(pattern: &str) -> Vec<String> {
    let Some((before, rest)) = pattern.split_once('{') else { return vec![pattern.to_owned()] };
    let (choices, after) = rest.split_once('}').unwrap_or_else(|| panic!("no end of braces: {pattern}"));
    let tails = expand(after);
    choices.split(',').flat_map(|one| tails.iter().map(move |tail| format!("{before}{one}{tail}"))).collect()
}

/// What the documents say, by full name.
fn reviewed() -> BTreeMap<String, Columns> {
    let mut calls = BTreeMap::new();
    for line in lines(CALLS) {
        let mut words = line.split_whitespace();
        let mut word = || words.next().unwrap_or_else(|| panic!("a column is missing: {line}"));
        let (pattern, names) = (word(), word());
        let columns = [word(), word(), word(), word()];
        assert_eq!(words.next(), None, "a column too many: {line}");
        let prefixes: &[&str] = match names {
            "both" => &["mgmt.", "admin."],
            "mgmt" => &["mgmt."],
            "admin" => &["admin."],
            "internal" => &["internal."],
            _ => panic!("neither both, mgmt, admin nor internal: {line}"),
        };
        for call in expand(pattern) {
            for prefix in prefixes {
                let before = calls.insert(format!("{prefix}{call}"), columns);
                assert!(before.is_none(), "{prefix}{call} is there twice");
            }
        }
    }
    calls
}

/// What is not there yet, by full name: nothing, or what is served in the place of what should be.
fn pending() -> BTreeMap<String, Option<Columns>> {
    let mut calls = BTreeMap::new();
    for line in lines(PENDING) {
        let (pattern, served) = match line.split_once(" = ") {
            None => (line, None),
            Some((pattern, columns)) => {
                let columns: Vec<&str> = columns.split_whitespace().collect();
                (pattern, Some(columns.try_into().unwrap_or_else(|_| panic!("four columns: {line}"))))
            }
        };
        for call in expand(pattern) {
            let one = ["mgmt.", "admin.", "internal."].iter().any(|prefix| call.starts_with(prefix));
            let full =
                if one { vec![call] } else { ["mgmt.", "admin."].map(|p| format!("{p}{call}")).to_vec() };
            for name in full {
                assert!(calls.insert(name.clone(), served).is_none(), "{name} is pending twice");
            }
        }
    }
    calls
}

fn columns(found: Found<Host>) -> Columns {
    let row = found.row;
    [
        match row.destination {
            Destination::Dom0 => "dom0",
            Destination::Vm => "vm",
            Destination::Any => "any",
        },
        match row.argument {
            WantArgument::None => "-",
            WantArgument::Required => "req",
            WantArgument::Optional => "opt",
        },
        match row.payload {
            WantPayload::Empty => "-",
            WantPayload::Required => "req",
            WantPayload::Optional => "opt",
            WantPayload::Stream => "data",
        },
        match (row.scope, row.access) {
            (Scope::Local, Access::Read) => "local-ro",
            (Scope::Local, Access::Write) => "local-rwx",
            (Scope::Global, Access::Read) => "global-ro",
            (Scope::Global, Access::Write) => "global-rwx",
        },
    ]
}

#[test]
fn the_table_holds_every_call_of_the_documents_and_no_other() {
    let (reviewed, pending) = (reviewed(), pending());
    let table = mgmt_rpc::calls::table();
    let served: BTreeMap<String, Columns> =
        table.names().into_iter().map(|(name, found)| (name.to_owned(), columns(found))).collect();
    let mut wrong = Vec::new();
    for (name, pending) in &pending {
        match (reviewed.get(name), pending, served.get(name)) {
            (None, _, _) => wrong.push(format!("{name} is pending, but no call of calls.txt")),
            (Some(_), None, Some(_)) => {
                wrong.push(format!("{name} is served: take it off calls_pending.txt"))
            }
            (Some(wanted), Some(so_far), Some(served)) if wanted == served || so_far != served => {
                wrong.push(format!("{name} is served as {served:?}, and not as calls_pending.txt says"));
            }
            (Some(_), Some(_), None) => wrong.push(format!("{name} is not served at all")),
            (Some(_), _, _) => {}
        }
    }
    for (name, wanted) in &reviewed {
        match served.get(name) {
            _ if pending.contains_key(name) => {}
            None => wrong.push(format!("{name} is neither served nor pending")),
            Some(served) if served != wanted => {
                wrong.push(format!("{name}: the documents say {wanted:?}, the table {served:?}"));
            }
            Some(_) => {}
        }
    }
    wrong.extend(
        served.keys().filter(|name| !reviewed.contains_key(*name)).map(|n| format!("{n} is in no document")),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_call_is_on_the_page_of_calls_and_no_other() {
    let page = include_str!("../docs/calls.md");
    let cell = |line: &str| line.split('|').nth(1).map(str::to_owned);
    let rows = page.lines().filter(|line| line.starts_with("| `")).filter_map(cell);
    let mut listed = BTreeSet::new();
    for row in rows {
        for name in row.split('`').skip(1).step_by(2) {
            if row.contains("only)") {
                listed.extend(name.contains('.').then(|| name.to_owned()));
            } else {
                listed.insert(format!("mgmt.{name}"));
                listed.insert(format!("admin.{name}"));
            }
        }
    }
    let table = mgmt_rpc::calls::table();
    let served: BTreeSet<String> = table
        .names()
        .into_iter()
        .map(|(name, found)| match found.class {
            "" => name.to_owned(),
            class => name.replace(class, "CLASS"),
        })
        .collect();
    assert_eq!(listed, served);
}
