//! The store: the writer's state between groups, and what it publishes to readers.

use crate::compactions::Compactions;
use crate::epoch::Epoch;
use crate::feed::ChangeFeed;
use crate::index::Index;
use crate::options::Options;
use crate::row::{Counters, STATE_KEY};
use crate::tally::Tally;
use crate::view::View;
use arc_swap::ArcSwap;
use bytes::BytesMut;
use engine::{Batch, Engine, Family, Fault};
use std::fmt;
use std::sync::{Arc, Weak};
use types::mutant::{Mutant, is};

/// A reader's handle on the newest view; clone it for each thread.
#[derive(Clone)]
pub struct ViewHandle(Arc<ArcSwap<View>>);

impl ViewHandle {
    /// The newest published view.
    pub fn view(&self) -> Arc<View> {
        self.0.load_full()
    }
}

impl fmt::Debug for ViewHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ViewHandle").field(&self.0.load().state).finish()
    }
}

/// The key space. One writer owns it; readers hold a [`ViewHandle`] or a [`View`].
pub struct Store {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) index: Index,
    pub(crate) state: Counters,
    pub(crate) handle: ViewHandle,
    pub(crate) epoch: Arc<Epoch>,
    /// Earlier epochs that a view may still hold, oldest first: one for each logical compaction.
    pub(crate) past: Vec<Weak<Epoch>>,
    pub(crate) compactions: Compactions,
    pub(crate) tally: Tally,
    pub(crate) feed: ChangeFeed,
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
    /// Opens the key space in the engine, empty or not: reads every key once, and no history. [`Store::compact_step`]
    /// continues an unfinished compaction.
    pub fn open(engine: Arc<dyn Engine>) -> Result<Self, Fault> {
        Self::open_with(engine, Options::default())
    }

    /// [`Store::open`] with other limits.
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
        let handle = ViewHandle(Arc::new(ArcSwap::from_pointee(view)));
        let (past, feed, buffer) = (Vec::new(), ChangeFeed::new(options.feed_bytes), BytesMut::new());
        let tally = Tally::default();
        Ok(Self { engine, index, state, handle, epoch, past, compactions, tally, feed, buffer, options })
    }

    /// The newest published view.
    pub fn view(&self) -> Arc<View> {
        self.handle.view()
    }

    /// A handle for readers of the newest view.
    pub fn view_handle(&self) -> ViewHandle {
        self.handle.clone()
    }

    /// The feed of newest changes, for watching.
    pub fn change_feed(&self) -> ChangeFeed {
        self.feed.clone()
    }

    /// Takes over the state of another store, opened on another engine that holds the same history further on, and
    /// returns its own former one, which is to be dropped: perhaps by a thread with time, for its index may be large.
    ///
    /// Handles and feeds of this store stay valid: they show the new state and a gap, in this order. Views taken before
    /// go on with the former engine, which nobody compacts any more, for as long as they are held. Whatever compaction
    /// was under way there ends with it; hashes that compactions left, and the tally, stay.
    #[must_use = "dropping it may take a while"]
    pub fn replace(&mut self, other: Store) -> Store {
        debug_assert!(other.state.revision >= self.state.revision, "the same history further on");
        let mut former = std::mem::replace(self, other);
        std::mem::swap(&mut self.handle, &mut former.handle);
        std::mem::swap(&mut self.feed, &mut former.feed);
        self.tally = former.tally;
        self.compactions.keep_hashes_of(&former.compactions);
        let view = self.view_of(self.index.clone(), self.state, self.tally);
        // The other store's handle shows the former state: its last view is dropped with it.
        former.handle.0.store(self.handle.0.swap(Arc::new(view)));
        if !is(Mutant::HideSkippedChanges) {
            self.feed.skip(self.state.revision);
        }
        former
    }

    /// Expires the views from before the newest compaction, for callers with a clock: they answer `Compacted` from now
    /// on if they need a removed version.
    pub fn expire_views(&mut self) {
        for epoch in self.past.drain(..).filter_map(|epoch| epoch.upgrade()) {
            epoch.expire();
        }
    }

    /// A view of an index and counters, with everything else as it is now.
    pub(crate) fn view_of(&self, index: Index, state: Counters, tally: Tally) -> View {
        View {
            state,
            index,
            engine: self.engine.clone(),
            epoch: self.epoch.clone(),
            hashes: self.compactions.hashes(),
            tally,
            options: self.options,
            replaced_from: i64::MAX,
        }
    }

    pub(crate) fn publish(
        &mut self,
        mut batch: Batch,
        index: Index,
        state: Counters,
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
        let view = Arc::new(self.view_of(index, state, self.tally));
        self.handle.0.store(view.clone());
        Ok(view)
    }
}
