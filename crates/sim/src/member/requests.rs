//! Inputs of a member between two turns, passed on as its process would.

use super::{
    Around, ClientAnswer, Inputs, JOB_USUAL, LifeEnd, Own, PendingJob, REQUEST_TIMEOUT, Waiter, Waits,
};
use crate::Violation;
use crate::client::Ask;
use crate::mutation::Mutation;
use crate::trace::trace;
use machine::{Command, Kind};
use prost::Message as _;
use proto::raftpb::{self, MessageType};
use raft_node::convert::{Forwarded, Incoming, incoming};
use raft_node::core::{Core, Proposal};
use raft_node::member::{Batch, Control, Job};
use std::time::{Duration, Instant};
use types::{EntryKind, lock};

impl Own {
    /// Makes a batch of the inputs. Keepalives come first, as a task of a process's runtime may run first: a leader
    /// that slept, or has not heard of its successor yet, must not renew what it cannot keep.
    pub(super) fn gather(
        &mut self,
        batch: &mut Batch,
        core: &Core,
        around: &mut Around<'_>,
    ) -> Result<(), LifeEnd> {
        let now = around.rules.instant(around.now);
        self.give_up(now, around);
        if self.decide_at.take_if(|at| *at <= around.now).is_some() {
            self.allow_checkpoints(around.rules.checkpoints);
        }
        let Inputs { messages, mut requests, unreachable, transfer } = std::mem::take(&mut self.inbox);
        let is_keepalive = |(ask, _): &mut (Ask, Waiter)| matches!(ask, Ask::KeepAlive(_));
        for (ask, waiter) in requests.extract_if(.., is_keepalive).collect::<Vec<_>>() {
            let Ask::KeepAlive(id) = ask else { unreachable!("only keepalives were taken out") };
            self.keep_alive(now, id, waiter, batch, around);
        }
        for bytes in messages {
            let message = raftpb::Message::decode(bytes).expect("these bytes were encoded here");
            self.message(now, message, batch, around)?;
        }
        for (ask, waiter) in requests {
            self.request(now, ask, waiter, batch, around)?;
        }
        batch.unreachable.extend(unreachable);
        if let Some(to) = transfer.filter(|to| *to != self.id && core.leadership().is_leader) {
            trace!(around.trace, "member {} hands leadership to {to}", self.id);
            let deadline = now + Duration::from_micros(REQUEST_TIMEOUT);
            let id = self.ids.next_id();
            self.transfers.insert(id);
            batch.controls.push(Control::Transfer { id, to, deadline });
        }
        self.finish_jobs(now, batch, around)
    }

    /// Finishes jobs whose time has come; the member learns of them in a later turn.
    fn finish_jobs(
        &mut self,
        now: Instant,
        batch: &mut Batch,
        around: &mut Around<'_>,
    ) -> Result<(), LifeEnd> {
        for pending in std::mem::take(&mut self.jobs) {
            match pending {
                PendingJob::Under(at, job) if at <= around.now => {
                    trace!(around.trace, "member {}: {} is done", self.id, name(&job));
                    let control = job.run(&*self.engine, || now);
                    if let Control::Applied(applied) = &control
                        && let Some((group, outcomes, machine)) = applied.group()
                        && !group.is_empty()
                    {
                        self.check_group(group, outcomes, machine, around)?;
                    }
                    let told = around.now + around.rng.below(JOB_USUAL);
                    self.jobs.push(PendingJob::Done(told, control));
                }
                PendingJob::Done(at, control) if at <= around.now => batch.controls.push(control),
                later => self.jobs.push(later),
            }
        }
        Ok(())
    }

    fn message(
        &mut self,
        now: Instant,
        message: raftpb::Message,
        batch: &mut Batch,
        around: &mut Around<'_>,
    ) -> Result<(), LifeEnd> {
        if self.shared.membership().removed.contains(&message.from()) {
            return Ok(());
        }
        if message.from() == self.id && message.r#type() == MessageType::MsgReadIndex {
            // A read that it forwarded to a former leader came back, now that it leads itself: refused, and harmless
            // because the read was asked again.
            trace!(around.trace, "member {} gets its own read", self.id);
            return Ok(());
        }
        match incoming(message, self.id, &around.rules.limits)
            .map_err(|error| format!("member {}: {error}", self.id))?
        {
            Incoming::Step(checked) => batch.messages.push((checked, None)),
            Incoming::Proposals(Forwarded { hops, left, entries }) => {
                let timeout = Duration::from_micros(REQUEST_TIMEOUT);
                let deadline = now + left.map_or(timeout, |left| left.min(timeout));
                let entries = entries.into_iter();
                batch
                    .proposals
                    .extend(entries.map(|(kind, data)| Proposal::forwarded(kind, data, deadline, hops)));
            }
            Incoming::Snapshot { .. } => return Err(format!("member {} got a snapshot", self.id).into()),
        }
        Ok(())
    }

    fn request(
        &mut self,
        now: Instant,
        ask: Ask,
        waiter: Waiter,
        batch: &mut Batch,
        around: &mut Around<'_>,
    ) -> Result<(), LifeEnd> {
        match ask {
            Ask::Write(command) => self.write(now, &command, waiter, batch, around),
            Ask::Change(mut change) => {
                let id = self.ids.next_id();
                change.id = Some(id);
                trace!(around.trace, "member {} is asked for a change {id:x}: {change:?}", self.id);
                let deadline = now + Duration::from_micros(REQUEST_TIMEOUT);
                self.wait_for(id, now, deadline, Waits::Client(waiter));
                let data = change.encode_to_vec().into();
                let proposal = Proposal::new(id, EntryKind::ConfChange, data, deadline);
                batch.proposals.push(self.with_room(proposal));
            }
            Ask::Read(question) if !question.linearizable => self.answer_read(waiter, around)?,
            Ask::Read(_) => {
                let token = self.read(Waits::Client(waiter), batch);
                trace!(around.trace, "member {} is asked to read, {token}", self.id);
            }
            Ask::KeepAlive(_) => unreachable!("keepalives were taken out"),
        }
        Ok(())
    }

    fn write(
        &mut self,
        now: Instant,
        command: &Command,
        waiter: Waiter,
        batch: &mut Batch,
        around: &mut Around<'_>,
    ) {
        let (id, deadline) = (self.ids.next_id(), now + Duration::from_micros(REQUEST_TIMEOUT));
        trace!(around.trace, "member {} is asked to write {id:x}: {}", self.id, command.kind().name());
        if command.kind() == Kind::LeaseRevoke {
            around.oracle.promises.revokes(id);
        }
        if around.rules.mutation == Some(Mutation::AnswerBeforeCommit) {
            let Waiter { client, number, .. } = waiter;
            let revision = Some(around.oracle.floor());
            around.answers.push((self.clock, ClientAnswer { client, number, request_id: id, revision }));
        } else {
            self.wait_for(id, now, deadline, Waits::Client(waiter));
        }
        let proposal = Proposal::of_command(command, id, deadline);
        batch.proposals.push(self.with_room(proposal));
    }

    pub(super) fn wait_for(&mut self, id: u64, since: Instant, deadline: Instant, reply: Waits) {
        self.waiters.insert(id, raft_node::waiters::Waiter { reply, since, deadline });
    }

    /// Gives the proposal queue space until it is logged or dropped.
    fn with_room(&self, proposal: Proposal) -> Proposal {
        Proposal { permit: Some(self.room.take(proposal.data.len())), ..proposal }
    }

    pub(super) fn read(&mut self, waits: Waits, batch: &mut Batch) -> u64 {
        self.next_read += 1;
        self.reads.insert(self.next_read, waits);
        batch.reads.push(self.next_read);
        self.next_read
    }

    pub(super) fn answer_read(&mut self, waiter: Waiter, around: &mut Around<'_>) -> Result<(), Violation> {
        let Waiter { client, number, read } = waiter;
        let (question, floor) = read.expect("a read says what it asks");
        let revision = around.oracle.read(self.id, &self.shared, &question, floor)?;
        // A serializable read says nothing about the newest revision.
        let revision = Some(if question.linearizable { revision } else { 0 });
        around.answers.push((self.clock, ClientAnswer { client, number, request_id: 0, revision }));
        Ok(())
    }

    pub(super) fn look_at_warnings(&self, around: &mut Around<'_>) -> Result<(), LifeEnd> {
        for warning in lock(&self.warnings).drain(..) {
            trace!(around.trace, "member {} warns: {warning}", self.id);
            // No correct member sends what the guard refuses for this member's log.
            if warning.contains("was its log lost")
                || warning.contains("contradicts")
                || warning.contains("never sent")
            {
                return Err(LifeEnd::Violation(format!("member {}: {warning}", self.id)));
            }
        }
        Ok(())
    }
}

fn name(job: &Job) -> &'static str {
    match job {
        Job::Flush(_) => "a flush",
        Job::Apply(_) => "a long group",
        Job::Deadlines(_) => "the deadlines of leases",
    }
}
