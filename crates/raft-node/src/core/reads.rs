//! Linearizable reads: ReadIndex rounds, shared by all waiting reads.
//!
//! ```text
//! waiting ─▶ round: context sent ─▶ confirmed at an index ─▶ applied: served
//!             │  └─ no answer in 500 ms, or first commit of the term: a new context
//!             └─ a new leader: "leader changed" · too long: "timed out"
//! ```
//!
//! Without a leader, or before the first commit of the term, raft-rs drops a ReadIndex silently, hence the retries. A
//! context that reaches the leader twice could serve a newer read at an old index; so contexts are unique in the
//! cluster, and the leader drops those it has seen ([`SeenReads`]).

use crate::limits::Limits;
use crate::{ReadError, RequestIds};
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};
use types::Index;
use types::mutant::{Mutant, is};

/// Finished reads, by the tokens they were asked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadsDone {
    /// The tokens of the reads.
    pub tokens: Vec<u64>,
    /// Whether they may be served.
    pub result: Result<(), ReadError>,
}

#[derive(Debug)]
struct Round {
    contexts: Vec<u64>,
    tokens: Vec<u64>,
    retry_at: Instant,
    deadline: Instant,
}

#[derive(Debug)]
pub(crate) struct Reads {
    ids: RequestIds,
    timeout: Duration,
    retry: Duration,
    attempts_max: usize,
    waiting: Vec<u64>,
    round: Option<Round>,
    confirmed: Vec<(Index, Vec<u64>)>,
}

impl Reads {
    pub(super) fn new(ids: RequestIds, timeout: Duration, limits: &Limits) -> Self {
        Self {
            ids,
            timeout,
            retry: limits.read_retry,
            attempts_max: limits.read_attempts.max(1),
            waiting: Vec::new(),
            round: None,
            confirmed: Vec::new(),
        }
    }

    pub(super) fn confirmed_at(&mut self, index: Index, token: u64) {
        self.confirmed.push((index, vec![token]));
    }

    pub(super) fn ask(&mut self, token: u64) {
        self.waiting.push(token);
    }

    /// The context to send now, if one is due: of a new round, or of a retry.
    pub(super) fn due(&mut self, now: Instant) -> Option<u64> {
        match &mut self.round {
            Some(round) if now >= round.retry_at => {
                let context = match round.contexts.first() {
                    Some(first) if is(Mutant::ReuseReadContext) => *first,
                    _ => self.ids.next_id(),
                };
                if round.contexts.len() >= self.attempts_max {
                    round.contexts.remove(0);
                }
                round.contexts.push(context);
                round.retry_at = now + self.retry;
                Some(context)
            }
            Some(_) => None,
            None if self.waiting.is_empty() => None,
            None => {
                let context = self.ids.next_id();
                self.round = Some(Round {
                    contexts: vec![context],
                    tokens: std::mem::take(&mut self.waiting),
                    retry_at: now + self.retry,
                    deadline: now + self.timeout,
                });
                Some(context)
            }
        }
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.round.as_ref().map(|round| round.retry_at.min(round.deadline))
    }

    /// Handles a read state from raft. Unknown and outdated contexts are ignored.
    pub(super) fn confirm(&mut self, context: &[u8], index: Index) {
        let Ok(context) = context.try_into().map(u64::from_be_bytes) else {
            return;
        };
        if let Some(round) = self.round.take_if(|round| round.contexts.contains(&context)) {
            self.confirmed.push((index, round.tokens));
        }
    }

    /// The first commit of a term was applied, so a ReadIndex is no longer dropped: retry now.
    pub(super) fn retry_now(&mut self, now: Instant) {
        if let Some(round) = &mut self.round {
            round.retry_at = now;
        }
    }

    /// Ends the current round, as etcd does, because there is a new leader; reads still waiting start a new round.
    pub(super) fn leader_changed(&mut self, done: &mut Vec<ReadsDone>) {
        if let Some(round) = self.round.take_if(|_| !is(Mutant::KeepReadRound)) {
            done.push(ReadsDone { tokens: round.tokens, result: Err(ReadError::LeaderChanged) });
        }
    }

    pub(super) fn expire(&mut self, now: Instant, done: &mut Vec<ReadsDone>) {
        if let Some(round) = self.round.take_if(|round| now >= round.deadline) {
            done.push(ReadsDone { tokens: round.tokens, result: Err(ReadError::Timeout) });
        }
    }

    pub(super) fn applied(&mut self, applied: Index, done: &mut Vec<ReadsDone>) {
        for (_, tokens) in
            self.confirmed.extract_if(.., |(index, _)| *index <= applied || is(Mutant::ReadBeforeApply))
        {
            done.push(ReadsDone { tokens, result: Ok(()) });
        }
    }
}

/// The contexts that a leader accepted from each member in this term; the oldest, and former members, are forgotten.
#[derive(Debug)]
pub(crate) struct SeenReads {
    term: u64,
    contexts_max: usize,
    peers: HashMap<u64, (HashSet<u64>, VecDeque<u64>)>,
}

impl SeenReads {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { term: 0, contexts_max: limits.seen_reads.max(1), peers: HashMap::new() }
    }

    pub(super) fn is_new(
        &mut self,
        term: u64,
        peer: u64,
        context: &[u8],
        is_member: impl Fn(u64) -> bool,
    ) -> bool {
        let Ok(context) = context.try_into().map(u64::from_be_bytes) else {
            return false;
        };
        if self.term != term {
            self.term = term;
            self.peers.clear();
        }
        if !self.peers.contains_key(&peer) {
            self.peers.retain(|known, _| is_member(*known));
        }
        let (known, order) = self.peers.entry(peer).or_default();
        if !known.insert(context) {
            return false;
        }
        order.push_back(context);
        if order.len() > self.contexts_max
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads() -> Reads {
        Reads::new(RequestIds::new(1, 1), Duration::from_secs(7), &Limits::default())
    }

    #[test]
    fn all_waiting_reads_share_one_context_and_later_ones_the_next() {
        let (mut reads, now, mut done) = (reads(), Instant::now(), Vec::new());
        reads.ask(1);
        reads.ask(2);
        let context = reads.due(now).unwrap();
        reads.ask(3);
        assert_eq!(reads.due(now), None);
        reads.confirm(&context.to_be_bytes(), 10);
        reads.applied(9, &mut done);
        assert!(done.is_empty());
        reads.applied(10, &mut done);
        assert_eq!(done, [ReadsDone { tokens: vec![1, 2], result: Ok(()) }]);
        assert!(reads.due(now).unwrap() > context);
    }

    #[test]
    fn a_retry_has_a_fresh_context_and_either_answer_counts_once() {
        let (mut reads, now, mut done) = (reads(), Instant::now(), Vec::new());
        reads.ask(1);
        let first = reads.due(now).unwrap();
        let second = reads.due(now + Limits::default().read_retry).unwrap();
        assert_ne!(first, second);
        reads.confirm(&first.to_be_bytes(), 1);
        reads.confirm(&second.to_be_bytes(), 2);
        reads.confirm(b"short", 2);
        reads.applied(2, &mut done);
        assert_eq!(done.len(), 1);
    }

    #[test]
    fn a_new_leader_ends_the_round_but_not_what_is_confirmed() {
        let (mut reads, now, mut done) = (reads(), Instant::now(), Vec::new());
        reads.ask(1);
        let context = reads.due(now).unwrap();
        reads.confirm(&context.to_be_bytes(), 5);
        reads.ask(2);
        reads.due(now).unwrap();
        reads.leader_changed(&mut done);
        assert_eq!(done, [ReadsDone { tokens: vec![2], result: Err(ReadError::LeaderChanged) }]);
        reads.applied(5, &mut done);
        assert_eq!(done[1], ReadsDone { tokens: vec![1], result: Ok(()) });
    }

    #[test]
    fn a_context_is_taken_once_a_term_and_peer() {
        let mut seen = SeenReads::new(&Limits::default());
        let context = 7u64.to_be_bytes();
        let mut is_new = |term, peer, context: &[u8]| seen.is_new(term, peer, context, |_| true);
        assert!(is_new(1, 1, &context));
        assert!(!is_new(1, 1, &context));
        assert!(is_new(1, 2, &context));
        assert!(is_new(2, 1, &context));
        assert!(!is_new(2, 1, b""));
    }

    #[test]
    fn of_each_member_the_newest_contexts_are_remembered_and_of_former_members_none() {
        let mut seen = SeenReads::new(&Limits { seen_reads: 3, ..Limits::default() });
        let mut is_new = |peer: u64, context: u64, members: &[u64]| {
            seen.is_new(1, peer, &context.to_be_bytes(), |id| members.contains(&id))
        };
        for context in 0..10 {
            assert!(is_new(2, context, &[2, 3]));
        }
        assert!(!is_new(2, 7, &[2, 3]) && !is_new(2, 9, &[2, 3]), "the newest three");
        assert!(is_new(2, 6, &[2, 3]), "forgotten");
        assert!(is_new(3, 6, &[3]));
        assert_eq!(seen.peers.keys().collect::<Vec<_>>(), [&3]);
        assert!(seen.peers.values().all(|(known, order)| known.len() <= 3 && known.len() == order.len()));
    }

    #[test]
    fn answers_to_the_newest_attempts_alone_count() {
        let limits = Limits { read_attempts: 2, ..Limits::default() };
        let mut reads = Reads::new(RequestIds::new(1, 1), Duration::from_secs(7), &limits);
        let (now, mut done) = (Instant::now(), Vec::new());
        reads.ask(1);
        let attempts: Vec<u64> = (0..3).map(|n| reads.due(now + n * limits.read_retry).unwrap()).collect();
        reads.confirm(&attempts[0].to_be_bytes(), 1);
        reads.applied(1, &mut done);
        assert!(done.is_empty(), "an answer that is late");
        reads.confirm(&attempts[1].to_be_bytes(), 1);
        reads.applied(1, &mut done);
        assert_eq!(done, [ReadsDone { tokens: vec![1], result: Ok(()) }]);
    }
}
