//! The world of a simulated member: virtual time, crashes between two steps, a network, oracles that check each
//! group.

use super::{
    Around, ClientAnswer, DECIDE_MAX, ELECTION_TICKS, JOB_MAX, JOB_USUAL, LifeEnd, Own, PendingJob, SYNC_MAX,
    Waiter, Waits,
};
use crate::Violation;
use crate::client::{NOBODY, alarm};
use crate::drawn::count_draw;
use crate::oracle::Oracle;
use crate::trace::trace;
use machine::{Effect, Machine, Membership, Outcome};
use proto::etcdserverpb::AlarmType;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::raftpb::{self, MessageType};
use raft_node::core::Log;
use raft_node::member::{Done, Job, MemberStatus, Step, Stop, World};
use raft_node::{NodeFault, PeerProgress, ProposeError};
use std::sync::Arc;
use std::time::Instant;
use types::{Entry, Index};

pub(super) struct Stage<'a, 'w> {
    pub(super) own: &'a mut Own,
    pub(super) around: &'a mut Around<'w>,
}

impl World for Stage<'_, '_> {
    type Halt = LifeEnd;

    fn now(&mut self) -> Instant {
        self.around.rules.instant(self.own.clock)
    }

    fn at(&mut self, step: Step, log: &dyn Log) -> Result<(), LifeEnd> {
        match step {
            Step::BeforeWrite => {
                self.own.operations = self.own.disk.operations();
                self.crash_point("before its write")
            }
            Step::Synced => {
                if self.own.disk.operations() != self.own.operations {
                    let sync = self.around.rules.sync_micros;
                    let hangs = self.around.rng.per_mille(self.around.rules.hangs_per_mille);
                    if hangs {
                        count_draw("sync that hangs");
                    }
                    let longest = if hangs { SYNC_MAX } else { sync };
                    self.own.clock += self.around.rng.between(sync / 4, longest);
                }
                self.crash_point("after its sync")
            }
            Step::BeforeApply => self.crash_point("before it applied"),
            Step::Flushed => {
                trace!(
                    self.around.trace,
                    "member {} has flushed, log from {}",
                    self.own.id,
                    log.first_index()
                );
                self.crash_point("after a flush")
            }
            Step::Installed => self.crash_point("after it installed a snapshot"),
        }
    }

    fn election_ticks(&mut self) -> Option<usize> {
        if self.around.rng.one_in(12) {
            self.draw_election();
        }
        Some(self.own.election_ticks)
    }

    /// Groups end as the seed says, and at every index where states are compared.
    fn group(&mut self, committed: &mut Vec<Entry>) {
        let split = self.around.rules.group_split_per_mille;
        let rng = &mut *self.around.rng;
        let ends = |entry: &Entry| Oracle::is_checkpoint(entry.index) || rng.per_mille(split);
        if let Some(last) = committed.iter().position(ends) {
            committed.truncate(last + 1);
        }
    }

    fn applied(&mut self, group: &[Entry], outcomes: &[Outcome], machine: &Machine) -> Result<(), LifeEnd> {
        // Groups applied elsewhere were checked there.
        if group.last().is_some_and(|last| last.index > self.own.checked) {
            self.own.check_group(group, outcomes, machine, self.around)?;
        }
        self.crash_point("after it applied")
    }

    fn send(&mut self, messages: Vec<raftpb::Message>) -> Result<(), LifeEnd> {
        for message in messages {
            self.around.oracle.sent(self.own.id, &message)?;
            if message.r#type() == MessageType::MsgSnap {
                self.check_need(message.to())?;
                self.own.asked_for_snapshot(message, self.around);
            } else {
                self.around.sent.push((self.own.clock, message));
            }
        }
        Ok(())
    }

    fn installed(&mut self, index: Index, _former: Machine) -> Result<(), LifeEnd> {
        Ok(self.own.installed(index, self.around)?)
    }

    fn hand_back(&mut self, done: &mut Vec<Done>) -> Result<(), LifeEnd> {
        for done in done.drain(..) {
            match done {
                Done::Outcomes(outcomes) => {
                    for outcome in outcomes {
                        self.complete(&outcome)?;
                    }
                }
                Done::Reads(rounds, result) => {
                    for round in rounds {
                        self.round_ended(round, result.is_ok())?;
                    }
                }
                Done::Failed(id, error) => self.failed(id, &error)?,
                Done::Transferred(id, _) => {
                    if self.own.pending.take_transfer(id).is_none() {
                        return Err(format!("member {}: transfer {id} ended twice", self.own.id).into());
                    }
                }
                Done::Ended(_) => {}
            }
        }
        Ok(())
    }

    fn start(&mut self, job: Job) -> Result<(), Job> {
        let longest = if self.around.rng.one_in(200) { JOB_MAX } else { JOB_USUAL };
        let at = self.own.clock + self.around.rng.below(longest);
        let now = self.now();
        self.own.jobs.push(match job {
            // It need not include more than was written before it began.
            Job::Flush(..) => PendingJob::Done(at, job.run(|| now)),
            job => PendingJob::Under(at, job),
        });
        Ok(())
    }

    fn status_changed(&mut self, status: &MemberStatus) {
        self.own.status = *status;
    }

    fn leadership_changed(&mut self, status: &MemberStatus) {
        self.own.status = *status;
        let now = status.leadership;
        trace!(self.around.trace, "member {}: term {}, leader {}", self.own.id, now.term, now.leader);
        self.draw_election();
    }

    fn peers(&mut self, _peers: Vec<PeerProgress>) {}

    fn members_changed(&mut self, _membership: Arc<Membership>, _is_learner: bool) {
        // The other members have to be asked first.
        self.own.decide_at = Some(self.own.clock + self.around.rng.below(DECIDE_MAX));
    }
}

impl Stage<'_, '_> {
    fn draw_election(&mut self) {
        let extra = self.around.rng.below(ELECTION_TICKS as u64);
        self.own.election_ticks = ELECTION_TICKS + usize::try_from(extra).expect("a few ticks");
    }

    /// Whether this member may need a snapshot: in some runs the log is kept for those who have its beginning, by all who
    /// have it themselves.
    fn check_need(&self, to: u64) -> Result<(), Violation> {
        let rules = self.around.rules;
        let is_kept = rules.limits.keep_lagging_steps == usize::MAX && !self.own.states.are_a_snapshots();
        if is_kept && to <= rules.founders {
            let id = self.own.id;
            return Err(format!("member {id} has no log for member {to}, which was to be kept for it"));
        }
        Ok(())
    }

    fn crash_point(&mut self, place: &'static str) -> Result<(), LifeEnd> {
        match &mut self.own.crash_in {
            Some(0) => Err(LifeEnd::Crash(place)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn complete(&mut self, outcome: &Outcome) -> Result<(), LifeEnd> {
        let (id, index) = (self.own.id, outcome.index);
        if self.own.status.applied < index {
            return Err(format!("member {id} answers index {index} before its status has it").into());
        }
        let request_id = outcome.request_id;
        if outcome.over_quota {
            count_draw("quota passed");
            let raises = alarm(AlarmAction::Activate, AlarmType::Nospace, id);
            self.own.inbox.requests.push((raises, Waiter { client: NOBODY, number: 0, read: None }));
        }
        match self.own.pending.take_waiter(request_id) {
            None => {}
            Some(Waits::Keepalive(keepalive)) => self.own.waited(*keepalive, true, self.around),
            Some(Waits::Client(Waiter { client, number, .. })) => {
                let revision = match &outcome.effect {
                    Effect::Answer(Ok(response)) => Some(response.revision()),
                    // A refusal is an answer too; what it says was compared with the model.
                    _ => Some(0),
                };
                self.around
                    .answers
                    .push((self.own.clock, ClientAnswer { client, number, request_id, revision }));
            }
        }
        Ok(())
    }

    fn round_ended(&mut self, round: u64, is_ok: bool) -> Result<(), LifeEnd> {
        let Some(reads) = self.own.pending.take_round(round) else {
            return Err(format!("member {}: round {round} ended twice", self.own.id).into());
        };
        for waits in reads {
            match waits {
                Waits::Client(waiter) if is_ok => self.own.answer_read(waiter, self.around)?,
                Waits::Client(Waiter { client, number, .. }) => {
                    trace!(self.around.trace, "member {}: round {round} failed", self.own.id);
                    let answer = ClientAnswer { client, number, request_id: 0, revision: None };
                    self.around.answers.push((self.own.clock, answer));
                }
                Waits::Keepalive(keepalive) => self.own.waited(*keepalive, is_ok, self.around),
            }
        }
        Ok(())
    }

    fn failed(&mut self, id: u64, error: &ProposeError) -> Result<(), LifeEnd> {
        trace!(self.around.trace, "member {}: request {id:x} refused: {error}", self.own.id);
        if let Some(Waits::Keepalive(keepalive)) = self.own.pending.take_waiter(id) {
            self.own.waited(*keepalive, false, self.around);
        }
        // Entries for one term's leader sometimes come too late.
        if matches!(error, ProposeError::NotEnoughMembers | ProposeError::NoLeader) {
            return Ok(());
        }
        Err(format!("member {}: request {id:x} refused: {error}", self.own.id).into())
    }
}

impl Own {
    /// Checks a group that was applied, here or elsewhere.
    pub(super) fn check_group(
        &mut self,
        group: &[Entry],
        outcomes: &[Outcome],
        machine: &Machine,
        around: &mut Around<'_>,
    ) -> Result<(), Violation> {
        let id = self.id;
        if group[0].index > self.checked + 1 {
            return Err(format!("member {id} applies index {} after {}", group[0].index, self.checked));
        }
        let skipped = group.len() - outcomes.len();
        for (entry, outcome) in group[skipped..].iter().zip(outcomes) {
            around.oracle.applied(id, entry, outcome, around.now..=self.clock)?;
        }
        let (rows, history) = around.oracle.group_ended(id, machine, &self.engine)?;
        let (first, last) = (group[0].index, group[group.len() - 1].index);
        trace!(around.trace, "member {id} applies {first}..={last}: {rows:016x} {history:08x}");
        self.checked = last;
        self.watching.applied();
        Ok(())
    }

    pub(super) fn end(&self, stop: Stop<LifeEnd>) -> LifeEnd {
        match stop {
            Stop::Halt(end) => end,
            Stop::Fault(NodeFault::Log(_)) if self.disk_fails => LifeEnd::Crash("its disk failed"),
            Stop::Fault(fault) => LifeEnd::Violation(format!("member {}: {fault}", self.id)),
        }
    }
}
