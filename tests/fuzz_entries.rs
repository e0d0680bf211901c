//! Every fuzz entry on what proptest makes: its seeds, the same with some bytes changed, and bytes of no kind. The
//! targets of `tests/fuzz` are these entries and no others.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mgmt_tests::fuzz::ENTRIES;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};

/// One change of some bytes.
#[derive(Debug, Clone)]
enum Edit {
    Put(Index, u8),
    Remove(Index),
    Insert(Index, u8),
    Repeat(Index, usize),
    Cut(Index),
}

/// Bytes that grammars care for more than others.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        3 => select(&b"\0 \n\t+-=.:/_%'\"\\,;[]{}<>&0123456789xX"[..]),
        2 => b'a'..=b'z',
        1 => any::<u8>(),
    ]
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        (any::<Index>(), byte()).prop_map(|(at, byte)| Edit::Put(at, byte)),
        any::<Index>().prop_map(Edit::Remove),
        (any::<Index>(), byte()).prop_map(|(at, byte)| Edit::Insert(at, byte)),
        (any::<Index>(), 1usize..40).prop_map(|(at, times)| Edit::Repeat(at, times)),
        any::<Index>().prop_map(Edit::Cut),
    ]
}

fn changed(seed: &str, edits: Vec<Edit>) -> Vec<u8> {
    let mut bytes = seed.as_bytes().to_vec();
    for edit in edits {
        let at = |index: Index| index.index(bytes.len() + 1);
        match edit {
            Edit::Put(place, byte) => {
                let place = at(place);
                if let Some(old) = bytes.get_mut(place) {
                    *old = byte;
                }
            }
            Edit::Remove(place) => {
                let place = at(place);
                if place < bytes.len() {
                    bytes.remove(place);
                }
            }
            Edit::Insert(place, byte) => bytes.insert(at(place), byte),
            Edit::Repeat(place, times) => {
                let place = at(place);
                let tail = bytes[place..].to_vec();
                (0..times).for_each(|_| bytes.extend_from_slice(&tail));
                bytes.truncate(4096);
            }
            Edit::Cut(place) => bytes.truncate(at(place)),
        }
    }
    bytes
}

#[test]
fn every_entry_takes_its_seeds_whatever_becomes_of_them() {
    for entry in ENTRIES {
        for seed in entry.seeds {
            (entry.run)(seed.as_bytes());
        }
        let from_seed = (select(entry.seeds), proptest::collection::vec(edit(), 0..6))
            .prop_map(|(seed, edits)| changed(seed, edits));
        let bytes = prop_oneof![4 => from_seed, 1 => proptest::collection::vec(byte(), 0..64)];
        let config = Config { failure_persistence: None, ..Config::default() };
        TestRunner::new(config)
            .run(&bytes, |bytes| match catch_unwind(AssertUnwindSafe(|| (entry.run)(&bytes))) {
                Ok(()) => Ok(()),
                Err(_) => Err(TestCaseError::fail(format!("\"{}\"", bytes.escape_ascii()))),
            })
            .unwrap_or_else(|error| panic!("{}: {error}", entry.name));
    }
    mgmt_tests::fuzz::end();
}

#[test]
fn the_fuzz_targets_are_the_entries() {
    let manifest = include_str!("fuzz/Cargo.toml");
    let targets: Vec<&str> = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'))
        .filter(|name| *name != "mgmt-fuzz")
        .collect();
    let entries: Vec<&str> = ENTRIES.iter().map(|entry| entry.name).collect();
    assert_eq!(targets, entries);
}
