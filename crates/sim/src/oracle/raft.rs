//! The oracle of raft: what members promise each other, who leads, how far they are.

use super::{Oracle, must};
use crate::Violation;
use proto::raftpb::{self, MessageType};
use raft_node::Leadership;
use raft_node::core::{Core, Log};
use std::collections::BTreeMap;
use types::{HardState, Index, Term};

/// What a member has promised to others, and what was observed of it.
#[derive(Default)]
pub(super) struct Promises {
    term: Term,
    votes: BTreeMap<Term, u64>,
    /// (term, index): it acknowledged the log up to here.
    appended: (Term, Index),
    commit: Index,
    applied: Index,
}

impl Oracle {
    fn member(&mut self, id: u64) -> &mut Promises {
        self.members.get_mut(&id).expect("members are known from the start")
    }

    /// A member sent a message: what it promises must hold forever.
    pub(crate) fn sent(&mut self, id: u64, message: &raftpb::Message) -> Result<(), Violation> {
        let (kind, term, to) = (message.r#type(), message.term(), message.to());
        if matches!(kind, MessageType::MsgPreVote | MessageType::MsgPreVoteResp) {
            return Ok(());
        }
        self.check_read(id, message)?;
        let promises = self.member(id);
        promises.term = promises.term.max(term);
        let vote = match kind {
            MessageType::MsgVote => Some(id),
            MessageType::MsgVoteResp if !message.reject() => Some(to),
            _ => None,
        };
        if let Some(vote) = vote {
            let before = *promises.votes.entry(term).or_insert(vote);
            must!(before == vote, "member {id} voted for {before} and for {vote} in term {term}");
        }
        if kind == MessageType::MsgAppResp && !message.reject() {
            let (at, index) = promises.appended;
            promises.appended =
                if at == term { (term, index.max(message.index())) } else { (term, message.index()) };
        }
        Ok(())
    }

    /// A read context goes to the leader once, and its answer comes back once per term: an outdated answer, or one to
    /// another attempt, proves nothing about leadership now.
    fn check_read(&mut self, id: u64, message: &raftpb::Message) -> Result<(), Violation> {
        let (kind, term) = (message.r#type(), message.term());
        if !matches!(kind, MessageType::MsgReadIndex | MessageType::MsgReadIndexResp) {
            return Ok(());
        }
        let context = message.entries.first().and_then(|entry| entry.data.clone()).unwrap_or_default();
        let is_question = kind == MessageType::MsgReadIndex;
        let term = if is_question { 0 } else { term };
        must!(
            self.contexts.insert((is_question, id, term, context.clone())),
            "member {id} sends {} of the read {context:x?} twice",
            if is_question { "the question" } else { "the answer" }
        );
        Ok(())
    }

    /// A member restarted: what it promised must be on its disk.
    pub(crate) fn reopened(
        &mut self,
        id: u64,
        hard_state: HardState,
        log: &dyn Log,
    ) -> Result<(), Violation> {
        let promises = self.member(id);
        promises.commit = 0;
        promises.applied = 0;
        let HardState { term, vote, .. } = hard_state;
        must!(
            term >= promises.term,
            "member {id} came back in term {term}, it had spoken in {}",
            promises.term
        );
        if let Some(promised) = promises.votes.get(&term) {
            must!(
                *promised == vote,
                "member {id} came back with a vote for {vote}, it had voted for {promised}"
            );
        }
        let (at, index) = promises.appended;
        // Entries come before the hard state: of the write that a later leader's entries came in, they may be all that
        // is durable. What they replaced is on no majority, or that leader would have it.
        let is_replaced = log.term(log.last_index()).is_some_and(|last| last > term);
        must!(
            at != term || is_replaced || log.last_index() >= index,
            "member {id} came back with a log up to {}, it had acknowledged {index} in this term",
            log.last_index()
        );
        Ok(())
    }

    /// `checked`: every group and snapshot up to here was seen.
    pub(crate) fn after_turn(&mut self, id: u64, core: &Core, checked: Index) -> Result<(), Violation> {
        self.copies.check()?;
        let (commit, applied, last) = core.indexes();
        must!(
            applied <= checked,
            "member {id}: applied went to {applied}, it was seen to apply up to {checked}"
        );
        let first = core.log().first_index();
        let in_vain = core.peers().into_iter().find(|peer| peer.snapshot > 0 && first > peer.snapshot + 1);
        must!(
            in_vain.is_none(),
            "member {id} has a log from {first}, which does not go on from the snapshot under way: {in_vain:?}"
        );
        let promises = self.member(id);
        must!(commit >= promises.commit, "member {id}: commit went from {} to {commit}", promises.commit);
        must!(
            applied >= promises.applied,
            "member {id}: applied went from {} to {applied}",
            promises.applied
        );
        must!(
            applied <= commit && commit <= last,
            "member {id}: applied {applied}, commit {commit}, last {last}"
        );
        (promises.commit, promises.applied) = (commit, applied);
        let Leadership { term, is_leader, .. } = core.leadership();
        if is_leader && !self.leaders.contains_key(&term) {
            self.check_leader_is_complete(id, term, core)?;
        }
        if is_leader {
            let leader = *self.leaders.entry(term).or_insert(id);
            must!(leader == id, "term {term} has two leaders: {leader} and {id}");
        }
        Ok(())
    }

    /// A leader must have everything committed in earlier terms.
    fn check_leader_is_complete(&self, id: u64, term: Term, core: &Core) -> Result<(), Violation> {
        let log = core.log();
        let committed = self.records.iter().rev().map(|record| &record.entry);
        for entry in committed.filter(|entry| entry.term < term).take_while(|e| e.index >= log.first_index())
        {
            let found = log.term(entry.index);
            must!(
                found == Some(entry.term),
                "member {id} leads term {term} with {found:?} at index {}, where term {} is committed",
                entry.index,
                entry.term
            );
        }
        Ok(())
    }
}
