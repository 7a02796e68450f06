//! What a member was asked and has not answered yet: requests and peers' messages that the next turn takes, and whoever
//! waits. Each kind has its room; what finds none is refused. Pure: a process keeps it behind a lock, the simulator
//! beside its member.

use crate::convert::{Forwarded, Incoming};
use crate::core::Proposal;
use crate::member::{Batch, Control};
use crate::room::{Permit, Room};
use crate::waiters::{Waiter, Waiters};
use crate::{Options, ProposeError, ReadError, TransferError};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use types::Term;

/// How those who wait are answered: a type for each kind of question.
pub trait Replies {
    /// For an entry of the log.
    type Request;
    /// For a linearizable read.
    type Read;
    /// For a transfer of leadership.
    type Transfer;
}

/// There is no room for a peer's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undelivered;

#[derive(Debug)]
struct Round<T> {
    number: u64,
    reads: Vec<(T, Permit)>,
}

/// Requests for the next turn, and all waiters.
#[derive(Debug)]
pub struct PendingRequests<R: Replies> {
    /// For the next turn, except reads.
    gathered: Batch,
    waiters: Waiters<R::Request>,
    waiters_max: usize,
    /// Reads since the last turn: they will share one round.
    reads: Vec<(R::Read, Permit)>,
    rounds: VecDeque<Round<R::Read>>,
    next_round: u64,
    transfers: HashMap<u64, R::Transfer>,
    timeout: Duration,
    proposal_room: Arc<Room>,
    read_room: Arc<Room>,
    message_room: Arc<Room>,
    /// Whether whoever takes the next turn's requests was told that there are some.
    is_told: bool,
    ended: Option<ProposeError>,
}

impl<R: Replies> PendingRequests<R> {
    /// Nothing pending, with room by the options' limits.
    pub fn new(options: &Options) -> Self {
        let limits = &options.limits;
        Self {
            gathered: Batch::default(),
            waiters: Waiters::default(),
            waiters_max: limits.waiters.max(1),
            reads: Vec::new(),
            rounds: VecDeque::new(),
            next_round: 0,
            transfers: HashMap::new(),
            timeout: options.request_timeout,
            proposal_room: Room::new(limits.inbox_entries, limits.inbox_bytes),
            read_room: Room::new(limits.inbox_entries, usize::MAX),
            message_room: Room::new(limits.inbox_messages, limits.inbox_message_bytes),
            is_told: false,
            ended: None,
        }
    }

    /// The room of proposals that wait to reach the log.
    pub fn proposal_room(&self) -> &Arc<Room> {
        &self.proposal_room
    }

    /// Whether there is something new for the next turn; true once until [`PendingRequests::take`].
    pub fn has_news(&mut self) -> bool {
        let has_some = !self.reads.is_empty() || !self.gathered.is_empty();
        has_some && !std::mem::replace(&mut self.is_told, true)
    }

    /// Moves everything for the next turn into the batch. The reads become one round.
    pub fn take(&mut self, into: &mut Batch) {
        self.is_told = false;
        if !self.reads.is_empty() {
            self.next_round += 1;
            let reads = std::mem::take(&mut self.reads);
            self.rounds.push_back(Round { number: self.next_round, reads });
            self.gathered.reads.push(self.next_round);
        }
        into.take_from(&mut self.gathered);
    }

    /// Queues an entry; its waiter gets the outcome.
    pub fn propose(
        &mut self,
        mut proposal: Proposal,
        waiter: Waiter<R::Request>,
    ) -> Result<(), ProposeError> {
        self.check_running()?;
        if self.proposal_room.is_full() || self.waiters.len() >= self.waiters_max {
            return Err(ProposeError::TooManyRequests);
        }
        proposal.permit = Some(self.proposal_room.take(proposal.data.len()));
        self.waiters.insert(proposal.id, waiter);
        self.gathered.proposals.push(proposal);
        Ok(())
    }

    /// Queues an entry that only this term's leader may log; it takes no room, because leases must end and be renewed.
    pub fn propose_in_term(
        &mut self,
        term: Term,
        proposal: Proposal,
        waiter: Waiter<R::Request>,
    ) -> Result<(), ProposeError> {
        self.check_running()?;
        self.waiters.insert(proposal.id, waiter);
        self.gathered.controls.push(Control::ProposeInTerm { term, proposal });
        Ok(())
    }

    /// Queues a read, which shares a round with all others of the next turn.
    pub fn read(&mut self, reply: R::Read) -> Result<(), ReadError> {
        self.check_running().map_err(|_| ReadError::Stopped)?;
        if self.read_room.is_full() {
            return Err(ReadError::TooManyRequests);
        }
        self.reads.push((reply, self.read_room.take(0)));
        Ok(())
    }

    /// Queues a transfer of leadership to a member, 0 = the best one.
    pub fn transfer(
        &mut self,
        id: u64,
        to: u64,
        deadline: Instant,
        reply: R::Transfer,
    ) -> Result<(), TransferError> {
        self.check_running().map_err(|_| TransferError::Stopped)?;
        self.transfers.insert(id, reply);
        self.gathered.controls.push(Control::Transfer { id, to, deadline });
        Ok(())
    }

    /// Queues another input; after the end nobody reads it.
    pub fn control(&mut self, control: Control) {
        if self.ended.is_none() {
            self.gathered.controls.push(control);
        }
    }

    /// Notes that messages to this member are not delivered.
    pub fn unreachable(&mut self, member: u64) {
        if self.ended.is_none() {
            self.gathered.unreachable.insert(member);
        }
    }

    /// Queues a peer's message that was checked; after the end it is dropped. Forwarded entries wait as long as their
    /// sender said, and have no waiter here: the sender classifies its timeouts.
    pub fn deliver(&mut self, now: Instant, message: Incoming) -> Result<(), Undelivered> {
        match message {
            _ if self.ended.is_some() => {}
            Incoming::Step(checked) => {
                if self.message_room.is_full() {
                    return Err(Undelivered);
                }
                let permit = self.message_room.take(checked.bytes());
                self.gathered.messages.push((checked, Some(permit)));
            }
            Incoming::Proposals(Forwarded { hops, left, entries }) => {
                let deadline = now + left.map_or(self.timeout, |left| left.min(self.timeout));
                for (kind, data) in entries {
                    if self.proposal_room.is_full() {
                        return Err(Undelivered);
                    }
                    let permit = Some(self.proposal_room.take(data.len()));
                    let proposal = Proposal { permit, ..Proposal::forwarded(kind, data, deadline, hops) };
                    self.gathered.proposals.push(proposal);
                }
            }
        }
        Ok(())
    }

    /// Takes the waiter of an entry, if there still is one.
    pub fn take_waiter(&mut self, id: u64) -> Option<R::Request> {
        self.waiters.take(id).map(|waiter| waiter.reply)
    }

    /// Takes the reads of a round; `None` if it ended before.
    pub fn take_round(&mut self, round: u64) -> Option<impl Iterator<Item = R::Read> + use<R>> {
        let at = self.rounds.iter().position(|known| known.number == round)?;
        Some(self.rounds.remove(at)?.reads.into_iter().map(|(reply, _)| reply))
    }

    /// Takes the waiter of a transfer, if there still is one.
    pub fn take_transfer(&mut self, id: u64) -> Option<R::Transfer> {
        self.transfers.remove(&id)
    }

    /// When to look for expired waiters.
    pub fn first_deadline(&self) -> Option<Instant> {
        self.waiters.first_deadline()
    }

    /// Takes the waiters whose deadline has passed; their entries may still be applied.
    pub fn take_expired(&mut self, now: Instant) -> Vec<(u64, Waiter<R::Request>)> {
        self.waiters.take_expired(now)
    }

    /// Whether the member has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Ends: refuses everything from now on, and returns everybody who waited. Transfers are dropped.
    pub fn end(&mut self, error: ProposeError) -> (Vec<R::Request>, Vec<R::Read>) {
        self.ended = Some(error);
        self.gathered = Batch::default();
        self.transfers = HashMap::new();
        let rounds = std::mem::take(&mut self.rounds).into_iter().flat_map(|round| round.reads);
        let reads = rounds.chain(std::mem::take(&mut self.reads)).map(|(reply, _)| reply).collect();
        (self.waiters.take_all().map(|waiter| waiter.reply).collect(), reads)
    }

    fn check_running(&self) -> Result<(), ProposeError> {
        self.ended.clone().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;
    use types::EntryKind;

    struct Numbers;

    impl Replies for Numbers {
        type Request = u64;
        type Read = u64;
        type Transfer = u64;
    }

    fn pending(limits: Limits) -> PendingRequests<Numbers> {
        PendingRequests::new(&Options { limits, ..Options::new(1, 7) })
    }

    fn propose(pending: &mut PendingRequests<Numbers>, id: u64) -> &'static str {
        let now = Instant::now();
        let proposal = Proposal::new(id, EntryKind::Normal, "four".into(), now);
        match pending.propose(proposal, Waiter { reply: id, since: now, deadline: now }) {
            Ok(()) => "queued",
            Err(ProposeError::TooManyRequests) => "too many",
            Err(ProposeError::Stopped) => "stopped",
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn what_finds_no_room_is_refused_until_a_turn_has_logged_something() {
        let mut pending = pending(Limits { inbox_entries: 2, inbox_bytes: 100, ..Limits::default() });
        assert_eq!([propose(&mut pending, 1), propose(&mut pending, 2)], ["queued"; 2]);
        assert_eq!(propose(&mut pending, 3), "too many");
        assert_eq!((pending.read(1), pending.read(2)), (Ok(()), Ok(())));
        assert_eq!(pending.read(3), Err(ReadError::TooManyRequests));
        let mut batch = Batch::default();
        pending.take(&mut batch);
        assert_eq!(propose(&mut pending, 3), "too many", "the batch has the room");
        drop(batch);
        assert_eq!(propose(&mut pending, 3), "queued");
        assert_eq!(pending.take_round(1).map(Iterator::collect), Some(vec![1, 2]));
        assert_eq!(pending.read(3), Ok(()));
    }

    #[test]
    fn bytes_and_waiters_have_their_limits_too() {
        let mut few_bytes = pending(Limits { inbox_bytes: 4, ..Limits::default() });
        assert_eq!(propose(&mut few_bytes, 1), "queued");
        assert_eq!(propose(&mut few_bytes, 2), "too many");
        let mut few_waiters = pending(Limits { waiters: 1, ..Limits::default() });
        assert_eq!(propose(&mut few_waiters, 1), "queued");
        few_waiters.take(&mut Batch::default());
        assert_eq!(propose(&mut few_waiters, 2), "too many");
        assert_eq!(few_waiters.take_waiter(1), Some(1));
        assert_eq!(propose(&mut few_waiters, 2), "queued");
    }

    #[test]
    fn forwarded_entries_are_dropped_where_the_room_ends() {
        let mut pending = pending(Limits { inbox_entries: 2, inbox_messages: 1, ..Limits::default() });
        let entries = vec![(EntryKind::Normal, "a".into()); 3];
        let forwarded = Incoming::Proposals(Forwarded { hops: 1, left: None, entries });
        assert_eq!(pending.deliver(Instant::now(), forwarded), Err(Undelivered));
        let mut batch = Batch::default();
        pending.take(&mut batch);
        assert_eq!(batch.proposals.len(), 2);
    }

    #[test]
    fn there_are_news_once_a_turn_and_reads_of_a_turn_share_a_round() {
        let (mut pending, mut batch) = (pending(Limits::default()), Batch::default());
        assert!(!pending.has_news());
        pending.read(1).unwrap();
        assert!(pending.has_news() && !pending.has_news());
        pending.read(2).unwrap();
        pending.take(&mut batch);
        pending.read(3).unwrap();
        assert!(pending.has_news());
        pending.take(&mut batch);
        assert_eq!(batch.reads, [1, 2]);
        assert_eq!(pending.take_round(2).map(Iterator::collect), Some(vec![3]));
        assert_eq!(pending.take_round(1).map(Iterator::collect), Some(vec![1, 2]));
        assert!(pending.take_round(1).is_none());
    }

    #[test]
    fn at_the_end_everybody_is_returned_and_nobody_accepted() {
        let mut pending = pending(Limits::default());
        assert_eq!(propose(&mut pending, 1), "queued");
        pending.read(2).unwrap();
        pending.take(&mut Batch::default());
        pending.read(3).unwrap();
        pending.transfer(4, 0, Instant::now(), 4).unwrap();
        assert_eq!(pending.end(ProposeError::Stopped), (vec![1], vec![2, 3]));
        assert_eq!(propose(&mut pending, 5), "stopped");
        assert_eq!(pending.read(5), Err(ReadError::Stopped));
        assert_eq!(pending.transfer(5, 0, Instant::now(), 5), Err(TransferError::Stopped));
        pending.control(Control::Stop);
        pending.unreachable(2);
        let forwarded = Forwarded { hops: 1, left: None, entries: vec![(EntryKind::Normal, "a".into())] };
        assert_eq!(pending.deliver(Instant::now(), Incoming::Proposals(forwarded)), Ok(()));
        assert!(!pending.has_news() && pending.take_transfer(4).is_none());
    }
}
