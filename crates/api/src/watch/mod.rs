//! `etcdserverpb.Watch`: connects the hub of crate `watch` to clients and to the state machine.
//!
//! ```text
//! client ─▶ requests: create, cancel, progress ─▶ ┌────── Watches ──────┐ ─▶ feed: responses of a stream, in frames
//! node's applied index ─▶ follow ─ feed, View ──▶ │ Hub, under one lock │
//! a blocking thread ─ a round's events ─────────▶ └─────────────────────┘
//! ```
//!
//! Only the rounds run on other threads, and the runtime's thread hands over their results: nothing waits for the lock.

mod feed;
mod local;
mod requests;
mod wire;

pub(crate) use local::Local;
pub(crate) use requests::start;

use crate::state::Api;
use ::watch::{Chunk, HistoryError, Round, Step};
use machine::history::History;
use std::sync::Arc;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

/// Publishes applied events and catches up unsynced watchers. One task for a member; ends with the node.
pub(crate) async fn follow(api: Arc<Api>) {
    let mut applied = api.node.watch_applied();
    let mut ended = api.node.watch_ended();
    let (mut reading, mut more) = (Reading::default(), false);
    loop {
        let following = api.watches.lock().following;
        tokio::select! {
            biased;
            _ = ended.wait_for(|ended| *ended) => return,
            (round, result) = reading.done() => api.watches.lock().hub.finish(&round, result),
            () = tokio::task::yield_now(), if more => {}
            changed = applied.changed(), if following && !more => if changed.is_err() { return },
            () = api.watches.work.notified(), if !more => {}
        }
        more = turn(&api, &mut reading);
    }
}

#[derive(Default)]
struct Reading(Option<Read>);

struct Read {
    round: Arc<Round>,
    result: JoinHandle<Result<Chunk, HistoryError>>,
}

impl Reading {
    fn begin(&mut self, round: Round, history: History) {
        let round = Arc::new(round);
        let own = Arc::clone(&round);
        // The closure owns the View, which compaction waits for, and drops it when done.
        self.0 = Some(Read { round, result: spawn_blocking(move || own.read(&history)) });
    }

    /// The round and its result; pending if there is no round. Cancel-safe.
    async fn done(&mut self) -> (Arc<Round>, Result<Chunk, HistoryError>) {
        let Some(read) = &mut self.0 else { return std::future::pending().await };
        let result = (&mut read.result).await;
        let round = Arc::clone(&read.round);
        self.0 = None;
        // Fails the watchers of this round; others continue.
        let failed =
            |error: JoinError| Err(HistoryError::Failed(format!("reading the history failed: {error}")));
        (round, result.unwrap_or_else(failed))
    }
}

/// A bounded amount of work; returns whether there may be more.
fn turn(api: &Arc<Api>, reading: &mut Reading) -> bool {
    let mut inner = api.watches.lock();
    // Deliver earlier events first, so that unsynced watchers make progress under any load.
    if !inner.hub.is_dispatching() {
        inner.refresh(&api.shared);
    }
    let history = inner.history(&api.shared);
    let mut more = true;
    for _ in 0..inner.limits.turn_steps.max(1) {
        match inner.hub.step(&history) {
            Step::Again => {}
            Step::Idle => {
                more = false;
                break;
            }
            Step::Read(round) => reading.begin(round, history.clone()),
        }
    }
    inner.keep(&api.shared);
    inner.wake();
    more
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::watch::{Create, Event, Hub, Spec};
    use std::ops::ControlFlow;
    use types::KeyRange;

    struct Nothing;

    impl ::watch::History for Nothing {
        fn compact_revision(&self) -> i64 {
            -1
        }

        fn events(
            &self,
            _: i64,
            _: i64,
            _: &mut dyn FnMut(Event) -> ControlFlow<()>,
        ) -> Result<(), HistoryError> {
            Ok(())
        }

        fn with_previous(&self, event: &Event) -> Result<bytes::Bytes, HistoryError> {
            Ok(event.bytes.clone())
        }
    }

    #[tokio::test]
    async fn a_round_that_panics_ends_those_who_waited_for_it_and_the_next_one_is_read() {
        let mut hub = Hub::new(5);
        let key = hub.open();
        let spec = Spec { range: KeyRange::all(), puts: true, deletes: true, previous: false };
        let create = Create { id: 0, spec, start: 2, fragment: false, notify: false };
        hub.create(key, create.clone(), -1);
        let Step::Read(round) = hub.step(&Nothing) else { panic!("there is history to be read") };
        let result = spawn_blocking(|| panic!("as a defect of the store would"));
        let mut reading = Reading(Some(Read { round: Arc::new(round), result }));
        let (round, result) = reading.done().await;
        assert!(
            matches!(&result, Err(HistoryError::Failed(reason)) if reason.contains("panicked")),
            "{result:?}"
        );
        hub.finish(&round, result);
        assert!(matches!(hub.pop(key), Some(::watch::Response::Created { .. })));
        assert!(matches!(hub.pop(key), Some(::watch::Response::Failed { .. })));
        let key = hub.open();
        hub.create(key, create, -1);
        assert!(matches!(hub.step(&Nothing), Step::Read(_)), "others are caught up");
    }
}
