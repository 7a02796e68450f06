//! The newest events, for watchers that are a little late.

use crate::{Event, Gone, History};
use bytes::Bytes;
use std::collections::VecDeque;

/// Events in the order of their revisions, without gaps.
#[derive(Debug)]
pub(crate) struct Ring {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// All events from this main revision on are here.
    first: i64,
    /// Events that were dropped. With them events have numbers, which stay when older ones are dropped.
    dropped: usize,
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
        Self { entries: VecDeque::new(), bytes: 0, first, dropped: 0 }
    }

    /// All events from this main revision on are here.
    pub(crate) fn first(&self) -> i64 {
        self.first
    }

    /// Appends events.
    pub(crate) fn push(&mut self, events: Vec<Event>) {
        for event in events {
            let entry = Entry::new(event);
            self.bytes += entry.cost();
            self.entries.push_back(entry);
        }
    }

    /// Drops the oldest revisions, up to one that is not needed any more, while there are more than so many bytes.
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

    /// What it holds, in bytes.
    pub(crate) fn bytes_held(&self) -> usize {
        self.bytes
    }

    /// The number of the event that comes next.
    pub(crate) fn end(&self) -> usize {
        self.dropped + self.entries.len()
    }

    pub(crate) fn event(&self, number: usize) -> &Event {
        &self.entries[number - self.dropped].event
    }

    /// The number of the first event of this main revision or a later one.
    pub(crate) fn position(&self, main: i64) -> usize {
        self.dropped + self.entries.partition_point(|entry| entry.event.at.main < main)
    }

    /// Whether [`Ring::bytes`] would read the history.
    pub(crate) fn lacks(&self, number: usize, previous: bool) -> bool {
        let entry = &self.entries[number - self.dropped];
        previous && entry.event.previous.is_some() && entry.with_previous.is_none()
    }

    /// The event's bytes, with the version before where it is wanted.
    pub(crate) fn bytes(
        &mut self,
        number: usize,
        previous: bool,
        history: &dyn History,
    ) -> Result<Bytes, Gone> {
        let entry = &mut self.entries[number - self.dropped];
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
