//! Watchers of a store that is replaced under them.

#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use super::*;
use ::watch::{Create, History as _, Response, Spec, Step};
use engine::{Engine, MemoryEngine};
use machine::{Command, Machine, Settings};
use proto::etcdserverpb as pb;
use types::{Entry, EntryKind, KeyRange};

fn machine(engine: &Arc<MemoryEngine>) -> Machine {
    Machine::open(Arc::clone(engine) as Arc<dyn Engine>, Settings::new(1, 2)).unwrap()
}

fn apply(machine: &mut Machine, command: impl Into<Command>) {
    let index = machine.applied().0 + 1;
    let data = command.into().encode(index);
    machine.apply(&[Entry { term: 1, index, kind: EntryKind::Normal, data }]).unwrap();
}

/// Puts a key until the revision is reached.
fn put_up_to(machine: &mut Machine, revision: i64) {
    while machine.shared().view().revision() < revision {
        apply(machine, pb::PutRequest { key: "k".into(), ..Default::default() });
    }
}

/// A leader's state at revision 20, compacted to this one.
fn leader(compacted: i64) -> Machine {
    let engine = Arc::new(MemoryEngine::default());
    let mut machine = machine(&engine);
    put_up_to(&mut machine, 20);
    apply(&mut machine, pb::CompactionRequest { revision: compacted, ..Default::default() });
    while machine.idle().unwrap() {}
    machine
}

/// As the task does that follows the node; returns what the stream gets.
fn turn(watches: &Watches, shared: &Shared, key: StreamKey) -> Vec<Response> {
    let mut inner = watches.lock();
    inner.refresh(shared);
    let history = inner.history(shared);
    loop {
        match inner.hub.step(&history) {
            Step::Again => {}
            Step::Idle => break,
            Step::Read(round) => {
                let found = round.read(&history);
                inner.hub.finish(&round, found);
            }
        }
    }
    inner.keep(shared);
    std::iter::from_fn(|| inner.hub.pop(key)).collect()
}

/// A member at revision 5 with a watcher that has seen all, and then two events that nobody has looked at.
fn watched() -> (Arc<MemoryEngine>, Machine, Watches, StreamKey) {
    let engine = Arc::new(MemoryEngine::default());
    let mut machine = machine(&engine);
    put_up_to(&mut machine, 5);
    let (watches, shared) = (Watches::new(WatchLimits::default()), machine.shared());
    let spec = Spec { range: KeyRange::all(), puts: true, deletes: true, previous: false };
    let create = Create { id: 0, spec, start: 0, fragment: false, notify: false };
    let key = watches.call(&shared, |hub| {
        let key = hub.open();
        hub.create(key, create, -1);
        key
    });
    assert!(matches!(turn(&watches, &shared, key)[..], [Response::Created { .. }]));
    put_up_to(&mut machine, 7);
    (engine, machine, watches, key)
}

#[test]
fn who_needs_compacted_history_is_told_whatever_the_former_store_could_have_read() {
    let (engine, mut machine, watches, key) = watched();
    let shared = machine.shared();
    drop(machine.replace(leader(15)).unwrap());
    assert_eq!(Arc::strong_count(&engine), 2, "a view is kept");
    assert_eq!(watches.lock().history(&shared).compact_revision(), 15);
    let told = turn(&watches, &shared, key);
    assert!(matches!(told[..], [Response::Compacted { compact_revision: 15, .. }]), "{told:?}");
}

#[test]
fn any_call_lets_go_of_the_former_store() {
    let (engine, mut machine, watches, _) = watched();
    drop(machine.replace(leader(15)).unwrap());
    watches.call(&machine.shared(), |hub| assert_eq!(hub.counts().watchers, 1, "not caught up yet"));
    assert_eq!(Arc::strong_count(&engine), 1);
}

#[test]
fn who_needs_what_is_still_there_gets_it_from_the_new_store() {
    let (engine, mut machine, watches, key) = watched();
    let shared = machine.shared();
    drop(machine.replace(leader(6)).unwrap());
    let told = turn(&watches, &shared, key);
    let events = told.iter().map(|response| match response {
        Response::Events { count, .. } => *count,
        other => panic!("{other:?}"),
    });
    assert_eq!(events.sum::<usize>(), 15, "revisions 6 to 20");
    assert_eq!(Arc::strong_count(&engine), 1, "nobody holds the former engine");
    put_up_to(&mut machine, 21);
    assert!(matches!(turn(&watches, &shared, key)[..], [Response::Events { count: 1, .. }]));
}
