//! A machine that takes over the state of another one, further on in the same log, while it is read and watched.

use super::groups::any_log;
use super::render::state;
use super::script::{Bench, entry, log, rows, settings};
use crate::history::{self, Changes, History};
use crate::rows::put_applied;
use crate::{Fault, LeaseInfo, Machine, Shared};
use engine::{Batch, Engine, MemoryEngine};
use proptest::prelude::*;
use prost::Message as _;
use proto::etcdserverpb as pb;
use proto::mvccpb;
use std::collections::BTreeMap;
use std::sync::Arc;
use types::{Entry, KeyRange};
use watch::{Create, Hub, Response, Spec, Step, StreamKey};

/// A machine on a copy of this one's rows, as after an import.
fn copied(bench: &Bench) -> (Arc<MemoryEngine>, Machine) {
    bench.engine.flush().expect("memory does not fail");
    let engine = Arc::new(bench.engine.crash());
    let machine = Machine::open(Arc::clone(&engine) as Arc<dyn Engine>, settings()).expect("opens");
    (engine, machine)
}

fn after(entries: &[Entry]) -> Bench {
    let mut bench = Bench::new(settings());
    bench.machine.apply(entries).expect("applies");
    bench
}

const LOG: &[&str] = &[
    "add 1 http://a",
    "grant 7 60",
    "put a 1 lease=7",
    "grant 8 60",
    "alarm on 1 1",
    // What the follower lacks begins here.
    "alarm off 1 1",
    "put b 1 lease=8",
    "revoke 7",
    "grant 9 600",
    "learner 2 http://b",
    "version 3.7.0",
    "checkpoint 8 17",
    "compact 3",
];

const LACKING: usize = 8;

#[test]
fn readers_see_the_whole_new_state_where_they_saw_the_old_one() {
    let entries = log(LOG);
    let (mut follower, mut leader) = (after(&entries[..LOG.len() - LACKING]), after(&entries));
    while leader.machine.idle().expect("memory does not fail") {}
    let (shared, before) = (follower.machine.shared(), follower.machine.shared().view());
    let (engine, other) = copied(&leader);
    let former = follower.machine.replace(other).expect("newer");
    assert!(Arc::ptr_eq(&shared, &follower.machine.shared()));
    assert_eq!(state(&follower.machine), state(&leader.machine));
    assert_eq!((shared.applied_index(), shared.alarms().is_empty()), (13, true));
    assert_eq!(shared.membership().members[&2].peer_urls, ["http://b"]);
    let lease = |id, ttl, remaining_ttl| LeaseInfo { id, ttl, remaining_ttl };
    assert_eq!(shared.leases(), [lease(8, 60, 17), lease(9, 600, 0)]);
    assert_eq!(shared.lease_keys(8, None, 9), Some(vec!["b".into()]));
    assert!(follower.machine.lease_changes().is_empty());
    assert_eq!(before.revision(), 2, "a view does not move");
    drop((former, before));
    // It goes on alike, in the new engine alone, and that is what is flushed.
    let old_rows = rows(&*follower.engine);
    for command in ["put a 2 lease=9", "revoke 8", "promote 2", "del a"] {
        assert_eq!(follower.run(command), leader.run(command), "{command}");
    }
    assert_eq!(rows(&*follower.engine), old_rows);
    shared.flush().expect("memory does not fail");
    assert_eq!(rows(&engine.crash()), rows(&*leader.engine));
}

#[test]
fn a_state_that_is_not_newer_is_a_fault_that_changes_nothing() {
    let entries = log(LOG);
    let mut follower = after(&entries[..9]);
    follower.machine.shared().change_feed().open();
    for applied in [0, 5, 9] {
        let before = state(&follower.machine);
        let fault = follower.machine.replace(copied(&after(&entries[..applied])).1);
        assert!(matches!(fault, Err(Fault::Broken("a snapshot is not newer than what is applied"))));
        assert_eq!(state(&follower.machine), before);
        assert_eq!(follower.machine.shared().change_feed().take().dropped, None);
    }
    follower.run("put a 1");
    assert_eq!(follower.machine.applied().0, 10);
}

#[test]
fn what_waits_for_readers_of_the_old_state_waits_no_longer() {
    let entries = log(&["put a 1", "put a 2", "put a 3", "compact 3", "put a 4"]);
    let mut follower = after(&entries[..3]);
    let reader = follower.machine.shared().view();
    follower.machine.apply(&entries[3..4]).expect("applies");
    assert!(!follower.machine.idle().expect("memory does not fail") && follower.machine.waits_for_readers());
    let former = follower.machine.replace(copied(&after(&entries)).1).expect("newer");
    assert!(!follower.machine.waits_for_readers());
    // The other one had not compacted yet, either.
    while follower.machine.idle().expect("memory does not fail") {}
    assert_eq!(follower.machine.shared().view().compaction_done(), 3);
    drop(former);
    assert_eq!(reader.hash_kv(2).expect("nobody compacts its engine").hash_revision, 2);
}

#[test]
fn a_reader_that_waited_for_an_index_sees_what_it_stands_for() {
    let mut follower = Bench::new(settings());
    let shared = follower.machine.shared();
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            for newer in 1..50_000 {
                let (engine, mut batch) = (Arc::new(MemoryEngine::new()), Batch::default());
                mvcc::bump(&*engine, &mut batch, newer).expect("far from the end");
                put_applied(&mut batch, newer, 1);
                engine.write(batch).expect("memory does not fail");
                let other = Machine::open(engine, settings()).expect("opens");
                drop(follower.machine.replace(other).expect("newer"));
            }
        });
        let mut seen = 0;
        while !writer.is_finished() {
            let applied = shared.applied_index();
            assert!(applied >= seen, "{applied} after {seen}");
            let revision = shared.view().revision().unsigned_abs();
            assert!(revision > applied, "revision {revision} at index {applied}");
            seen = applied;
        }
    });
}

/// Watchers of all keys, each on a stream of its own, with what they were sent.
struct Watching {
    hub: Hub,
    shared: Arc<Shared>,
    watchers: Vec<Watcher>,
}

struct Watcher {
    stream: StreamKey,
    /// The first revision that it must be sent.
    start: i64,
    events: Vec<(i64, mvccpb::Event)>,
    /// The compacted revision that ended it.
    ended: Option<i64>,
}

impl Watching {
    fn new(shared: Arc<Shared>) -> Self {
        shared.change_feed().open();
        Self { hub: Hub::new(shared.view().revision()), shared, watchers: Vec::new() }
    }

    /// Adds a watcher from this revision on; 0 = from now on.
    fn watch(&mut self, start: i64) {
        self.publish();
        let spec = Spec { range: KeyRange::all(), puts: true, deletes: true, previous: false };
        let stream = self.hub.open();
        let create = Create { id: 0, spec, start, fragment: false, notify: false };
        self.hub.create(stream, create, self.shared.view().compact_revision());
        let start = if start == 0 { self.hub.revision() + 1 } else { start };
        self.watchers.push(Watcher { stream, start, events: Vec::new(), ended: None });
    }

    fn publish(&mut self) {
        let Changes { dropped, groups } = self.shared.change_feed().take();
        if let Some(last) = dropped {
            self.hub.skip(last);
        }
        for group in groups {
            assert_eq!(group.first(), self.hub.revision() + 1);
            self.hub.publish(history::events(&group).expect("its own rows"), group.last());
        }
    }

    /// Does up to this many steps, and takes what is in the queues.
    fn deliver(&mut self, steps: usize) {
        self.publish();
        for _ in 0..steps {
            let history = History::new(self.shared.view());
            match self.hub.step(&history) {
                Step::Again => {}
                Step::Idle => break,
                Step::Read(round) => {
                    let found = round.read(&history);
                    self.hub.finish(&round, found);
                }
            }
        }
        for watcher in &mut self.watchers {
            while let Some(response) = self.hub.pop(watcher.stream) {
                watcher.take(response);
            }
        }
    }
}

impl Watcher {
    fn take(&mut self, response: Response) {
        assert_eq!(self.ended, None, "{response:?} after its end");
        match response {
            Response::Created { .. } => {}
            Response::Events { events, count, .. } => {
                let events = decoded(&events);
                assert_eq!(events.len(), count);
                self.events.extend(events);
            }
            Response::Compacted { compact_revision, .. } => self.ended = Some(compact_revision),
            other => panic!("{other:?}"),
        }
    }
}

fn decoded(events: &[u8]) -> Vec<(i64, mvccpb::Event)> {
    let response = pb::WatchResponse::decode(events).expect("a part of a response");
    let with_revision = |event: mvccpb::Event| (event.kv.as_ref().expect("a key").mod_revision, event);
    response.events.into_iter().map(with_revision).collect()
}

/// All events of a log, by revision.
fn all_events(entries: &[Entry]) -> BTreeMap<i64, Vec<mvccpb::Event>> {
    let mut bench = Bench::new(settings());
    let shared = bench.machine.shared();
    shared.change_feed().open();
    let mut all: BTreeMap<i64, Vec<mvccpb::Event>> = BTreeMap::new();
    for entry in entries {
        bench.machine.apply(std::slice::from_ref(entry)).expect("applies");
        for group in shared.change_feed().take().groups {
            for event in history::events(&group).expect("its own rows") {
                let (main, event) = decoded(&event.bytes).remove(0);
                all.entry(main).or_default().push(event);
            }
        }
    }
    all
}

/// Checks that a watcher was sent everything from its start on, once and in order, up to the end or until the history
/// that it needs was compacted. Of the revision to which the new state was compacted, some may be gone, as in etcd.
fn check_watcher(
    watcher: &Watcher,
    all: &BTreeMap<i64, Vec<mvccpb::Event>>,
    compacted: i64,
) -> Result<(), TestCaseError> {
    let sent: Vec<_> = watcher.events.iter().filter(|(main, _)| *main != compacted).collect();
    let mut expected = all
        .range(watcher.start..)
        .filter(|(main, _)| **main != compacted)
        .flat_map(|(main, events)| events.iter().map(move |event| (*main, event)));
    for (main, event) in &sent {
        prop_assert_eq!(expected.next(), Some((*main, event)));
    }
    match (watcher.ended, expected.next()) {
        (None, next) => prop_assert_eq!(next, None, "left out"),
        (Some(ended), Some((missing, _))) => {
            let last = watcher.events.last().map_or(watcher.start - 1, |(main, _)| *main);
            prop_assert!(last < missing, "a part of a revision");
            prop_assert!(last + 1 < ended, "{} was sent, {} is compacted", last, ended);
        }
        (Some(ended), None) => prop_assert!(watcher.start < ended),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn watchers_miss_nothing_and_see_nothing_twice(
        entries in any_log(),
        (at, lacking) in (0..60usize, 1..40usize),
        size in 1..8usize,
        steps in prop::collection::vec(0..4usize, 1..20),
        settles in any::<bool>(),
    ) {
        let at = at.min(entries.len() - 1);
        let newer = (at + lacking).min(entries.len());
        let mut follower = Bench::new(settings());
        let mut watching = Watching::new(follower.machine.shared());
        let mut steps = steps.iter().copied().cycle();
        watching.watch(0);
        watching.watch(2);
        for group in entries[..at].chunks(size) {
            follower.machine.apply(group).expect("applies");
            watching.deliver(steps.next().expect("a cycle"));
        }
        watching.watch(0);
        watching.watch(1);
        // One that is to begin later than the new state.
        watching.watch(1_000);

        let mut leader = after(&entries[..newer]);
        while settles && leader.machine.idle().expect("memory does not fail") {}
        let (engine, other) = copied(&leader);
        drop(follower.machine.replace(other).expect("newer"));
        prop_assert_eq!(state(&follower.machine), state(&leader.machine));
        let compacted = follower.machine.shared().view().compact_revision();
        watching.watch(0);
        watching.watch(compacted.max(1));
        for group in entries[newer..].chunks(size) {
            watching.deliver(steps.next().expect("a cycle"));
            follower.machine.apply(group).expect("applies");
        }
        watching.deliver(usize::MAX);
        watching.hub.check();

        let all = all_events(&entries);
        for watcher in &watching.watchers {
            check_watcher(watcher, &all, compacted)?;
        }
        let mut whole = after(&entries);
        while whole.machine.idle().expect("memory does not fail") {}
        while follower.machine.idle().expect("memory does not fail") {}
        prop_assert_eq!(state(&follower.machine), state(&whole.machine));
        prop_assert_eq!(rows(&*engine), rows(&*whole.engine));
    }
}

#[test]
fn who_needs_what_the_new_state_has_compacted_is_told_so_and_nobody_else() {
    let mut commands: Vec<String> = (2..=20).map(|revision| format!("put k {revision}")).collect();
    commands.push("compact 15".to_owned());
    let entries = log(&commands);
    let mut leader = after(&entries);
    while leader.machine.idle().expect("memory does not fail") {}
    // The next event of the follower is at revision 13, 14, 15 or 16.
    for (applied, is_compacted) in [(11, true), (12, true), (13, false), (14, false)] {
        let mut follower = after(&entries[..applied - 1]);
        let mut watching = Watching::new(follower.machine.shared());
        watching.watch(0);
        follower.machine.apply(&entries[applied - 1..applied]).expect("applies");
        watching.deliver(usize::MAX);
        drop(follower.machine.replace(copied(&leader).1).expect("newer"));
        watching.deliver(usize::MAX);
        let seen: Vec<i64> = watching.watchers[0].events.iter().map(|(main, _)| *main).collect();
        let first = i64::try_from(applied).expect("small") + 1;
        let expected = if is_compacted { vec![first] } else { (first..=20).collect() };
        assert_eq!((seen, watching.watchers[0].ended), (expected, is_compacted.then_some(15)), "{applied}");
        // Whoever comes now is served.
        watching.watch(0);
        assert_eq!(follower.run("put k 21"), leader_says(&mut copied(&leader).1));
        watching.deliver(usize::MAX);
        assert_eq!(watching.watchers[1].events.len(), 1);
    }
}

/// What a copy of the leader answers to the next put.
fn leader_says(machine: &mut Machine) -> String {
    let entries = [entry(machine.applied().0 + 1, "put k 21")];
    super::render::outcome(&machine.apply(&entries).expect("applies")[0])
}
