//! The table of calls and the page that lists them for people agree.

use std::collections::BTreeSet;

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
