//! The way into the node, for any number of tasks of the runtime.
//!
//! Nothing here blocks: a request is put where the flusher task finds it, and its task waits for the answer (`tasks`).

use crate::convert::{Forwarded, Incoming, incoming};
use crate::core::Proposal;
use crate::front::{Command, Front, Inbox, Load, Outbox, Waiter, lock};
use crate::leases::Lessor;
use crate::meters::PeerDrop;
use crate::status::StatusCells;
use crate::{
    Leadership, Options, Outbound, PeerProgress, ProposeError, ReadError, RequestIds, Status, TransferError,
};
use machine::Response;
use prost::Message as _;
use proto::{etcdserverpb as pb, raftpb};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::sync::{Notify, oneshot, watch};
use types::EntryKind;

/// A member of the raft group, as the rest of the server sees it. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

type Answer = oneshot::Receiver<Result<Response, ProposeError>>;

/// What handles, tasks and the consensus thread share.
pub(crate) struct Shared {
    pub options: Options,
    pub ids: RequestIds,
    pub front: Mutex<Front>,
    pub inbox: Inbox,
    pub outbox: Outbox,
    pub load: Load,
    pub lessor: Lessor,
    pub cells: StatusCells,
    pub flush: Notify,
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
    /// What the node measures of itself.
    pub fn meters(&self) -> &crate::Meters {
        &self.shared.meters
    }

    /// Gives the request its place in the log and answers what it did. The header's ID is filled in here; user name and
    /// auth revision stay as they are. Waits for a leader if there is none, until the deadline (the caller's, but no
    /// later than the request timeout). Dropping the future takes nothing back: the request may still be applied.
    ///
    /// The request is on its way when this returns; the future only waits, so that the envelope with its 40 options is
    /// not part of it.
    pub fn propose(
        &self,
        request: pb::InternalRaftRequest,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Result<Response, ProposeError>> + Send + use<'_> {
        let submitted = self.submit_request(request, deadline);
        async move {
            let (id, answer) = submitted?;
            self.shared.answer(id, answer).await
        }
    }

    fn submit_request(
        &self,
        request: pb::InternalRaftRequest,
        deadline: Option<Instant>,
    ) -> Result<(u64, Answer), ProposeError> {
        let (since, deadline) = self.shared.times(deadline);
        let proposal = self.shared.entry(request, deadline);
        if proposal.data.len() > self.shared.options.max_request_bytes {
            return Err(ProposeError::TooLarge);
        }
        let (reply, answer) = oneshot::channel();
        let id = proposal.id;
        self.shared.submit(proposal, Waiter::Request { reply, since, deadline })?;
        Ok((id, answer))
    }

    /// Proposes a change of members, as etcd's; its ID is filled in here. Checks that depend on the members (strict
    /// reconfiguration, a learner's progress) are the caller's.
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
        let proposal = Proposal { id, kind: EntryKind::ConfChange, data, deadline, hops: 0 };
        self.shared.submit(proposal, Waiter::Change { reply, since, deadline })?;
        self.shared.answer(id, answer).await
    }

    /// Returns when this member has applied all that was acknowledged anywhere before the call: what is read after it
    /// is linearizable. All reads that wait share one round.
    pub async fn read_barrier(&self, deadline: Option<Instant>) -> Result<(), ReadError> {
        let (reply, answer) = oneshot::channel();
        {
            let mut front = lock(&self.shared.front);
            if front.ended.is_some() {
                return Err(ReadError::Stopped);
            }
            if front.reads_waiting >= self.shared.options.limits.inbox_entries {
                return Err(ReadError::TooManyRequests);
            }
            front.reads_waiting += 1;
            front.reads.push(reply);
            self.shared.flush_later(&mut front);
        }
        // Without an own deadline the round's is enough: it is the request timeout.
        let answer = match deadline {
            None => answer.await,
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), answer).await {
                Ok(answer) => answer,
                Err(_) => return Err(ReadError::Timeout),
            },
        };
        answer.unwrap_or(Err(ReadError::Stopped))
    }

    /// Takes a peer's message. What raft must not see is dropped here, with a line in the log.
    pub fn deliver(&self, message: raftpb::Message) {
        let from = message.from();
        if self.shared.machine.membership().removed.contains(&from) {
            self.shared.meters.peer_dropped(PeerDrop::Removed);
            slog::debug!(self.shared.log, "dropped a removed member's message"; "from" => format!("{from:x}"));
            return;
        }
        let limits = &self.shared.options.limits;
        match incoming(message, self.shared.options.member, limits) {
            Ok(Incoming::Step(checked)) => {
                let (load, bytes) = (&self.shared.load, checked.bytes());
                if load.messages.load(Relaxed) >= limits.inbox_messages.max(1)
                    || load.message_bytes.load(Relaxed) >= limits.inbox_message_bytes.max(1)
                {
                    self.shared.meters.peer_dropped(PeerDrop::Full);
                    return;
                }
                load.messages.fetch_add(1, Relaxed);
                load.message_bytes.fetch_add(bytes, Relaxed);
                let mut front = lock(&self.shared.front);
                front.gathered.messages.push(checked);
                self.shared.flush_later(&mut front);
            }
            Ok(Incoming::Proposals(forwarded)) => self.shared.take_forwarded(forwarded),
            Ok(Incoming::Snapshot { from, index }) => slog::warn!(self.shared.log,
                "snapshots from peers are not supported yet: dropped one";
                "from" => format!("{from:x}"), "index" => index),
            Err(reason) => {
                self.shared.meters.peer_dropped(PeerDrop::Invalid);
                slog::warn!(self.shared.log, "dropped a peer's message that is not valid";
                    "from" => format!("{from:x}"), "reason" => %reason);
            }
        }
    }

    /// Messages to this member do not arrive.
    pub fn report_unreachable(&self, member: u64) {
        let mut front = lock(&self.shared.front);
        if front.ended.is_none() {
            front.gathered.unreachable.insert(member);
            self.shared.flush_later(&mut front);
        }
    }

    /// A snapshot was sent to this member, or failed.
    pub fn report_snapshot(&self, member: u64, ok: bool) {
        self.shared.command(Command::SnapshotDone { member, ok });
    }

    /// Lets an election come sooner: at the start of a member whose peers are all in reach, it may go without waiting
    /// for most of the first election timeout (etcd's `--initial-election-tick-advance`).
    pub fn advance_ticks(&self, ticks: usize) {
        self.shared.command(Command::AdvanceTicks(ticks));
    }

    /// Where this member stands.
    pub fn status(&self) -> Status {
        self.shared.cells.read(self.shared.load.entries.load(Relaxed))
    }

    /// What a leader knows of the members' logs, at most a tick old; nothing on other members.
    pub fn peers(&self) -> Vec<PeerProgress> {
        lock(&self.shared.cells.peers).clone()
    }

    /// Who leads, and every change of it.
    pub fn watch_leader(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.subscribe()
    }

    /// The applied index, as it advances.
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.shared.applied.subscribe()
    }

    /// Turns true when the node has ended: stopped, removed or failed. The thread's result says which.
    pub fn watch_ended(&self) -> watch::Receiver<bool> {
        self.shared.ended.subscribe()
    }

    /// An ID in the form of request IDs, never given twice: for leases and members.
    pub fn next_id(&self) -> u64 {
        self.shared.ids.next_id()
    }

    /// What readers of the replicated state see.
    pub fn machine(&self) -> Arc<machine::Shared> {
        Arc::clone(&self.shared.machine)
    }

    /// How this node was started.
    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    /// Hands leadership to the member, or to the best one for 0; returns when it leads.
    pub async fn transfer_leader(&self, to: u64) -> Result<(), TransferError> {
        let (reply, answer) = oneshot::channel();
        let deadline = Instant::now() + self.shared.options.request_timeout;
        let mut ended = self.shared.ended.subscribe();
        self.shared.command(Command::Transfer { to, deadline, reply });
        tokio::select! {
            biased;
            answer = answer => answer.unwrap_or(Err(TransferError::Stopped)),
            // Handed over when nobody took it any more: its reply lies in the inbox for ever.
            _ = ended.wait_for(|ended| *ended) => Err(TransferError::Stopped),
        }
    }

    /// Ends the node: what is under way is finished, the log is synced and the engine flushed. Whoever still waits gets
    /// [`ProposeError::Stopped`]. Leadership is not handed over: [`Handle::transfer_leader`] first.
    pub async fn stop(&self) {
        let mut ended = self.shared.ended.subscribe();
        self.shared.command(Command::Stop);
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

    /// An entry to be, with a request ID of its own.
    pub(crate) fn entry(&self, mut request: pb::InternalRaftRequest, deadline: Instant) -> Proposal {
        let id = self.ids.next_id();
        request.header.get_or_insert_default().id = id;
        Proposal { id, kind: EntryKind::Normal, data: request.encode_to_vec().into(), deadline, hops: 0 }
    }

    /// Registers who waits for an entry that goes its own way to the log.
    pub(crate) fn watch_for(&self, id: u64, waiter: Waiter) -> Result<(), ProposeError> {
        let mut front = lock(&self.front);
        if let Some(error) = &front.ended {
            return Err(error.clone());
        }
        self.register(&mut front, id, waiter);
        Ok(())
    }

    fn register(&self, front: &mut Front, id: u64, waiter: Waiter) {
        let deadline = waiter.deadline();
        front.waiters.insert(id, waiter);
        if front.first_deadline.is_none_or(|first| deadline < first) {
            front.first_deadline = Some(deadline);
            self.deadlines.notify_one();
        }
    }

    fn submit(&self, proposal: Proposal, waiter: Waiter) -> Result<(), ProposeError> {
        let bytes = proposal.data.len();
        if self.is_full() {
            return Err(ProposeError::TooManyRequests);
        }
        let mut front = lock(&self.front);
        if let Some(error) = &front.ended {
            return Err(error.clone());
        }
        if front.waiters.len() >= self.options.limits.waiters.max(1) {
            return Err(ProposeError::TooManyRequests);
        }
        self.load.add(bytes);
        self.register(&mut front, proposal.id, waiter);
        front.gathered.proposals.push(proposal);
        self.flush_later(&mut front);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.load.entries.load(Relaxed) >= self.options.limits.inbox_entries.max(1)
            || self.load.bytes.load(Relaxed) >= self.options.limits.inbox_bytes.max(1)
    }

    fn flush_later(&self, front: &mut Front) {
        if !std::mem::replace(&mut front.flush_due, true) {
            self.flush.notify_one();
        }
    }

    /// A follower's proposals wait as our own do, but no longer than it was told that they may; it classifies its own
    /// timeouts.
    fn take_forwarded(&self, forwarded: Forwarded) {
        let Forwarded { hops, left, entries } = forwarded;
        let timeout = self.options.request_timeout;
        let deadline = Instant::now() + left.map_or(timeout, |left| left.min(timeout));
        let mut front = lock(&self.front);
        for (kind, data) in entries {
            if self.is_full() {
                self.meters.peer_dropped(PeerDrop::Full);
                break;
            }
            self.load.add(data.len());
            front.gathered.proposals.push(Proposal { id: 0, kind, data, deadline, hops });
        }
        self.flush_later(&mut front);
    }

    pub(crate) fn command(&self, command: Command) {
        let mut front = lock(&self.front);
        // After the end nobody reads it: dropping a transfer's reply answers it.
        if front.ended.is_none() {
            front.gathered.commands.push(command);
            self.flush_later(&mut front);
        }
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

    /// etcd's `parseProposeCtxErr`: what a request that waited from `since` to now most likely suffered from.
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
        self.cells.read(self.load.entries.load(Relaxed))
    }
}

/// Takes the waiter back when its task goes away before the answer.
struct Registered<'a> {
    shared: &'a Shared,
    id: u64,
    done: bool,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        if !self.done {
            lock(&self.shared.front).waiters.remove(&self.id);
        }
    }
}
