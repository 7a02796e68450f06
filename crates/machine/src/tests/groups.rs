//! The same log, grouped differently or replayed after a crash, must produce the same state.

use super::render::{outcome, state};
use super::script::{Bench, entry, log, only, rows, settings};
use crate::{Effect, Fault, Limits, Settings};
use engine::{Engine, MemoryEngine};
use mvcc::Cost;
use proptest::prelude::*;
use std::sync::Arc;
use types::Entry;

fn word(words: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(words)
}

const KEYS: &[&str] = &["a", "b", "c", "d"];

/// Revisions, limits and lease IDs: mostly sensible ones.
fn number() -> impl Strategy<Value = i64> {
    prop_oneof![8 => 0..60i64, 1 => -2..0i64, 1 => prop::sample::select(vec![i64::MIN, i64::MAX])]
}

/// Operations of a transaction, valid or not, some nested.
fn op() -> impl Strategy<Value = String> {
    let key = || word(KEYS);
    let with =
        word(&["1", "2 lease=1", "2 lease=2 prev", "3 ignore_lease", "ignore_value", "ignore_value lease=1"]);
    let flat = prop_oneof![
        3 => (key(), with).prop_map(|(key, with)| format!("put {key} {with}")),
        2 => (key(), word(&["", "b", "d", "*", "* prev"])).prop_map(|(key, end)| format!("del {key} {end}")),
        1 => (key(), word(&["", "*"]), number(), number())
            .prop_map(|(key, end, at, limit)| format!("get {key} {end} rev={at} limit={limit}")),
    ];
    flat.prop_recursive(3, 16, 4, move |inner| {
        let ops = || prop::collection::vec(inner.clone(), 0..4).prop_map(|ops| ops.join(" ; "));
        (key(), 0..3u8, ops(), ops()).prop_map(|(key, version, success, failure)| {
            format!("txn if version:{key}>{version} then {success} else {failure} end")
        })
    })
}

/// Commands that never cause a fault, whatever came before.
fn command() -> impl Strategy<Value = String> {
    let key = || word(KEYS);
    let lease = || word(&["", "lease=1", "lease=2", "ignore_lease", "prev", "ignore_value"]);
    prop_oneof![
        6 => (key(), 0..9u8, lease()).prop_map(|(key, value, with)| match with {
            "ignore_value" => format!("put {key} {with}"),
            _ => format!("put {key} {value} {with}"),
        }),
        2 => (key(), word(&["", "c", "*", "prev"])).prop_map(|(key, end)| format!("del {key} {end}")),
        2 => (key(), key(), key(), 0..4u8).prop_map(|(a, b, c, version)| format!(
            "txn if version:{a}>{version} then put {b} 1 ; del {c} ; get a * else put {c} 2 ; \
             txn if value:{b}=1 then del {b} d else put x{a} 1 lease=1 end end"
        )),
        2 => prop::collection::vec(op(), 1..5).prop_map(|ops| format!("txn then {} else end", ops.join(" ; "))),
        1 => number().prop_map(|revision| format!("compact {revision}")),
        1 => (1..3u8).prop_map(|id| format!("grant {id} 60")),
        1 => (number(), number()).prop_map(|(id, ttl)| format!("grant {id} {ttl}")),
        1 => (1..3u8).prop_map(|id| format!("revoke {id}")),
        1 => (1..3u8, 0..50u8).prop_map(|(id, left)| format!("checkpoint {id} {left}")),
        1 => (word(&["on", "off", "off"]), 1..3u8).prop_map(|(action, kind)| format!("alarm {action} 1 {kind}")),
        1 => (word(&["add", "learner", "update"]), 2..5u8, word(&["http://x", "http://y"]))
            .prop_map(|(change, id, url)| format!("{change} {id} {url}")),
        1 => (word(&["promote", "remove"]), 2..5u8).prop_map(|(change, id)| format!("{change} {id}")),
        1 => word(&["noop", "version 3.7.0", "attr 1 me http://me", "downgrade on 3.6.0", "range a *"])
            .prop_map(str::to_owned),
    ]
}

/// A log that starts with this member, so that there is always a voter.
pub(super) fn any_log() -> impl Strategy<Value = Vec<Entry>> {
    prop::collection::vec(command(), 1..60).prop_map(|mut commands| {
        commands.insert(0, "add 1 http://a".to_owned());
        log(&commands)
    })
}

fn apply_in_groups(bench: &mut Bench, entries: &[Entry], sizes: &[usize]) {
    let (mut rest, mut sizes) = (entries, sizes.iter().cycle());
    while !rest.is_empty() {
        let size = (*sizes.next().expect("a cycle")).min(rest.len());
        let (group, after) = rest.split_at(size);
        bench.machine.apply(group).expect("applies");
        rest = after;
    }
}

fn settled(mut bench: Bench) -> (String, Vec<String>) {
    while bench.machine.idle().expect("memory does not fail") {}
    (state(&bench.machine), rows(&*bench.engine))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_grouping_of_a_log_leaves_no_trace(
        entries in any_log(),
        sizes in prop::collection::vec(1..12usize, 1..6),
    ) {
        let (mut one, mut many) = (Bench::new(settings()), Bench::new(settings()));
        apply_in_groups(&mut one, &entries, &[1]);
        apply_in_groups(&mut many, &entries, &sizes);
        prop_assert_eq!(settled(one), settled(many));
    }

    #[test]
    fn what_is_read_later_is_what_would_have_been_read_at_once(
        entries in any_log(),
        sizes in prop::collection::vec(1..12usize, 1..6),
        rows in 0..12u64,
        keys in 0..4u64,
    ) {
        let (mut at_once, mut later) = (Bench::new(settings()), Vec::new());
        let expected: Vec<_> = entries.iter().flat_map(|entry| {
            let outcomes = at_once.machine.apply(std::slice::from_ref(entry)).expect("applies");
            outcomes.iter().map(outcome).collect::<Vec<_>>()
        }).collect();

        let entry_reads = Cost { rows, ..Cost::MAX };
        let limits = Limits { entry_reads, group_reads: Cost { rows: 2 * rows, ..Cost::MAX }, group_keys: keys };
        let mut bench = Bench::new(Settings { limits, ..settings() });
        let (mut rest, mut sizes) = (&entries[..], sizes.iter().cycle());
        while !rest.is_empty() {
            let size = (*sizes.next().expect("a cycle")).min(rest.len());
            let (mut outcomes, done) = bench.machine.apply_short(&rest[..size]).expect("applies");
            prop_assert_eq!(outcomes.len(), done);
            if done < size {
                outcomes.extend(bench.machine.apply(&rest[done..size]).expect("applies"));
            }
            later.extend(outcomes);
            // Compaction waits for unfinished reads.
            while bench.machine.idle().expect("memory does not fail") {}
            rest = &rest[size..];
        }
        prop_assert_eq!(later.iter().map(outcome).collect::<Vec<_>>(), expected);
        drop(later);
        while bench.machine.idle().expect("memory does not fail") {}
        prop_assert_eq!(settled(at_once), settled(bench));
    }

    #[test]
    fn a_log_replayed_after_a_crash_leaves_the_same_state(
        entries in any_log(),
        flush_at in 0..60usize,
        crash_at in 0..60usize,
        replay_from in 0..60usize,
    ) {
        let mut whole = Bench::new(settings());
        apply_in_groups(&mut whole, &entries, &[3]);

        let crash_at = crash_at.min(entries.len());
        let flush_at = flush_at.min(crash_at);
        let mut bench = Bench::new(settings());
        apply_in_groups(&mut bench, &entries[..flush_at], &[2]);
        bench.engine.flush().expect("memory does not fail");
        apply_in_groups(&mut bench, &entries[flush_at..crash_at], &[5]);
        let engine = Arc::new(bench.engine.crash());
        let mut bench = Bench::on(engine, settings());
        prop_assert_eq!(bench.machine.applied().0, flush_at as u64);
        let from = replay_from.min(flush_at);
        bench.machine.apply(&entries[from..]).expect("applies");
        prop_assert_eq!(settled(whole), settled(bench));
    }

    #[test]
    fn what_is_refused_leaves_no_trace(before in any_log(), ops in prop::collection::vec(op(), 1..5)) {
        let mut bench = Bench::new(settings());
        apply_in_groups(&mut bench, &before, &[4]);
        let txn = entry(before.len() as u64 + 1, &format!("txn then {} else end", ops.join(" ; ")));
        // Everything but the applied index, which is the first line.
        let state = |bench: &Bench| state(&bench.machine).split_once('\n').expect("lines").1.to_owned();
        let before = state(&bench);
        let outcomes = bench.machine.apply(&[txn]).expect("applies");
        if let Effect::Answer(Err(_)) = &only(&outcomes).effect {
            prop_assert_eq!(before, state(&bench));
        }
    }

    #[test]
    fn a_restart_sees_what_was_seen_before(entries in any_log()) {
        let mut bench = Bench::new(settings());
        apply_in_groups(&mut bench, &entries, &[7]);
        let before = state(&bench.machine);
        bench.restart();
        prop_assert_eq!(before, state(&bench.machine));
    }
}

#[test]
fn entries_that_were_applied_are_skipped_and_a_gap_is_a_fault() {
    let mut bench = Bench::new(settings());
    let entries = log(&["put a 1", "put a 2", "put a 3", "put a 4"]);
    assert_eq!(bench.machine.apply(&entries[..2]).expect("applies").len(), 2);
    assert!(bench.machine.apply(&entries[..2]).expect("skips").is_empty());
    let outcomes = bench.machine.apply(&entries[..3]).expect("applies the last");
    assert_eq!((only(&outcomes).index, only(&outcomes).request_id), (3, 1 << 48 | 3));
    assert!(matches!(bench.machine.apply(&[entry(5, "noop")]), Err(Fault::Gap { index: 5, applied: 3 })));
}

#[test]
fn a_group_is_one_batch() {
    let engine = Arc::new(MemoryEngine::new());
    let mut bench = Bench::on(Arc::clone(&engine), settings());
    bench.machine.apply(&log(&["grant 1 60", "put a 1 lease=1", "noop"])).expect("applies");
    let before = rows(&*engine);
    let mut entries = log(&["noop", "noop", "noop", "put b 1", "revoke 1", "unknown"]);
    assert!(bench.machine.apply(&entries).is_err());
    assert_eq!(rows(&*engine), before, "nothing of a group with a fault is written");
    entries.pop();
    let mut bench = Bench::on(Arc::clone(&engine), settings());
    bench.machine.apply(&entries).expect("applies");
    assert_eq!(bench.machine.applied(), (5, 1));
}

#[test]
fn what_touches_much_is_a_group_of_its_own_and_ends_it() {
    let limits = Limits { group_keys: 10, ..Limits::default() };
    let mut bench = Bench::new(Settings { limits, ..settings() });
    let value = "v".repeat(64 << 10);
    let mut commands: Vec<String> = (0..3).map(|key| format!("put k{key} {value}")).collect();
    commands.extend((0..20).map(|key| format!("put few{key:02} 1")));
    commands.push("grant 7 60".to_owned());
    commands.extend((0..20).map(|key| format!("put leased{key:02} 1 lease=7")));
    let (long, short) = (
        [
            "del few00 few15",
            "revoke 7",
            "put k0 ignore_value",
            "txn then put k0 ignore_value else end",
            "txn if value:k0=x then else put a 1 end",
            "txn if value:k0..k1=x then else put a 1 end",
            "txn if version:few00..few15>0 then put a 1 else end",
            "txn then txn then del few00 few15 else end else end",
        ],
        [
            "del few00 few05",
            "put few00 ignore_value",
            "put k1 small",
            "put k1 2 prev",
            "txn if version:k0>0 version:few00..few05>0 then put a 1 else end",
            "txn then put a 1 ; get k0 k2 else end",
        ],
    );
    let first = log(&commands);
    bench.machine.apply(&first).expect("applies");
    for (number, command) in (first.len() as u64 + 1..).zip(short.into_iter().chain(long)) {
        // The second entry must wait for the next group.
        let entries = [entry(number, command), entry(number + 1, "del few00 few15")];
        let one = std::slice::from_ref(&entries[0]);
        let done = bench.machine.apply_short(one).expect("applies").1;
        assert_eq!(done == 0, long.contains(&command), "{command}");
        if done == 0 {
            assert_eq!(bench.machine.apply_long(&entries).expect("applies").1, 1, "{command}");
        }
    }
}
