//! Inputs of a member between two turns, passed on as its process would.

use super::{
    Around, ClientAnswer, Inputs, JOB_USUAL, LifeEnd, Own, PendingJob, REQUEST_TIMEOUT, Waiter, Waits,
};
use crate::Violation;
use crate::client::{Ask, NOBODY};
use crate::drawn::count_draw;
use crate::trace::trace;
use machine::{Command, Kind};
use prost::Message as _;
use proto::raftpb::{self, MessageType};
use raft_node::Renewing;
use raft_node::convert::incoming;
use raft_node::core::{Core, Proposal};
use raft_node::member::{Batch, Control, Job};
use raft_node::pending::Undelivered;
use raft_node::waiters::Waiter as Waiting;
use std::time::{Duration, Instant};
use types::mutant::{Mutant, is};
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
        if around.rng.one_in(around.rules.tidies_one_in) {
            self.states.tidy(self.shared.applied_index());
        }
        let inbox = std::mem::take(&mut self.inbox);
        let Inputs { messages, requests, unreachable, transfer, snapshots, snapshots_done } = inbox;
        for (renewing, waiter) in std::mem::take(&mut self.renewals) {
            self.keep_alive(now, renewing, &waiter, around);
        }
        for (ask, waiter) in &requests {
            if let Ask::KeepAlive(id) = ask {
                let deadline = now + Duration::from_micros(REQUEST_TIMEOUT);
                self.keep_alive(now, Renewing::new(*id, deadline), waiter, around);
            }
        }
        for bytes in messages {
            let message = raftpb::Message::decode(bytes).expect("these bytes were encoded here");
            self.message(now, message, around)?;
        }
        for (ask, waiter) in requests {
            self.request(now, ask, waiter, around)?;
        }
        for member in unreachable {
            self.pending.unreachable(member);
        }
        for (member, ok) in snapshots_done {
            self.pending.control(Control::SnapshotDone { member, ok });
        }
        for parcel in snapshots {
            self.snapshot_arrives(parcel, around);
        }
        if let Some(to) = transfer.filter(|to| *to != self.id && core.leadership().is_leader) {
            trace!(around.trace, "member {} hands leadership to {to}", self.id);
            let deadline = now + Duration::from_micros(REQUEST_TIMEOUT);
            let id = self.ids.next_id();
            self.pending.transfer(id, to, deadline, ()).expect("this member has not ended");
        }
        self.finish_jobs(now, around)?;
        self.pending.take(batch);
        Ok(())
    }

    /// Finishes jobs whose time has come; the member learns of them in a later turn.
    fn finish_jobs(&mut self, now: Instant, around: &mut Around<'_>) -> Result<(), LifeEnd> {
        for pending in std::mem::take(&mut self.jobs) {
            match pending {
                PendingJob::Under(at, job) if at <= around.now => {
                    trace!(around.trace, "member {}: {} is done", self.id, name(&job));
                    let control = job.run(|| now);
                    if let Control::Applied(applied) = &control
                        && let Some((group, outcomes, machine)) = applied.group()
                        && !group.is_empty()
                    {
                        self.check_group(group, outcomes, machine, around)?;
                    }
                    let told = around.now + around.rng.below(JOB_USUAL);
                    self.jobs.push(PendingJob::Done(told, control));
                }
                PendingJob::Done(at, control) if at <= around.now => self.pending.control(control),
                PendingJob::Export(at, message) if at <= around.now => self.export(*message, around)?,
                PendingJob::Import(at, received) if at <= around.now => self.import(*received, around)?,
                PendingJob::Install(at, staged) if at <= around.now => self.tell(*staged, around),
                later => self.jobs.push(later),
            }
        }
        Ok(())
    }

    fn message(
        &mut self,
        now: Instant,
        message: raftpb::Message,
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
        let message = incoming(message, self.id, &around.rules.limits)
            .map_err(|error| format!("member {}: {error}", self.id))?;
        if let Err(Undelivered) = self.pending.deliver(now, message) {
            count_draw("message without room");
        }
        Ok(())
    }

    fn request(
        &mut self,
        now: Instant,
        ask: Ask,
        waiter: Waiter,
        around: &mut Around<'_>,
    ) -> Result<(), LifeEnd> {
        match ask {
            Ask::Write(command) => self.write(now, &command, &waiter, around),
            Ask::Change(mut change) => {
                let id = self.ids.next_id();
                change.id = Some(id);
                trace!(around.trace, "member {} is asked for a change {id:x}: {change:?}", self.id);
                let deadline = now + Duration::from_micros(REQUEST_TIMEOUT);
                let data = change.encode_to_vec().into();
                self.propose(now, Proposal::new(id, EntryKind::ConfChange, data, deadline), &waiter, around);
            }
            Ask::Read(question) if !question.linearizable => self.answer_read(waiter, around)?,
            Ask::Read(_) => {
                trace!(around.trace, "member {} is asked to read", self.id);
                if self.pending.read(Waits::Client(waiter.clone())).is_err() {
                    self.refused(&waiter, around);
                }
            }
            // They came first.
            Ask::KeepAlive(_) => {}
        }
        Ok(())
    }

    fn write(&mut self, now: Instant, command: &Command, waiter: &Waiter, around: &mut Around<'_>) {
        let (id, deadline) = (self.ids.next_id(), now + Duration::from_micros(REQUEST_TIMEOUT));
        trace!(around.trace, "member {} is asked to write {id:x}: {}", self.id, command.kind().name());
        if command.kind() == Kind::LeaseRevoke {
            around.oracle.promises.revokes(id);
        }
        let proposal = Proposal::of_command(command, id, deadline);
        if is(Mutant::AnswerBeforeCommit) {
            let revision = Some(around.oracle.floor());
            let (client, number) = (waiter.client, waiter.number);
            around.answers.push((self.clock, ClientAnswer { client, number, request_id: id, revision }));
            let nobody = Waiter { client: NOBODY, number: 0, read: None };
            return self.propose(now, proposal, &nobody, around);
        }
        self.propose(now, proposal, waiter, around);
    }

    fn propose(&mut self, now: Instant, proposal: Proposal, waiter: &Waiter, around: &mut Around<'_>) {
        let deadline = proposal.deadline;
        let waiting = Waiting { reply: Waits::Client(waiter.clone()), since: now, deadline };
        if self.pending.propose(proposal, waiting).is_err() {
            self.refused(waiter, around);
        }
    }

    fn refused(&self, waiter: &Waiter, around: &mut Around<'_>) {
        count_draw("request without room");
        let (client, number) = (waiter.client, waiter.number);
        around.answers.push((self.clock, ClientAnswer { client, number, request_id: 0, revision: None }));
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
        Job::Flush(..) => "a flush",
        Job::Apply(_) => "a long group",
        Job::Deadlines(_) => "the deadlines of leases",
    }
}
