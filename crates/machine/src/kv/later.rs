//! A read deferred to whoever sends the answer: see [`crate::Unread`].

use crate::Stop;
use mvcc::{Answer, Effort, Outline, Query, View};
use std::sync::Arc;

/// A deferred read of an entry.
#[derive(Clone, Debug)]
pub struct Later {
    /// The operation whose rows it reads, from 0 in order of execution; nested transactions are not counted.
    pub op: usize,
    view: Arc<View>,
    query: Query,
}

impl PartialEq for Later {
    fn eq(&self, other: &Self) -> bool {
        self.op == other.op && self.query == other.query && Arc::ptr_eq(&self.view, &other.view)
    }
}

impl Later {
    pub(crate) fn new(op: usize, view: Arc<View>, query: Query) -> Self {
        Self { op, view, query }
    }

    /// The view to read. If not whole ([`View::is_whole`]), later writes share its revision: no newer view serves.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Outlines the result: reads the first rows, up to the one that brings them to `first_bytes`.
    pub fn outline(&self, first_bytes: usize, effort: &Effort<'_>) -> Result<Outline, Stop> {
        Ok(self.view.bounded(effort).outline(&self.query, first_bytes)?)
    }

    pub(crate) fn read(&self, effort: &Effort<'_>) -> Result<Answer, Stop> {
        Ok(self.view.bounded(effort).range(&self.query)?)
    }
}
