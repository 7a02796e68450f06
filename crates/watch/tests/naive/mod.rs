//! A history that is a plain list, for the tests. Its events read as text: `key=value@revision`, a deletion
//! `-key@revision`, and with the previous version, `(its revision)` after it. A space ends an event. `6.2` is the
//! third change of revision 6.

use bytes::Bytes;
use std::ops::ControlFlow;
use types::Revision;
use watch::{Event, History, HistoryError};

/// A key and its new value; without a value it is deleted.
pub(crate) type Change = (String, Option<String>);

pub(crate) struct Naive {
    pub(crate) events: Vec<Event>,
    pub(crate) revision: i64,
    pub(crate) compacted: i64,
    pub(crate) is_broken: bool,
}

impl Naive {
    pub(crate) fn new() -> Self {
        Self { events: Vec::new(), revision: 1, compacted: -1, is_broken: false }
    }

    pub(crate) fn write(&mut self, changes: &[Change]) -> Vec<Event> {
        self.revision += 1;
        let known = self.events.len();
        for (sub, (key, value)) in changes.iter().enumerate() {
            let at = Revision::new(self.revision, sub as i64);
            let last = self.events.iter().rfind(|event| event.key == key.as_bytes());
            let text = match value {
                Some(value) => format!("{key}={value}@{} ", shown(at)),
                None => format!("-{key}@{} ", shown(at)),
            };
            self.events.push(Event {
                at,
                delete: value.is_none(),
                previous: last.filter(|event| !event.delete).map(|event| event.at),
                key: key.clone().into(),
                bytes: text.into(),
            });
        }
        self.events[known..].to_vec()
    }
}

impl History for Naive {
    fn compact_revision(&self) -> i64 {
        self.compacted
    }

    fn events(
        &self,
        from: i64,
        to: i64,
        visit: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<(), HistoryError> {
        if self.is_broken {
            return Err(HistoryError::Failed("the disk is gone".to_owned()));
        }
        if from < self.compacted {
            return Err(HistoryError::Compacted);
        }
        let wanted = self.events.iter().filter(|event| (from..=to).contains(&event.at.main));
        let _ = wanted.cloned().try_for_each(visit);
        Ok(())
    }

    fn with_previous(&self, event: &Event) -> Result<Bytes, HistoryError> {
        // As in etcd, which reads at the revision before: if that is compacted, nothing is shown.
        let previous = event.previous.filter(|_| event.at.main > self.compacted);
        let text = String::from_utf8_lossy(&event.bytes);
        Ok(previous.map_or(event.bytes.clone(), |at| format!("{}({}) ", text.trim_end(), shown(at)).into()))
    }
}

/// `main.sub`, or just `main` for the first change of a revision.
pub(crate) fn shown(at: Revision) -> String {
    if at.sub == 0 { at.main.to_string() } else { format!("{}.{}", at.main, at.sub) }
}
