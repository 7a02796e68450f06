//! What of a peer's message can only be judged by this member's log and role.
//!
//! Each refusal here stands for a panic in raft-rs 0.7.0 (`fatal!`), for an answer that would be wrong, or for memory that
//! would grow without a bound. A correct peer sends none of these, unless this member has lost what it promised to keep;
//! but for reads, which come late after a change of leaders.

use super::log::LogStore;
use crate::limits::Limits;
use raft::eraftpb::{Message, MessageType};
use raft::{Raft, StateRole};

/// Why the message is dropped, or nothing.
pub(super) fn check(raft: &Raft<LogStore>, message: &Message, limits: &Limits) -> Result<(), &'static str> {
    let log = &raft.raft_log;
    // Of an older term: raft answers or ignores it, without a look at the rest.
    let is_old = message.term != 0 && message.term < raft.term;
    match message.get_msg_type() {
        // Any message may raise the term, of whomever it is. A term near the last number would stay for ever: nobody could
        // be elected any more.
        _ if message.term > raft.term.saturating_add(limits.term_leap) => {
            Err("its term lies further ahead than elections lead")
        }
        // Who followed a leader that has stepped down asks again. Handed on, a read would go round for ever among members
        // that each take another for the leader.
        MessageType::MsgReadIndex if raft.state != StateRole::Leader => {
            Err("a read for the leader, which this member is not")
        }
        // What a leader remembers of reads it remembers for members alone.
        MessageType::MsgReadIndex if raft.prs().get(message.from).is_none() => {
            Err("a read of somebody who is no member")
        }
        MessageType::MsgReadIndex if raft.pending_read_count() >= limits.peer_reads.max(1) => {
            Err("a read beyond those that the members have under way")
        }
        // Forwarded by a follower: raft-rs panics when such a message, whose term is set, is to be forwarded again.
        MessageType::MsgTransferLeader if raft.state != StateRole::Leader || message.term > raft.term => {
            Err("leadership is not this member's to hand over")
        }
        _ if is_old => Ok(()),
        // `commit_to` panics.
        MessageType::MsgHeartbeat if message.commit > log.last_index() => {
            Err("it commits entries that this member does not have: was its log lost?")
        }
        // A leader has all that is committed; the search for the conflict would run off the log's start and panic.
        MessageType::MsgAppend
            if message.index >= log.committed
                && log.term(log.committed).is_ok_and(|term| message.log_term < term) =>
        {
            Err("its log contradicts what is committed here")
        }
        // A member cannot have what the leader does not: `next` would leave the log.
        MessageType::MsgAppendResponse
            if raft.state == StateRole::Leader && !message.reject && message.index > log.last_index() =>
        {
            Err("it acknowledges entries that were never sent")
        }
        MessageType::MsgReadIndexResp if message.term == raft.term && message.from != raft.leader_id => {
            Err("only the leader answers reads")
        }
        _ => Ok(()),
    }
}
