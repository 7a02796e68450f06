//! The newest events, for watchers that are slightly late.

use crate::{Event, History, HistoryError};
use bytes::Bytes;
use std::collections::VecDeque;

#[derive(Debug)]
pub(crate) struct Ring {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Holds all events from this main revision on.
    first: i64,
    /// The number of dropped events. Events are numbered including these, so numbers stay valid.
    dropped: usize,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) event: Event,
    /// The bytes with the previous version, made on first use.
    with_previous: Option<Bytes>,
}

impl Entry {
    fn new(event: Event) -> Self {
        Self { event, with_previous: None }
    }

    fn cost(&self) -> usize {
        let previous = self.with_previous.as_ref().map_or(0, Bytes::len);
        size_of::<Self>() + self.event.key.len() + self.event.bytes.len() + previous
    }
}

impl Ring {
    pub(crate) fn starting(first: i64) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, first, dropped: 0 }
    }

    pub(crate) fn first(&self) -> i64 {
        self.first
    }

    /// Appends events, which must follow those held.
    pub(crate) fn push(&mut self, events: Vec<Event>) {
        for event in events {
            let entry = Entry::new(event);
            self.bytes += entry.cost();
            self.entries.push_back(entry);
        }
    }

    /// Drops the oldest revisions while there are more than `bytes_max` bytes, but none after `up_to`.
    pub(crate) fn trim(&mut self, up_to: i64, bytes_max: usize) {
        while self.bytes > bytes_max
            && let Some(oldest) = self.entries.front().filter(|oldest| oldest.event.at.main <= up_to)
        {
            let main = oldest.event.at.main;
            while let Some(entry) = self.entries.pop_front_if(|entry| entry.event.at.main == main) {
                self.bytes -= entry.cost();
                self.dropped += 1;
            }
            self.first = main + 1;
        }
    }

    pub(crate) fn bytes_held(&self) -> usize {
        self.bytes
    }

    /// The number that the next event will get.
    pub(crate) fn end(&self) -> usize {
        self.dropped + self.entries.len()
    }

    pub(crate) fn event(&self, number: usize) -> &Event {
        &self.entries[number - self.dropped].event
    }

    /// The number of the first event at or after this main revision.
    pub(crate) fn position(&self, main: i64) -> usize {
        self.dropped + self.entries.partition_point(|entry| entry.event.at.main < main)
    }

    /// Whether [`Ring::bytes`] would read the history.
    pub(crate) fn lacks(&self, number: usize, previous: bool) -> bool {
        let entry = &self.entries[number - self.dropped];
        previous && entry.event.previous.is_some() && entry.with_previous.is_none()
    }

    /// The event's bytes, with the previous version if wanted, and not compacted since it was read.
    pub(crate) fn bytes(
        &mut self,
        number: usize,
        previous: bool,
        history: &dyn History,
    ) -> Result<Bytes, HistoryError> {
        let entry = &mut self.entries[number - self.dropped];
        if !previous || entry.event.previous.is_none() {
            return Ok(entry.event.bytes.clone());
        }
        if let Some(bytes) = &entry.with_previous {
            // As in etcd, the previous version is read at the revision before.
            let is_compacted = entry.event.at.main <= history.compact_revision();
            return Ok(if is_compacted { entry.event.bytes.clone() } else { bytes.clone() });
        }
        let bytes = history.with_previous(&entry.event)?;
        self.bytes += bytes.len();
        entry.with_previous = Some(bytes.clone());
        Ok(bytes)
    }
}
