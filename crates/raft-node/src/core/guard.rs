//! Checks of a peer's message that need this member's log and role.
//!
//! Each refusal prevents a panic in raft-rs 0.7.0 (`fatal!`), a wrong answer, or unbounded memory. A correct peer sends
//! no such message unless this member lost its log, except for reads, which may come late after a change of leader.

use super::log::LogStore;
use crate::limits::Limits;
use raft::eraftpb::{Message, MessageType};
use raft::{Raft, StateRole};

/// Returns an error if the message must be dropped.
pub(super) fn check(raft: &Raft<LogStore>, message: &Message, limits: &Limits) -> Result<(), &'static str> {
    let log = &raft.raft_log;
    // Messages of an older term: raft answers or ignores them without looking further.
    let is_old = message.term != 0 && message.term < raft.term;
    match message.get_msg_type() {
        // Any message may raise the term. A term near the maximum would stay: no election could succeed any more.
        _ if message.term > raft.term.saturating_add(limits.term_leap) => {
            Err("its term lies further ahead than elections lead")
        }
        // Forwarded, a read could circle forever among members that take each other for the leader; it is asked again.
        MessageType::MsgReadIndex if raft.state != StateRole::Leader => {
            Err("a read for the leader, which this member is not")
        }
        // A leader keeps reads only for members.
        MessageType::MsgReadIndex if raft.prs().get(message.from).is_none() => {
            Err("a read of somebody who is no member")
        }
        MessageType::MsgReadIndex if raft.pending_read_count() >= limits.peer_reads.max(1) => {
            Err("a read beyond those that the members have under way")
        }
        // raft-rs panics if such a message, whose term is set, is to be forwarded again.
        MessageType::MsgTransferLeader if raft.state != StateRole::Leader || message.term > raft.term => {
            Err("leadership is not this member's to hand over")
        }
        _ if is_old => Ok(()),
        // `commit_to` would panic.
        MessageType::MsgHeartbeat if message.commit > log.last_index() => {
            Err("it commits entries that this member does not have: was its log lost?")
        }
        // A leader has all committed entries; the search for the conflict would run off the log's start and panic.
        MessageType::MsgAppend
            if message.index >= log.committed
                && log.term(log.committed).is_ok_and(|term| message.log_term < term) =>
        {
            Err("its log contradicts what is committed here")
        }
        // A member cannot have more than the leader: `next` would leave the log.
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
