//! Flushes the engine, and releases the log behind it.
//!
//! The engine has no log of its own: after a crash, what was not flushed is replayed from the raft log. Every
//! [`Limits::flush_log_bytes`] of log or [`Limits::flush_every`], the applied index is recorded and another thread
//! flushes the engine. Then the log before that index is released, except:
//! * the last [`Limits::keep_entries`], for followers slightly behind;
//! * what a member is known to lack (on the leader) or may lack (elsewhere: any member may lead tomorrow), up to about
//!   1 GiB. Without snapshots between members, one that falls behind the log's start could not recover.

use super::{Job, Member, Step, Stop, Turn, World};
use crate::{Limits, NodeFault};
use std::collections::VecDeque;
use std::time::Instant;
use types::Index;
use types::mutant::{Mutant, is};

#[derive(Debug)]
pub(super) struct Retention {
    in_flight: bool,
    flushed: Index,
    last_flush: Instant,
    last_bytes: u64,
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
            marks: VecDeque::new(),
            limits: limits.clone(),
        }
    }

    /// The index to flush up to, if a flush is due.
    fn due(&mut self, now: Instant, applied: Index, written_bytes: u64) -> Option<Index> {
        let grown = written_bytes - self.last_bytes >= self.limits.flush_log_bytes;
        if self.in_flight || !(grown || now.duration_since(self.last_flush) >= self.limits.flush_every) {
            return None;
        }
        self.last_flush = now;
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
        Ok(world.start(Job::Flush(index)).map_err(|_| NodeFault::ThreadGone)?)
    }

    /// The engine was flushed up to this index: releases the log before it.
    pub(super) fn flushed<W: World>(&mut self, result: Result<Index, NodeFault>, world: &mut W) -> Turn<W> {
        let index = result?;
        self.retention.in_flight = false;
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
        let lacking = self.core.peers().into_iter().map(|peer| peer.matched + 1).min().unwrap_or(0);
        near.min(lacking.max(self.retention.bound()))
    }
}
