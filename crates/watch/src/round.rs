//! A round: a piece of history, read once for many watchers.

use crate::index::Index;
use crate::{Event, History, HistoryError, Spec};
use bytes::{Bytes, BytesMut};
use std::ops::ControlFlow;

/// Up to this many topics are tried one by one; more get an index.
const LINEAR_MAX: usize = 8;

/// What to read: chosen by the hub, read on any thread, returned to the hub.
#[derive(Debug)]
pub struct Round {
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) participants: Vec<Participant>,
    pub(crate) wanted: Wanted,
    /// The maximum of rows examined, and of bytes of events found.
    pub(crate) rows_max: usize,
    pub(crate) bytes_max: usize,
}

#[derive(Debug)]
pub(crate) struct Participant {
    pub(crate) watcher: usize,
    /// Distinguishes it from a later watcher in the same slot.
    pub(crate) serial: u64,
    pub(crate) topic: usize,
}

impl Round {
    /// Reads this bounded piece of the history.
    pub fn read(&self, history: &dyn History) -> Result<Chunk, HistoryError> {
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

/// The topics of a round, with a way to find those of an event.
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

/// The result of a round: all events of its topics up to a revision.
#[derive(Debug)]
pub struct Chunk {
    pub(crate) end: i64,
    pub(crate) found: Vec<Found>,
}

#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) events: Vec<(i64, Bytes)>,
}

impl Found {
    /// The concatenated events from a main revision on, and their number.
    pub(crate) fn joined(&self, from: i64) -> (Bytes, usize) {
        let begin = self.events.partition_point(|(main, _)| *main < from);
        (join(&self.events[begin..]), self.events.len() - begin)
    }
}

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

/// Collects the topics' events from a sequence, and ends between two revisions.
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

    /// Takes the next event; breaks before the first beyond a limit. `bytes`: with the previous version or without.
    pub(crate) fn take(
        &mut self,
        event: &Event,
        bytes: &mut dyn FnMut(bool) -> Result<Bytes, HistoryError>,
    ) -> Result<ControlFlow<()>, HistoryError> {
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

    pub(crate) fn spend(&mut self, rows: usize) {
        self.rows_left = self.rows_left.saturating_sub(rows);
    }

    /// What was collected; `to` is the end of the sequence if no limit ended it.
    pub(crate) fn finish(self, to: i64) -> Chunk {
        Chunk { end: if self.stopped { self.last } else { to }, found: self.found }
    }
}
