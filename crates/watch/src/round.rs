//! A piece of history, read once for many watchers.

use crate::index::Index;
use crate::{Event, Gone, History, Spec};
use bytes::{Bytes, BytesMut};
use std::ops::ControlFlow;

/// Topics that are tried one by one; more of them get an index.
const LINEAR_MAX: usize = 8;

/// What to read: decided by the hub, read on any thread, and given back to it.
#[derive(Debug)]
pub struct Round {
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) participants: Vec<Participant>,
    pub(crate) wanted: Wanted,
    /// Rows that it looks at, and bytes of events that it finds.
    pub(crate) rows_max: usize,
    pub(crate) bytes_max: usize,
}

/// A watcher that takes part.
#[derive(Debug)]
pub(crate) struct Participant {
    pub(crate) watcher: usize,
    /// Tells it from a later watcher in the same place.
    pub(crate) serial: u64,
    /// Its topic's place in [`Wanted`].
    pub(crate) topic: usize,
}

impl Round {
    /// Reads a bounded piece.
    pub fn read(&self, history: &dyn History) -> Result<Chunk, Gone> {
        let mut collector = Collector::new(&self.wanted, self.rows_max, self.bytes_max);
        let mut failed = None;
        history.events(self.from, self.to, &mut |event| {
            let step = collector.take(&event, &mut |previous| {
                if previous { history.with_previous(&event) } else { Ok(event.bytes.clone()) }
            });
            step.unwrap_or_else(|gone| {
                failed = Some(gone);
                ControlFlow::Break(())
            })
        })?;
        match failed {
            Some(gone) => Err(gone),
            None => Ok(collector.finish(self.to)),
        }
    }
}

/// Which topics take part, and which of them an event concerns.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    specs: Vec<Spec>,
    index: Option<Index>,
}

impl Wanted {
    pub(crate) fn new(specs: Vec<Spec>) -> Self {
        let index = (specs.len() > LINEAR_MAX).then(|| {
            let mut index = Index::default();
            specs.iter().enumerate().for_each(|(at, spec)| index.insert(&spec.range, at));
            index
        });
        Self { specs, index }
    }

    fn concerned(&self, event: &Event, into: &mut Vec<usize>) {
        into.clear();
        match &self.index {
            Some(index) => index.visit(&event.key, &mut |at| into.push(at)),
            None => into.extend(
                self.specs.iter().enumerate().filter(|(_, s)| s.range.contains(&event.key)).map(|(at, _)| at),
            ),
        }
        into.retain(|at| self.specs[*at].wants(event));
    }
}

/// What a round found: all events of its topics up to a revision.
#[derive(Debug)]
pub struct Chunk {
    /// The last main revision looked at.
    pub(crate) end: i64,
    pub(crate) found: Vec<Found>,
}

/// The events of one topic, ascending.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) events: Vec<(i64, Bytes)>,
}

impl Found {
    /// The bytes of all events from a main revision on, and how many they are.
    pub(crate) fn joined(&self, from: i64) -> (Bytes, usize) {
        let begin = self.events.partition_point(|(main, _)| *main < from);
        (join(&self.events[begin..]), self.events.len() - begin)
    }
}

/// The bytes of events, one after the other; of one event shared, not copied.
pub(crate) fn join(events: &[(i64, Bytes)]) -> Bytes {
    match events {
        [] => Bytes::new(),
        [(_, one)] => one.clone(),
        many => {
            let mut all = BytesMut::with_capacity(many.iter().map(|(_, bytes)| bytes.len()).sum());
            for (_, bytes) in many {
                all.extend_from_slice(bytes);
            }
            all.freeze()
        }
    }
}

/// Gathers what topics want of a sequence of events, and ends it between two revisions.
pub(crate) struct Collector<'w> {
    wanted: &'w Wanted,
    found: Vec<Found>,
    concerned: Vec<usize>,
    rows_left: usize,
    bytes: usize,
    bytes_max: usize,
    last: i64,
    stopped: bool,
}

impl<'w> Collector<'w> {
    pub(crate) fn new(wanted: &'w Wanted, rows_max: usize, bytes_max: usize) -> Self {
        let found = wanted.specs.iter().map(|_| Found::default()).collect();
        Self {
            wanted,
            found,
            concerned: Vec::new(),
            rows_left: rows_max,
            bytes: 0,
            bytes_max,
            last: 0,
            stopped: false,
        }
    }

    /// Takes the next event; breaks before one that is too many. `bytes` gives it with or without the version before.
    pub(crate) fn take(
        &mut self,
        event: &Event,
        bytes: &mut dyn FnMut(bool) -> Result<Bytes, Gone>,
    ) -> Result<ControlFlow<()>, Gone> {
        let main = event.at.main;
        if main != self.last && self.last != 0 && (self.rows_left == 0 || self.bytes >= self.bytes_max) {
            self.stopped = true;
            return Ok(ControlFlow::Break(()));
        }
        self.last = main;
        self.rows_left = self.rows_left.saturating_sub(1);
        self.wanted.concerned(event, &mut self.concerned);
        for at in &self.concerned {
            let bytes = bytes(self.wanted.specs[*at].previous && event.previous.is_some())?;
            self.bytes += bytes.len();
            self.found[*at].events.push((main, bytes));
        }
        Ok(ControlFlow::Continue(()))
    }

    /// It cost as much as some more rows.
    pub(crate) fn spend(&mut self, rows: usize) {
        self.rows_left = self.rows_left.saturating_sub(rows);
    }

    /// What was found; `to` is where the sequence ended by itself.
    pub(crate) fn finish(self, to: i64) -> Chunk {
        Chunk { end: if self.stopped { self.last } else { to }, found: self.found }
    }
}
