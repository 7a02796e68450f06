//! Watchers: each has a cursor that outlives members, and is checked against the model's changes.
//!
//! A watcher stays with one member until it leaves or the member crashes; then it resumes at any member, after the
//! last revision it saw, which that member may not have reached yet.
//!
//! The six guarantees: ordered, unique, reliable and atomic, because its events must be exactly the model's next
//! changes, whole revisions at a time; resumable, because that holds across members and crashes; bookmarkable,
//! because nothing may come at or before an announced progress.

use super::{Cluster, Event};
use crate::drawn::count_draw;
use crate::member::Life;
use crate::model::{Change, Model};
use crate::rng::Rng;
use crate::trace::trace;
use crate::{Micros, Violation};
use bytes::Bytes;
use prost::Message as _;
use proto::{etcdserverpb::WatchResponse, mvccpb};
use types::mutant::{Mutant, is};
use types::{KeyRange, RangeEnd};
use watch::{Create, Response, Spec, StreamKey};

/// The number of watchers in a run, mostly few.
const WATCHERS: [usize; 4] = [4, 4, 4, 40];
/// Upper bound of the time between a watcher's reads, microseconds of virtual time.
const LOOK: Micros = 200_000;
/// Steps at the end within which every watcher must have everything: far more than any history needs.
const STEPS_MAX: usize = 100_000;

pub(crate) struct Watchers {
    all: Vec<Watcher>,
    rng: Rng,
}

struct Watcher {
    spec: Spec,
    /// The first revision that may still come.
    next: i64,
    /// Nothing up to this revision may come any more.
    promised: i64,
    /// The member, its life, and the stream.
    at: Option<(u64, u64, StreamKey)>,
    events: u64,
}

impl Watchers {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x007a_7c4e);
        let count = *rng.pick(&WATCHERS);
        if count > WATCHERS[0] {
            count_draw("many watchers");
        }
        let all = (0..count).map(|number| {
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

    /// The changes it has not seen up to a revision, and whether each must come.
    fn open<'m>(&self, model: &'m Model, up_to: i64) -> Vec<(&'m Change, bool)> {
        let open = model.changes_from(self.next);
        open.take_while(|(change, _)| change.kv.mod_revision <= up_to)
            .filter(|(change, _)| self.wants(change))
            .collect()
    }

    /// The first change that must still come.
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
            // To etcd a put is a creation if the key did not exist, even if the same transaction had just deleted it.
            let creates = change.kv.create_revision == change.kv.mod_revision;
            let before = model.before(change).filter(|_| self.spec.previous && !creates);
            // The previous version may be compacted by now.
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
        // It resumes after the announced progress.
        self.next = self.next.max(revision + 1);
        Ok(())
    }
}

fn change(event: &mvccpb::Event) -> Change {
    let delete = event.r#type == mvccpb::event::EventType::Delete as i32;
    Change { delete, kv: event.kv.clone().unwrap_or_default() }
}

impl Cluster {
    /// Reads a watcher's responses, or resumes it at some member.
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

    /// A watcher's member and stream, if it is still the member's same life.
    fn stream(&mut self, number: usize) -> Option<(&mut Life, StreamKey)> {
        let (member, lives, key) = self.watchers.all[number].at?;
        let member = self.members.get_mut(&member)?;
        let life = member.life.as_mut().filter(|_| member.lives == lives);
        life.map(|life| (life, key))
    }

    fn attach(&mut self, number: usize, id: u64) {
        let late = i64::from(is(Mutant::ResumeTooLate));
        let watcher = &self.watchers.all[number];
        let (spec, start) = (watcher.spec.clone(), watcher.next + late * i64::from(watcher.events > 0));
        let member = self.members.get_mut(&id).expect("members are known from the start");
        let Some(life) = member.life.as_mut() else { return };
        life.own.watching.publish();
        let compacted = life.shared().view().compact_revision();
        let hub = &mut life.own.watching.hub;
        let key = hub.open();
        hub.create(key, Create { id: 0, spec, start, fragment: false, notify: true }, compacted);
        trace!(self.trace, "watcher {number} comes to member {id} for {start}");
        self.watchers.all[number].at = Some((id, member.lives, key));
    }

    fn detach(&mut self, number: usize) {
        if let Some((life, key)) = self.stream(number) {
            life.own.watching.hub.close(key);
        }
        self.watchers.all[number].at = None;
    }

    /// Reads some of a watcher's responses.
    fn look(&mut self, number: usize, count: u64) -> Result<(), Violation> {
        let asks = self.watchers.rng.below(8);
        let too_early = is(Mutant::PromiseTooEarly);
        let Some((life, key)) = self.stream(number) else { return Ok(()) };
        let watching = &mut life.own.watching;
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

    /// After healing, every watcher must receive everything, from any member.
    pub(crate) fn drain_watchers(&mut self) -> Result<(), Violation> {
        let newest = self.oracle.model().revision();
        let membership = self.membership().ok_or("nobody is there at the end")?;
        let current: Vec<u64> =
            self.members.keys().copied().filter(|id| membership.members.contains_key(id)).collect();
        for number in 0..self.watchers.len() {
            // A removed member that does not know it receives nothing new.
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
