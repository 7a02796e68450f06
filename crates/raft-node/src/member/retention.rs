//! Flushes the engine, and releases the log behind it.
//!
//! The engine has no log of its own: after a crash, what was not flushed is replayed from the raft log. Every
//! [`Limits::flush_log_bytes`] of log, [`Limits::flush_entries`] or [`Limits::flush_every`], the applied index is recorded
//! and another thread flushes the engine. Then the log before that index is released, except:
//! * the last [`Limits::keep_entries`], for followers slightly behind;
//! * what a member is known to lack (on the leader) or may lack (elsewhere: any member may lead tomorrow), up to
//!   [`Limits::keep_lagging_steps`]. One that lacks more gets a snapshot;
//! * what follows a snapshot that is under way, without which it would be in vain.

use super::{Job, Member, Step, Stop, Turn, World};
use crate::{Limits, NodeFault};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use types::Index;
use types::mutant::{Mutant, is};

#[derive(Debug)]
pub(super) struct Retention {
    in_flight: bool,
    flushed: Index,
    last_flush: Instant,
    last_bytes: u64,
    /// The applied index when the last flush began.
    last_index: Index,
    /// The applied index at each of the last flushes, oldest first.
    marks: VecDeque<Index>,
    limits: Limits,
}

impl Retention {
    pub(super) fn new(now: Instant, limits: &Limits) -> Self {
        Self {
            in_flight: false,
            flushed: 0,
            last_flush: now,
            last_bytes: 0,
            last_index: 0,
            marks: VecDeque::new(),
            limits: limits.clone(),
        }
    }

    /// The index to flush up to, if a flush is due.
    fn due(&mut self, now: Instant, applied: Index, written_bytes: u64) -> Option<Index> {
        let grown = written_bytes - self.last_bytes >= self.limits.flush_log_bytes;
        let many = applied.saturating_sub(self.last_index) >= self.limits.flush_entries.max(1);
        let late = now.duration_since(self.last_flush) >= self.limits.flush_every;
        if self.in_flight || !(grown || many || late) {
            return None;
        }
        (self.last_flush, self.last_index) = (now, applied);
        if applied <= self.flushed {
            return None;
        }
        if grown {
            self.last_bytes = written_bytes;
            self.marks.push_back(applied);
        }
        self.in_flight = true;
        Some(applied)
    }

    /// The state is a snapshot's now, which is durable.
    pub(super) fn installed(&mut self, index: Index) {
        (self.flushed, self.last_index) = (index, index);
        self.marks.clear();
    }

    /// Before this index the log is not kept for lagging members.
    fn bound(&mut self) -> Index {
        let steps = self.limits.keep_lagging_steps;
        while self.marks.len() > steps.max(1) {
            self.marks.pop_front();
        }
        match self.marks.front() {
            // Nothing is kept for them.
            _ if steps == 0 => Index::MAX,
            Some(oldest) if self.marks.len() >= steps => *oldest,
            _ => 0,
        }
    }
}

impl Member {
    pub(super) fn flush_if_due<W: World>(&mut self, now: Instant, world: &mut W) -> Turn<W> {
        let (_, applied, _) = self.core.indexes();
        let Some(index) = self.retention.due(now, applied, self.core.written_bytes()) else { return Ok(()) };
        let flush = Job::Flush(index, Arc::clone(&self.machine));
        Ok(world.start(flush).map_err(|_| NodeFault::ThreadGone)?)
    }

    /// The engine was flushed up to this index: releases the log before it.
    pub(super) fn flushed<W: World>(&mut self, result: Result<Index, NodeFault>, world: &mut W) -> Turn<W> {
        self.retention.in_flight = false;
        // It may have begun before a snapshot was installed.
        let index = result?.max(self.retention.flushed);
        self.retention.flushed = index;
        let keep_from = self.keep_from(index);
        if keep_from > self.core.log().first_index() {
            self.core.release(keep_from)?;
        }
        world.at(Step::Flushed, self.core.log()).map_err(Stop::Halt)
    }

    fn keep_from(&mut self, flushed: Index) -> Index {
        let near = flushed.saturating_sub(self.options.limits.keep_entries);
        let conf = self.core.conf_state();
        if conf.voters.len() + conf.learners.len() <= 1 || is(Mutant::ForgetWhoLags) {
            return near;
        }
        let peers = self.core.peers();
        let lacking = peers.iter().map(|peer| peer.matched + 1).min().unwrap_or(0);
        let under_way = peers.iter().filter(|peer| peer.snapshot > 0).map(|peer| peer.snapshot + 1).min();
        let under_way = under_way.filter(|_| !is(Mutant::ForgetSnapshotUnderWay));
        near.min(lacking.max(self.retention.bound())).min(under_way.unwrap_or(Index::MAX))
    }
}
