//! A member's side of watching: the real hub, fed by the real change feed, sometimes late, with rounds that are read
//! and returned later.

use crate::rng::Rng;
use machine::{
    Shared,
    history::{self, Changes, History},
};
use std::sync::Arc;
use watch::{Chunk, HistoryError, Hub, Round, Step};

pub(crate) struct Watching {
    pub(crate) hub: Hub,
    shared: Arc<Shared>,
    /// Its own generator: watchers must not change what the others draw.
    rng: Rng,
    held: Option<(Round, Result<Chunk, HistoryError>)>,
}

impl Watching {
    pub(crate) fn new(shared: Arc<Shared>, seed: u64) -> Self {
        shared.change_feed().open();
        let mut rng = Rng::new(seed);
        // Mostly smaller steps than a server's, so that more happens between them.
        let limits = watch::Limits { dispatch_cost: *rng.pick(&[2, 5, 20, 512]), ..watch::Limits::default() };
        let hub = Hub::within(shared.view().revision(), limits);
        Self { hub, shared, rng, held: None }
    }

    /// A group was applied: publishes its events now, or with later ones.
    pub(crate) fn applied(&mut self) {
        if !self.rng.one_in(3) {
            self.publish();
        }
        self.step();
    }

    pub(crate) fn publish(&mut self) {
        let Changes { dropped, groups: written } = self.shared.change_feed().take();
        if let Some(last) = dropped {
            self.hub.skip(last);
        }
        for written in written {
            if written.last() <= self.hub.revision() {
                continue;
            }
            match history::events(&written) {
                Ok(events) if !self.rng.one_in(10) => self.hub.publish(events, written.last()),
                // As when there are too many events.
                _ => self.hub.skip(written.last()),
            }
        }
    }

    /// Does a step of catching up; returns whether there may be more.
    pub(crate) fn step(&mut self) -> bool {
        if self.held.is_some() && !self.rng.one_in(4) {
            let (round, result) = self.held.take().expect("there is one");
            self.hub.finish(&round, result);
            return true;
        }
        let history = History::new(self.shared.view());
        match self.hub.step(&history) {
            Step::Again => true,
            Step::Idle => self.held.is_some(),
            Step::Read(round) => {
                let result = round.read(&history);
                self.held = Some((round, result));
                true
            }
        }
    }
}
