//! The hub against a naive model: every watcher must receive every event of its keys from its start on, in order,
//! once, whole revisions at a time, whatever readers, rounds, gaps and compactions happen; and none up to an
//! announced progress afterwards.

#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

mod naive;

use naive::{Change, Naive};
use proptest::prelude::*;
use std::collections::HashMap;
use types::{KeyRange, RangeEnd, Revision};
use watch::{Chunk, Create, Event, HistoryError, Hub, Limits, Response, Round, Spec, Step, StreamKey};

const KEYS: [&str; 5] = ["a", "b", "ba", "c", "d"];

/// An event as a client sees it: its revision, and that of the previous version.
type Got = (Revision, Option<Revision>);

fn parse(events: &[u8]) -> Vec<Got> {
    let revision = |text: &str| {
        let (main, sub) = text.split_once('.').unwrap_or((text, "0"));
        Revision::new(main.parse().unwrap(), sub.parse().unwrap())
    };
    let event = |text: &str| {
        let at = text.rsplit_once('@').unwrap().1;
        let Some((at, previous)) = at.split_once('(') else { return (revision(at), None) };
        (revision(at), Some(revision(previous.strip_suffix(')').unwrap())))
    };
    std::str::from_utf8(events).unwrap().split_terminator(' ').map(event).collect()
}

/// All events of the watcher from this revision on.
fn expected<'n>(naive: &'n Naive, spec: &Spec, from: i64) -> impl Iterator<Item = &'n Event> {
    let from = naive.events.partition_point(|event| event.at.main < from);
    naive.events[from..].iter().filter(|event| {
        spec.range.contains(&event.key) && if event.delete { spec.deletes } else { spec.puts }
    })
}

/// A client's knowledge of its watcher.
struct Seen {
    spec: Spec,
    /// The first main revision that may still come.
    from: i64,
    last: Revision,
    /// No event up to this revision may come any more.
    bookmark: i64,
    ended: bool,
}

struct Client {
    key: StreamKey,
    /// Unanswered creations, in order.
    asked: Vec<(Spec, i64)>,
    watchers: HashMap<i64, Seen>,
}

impl Client {
    fn take(&mut self, response: Response, naive: &Naive) {
        match response {
            Response::Created { id, .. } => {
                let (spec, from) = self.asked.remove(0);
                let seen = Seen { spec, from, last: Revision::default(), bookmark: from - 1, ended: false };
                assert!(self.watchers.insert(id, seen).is_none(), "{id} is taken");
            }
            Response::Refused { .. } => drop(self.asked.remove(0)),
            Response::Canceled { id, .. } => drop(self.watchers.remove(&id).unwrap()),
            Response::Compacted { id, compact_revision } => {
                let seen = self.watchers.get_mut(&id).unwrap();
                assert!(!seen.ended && seen.bookmark + 1 < compact_revision);
                seen.ended = true;
            }
            Response::Progress { id: Some(id), revision } => {
                self.watchers.get_mut(&id).unwrap().promise(revision, naive);
            }
            Response::Progress { id: None, revision } => {
                for seen in self.watchers.values_mut().filter(|seen| !seen.ended) {
                    seen.promise(revision, naive);
                }
            }
            Response::Events { id, revision, count, events, .. } => {
                let seen = self.watchers.get_mut(&id).unwrap();
                let got = parse(&events);
                assert_eq!(got.len(), count);
                seen.events(&got, naive);
                seen.promise(revision, naive);
            }
            Response::Failed { reason } => panic!("{reason}"),
        }
    }
}

impl Seen {
    fn events(&mut self, got: &[Got], naive: &Naive) {
        assert!(!self.ended);
        let (first, last) = (got[0].0, got[got.len() - 1].0);
        assert!(first.main > self.bookmark && first > self.last, "{first:?} after {:?}", self.last);
        // Exactly the events from the first that may come to the last that came: none left out, whole revisions.
        let mut wanted =
            expected(naive, &self.spec, self.from).take_while(|event| event.at.main <= last.main);
        for (at, previous) in got {
            let event = wanted.next().expect("as many as there are");
            assert_eq!(*at, event.at);
            let shown = event.previous.filter(|_| self.spec.previous);
            // The history may have been compacted before it was read.
            assert!(
                *previous == shown || previous.is_none() && at.main <= naive.compacted,
                "{event:?} {previous:?}"
            );
        }
        assert_eq!(wanted.next(), None, "left out");
        (self.last, self.from) = (last, last.main + 1);
    }

    /// After progress at a revision, all events up to it must have come.
    fn promise(&mut self, revision: i64, naive: &Naive) {
        let missing = expected(naive, &self.spec, self.from).find(|event| event.at.main <= revision);
        assert_eq!(missing, None, "promised {revision}");
        self.bookmark = self.bookmark.max(revision);
    }
}

struct World {
    hub: Hub,
    naive: Naive,
    clients: Vec<Client>,
    /// A round that was read but not returned yet.
    held: Option<(Round, Result<Chunk, HistoryError>)>,
}

impl World {
    fn new(limits: Limits) -> Self {
        let mut hub = Hub::within(1, limits);
        let clients =
            (0..3).map(|_| Client { key: hub.open(), asked: Vec::new(), watchers: HashMap::new() }).collect();
        Self { hub, naive: Naive::new(), clients, held: None }
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Write { revisions, padding, missed } => {
                let change = |(key, delete): &(usize, bool)| -> Change {
                    (KEYS[*key].to_owned(), (!delete).then(|| ".".repeat(padding)))
                };
                let changes = |writes: &Vec<_>| writes.iter().map(change).collect::<Vec<_>>();
                let events: Vec<Event> =
                    revisions.iter().flat_map(|writes| self.naive.write(&changes(writes))).collect();
                if missed {
                    self.hub.skip(self.naive.revision);
                } else {
                    self.hub.publish(events, self.naive.revision);
                }
            }
            Op::Create { client, spec, id, back, notify } => {
                let start = back.map_or(0, |back| self.hub.revision() + 3 - back);
                let client = &mut self.clients[client];
                let from = if start == 0 { self.hub.revision() + 1 } else { start };
                client.asked.push((spec.clone(), from));
                let create = Create { id, spec, start, fragment: false, notify };
                self.hub.create(client.key, create, self.naive.compacted);
            }
            Op::Cancel { client, id } => self.hub.cancel(self.clients[client].key, id),
            Op::Compact { back } => {
                self.naive.compacted = self.naive.compacted.max(self.naive.revision - back);
            }
            Op::Pop { client, count } => drop(self.pop(client, count)),
            Op::Step { hold } => drop(self.step(hold)),
            Op::Progress { client } => self.hub.request_progress(self.clients[client].key),
            Op::Tick { client } => self.hub.tick(self.clients[client].key),
            Op::Reopen { client } => {
                self.hub.close(self.clients[client].key);
                let key = self.hub.open();
                self.clients[client] = Client { key, asked: Vec::new(), watchers: HashMap::new() };
            }
        }
        self.hub.check();
    }

    fn pop(&mut self, client: usize, count: usize) -> usize {
        let client = &mut self.clients[client];
        for done in 0..count {
            let Some(response) = self.hub.pop(client.key) else { return done };
            client.take(response, &self.naive);
        }
        count
    }

    fn step(&mut self, hold: bool) -> bool {
        if let Some((round, result)) = self.held.take_if(|_| !hold) {
            self.hub.finish(&round, result);
            return true;
        }
        match self.hub.step(&self.naive) {
            Step::Idle => false,
            Step::Again => true,
            Step::Read(round) => {
                let result = round.read(&self.naive);
                if hold {
                    self.held = Some((round, result));
                } else {
                    self.hub.finish(&round, result);
                }
                true
            }
        }
    }

    /// Everybody reads until nothing is left; then nobody may have missed anything.
    fn settle(&mut self) {
        loop {
            let mut busy = self.step(false);
            for client in 0..self.clients.len() {
                busy |= self.pop(client, usize::MAX) > 0;
            }
            if !busy {
                break;
            }
        }
        self.hub.check();
        assert_eq!((self.hub.counts().slow, self.hub.counts().pending), (0, 0));
        for client in &mut self.clients {
            for seen in client.watchers.values_mut().filter(|seen| !seen.ended) {
                seen.promise(self.naive.revision, &self.naive);
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Write { revisions: Vec<Vec<(usize, bool)>>, padding: usize, missed: bool },
    Create { client: usize, spec: Spec, id: i64, back: Option<i64>, notify: bool },
    Cancel { client: usize, id: i64 },
    Compact { back: i64 },
    Pop { client: usize, count: usize },
    Step { hold: bool },
    Progress { client: usize },
    Tick { client: usize },
    Reopen { client: usize },
}

fn spec() -> impl Strategy<Value = Spec> {
    let range = (0..KEYS.len(), 0..KEYS.len(), 0..4u8).prop_map(|(start, end, kind)| {
        let end = match kind {
            0 => RangeEnd::Point,
            1 => RangeEnd::Open,
            _ => RangeEnd::Before(KEYS[end].into()),
        };
        KeyRange { start: KEYS[start].into(), end }
    });
    let wanted = prop::sample::select(vec![(true, true), (true, true), (true, false), (false, true)]);
    (range, wanted, any::<bool>()).prop_map(|(range, (puts, deletes), previous)| Spec {
        range,
        puts,
        deletes,
        previous,
    })
}

fn op() -> impl Strategy<Value = Op> {
    let client = || 0..3usize;
    let revision = prop::collection::vec((0..KEYS.len(), prop::bool::weighted(0.3)), 1..4);
    let padding = prop::sample::select(vec![0usize, 10, 10, 3_000, 40_000]);
    prop_oneof![
        6 => (prop::collection::vec(revision, 1..6), padding, prop::bool::weighted(0.15))
            .prop_map(|(revisions, padding, missed)| Op::Write { revisions, padding, missed }),
        4 => (client(), spec(), prop::sample::select(vec![0i64, 0, 0, 1, 7]), prop::option::of(0..40i64), any::<bool>())
            .prop_map(|(client, spec, id, back, notify)| Op::Create { client, spec, id, back, notify }),
        1 => (client(), 0..8i64).prop_map(|(client, id)| Op::Cancel { client, id }),
        1 => (0..20i64).prop_map(|back| Op::Compact { back }),
        6 => (client(), 1..20usize).prop_map(|(client, count)| Op::Pop { client, count }),
        6 => any::<bool>().prop_map(|hold| Op::Step { hold }),
        1 => client().prop_map(|client| Op::Progress { client }),
        1 => client().prop_map(|client| Op::Tick { client }),
        1 => client().prop_map(|client| Op::Reopen { client }),
    ]
}

/// Limits that a few events reach, or the defaults.
fn limits() -> impl Strategy<Value = Limits> {
    let few = || prop::sample::select(vec![1usize, 2, 3, 5, 10, 30, 512]);
    let bytes = || prop::sample::select(vec![1usize, 50, 300, 3_000, 64 << 10, 8 << 20]);
    let steps = (few(), few(), few(), few(), few(), few());
    let sizes = (bytes(), bytes(), bytes(), bytes(), bytes(), bytes());
    (any::<bool>(), steps, sizes).prop_map(|(are_shipped, steps, sizes)| {
        if are_shipped {
            return Limits { dispatch_cost: steps.0, ..Limits::default() };
        }
        Limits {
            dispatch_cost: steps.0,
            unblock: steps.1,
            ring_step_events: steps.2,
            batch_matches: steps.3,
            round_rows: steps.4,
            round_watchers: steps.5,
            stream_bytes: sizes.0,
            ring_bytes: sizes.1,
            undispatched_bytes: sizes.2,
            join_bytes: sizes.3,
            round_bytes: sizes.4,
            response_bytes: sizes.5,
        }
    })
}

proptest! {
    #[test]
    fn every_watcher_gets_all_of_its_events_in_order_and_once(
        ops in prop::collection::vec(op(), 1..120),
        limits in limits(),
    ) {
        let mut world = World::new(limits);
        for op in ops {
            world.run(op);
        }
        world.settle();
    }
}
