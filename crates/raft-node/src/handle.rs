//! The node's interface for tasks of the runtime. Nothing blocks: requests are queued, and a task hands them over
//! (`tasks`).

use crate::convert::{Rejected, incoming};
use crate::core::Proposal;
use crate::lessor::Lessor;
use crate::member::{Control, Install};
use crate::meters::PeerDrop;
use crate::pending::{PendingRequests, Undelivered};
use crate::queues::{Channels, Inbox, Outbox, Reply};
use crate::room::Room;
use crate::status::StatusCells;
use crate::waiters::Waiter;
use crate::{
    Leadership, Options, Outbound, PeerProgress, ProposeError, ReadError, RequestIds, SnapshotHead, Status,
    TransferError,
};
use machine::{Answer as _, Command, Machine, Request, Response};
use prost::Message as _;
use proto::raftpb;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::sync::{Notify, oneshot, watch};
use types::{EntryKind, lock};

/// A handle on the raft member for the rest of the server. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

type Answer = oneshot::Receiver<Result<Response, ProposeError>>;

pub(crate) struct Shared {
    pub options: Options,
    pub ids: Arc<RequestIds>,
    pub pending: Mutex<PendingRequests<Channels>>,
    pub inbox: Inbox,
    pub outbox: Outbox,
    /// The room of proposals that wait to reach the log.
    pub proposals: Arc<Room>,
    pub lessor: Arc<Lessor>,
    pub cells: StatusCells,
    pub gathered: Notify,
    pub deadlines: Notify,
    pub leadership: watch::Sender<Leadership>,
    pub applied: watch::Sender<u64>,
    pub ended: watch::Sender<bool>,
    pub machine: Arc<machine::Shared>,
    pub outbound: Arc<dyn Outbound>,
    pub meters: crate::Meters,
    pub log: slog::Logger,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Handle {
    /// The node's metrics and counters.
    pub fn meters(&self) -> &crate::Meters {
        &self.shared.meters
    }

    /// Proposes the request and answers what it did. Waits for a leader, until the deadline (at most the request
    /// timeout). It is queued when this returns; dropping the future takes nothing back: it may still be applied.
    pub fn propose<R: Request>(
        &self,
        request: R,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Result<R::Answer, ProposeError>> + Send + use<'_, R> {
        let submitted = self.submit_command(&request.into(), deadline);
        async move {
            let (id, answer) = submitted?;
            // Another request's answer would be a broken invariant of ours, told to this client alone.
            R::Answer::of(self.shared.answer(id, answer).await?).ok_or(ProposeError::Fault)
        }
    }

    fn submit_command(
        &self,
        command: &Command,
        deadline: Option<Instant>,
    ) -> Result<(u64, Answer), ProposeError> {
        let (since, deadline) = self.shared.times(deadline);
        let proposal = self.shared.entry(command, deadline);
        if proposal.data.len() > self.shared.options.max_request_bytes {
            return Err(ProposeError::TooLarge);
        }
        let (reply, answer) = oneshot::channel();
        let (id, waiter) = (proposal.id, Waiter { reply: Reply::Request(reply), since, deadline });
        self.shared.ask(|pending| pending.propose(proposal, waiter))?;
        Ok((id, answer))
    }

    /// Proposes a membership change in etcd's form; sets its ID. Checks that depend on the members are the caller's.
    pub async fn propose_conf_change(
        &self,
        mut change: raftpb::ConfChange,
        deadline: Option<Instant>,
    ) -> Result<(), ProposeError> {
        let id = self.shared.ids.next_id();
        change.id = Some(id);
        let (since, deadline) = self.shared.times(deadline);
        let (reply, answer) = oneshot::channel();
        let data = change.encode_to_vec().into();
        let proposal = Proposal::new(id, EntryKind::ConfChange, data, deadline);
        let waiter = Waiter { reply: Reply::Change(reply), since, deadline };
        self.shared.ask(|pending| pending.propose(proposal, waiter))?;
        self.shared.answer(id, answer).await
    }

    /// Waits until this member has applied everything acknowledged anywhere before the call, so that a read is
    /// linearizable. All waiting reads share one round.
    pub async fn read_barrier(&self, deadline: Option<Instant>) -> Result<(), ReadError> {
        let (reply, answer) = oneshot::channel();
        self.shared.ask(|pending| pending.read(reply))?;
        // Without a deadline of its own, the round's counts: the request timeout.
        let answer = match deadline {
            None => answer.await,
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), answer).await {
                Ok(answer) => answer,
                Err(_) => return Err(ReadError::Timeout),
            },
        };
        answer.unwrap_or(Err(ReadError::Stopped))
    }

    /// Accepts a peer's message. Messages that raft must not see are dropped and logged.
    pub fn deliver(&self, message: raftpb::Message) {
        let from = message.from();
        if self.shared.machine.membership().removed.contains(&from) {
            self.shared.meters.peer_dropped(PeerDrop::Removed);
            slog::debug!(self.shared.log, "dropped a removed member's message"; "from" => format!("{from:x}"));
            return;
        }
        let checked = match incoming(message, self.shared.options.member, &self.shared.options.limits) {
            Ok(checked) => checked,
            Err(reason) => {
                self.shared.meters.peer_dropped(PeerDrop::Invalid);
                slog::warn!(self.shared.log, "dropped a peer's message that is not valid";
                    "from" => format!("{from:x}"), "reason" => %reason);
                return;
            }
        };
        if let Err(Undelivered) = self.shared.ask(|pending| pending.deliver(Instant::now(), checked)) {
            self.shared.meters.peer_dropped(PeerDrop::Full);
        }
    }

    /// Checks the head of a leader's snapshot, before its database is read.
    pub fn check_snapshot(&self, message: &raftpb::Message) -> Result<SnapshotHead, Rejected> {
        SnapshotHead::of(message, self.shared.options.member)
    }

    /// Goes on from a leader's snapshot: the state was opened on an engine that is durable. Whether raft took it is seen
    /// by the applied index; if not, because this member has come further by itself, the state is dropped.
    pub fn install(&self, head: SnapshotHead, state: Machine) {
        self.shared.control(Control::Install(Box::new(Install::new(head, state))));
    }

    /// Reports that messages to this member are not delivered.
    pub fn report_unreachable(&self, member: u64) {
        self.shared.ask(|pending| pending.unreachable(member));
    }

    /// Reports that a snapshot was sent to this member, or failed.
    pub fn report_snapshot(&self, member: u64, ok: bool) {
        self.shared.control(Control::SnapshotDone { member, ok });
    }

    /// Advances the election clock, if all peers are reachable (etcd's `--initial-election-tick-advance`).
    pub fn advance_ticks(&self, ticks: usize) {
        self.shared.control(Control::AdvanceTicks(ticks));
    }

    /// A reading of this member's state.
    pub fn status(&self) -> Status {
        self.shared.cells.read(self.shared.proposals.count())
    }

    /// A leader's knowledge of the members' logs, at most one tick old; empty on other members.
    pub fn peers(&self) -> Vec<PeerProgress> {
        lock(&self.shared.cells.peers).clone()
    }

    /// The leadership, with notifications of changes.
    pub fn watch_leader(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.subscribe()
    }

    /// The applied index, with notifications of changes.
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.shared.applied.subscribe()
    }

    /// Becomes true when the node has ended: stopped, removed or failed. The thread's result says which.
    pub fn watch_ended(&self) -> watch::Receiver<bool> {
        self.shared.ended.subscribe()
    }

    /// A new unique ID in the form of request IDs: for leases and members.
    pub fn next_id(&self) -> u64 {
        self.shared.ids.next_id()
    }

    /// The replicated state, for readers.
    pub fn machine(&self) -> Arc<machine::Shared> {
        Arc::clone(&self.shared.machine)
    }

    /// The options this node was started with.
    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    /// Transfers leadership to the member, or to the best one for 0; returns once it leads.
    pub async fn transfer_leader(&self, to: u64) -> Result<(), TransferError> {
        let (reply, answer) = oneshot::channel();
        let deadline = Instant::now() + self.shared.options.request_timeout;
        let id = self.shared.ids.next_id();
        self.shared.ask(|pending| pending.transfer(id, to, deadline, reply))?;
        // At the end of the node all replies go.
        answer.await.unwrap_or(Err(TransferError::Stopped))
    }

    /// Stops the node: finishes work, syncs the log, flushes the engine; waiters get [`ProposeError::Stopped`]. Does
    /// not transfer leadership: call [`Handle::transfer_leader`] first.
    pub async fn stop(&self) {
        let mut ended = self.shared.ended.subscribe();
        self.shared.control(Control::Stop);
        // An error means that the node and its sender are gone.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

impl Shared {
    fn times(&self, deadline: Option<Instant>) -> (Instant, Instant) {
        let now = Instant::now();
        let latest = now + self.options.request_timeout;
        (now, deadline.map_or(latest, |deadline| deadline.min(latest)))
    }

    pub(crate) fn entry(&self, command: &Command, deadline: Instant) -> Proposal {
        Proposal::of_command(command, self.ids.next_id(), deadline)
    }

    pub(crate) fn control(&self, control: Control) {
        self.ask(|pending| pending.control(control));
    }

    /// Asks the member for something; wakes the tasks that have to know.
    pub(crate) fn ask<T>(&self, act: impl FnOnce(&mut PendingRequests<Channels>) -> T) -> T {
        let mut pending = lock(&self.pending);
        let before = pending.first_deadline();
        let result = act(&mut pending);
        let is_first =
            pending.first_deadline().is_some_and(|first| before.is_none_or(|before| first < before));
        let has_news = pending.has_news();
        drop(pending);
        if is_first {
            self.deadlines.notify_one();
        }
        if has_news {
            self.gathered.notify_one();
        }
        result
    }

    pub(crate) async fn answer<T>(
        &self,
        id: u64,
        answer: oneshot::Receiver<Result<T, ProposeError>>,
    ) -> Result<T, ProposeError> {
        let mut guard = Registered { shared: self, id, done: false };
        let answer = answer.await;
        guard.done = true;
        answer.unwrap_or(Err(ProposeError::Stopped))
    }

    /// etcd's `parseProposeCtxErr`: the most likely reason why a request waiting since `since` timed out.
    pub(crate) fn timeout(&self, since: Instant) -> ProposeError {
        let status = self.status();
        let lost = *lock(&self.cells.leader_lost);
        if status.leader == 0 && lost.is_none_or(|lost| lost <= since) {
            return ProposeError::NotProposed;
        }
        let elected = *lock(&self.cells.leader_since);
        if let Some(elected) = elected
            && since < elected
            && since + 2 * self.options.election_timeout() > elected
        {
            return ProposeError::TimeoutLeaderLost;
        }
        let reached_since =
            |member: u64| self.outbound.active_since(member).is_some_and(|active| active < since);
        let lost = if status.is_leader {
            let membership = self.machine.membership();
            let voters = || membership.members.values().filter(|member| !member.is_learner);
            let reached = voters()
                .filter(|member| member.id == self.options.member || reached_since(member.id))
                .count();
            reached < voters().count() / 2 + 1
        } else {
            status.leader != 0 && !reached_since(status.leader)
        };
        if lost { ProposeError::TimeoutConnectionLost } else { ProposeError::Timeout }
    }

    fn status(&self) -> Status {
        self.cells.read(self.proposals.count())
    }
}

/// Removes the waiter if its task is dropped before the result.
struct Registered<'a> {
    shared: &'a Shared,
    id: u64,
    done: bool,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        if !self.done {
            lock(&self.shared.pending).take_waiter(self.id);
        }
    }
}
