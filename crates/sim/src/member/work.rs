//! What comes of a turn: messages, the log, the machine, answers; the driver's `process`, `apply` and `flush`.

use super::leases::ROUND;
use super::{Answer, Around, End, Life, Waiter};
use crate::mutation::Mutation;
use crate::oracle::{Oracle, Violation};
use crate::trace::trace;
use bytes::Bytes;
use engine::Engine as _;
use machine::{Effect, Outcome, Response};
use proto::raftpb;
use raft_node::core::Effects;
use raft_node::{NodeFault, ProposeError};
use types::{Entry, EntryKind};

impl Life {
    pub(super) fn process(&mut self, around: &mut Around<'_>) -> Result<(), End> {
        loop {
            self.act_on_effects(around)?;
            let Some(mut work) = self.core.work() else { return Ok(()) };
            self.send(std::mem::take(&mut work.messages), around)?;
            self.crash_point("before its write")?;
            let operations = self.disk.operations();
            let persisted = self.core.persist(work).map_err(|fault| self.fault(&fault))?;
            if self.disk.operations() != operations {
                self.clock += around.rng.between(around.rules.sync_micros / 4, around.rules.sync_micros);
            }
            self.crash_point("after its sync")?;
            self.send(persisted.messages, around)?;
            self.crash_point("before it applied")?;
            for group in Self::groups(&persisted.committed, around) {
                self.apply(group, around)?;
            }
        }
    }

    fn send(&self, messages: Vec<raftpb::Message>, around: &mut Around<'_>) -> Result<(), End> {
        for message in messages {
            around.oracle.sent(self.id, &message)?;
            around.sent.push((self.clock, message));
        }
        Ok(())
    }

    /// Committed entries in one or more groups, as the seed says; one ends at every index where states are compared.
    fn groups<'e>(entries: &'e [Entry], around: &mut Around<'_>) -> Vec<&'e [Entry]> {
        let split = around.rules.group_split_per_mille;
        let mut groups = Vec::new();
        let mut from = 0;
        for (at, entry) in entries.iter().enumerate() {
            let ends = Oracle::is_checkpoint(entry.index) || around.rng.per_mille(split);
            if ends || at + 1 == entries.len() {
                groups.push(&entries[from..=at]);
                from = at + 1;
            }
        }
        groups
    }

    fn apply(&mut self, entries: &[Entry], around: &mut Around<'_>) -> Result<(), End> {
        let broken: Vec<Entry>;
        let given = if around.rules.mutation == Some(Mutation::SkipEntry) && self.id == 2 {
            broken = entries.iter().map(skip_some).collect();
            &broken
        } else {
            entries
        };
        let id = self.id;
        let fault = |fault| format!("member {id}: {fault}");
        // As a node does: what touches many keys is a group of its own.
        let (outcomes, done) = self.machine.apply_short(given).map_err(fault)?;
        self.applied(&entries[..done], &outcomes, around)?;
        if done < entries.len() && !self.core.is_removed() {
            let outcomes = self.machine.apply(&given[done..]).map_err(fault)?;
            self.applied(&entries[done..], &outcomes, around)?;
        }
        Ok(())
    }

    fn applied(
        &mut self,
        entries: &[Entry],
        outcomes: &[Outcome],
        around: &mut Around<'_>,
    ) -> Result<(), End> {
        if entries.is_empty() {
            return Ok(());
        }
        let (first, last) = (entries[0].index, entries[entries.len() - 1].index);
        let applied = entries.len() - outcomes.len();
        for (entry, outcome) in entries[applied..].iter().zip(outcomes) {
            around.oracle.applied(self.id, entry, outcome, self.clock)?;
        }
        let (rows, history) = around.oracle.group_ended(self.id, &self.machine, &self.engine)?;
        trace!(around.trace, "member {} applies {first}..={last}: {rows:016x} {history:08x}", self.id);
        self.watching.applied();
        self.crash_point("after it applied")?;
        let now = around.rules.instant(self.clock);
        self.core.applied(now, last, outcomes).map_err(|fault| self.fault(&fault))?;
        self.retry_changes |= outcomes.iter().any(|outcome| matches!(outcome.effect, Effect::Conf { .. }));
        self.leases_applied(around);
        self.complete(outcomes, around);
        self.act_on_effects(around)
    }

    fn complete(&mut self, outcomes: &[Outcome], around: &mut Around<'_>) {
        for outcome in outcomes {
            let Some(waiter) = self.waiters.remove(&outcome.request_id) else { continue };
            let Waiter { client, number, .. } = waiter;
            let request_id = outcome.request_id;
            let revision = match &outcome.effect {
                Effect::Answer(Ok(response)) => Some(revision(response)),
                // A refusal is an answer too; what it says was compared with the model.
                _ => Some(0),
            };
            self.idle_due |= matches!(outcome.effect, Effect::Answer(Ok(Response::Compaction(_))));
            around.answers.push((self.clock, Answer { client, number, request_id, revision }));
        }
    }

    fn act_on_effects(&mut self, around: &mut Around<'_>) -> Result<(), End> {
        let Effects { returned, refused, reads, leadership, dropped } = self.core.effects();
        for dropped in dropped {
            trace!(around.trace, "member {} dropped a peer's: {dropped:?}", self.id);
        }
        for proposal in returned.into_iter().rev() {
            match proposal.kind {
                EntryKind::Normal => self.proposals.push_front(proposal),
                EntryKind::ConfChange => self.changes.push_front(proposal),
            }
        }
        for (id, error) in refused {
            trace!(around.trace, "member {}: request {id:x} refused: {error}", self.id);
            // Entries for one term's leader alone come too late now and then.
            if !matches!(error, ProposeError::NotEnoughMembers | ProposeError::NoLeader) {
                return Err(format!("member {}: request {id:x} refused: {error}", self.id).into());
            }
        }
        if let Some(now) = leadership {
            self.retry_changes = true;
            trace!(around.trace, "member {}: term {}, leader {}", self.id, now.term, now.leader);
            self.draw_election(around);
            self.leases_lead(now, around);
        }
        for done in reads {
            for token in done.tokens {
                if token == ROUND {
                    self.leases_confirmed(done.result, around);
                    continue;
                }
                let Some(waiter) = self.reads.remove(&token) else {
                    return Err(format!("member {}: read {token} ended twice", self.id).into());
                };
                match done.result {
                    Ok(()) => self.answer_read(waiter, around)?,
                    Err(error) => {
                        trace!(around.trace, "member {}: read {token}: {error}", self.id);
                        let Waiter { client, number, .. } = waiter;
                        let answer = Answer { client, number, request_id: 0, revision: None };
                        around.answers.push((self.clock, answer));
                    }
                }
            }
        }
        Ok(())
    }

    /// As `driver::flush`: the engine, then the log behind it, but nothing that a member may lack.
    pub(super) fn flush(&mut self, around: &mut Around<'_>) -> Result<(), End> {
        if !std::mem::take(&mut self.inbox.flush) {
            return Ok(());
        }
        let applied = self.machine.applied().0;
        if around.rules.mutation != Some(Mutation::ReleaseBeforeFlush) {
            self.engine.flush().map_err(|fault| format!("member {}: {fault}", self.id))?;
        }
        self.flushed = applied;
        let near = applied.saturating_sub(around.rules.keep_entries);
        let keep_from = if self.core.conf_state().voters.len() == 1 {
            near
        } else {
            let lacking = self.core.peers().into_iter().map(|peer| peer.matched + 1).min();
            near.min(lacking.unwrap_or(0))
        };
        let first = self.core.log().first_index();
        if keep_from > first {
            self.core.release(keep_from).map_err(|fault| self.fault(&fault))?;
        }
        let now_first = self.core.log().first_index();
        trace!(around.trace, "member {} flushes {applied}, log from {first} to {now_first}", self.id);
        self.crash_point("after a flush")
    }

    fn crash_point(&mut self, place: &'static str) -> Result<(), End> {
        match &mut self.crash_in {
            Some(0) => Err(End::Crash(place)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(super) fn fault(&self, fault: &NodeFault) -> End {
        match fault {
            NodeFault::Log(_) if self.disk_fails => End::Crash("its disk failed"),
            fault => End::Violation(format!("member {}: {fault}", self.id)),
        }
    }

    /// Background work until there is none.
    pub(crate) fn idle_to_the_end(&mut self) -> Result<(), Violation> {
        /// Far more steps than any history needs.
        const STEPS_MAX: usize = 10_000;
        for _ in 0..STEPS_MAX {
            if !self.machine.idle().map_err(|fault| format!("member {}: idle: {fault}", self.id))? {
                return Ok(());
            }
        }
        Err(format!("member {}: background work does not end", self.id))
    }
}

/// What [`Mutation::SkipEntry`] makes of an entry.
fn skip_some(entry: &Entry) -> Entry {
    let mut entry = entry.clone();
    if entry.index % 97 == 96 && entry.kind == EntryKind::Normal {
        entry.data = Bytes::new();
    }
    entry
}

fn revision(response: &Response) -> i64 {
    let header = match response {
        Response::Put(response) => &response.header,
        Response::DeleteRange(response) => &response.header,
        Response::Txn(response) => &response.header,
        Response::Compaction(response) => &response.header,
        Response::LeaseGrant(response) => &response.header,
        Response::LeaseRevoke(response) => &response.header,
        Response::Unread(unread) => return revision(&unread.answer),
        _ => return 0,
    };
    header.as_ref().map_or(0, |header| header.revision)
}
