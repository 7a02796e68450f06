//! Flushing the engine, and letting go of the log behind it.
//!
//! The engine keeps no log of its own: what is not flushed comes back from the raft log after a crash. Every
//! [`Limits::flush_log_bytes`] of log or [`Limits::flush_every`] the applied index is noted, a thread of its own flushes (so that nothing
//! stalls), and then the log before the noted index may go, except:
//!
//! * the last [`Limits::keep_entries`], for followers that are a little behind;
//! * what a member of the cluster is known to lack (the leader knows), or may lack (other members do not know, and may
//!   lead tomorrow), up to about 1 GiB: there are no snapshots between members yet, so a member that lags behind the
//!   log's start could not come back.

use crate::core::Core;
use crate::front::{Batch, Command};
use crate::handle::Shared;
use crate::{Limits, NodeFault};
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
    limits: Limits,
}

impl Flusher {
    pub(super) fn start(engine: Arc<dyn Engine>, shared: Arc<Shared>) -> std::io::Result<Self> {
        let (jobs, todo) = sync_channel(1);
        let limits = shared.options.limits.clone();
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
            limits,
        })
    }

    pub(super) fn flush_if_due(&mut self, now: Instant, core: &mut Core) -> Result<(), NodeFault> {
        let grown = core.written_bytes() - self.last_bytes >= self.limits.flush_log_bytes;
        if self.in_flight || !(grown || now.duration_since(self.last_flush) >= self.limits.flush_every) {
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
        let keep_from = self.keep_from(index, core);
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
        let steps = self.limits.keep_lagging_steps;
        while self.marks.len() > steps.max(1) {
            self.marks.pop_front();
        }
        match self.marks.front() {
            // For nobody.
            _ if steps == 0 => Index::MAX,
            Some(oldest) if self.marks.len() >= steps => *oldest,
            _ => 0,
        }
    }

    fn keep_from(&mut self, flushed: Index, core: &Core) -> Index {
        let near = flushed.saturating_sub(self.limits.keep_entries);
        let conf = core.conf_state();
        if conf.voters.len() + conf.learners.len() <= 1 {
            return near;
        }
        let lacking = core.peers().into_iter().map(|peer| peer.matched + 1).min().unwrap_or(0);
        near.min(lacking.max(self.bound()))
    }
}

fn work(engine: &dyn Engine, todo: &Receiver<Index>, shared: &Shared) {
    while let Ok(index) = todo.recv() {
        let result = engine.flush().map(|()| index).map_err(|fault| fault.to_string());
        let mut batch = Batch { commands: vec![Command::Flushed(result)], ..Batch::default() };
        shared.inbox.hand_over(&mut batch);
    }
}
