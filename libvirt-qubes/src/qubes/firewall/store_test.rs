//! Rules and notes through the real committer and store: random changes against an oracle, with restarts; time; bad
//! rows.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use uuid::Uuid;

use super::super::class::VmClass;
use super::super::event::EventKind;
use super::super::notes::{self, Notes, NotesText};
use super::super::refusal::{HostError, Refusal};
use super::super::testing::{self, Rig, new_vm, refusal};
use super::super::{create, remove};
use super::change::{self, Place};
use super::{Rule, strategy};

#[derive(Debug, Clone)]
enum Op {
    Insert { before: Option<usize>, rule: Rule },
    Remove { which: usize },
    Flush,
    Set { rules: Vec<Rule>, kept: usize },
    Reload,
    Notes { text: String },
    Wait { seconds: u64 },
    Expire,
    Restart,
}

/// Rules of few kinds, so that equal ones meet, some of which expire soon.
fn rule() -> impl Strategy<Value = Rule> {
    let few = (0usize..3, proptest::option::of(0u64..300)).prop_map(|(kind, expire)| {
        let kind = ["action=accept", "action=drop", "action=drop proto=udp comment=a b"][kind];
        let expire = expire.map(|expire| format!("expire={expire} ")).unwrap_or_default();
        format!("{expire}{kind}").parse().unwrap()
    });
    prop_oneof![4 => few, 1 => strategy::rule()]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (proptest::option::of(0usize..8), rule()).prop_map(|(before, rule)| Op::Insert { before, rule }),
        3 => (0usize..8).prop_map(|which| Op::Remove { which }),
        1 => Just(Op::Flush),
        2 => (proptest::collection::vec(rule(), 0..5), 0usize..5)
            .prop_map(|(rules, kept)| Op::Set { rules, kept }),
        1 => Just(Op::Reload),
        1 => any::<String>().prop_map(|text| Op::Notes { text }),
        2 => (0u64..100).prop_map(|seconds| Op::Wait { seconds }),
        1 => Just(Op::Expire),
        1 => Just(Op::Restart),
    ]
}

fn make(rig: &Rig, name: &str) -> Uuid {
    let new = new_vm(name, VmClass::StandaloneVm, None);
    let plan = rig.commit(move |state| create::begin(state, &new)).unwrap();
    rig.commit(move |state| create::finish(state, &plan)).unwrap().uuid
}

/// The rules that hold, as id and text.
fn shown(rig: &Rig, vm: Uuid, now: SystemTime) -> Vec<(u64, String)> {
    let seen = rig.snapshot();
    let list = &seen.model.vm(vm).unwrap().firewall;
    list.live(now).map(|entry| (entry.id.get(), entry.rule.to_string())).collect()
}

/// The list as a plain one of ids and rules.
struct Oracle {
    rules: Vec<(u64, Rule)>,
    last_id: u64,
    notes: String,
    now: SystemTime,
    /// What each id has ever stood for.
    meaning: HashMap<u64, Rule>,
}

impl Oracle {
    fn forget_expired(&mut self) {
        let now = self.now;
        self.rules.retain(|(_, rule)| !rule.is_over(now));
    }

    fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn set(&mut self, rules: &[Rule]) {
        let mut old = std::mem::take(&mut self.rules);
        old.sort_by_key(|(id, _)| *id);
        let now = self.now;
        for rule in rules.iter().filter(|rule| !rule.is_over(now)) {
            let same = old.iter().position(|(_, known)| known.to_string() == rule.to_string());
            let id = same.map(|same| old.remove(same).0).unwrap_or_else(|| self.new_id());
            self.rules.push((id, rule.clone()));
        }
    }

    fn agrees(&mut self, rig: &Rig, vm: Uuid) {
        self.forget_expired();
        let expected: Vec<_> = self.rules.iter().map(|(id, rule)| (*id, rule.to_string())).collect();
        assert_eq!(shown(rig, vm, self.now), expected);
        for (id, rule) in &self.rules {
            assert_eq!(
                self.meaning.entry(*id).or_insert_with(|| rule.clone()),
                rule,
                "id {id} was used twice"
            );
        }
        let seen = rig.snapshot();
        let Notes::Text(text) = &seen.model.vm(vm).unwrap().notes else { panic!("notes are damaged") };
        assert_eq!(text.as_str(), self.notes);
        assert_eq!(seen.model, seen.model.reindexed());
    }
}

fn play(ops: Vec<Op>) {
    let mut rig = Rig::new();
    let vm = make(&rig, "work");
    let mut oracle = Oracle {
        rules: vec![(1, Rule::accept())],
        last_id: 1,
        notes: String::new(),
        now: UNIX_EPOCH,
        meaning: HashMap::new(),
    };
    oracle.agrees(&rig, vm);
    for op in ops {
        let now = oracle.now;
        oracle.forget_expired();
        match op {
            Op::Insert { before, rule } => {
                let known = before.map(|index| oracle.rules.get(index).map(|(id, _)| *id));
                let place = match known {
                    None => Place::End,
                    Some(Some(id)) => Place::Before(id.to_string()),
                    Some(None) => Place::Before((oracle.last_id + 1).to_string()),
                };
                let new = rule.clone();
                let inserted = rig.commit(move |seen| change::insert(seen, vm, &place, &new, now));
                if known == Some(None) {
                    let id = (oracle.last_id + 1).to_string();
                    assert_eq!(refusal(inserted), Refusal::NoSuchFirewallRule { id });
                } else {
                    let id = oracle.new_id();
                    assert_eq!(inserted.unwrap().get(), id);
                    let at = before.unwrap_or(oracle.rules.len());
                    oracle.rules.insert(at, (id, rule));
                }
            }
            Op::Remove { which } => match oracle.rules.get(which).map(|(id, _)| id.to_string()) {
                Some(id) => {
                    rig.commit(move |seen| change::remove(seen, vm, &id, now)).unwrap();
                    oracle.rules.remove(which);
                }
                None => {
                    let id = (oracle.last_id + 1).to_string();
                    let removed = rig.commit(move |seen| change::remove(seen, vm, &id, now));
                    assert!(matches!(refusal(removed), Refusal::NoSuchFirewallRule { .. }));
                }
            },
            Op::Flush => {
                rig.commit(move |seen| change::replace(seen, vm, &[], now)).unwrap();
                oracle.set(&[]);
            }
            Op::Set { rules, kept } => {
                let mut all = rules;
                all.extend(oracle.rules.iter().skip(kept).map(|(_, rule)| rule.clone()));
                oracle.set(&all);
                rig.commit(move |seen| change::replace(seen, vm, &all, now)).unwrap();
            }
            Op::Reload => rig.commit(move |seen| change::reload(seen, vm)).unwrap(),
            Op::Notes { text } => {
                let text = NotesText::sanitised(text.as_bytes()).unwrap();
                oracle.notes = text.as_str().to_owned();
                rig.commit(move |seen| notes::set(seen, vm, &text)).unwrap();
            }
            Op::Wait { seconds } => oracle.now += Duration::from_secs(seconds),
            Op::Expire => {
                rig.commit(move |seen| Ok(change::expire(seen, now))).unwrap();
                let seen = rig.snapshot();
                assert!(seen.model.firewalls_due(now).next().is_none());
                assert_eq!(seen.model.vm(vm).unwrap().firewall.rules().len(), oracle.rules.len());
            }
            Op::Restart => {
                let before = rig.snapshot();
                rig = rig.restart();
                assert!(rig.snapshot().model.same_rows(&before.model));
            }
        }
        oracle.agrees(&rig, vm);
    }
    rig = rig.restart();
    oracle.agrees(&rig, vm);
    assert_eq!(rig.snapshot().model.set_aside().count(), 0);
    let row = rig.commit(move |state| remove::begin(state, vm)).unwrap();
    rig.commit(move |_| Ok(remove::finish(&row))).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn random_changes_keep_list_store_and_oracle_in_agreement(ops in proptest::collection::vec(op(), 1..40)) {
        play(ops);
    }
}

#[test]
fn each_change_is_announced_and_so_is_a_reload_that_writes_nothing() {
    let snapshot = testing::small_model();
    let work = testing::vm(&snapshot, "work");
    let now = UNIX_EPOCH;
    let diffs = [
        change::insert(&snapshot, work.uuid, &Place::End, &Rule::accept(), now)
            .map(|diff| (diff.writes, diff.events)),
        change::remove(&snapshot, work.uuid, "1", now).map(|diff| (diff.writes, diff.events)),
        change::replace(&snapshot, work.uuid, &[], now).map(|diff| (diff.writes, diff.events)),
        change::reload(&snapshot, work.uuid).map(|diff| (diff.writes, diff.events)),
    ];
    for (diff, writes) in diffs.into_iter().zip([1, 1, 1, 0]) {
        let (written, events) = diff.unwrap();
        assert_eq!(written.len(), writes);
        let [event] = &*events else { panic!("{events:?}") };
        assert_eq!((event.vm(), &event.kind), (Some(work.uuid), &EventKind::FirewallChanged));
    }
}

#[test]
fn dom0_and_remote_vms_have_no_firewall() {
    let mut snapshot = testing::small_model();
    testing::make(&mut snapshot, &new_vm("far", VmClass::RemoteVm, None));
    for (name, class) in [("dom0", VmClass::AdminVm), ("far", VmClass::RemoteVm)] {
        let vm = testing::vm(&snapshot, name);
        let refused = change::replace(&snapshot, vm.uuid, &[], UNIX_EPOCH).unwrap_err();
        assert_eq!(refused.refusal, Refusal::NotForClass { vm: vm.name.clone(), class });
        assert!(change::reload(&snapshot, vm.uuid).is_err());
    }
}

#[test]
fn rules_of_several_vms_expire_together_each_with_its_event() {
    let rig = Rig::new();
    let (a, b, c) = (make(&rig, "a"), make(&rig, "b"), make(&rig, "c"));
    let rule = |line: &str| line.parse::<Rule>().unwrap();
    for (vm, rules) in [
        (a, vec![rule("action=accept expire=10"), rule("action=drop expire=20"), Rule::accept()]),
        (b, vec![rule("action=accept expire=20")]),
        (c, vec![rule("action=accept expire=21")]),
    ] {
        rig.commit(move |seen| change::replace(seen, vm, &rules, UNIX_EPOCH)).unwrap();
    }
    let rig = rig.restart();
    let now = UNIX_EPOCH + Duration::from_secs(20);
    let seen = rig.snapshot();
    let due: Vec<_> = seen.model.firewalls_due(now).map(|vm| vm.uuid).collect();
    assert_eq!(due, [a, b]);
    assert_eq!(shown(&rig, a, now), [(1, "action=accept".to_owned())]);
    let diff = change::expire(&seen, now);
    let told: Vec<_> = diff.events.iter().filter_map(|event| event.vm()).collect();
    assert_eq!(told, [a, b]);
    rig.commit(move |seen| Ok(change::expire(seen, now))).unwrap();
    let rows = |rig: &Rig, vm| rig.snapshot().model.vm(vm).unwrap().firewall.rules().len();
    let rig = rig.restart();
    assert_eq!([a, b, c].map(|vm| rows(&rig, vm)), [1, 0, 1]);
}

fn edit(rig: Rig, sql: &str) -> Rig {
    let mut rig = rig;
    rig.close();
    let dir = std::mem::replace(&mut rig.dir, tempfile::tempdir().unwrap());
    let db = rusqlite::Connection::open(dir.path().join("state.db")).unwrap();
    db.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    db.execute_batch(sql).unwrap();
    drop(db);
    Rig::on(dir)
}

#[test]
fn a_bad_rule_drops_everything_until_the_list_is_set_anew() {
    for (sql, word) in [
        ("UPDATE firewall_rule SET rule = 'action=open' WHERE id = 2", "rule 2: action"),
        ("UPDATE firewall_rule SET rule = 'action=accept dst4=1.2.3.4' WHERE id = 2", "canonical"),
        ("UPDATE firewall_rule SET id = 9 WHERE id = 2", "rule 9 was never"),
        ("UPDATE firewall SET last_id = 1", "rule 2 was never"),
        ("UPDATE firewall SET last_id = -1", "last id -1"),
        ("DELETE FROM firewall", "no list"),
    ] {
        let rig = Rig::new();
        let vm = make(&rig, "work");
        let rules: Vec<Rule> = vec![Rule::accept(), "action=drop dst4=1.2.3.4".parse().unwrap()];
        let now = UNIX_EPOCH;
        rig.commit(move |seen| change::replace(seen, vm, &rules, now)).unwrap();
        let rig = edit(rig, sql);

        let seen = rig.snapshot();
        assert!(shown(&rig, vm, now).is_empty(), "{sql}");
        let aside: Vec<_> = seen.model.set_aside().map(|row| (row.table, row.name.as_str())).collect();
        assert_eq!(aside, [("firewall", "work")], "{sql}");
        let insert = move |seen: &_| change::insert(seen, vm, &Place::End, &Rule::accept(), now);
        for refused in
            [refusal(rig.commit(insert)), refusal(rig.commit(move |seen| change::remove(seen, vm, "1", now)))]
        {
            let Refusal::FirewallDamaged { vm, reason } = refused else { panic!("{sql}: {refused:?}") };
            assert!(vm.as_str() == "work" && reason.contains(word), "{sql}: {reason}");
        }
        rig.commit(move |seen| change::reload(seen, vm)).unwrap();

        rig.commit(move |seen| change::replace(seen, vm, &[Rule::accept()], now)).unwrap();
        assert_eq!(rig.snapshot().model.set_aside().count(), 0, "{sql}");
        let rig = rig.restart();
        assert_eq!(rig.snapshot().model.set_aside().count(), 0, "{sql}");
        let [(id, rule)] = &*shown(&rig, vm, now) else { panic!("{sql}") };
        assert!(*id > 2 && rule == "action=accept", "{sql}: {id} {rule}");
    }
}

#[test]
fn a_vm_with_a_damaged_list_or_notes_can_be_removed_and_leaves_nothing_set_aside() {
    let rig = Rig::new();
    let vm = make(&rig, "work");
    rig.commit(move |seen| change::replace(seen, vm, &[], UNIX_EPOCH)).unwrap();
    let text = NotesText::sanitised(b"x").unwrap();
    rig.commit(move |seen| notes::set(seen, vm, &text)).unwrap();
    let rig = edit(rig, "UPDATE firewall SET last_id = 0; UPDATE notes SET text = char(27)");
    assert_eq!(rig.snapshot().model.set_aside().count(), 2);
    let row = rig.commit(move |state| remove::begin(state, vm)).unwrap();
    rig.commit(move |_| Ok(remove::finish(&row))).unwrap();
    assert_eq!(rig.snapshot().model.set_aside().count(), 0);
    let rig = rig.restart();
    assert_eq!((rig.snapshot().model.vm_count(), rig.snapshot().model.set_aside().count()), (1, 0));
}

#[test]
fn bad_notes_are_told_and_replaced_by_new_ones() {
    let rig = Rig::new();
    let vm = make(&rig, "work");
    let text = NotesText::sanitised(b"good").unwrap();
    rig.commit(move |seen| notes::set(seen, vm, &text)).unwrap();
    let rig = edit(rig, "UPDATE notes SET text = 'a' || char(8238)");
    let seen = rig.snapshot();
    assert!(
        matches!(&seen.model.vm(vm).unwrap().notes, Notes::Damaged(reason) if reason.contains("safe to show"))
    );
    assert_eq!(seen.model.set_aside().map(|row| row.table).collect::<Vec<_>>(), ["notes"]);
    let text = NotesText::default();
    rig.commit(move |seen| notes::set(seen, vm, &text)).unwrap();
    let rig = rig.restart();
    assert_eq!(rig.snapshot().model.set_aside().count(), 0);
    assert_eq!(rig.snapshot().model.vm(vm).unwrap().notes, Notes::default());
}

#[test]
fn a_full_list_refuses_one_more() {
    let rig = Rig::new();
    let vm = make(&rig, "work");
    let now = UNIX_EPOCH;
    let mut many = vec![Rule::accept(); super::MOST_RULES];
    let full = many.clone();
    rig.commit(move |seen| change::replace(seen, vm, &full, now)).unwrap();
    let refused = rig.commit(move |seen| change::insert(seen, vm, &Place::End, &Rule::accept(), now));
    assert_eq!(refusal(refused), Refusal::TooManyFirewallRules { most: 10_000 });
    many.push(Rule::accept());
    let refused = rig.commit(move |seen| change::replace(seen, vm, &many, now));
    assert!(matches!(refused, Err(HostError::Refused(Refusal::TooManyFirewallRules { .. }))));
    assert_eq!(rig.snapshot().model.vm(vm).unwrap().firewall.rules().len(), 10_000);
}
