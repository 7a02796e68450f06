//! The store: what the one writer holds between groups, and what it publishes to readers.

use crate::compaction::Compactions;
use crate::group::Group;
use crate::index::Index;
use crate::options::Options;
use crate::row::{STATE_KEY, State};
use crate::tally::Tally;
use crate::tap::Tap;
use crate::view::{Epoch, View};
use arc_swap::ArcSwap;
use bytes::BytesMut;
use engine::{Batch, Engine, Family, Fault};
use std::fmt;
use std::sync::{Arc, Weak};

/// The readers' door: clone it into every thread.
#[derive(Clone)]
pub struct Published(Arc<ArcSwap<View>>);

impl Published {
    /// The newest View.
    pub fn view(&self) -> Arc<View> {
        self.0.load_full()
    }
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Published").field(&self.0.load().state).finish()
    }
}

/// The key space. One writer holds it; readers hold [`Published`] or a [`View`].
pub struct Store {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) index: Index,
    pub(crate) state: State,
    pub(crate) published: Published,
    pub(crate) epoch: Arc<Epoch>,
    /// Epochs before the current one that some View may still be in, oldest first. One for each logical compaction.
    pub(crate) past: Vec<Weak<Epoch>>,
    pub(crate) compactions: Compactions,
    pub(crate) tally: Tally,
    pub(crate) tap: Tap,
    /// Where rows are built. It outlives groups, so that small ones share a buffer.
    pub(crate) buffer: BytesMut,
    pub(crate) options: Options,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the key space that the engine holds, empty or not. Reads every key once, and no history.
    ///
    /// An unfinished compaction goes on with [`Store::compact_step`].
    pub fn open(engine: Arc<dyn Engine>) -> Result<Self, Fault> {
        Self::open_with(engine, Options::default())
    }

    /// The same with limits of its own.
    pub fn open_with(engine: Arc<dyn Engine>, options: Options) -> Result<Self, Fault> {
        let (state, index) = crate::open::load(&*engine, options.shape)?;
        let epoch = Epoch::new(state.compact);
        let compactions = Compactions::left(&state);
        let view = View {
            state,
            index: index.clone(),
            engine: engine.clone(),
            epoch: epoch.clone(),
            hashes: compactions.hashes(),
            tally: Tally::default(),
            options,
            replaced_from: i64::MAX,
        };
        let published = Published(Arc::new(ArcSwap::from_pointee(view)));
        let (past, tap, buffer) = (Vec::new(), Tap::new(options.tap_bytes), BytesMut::new());
        let tally = Tally::default();
        Ok(Self { engine, index, state, published, epoch, past, compactions, tally, tap, buffer, options })
    }

    /// The newest published View.
    pub fn view(&self) -> Arc<View> {
        self.published.view()
    }

    /// The readers' door.
    pub fn published(&self) -> Published {
        self.published.clone()
    }

    /// What is written, for whoever follows.
    pub fn tap(&self) -> Tap {
        self.tap.clone()
    }

    /// Begins a group: calls that are applied together. Dropping it uncommitted undoes it.
    pub fn begin(&mut self) -> Group<'_> {
        Group::new(self)
    }

    /// Ends the wait for Views from before the newest logical compaction: they answer `Compacted` from now on wherever
    /// they need what compaction removes. For whoever has a clock, when such a View is held for too long.
    pub fn expire_views(&mut self) {
        for epoch in self.past.drain(..).filter_map(|epoch| epoch.upgrade()) {
            epoch.expire();
        }
    }

    /// Writes the batch and makes index and state what readers see.
    pub(crate) fn publish(
        &mut self,
        mut batch: Batch,
        index: Index,
        state: State,
    ) -> Result<Arc<View>, Fault> {
        if state != self.state {
            batch.put(Family::Meta, STATE_KEY, state.encode());
        }
        if !batch.is_empty() {
            self.engine.write(batch)?;
        }
        if state.compact != self.state.compact {
            let past = std::mem::replace(&mut self.epoch, Epoch::new(state.compact));
            self.past.retain(|epoch| epoch.strong_count() > 0);
            self.past.push(Arc::downgrade(&past));
        }
        self.index = index.clone();
        self.state = state;
        let view = Arc::new(View {
            state,
            index,
            engine: self.engine.clone(),
            epoch: self.epoch.clone(),
            hashes: self.compactions.hashes(),
            tally: self.tally,
            options: self.options,
            replaced_from: i64::MAX,
        });
        self.published.0.store(view.clone());
        Ok(view)
    }
}
