//! Flushing the engine, and letting go of the log behind it.
//!
//! The engine keeps no log of its own: what is not flushed comes back from the raft log after a crash. Every
//! [`FLUSH_LOG_BYTES`] of log or [`FLUSH_EVERY`] the applied index is noted, a thread of its own flushes (so that nothing
//! stalls), and then the log before the noted index may go, except:
//!
//! * the last [`KEEP_ENTRIES`], for followers that are a little behind;
//! * what a member of the cluster is known to lack (the leader knows), or may lack (other members do not know, and may
//!   lead tomorrow), up to about 1 GiB: there are no snapshots between members yet, so a member that lags behind the
//!   log's start could not come back.

use crate::NodeFault;
use crate::core::Core;
use crate::front::{Batch, Command};
use crate::handle::Shared;
use crate::limits::{FLUSH_EVERY, FLUSH_LOG_BYTES, KEEP_ENTRIES, KEEP_LAGGING_STEPS};
use engine::Engine;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;
use types::Index;

/// When to flush, and what to keep.
pub(super) struct Flusher {
    engine: Arc<dyn Engine>,
    jobs: SyncSender<Index>,
    in_flight: bool,
    flushed: Index,
    last_flush: Instant,
    last_bytes: u64,
    /// The applied index at each of the last flushes asked for, oldest first.
    marks: VecDeque<Index>,
}

impl Flusher {
    pub(super) fn start(engine: Arc<dyn Engine>, shared: Arc<Shared>) -> std::io::Result<Self> {
        let (jobs, todo) = sync_channel(1);
        let worker = Arc::clone(&engine);
        std::thread::Builder::new()
            .name("engine-flush".to_owned())
            .spawn(move || work(&*worker, &todo, &shared))?;
        Ok(Self {
            engine,
            jobs,
            in_flight: false,
            flushed: 0,
            last_flush: Instant::now(),
            last_bytes: 0,
            marks: VecDeque::new(),
        })
    }

    pub(super) fn flush_if_due(&mut self, now: Instant, core: &mut Core) -> Result<(), NodeFault> {
        let grown = core.written_bytes() - self.last_bytes >= FLUSH_LOG_BYTES;
        if self.in_flight || !(grown || now.duration_since(self.last_flush) >= FLUSH_EVERY) {
            return Ok(());
        }
        let (_, applied, _) = core.indexes();
        self.last_flush = now;
        if applied <= self.flushed {
            return Ok(());
        }
        if grown {
            self.last_bytes = core.written_bytes();
            self.marks.push_back(applied);
        }
        self.in_flight = true;
        self.jobs.try_send(applied).map_err(|_| NodeFault::Engine("the flushing thread is gone".to_owned()))
    }

    pub(super) fn flushed(
        &mut self,
        result: Result<Index, String>,
        core: &mut Core,
    ) -> Result<(), NodeFault> {
        let index = result.map_err(NodeFault::Engine)?;
        self.in_flight = false;
        self.flushed = index;
        let bound = self.bound();
        let keep_from = keep_from(index, core, bound);
        if keep_from > core.log().first_index() {
            core.release(keep_from)?;
        }
        Ok(())
    }

    /// At the end everything is applied that will be: one last flush, so that the next start has nothing to replay.
    pub(super) fn finish(self) -> Result<(), NodeFault> {
        self.engine.flush().map_err(|fault| NodeFault::Engine(fault.to_string()))
    }

    /// Before this index the log is not kept for members that lag.
    fn bound(&mut self) -> Index {
        while self.marks.len() > KEEP_LAGGING_STEPS {
            self.marks.pop_front();
        }
        if self.marks.len() == KEEP_LAGGING_STEPS { self.marks[0] } else { 0 }
    }
}

fn keep_from(flushed: Index, core: &Core, bound: Index) -> Index {
    let near = flushed.saturating_sub(KEEP_ENTRIES);
    let conf = core.conf_state();
    if conf.voters.len() + conf.learners.len() <= 1 {
        return near;
    }
    let lacking = core.peers().into_iter().map(|peer| peer.matched + 1).min().unwrap_or(0);
    near.min(lacking.max(bound))
}

fn work(engine: &dyn Engine, todo: &Receiver<Index>, shared: &Shared) {
    while let Ok(index) = todo.recv() {
        let result = engine.flush().map(|()| index).map_err(|fault| fault.to_string());
        let mut batch = Batch { commands: vec![Command::Flushed(result)], ..Batch::default() };
        shared.inbox.hand_over(&mut batch);
    }
}
