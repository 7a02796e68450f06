//! Watchers: each with a cursor that outlives the members, checked against the model's changes.
//!
//! A member's hub is the real one, fed from the real tap, late at times, with rounds that are read and given back later. A
//! watcher is told by one member until it goes away or the member crashes; then it comes back, to any member, with the
//! revision after the last that it was told of, which that member may not have reached yet.
//!
//! The six promises: ordered, unique, reliable and atomic, as what it is told must be exactly the model's next changes,
//! whole revisions at a time; resumable, as that holds over members and crashes; bookmarkable, as nothing at or before a
//! revision that was promised may come.

use crate::cluster::{Cluster, Event};
use crate::model::{Change, Model};
use crate::mutation::Mutation;
use crate::oracle::Violation;
use crate::rng::Rng;
use crate::trace::trace;
use crate::{Micros, member::Life};
use bytes::Bytes;
use machine::{
    Shared,
    history::{self, History, Taken},
};
use prost::Message as _;
use proto::{etcdserverpb::WatchResponse, mvccpb};
use std::sync::Arc;
use types::{KeyRange, RangeEnd};
use watch::{Chunk, Create, Gone, Hub, Response, Round, Spec, Step, StreamKey};

/// Watchers of a run.
const WATCHERS: usize = 4;
/// Between two looks of a watcher, in microseconds of virtual time, at most.
const LOOK: Micros = 200_000;
/// Steps in which everybody must have been told everything at the end: far more than any history needs.
const STEPS_MAX: usize = 100_000;

/// A member's watchers, as its server has them.
pub(crate) struct Watching {
    pub(crate) hub: Hub,
    shared: Arc<Shared>,
    /// Of its own: what watchers do must not change what the others draw.
    rng: Rng,
    held: Option<(Round, Result<Chunk, Gone>)>,
}

impl Watching {
    pub(crate) fn new(shared: Arc<Shared>, seed: u64) -> Self {
        shared.tap().open();
        let mut rng = Rng::new(seed);
        // Mostly in smaller steps than a server's, so that more comes between.
        let limits = watch::Limits { tell_cost: *rng.pick(&[2, 5, 20, 512]), ..watch::Limits::default() };
        let hub = Hub::within(shared.view().revision(), limits);
        Self { hub, shared, rng, held: None }
    }

    /// A group was applied: its events are published now, or with later ones.
    pub(crate) fn applied(&mut self) {
        if !self.rng.one_in(3) {
            self.publish();
        }
        self.step();
    }

    fn publish(&mut self) {
        let Taken { dropped, written } = self.shared.tap().take();
        if let Some(last) = dropped {
            self.hub.skip(last);
        }
        for written in written {
            if written.last() <= self.hub.revision() {
                continue;
            }
            match history::events(&written) {
                Ok(events) if !self.rng.one_in(10) => self.hub.publish(events, written.last()),
                // As when there are too many of them.
                _ => self.hub.skip(written.last()),
            }
        }
    }

    /// A piece of catching up; whether there may be more.
    fn step(&mut self) -> bool {
        if self.held.is_some() && !self.rng.one_in(4) {
            let (round, result) = self.held.take().expect("there is one");
            self.hub.finish(&round, result);
            return true;
        }
        let history = History::new(self.shared.view());
        match self.hub.step(&history) {
            Step::Again => true,
            Step::Idle => self.held.is_some(),
            Step::Read(round) => {
                let result = round.read(&history);
                self.held = Some((round, result));
                true
            }
        }
    }
}

/// The watchers of a run.
pub(crate) struct Watchers {
    all: Vec<Watcher>,
    rng: Rng,
}

struct Watcher {
    spec: Spec,
    /// The first revision that it may still be told of.
    next: i64,
    /// Nothing up to here may come any more.
    promised: i64,
    /// The member, which of its lives, and the stream.
    at: Option<(u64, u64, StreamKey)>,
    events: u64,
}

impl Watchers {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x007a_7c4e);
        let all = (0..WATCHERS).map(|number| {
            let end =
                if number % 2 == 0 { RangeEnd::Open } else { RangeEnd::Before(b"k3".as_slice().into()) };
            let range = KeyRange { start: Bytes::from_static(b"\0"), end };
            let (puts, deletes) = *rng.pick(&[(true, true), (true, true), (true, false), (false, true)]);
            let spec = Spec { range, puts, deletes, previous: rng.one_in(2) };
            Watcher { spec, next: 2, promised: 1, at: None, events: 0 }
        });
        Self { all: all.collect(), rng: rng.clone() }
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn events(&self) -> u64 {
        self.all.iter().map(|watcher| watcher.events).sum()
    }
}

impl Watcher {
    fn wants(&self, change: &Change) -> bool {
        self.spec.range.contains(&change.kv.key)
            && if change.delete { self.spec.deletes } else { self.spec.puts }
    }

    /// What it has not been told of up to a revision, and whether it must be.
    fn open<'m>(&self, model: &'m Model, up_to: i64) -> Vec<(&'m Change, bool)> {
        let open = model.changes_from(self.next);
        open.take_while(|(change, _)| change.kv.mod_revision <= up_to)
            .filter(|(change, _)| self.wants(change))
            .collect()
    }

    /// The first of what it must still be told of.
    fn missing<'m>(&self, model: &'m Model, up_to: i64) -> Option<&'m Change> {
        self.open(model, up_to).into_iter().find(|(_, must)| *must).map(|(change, _)| change)
    }

    fn take(&mut self, response: &Response, model: &Model) -> Result<(), Violation> {
        match response {
            Response::Created { .. } => {}
            Response::Progress { revision, .. } => self.promise(*revision, model)?,
            Response::Events { revision, events, .. } => {
                self.told(events, model)?;
                self.promise(*revision, model)?;
            }
            Response::Compacted { compact_revision, .. } => {
                if self.next.max(self.promised + 1) >= *compact_revision
                    || *compact_revision > model.compact()
                {
                    let needed = (self.next, self.promised);
                    return Err(format!(
                        "a watcher ends as compacted at {compact_revision}, it is at {needed:?}"
                    ));
                }
                self.next = *compact_revision;
                self.at = None;
            }
            other => return Err(format!("a watcher is told {other:?}")),
        }
        Ok(())
    }

    fn told(&mut self, events: &Bytes, model: &Model) -> Result<(), Violation> {
        let response = WatchResponse::decode(events.clone()).map_err(|error| error.to_string())?;
        let got: Vec<Change> = response.events.iter().map(change).collect();
        let last = got.last().map_or(0, |change| change.kv.mod_revision);
        let first = got.first().map_or(0, |change| change.kv.mod_revision);
        if first <= self.promised {
            return Err(format!("a watcher is told of revision {first}, {} was promised", self.promised));
        }
        let open = self.open(model, last);
        let mut left = got.iter().peekable();
        let holds = open.iter().all(|(change, must)| left.next_if(|got| got == change).is_some() || !must);
        if !holds || left.next().is_some() {
            return Err(format!("a watcher at {} is told {got:?}, there is {open:?}", self.next));
        }
        for (event, change) in response.events.iter().zip(&got) {
            // To etcd a put is a creation where the key was not there, also if the same transaction had just deleted it.
            let creates = change.kv.create_revision == change.kv.mod_revision;
            let before = model.before(change).filter(|_| self.spec.previous && !creates);
            // What was before may be compacted by now.
            let may_lack = change.kv.mod_revision - 1 < model.compact();
            if event.prev_kv.as_ref() != before && !(may_lack && event.prev_kv.is_none()) {
                return Err(format!("a watcher is told {event:?}, before was {before:?}"));
            }
        }
        self.next = last + 1;
        self.events += got.len() as u64;
        Ok(())
    }

    fn promise(&mut self, revision: i64, model: &Model) -> Result<(), Violation> {
        if let Some(missing) = self.missing(model, revision) {
            return Err(format!("{revision} was promised to a watcher that was not told {missing:?}"));
        }
        self.promised = self.promised.max(revision);
        // It comes back behind what it was promised.
        self.next = self.next.max(revision + 1);
        Ok(())
    }
}

fn change(event: &mvccpb::Event) -> Change {
    let delete = event.r#type == mvccpb::event::EventType::Delete as i32;
    Change { delete, kv: event.kv.clone().unwrap_or_default() }
}

impl Cluster {
    /// A watcher looks what it was told, or comes back to somebody.
    pub(crate) fn watch(&mut self, number: usize) -> Result<(), Violation> {
        let pause = self.watchers.rng.between(1, LOOK);
        if self.chaos {
            self.schedule(self.now + pause, Event::Watch(number));
        }
        if self.stream(number).is_none() {
            let ids: Vec<u64> = self.members.keys().copied().collect();
            let member = *self.watchers.rng.pick(&ids);
            self.attach(number, member);
            return Ok(());
        }
        let count = self.watchers.rng.between(0, 20);
        self.look(number, count)?;
        if self.watchers.rng.one_in(15) {
            self.detach(number);
        }
        Ok(())
    }

    /// The stream of a watcher and its member, if it is still the one that it came to.
    fn stream(&mut self, number: usize) -> Option<(&mut Life, StreamKey)> {
        let (member, lives, key) = self.watchers.all[number].at?;
        let member = self.members.get_mut(&member)?;
        let life = member.life.as_mut().filter(|_| member.lives == lives);
        life.map(|life| (life, key))
    }

    fn attach(&mut self, number: usize, id: u64) {
        let late = i64::from(self.rules.mutation == Some(Mutation::ResumeTooLate));
        let watcher = &self.watchers.all[number];
        let (spec, start) = (watcher.spec.clone(), watcher.next + late * i64::from(watcher.events > 0));
        let member = self.members.get_mut(&id).expect("members are known from the start");
        let Some(life) = member.life.as_mut() else { return };
        life.watching.publish();
        let compacted = life.machine.shared().view().compact_revision();
        let hub = &mut life.watching.hub;
        let key = hub.open();
        hub.create(key, Create { id: 0, spec, start, fragment: false, notify: true }, compacted);
        trace!(self.trace, "watcher {number} comes to member {id} for {start}");
        self.watchers.all[number].at = Some((id, member.lives, key));
    }

    fn detach(&mut self, number: usize) {
        if let Some((life, key)) = self.stream(number) {
            life.watching.hub.close(key);
        }
        self.watchers.all[number].at = None;
    }

    /// Takes some of what a watcher was told.
    fn look(&mut self, number: usize, count: u64) -> Result<(), Violation> {
        let asks = self.watchers.rng.below(8);
        let too_early = self.rules.mutation == Some(Mutation::PromiseTooEarly);
        let Some((life, key)) = self.stream(number) else { return Ok(()) };
        let watching = &mut life.watching;
        watching.publish();
        watching.step();
        match asks {
            0 => watching.hub.request_progress(key),
            1 => watching.hub.tick(key),
            _ => {}
        }
        let mut told: Vec<Response> = (0..count).map_while(|_| watching.hub.pop(key)).collect();
        if too_early && asks == 0 {
            told.insert(0, Response::Progress { id: None, revision: watching.hub.revision() });
        }
        let watcher = &mut self.watchers.all[number];
        for response in &told {
            watcher.take(response, self.oracle.model())?;
        }
        if !told.is_empty() {
            trace!(self.trace, "watcher {number} takes {}: up to {}", told.len(), watcher.next - 1);
        }
        Ok(())
    }

    /// In peace every watcher must be told of everything, by whomever.
    pub(crate) fn watch_to_the_end(&mut self) -> Result<(), Violation> {
        let newest = self.oracle.model().revision();
        let membership = self.membership().ok_or("nobody is there at the end")?;
        let current: Vec<u64> =
            self.members.keys().copied().filter(|id| membership.members.contains_key(id)).collect();
        for number in 0..self.watchers.len() {
            // Who was removed without knowing it has no news.
            if self.watchers.all[number].at.is_some_and(|(member, ..)| !current.contains(&member)) {
                self.detach(number);
            }
        }
        for number in 0..self.watchers.len() {
            for _ in 0..STEPS_MAX {
                if self.stream(number).is_none() {
                    let member = *self.watchers.rng.pick(&current);
                    self.attach(number, member);
                }
                self.look(number, 100)?;
                if self.watchers.all[number].missing(self.oracle.model(), newest).is_none() {
                    break;
                }
            }
            let watcher = &self.watchers.all[number];
            if let Some(missing) = watcher.missing(self.oracle.model(), newest) {
                return Err(format!("watcher {number} at {:?} is never told of {missing:?}", watcher.next));
            }
        }
        Ok(())
    }
}
