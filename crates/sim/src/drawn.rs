//! Counts what the generators drew: a load that never occurs proves nothing.

use std::cell::RefCell;
use std::collections::BTreeMap;

/// How often each thing was drawn.
pub type Drawn = BTreeMap<&'static str, u64>;

std::thread_local! {
    static DRAWN: RefCell<Drawn> = const { RefCell::new(Drawn::new()) };
}

/// Counts one, for the run of this thread.
pub(crate) fn count_draw(what: &'static str) {
    DRAWN.with_borrow_mut(|drawn| *drawn.entry(what).or_default() += 1);
}

pub(crate) fn take() -> Drawn {
    DRAWN.take()
}
