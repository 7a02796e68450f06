//! The newest events, for watchers that are a little late.

use crate::{Event, Gone, History, RING_BYTES_MAX};
use bytes::Bytes;
use std::collections::VecDeque;

/// Events in the order of their revisions, without gaps.
#[derive(Debug)]
pub(crate) struct Ring {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// All events from this main revision on are here.
    first: i64,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) event: Event,
    /// The bytes with the version before: made once, for whoever asks first.
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
    /// An empty ring, whose first event will be of this main revision or later.
    pub(crate) fn starting(first: i64) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, first }
    }

    /// All events from this main revision on are here.
    pub(crate) fn first(&self) -> i64 {
        self.first
    }

    /// Appends events; says where they begin, as [`Ring::event`] counts.
    pub(crate) fn push(&mut self, events: Vec<Event>) -> usize {
        let begin = self.entries.len();
        for event in events {
            let entry = Entry::new(event);
            self.bytes += entry.cost();
            self.entries.push_back(entry);
        }
        begin
    }

    /// Drops the oldest revisions while there is too much.
    pub(crate) fn trim(&mut self) {
        while self.bytes > RING_BYTES_MAX
            && let Some(oldest) = self.entries.front()
        {
            let main = oldest.event.at.main;
            while let Some(entry) = self.entries.pop_front_if(|entry| entry.event.at.main == main) {
                self.bytes -= entry.cost();
            }
            self.first = main + 1;
        }
    }

    #[cfg(test)]
    pub(crate) fn bytes_held(&self) -> usize {
        self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn event(&self, at: usize) -> &Event {
        &self.entries[at].event
    }

    /// Where the first event of this main revision or a later one is.
    pub(crate) fn position(&self, main: i64) -> usize {
        self.entries.partition_point(|entry| entry.event.at.main < main)
    }

    /// The event's bytes, with the version before where it is wanted.
    pub(crate) fn bytes(&mut self, at: usize, previous: bool, history: &dyn History) -> Result<Bytes, Gone> {
        let entry = &mut self.entries[at];
        if !previous || entry.event.previous.is_none() {
            return Ok(entry.event.bytes.clone());
        }
        if let Some(bytes) = &entry.with_previous {
            return Ok(bytes.clone());
        }
        let bytes = history.with_previous(&entry.event)?;
        self.bytes += bytes.len();
        entry.with_previous = Some(bytes.clone());
        Ok(bytes)
    }
}
